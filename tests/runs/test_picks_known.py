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
from realdataexp.stats.aggregates import PICKS_SCHEMA

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
