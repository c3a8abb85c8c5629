"""A plan: runs of mode compare, each made once and read at several lengths."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from processes import Popen

import realdataexp as rx
from realdataexp import cli
from realdataexp.config import load_config
from realdataexp.errors import InputError
from realdataexp.report import plans
from realdataexp.report.files import read_plan
from realdataexp.runs import several
from realdataexp.runs.planning import make_grid

Settings = dict[str, Any]
Say = pytest.CaptureFixture[str]
GRID = ("--p", "0.5,0.25", "--steps", "12,4", "--retrain-every", "1,4")
SWEPT = ["places.json", "points", "sweep.html", "sweep.log", "sweep.parquet", "sweep.yaml"]


@pytest.fixture(scope="module")
def settings(small_settings: Callable[..., Settings]) -> Settings:
    test = {"designs": ["snapshot", "pooling"], "intervals": ["welch"]}
    return small_settings(mode="pooling", experiment=test)


@pytest.fixture(scope="module")
def plan_dir(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a plan: do not change it."""
    out = tmp_path_factory.mktemp("plan") / "plan"
    rx.plan(settings, p=[0.5, 0.25], steps=(12, 4), retrain_every=np.array([1, 4]), out=out)
    return out


@pytest.fixture
def copied(plan_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(plan_dir, tmp_path / "plan"))


@pytest.fixture
def config(settings: Settings, tmp_path: Path) -> Path:
    path = tmp_path / "experiment.yaml"
    path.write_text(json.dumps(settings))  # JSON is YAML
    return path


def call(capsys: Say, *args: str | Path) -> tuple[int, str, list[str]]:
    """Exit code, stdout, and the lines on stderr that are not log lines."""
    code = cli.main(["plan", *map(str, args)])
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return code, out, [line for line in err.splitlines() if not line.startswith("[")]


def written(plan_dir: Path) -> dict[str, int]:
    """When each run was written."""
    return {p.parent.name: p.stat().st_mtime_ns for p in plan_dir.glob("points/*/result.json")}


def test_a_plan_has_a_run_for_each_p_and_cadence_and_a_row_for_each_length(plan_dir: Path):
    there = sorted(p.name for p in plan_dir.iterdir())
    assert there == sorted([*SWEPT, "plan.html", "plan.json", "plan.parquet"])
    table = pl.read_parquet(plan_dir / "plan.parquet")
    assert table.height == 4 * 2 * 2 * 2
    keys = table.select("p", "retrain_every", "steps", "design").rows()
    assert keys == sorted(keys)
    assert table["label"].to_list() == ["play_time", "click"] * 16
    document = json.loads((plan_dir / "plan.json").read_text())
    assert document["schema_version"] == 1
    assert document["rows"] == table.to_dicts()
    asked = {k: v for k, v in document["settings"].items() if k != "config"}
    assert asked == {"p": [0.25, 0.5], "retrain_every": [1, 4], "steps": [4, 12], "power": 0.8}


def test_a_plan_has_a_page(plan_dir: Path):
    page = (plan_dir / "plan.html").read_text(encoding="utf-8")
    for said in plans.headline(read_plan(plan_dir)):
        assert escape(said) in page
    assert page.count("<table") == len(plans.titles(read_plan(plan_dir)))


@pytest.mark.parametrize("steps", [4, 12])
def test_a_shorter_test_is_the_first_steps_of_a_longer_one(
    steps: int, plan_dir: Path, settings: Settings, tmp_path: Path
):
    changes = [
        "mode=compare",
        "experiment.p_treatment=0.25",
        "simulation.retrain_every=4",
        f"simulation.n_steps={steps}",
    ]
    run = rx.run(settings, changes, out=tmp_path / "run").summary
    planned = pl.read_parquet(plan_dir / "plan.parquet").filter(
        p=0.25, retrain_every=4, steps=steps
    )
    assert planned.height == 2 * 2
    from_plan = ["n_worlds", "n_visits", "effect", "bias", "mde_reported", "mde_honest"]
    for section, names in (("plan", from_plan), ("comparison", ["bias_mc_se", "sd"])):
        columns = ["design", "label", *names]
        found = pl.DataFrame(run[section], infer_schema_length=None).select(columns)
        assert found.sort("design", maintain_order=True).equals(planned.select(columns))


