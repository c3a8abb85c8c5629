"""A sweep: a run for each point, one table; what interrupts it leaves no trace in the numbers."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from processes import Popen
from support import assert_same_answer

import realdataexp as rx
from realdataexp import cli
from realdataexp.errors import DiskError, RunError
from realdataexp.runs import several
from realdataexp.runs.folder import RunLog
from realdataexp.runs.parts import parts_of
from realdataexp.stats.performance import SECTIONS

Settings = dict[str, Any]
Say = pytest.CaptureFixture[str]
SHARES = [0.3, 0.5]
GRID = ("--grid", "experiment.p_treatment=0.3,0.5", "--grid", "labels.click.alpha_T=0,900")


@pytest.fixture(scope="module")
def settings(small_settings: Callable[..., Settings]) -> Settings:
    test = {"designs": ["snapshot", "pooling"], "replications": 2, "intervals": ["welch"]}
    return small_settings(experiment=test)


@pytest.fixture(scope="module")
def sweep_dir(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a sweep of four points: do not change it."""
    out = tmp_path_factory.mktemp("sweep") / "sweep"
    grid = {"experiment.p_treatment": SHARES, "labels.click.alpha_T": [0, 900]}
    assert rx.sweep(settings, grid=grid, out=out).folder == out
    return out


@pytest.fixture
def copied(sweep_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sweep_dir, tmp_path / "sweep"))


@pytest.fixture
def config(settings: Settings, tmp_path: Path) -> Path:
    path = tmp_path / "experiment.yaml"
    path.write_text(json.dumps(settings))  # JSON is YAML
    return path


def call(capsys: Say, *args: str | Path) -> tuple[int, str, list[str]]:
    """Exit code, stdout, and the lines on stderr that are not log lines."""
    code = cli.main([*map(str, args)])
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return code, out, [line for line in err.splitlines() if not line.startswith("[")]


def table(folder: Path) -> pl.DataFrame:
    return pl.read_parquet(folder / "sweep.parquet")


def test_a_sweep_has_a_run_for_each_point_and_a_row_for_each_design_and_label(sweep_dir: Path):
    names = ["places.json", "points", "sweep.html", "sweep.log", "sweep.parquet", "sweep.yaml"]
    assert sorted(x.name for x in sweep_dir.iterdir()) == names
    rows = table(sweep_dir)
    keys = ["experiment.p_treatment", "labels.click.alpha_T"]
    assert rows.columns[: 2 + len(SECTIONS["comparison"])] == [*keys, *SECTIONS["comparison"]]
    assert rows.select(*keys, "point").unique(maintain_order=True).rows() == [
        (0.3, 0, 0), (0.3, 900, 1), (0.5, 0, 2), (0.5, 900, 3),
    ]  # fmt: skip
    for point in range(4):
        result = json.loads((sweep_dir / "points" / str(point) / "result.json").read_text())
        own = rows.filter(point=point)
        assert own.select(SECTIONS["comparison"]).to_dicts() == result["comparison"]
        effects = {(e["design"], e["label"]): e for e in result["estimates"]}
        for row in own.iter_rows(named=True):
            for name, design in (("gte", "global"), ("estimate", row["design"])):
                e = effects[design, row["label"]]
                assert (row[f"{name}_low"], row[f"{name}_high"]) == (e["ci_low"], e["ci_high"])
    assert rows["fault"].null_count() == rows.height == 4 * 2 * 2


def test_a_points_run_is_that_of_the_same_overrides(
    sweep_dir: Path, settings: Settings, tmp_path: Path
):
    changes = ["experiment.p_treatment=0.5", "labels.click.alpha_T=900"]
    rx.run(settings, changes, out=tmp_path / "run")
    assert_same_answer(sweep_dir / "points" / "3", tmp_path / "run")


def test_a_sweep_from_python_is_read_again(sweep_dir: Path, copied: Path):
    sweep = rx.Sweep(copied)
    assert sweep.table.equals(table(sweep_dir))
    assert sweep.result(2).summary["config"]["experiment"]["p_treatment"] == 0.5
    (copied / "sweep.html").unlink()
    assert sweep.report() == copied / "sweep.html"
    assert (copied / "sweep.html").read_bytes() == (sweep_dir / "sweep.html").read_bytes()


@pytest.mark.parametrize("with_resume", [True, False])
def test_whatever_is_left_is_run_and_the_table_is_the_same_bytes(
    with_resume: bool, copied: Path, sweep_dir: Path, config: Path, capsys: Say
):
    points = copied / "points"
    shutil.rmtree(points / "0")  # not begun
    (points / "1" / "result.json").unlink()  # killed
    result = points / "2" / "result.json"  # interrupted
    result.write_text(result.read_text().replace('"status": "complete"', '"status": "partial"'))
    (copied / "sweep.parquet").unlink()
    before = (points / "3" / "result.json").stat().st_mtime_ns
    args = ["resume", copied] if with_resume else ["sweep", config, *GRID, "--out", copied]
    code, out, err = call(capsys, *args)
    assert (code, err) == (0, [])
    assert out.splitlines()[-1] == f"Sweep folder: {copied}"
    assert (points / "3" / "result.json").stat().st_mtime_ns == before
    assert (copied / "sweep.parquet").read_bytes() == (sweep_dir / "sweep.parquet").read_bytes()
    assert call(capsys, "resume", copied) == (0, f"{copied}: complete; nothing to resume\n", [])


