"""Everything a person can get wrong: one clear line each, exit code 2, nothing left behind."""

from __future__ import annotations

import csv
import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from realdataexp import cli
from realdataexp.runs import checkpoint, experiment, folder

EARLY = "log_standard_4_08_to_4_21_pure.csv"
USERS = "user_features_pure.csv"
Say = pytest.CaptureFixture[str]


@pytest.fixture
def bad_data(small_data: Path, tmp_path: Path) -> Path:
    """A copy of the small data set, to spoil."""
    return Path(shutil.copytree(small_data, tmp_path / "bad"))


def call(capsys: Say, *args: str | Path) -> tuple[int, list[str]]:
    """Exit code, and the lines on stderr that are not log lines."""
    code = cli.main([str(arg) for arg in args])
    err = capsys.readouterr().err
    assert "Traceback" not in err
    return code, [line for line in err.splitlines() if not line.startswith("[")]


def assert_refused(
    capsys: Say, said: list[str], *args: str | Path, at: Path, code: int = 2
) -> None:
    """A run is refused with one line that says these things, and leaves nothing at this place."""
    before = sorted(at.rglob("*"))
    found, lines = call(capsys, *args)
    assert (found, len(lines)) == (code, 1), lines
    assert [text for text in said if text not in lines[0]] == [], lines[0]
    assert sorted(at.rglob("*")) == before