def test_runs_that_are_there_are_used_again_and_what_lacks_is_made(
    copied: Path, config: Path, capsys: Say
):
    before, table = written(copied), (copied / "plan.parquet").read_bytes()
    code, out, err = call(capsys, config, *GRID, "--out", copied)
    assert (code, err) == (0, [])
    assert out.splitlines()[-1] == f"Plan folder: {copied}"
    assert written(copied) == before
    assert (copied / "plan.parquet").read_bytes() == table
    shutil.rmtree(copied / "points/1")
    result = copied / "points/2/result.json"
    result.write_text(result.read_text().replace('"status": "complete"', '"status": "partial"'))
    assert call(capsys, config, *GRID, "--out", copied)[0] == 0
    after = written(copied)
    assert [name for name in sorted(before) if after[name] != before[name]] == ["1", "2"]
    assert pl.read_parquet(copied / "plan.parquet").equals(pl.read_parquet(table))


def test_another_run_in_the_folder_is_refused(copied: Path, config: Path, capsys: Say):
    before = written(copied)

    def refused(*args: str | Path) -> str:
        code, _, err = call(capsys, config, *args)
        assert (code, len(err)) == (2, 1)
        assert "choose another --out" in err[0]
        return err[0]

    other = refused(*GRID, "--seed", "1", "--out", copied)
    assert other.startswith(f"{copied}: holds a sweep with seed = 0, not 1")
    more = refused("--p", "0.5", *GRID[2:], "--out", copied)
    assert more.startswith(f"{copied}: holds a sweep of 4 other points")
    place = copied / "points/0"
    assert refused("--out", place).startswith(f"{place}: exists")
    assert "run.log: exists" in refused("--out", place / "run.log")
    assert written(copied) == before
    (place / "config.yaml").unlink()
    odd = refused(*GRID, "--out", copied)
    assert odd.startswith(f"{place}: holds something that is no run; remove it")