@pytest.mark.skipif(os.name != "posix", reason="sends POSIX signals")
def test_points_in_processes_of_their_own_make_the_same_table_whatever_was_killed(
    sweep_dir: Path, copied: Path, config: Path, tmp_path: Path, capsys: Say
):
    """Two whole points are taken over; two are run, and once interrupted with the sweep."""
    for point in ("0", "2"):
        shutil.rmtree(copied / "points" / point)
    (copied / "sweep.parquet").unlink()
    words = ["sweep", str(config), *GRID, "--out", str(copied), "--executor", "local"]
    with Popen(
        [sys.executable, "-m", "realdataexp", *words],
        stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
    ) as process:  # fmt: skip
        until = time.monotonic() + 120
        while not (copied / "points/0/run.log").exists():
            assert time.monotonic() < until and process.poll() is None
            time.sleep(0.01)
        assert [x["state"] for x in parts_of(copied)][1::2] == ["done", "done"]
        process.send_signal(signal.SIGTERM)
        err = process.communicate(timeout=120)[1]
        assert process.returncode == 130, err
    code, _, err = call(capsys, "resume", copied)
    assert (code, err) == (0, [])
    assert (copied / "sweep.parquet").read_bytes() == (sweep_dir / "sweep.parquet").read_bytes()
    assert [x["state"] for x in parts_of(copied)] == ["done"] * 4
    assert call(capsys, *words[:-1], "locl")[2][0].startswith("--executor = 'locl': unknown")


@pytest.mark.skipif(os.name != "posix", reason="sends POSIX signals")
def test_a_sweep_that_is_killed_goes_on(sweep_dir: Path, config: Path, tmp_path: Path, capsys: Say):
    out = tmp_path / "sweep"
    words = [sys.executable, "-m", "realdataexp", "sweep", str(config), *GRID, "--out", str(out)]
    for point, number, code in ((1, signal.SIGKILL, -9), (2, signal.SIGTERM, 130)):
        with Popen(words, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
            until = time.monotonic() + 120
            while not (out / "points" / str(point) / "run.log").exists():
                assert time.monotonic() < until and process.poll() is None
                time.sleep(0.01)
            process.send_signal(number)
            _, err = process.communicate(timeout=60)
        assert process.returncode == code
    assert err.splitlines()[-1] == (
        f"interrupted: 2 of 4 points are done; resume it: realdataexp resume {out}"
    )
    assert table(out)["point"].unique().to_list() == [0, 1]
    assert call(capsys, "resume", out)[0] == 0
    assert (out / "sweep.parquet").read_bytes() == (sweep_dir / "sweep.parquet").read_bytes()


def test_another_sweep_in_the_folder_is_refused(copied: Path, config: Path, capsys: Say):
    def refused(*args: str | Path) -> str:
        code, out, err = call(capsys, *args)
        assert (code, out, len(err)) == (2, "", 1)
        return err[0]

    other = refused("sweep", config, "--grid", "seed=1,2", "--out", copied)
    assert other.startswith(f"{copied}: holds a sweep of 4 other points (the first: experiment.p_")
    changed = refused("sweep", config, *GRID, "--seed", "1", "--out", copied)
    assert changed.startswith(f"{copied}: holds a sweep with seed = null, not 1: put it back")
    place = copied / "points" / "1"
    exists = refused("sweep", config, *GRID, "--out", place)
    assert exists.startswith(f"{place}: exists; a run never overwrites another")
    assert "holds no config.yaml" in refused("resume", copied / "points")
    (place / "config.yaml").write_text((copied / "points" / "0" / "config.yaml").read_text())
    meddled = refused("sweep", config, *GRID, "--out", copied)
    assert meddled.startswith(f"{place}: holds a run of other settings")
    (copied / "sweep.yaml").write_text("points: []\n")
    (copied / "sweep.parquet").unlink()
    assert "not what a sweep writes" in refused("resume", copied)


def test_two_at_once_is_refused(copied: Path, capsys: Say):
    (copied / "sweep.parquet").unlink()
    log = RunLog("INFO")
    log.open(copied / "sweep.log", is_new=False)
    code, _, err = call(capsys, "resume", copied)
    log.stop()
    assert (code, len(err)) == (2, 1)
    assert err[0].startswith(f"{copied / 'sweep.log'}: another run is writing there")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--grid", "simulation.n_steps=0,5"], ["sweep: simulation.n_steps = 0: must be at least"]),
        (
            ["--grid", "experiment.designs=[oracle],[switchback],[pooling]"],
            ["design oracle: E[Z|X] can be computed only", "design switchback: block_steps = "],
        ),
        ([], ["nothing varies: pass --grid"]),
    ],
)
def test_every_point_is_checked_before_the_first_runs(
    args: list[str], said: list[str], config: Path, tmp_path: Path, capsys: Say
):
    code, out, err = call(capsys, "sweep", config, *args, "--out", tmp_path / "sweep")
    assert (code, out, len(err)) == (2, "", len(said))
    assert all(part in line for part, line in zip(said, err, strict=True))
    assert list(tmp_path.iterdir()) == [config]


