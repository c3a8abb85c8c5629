"""Standard errors over replications that share starting models."""

from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats

from realdataexp.stats.estimates import mean_over_worlds, sd_within_starts

FALSE_FAIL_RATE = 1e-6
QUANTILES = {df: float(stats.t.ppf(0.975, df)) for df in (4, 19)}


def made(seed: int, n: int, n_starts: int, between: float = 2.0) -> np.ndarray:
    """Values with a part of their starting model's own."""
    g = np.random.default_rng(seed)
    return between * g.normal(size=n_starts)[np.arange(n) % n_starts] + g.normal(size=n)


@pytest.mark.parametrize(("n", "n_starts"), [(20, 5), (23, 5), (7, 4), (6, 6), (40, 3)])
def test_the_error_is_that_of_a_cluster_robust_regression_on_a_constant(n: int, n_starts: int):
    world = np.random.default_rng(1).permutation(n)
    value = made(n, n, n_starts)[world]
    fit = sm.OLS(value, np.ones(n)).fit(cov_type="cluster", cov_kwds={"groups": world % n_starts})
    mean, se, df = mean_over_worlds(value, world, n_starts)
    assert mean == pytest.approx(float(fit.params[0]))
    assert se == pytest.approx(float(fit.bse[0]))
    assert df == n_starts - 1


def test_with_equal_shares_it_is_the_sd_of_the_starts_means_over_the_root_of_their_number():
    value = made(3, 24, 6)
    means = [value[k::6].mean() for k in range(6)]
    found = mean_over_worlds(value, np.arange(24), 6)
    assert found.se == pytest.approx(float(np.std(means, ddof=1)) / 6**0.5)


def test_one_start_and_a_start_for_each_are_the_plain_error():
    value = made(4, 9, 9)
    plain = float(value.std(ddof=1)) / 3
    for n_starts in (1, 9):
        _, se, df = mean_over_worlds(value, np.arange(9), n_starts)
        assert (se, df) == (pytest.approx(plain), 8)


def test_what_cannot_be_told_is_null():
    nothing = np.zeros(0)
    assert mean_over_worlds(nothing, nothing.astype(int), 3) == (None, None, None)
    one, of_one_start = np.array([5.0]), np.array([1.0, 2.0])
    assert mean_over_worlds(one, np.array([4]), 1) == (5.0, None, 0)
    assert mean_over_worlds(of_one_start, np.array([1, 4]), 3) == (1.5, None, 0)
    assert sd_within_starts(np.array([1.0, 2.0, 3.0]), np.arange(3), 3) is None
    assert sd_within_starts(one, np.array([0]), 1) is None


def test_a_single_tests_spread_leaves_out_what_starts_differ_by():
    """By hand: two starts, 1 and 3 apart from their means, over 4 - 2 degrees of freedom."""
    value = np.array([9.0, 102.0, 11.0, 108.0])
    expected = ((1 + 1 + 9 + 9) / 2) ** 0.5
    assert sd_within_starts(value, np.arange(4), 2) == pytest.approx(expected)
    assert sd_within_starts(value, np.arange(4), 1) == pytest.approx(float(value.std(ddof=1)))


def test_intervals_cover_a_mean_over_starts_and_plain_ones_do_not():
    """Of 4,000 runs of 5 starts with 4 replications each.

    The clustered interval's coverage must be 95 % but for chance, at the rate of FALSE_FAIL_RATE;
    the plain one's is below 70 %.
    """
    n_runs, world = 4000, np.arange(20)
    hits = {1: 0, 5: 0}
    for seed in range(n_runs):
        value = made(seed, 20, 5)
        for n_starts in hits:
            mean, se, df = mean_over_worlds(value, world, n_starts)
            assert mean is not None and se is not None
            hits[n_starts] += abs(mean) <= QUANTILES[df] * se
    allowed = stats.binom.isf(FALSE_FAIL_RATE / 2, n_runs, 0.95)
    least = stats.binom.ppf(FALSE_FAIL_RATE / 2, n_runs, 0.95)
    assert least <= hits[5] <= allowed
    assert hits[1] < 0.7 * n_runs
