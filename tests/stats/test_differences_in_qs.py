"""Differences in Qs: a plain loop over visits, and a depletion whose effect can be computed."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from scipy import stats
from support import FALSE_FAIL_RATE

from realdataexp.stats.aggregates import arm_sums, outcome_table, outcomes_ahead, unit_table
from realdataexp.stats.differences_in_qs import differences_in_qs
from realdataexp.stats.inference import inference_table
from realdataexp.stats.intervals import Intervals
from realdataexp.stats.tables import DesignTables

Seen = tuple[np.ndarray, np.ndarray, np.ndarray]


def made_up(g: np.random.Generator, X: int = 300, U: int = 25) -> Seen:
    """Units, arms and outcomes of visits in order of time; some outcomes are missing."""
    y = g.normal(3.0, 1.0, X)
    y[g.random(X) < 0.2] = np.nan
    return g.integers(0, U, X), g.random(X) < 0.5, y


def tables(*worlds: Seen) -> DesignTables:
    """The tables of worlds with as many visits each, one visit a step."""
    unit_WX, is_treated_WX, y_WX = (np.stack(x) for x in zip(*worlds, strict=True))
    names, labels = [("it", w) for w in range(len(worlds))], ["play_time"]
    y_WXL = y_WX[..., None]
    sums = np.stack([arm_sums(is_treated_WX[:, t : t + 1], y_WXL[:, t : t + 1])
                     for t in range(y_WX.shape[1])])  # fmt: skip
    outcomes = outcome_table(sums, list(range(y_WX.shape[1])), names, labels)
    units = unit_table(unit_WX, unit_WX, is_treated_WX, y_WXL, None, names, labels)
    return DesignTables("it", outcomes, units)


def by_loop(unit_X: np.ndarray, is_treated_X: np.ndarray, y_X: np.ndarray) -> tuple[float, float]:
    """Value and plain cluster-robust standard error (CR0)."""
    known = [x for x in range(len(y_X)) if not np.isnan(y_X[x])]
    mean = sum(y_X[x] for x in known) / len(known)
    Q = {
        x: sum(y_X[later] - mean for later in known if later >= x and unit_X[later] == unit_X[x])
        for x in known
    }
    arms = [[x for x in known if is_treated_X[x] == arm] for arm in (False, True)]
    level = [sum(Q[x] for x in arm) / len(arm) for arm in arms]
    moved: dict[int, float] = {}
    for sign, arm, of_arm in ((-1, arms[0], level[0]), (1, arms[1], level[1])):
        for x in arm:
            unit = int(unit_X[x])
            moved[unit] = moved.get(unit, 0.0) + sign * (Q[x] - of_arm) / len(arm)
    return level[1] - level[0], sum(x**2 for x in moved.values()) ** 0.5


def test_it_is_the_difference_of_mean_sums_of_what_comes_from_a_visit_on():
    worlds = [made_up(np.random.default_rng(seed)) for seed in (0, 1, 2)]
    found: Intervals = differences_in_qs(tables(*worlds))
    for w, world in enumerate(worlds):
        value, se = by_loop(*world)
        assert found.value[w] == pytest.approx(value, rel=1e-9)
        assert found.se[w] == pytest.approx(se, rel=0.1)  # CR2 corrects CR0 for 25 units
        assert found.se[w] > se


def test_sums_ahead_are_those_of_a_loop():
    unit, _, y = made_up(np.random.default_rng(3))
    unit, y = unit[~np.isnan(y)], y[~np.isnan(y)]
    expected = [
        sum(y[later] - y.mean() for later in range(x, len(y)) if unit[later] == unit[x])
        for x in range(len(y))
    ]
    np.testing.assert_allclose(outcomes_ahead(unit, y), expected, atol=1e-12)
    shifted = outcomes_ahead(unit + 7, y + 100.0)  # of other names, and a common level
    np.testing.assert_allclose(shifted, expected, atol=1e-9)


def depleting(g: np.random.Generator, n_units: int, n: int = 6) -> Seen:
    """Each unit has n visits; a treated one yields 1 more, and takes 0.3 from each after it.

    A launch is worth 1 - 0.3 (n - 1) / 2 a visit, which is 0.25 for 6 visits. The difference of
    the arms' means is 1 on average.
    """
    unit = np.tile(np.arange(n_units), n)
    is_treated = g.random((n, n_units)) < 0.5
    before = np.cumsum(is_treated, axis=0) - is_treated
    y = 5.0 + is_treated - 0.3 * before + 0.5 * g.normal(size=(n, n_units))
    return unit, is_treated.ravel(), y.ravel()


def test_depletion_biases_the_difference_of_means_and_not_that_of_qs():
    """Fails by chance once in a million; sees a tenth of the bias that the means have."""
    g = np.random.default_rng(4)
    found = differences_in_qs(tables(*(depleting(g, 400) for _ in range(150))))
    truth, z = 0.25, stats.norm.isf(FALSE_FAIL_RATE / 2)
    error = found.value.std(ddof=1) / 150**0.5
    assert 2 * z * error < 0.75 / 5
    assert abs(found.value.mean() - truth) < z * error
    plain = tables(*(depleting(g, 400) for _ in range(5)))
    assert plain.estimates["value"].mean() == pytest.approx(1.0, abs=0.1)
    # and its interval covers: 150 worlds, of which 95 % should
    hits = int(((found.ci_low <= truth) & (truth <= found.ci_high)).sum())
    low, high = stats.binom.ppf([FALSE_FAIL_RATE / 2, 1 - FALSE_FAIL_RATE / 2], 150, 0.95)
    assert low <= hits <= high


def test_it_answers_only_where_units_have_both_arms_at_one_share():
    unit, is_treated, y = made_up(np.random.default_rng(5))

    def answers(design: DesignTables) -> bool:
        found = inference_table(design.outcomes, design.unit_sums)["se_method"]
        return "differences_in_qs" in set(found)

    by_visit, by_unit = tables((unit, is_treated, y)), tables((unit, unit % 2 == 0, y))
    assert answers(by_visit) and not answers(by_unit)
    assert by_unit.unit_sums is not None and by_unit.unit_sums["ahead"].null_count() > 0
    p = pl.when(pl.col("step") < 150).then(0.2).otherwise(0.8)
    assert not answers(DesignTables("it", by_visit.outcomes.with_columns(p=p), by_visit.unit_sums))
    older = by_visit.unit_sums.drop("ahead")
    assert not answers(DesignTables("it", by_visit.outcomes, older))
