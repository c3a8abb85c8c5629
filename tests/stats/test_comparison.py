"""The truth, and a design's distance from it, against numbers computed by hand."""

from __future__ import annotations

import math
from typing import Any

import polars as pl
import pytest

from realdataexp.stats.aggregates import OUTCOME_SCHEMA
from realdataexp.stats.inference import INFERENCE_SCHEMA
from realdataexp.stats.performance import SECTIONS, gte_results, judge, plan, section

Row = tuple[str, int, str, float | None, float | None, float | None, float | None]
COLUMNS = ("design", "world", "label", "value", "se", "ci_low", "ci_high")


def estimates(*rows: Row) -> pl.DataFrame:
    entries = [dict(zip(COLUMNS, row, strict=True)) for row in rows]
    rest = {"se_method": "welch", "n_T": 9, "n_C": 9}
    return pl.DataFrame([{**x, **rest} for x in entries], schema=INFERENCE_SCHEMA)


def compare(table: pl.DataFrame) -> list[dict[str, Any]]:
    return section(judge(table), "comparison")


def truth(world: int, value: float | None, label: str = "click") -> Row:
    return ("global", world, label, value, None, None, None)


def pooling(world: int, value: float | None, half: float | None = None) -> Row:
    if value is None or half is None:
        return ("pooling", world, "click", value, None, None, None)
    return ("pooling", world, "click", value, half / 2, value - half, value + half)


def outcomes(*rows: tuple[str, int, int, str, str, float]) -> pl.DataFrame:
    full = [(*row[:5], 4, row[5], row[5] ** 2) for row in rows]
    return pl.DataFrame(full, schema=OUTCOME_SCHEMA, orient="row")


# --- gte -------------------------------------------------------------------------------------


def test_totals_are_means_over_replications_of_sums_over_steps() -> None:
    table = outcomes(
        ("global", 0, 0, "T", "click", 3.0),
        ("global", 0, 1, "T", "click", 4.0),
        ("global", 0, 0, "C", "click", 5.0),
        ("global", 7, 0, "T", "click", 2.0),
        ("global", 7, 1, "C", "click", 1.0),
        ("global", 7, 1, "C", "like", 8.0),
        ("pooling", 0, 0, "T", "click", 1000.0),
        ("pooling", 1, 0, "C", "click", 1000.0),
    )
    assert gte_results(table) == {
        "GT_click": 4.5,
        "GC_click": 3.0,
        "GTE_click": 1.5,
        "GTE_click_relative": pytest.approx(50.0),
        "GT_like": 0.0,
        "GC_like": 4.0,
        "GTE_like": -4.0,
        "GTE_like_relative": pytest.approx(-100.0),
    }


def test_a_control_world_without_any_outcome_has_no_relative_effect() -> None:
    table = outcomes(("global", 0, 0, "T", "click", 3.0), ("global", 0, 0, "C", "click", 0.0))
    results = gte_results(table)
    assert results["GTE_click"] == 3.0 and results["GTE_click_relative"] is None


def test_without_truth_there_are_no_results() -> None:
    table = outcomes(("pooling", 0, 0, "T", "click", 3.0))
    assert gte_results(table) == {}
    assert gte_results(pl.DataFrame(schema=OUTCOME_SCHEMA)) == {}


# --- compare ---------------------------------------------------------------------------------


def test_compare_by_hand() -> None:
    # the mean truth is 2. errors of pairs: 2, -3, 3, -1. errors to the mean: 1, -3, 4, -1
    table = estimates(
        truth(0, 1.0), truth(1, 2.0), truth(2, 3.0), truth(3, 2.0),
        pooling(0, 3.0, 1.0),  # [2, 4] holds 2, just
        pooling(1, -1.0, 3.0),  # [-4, 2] does, too, with the wrong sign
        pooling(2, 6.0, 3.0),  # [3, 9] does not
        pooling(3, 1.0, 2.0),  # [-1, 3] does
    )  # fmt: skip
    errors = [2.0, -3.0, 3.0, -1.0]
    sd = math.sqrt(sum((x - 2.25) ** 2 for x in (3, -1, 6, 1)) / 3)
    (entry,) = compare(table)
    assert entry == {
        "design": "pooling",
        "label": "click",
        "gte": 2.0,
        "estimate": 2.25,
        "bias": 0.25,
        "bias_mc_se": pytest.approx(math.sqrt(sum((e - 0.25) ** 2 for e in errors) / 3 / 4)),
        "bias_df": 3,
        "sd": pytest.approx(sd),
        "rmse": pytest.approx(math.sqrt((1 + 9 + 16 + 1) / 4)),
        "se_mean": pytest.approx((0.5 + 1.5 + 1.5 + 1.0) / 4),
        "se_ratio": pytest.approx(4.5 / 4 / sd),
        "coverage": pytest.approx(3 / 4),
        "sign_error_rate": pytest.approx(1 / 4),
        "regret": pytest.approx(2.0 * 2 / 4),  # two of four worlds do not launch
        "n_worlds": 4,
    }


