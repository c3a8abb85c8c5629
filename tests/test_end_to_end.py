"""A run's folder: what it holds, and that it is a function of config, data and seed."""

from __future__ import annotations

import hashlib
import json
import math
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import processes
import pytest
import torch
import yaml
from safetensors.torch import load_file

from realdataexp import cli
from realdataexp.api import run
from realdataexp.config import load_config
from realdataexp.metrics import is_higher_better
from realdataexp.runs import experiment

Settings = dict[str, Any]
MACHINE = ("timing", "device", "versions")
TABLES = (
    "outcomes.parquet", "metrics.parquet", "ledger.parquet", "estimates.parquet",
    "detections.parquet",
)  # fmt: skip


def result_of(folder: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    return result


def answer(folder: Path) -> dict[str, Any]:
    """What must not depend on the machine's mood."""
    return {key: value for key, value in result_of(folder).items() if key not in MACHINE}


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        if isinstance(item, dict | list):
            yield from leaves(item, f"{path}.{key}")
        else:
            yield f"{path}.{key}", item


def test_a_run_folder_holds_these_files_and_no_others(small_run: Path):
    found = {str(p.relative_to(small_run)) for p in small_run.rglob("*") if p.is_file()}
    index = json.loads((small_run / "checkpoints" / "index.json").read_text())
    files = {"config.yaml", "run.log", "result.json", "plot.svg", "checkpoints/index.json"}
    files |= {"units.parquet", "report.html", "monitor.parquet", "places.json", "status.json"}
    state = json.loads((small_run / "checkpoints" / "step_10" / "state.json").read_text())
    for name in index["kept"]:
        files |= {f"checkpoints/{name}/state.{end}" for end in ("json", "safetensors")}
        files.add(f"checkpoints/{name}/digests.json")
    files |= {f"checkpoints/rows/{row['name']}" for row in state["rows"]}
    of_metrics = [index["best"], *index["best_starts"]]
    files |= {f"checkpoints/{entry['networks']}" for of in of_metrics for entry in of.values()}
    assert found == files | set(TABLES)


def test_result_json_has_every_promised_key(small_run: Path):
    result = result_of(small_run)
    assert {
        "schema_version", "mode", "seed", "status", "config", "dataset_stats", "gte_results",
        "estimates", "comparison", "metrics_summary", "warnings", "device", "timing", "versions",
    } <= result.keys()  # fmt: skip
    assert (result["mode"], result["seed"], result["status"]) == ("compare", 0, "complete")
    labels = ("play_time", "click")
    keys = [k.format(x) for x in labels for k in ("GT_{}", "GC_{}", "GTE_{}", "GTE_{}_relative")]
    assert list(result["gte_results"]) == keys
    assert {e["estimand"] for e in result["estimates"]} == {"mean_per_visit"}
    assert set(result["estimates"][0]) == {
        "design", "label", "estimand", "value", "se", "ci_low", "ci_high", "p_value", "se_method",
        "n_worlds", "p_adjusted", "control_mean", "percent", "percent_se", "percent_low",
        "percent_high", "percent_why",
    }  # fmt: skip
    assert set(result["comparison"][0]) == {
        "design", "label", "gte", "estimate", "bias", "bias_mc_se", "bias_df", "sd", "rmse",
        "se_mean", "se_ratio", "coverage", "sign_error_rate", "regret", "n_worlds",
    }  # fmt: skip
    assert {"total_seconds", "arm_steps_per_second", "peak_memory_mb"} <= result["timing"].keys()
    assert all(set(w) == {"code", "message"} for w in result["warnings"])


def test_every_number_of_a_result_is_finite(small_run: Path):
    whole = result_of(small_run)
    few = {
        "inference",
        "family",
        "regret",
        "plan",
    }  # three replications tell little: nulls, with a warning
    assert any(w["code"] == "no_number" and "inference" in w["message"] for w in whole["warnings"])
    result = {k: v for k, v in whole.items() if k not in {"config", "dataset_stats", *few}}
    # a CPU's memory is no device's, and an installed package lies in no checkout
    lacking = {".timing.device_peak_memory_mb", ".versions.git_revision"}
    bad = [
        path
        for path, value in leaves(result)
        if value is None or (isinstance(value, float) and not math.isfinite(value))
    ]
    assert set(bad) <= lacking


def test_totals_and_effects_follow_from_the_outcomes(small_run: Path):
    gte = result_of(small_run)["gte_results"]
    outcomes = pl.read_parquet(small_run / "outcomes.parquet")
    truth = outcomes.filter((pl.col("design") == "global") & (pl.col("label") == "click"))
    total = {arm: truth.filter(pl.col("arm") == arm)["sum"].sum() / 3 for arm in "TC"}
    assert gte["GT_click"] == pytest.approx(total["T"])
    assert gte["GTE_click"] == pytest.approx(total["T"] - total["C"])
    assert gte["GTE_click_relative"] == pytest.approx(100 * (total["T"] / total["C"] - 1))


def test_the_log_says_who_speaks_on_every_line_and_ends_with_the_result(small_run: Path):
    lines = (small_run / "run.log").read_text(encoding="utf-8").splitlines()
    assert all(re.match(r"\[[a-z]+\] \d{4}-\d\d-\d\d \d\d:\d\d:\d\d \S", line) for line in lines)
    parts = {line.split("]")[0][1:] for line in lines}
    assert {"data", "pretrain", "loop", "validate", "result"} <= parts
    assert "complete after 10 steps" in lines[-1]


def test_the_latest_checkpoint_is_whole(small_run: Path):
    root = small_run / "checkpoints"
    index = json.loads((root / "index.json").read_text())
    assert (index["latest"], index["primary_metric"]) == ("step_10", "play_time.loss")
    assert index["kept"][-2:] == ["step_5", "step_10"]
    digests = json.loads((root / "step_10" / "digests.json").read_text())
    for name in ("state.json", "state.safetensors"):
        file = root / "step_10" / name
        assert digests[name] == hashlib.sha256(file.read_bytes()).hexdigest()
    state = json.loads((root / "step_10" / "state.json").read_text())
    assert (state["phase"], state["n_steps_done"]) == ("loop", 10)
    tensors = load_file(root / "step_10" / "state.safetensors")
    parts = ("world", "loop", "network.0", "network.1", "recorder")
    assert all(any(name.startswith(f"{part}.") for name in tensors) for part in parts)
    assert all(torch.isfinite(t).all() for n, t in tensors.items() if ".params." in n)


def test_the_bests_are_those_of_the_validation_metrics(small_run: Path):
    best = json.loads((small_run / "checkpoints" / "index.json").read_text())["best"]
    assert best == result_of(small_run)["best"]
    looks = pl.read_parquet(small_run / "metrics.parquet").filter(
        pl.col("phase") == "loop",
        pl.col("split") == "validation",
        pl.col("metric") != "n_nonfinite",
    )
    assert best.keys() == {".".join(x) for x in looks.select("label", "metric").unique().rows()}
    mean = looks.group_by("label", "metric", "step").agg(pl.col("value").mean())
    for name, found in best.items():
        label, _, metric = name.partition(".")
        values = mean.filter(pl.col("label") == label, pl.col("metric") == metric)
        sign = 1 if is_higher_better(metric, {}) else -1
        (value, step) = max((sign * v, -s) for s, v in values.select("step", "value").rows())
        assert found["value"] == pytest.approx(sign * value, rel=1e-12)
        assert found["networks"] == f"best/step_{-step}.safetensors"
        assert (small_run / "checkpoints" / found["networks"]).exists()


def test_the_same_config_data_and_seed_give_the_same_result(
    small_run: Path, small_settings: Callable[..., Settings], tmp_path: Path
):
    again = run(small_settings(logging={"pictures": True}), out=tmp_path / "again").folder
    assert answer(again) == answer(small_run)
    for name in (*TABLES, "plot.svg", "config.yaml"):
        assert (again / name).read_bytes() == (small_run / name).read_bytes(), name


def test_the_config_of_a_run_folder_runs_again_to_the_same_result(
    small_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "again"
    assert cli.main(["run", str(small_run / "config.yaml"), "--out", str(out), "--quiet"]) == 0
    assert capsys.readouterr().out.endswith(f"Run folder: {out}\n")
    assert answer(out) == answer(small_run)
    for name in (*TABLES, "config.yaml"):
        assert (out / name).read_bytes() == (small_run / name).read_bytes(), name


def test_another_seed_gives_another_result(
    small_run: Path, small_settings: Callable[..., Settings], tmp_path: Path
):
    other = run(small_settings(seed=1), out=tmp_path / "other").folder
    assert answer(other)["estimates"] != answer(small_run)["estimates"]


def test_a_mode_runs_its_own_worlds_only_and_they_are_those_of_compare(
    small_run: Path, small_settings: Callable[..., Settings], tmp_path: Path
):
    compared = pl.read_parquet(small_run / "outcomes.parquet")
    for mode in ("global", "splitting"):
        result = run(small_settings(mode=mode), out=tmp_path / mode)
        mine = compared.filter(pl.col("design") == mode)
        keys = ["step", "design", "world", "arm", "label"]
        assert result.outcomes.sort(keys).equals(mine.sort(keys))
        assert result.comparison.is_empty()


def test_nobody_in_an_arm_gives_nulls_and_a_warning_and_no_crash(
    small_settings: Callable[..., Settings], tmp_path: Path
):
    result = run(small_settings(experiment={"p_treatment": 0}), out=tmp_path / "r").summary
    assert {e["n_worlds"] for e in result["comparison"]} == {0}
    assert {e["estimate"] for e in result["comparison"]} == {None}
    assert result["gte_results"]["GTE_click"] is not None
    said = [w["message"] for w in result["warnings"] if w["code"] == "one_arm_only"]
    assert len(said) == 1
    assert "pooling, snapshot, splitting" in said[0]
    assert "in the treatment arm in 3 of 3" in said[0]


def test_one_replication_has_an_answer_without_spread(
    small_settings: Callable[..., Settings], tmp_path: Path
):
    result = run(small_settings(experiment={"replications": 1}), out=tmp_path / "r").summary
    assert {e["sd"] for e in result["comparison"]} == {None}
    assert all(e["bias"] is not None for e in result["comparison"])
    assert any("experiment.replications" in w["message"] for w in result["warnings"])


def test_one_label_is_enough(small_settings: Callable[..., Settings], tmp_path: Path):
    settings = small_settings()
    settings["labels"] = settings["labels"][:1]
    result = run(settings, out=tmp_path / "r").summary
    assert {e["label"] for e in result["comparison"]} == {"play_time"}


def test_a_run_out_of_data_ends_early_and_is_validated_and_saved_there(
    small_settings: Callable[..., Settings], tmp_path: Path
):
    loop = {"batch_size": 64, "n_steps": 1000, "validate_every": 400, "save_every": 400}
    folder = run(small_settings(mode="pooling", simulation=loop), out=tmp_path / "r").folder
    result = result_of(folder)
    done = result["n_steps_done"]
    assert 0 < done < 400
    assert result["status"] == "complete"
    assert "data_exhausted" in {w["code"] for w in result["warnings"]}
    metrics = pl.read_parquet(folder / "metrics.parquet")
    assert metrics.filter(pl.col("split") == "validation")["step"].max() == done
    index = json.loads((folder / "checkpoints" / "index.json").read_text())
    assert index["latest"] == f"step_{done}"


def test_a_run_that_fails_on_the_way_leaves_what_it_had_and_exits_with_1(
    small_config: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    real = experiment.Recorder.add

    def add(self: Any, step: Any) -> None:
        real(self, step)
        if step.visits.step == 6:
            raise ZeroDivisionError("a fault")

    monkeypatch.setattr(experiment.Recorder, "add", add)
    out = tmp_path / "r"
    assert cli.main(["run", str(small_config()), "--out", str(out), "--quiet"]) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert f"a fault (after 6 of 10 steps; {out} holds the run so far" in err
    assert result_of(out)["status"] == "partial"


def test_blocks_of_steps_are_units_though_every_visit_is_a_new_user(tmp_path: Path):
    changes = [
        "simulation.n_steps=24", "simulation.batch_size=16", "simulation.n_candidate=5",
        "experiment.replications=3", "experiment.intervals=[user_cluster, randomisation]",
        "experiment.designs=[pooling, {name: switchback, block_steps: 2}]",
        "logging.pictures=false",
    ]  # fmt: skip
    result = run("si2023", changes, out=tmp_path / "r")
    units = pl.read_parquet(tmp_path / "r" / "units.parquet")
    assert units["design"].cast(pl.String).unique().to_list() == ["switchback"]
    assert set(units["unit"]) == set(range(12))
    methods = {
        design: part["se_method"].unique(maintain_order=True).to_list()
        for (design,), part in result.estimates.group_by(["design"])
    }
    asked = ["welch", "user_cluster", "randomisation"]
    assert methods == {"global": ["welch"], "pooling": ["welch"], "switchback": asked}
    told = result.estimates.filter(pl.col("se_method") == "user_cluster")
    assert told["se"].drop_nulls().len() > 0
    (said,) = [
        w["message"] for w in result.summary["warnings"] if w["code"] == "intervals_without_units"
    ]
    assert "user_cluster, randomisation" in said and "in pooling every visit" in said


def test_intervals_that_cannot_be_trusted_are_told(tmp_path: Path):
    changes = [
        "simulation.n_steps=60", "simulation.batch_size=32", "simulation.n_candidate=10",
        "experiment.replications=20", "experiment.intervals=[]", "experiment.designs=[pooling]",
        "logging.pictures=false",
    ]  # fmt: skip
    summary = run("si2023", changes, out=tmp_path / "r").summary
    bad = [e["label"] for e in summary["inference"] if e["trustworthy"] is False]
    assert bad  # pooling is biased where the interference is strong
    said = [w["message"] for w in summary["warnings"] if w["code"] == "intervals_not_trustworthy"]
    assert len(said) == 1 and f"design pooling, label{'s' * (len(bad) > 1)} " in said[0]
    assert all(label in said[0] for label in bad)
    (family,) = summary["family"]
    assert (family["design"], family["se_method"], family["n_worlds"]) == ("pooling", "welch", 20)


def test_a_design_from_outside_the_package_runs_from_the_command_line(
    small_config: Callable[..., Path], tmp_path: Path
):
    code = (
        "import torch\n"
        "from realdataexp.designs import Design\n"
        "class Half(Design):\n"
        "    share: float = 0.5\n"
        "    def weights(self, outcome):\n"
        "        r, b = outcome.is_treated_RB.shape\n"
        "        return torch.full((r, 1, b), self.share)\n"
    )
    (tmp_path / "mine.py").write_text(code)
    designs = [{"name": "mine:Half", "share": 0.25}, "pooling"]
    config = small_config(experiment={"designs": designs})
    command = [sys.executable, "-m", "realdataexp", "run", str(config), "--out", "r"]
    processes.run(command, cwd=tmp_path, check=True, capture_output=True)
    result = result_of(tmp_path / "r")
    assert {e["design"] for e in result["comparison"]} == {"Half", "pooling"}
    saved = yaml.safe_load((tmp_path / "r" / "config.yaml").read_text())
    assert saved["experiment"]["designs"][0] == {
        "name": "mine:Half",
        "label": "Half",
        "share": 0.25,
    }


def test_the_plot_is_made_again_by_report(
    small_settings: Callable[..., Settings], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    settings = small_settings(mode="snapshot", logging={"pictures": True})
    folder = run(settings, out=tmp_path / "r").folder
    drawn = (folder / "plot.svg").read_bytes()
    (folder / "plot.svg").unlink()
    assert cli.main(["report", str(folder)]) == 0
    assert (folder / "plot.svg").read_bytes() == drawn


def test_the_demo_config_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    # its data are made and imported; it runs in `make demo`
    monkeypatch.setenv("REALDATAEXP_CACHE", str(tmp_path / "cache"))
    lines = experiment.check_experiment(load_config("demo"), tmp_path / "out")
    assert any(line.startswith("mode compare: global, pooling") for line in lines)
    assert not (tmp_path / "out").exists()
