"""What a design can detect, by hand and by simulating tests with that effect."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from simulated import bounds, experiment
from statsmodels.stats.power import NormalIndPower

from realdataexp.stats.inference import INFERENCE_SCHEMA, inference_table
from realdataexp.stats.planner import minimum_detectable_effect, plan


def test_the_minimum_detectable_effect_is_2_8_standard_errors() -> None:
    assert minimum_detectable_effect(1.0) == pytest.approx(2.8016, abs=1e-4)
    # two arms of 50 with standard deviation 1: se = 0.2
    for power, alpha in ((0.8, 0.05), (0.95, 0.01)):
        expected = NormalIndPower().solve_power(nobs1=50, power=power, alpha=alpha)
        assert minimum_detectable_effect(0.2, power, alpha) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((-1.0,), "se == -1.0, must be >= 0"),
        ((1.0, 1.0), "power == 1.0, must be > 0 and < 1"),
        ((1.0, 0.8, 0.0), "alpha == 0.0, must be > 0 and < 1"),
    ],
)
def test_impossible_demands_are_refused(arguments: tuple[float, ...], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        minimum_detectable_effect(*arguments)


def test_the_plan_by_hand() -> None:
    key = ("click", "mean_per_visit", "welch")
    truth = [("global", 0, *key, 2.0, 1.0, 1.0, 3.0, 0.01, 50, 50)]
    ours = [
        ("pooling", w, *key, x, 0.5, x - 1, x + 1, None, 20, 60)
        for w, x in enumerate([0.5, 1.5, 2.5, -1.5])
    ]
    table = pl.DataFrame([*truth, *ours], schema=INFERENCE_SCHEMA, orient="row")
    (entry,) = plan(table, table)
    sd = float(np.std([0.5, 1.5, 2.5, -1.5], ddof=1))
    assert (entry["p_treatment"], entry["n_visits"], entry["n_worlds"]) == (0.25, 80.0, 4)
    assert (entry["effect"], entry["bias"]) == (2.0, -1.25)
    assert entry["power_at_effect"] == 0.5  # a rejection on the wrong side is no detection
    assert entry["mde_reported"] == pytest.approx(2.8016 * 0.5, abs=1e-3)
    assert entry["mde_honest"] == pytest.approx(2.8016 * sd + 1.25, abs=1e-3)
    (alone,) = plan(table.filter(pl.col("design") == "pooling"), table.clear())
    names = ("effect", "bias", "power_at_effect", "mde_honest")
    assert [alone[name] for name in names] == [None] * 4 and alone["mde_reported"] is not None


def test_an_effect_as_large_as_the_honest_one_is_found_as_often_as_promised() -> None:
    n_worlds = 2000

    def planned(effect: float) -> dict[str, float]:
        found = inference_table(*experiment(41, n_worlds, effect=effect).tables(), ["user_cluster"])
        truth = found.head(1).with_columns(design=pl.lit("global"), value=pl.lit(effect))
        return plan(found, truth)[0]

    mde = planned(0.1)["mde_honest"]
    # a z test's power where a t test is used: a few percent less
    low, high = bounds(0.78, n_worlds)[0], bounds(0.82, n_worlds)[1]
    assert low <= planned(mde)["power_at_effect"] <= high
    assert planned(0.7 * mde)["power_at_effect"] < low
