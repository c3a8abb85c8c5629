"""A path means the one file or folder that has this name, whatever characters are in it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

from realdataexp import cli
from realdataexp.api import Result
from realdataexp.data.parquet import parquet_columns, read_parquet, write_parquet
from realdataexp.loop import Loop
from realdataexp.runs import results

ODD, DECOY = "run[lr=0.1] *?", "runl xy"  # as a pattern the first one matches the second only
TABLES = ("outcomes", "metrics", "estimates")


class Killed(BaseException):
    """Ends a run as a kill does."""


def settings(at: Path) -> dict[str, Any]:
    """A small run on one's own tables; its data and its cache lie in folders with odd names."""
    data = at / "data"
    data.mkdir(parents=True)
    n = 400
    rows = range(n)
    log = pl.DataFrame(
        {"user": [i % 20 for i in rows], "item": [i * 7 % 11 for i in rows], "ts": list(rows),
         "seen": [i * 37 % 91 for i in rows]}
    )  # fmt: skip
    log[:200].write_csv((data / "a[1].csv").open("wb"))
    log[200:].write_parquet((data / "b*.parquet").open("wb"))
    items = pl.DataFrame({"item": range(11), "length": range(11)})
    items.write_parquet((data / "i?.parquet").open("wb"))
    for name in ("a1.csv", "bb.parquet", "ii.parquet"):  # what the patterns would match as well
        (data / name).write_bytes(b"another table")
    return {
        "dataset": {
            "name": "tables", "path": str(data), "cache_path": str(at / "cache"),
            "tables": {"log": ["a[1].csv", "b*.parquet"], "videos": "i?.parquet",
                       "user_id": "user", "video_id": "item", "time": "ts"},
        },
        "feature": {"numerical": ["length"]},
        "labels": [{"name": "seen", "target": "seen", "type": "numerical", "loss_function": "MSE",
                    "model": "Linear", "alpha_T": 1.0, "alpha_C": 0.5}],
        "simulation": {"n_steps": 8, "batch_size": 4, "n_candidate": 3, "validate_every": 4,
                       "save_every": 2},
        "experiment": {"replications": 2, "designs": ["pooling"]},
    }  # fmt: skip


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder; what is written to the home folder is a mistake."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(tmp_path)
    return home


def test_a_run_in_an_odd_folder_is_killed_resumed_and_read_like_any_other(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(results, "write_plot", lambda folder: None)
    at = tmp_path / ODD
    config = at / "c[onfig].yaml"
    text = yaml.safe_dump(settings(at))
    config.write_text(text)
    plain = Path("plain")
    assert cli.main(["run", str(config), "--out", str(plain)]) == 0
    decoy, out = Path(DECOY).absolute() / DECOY, at / ODD
    shutil.copytree(plain, decoy)
    for name in TABLES:
        write_parquet(decoy / f"{name}.parquet", pl.DataFrame({"decoy": [1]}))
    with monkeypatch.context() as patch:
        patch.setattr(Loop, "step", _killing(Loop.step, 7))
        with suppress(Killed):
            assert cli.main(["run", str(config), "--out", str(out)]) != 0
    assert cli.main(["resume", str(out)]) == 0
    assert json.loads((out / "result.json").read_text())["status"] == "complete"
    for name in TABLES:
        assert Result(out).folder == out
        assert read_parquet(out / f"{name}.parquet").equals(read_parquet(plain / f"{name}.parquet"))
    assert Result(out).outcomes.equals(Result(plain).outcomes)
    assert cli.main(["report", str(out)]) == 0
    assert cli.main(["perf", str(out)]) == 0
    assert (out / "report.html").exists()
    assert not list(home.iterdir())


def _killing(step: Callable[..., Any], nth: int) -> Callable[..., Any]:
    n = 0

    def killed(*args: Any, **kwargs: Any) -> Any:
        nonlocal n
        n += 1
        if n == nth:
            raise Killed
        return step(*args, **kwargs)

    return killed


@pytest.mark.parametrize("name", [ODD, "~", "~nobody", "~/x", "file:", "a{b,c}", "%41", "k=1"])
def test_a_table_is_written_and_read_by_its_name(name: str, home: Path):
    folder = Path(name)
    folder.mkdir(parents=True)
    Path(DECOY).mkdir()
    write_parquet(Path(DECOY) / "x.parquet", pl.DataFrame({"decoy": [1]}))
    frame = pl.DataFrame({"a": [1, 2], "b": ["x", None]})
    write_parquet(folder / "x.parquet", frame)
    assert [p.name for p in folder.iterdir()] == ["x.parquet"]
    assert read_parquet(folder / "x.parquet").equals(frame)
    assert read_parquet(folder / "x.parquet", ["b"]).columns == ["b"]
    assert parquet_columns(folder / "x.parquet") == ("a", "b")
    assert not list(home.iterdir())


def test_only_one_module_names_files_to_polars():
    """Others would read patterns, addresses and home folders again."""
    source = Path(cli.__file__).parent
    calls = ("read_parquet(", "scan_parquet(", "read_csv(", "scan_csv(", "read_parquet_schema(")
    found = [
        f"{path.relative_to(source)}: {line.strip()}"
        for path in source.rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if any(f"pl.{call}" in line for call in calls)
        and "glob=False" not in line
        and "io.BytesIO" not in line
    ]
    assert found == []


BAD = {
    "nul": "a\0b",
    "long name": "x" * 300 + ".csv",
    "long path": "y/" * 3000 + "z.csv",
    "unknown home": "~no-such-user/x",
    "not UTF-8": os.fsdecode(b"\xff/x"),
}
KEYS = (
    "base_dir", "dataset.path", "dataset.cache_path", "dataset.tables.log",
    "dataset.tables.videos", "dataset.tables.users",
)  # fmt: skip


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("bad", BAD.values(), ids=list(BAD))
def test_a_path_that_no_system_takes_is_one_line_with_its_key(
    bad: str, key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    values = settings(tmp_path)
    block: dict[str, Any] = values
    *outer, name = key.split(".")
    for part in outer:
        block = block[part]
    block[name] = [bad] if name == "log" else bad
    config = tmp_path / "c.json"
    config.write_text(json.dumps(values))
    assert cli.main(["run", str(config), "--out", str(tmp_path / "out")]) == 2
    err = [x for x in capsys.readouterr().err.splitlines() if not x.startswith("[")]
    assert len(err) == 1, err
    assert key in err[0]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("bad", BAD.values(), ids=list(BAD))
def test_a_path_on_the_command_line_that_no_system_takes_is_one_line(
    bad: str, tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]
):
    config = tmp_path / "c.json"
    config.write_text(json.dumps(settings(tmp_path)))
    for args in (
        ["run", str(config), "--data", bad, "--out", "out"],
        ["prepare", bad, "-c", str(config)],
        ["prepare", str(tmp_path / "data"), "-c", str(config), "--cache", bad],
        ["run", "kuairand-pure", "--data", bad, "--out", "out"],
    ):
        assert cli.main(args) == 2, args
        err = [x for x in capsys.readouterr().err.splitlines() if not x.startswith("[")]
        assert len(err) == 1, err
        assert "unexpected" not in err[0]


@pytest.mark.parametrize("bad", ["/dev/zero", "/dev/null"])
@pytest.mark.parametrize("key", KEYS[1:])
def test_a_device_in_the_place_of_data_ends_at_once(
    bad: str, key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    test_a_path_that_no_system_takes_is_one_line_with_its_key(bad, key, tmp_path, capsys)