# --- points that fail ------------------------------------------------------------------------


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[Exception], list[str]]:
    """Makes point 1 fail once; returns the points that were begun."""

    def fail(error: Exception) -> list[str]:
        real, begun = several.resume_experiment, []

        def resume(place: Path, data: Path | None) -> Path:
            begun.append(place.name)
            if place.name == "1" and begun.count("1") == 1:
                raise error
            return real(place, data)

        monkeypatch.setattr(several, "resume_experiment", resume)
        return begun

    return fail


def test_a_point_that_fails_ends_the_sweep_which_goes_on_later(
    failing: Callable[[Exception], list[str]],
    sweep_dir: Path, config: Path, tmp_path: Path, capsys: Say,
):  # fmt: skip
    begun, out = failing(RunError("the GPU is gone")), tmp_path / "sweep"
    code, _, err = call(capsys, "sweep", config, *GRID, "--out", out)
    assert (code, err) == (1, [
        "point 1 (experiment.p_treatment = 0.3, labels.click.alpha_T = 900): the GPU is gone (1 of "
        f"4 points are done; resume it: realdataexp resume {out})",
    ])  # fmt: skip
    assert begun == ["0", "1"]
    rows = table(out)
    assert rows.filter(point=0).equals(table(sweep_dir).filter(point=0))
    assert rows.filter(point=1)["fault"].unique().to_list() == ["the GPU is gone"]
    assert call(capsys, "resume", out)[0] == 0
    assert begun[2:] == ["1", "2", "3"]
    assert (out / "sweep.parquet").read_bytes() == (sweep_dir / "sweep.parquet").read_bytes()


def test_with_keep_going_the_others_run_and_the_table_has_the_cause(
    failing: Callable[[Exception], list[str]],
    sweep_dir: Path, config: Path, tmp_path: Path, capsys: Say,
):  # fmt: skip
    begun, out = failing(ZeroDivisionError("of a design")), tmp_path / "sweep"
    code, said, err = call(capsys, "sweep", config, *GRID, "--out", out, "--keep-going")
    assert (code, begun) == (1, ["0", "1", "2", "3"])
    assert err == [f"1 of 4 points failed; {out}/sweep.log says why"]
    assert "3 of 4 points are done, 1 failed" in said
    rows, whole = table(out), table(sweep_dir)
    assert rows.filter(pl.col("point") != 1).equals(whole.filter(pl.col("point") != 1))
    keys = ["experiment.p_treatment", "labels.click.alpha_T", "design", "label", "point"]
    assert rows.select(keys).equals(whole.select(keys))
    failed = rows.filter(point=1)
    assert failed["fault"].unique().to_list() == ["ZeroDivisionError: of a design"]
    assert failed.select(pl.col("gte", "estimate", "bias").null_count()).row(0) == (4, 4, 4)
    page = (out / "sweep.html").read_text()
    assert "Point 1 failed: ZeroDivisionError: of a design" in page


def test_a_full_disk_ends_a_sweep_that_keeps_going(
    failing: Callable[[Exception], list[str]], config: Path, tmp_path: Path, capsys: Say
):
    begun = failing(DiskError("no space left"))
    args = ("sweep", config, *GRID, "--out", tmp_path / "sweep", "--keep-going")
    code, _, err = call(capsys, *args)
    assert (code, begun, len(err)) == (1, ["0", "1"], 1)
    assert err[0].startswith("no space left (1 of 4 points are done; resume it: ")


# --- kinds of points -------------------------------------------------------------------------


def test_the_truth_alone_and_a_design_alone_have_what_they_answer(
    settings: Settings, tmp_path: Path
):
    points = [{"mode": "global"}, {"mode": "pooling", "experiment.designs": ["shadow"]}]
    sweep = rx.sweep(settings, points=points, out=tmp_path / "sweep")
    rows = sweep.table
    assert rows["mode"].to_list() == ["global", "global", "pooling", "pooling"]
    assert rows["experiment.designs"].to_list()[1:3] == ['["snapshot", "pooling"]', '["shadow"]']
    values = [e["value"] for i in (0, 1) for e in sweep.result(i).summary["estimates"]]
    assert [*rows["gte"][:2], *rows["estimate"][2:]] == values
    assert rows["bias"].null_count() == 4
