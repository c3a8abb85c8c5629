"""The effect from visits whose picks differ: a plain loop, statsmodels, and known truths."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import statsmodels.api as sm
from scipy import stats
from support import FALSE_FAIL_RATE

from realdataexp.stats.aggregates import PICKS_SCHEMA, arm_sums, outcome_table, parted, unit_table
from realdataexp.stats.clustered import user_cluster
from realdataexp.stats.inference import inference_table
from realdataexp.stats.intervals import Intervals
from realdataexp.stats.paired import paired, paired_visit
from realdataexp.stats.ratios import linear_visits
from realdataexp.stats.tables import DesignTables

# of a world, in the order of time: users, arms, whether the picks differ, outcomes
Seen = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def made_up(
    g: np.random.Generator, X: int = 400, U: int = 50, share: float = 0.3, effect: float = 0.5
) -> Seen:
    """An arm for each user, who have levels of their own; picks only matter in their visit."""
    user, differs = g.integers(0, U, X), g.random(X) < share
    is_treated = (np.arange(U) % 2 == 0)[g.permutation(U)][user]
    y = g.normal(size=U)[user] + g.normal(size=X) + effect * is_treated * differs
    return user, is_treated, differs, y


def tables(*worlds: Seen) -> DesignTables:
    user_WX, is_treated_WX, differs_WX, y_WX = (np.stack(x) for x in zip(*worlds, strict=True))
    names, labels = [("it", w) for w in range(len(worlds))], ["play_time"]
    y_WXL = y_WX[..., None]
    outcomes = outcome_table(arm_sums(is_treated_WX, y_WXL)[None], [0], names, labels)
    so_far = np.stack([parted(*x) for x in zip(user_WX, differs_WX, strict=True)])
    picks = {"differ": differs_WX, "parted": so_far}
    units = unit_table(user_WX, user_WX, is_treated_WX, y_WXL, None, names, labels, picks)
    return DesignTables("it", outcomes, units)


def by_loop(user: np.ndarray, is_treated: np.ndarray, on: np.ndarray, y: np.ndarray) -> float:
    known = [x for x in range(len(y)) if not np.isnan(y[x])]
    some = [x for x in known if on[x]]
    T, C = ([y[x] for x in some if is_treated[x] == arm] for arm in (True, False))
    return len(some) / len(known) * (sum(T) / len(T) - sum(C) / len(C))


def parted_by_loop(user: np.ndarray, differs: np.ndarray) -> list[bool]:
    have: set[int] = set()
    found = []
    for who, differ in zip(user.tolist(), differs.tolist(), strict=True):
        if differ:
            have.add(who)
        found.append(who in have)
    return found


def test_values_are_those_of_a_loop_over_visits_with_missing_outcomes():
    worlds = [made_up(np.random.default_rng(seed)) for seed in range(3)]
    for seed, (*_, y) in enumerate(worlds):
        y[np.random.default_rng(seed).random(len(y)) < 0.2] = np.nan
    design = tables(*worlds)
    for w, (user, is_treated, differs, y) in enumerate(worlds):
        so_far = parted_by_loop(user, differs)
        np.testing.assert_array_equal(parted(user, differs), so_far)
        assert sum(so_far) > differs.sum() > 0
        for method, on in ((paired, np.array(so_far)), (paired_visit, differs)):
            expected = by_loop(user, is_treated, on, y)
            assert method(design).value[w] == pytest.approx(expected, rel=1e-9)


def test_the_error_is_that_of_a_clustered_regression_times_the_share():
    """With the share of each unit the same it does not vary, and statsmodels knows the rest."""
    g = np.random.default_rng(7)
    user = np.tile(np.arange(300), 4)
    differs = np.repeat([True, False, False, True], 300)
    _, _, _, noise = made_up(g, len(user), 300)
    is_treated = user % 2 == 0
    y = noise + is_treated * differs
    found = paired_visit(tables((user, is_treated, differs, y)))
    X = sm.add_constant(is_treated[differs].astype(float))
    fit = sm.OLS(y[differs], X).fit(cov_type="cluster", cov_kwds={"groups": user[differs]})
    assert found.value[0] == pytest.approx(0.5 * fit.params[1], rel=1e-9)
    assert found.se[0] == pytest.approx(0.5 * fit.bse[1], rel=0.01)  # CR2 against CR1


def test_where_picks_always_differ_it_is_user_cluster_to_the_bit():
    user, is_treated, differs, y = made_up(np.random.default_rng(1))
    design = tables((user, is_treated, np.ones_like(differs), y))
    plain = vars(user_cluster(design))
    for method in (paired, paired_visit):
        for name, x in vars(method(design)).items():
            np.testing.assert_array_equal(x, plain[name], err_msg=name)


def test_where_they_never_differ_the_effect_is_zero_exactly_and_one_arm_tells_nothing():
    user, is_treated, differs, y = made_up(np.random.default_rng(2))
    none, one = np.zeros_like(differs), differs & is_treated
    found = paired_visit(tables((user, is_treated, none, y), (user, is_treated, one, y)))
    for x in (found.value, found.se, found.ci_low, found.ci_high):
        assert x[0] == 0.0 and np.isnan(x[1])
    assert np.isnan(found.p_value).all()


def test_its_interval_covers_and_is_as_narrow_as_the_share_says():
    """Fails by chance twice in a million; a coverage of 90 or 98 % would fail almost surely."""
    n, share, effect = 3000, 0.25, 1.0
    g = np.random.default_rng(3)
    new = np.arange(200)  # every visit a new user
    worlds = []
    for _ in range(n):
        is_treated, differs = g.random(200) < 0.5, g.random(200) < share
        y = g.normal(3, 1, 200) + effect * is_treated * differs
        worlds.append((new, is_treated, differs, y))
    design = tables(*worlds)
    found: Intervals = paired(design)
    truth = share * effect
    hits = ((found.ci_low <= truth) & (truth <= found.ci_high)).mean()
    low, high = stats.binom.ppf([FALSE_FAIL_RATE / 2, 1 - FALSE_FAIL_RATE / 2], n, 0.95) / n
    assert low <= hits <= high and low > 0.925 and high < 0.975
    z = stats.norm.isf(FALSE_FAIL_RATE / 2)
    assert abs(found.value.mean() - truth) < z * found.value.std() / n**0.5
    # sqrt(share), and what the share itself varies by: Var = share (1 - share) effect^2 / N
    ratio = (found.se / user_cluster(design).se).mean()
    assert ratio == pytest.approx(0.5, abs=0.06)


def carried(g: np.random.Generator, U: int = 200, n: int = 4) -> Seen:
    """A pick that differs costs its treated user 1 in every later visit, agreed on or not."""
    user = np.tile(np.arange(U), n)
    differs = g.random((n, U)) < 0.3
    is_treated = np.broadcast_to(np.arange(U) % 2 == 0, (n, U))
    had = np.cumsum(differs, axis=0) - differs > 0
    y = g.normal(size=(n, U)) - 1.0 * (is_treated & had)
    return user, is_treated.ravel(), differs.ravel(), y.ravel()


def test_only_the_form_so_far_sees_what_earlier_picks_carry_over():
    """Fails by chance twice in a million."""
    g, n = np.random.default_rng(4), 400
    design = tables(*(carried(g) for _ in range(n)))
    shares = [1 - 0.7**k for k in range(4)]  # of users who have parted before their visits
    truth, seen = -np.mean(shares), -0.3 * np.mean(shares)
    z = stats.norm.isf(FALSE_FAIL_RATE / 2)
    for method, expected in ((paired, truth), (paired_visit, seen)):
        x = method(design).value
        error = z * x.std() / n**0.5
        assert abs(x.mean() - expected) < error < abs(truth - seen) / 5


def test_it_answers_only_where_both_picks_are_known():
    design = tables(made_up(np.random.default_rng(5)))
    assert design.unit_sums is not None

    def answers(units: pl.DataFrame) -> bool:
        found = inference_table(design.outcomes, units)["se_method"]
        assert ("paired" in set(found)) == ("paired_visit" in set(found))
        return "paired" in set(found)

    assert answers(design.unit_sums)
    assert not answers(design.unit_sums.drop(PICKS_SCHEMA))
    unknown = (pl.lit(None, kind).alias(name) for name, kind in PICKS_SCHEMA.items())
    assert not answers(design.unit_sums.with_columns(*unknown))


@pytest.mark.parametrize("by_arm", [False, True])
def test_ratios_are_compared_around_one_ratio_or_err_where_denominators_differ(by_arm: bool):
    """Watch time per length, with longer videos where the picks differ; fails once in a million."""
    g, n, X = np.random.default_rng(6), 200, 2000
    is_treated, differs = g.random((n, X)) < 0.5, g.random((n, X)) < 0.5
    length = 1.0 + 2.0 * differs + g.random((n, X))
    watched = 0.3 * length + 0.3 * length * (is_treated & differs) + 0.1 * g.normal(size=(n, X))
    y_WXL = np.stack([watched, length], -1)
    names, new = ([("it", w) for w in range(n)], ["rate"]), np.tile(np.arange(X), (n, 1))
    lines = linear_visits(is_treated, y_WXL, 1)
    picks = {"differ": differs, "parted": differs}
    if not by_arm:
        picks["y"] = linear_visits(is_treated, y_WXL, 1, by_arm=False)
    outcomes = outcome_table(arm_sums(is_treated, lines)[None], [0], *names)
    units = unit_table(new, new, is_treated, lines, None, *names, picks)
    value = paired(DesignTables("it", outcomes, units)).value
    truth = 0.3 * 3.5 / (3.5 + 1.5)
    error = stats.norm.isf(FALSE_FAIL_RATE / 2) * value.std() / n**0.5
    assert (abs(value.mean() - truth) < error < 0.02 * truth) == (not by_arm)
