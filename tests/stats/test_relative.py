"""Effects in percent: Fieller's interval is the set of its tests, and covers as it says."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import statsmodels.api as sm
from scipy import optimize, stats

from realdataexp.stats import analyze
from realdataexp.stats.aggregates import world_totals
from realdataexp.stats.estimates import relative_effects, summarise
from realdataexp.stats.inference import inference_table
from realdataexp.stats.relative import NEAR_ZERO, NO_ERROR, OF_METHOD, Means, relative

FALSE_FAIL = 1e-6


def one(m_C: float, m_T: float, v_C: float = 1.0, v_T: float = 2.0, c: float = 0.5, df: float = 9):
    arrays = [[m_C, m_T]], [[v_C, v_T]], [c], [df]
    return relative(Means(*(np.array(x, dtype=float) for x in arrays))).row(0, named=True)


@pytest.mark.parametrize("m_C", [4.0, 9.0, -4.0])
def test_the_interval_ends_where_fiellers_test_begins_to_reject(m_C: float):
    m_T, t = 5.0, stats.t.ppf(0.975, 9)

    def excess(percent: float) -> float:  # of percent of the size of m_C
        theta = 1 + np.sign(m_C) * percent / 100
        return (m_T - theta * m_C) ** 2 - t**2 * (2 - 2 * theta * 0.5 + theta**2)

    found = one(m_C, m_T)
    assert found["percent"] == pytest.approx(100 * (m_T - m_C) / abs(m_C))
    low = optimize.brentq(excess, found["percent"] - 2000, found["percent"])
    high = optimize.brentq(excess, found["percent"], found["percent"] + 2000)
    assert (found["percent_low"], found["percent_high"]) == pytest.approx((low, high))


def test_far_from_zero_it_is_the_delta_methods():
    found, t = one(1e4, 1.1e4), stats.t.ppf(0.975, 9)
    half = t * found["percent_se"]
    assert found["percent_low"] == pytest.approx(found["percent"] - half, abs=1e-3 * half)
    assert found["percent_high"] == pytest.approx(found["percent"] + half, abs=1e-3 * half)


def test_a_control_mean_near_zero_has_no_interval_and_says_why():
    near, far = one(2.2, 3.0), one(2.3, 3.0)  # t with 9 degrees of freedom: 2.26
    assert (near["percent_low"], near["percent_high"]) == (None, None)
    assert near["percent_why"] == NEAR_ZERO and near["percent"] is not None
    assert far["percent_low"] < far["percent"] < far["percent_high"] and far["percent_why"] == ""
    assert one(2.3, 3.0, df=0)["percent_why"] == NO_ERROR


def worlds(n_worlds: int = 2000, n_users: int = 80, lift: float = 1.2) -> pl.DataFrame:
    """Users of several visits in many worlds, whose level is about 1.5 of its deviations."""
    g = np.random.default_rng(7)
    shape = n_worlds, n_users
    n = 1 + g.poisson(3, shape)
    is_treated = np.arange(n_users) % 2 == 1
    total = n * g.normal(3, 2, shape) + np.sqrt(n) * g.normal(0, 3, shape)
    total = np.where(is_treated, lift, 1.0) * total
    world, user = np.indices(shape)
    return pl.DataFrame(
        {
            "world": world.ravel(), "unit": user.ravel(), "n": n.ravel(), "sum": total.ravel(),
            "arm": np.where(is_treated, "T", "C")[user.ravel()],
        }
    ).select(
        pl.lit("pooling").alias("design"), "world", "arm", pl.lit("y").alias("label"), "unit",
        "n", "sum", covariate=pl.lit(None, pl.Float64),
    )  # fmt: skip


def test_by_units_both_intervals_cover_as_often_as_they_say():
    """False-fail rate 1e-6; one that takes visits as independent (Welch's) is caught."""
    units = worlds()
    level = units.group_by("design", "world", "arm", "label").agg(pl.col("n", "sum").sum())
    outcomes = level.with_columns(step=0, sum_sq=1e3 * pl.col("n"))
    found = inference_table(outcomes, units, ["user_cluster"])
    n = found.height
    lowest, highest = stats.binom.ppf([FALSE_FAIL / 2, 1 - FALSE_FAIL / 2], n, 0.95) / n
    assert found["percent_low"].null_count() == 0
    truth = 20.0
    fieller = found.filter(pl.col("percent_low") <= truth, pl.col("percent_high") >= truth).height
    assert lowest <= fieller / n <= highest
    half = stats.t.ppf(0.975, 70) * pl.col("percent_se")
    delta = found.filter((pl.col("percent") - truth).abs() <= half).height
    assert lowest <= delta / n <= highest
    # without what control's mean adds to the error
    blind = found.filter(
        (pl.col("percent") - truth).abs() <= half * 1 / np.sqrt(1 + 1.2**2)
    ).height  # fmt: skip
    assert blind / n < lowest


def visits(seed: int, shift: float) -> pl.DataFrame:
    """Visits of users who, most of them, have both arms."""
    g = np.random.default_rng(seed)
    user, arm = g.integers(0, 40, 160), g.integers(0, 2, 160)
    y = 4 + 2 * g.normal(size=40)[user] + shift * arm + g.normal(size=160)
    return pl.DataFrame({"user": user, "arm": arm, "y": y})


@pytest.mark.filterwarnings("ignore:.*units have rows in both arms")
def test_it_holds_0_exactly_where_the_effects_interval_does():
    seen = set()
    for seed in range(12):
        found = analyze(
            visits(seed, 0.45), arm="arm", unit="user", outcomes="y",
            methods=["welch", "user_cluster", "bootstrap"],
        )  # fmt: skip
        for x in found.head(2).iter_rows(named=True):
            limits = [(x["ci_low"], x["ci_high"]), (x["percent_low"], x["percent_high"])]
            absolute, percent = (low <= 0 <= high for low, high in limits)
            assert absolute == percent
            seen.add(absolute)
        assert found["percent_why"].to_list() == ["", "", OF_METHOD]
    assert seen == {True, False}


def test_the_standard_error_is_statsmodels_delta_method():
    table = visits(0, 1.0).unique("user", keep="first", maintain_order=True)
    found = analyze(table, arm="arm", outcomes="y", methods=["welch"]).row(0, named=True)
    arm = table["arm"].to_numpy()
    fit = sm.OLS(table["y"].to_numpy(), np.column_stack([arm == 0, arm == 1]).astype(float))
    fit = fit.fit(cov_type="HC2")
    m_C, m_T = fit.params
    gradient = np.array([-m_T / m_C**2, 1 / m_C])
    oracle = np.sqrt(gradient @ fit.cov_params() @ gradient)
    assert found["percent_se"] == pytest.approx(100 * oracle)


@pytest.mark.parametrize("n_starts", [1, 3])
def test_over_worlds_it_is_the_ratio_of_means_with_the_error_between_worlds(n_starts: int):
    units = worlds(6)
    sums = units.group_by("design", "world", "arm", "label", maintain_order=True)
    outcomes = sums.agg(pl.col("n", "sum").sum()).with_columns(step=0, sum_sq=1e3 * pl.col("n"))
    (entry,) = summarise(inference_table(outcomes, None, ["welch"]), n_starts)
    (oracle,) = relative_effects(world_totals([outcomes]), n_starts)
    assert (entry["percent"], entry["percent_se"]) == pytest.approx((oracle.percent, oracle.se))
    assert entry["percent_low"] < entry["percent"] < entry["percent_high"]
