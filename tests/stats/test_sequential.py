"""Always-valid intervals survive peeking; a t-test does not."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest
from scipy import optimize
from simulated import bounds, experiment

from realdataexp.stats.clustered import confidence_sequence, planned_information
from realdataexp.stats.inference import inference_table


def test_the_planned_end_is_where_the_sequence_is_tightest() -> None:
    for alpha in (0.01, 0.05, 0.2):
        found = optimize.minimize_scalar(
            lambda r, alpha=alpha: (1 + 1 / r) * math.log((1 + r) / alpha**2),
            bounds=(0.1, 100),
            method="bounded",
        )
        assert planned_information(alpha) == pytest.approx(found.x, rel=1e-3)


def test_the_interval_equals_the_papers_formula() -> None:
    # equation 2 of arXiv 2103.06476 for the mean of t visits with standard deviation sigma
    t, sigma, rho, alpha = 500, 2.0, math.sqrt(planned_information() / 1000), 0.05
    information = t * rho**2 + 1
    half = sigma * math.sqrt(
        2 * information / (t**2 * rho**2) * math.log(math.sqrt(information) / alpha)
    )
    found = confidence_sequence(np.array([0.3]), np.array([sigma / math.sqrt(t)]), t / 1000)
    assert found.ci_high[0] - 0.3 == pytest.approx(half) == 0.3 - found.ci_low[0]


def test_the_p_value_is_the_level_at_which_the_interval_would_touch_zero() -> None:
    r, se = planned_information(), 0.7
    for value in (1.9, 2.2, -3.0):
        p = float(confidence_sequence(np.array([value]), np.array([se])).p_value[0])
        assert math.sqrt((1 + 1 / r) * math.log((1 + r) / p**2)) * se == pytest.approx(abs(value))
    assert confidence_sequence(np.array([0.1]), np.array([se])).p_value[0] == 1.0
    assert np.isnan(confidence_sequence(np.array([0.1]), np.array([0.0])).p_value[0])


def test_peeking_at_every_visit_keeps_the_error_under_5_percent() -> None:
    n_worlds, n = 3000, 1000
    g = np.random.default_rng(8)
    y_WX, is_treated_WX = g.exponential(size=(n_worlds, n)), g.random((n_worlds, n)) < 0.5

    def looks(y_WX: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        value, var = np.zeros(y_WX.shape), np.zeros(y_WX.shape)
        for sign, on in ((1, is_treated_WX), (-1, ~is_treated_WX)):
            k, s, q = (np.cumsum(on * x, axis=1) for x in (1.0, y_WX, y_WX**2))
            k = k.clip(2)
            value += sign * s / k
            var += (q - s**2 / k) / (k - 1) / k
        return value[:, 50:], np.sqrt(var[:, 50:])

    fraction = np.arange(51, n + 1) / n
    value, se = looks(y_WX)
    found = confidence_sequence(value, se, fraction)
    wrong = ((found.ci_low > 0) | (found.ci_high < 0)).any(axis=1).mean()
    peeking = (np.abs(value) > 1.96 * se).any(axis=1).mean()
    assert wrong <= bounds(0.05, n_worlds)[1]
    assert peeking > 0.2  # the sample could tell
    # and it is not silent: it finds an effect of five standard errors at some look
    found = confidence_sequence(*looks(y_WX + 0.32 * is_treated_WX), fraction)
    assert (found.ci_low > 0).any(axis=1).mean() > 0.95


def test_peeking_with_users_who_come_back() -> None:
    n_worlds, n = 1000, 600
    data = experiment(9, n_worlds, n_visits=n)
    wrong, peeking = np.zeros(n_worlds, bool), np.zeros(n_worlds, bool)
    for seen in range(100, n + 1, 50):
        table = inference_table(*data.tables(seen), ["user_cluster"])
        found = confidence_sequence(table["value"].to_numpy(), table["se"].to_numpy(), seen / n)
        wrong |= (found.ci_low > 0) | (found.ci_high < 0)
        peeking |= (table["p_value"] <= 0.05).to_numpy()
    assert wrong.mean() <= bounds(0.05, n_worlds)[1]
    assert peeking.mean() > bounds(0.05, n_worlds)[1]


@pytest.mark.parametrize(("n_users", "is_told"), [(5, False), (6, True)])
def test_few_units_do_not_tell(n_users: int, is_told: bool) -> None:
    data = experiment(1, 1, n_users, n_visits=100)
    data.is_treated_WX = data.user_WX % 2 == 0
    table = inference_table(*data.tables(), ["always_valid", "user_cluster"])
    always, fixed = table.iter_rows(named=True)
    assert always["value"] == fixed["value"] and fixed["se"] > 0
    assert (always["ci_low"] is not None) == (always["p_value"] is not None) == is_told
    if is_told:
        assert always["ci_low"] < fixed["ci_low"]


def test_at_the_end_it_is_a_half_wider_than_a_z_interval() -> None:
    outcomes, users = experiment(1, 5).tables()
    for table, base in ((users, "user_cluster"), (None, "welch")):
        both = inference_table(outcomes, table, [base, "always_valid"])
        plain, ours = (both.filter(pl.col("se_method") == x) for x in (base, "always_valid"))
        assert ours["se"].equals(plain["se"]) and ours["value"].equals(plain["value"])
        ratio = (ours["ci_high"] - ours["ci_low"]) / (2 * 1.959964 * plain["se"])
        np.testing.assert_allclose(ratio, 1.5486, atol=0.001)