def test_an_interrupted_plan_goes_on(
    config: Path, tmp_path: Path, capsys: Say, monkeypatch: pytest.MonkeyPatch
):
    out, real, made = tmp_path / "plan", several.resume_experiment, []

    def interrupted(place: Path, data: Path | None) -> Path:
        made.append(place.name)
        if len(made) == 2:
            raise KeyboardInterrupt
        return real(place, data)

    monkeypatch.setattr(several, "resume_experiment", interrupted)
    args = (config, "--p", "0.5,0.25", "--steps", "4", "--out", out)
    code, _, err = call(capsys, *args)
    assert (code, err) == (
        130,
        [f"interrupted: 1 of 2 points are done; resume it: realdataexp resume {out}"],
    )
    assert not (out / "plan.json").exists()
    assert cli.main(["resume", str(out)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"Plan folder: {out}"
    assert made == ["0", "1", "1"]
    assert (out / "plan.json").exists()
    assert cli.main(["resume", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}: complete; nothing to resume\n"


@pytest.mark.skipif(os.name != "posix", reason="sends a POSIX signal")
def test_a_signal_ends_a_plan_with_a_partial_run(config: Path, tmp_path: Path):
    out = tmp_path / "plan"
    command = [sys.executable, "-m", "realdataexp", "plan", str(config), "--steps", "100000"]
    with Popen(
        [*command, "--verbose", "--out", str(out)],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr
        for line in process.stderr:
            if "[loop] step 10:" in line:
                process.send_signal(signal.SIGINT)
                break
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.splitlines()[-1].startswith("interrupted: 0 of 1 point is done; resume it")
    assert json.loads((out / "points/0/result.json").read_text())["status"] == "partial"


def test_the_tables_are_narrow_and_say_in_what(config: Path, copied: Path, capsys: Say):
    out = call(capsys, config, *GRID, "--out", copied)[1]
    assert max(map(len, out.splitlines())) <= max(80, len(f"Plan folder: {copied}"))
    assert "\nplay_time (ms): effects in % of control's mean per visit (" in out
    rows = [line.split() for line in out.splitlines() if re.match(r"0\.\d+  ", line)]
    assert [row[:4] for row in rows[:2]] == [
        ["0.25", "1", "4", "pooling"],
        ["0.25", "1", "4", "snapshot"],
    ]
    assert len(rows) == 32


def test_what_too_few_worlds_give_is_a_dash_with_a_warning(
    config: Path, tmp_path: Path, capsys: Say
):
    out = tmp_path / "plan"
    code, text, _ = call(
        capsys, config, "--steps", "2,6", "--out", out,
        "--set", "experiment.replications=1",
        "--set", "experiment.designs=[pooling, {name: switchback, block_steps: 2}]",
    )  # fmt: skip
    assert code == 0
    short = next(line for line in text.splitlines() if line.startswith("0.5      1      2  switch"))
    assert short.split()[5:] == ["-"] * 5
    rows = pl.read_parquet(out / "plan.parquet")
    assert rows["mde_honest"].null_count() == rows.height == 8
    assert rows["effect"].null_count() == 0
    document = json.loads((out / "plan.json").read_text())
    said = [w["message"] for w in document["warnings"] if w["code"] == "no_number"]
    assert any("sd" in x and "pooling of click after 6 steps" in x for x in said)
    assert all("fewer than two worlds have an estimate" in x for x in said)
    assert " ".join(text.split()).count("! no_number: plan:") == len(said)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--p", "1"], "--p 1: must be a number more than 0 and less than 1, such as 0.1,0.5"),
        (["--p", "0.5,x"], "--p x: must be a number"),
        (["--p", "nan"], "--p nan: must be a number"),
        (["--p", ""], "after --p: an empty value: pass one, or leave both out"),
        (["--p", "0.5,"], "--p '': must be a number"),
        (["--p", "0.5,0.50"], "--p 0.50: stands more than once; pass each value once"),
        (["--steps", "0"], "--steps 0: must be a whole number of at least 1, such as 50,200"),
        (["--steps", "2.5"], "--steps 2.5: must be a whole number"),
        (["--steps", "4,4"], "--steps 4: stands more than once"),
        (["--retrain-every", "0"], "--retrain-every 0: must be a whole number of at least 1"),
        (
            ["--retrain-every", "5", "--steps", "9,4"],
            "--retrain-every 5: no training in a test of 4 steps (--steps 4): must be at most 4; "
            "lower it or pass --steps of at least 5",
        ),
        (["--retrain-every", "11"], "(simulation.n_steps = 10): must be at most 10"),
        (["--power", "1"], "--power 1.0: must be more than 0 and less than 1, such as 0.8"),
        (["--power", "x"], "realdataexp plan: Invalid value for '--power'"),
        (["--set", "experiment.p_treatment=0"], "experiment.p_treatment = 0.0: must be a number"),
        (["--set", "experiment.aa=true"], "experiment.aa = true: an A/A test has no effect"),
        (["--set", "experiment.designs=[oracle]"], "design oracle: E[Z|X] can be computed only"),
        (["--set", "experiment.designs=[switchback]"], "design switchback: block_steps = "),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_input_is_one_line_and_nothing_is_run(
    args: list[str], said: str, config: Path, tmp_path: Path, capsys: Say
):
    code, out, err = call(capsys, config, "--out", tmp_path / "plan", *args)
    assert (code, out, len(err)) == (2, "", 1)
    assert said in err[0]
    assert list(tmp_path.iterdir()) == [config]


def test_without_options_a_plan_is_for_the_configs_own_test(settings: Settings):
    def lengths(*changes: str) -> tuple[int, ...]:
        return make_grid(load_config(settings, changes)).steps

    assert lengths() == (2, 5, 10)
    assert lengths("simulation.n_steps=1") == (1,)
    assert lengths("simulation.retrain_every=4") == (5, 10)
    grid = make_grid(load_config(settings, ["experiment.p_treatment=0.3"]), steps=7)
    assert (grid.p, grid.retrain_every, grid.steps) == ((0.3,), (1,), (7,))
    with pytest.raises(InputError, match="--p True: must be a number"):
        make_grid(load_config(settings), p=True)
    with pytest.raises(InputError, match=r"--steps 2\.5: must be a whole number"):
        make_grid(load_config(settings), steps=[2.5])


def test_the_default_folder_is_in_the_log_dir(settings: Settings, tmp_path: Path):
    table = rx.plan(settings, [f"logging.log_dir={tmp_path}"], steps=2)
    (folder,) = tmp_path.iterdir()
    assert folder.name.endswith("-plan")
    assert {p.name for p in folder.iterdir()} == {*SWEPT, "plan.html", "plan.json", "plan.parquet"}
    assert table.equals(pl.read_parquet(folder / "plan.parquet"))
