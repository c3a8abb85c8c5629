"""A ratio of two outcomes gets the delta method's error, by rows and by units."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
import statsmodels.api as sm
from statsmodels.stats.multitest import multipletests

from realdataexp.errors import InputError
from realdataexp.stats import analyze


def plays(seed: int = 0, n_users: int = 120, n: int = 700, lift: float = 1.1) -> pl.DataFrame:
    """Plays of users who differ in taste and in the length of what they see."""
    g = np.random.default_rng(seed)
    user = g.integers(0, n_users, n)
    arm = user % 2
    length = g.gamma(2.0, 20.0, n) * np.exp(g.normal(0, 0.5, n_users))[user]
    taste = g.uniform(0.2, 0.8, n_users)[user]
    watched = length * taste * np.where(arm == 1, lift, 1.0) * g.uniform(0.5, 1.5, n)
    return pl.DataFrame({"user": user, "arm": arm, "watched": watched, "length": length})


RATIO = {"watch_ratio": ("watched", "length")}


def test_by_units_it_is_statsmodels_weighted_regression_with_hc2():
    """Ratios of units on the arms, weighted by denominators: a leverage is a unit's share."""
    found = analyze(plays(), arm="arm", ratios=RATIO, unit="user", methods=["user_cluster"])
    x = found.row(0, named=True)
    users = plays().group_by("user", maintain_order=True).agg(
        pl.col("watched", "length").sum(), pl.col("arm").first()
    )  # fmt: skip
    ratio = (users["watched"] / users["length"]).to_numpy()
    columns = sm.add_constant(users["arm"].to_numpy().astype(float))
    oracle = sm.WLS(ratio, columns, weights=users["length"].to_numpy()).fit(cov_type="HC2")
    assert (x["value"], x["se"]) == pytest.approx((oracle.params[1], oracle.bse[1]))
    assert x["control_mean"] == pytest.approx(oracle.params[0])
    gradient = np.array([-oracle.params[1], oracle.params[0]]) / oracle.params[0] ** 2
    relative = np.sqrt(gradient @ oracle.cov_params() @ gradient)
    assert x["percent_se"] == pytest.approx(100 * relative)


def test_by_rows_it_is_the_delta_method_by_hand():
    table = plays()
    found = analyze(table, arm="arm", ratios=RATIO, methods=["welch"]).row(0, named=True)
    ratio, variance = [], []
    for arm in (0, 1):
        y, x = (table.filter(pl.col("arm") == arm)[k].to_numpy() for k in ("watched", "length"))
        cov, r = np.cov(y, x), y.sum() / x.sum()
        ratio.append(r)
        top = cov[0, 0] - 2 * r * cov[0, 1] + r**2 * cov[1, 1]
        variance.append(top / x.mean() ** 2 / len(x))
    assert found["value"] == pytest.approx(ratio[1] - ratio[0])
    assert found["se"] == pytest.approx(np.sqrt(sum(variance)))


def test_a_denominator_of_ones_is_a_mean_in_every_method():
    table = plays().with_columns(one=pl.lit(1), level=pl.col("watched") + 3)
    asked = {"arm": "arm", "unit": "user", "covariates": "length"}
    methods = ["welch", "user_cluster", "cuped", "bootstrap", "randomisation", "always_valid"]
    mean = analyze(table, outcomes="level", methods=methods, **asked)
    ratio = analyze(table, ratios={"level": ("level", "one")}, methods=methods, **asked)
    for name in ("value", "se", "ci_low", "p_value", "percent_low", "percent_high", "n_T"):
        ours, theirs = (x[name].cast(pl.Float64).fill_null(-1).to_numpy() for x in (ratio, mean))
        assert ours == pytest.approx(theirs, rel=1e-6), name


@pytest.mark.parametrize("unit", [1e-6, 1e6])
def test_the_unit_of_the_denominator_changes_nothing_but_the_ratios_unit(unit: float):
    table = plays().with_columns(pl.col("length") * unit)
    wanted, found = (
        analyze(x, arm="arm", ratios=RATIO, unit="user") for x in (plays(), table)
    )  # fmt: skip
    assert found["se"].to_numpy() * unit == pytest.approx(wanted["se"].to_numpy(), rel=1e-6)
    assert found["p_value"].to_numpy() == pytest.approx(wanted["p_value"].to_numpy(), rel=1e-6)


def test_ratios_stand_after_the_outcomes_and_are_of_their_family():
    found = analyze(plays().with_columns(hour=pl.int_range(pl.len()) // 20), arm="arm", time="hour",
                    unit="user", outcomes="watched", ratios=RATIO)  # fmt: skip
    assert found["outcome"].unique(maintain_order=True).to_list() == ["watched", "watch_ratio"]
    assert "block" not in found.filter(pl.col("outcome") == "watch_ratio")["method"].to_list()
    for (method,), rows in found.group_by("method"):
        oracle = multipletests(rows["p_value"].to_numpy(), method="holm")[1]
        assert rows["p_adjusted"].to_numpy() == pytest.approx(oracle), method


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"ratios": {"r": "watched"}}, "ratios.r = 'watched': pass a numerator and a denominator"),
        ({"ratios": {"r": ("length", "length")}}, "pass a numerator and a denominator, two"),
        ({"ratios": {"r": ("watched", "lenght")}}, "ratios.r = 'lenght': .* did you mean length"),
        ({"ratios": {"r": ("watched", "below")}}, "ratios.r: the denominator is -1 in row 0"),
        ({"ratios": {"r": ("watched", "no")}}, "ratios.r: the denominators of an arm sum to 0"),
        (
            {"ratios": {"r": ("watched", "some")}},
            "1 units have a numerator, but a denominator of 0",
        ),
        ({"ratios": RATIO, "methods": ["block"], "time": "length"}, "'block' has no answer for"),
        ({}, "outcomes = .*name one column or more"),
    ],
)
def test_a_ratio_that_is_none_is_one_line(changes: dict[str, Any], said: str):
    table = plays().with_columns(
        below=pl.lit(-1), no=pl.lit(0), some=(pl.col("user") != 7).cast(pl.Int8)
    )
    with pytest.raises(InputError, match=said) as error:
        analyze(table, arm="arm", unit="user", **changes)
    assert "\n" not in str(error.value)