def change(path: Path, make: Callable[[list[list[str]]], list[list[str]]]) -> None:
    """Rewrite a CSV file."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(make(rows))


def without_column(name: str) -> Callable[[list[list[str]]], list[list[str]]]:
    def make(rows: list[list[str]]) -> list[list[str]]:
        place = rows[0].index(name)
        return [row[:place] + row[place + 1 :] for row in rows]

    return make


def with_cell(name: str, line: int, value: str) -> Callable[[list[list[str]]], list[list[str]]]:
    def make(rows: list[list[str]]) -> list[list[str]]:
        rows[line - 1][rows[0].index(name)] = value
        return rows

    return make


def only_header(rows: list[list[str]]) -> list[list[str]]:
    return rows[:1]


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("simulation.nsteps=3", ["simulation.nsteps", "unknown key", "n_steps"]),
        ("sede=3", ["sede", "unknown key", "seed"]),
        ("mode=pool", ["mode", "pool", "pooling"]),
        ("labels.0.loss_function=logMEA", ["labels.0.loss_function", "logMAE"]),
        ("labels.click.model=MPL", ["labels.1.model", "MLP"]),
        ("labels.0.model_params={hiden: [3]}", ["labels.0.model_params.hiden", "hidden_layers"]),
        ("experiment.designs=[poolin]", ["experiment.designs.0", "pooling"]),
        (
            "experiment.designs=[{name: splitting, normalise: false}]",
            ["experiment.designs.0.normalise", "normalize"],
        ),
        (
            "experiment.designs=[{name: pooling, label: global}]",
            ['experiment.designs.0.label = "global"'],
        ),
        ("device=gpu", ["device", "gpu", "cpu"]),
        ("labels.0.target=play_time", ["labels.0.target = 'play_time'", "play_time_ms"]),
        ("labels.1.target=xx", ["labels.1.target = 'xx'", "is_click"]),
        ("labels.1.target=play_time_ms", ["labels.1.target", "429729", "from 0 to 1"]),
        ("feature.numerical=[fans]", ["feature.numerical.0 = 'fans'", "use a column"]),
        ("feature.numerical=[video_type]", ["feature.numerical.0", "list it in feature.categ"]),
        (
            "feature.categorical=[user_activ_degree]",
            ["feature.categorical.0 = 'user_activ_degree'", "user_active_degree"],
        ),
        ("labels.0.alpha_T=.nan", ["labels.0.alpha_T", "finite"]),
        ("labels.0.alpha_C=.inf", ["labels.0.alpha_C", "finite"]),
        ("simulation.n_candidate=0", ["simulation.n_candidate = 0", "at least 1"]),
        ("global.n_steps=0", ["simulation.n_steps = 0", "at least 1"]),
        ("simulation.user_p_val=0", ["simulation.user_p_val = 0", "more than 0"]),
        ("simulation.user_p_val=1", ["simulation.user_p_val = 1", "less than 1"]),
        ("simulation.user_p_val=1.0e-7", ["simulation.user_p_val", "298 of 298", "nearer"]),
        ("experiment.replications=0", ["experiment.replications = 0", "at least 1"]),
        ("experiment.p_treatment=1.2", ["experiment.p_treatment = 1.2", "at most 1"]),
        ("experiment.designs=['no.such:X']", ["experiment.designs.0", "no.such", "PYTHONPATH"]),
        ("experiment.designs=['math:X']", ["experiment.designs.0", "'math' has no 'X'"]),
        ("experiment.designs=['math:sin']", ["experiment.designs.0", "Design"]),
        ("experiment.designs=['broken_design:X']", ["experiment.designs.0", "boom", "mend it"]),
        ("mode=no.such:X", ["mode = 'no.such:X'", "cannot import"]),
        ("labels.0.loss_function=no.such:X", ["labels.0.loss_function", "cannot import"]),
        ("labels.0.loss_function=math:pi", ["labels.0.loss_function", "Loss"]),
        ("labels.1.model=no.such:X", ["labels.1.model = 'no.such:X'", "cannot import"]),
        ("labels.1.model=math:sin", ["labels.1.model = 'math:sin'", "class"]),
        ("dataset.path=null", ["dataset.path", "--data"]),
        ("dataset.path=nowhere", ["nowhere", "no such folder", "--data"]),
        ("dataset.cache_path=/dev/null", ["/dev/null", "cache", "dataset.cache_path"]),
    ],
)
def test_a_wrong_setting_is_one_line_with_its_path_and_the_remedy(
    setting: str,
    said: list[str],
    small_config: Callable[..., Path],
    tmp_path: Path,
    capsys: Say,
    monkeypatch: pytest.MonkeyPatch,
):
    (tmp_path / "broken_design.py").write_text("raise RuntimeError('boom')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    config = small_config()
    args = ["run", config, "--out", tmp_path / "out", "--set", setting]
    assert_refused(capsys, said, *args, at=tmp_path)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda d: (d / USERS).unlink(), [f"missing {USERS}", f"there is: {EARLY[:3]}"]),
        (lambda d: (d / EARLY).unlink(), [f"missing {EARLY}", "fetch"]),
        (
            lambda d: change(d / EARLY, without_column("play_time_ms")),
            ["labels.0.target = 'play_time_ms'", EARLY, "has no column"],
        ),
        (
            lambda d: change(d / USERS, without_column("fans_user_num")),
            ["feature.numerical.1 = 'fans_user_num'", USERS, "has no column"],
        ),
        (lambda d: change(d / EARLY, without_column("user_id")), [EARLY, "user_id"]),
        (
            lambda d: change(d / EARLY, with_cell("user_id", 7, "abc")),
            [EARLY, "row 7", "'user_id'", "'abc'", "not a number"],
        ),
        (
            lambda d: change(d / EARLY, with_cell("play_time_ms", 9, "long")),
            [EARLY, "row 9", "'play_time_ms'", "'long'"],
        ),
        (
            lambda d: change(d / USERS, with_cell("fans_user_num", 3, "many")),
            [USERS, "row 3", "'fans_user_num'", "'many'"],
        ),
        (lambda d: (d / EARLY).write_text(""), [EARLY, "empty"]),
        (lambda d: [change(p, only_header) for p in d.glob("log_*")], [EARLY, "no rows"]),
        (lambda d: shutil.rmtree(d), ["no KuaiRand files"]),
    ],
    ids=["no user file", "no log", "no label column", "no feature column", "no id column",
         "text as id", "text as label", "text as feature", "empty file", "no rows", "no files"],
)  # fmt: skip
def test_a_fault_in_the_data_names_the_file_and_the_place(
    spoil: Callable[[Path], Any],
    said: list[str],
    bad_data: Path,
    small_config: Callable[..., Path],
    tmp_path: Path,
    capsys: Say,
):
    spoil(bad_data / "data")
    config = small_config(dataset={"path": str(bad_data), "cache_path": str(tmp_path / "cache")})
    (tmp_path / "cache").mkdir()
    assert_refused(capsys, said, "run", config, "--out", tmp_path / "out", at=tmp_path)


def test_a_label_without_any_value_is_refused(
    bad_data: Path, small_config: Callable[..., Path], tmp_path: Path, capsys: Say
):
    for path in (bad_data / "data").glob("log_*"):
        frame = pl.read_csv(path)
        frame.with_columns(play_time_ms=pl.lit(None, pl.Int32)).write_csv(path)
    config = small_config(dataset={"path": str(bad_data)})
    said = ["labels.0.target = 'play_time_ms'", "no training row has a value"]
    assert_refused(capsys, said, "run", config, "--out", tmp_path / "out", at=tmp_path)


@pytest.mark.parametrize(
    ("out", "said"),
    [
        ("there", ["exists", "choose another --out"]),
        ("file", ["exists", "choose another --out"]),
        ("file/below", ["is a file", "choose another --out"]),
        ("/dev/full", ["exists"]),
        ("/dev/full/below", ["is a file"]),
        ("/proc/run", ["cannot be written", "choose another --out"]),
    ],
)
def test_a_run_folder_that_cannot_be_made_is_refused(
    out: str, said: list[str], small_config: Callable[..., Path], tmp_path: Path, capsys: Say
):
    if out.startswith("/") and not Path(out).parent.exists():
        pytest.skip("not on this system")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "result.json").write_text("{}")
    assert_refused(capsys, said, "run", small_config(), "--out", tmp_path / out, at=tmp_path)
    assert (tmp_path / "there" / "result.json").read_text() == "{}"


def test_a_folder_that_may_not_be_written_is_refused_before_any_work(
    small_config: Callable[..., Path],
    tmp_path: Path,
    capsys: Say,
    monkeypatch: pytest.MonkeyPatch,
):
    # the superuser may write anywhere, so the system's answer is put in its mouth
    monkeypatch.setattr(folder.os, "access", lambda path, mode: False)
    monkeypatch.setattr(experiment, "set_up", lambda *_: pytest.fail("work was done"))
    said = [str(tmp_path), "no permission", "choose another --out"]
    assert_refused(capsys, said, "run", small_config(), "--out", tmp_path / "out", at=tmp_path)


def fail_at(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, nth: int = 1) -> None:
    """Let the nth call of a function, and all later ones, find the disk full."""
    real, calls = getattr(owner, name), []

    def maybe(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        if len(calls) >= nth:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(*args, **kwargs)

    monkeypatch.setattr(owner, name, maybe)


@pytest.mark.parametrize(
    ("owner", "name", "nth"),
    [
        (Path, "mkdir", 1),
        (Path, "write_text", 1),  # config.yaml
        (folder.os, "fsync", 1),
        (checkpoint, "write_tensors", 1),
    ],
    ids=["mkdir", "config.yaml", "fsync", "checkpoint"],
)
def test_a_full_disk_leaves_nothing_behind(
    owner: Any,
    name: str,
    nth: int,
    small_config: Callable[..., Path],
    small_run: Path,  # so that the data are imported
    tmp_path: Path,
    capsys: Say,
    monkeypatch: pytest.MonkeyPatch,
):
    config = small_config()
    fail_at(monkeypatch, owner, name, nth)
    said = ["no space left", "choose another --out"]
    out = tmp_path / "new" / "out"
    assert_refused(capsys, said, "run", config, "--out", out, at=tmp_path, code=1)


def test_a_full_disk_spares_a_folder_that_was_there(
    small_config: Callable[..., Path],
    small_run: Path,
    tmp_path: Path,
    capsys: Say,
    monkeypatch: pytest.MonkeyPatch,
):
    config = small_config()
    (tmp_path / "out").mkdir()
    fail_at(monkeypatch, checkpoint, "write_tensors")
    out = tmp_path / "out"
    assert_refused(capsys, ["no space"], "run", config, "--out", out, at=tmp_path, code=1)


def test_a_disk_that_fills_up_later_keeps_the_checkpoints_and_says_so(
    small_config: Callable[..., Path],
    small_run: Path,
    tmp_path: Path,
    capsys: Say,
    monkeypatch: pytest.MonkeyPatch,
):
    config, out = small_config(), tmp_path / "out"
    fail_at(monkeypatch, checkpoint, "write_tensors", nth=3)
    code, lines = call(capsys, "run", config, "--out", out)
    assert (code, len(lines)) == (1, 1)
    assert "no space left" in lines[0]
    assert f"of 10 steps; {out} holds the run so far, with status partial" in lines[0]
    index = json.loads((out / "checkpoints" / "index.json").read_text())
    kept = {p.name for p in (out / "checkpoints").iterdir()} - {"index.json", "rows", "best"}
    assert kept == set(index["kept"]) and index["latest"] == "step_0"
    assert [p for p in out.rglob("*") if ".tmp" in p.name] == []


def test_validate_lists_the_faults_of_schema_machine_and_data_at_once(
    bad_data: Path, small_config: Callable[..., Path], tmp_path: Path, capsys: Say
):
    (bad_data / "data" / EARLY).unlink()
    config = small_config(
        sede=1,
        device="mps",
        dataset={"path": str(bad_data), "cache_path": str(tmp_path / "cache")},
        feature={"numerical": ["fans"]},
        simulation={"n_steps": 0},
        experiment={"designs": ["pooling", "no.such:X"]},
    )
    code, lines = call(capsys, "validate", config)
    assert code == 2
    wanted = ["sede: unknown key", "simulation.n_steps = 0", "'fans'", f"missing {EARLY}",
              "experiment.designs.1 = 'no.such:X'", "device = 'mps'"]  # fmt: skip
    assert [text for text in wanted if sum(text in line for line in lines) != 1] == []
    assert len(lines) == len(wanted)


def test_validate_looks_into_the_data_even_where_a_design_is_wrong(
    bad_data: Path, small_config: Callable[..., Path], tmp_path: Path, capsys: Say
):
    change(bad_data / "data" / EARLY, with_cell("play_time_ms", 9, "long"))
    config = small_config(
        dataset={"path": str(bad_data), "cache_path": str(tmp_path / "cache")},
        experiment={"designs": ["no.such:X"]},
    )
    code, lines = call(capsys, "validate", config)
    assert code == 2
    assert len(lines) == 2
    assert "no.such" in lines[0]
    assert "row 9" in lines[1]


def test_validate_of_a_right_config_says_so_and_runs_nothing(
    small_config: Callable[..., Path], tmp_path: Path, capsys: Say
):
    config = small_config()
    assert cli.main(["validate", str(config)]) == 0
    assert capsys.readouterr() == (f"{config}: ok\n", "")
    assert list(tmp_path.iterdir()) == [config]