def test_regret_is_that_of_launching_where_the_interval_lies_above_0() -> None:
    rows = [truth(0, -3.0), truth(1, -3.0), truth(2, -3.0), truth(3, -3.0)]
    rows += [pooling(0, 2.0, 1.0), pooling(1, 2.0, 3.0), pooling(2, -9.0, 1.0), pooling(3, 4.0)]
    (entry,) = compare(estimates(*rows))
    assert entry["regret"] == pytest.approx(3.0 * 1 / 3)  # the last one has no interval
    (entry,) = compare(estimates(truth(0, 0.0), pooling(0, 2.0, 1.0)))
    assert entry["regret"] == 0.0 and entry["se_ratio"] is None


def test_estimates_that_never_vary_have_no_ratio_of_errors() -> None:
    rows = [x for w in (0, 1) for x in (truth(w, 1.0), pooling(w, 1.0, 0.5))]
    (entry,) = compare(estimates(*rows))
    assert (entry["sd"], entry["se_mean"], entry["se_ratio"]) == (0.0, 0.25, None)


def test_bias_is_of_pairs_so_that_common_noise_cancels() -> None:
    noise = [10.0, -7.0, 3.0, 40.0]
    rows = [truth(w, x) for w, x in enumerate(noise)]
    rows += [pooling(w, x + 0.25) for w, x in reversed(list(enumerate(noise)))]
    (entry,) = compare(estimates(*rows))
    assert entry["bias"] == pytest.approx(0.25)
    assert entry["bias_mc_se"] == pytest.approx(0.0, abs=1e-12)
    assert entry["sd"] > 10


def test_only_worlds_with_both_answers_are_compared() -> None:
    table = estimates(
        truth(0, 1.0), truth(1, None), truth(2, 3.0), truth(3, 100.0),
        pooling(0, 2.0), pooling(1, 50.0), pooling(2, None), pooling(4, 60.0),
    )  # fmt: skip
    (entry,) = compare(table)
    assert (entry["n_worlds"], entry["estimate"], entry["bias"]) == (1, 2.0, 1.0)
    assert entry["gte"] == pytest.approx((1 + 3 + 100) / 3)  # all that is known of the truth
    assert entry["bias_mc_se"] is entry["sd"] is entry["coverage"] is entry["se_mean"] is None
    assert entry["bias_df"] == 0


def test_worlds_without_an_interval_are_left_out_of_coverage_only() -> None:
    table = estimates(
        truth(0, 1.0), truth(1, 1.0), truth(2, 1.0), pooling(0, 1.0, 2.0), pooling(1, 9.0),
        pooling(2, 5.0, 1.0),
    )  # fmt: skip
    (entry,) = compare(table)
    assert (entry["coverage"], entry["se_mean"], entry["estimate"]) == (0.5, 0.75, 5.0)


def test_without_a_truth_there_is_no_distance_from_it() -> None:
    (entry,) = compare(estimates(pooling(0, 2.0, 1.0)))
    assert (entry["n_worlds"], entry["estimate"], entry["se_mean"]) == (1, 2.0, 0.5)
    names = ("gte", "bias", "bias_mc_se", "bias_df", "rmse", "coverage", "sign_error_rate",
             "regret")  # fmt: skip
    assert [entry[name] for name in names] == [None] * len(names)


def test_designs_and_labels_are_compared_apart_with_their_own_truth() -> None:
    table = estimates(
        truth(0, 1.0), truth(0, 10.0, "like"),
        ("b", 0, "like", 12.0, None, None, None), ("b", 0, "click", 1.5, None, None, None),
        ("a", 0, "click", 0.0, None, None, None),
    )  # fmt: skip
    found = [(e["design"], e["label"], e["gte"], e["bias"]) for e in compare(table)]
    assert found == [("b", "like", 10.0, 2.0), ("b", "click", 1.0, 0.5), ("a", "click", 1.0, -1.0)]
    assert compare(table.filter(pl.col("design") == "global")) == []


@pytest.mark.parametrize(("value", "rate"), [(0.5, 0.0), (-0.5, 1.0), (0.0, 1.0)])
def test_the_sign_of_no_effect_is_not_that_of_an_effect(value: float, rate: float) -> None:
    (entry,) = compare(estimates(truth(0, 2.0), pooling(0, value)))
    assert entry["sign_error_rate"] == rate
    (entry,) = compare(estimates(truth(0, 0.0), pooling(0, value)))
    assert entry["sign_error_rate"] is None  # no effect has no sign to be missed


def test_each_part_of_a_result_has_the_same_figure_under_the_same_name() -> None:
    rows = [x for w in range(30) for x in (truth(w, 1.0 + w % 3), pooling(w, w % 7 - 2.0, 2.5))]
    judged = judge(estimates(*rows))
    compared, honest, regret = (section(judged, name)[0] for name in SECTIONS)
    (planned,) = plan(judged)
    assert compared["gte"] == honest["gte"] == regret["gte"] == planned["effect"]
    for name in set(compared) & set(honest):
        assert compared[name] == honest[name], name
    assert compared["regret"] == regret["regret"]
    assert (compared["bias"], compared["n_worlds"]) == (planned["bias"], planned["n_worlds"])
