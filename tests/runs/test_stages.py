"""A run whose designs treat other shares than p: the tables say which, and who was in the test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import realdataexp as rx
from realdataexp.config import load_config
from realdataexp.runs.experiment import run_experiment

SHARES = [0.1, 0.3, 0.6]
DESIGNS = ["pooling", {"name": "rollout", "shares": SHARES}, {"name": "holdout", "share": 0.4}]
METHODS = ["rollout_linear", "user_cluster"]


@pytest.fixture(scope="module")
def result(small_settings: Callable[..., Any], tmp_path_factory: Any) -> rx.Result:
    loop = {"n_steps": 24, "batch_size": 32}
    test = {"replications": 8, "designs": DESIGNS, "intervals": METHODS}
    config = load_config(small_settings(simulation=loop, experiment=test))
    return rx.Result(run_experiment(config, tmp_path_factory.mktemp("stages") / "run"))


def test_the_share_of_each_step_stands_in_the_outcomes_and_is_what_was_treated(result: rx.Result):
    shares = result.outcomes.group_by("design", "step").agg(pl.col("p").unique())
    of_step = {(design, step): sorted(p) for design, step, p in shares.iter_rows()}
    assert len(of_step) == 4 * 24
    for (design, step), p in of_step.items():
        expected = {"global": [0.0, 1.0], "rollout": [SHARES[step // 8]]}
        assert p == expected.get(design, [0.5])
    visits = result.outcomes.filter(pl.col("design") == "rollout", pl.col("label") == "click")
    for (p,), own in visits.group_by("p"):
        treated = own.filter(pl.col("arm") == "T")["n"].sum() / own["n"].sum()
        assert treated == pytest.approx(p, abs=0.06)  # 2,048 visits, arm by user


def test_the_estimator_answers_for_the_rollout_alone_and_the_others_are_named(result: rx.Result):
    answered = result.estimates.filter(pl.col("se_method") == "rollout_linear").drop_nulls("value")
    assert set(answered["design"]) == {"rollout"} and answered.height == 2 * 8
    (said,) = [
        w["message"] for w in result.summary["warnings"] if w["code"] == "estimator_without_answer"
    ]
    assert "rollout_linear compares steps" in said and said.endswith("in pooling, holdout")
    entries = {(e["se_method"], e["label"]): e for e in result.summary["inference"]
               if e["design"] == "rollout"}  # fmt: skip
    for label in ("play_time", "click"):
        welch, linear = (entries[x, label] for x in ("welch", "rollout_linear"))
        assert welch["bias"] == pytest.approx(welch["estimate"] - welch["gte"])
        assert linear["estimate"] != welch["estimate"]


def test_neither_design_is_taken_for_one_that_lost_units(result: rx.Result):
    """Of a holdout, those of the test are counted: 40 % of the units, half of them treated."""
    assert not [w for w in result.summary["warnings"] if w["code"] == "sample_ratio_mismatch"]
    units = result.summary["diagnostics"]["units_by_arm"]
    n_T, n_C = units["holdout"]["T"], units["holdout"]["C"]
    assert 0.3 < (n_T + n_C) / sum(units["pooling"].values()) < 0.5
    assert 0.4 < n_T / (n_T + n_C) < 0.6
    counted = result.outcomes.filter(pl.col("label") == "click").group_by("design").agg(
        pl.col("n").sum()
    )  # fmt: skip
    n = dict(counted.iter_rows())
    assert 0.3 < n["holdout"] / n["pooling"] < 0.5


def test_a_rollout_that_would_have_a_stage_without_a_step_is_one_line(
    small_config: Callable[..., Path], capsys: pytest.CaptureFixture[str]
):
    from realdataexp import cli

    design = {"name": "rollout", "first_steps": [0, 5, 10]}
    path = small_config(experiment={"replications": 2, "designs": [design]})
    assert cli.main(["run", str(path), "--quiet"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "design rollout: its last stage would begin with step 10" in err
