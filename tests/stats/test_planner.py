"""What a design can detect, by hand and by simulating tests with that effect."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from simulated import bounds, experiment
from statsmodels.stats.power import NormalIndPower

from realdataexp.stats.aggregates import OUTCOME_SCHEMA
from realdataexp.stats.inference import INFERENCE_SCHEMA, inference_table
from realdataexp.stats.performance import (
    PLAN_SCHEMA,
    PlannedRun,
    judge,
    minimum_detectable_effect,
    plan,
    plan_grid,
)


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
    truth = [("global", w, *key, 2.0, 1.0, 1.0, 3.0, 0.01, 50, 50, *[None] * 7) for w in range(4)]
    ours = [
        ("pooling", w, *key, x, 0.5, x - 1, x + 1, None, 20, 60, *[None] * 7)
        for w, x in enumerate([0.5, 1.5, 2.5, -1.5])
    ]
    table = pl.DataFrame([*truth, *ours], schema=INFERENCE_SCHEMA, orient="row")
    (entry,) = plan(judge(table))
    sd = float(np.std([0.5, 1.5, 2.5, -1.5], ddof=1))
    assert (entry["p_treatment"], entry["n_visits"], entry["n_worlds"]) == (0.25, 80.0, 4)
    assert (entry["effect"], entry["bias"]) == (2.0, -1.25)
    assert entry["power_at_effect"] == 0.5  # a rejection on the wrong side is no detection
    assert entry["mde_reported"] == pytest.approx(2.8016 * 0.5, abs=1e-3)
    assert entry["mde_honest"] == pytest.approx(2.8016 * sd + 1.25, abs=1e-3)
    (alone,) = plan(judge(table.filter(pl.col("design") == "pooling")))
    names = ("effect", "bias", "power_at_effect", "mde_honest")
    assert [alone[name] for name in names] == [None] * 4 and alone["mde_reported"] is not None


def test_an_effect_as_large_as_the_honest_one_is_found_as_often_as_promised() -> None:
    n_worlds = 2000

    def planned(effect: float) -> dict[str, float]:
        found = inference_table(*experiment(41, n_worlds, effect=effect).tables(), ["user_cluster"])
        truth = found.with_columns(design=pl.lit("global"), value=pl.lit(effect))
        return plan(judge(pl.concat([truth, found])))[0]

    mde = planned(0.1)["mde_honest"]
    # a z test's power where a t test is used: a few percent less
    low, high = bounds(0.78, n_worlds)[0], bounds(0.82, n_worlds)[1]
    assert low <= planned(mde)["power_at_effect"] <= high
    assert planned(0.7 * mde)["power_at_effect"] < low


def outcomes(*means: tuple[str, int, int, float, float], n: int = 4) -> pl.DataFrame:
    """A row for each arm of a design, world and step: n visits around these means, T then C."""
    rows = []
    for design, world, step, *arms in means:
        for arm, mean in zip("TC", arms, strict=True):
            # half of the visits 1 above the mean, half 1 below
            rows.append((design, world, step, arm, "y", n, n * mean, n * (mean**2 + 1)))
    return pl.DataFrame(rows, schema=OUTCOME_SCHEMA, orient="row")


TWO_WORLDS = outcomes(
    ("global", 0, 0, 12.0, 10.0), ("global", 1, 0, 12.0, 10.0),
    ("global", 0, 1, 18.0, 10.0), ("global", 1, 1, 18.0, 10.0),
    ("pooling", 0, 0, 14.0, 10.0), ("pooling", 1, 0, 11.0, 10.0),
    ("pooling", 0, 1, 15.0, 10.0), ("pooling", 1, 1, 15.0, 10.0),
)  # fmt: skip


def test_a_row_of_the_grid_by_hand() -> None:
    grid = plan_grid([PlannedRun(0.3, 5, TWO_WORLDS)], [2, 1], ["pooling"], ["y"], power=0.5)
    assert grid.schema == PLAN_SCHEMA
    short, long = grid.to_dicts()
    assert [short[k] for k in ("p", "retrain_every", "steps")] == [0.3, 5, 1]
    # 4 visits an arm of variance 4/3 each: se = sqrt(2/3); a power of one half has z = 0
    z, sd = 1.959964, 3 / 2**0.5
    expected = {
        "n_worlds": 2, "n_visits": 8.0, "control_mean": 10.0, "effect": 2.0,
        "effect_percent": 20.0, "bias": 0.5, "bias_mc_se": 1.5, "sd": sd, "power_at_effect": 0.5,
        "mde_reported": z * (2 / 3) ** 0.5, "mde_honest": z * sd + 0.5,
        "mde_honest_percent": 10 * (z * sd + 0.5), "detects": False,
    }  # fmt: skip
    assert {k: short[k] for k in expected} == pytest.approx(expected)
    # after both steps: truth (2 + 8) / 2, pooling (4 + 5) / 2 and (1 + 5) / 2
    expected = {"n_visits": 16.0, "effect": 5.0, "bias": -1.25, "bias_mc_se": 0.75, "detects": True}
    assert {k: long[k] for k in expected} == pytest.approx(expected)


def test_a_shorter_test_is_the_first_steps_of_the_table() -> None:
    short = TWO_WORLDS.filter(pl.col("step") < 1)
    names = (["pooling"], ["y"])
    ours = plan_grid([PlannedRun(0.3, 5, TWO_WORLDS)], [1, 2], *names).filter(steps=1)
    assert ours.equals(plan_grid([PlannedRun(0.3, 5, short)], [1], *names))


def test_the_grid_is_sorted_and_has_rows_where_nobody_counted_yet() -> None:
    late = TWO_WORLDS.filter((pl.col("design") == "global") | (pl.col("step") > 0))
    runs = [PlannedRun(p, every, late) for p in (0.5, 0.2) for every in (5, 1)]
    grid = plan_grid(runs, [2, 1], ["pooling", "a_design"], ["y"])
    order = grid.select("p", "retrain_every", "steps", "design").rows()
    assert order == sorted(order)
    assert len(order) == 16
    none = grid.filter(steps=1, design="pooling").to_dicts()[0]
    assert (none["n_worlds"], none["n_visits"], none["effect"]) == (0, 0.0, 2.0)
    names = ("bias", "bias_mc_se", "sd", "power_at_effect", "mde_honest", "detects")
    assert [none[name] for name in names] == [None] * 6
    assert grid.filter(steps=2, design="pooling")["bias"].to_list() == [0.0] * 4
    assert plan_grid(runs[:1], [1], ["x"], ["z"])["effect"].to_list() == [None]
    assert plan_grid([], [1], ["x"], ["z"]).schema == PLAN_SCHEMA


def test_percents_need_a_control_world_that_yields_something() -> None:
    def percents(control: float) -> list[float | None]:
        effect = ("global", 0, 0, control + 2.0, control), ("pooling", 0, 0, 2.0, 0.0)
        grid = plan_grid([PlannedRun(0.5, 1, outcomes(*effect))], [1], ["pooling"], ["y"])
        return grid["effect_percent"].to_list()

    assert percents(0.0) == [None]
    assert percents(-4.0) == [50.0]  # more is more, whatever the sign of the mean
