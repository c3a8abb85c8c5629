"""A run that names methods which read both arms' picks; whoever does not gets the same tables."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import realdataexp as rx
from realdataexp.config import load_config
from realdataexp.runs.experiment import run_experiment
from realdataexp.stats.aggregates import FORETOLD_SCHEMA, PICKS_SCHEMA

PLAIN = ["user_cluster", "always_valid"]


def test_who_names_them_has_more_columns_and_the_rest_is_as_it_was(
    small_settings: Callable[..., Any], tmp_path: Path
):
    def of(*more: str) -> rx.Result:
        designs = ["pooling", "codiverted"]
        test = {"replications": 2, "designs": designs, "intervals": [*PLAIN, *more]}
        loop = {"n_steps": 12, "batch_size": 32}
        config = load_config(small_settings(simulation=loop, experiment=test))
        return rx.Result(run_experiment(config, tmp_path / str(len(more))))

    plain, asked = of(), of("paired", "paired_visit")
    assert plain.units is not None and asked.units is not None
    assert plain.units.equals(asked.units.drop(PICKS_SCHEMA))
    assert plain.outcomes.equals(asked.outcomes)
    is_plain = pl.col("se_method").is_in(["welch", *PLAIN])
    assert plain.estimates.equals(asked.estimates.filter(is_plain))
    found = asked.estimates.filter(~is_plain)
    assert set(found["design"]) == {"pooling"} and found.height == 2 * 2 * 2
    assert (
        found.select("value", "se", "ci_low", "ci_high", "p_value").null_count().row(0) == (0,) * 5
    )
    said = [
        w["message"] for w in asked.summary["warnings"] if w["code"] == "estimator_without_answer"
    ]
    assert len(said) == 2
    assert all("from the same slate" in x and x.endswith("none in codiverted") for x in said)
    units = asked.units.filter(pl.col("design").cast(pl.String) == "pooling")
    share = units["n_differ"].sum() / units["n"].sum()
    assert share == pytest.approx(
        asked.summary["diagnostics"]["share_of_visits_where_arms_differ"]["pooling"], abs=1e-12
    )
    assert units["n_parted"].sum() >= units["n_differ"].sum() > 0


def test_an_outcome_without_a_model_says_that_nothing_is_predicted_of_it_and_others_do_not(
    small_settings: Callable[..., Any], tmp_path: Path
):
    test = {"replications": 4, "designs": ["pooling"], "intervals": ["user_cluster", "aipw"]}
    loop = {"n_steps": 12, "batch_size": 32}
    outcomes = [{"name": "click"}, {"name": "liked", "target": "is_like"}]
    settings = small_settings(simulation=loop, experiment=test, outcomes=outcomes)
    result = rx.Result(run_experiment(load_config(settings), tmp_path / "run"))
    own = result.estimates.filter(se_method="aipw").group_by("label").agg(pl.col("se").count())
    assert dict(own.iter_rows()) == {"click": 4, "liked": 0}
    said = [w["message"] for w in result.summary["warnings"] if w["code"] == "no_number"]
    of_models = [x for x in said if "no model predicts this outcome" in x]
    assert of_models and all("pooling of liked" in x for x in of_models)
    assert not any("pooling of click" in x for x in of_models)


def test_predictions_of_both_picks_are_kept_for_who_asks_whatever_the_processes(
    small_settings: Callable[..., Any], tmp_path: Path
):
    def of(name: str, *more: str, **settings: Any) -> rx.Result:
        designs = ["pooling", "splitting", "codiverted"]
        test = {"replications": 4, "designs": designs, "intervals": ["paired", *more]}
        loop = {"n_steps": 12, "batch_size": 32, "save_every": 5, **settings}
        config = load_config(small_settings(simulation=loop, experiment=test))
        return rx.Result(run_experiment(config, tmp_path / name))

    plain, asked = of("plain"), of("asked", "aipw", "cupac")
    shared = of("shared", "aipw", "cupac", processes=2)
    assert plain.units is not None and asked.units is not None and shared.units is not None
    assert plain.units.equals(asked.units.drop(FORETOLD_SCHEMA))
    assert plain.outcomes.equals(asked.outcomes)
    assert asked.units.equals(shared.units) and asked.estimates.equals(shared.estimates)
    new = asked.estimates.filter(pl.col("se_method").is_in(["aipw", "cupac"]))
    assert set(new["design"]) == {"pooling", "splitting"} and new.height == 2 * 2 * 2 * 4
    assert new.select("value", "se", "ci_low", "ci_high", "p_value").null_count().row(0) == (0,) * 5
    is_known = pl.col("foretold").is_not_null()
    told = asked.units.filter(is_known)
    assert set(told["design"].cast(pl.String)) == {"global", "pooling", "splitting"}
    click = told.filter(pl.col("label").cast(pl.String) == "click")["foretold"]
    assert 0 < click.min() <= click.max() < 1 and click.n_unique() > 20
