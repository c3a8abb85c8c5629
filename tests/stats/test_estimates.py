"""Estimates equal SciPy's tests; intervals cover as often as they claim on independent data."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy import stats

from realdataexp.stats.aggregates import OUTCOME_SCHEMA, arm_sums, outcome_table
from realdataexp.stats.estimates import between_worlds, summarise, world_estimates
from realdataexp.stats.relative import RELATIVE_SCHEMA

FALSE_FAIL = 1e-6
NAMES = ("value", "se", "ci_low", "ci_high", "p_value")
Arms = dict[str, list[float]]


def table_of(worlds: dict[tuple[str, int, str], Arms], n_steps: int = 2) -> pl.DataFrame:
    """The outcomes of (design, world, label), spread over some steps."""
    rows = []
    for (design, world, label), arms in worlds.items():
        for arm, values in arms.items():
            for step in range(n_steps):
                y = np.array(values[step::n_steps])
                if len(y):
                    sums = (len(y), float(y.sum()), float((y * y).sum()))
                    rows.append((design, world, step, arm, label, *sums))
    return pl.DataFrame(rows, schema=OUTCOME_SCHEMA, orient="row")


def one(arms: Arms) -> dict[str, Any]:
    return world_estimates(table_of({("pooling", 0, "click"): arms})).row(0, named=True)


def estimates_of(values: list[float | None], **columns: list[float | None]) -> pl.DataFrame:
    """A table of estimates, a world for each value."""
    n = len(values)
    return pl.DataFrame(
        {
            "design": ["pooling"] * n,
            "world": list(range(n)),
            "label": ["click"] * n,
            "value": values,
            **{name: columns.get(name, [None] * n) for name in NAMES[1:]},
            "se_method": ["welch"] * n,
            **{name: [None] * n for name in RELATIVE_SCHEMA},
        },
        schema_overrides={**dict.fromkeys(NAMES, pl.Float64), **RELATIVE_SCHEMA},
    )


# --- a world's estimate ----------------------------------------------------------------------


@pytest.mark.parametrize(("n_t", "n_c"), [(2, 2), (2, 40), (7, 3), (50, 60), (1000, 10)])
def test_a_worlds_estimate_equals_scipys_welch_test(n_t: int, n_c: int) -> None:
    g = np.random.default_rng(n_t)
    treated, control = g.normal(5, 3, n_t), g.exponential(2.0, n_c)
    expected = stats.ttest_ind(treated, control, equal_var=False)
    interval = expected.confidence_interval(0.95)
    row = one({"T": treated.tolist(), "C": control.tolist()})
    assert row["value"] == pytest.approx(treated.mean() - control.mean(), rel=1e-9)
    assert row["se"] == pytest.approx(row["value"] / expected.statistic, rel=1e-9)
    assert row["ci_low"] == pytest.approx(interval.low, rel=1e-7)
    assert row["ci_high"] == pytest.approx(interval.high, rel=1e-7)
    assert row["p_value"] == pytest.approx(expected.pvalue, rel=1e-7)
    assert (row["n_T"], row["n_C"]) == (n_t, n_c)
    assert (row["estimand"], row["se_method"]) == ("mean_per_visit", "welch")


def test_worlds_designs_and_labels_are_estimated_apart() -> None:
    g, worlds = np.random.default_rng(1), {}
    for design in ("global", "pooling"):
        for world in (0, 4):
            for label in ("click", "play_time"):
                worlds[design, world, label] = {
                    arm: g.normal(size=g.integers(2, 9)).tolist() for arm in "TC"
                }
    table = world_estimates(table_of(worlds))
    keys = table.select("design", "world", "label").rows()
    assert keys == list(worlds)  # in the order of the outcomes
    for row in table.iter_rows(named=True):
        alone = one(worlds[row["design"], row["world"], row["label"]])
        for name in (*NAMES, "n_T", "n_C"):
            assert row[name] == alone[name]


def test_the_number_of_steps_does_not_matter() -> None:
    arms = {"T": [1.0, 4.0, 2.0, 8.0], "C": [3.0, 1.0, 1.0]}
    tables = [world_estimates(table_of({("p", 0, "x"): arms}, n)) for n in (1, 2, 4)]
    for table in tables[1:]:
        np.testing.assert_allclose(table.select(NAMES).row(0), tables[0].select(NAMES).row(0))


@pytest.mark.parametrize("arms", [{"T": [1.0, 2.0, 3.0]}, {"C": [1.0, 2.0, 3.0]}], ids=str)
def test_an_arm_without_outcomes_leaves_no_estimate(arms: Arms) -> None:
    row = one(arms)
    assert [row[name] for name in NAMES] == [None] * 5
    assert (row["n_T"], row["n_C"]) == ((3, 0) if "T" in arms else (0, 3))


@pytest.mark.parametrize(
    "arms", [{"T": [4.0], "C": [1.0, 2.0]}, {"T": [4.0, 5.0], "C": [3.0]}, {"T": [4.0], "C": [1.0]}]
)
def test_an_arm_with_one_outcome_leaves_a_value_without_an_error(arms: Arms) -> None:
    row = one(arms)
    assert row["value"] == pytest.approx(np.mean(arms["T"]) - np.mean(arms["C"]))
    assert [row[name] for name in NAMES[1:]] == [None] * 4


def test_outcomes_that_never_vary_have_an_interval_of_one_point_and_no_p_value() -> None:
    row = one({"T": [0.3] * 5, "C": [0.1] * 7})
    assert row["value"] == pytest.approx(0.2)
    assert row["se"] == pytest.approx(0.0, abs=1e-8)
    assert row["ci_low"] == pytest.approx(0.2) and row["ci_high"] == pytest.approx(0.2)
    exact = one({"T": [1.0] * 5, "C": [0.0] * 7})
    assert [exact[name] for name in NAMES] == [1.0, 0.0, 1.0, 1.0, None]


def test_no_outcomes_give_an_empty_table_with_its_columns() -> None:
    table = world_estimates(pl.DataFrame(schema=OUTCOME_SCHEMA))
    assert table.height == 0
    assert table.columns == [
        "design", "world", "label", "estimand", *NAMES, "se_method", "n_T", "n_C",
    ]  # fmt: skip


def coverage(n_t: int, n_c: int, n_worlds: int, shrink: float = 1.0) -> int:
    """In how many worlds of independent visits the interval holds the true difference."""
    g = np.random.default_rng(7)
    n = n_t + n_c
    is_treated_WB = np.broadcast_to(np.arange(n) < n_t, (n_worlds, n))
    y_WBL = (g.normal(size=(n_worlds, n)) * np.where(is_treated_WB, 3.0, 1.0) + 5.0)[..., None]
    sums = arm_sums(is_treated_WB, y_WBL)[None]
    worlds = [("pooling", w) for w in range(n_worlds)]
    table = world_estimates(outcome_table(sums, [0], worlds, ["click"]))
    middle = (table["ci_low"] + table["ci_high"]) / 2
    half = shrink * (table["ci_high"] - table["ci_low"]) / 2
    return int((middle.abs() <= half).sum())


def test_welch_intervals_cover_95_percent_of_independent_worlds() -> None:
    n_worlds = 4000
    low, high = stats.binom.interval(1 - FALSE_FAIL, n_worlds, 0.95)
    assert low <= coverage(40, 60, n_worlds) <= high
    # an interval that is 15 % too narrow or 30 % too wide would show
    assert coverage(40, 60, n_worlds, 0.85) < low
    assert coverage(40, 60, n_worlds, 1.3) > high


# --- all worlds of a design ------------------------------------------------------------------


def test_several_worlds_are_summarised_as_by_scipys_one_sample_test() -> None:
    values = np.random.default_rng(2).normal(0.3, 1, 12)
    for n in (2, 5, 12):
        expected = stats.ttest_1samp(values[:n], 0.0)
        interval = expected.confidence_interval(0.95)
        (entry,) = summarise(estimates_of(values[:n].tolist()))
        assert entry["value"] == pytest.approx(values[:n].mean())
        assert entry["se"] == pytest.approx(stats.sem(values[:n]))
        assert entry["ci_low"] == pytest.approx(interval.low)
        assert entry["ci_high"] == pytest.approx(interval.high)
        assert entry["p_value"] == pytest.approx(expected.pvalue)
        assert entry["se_method"] == "between_worlds" and entry["n_worlds"] == n


def test_worlds_without_an_estimate_are_left_out() -> None:
    with_null = summarise(estimates_of([1.0, None, 2.0, 4.0]))[0]
    assert with_null == summarise(estimates_of([1.0, 2.0, 4.0]))[0]
    assert with_null["n_worlds"] == 3


def test_one_world_is_summarised_by_its_own_interval() -> None:
    own = {
        "se": [0.5, None],
        "ci_low": [0.1, None],
        "ci_high": [1.9, None],
        "p_value": [0.04, None],
    }
    (entry,) = summarise(estimates_of([1.0, None], **own))
    assert [entry[name] for name in NAMES] == [1.0, 0.5, 0.1, 1.9, 0.04]
    assert entry["se_method"] == "welch" and entry["n_worlds"] == 1


def test_no_world_is_summarised_by_nulls() -> None:
    (entry,) = summarise(estimates_of([None, None]))
    assert [entry[name] for name in NAMES] == [None] * 5 and entry["n_worlds"] == 0


def test_equal_worlds_have_no_p_value() -> None:
    out = between_worlds(np.array([2.0, 2.0, 2.0]), np.arange(3))
    assert [out[name] for name in NAMES] == [2.0, 0.0, 2.0, 2.0, None]
    assert [between_worlds(np.array([2.0]), np.arange(1))[name] for name in NAMES] == [2.0] + [
        None
    ] * 4


def test_designs_and_labels_are_summarised_apart_in_their_order() -> None:
    first = estimates_of([1.0, 2.0])
    second = first.with_columns(design=pl.lit("global"), value=pl.col("value") * 10)
    third = first.with_columns(label=pl.lit("a"), value=-pl.col("value"))
    entries = summarise(pl.concat([first, second, third]))
    found = [(e["design"], e["label"], e["value"]) for e in entries]
    assert found == [
        ("pooling", "click", 1.5),
        ("global", "click", 15.0),
        ("pooling", "a", -1.5),
    ]
    assert all(math.isfinite(e["se"]) for e in entries)


def test_p_values_are_adjusted_for_a_designs_labels() -> None:
    tables = []
    for label, p_value in (("a", 0.03), ("b", 0.01), ("c", 0.5), ("d", None)):
        tables.append(estimates_of([1.0], p_value=[p_value]).with_columns(label=pl.lit(label)))
    alone = tables[0].with_columns(design=pl.lit("shadow"))
    entries = summarise(pl.concat([*tables, alone], how="vertical_relaxed"))
    # Holm by hand: 2 x 0.03, 3 x 0.01, 1 x 0.5, and the other design has one label only
    expected = [pytest.approx(0.06), pytest.approx(0.03), 0.5, None, 0.03]
    assert [entry["p_adjusted"] for entry in entries] == expected
