"""Effects on quantiles: NumPy's values, quantile regression's errors, and coverage by units."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
import pytest
import statsmodels.api as sm
from scipy import stats
from support import FALSE_FAIL_RATE

from realdataexp.errors import InputError
from realdataexp.stats import analyze
from realdataexp.stats.aggregates import arm_sums, outcome_table, unit_table
from realdataexp.stats.clustered import user_cluster
from realdataexp.stats.inference import welch
from realdataexp.stats.intervals import Intervals
from realdataexp.stats.quantiles import quantile_of
from realdataexp.stats.slices import analyze_slices
from realdataexp.stats.tables import DesignTables


def rows(seed: int, n_users: int = 300, per_user: int = 5, effect: float = 0.3) -> pl.DataFrame:
    """Users with levels of their own, some of whose outcomes are missing; the treatment adds."""
    g = np.random.default_rng(seed)
    user = np.repeat(np.arange(n_users), per_user)
    is_treated = (g.random(n_users) < 0.5)[user]
    y = g.normal(size=n_users)[user] + g.exponential(1.0, len(user)) + effect * is_treated
    y[g.random(len(user)) < 0.1] = np.nan
    return pl.DataFrame({"user": user, "arm": is_treated, "y": y})


def quantiles(**named: float) -> dict[str, tuple[str, float]]:
    return {name: ("y", tau) for name, tau in named.items()}


def test_values_are_numpys_quantiles_and_control_stands_beside_them():
    table = rows(0)
    asked = quantiles(median=0.5, p90=0.9)
    found = analyze(table, arm="arm", unit="user", quantiles=asked, outcomes="y")
    known = table.drop_nulls().filter(pl.col("y").is_not_nan())
    T, C = (known.filter(pl.col("arm") == arm)["y"].to_numpy() for arm in (True, False))
    for name, (_, tau) in asked.items():
        q_T, q_C = (np.quantile(x, tau, method="inverted_cdf") for x in (T, C))
        own = found.filter(outcome=name)
        exact = own.filter(pl.col("method") != "cuped")
        np.testing.assert_allclose(exact["value"].to_numpy(), q_T - q_C, atol=1e-9)
        np.testing.assert_allclose(own["control_mean"].to_numpy(), q_C, rtol=1e-12)
        assert "randomisation" not in own["method"].to_list()
    assert "randomisation" in found.filter(outcome="y")["method"].to_list()
    assert found["outcome"].unique(maintain_order=True).to_list() == ["y", *asked]


def test_errors_of_independent_rows_are_those_of_a_quantile_regression():
    g = np.random.default_rng(1)
    is_treated = g.random(6000) < 0.5
    y = g.gamma(2.0, 3.0, 6000) * (1 + 0.2 * is_treated)
    table = pl.DataFrame({"arm": is_treated, "y": y})
    for tau in (0.25, 0.5, 0.9):
        found = analyze(table, arm="arm", quantiles={"q": ("y", tau)}, methods=["welch"])
        fit = sm.QuantReg(y, sm.add_constant(is_treated.astype(float))).fit(q=tau)
        assert found["value"][0] == pytest.approx(fit.params[1], abs=0.02)
        assert found["se"][0] == pytest.approx(fit.bse[1], rel=0.12)  # another bandwidth


@pytest.mark.parametrize("tau", [0.5, 0.9])
def test_intervals_by_units_cover_and_those_of_rows_do_not(tau: float):
    """Fails by chance once in a million; a coverage of 86 or 99.9 % would fail almost surely."""
    n, outcomes, units = 700, [], []
    for w in range(n):
        table = rows(w, n_users=100, per_user=6)
        user, arm, y = (table[x].to_numpy() for x in table.columns)
        found = quantile_of("q", y, tau, user, arm)
        seen, names = (arm[None], (found.linear_N)[None, :, None]), ([("it", w)], ["y"])
        outcomes.append(outcome_table(arm_sums(*seen)[None], [0], *names))
        units.append(unit_table(user[None], user[None], *seen, None, *names))
    design = DesignTables("it", pl.concat(outcomes), pl.concat(units))

    def hits(method: Callable[[DesignTables], Intervals]) -> int:
        found = method(design)
        return int(((found.ci_low <= 0.3) & (found.ci_high >= 0.3)).sum())

    low, high = stats.binom.ppf([FALSE_FAIL_RATE / 2, 1 - FALSE_FAIL_RATE / 2], n, 0.95)
    assert low <= hits(user_cluster) <= high and low > 0.9 * n and high < 0.985 * n
    assert hits(welch) < low


def test_it_is_the_same_in_another_unit_of_the_outcome_and_far_from_zero():
    table = rows(3)
    moved = table.with_columns(y=1e6 - 1000.0 * pl.col("y"))
    found, other = (
        analyze(x, arm="arm", unit="user", quantiles={"q": ("y", tau)}, methods=["user_cluster"])
        for x, tau in ((table, 0.25), (moved, 0.75))
    )
    assert other["value"][0] == pytest.approx(-1000 * found["value"][0], rel=0.05, abs=15)
    assert other["se"][0] == pytest.approx(1000 * found["se"][0], rel=0.1)
    ends = other.row(0, named=True)
    assert ends["percent_low"] < ends["percent"] < ends["percent_high"]


def test_slices_have_quantiles_too():
    table = rows(4).with_columns(half=pl.col("user") % 2)
    found = analyze_slices(
        table, by="half", arm="arm", unit="user", quantiles=quantiles(median=0.5),
        methods=["user_cluster"],
    )  # fmt: skip
    assert found["slice"].to_list() == ["0", "1"] and found["ci_low"].null_count() == 0


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"quantiles": {"q": "y"}}, "quantiles.q = 'y': pass a column and a share above 0"),
        ({"quantiles": {"q": ("y", 1.0)}}, "quantiles.q = .*'y', 1.0.* above 0 and below 1"),
        ({"quantiles": {"q": ("y", 90)}}, "such as 0.9 for the 90th percentile"),
        ({"quantiles": {"q": ("z", 0.5)}}, "quantiles.q = 'z': the table has no such column"),
        ({"quantiles": {"y": ("y", 0.5)}, "outcomes": "y"}, "name one column or more, each once"),
        ({"quantiles": {"q": ("zeros", 0.3)}}, "the control: .* % of its rows equal its 0.3 quant"),
        ({"quantiles": {"q": ("y", 0.999)}}, "too few for an interval of its 0.999 quantile"),
        ({"quantiles": {"q": ("treated_only", 0.5)}}, "quantiles.q: the control has no value"),
        (
            {"quantiles": {"q": ("y", 0.5)}, "methods": ["randomisation"]},
            "'randomisation' has no answer for quantiles; name user_cluster",
        ),
    ],
)
def test_what_cannot_be_is_one_line_that_names_it(settings: dict[str, Any], fault: str):
    table = rows(5).with_columns(
        zeros=pl.when(pl.col("user") % 2 == 0).then(pl.col("y").abs()).otherwise(0.0),
        treated_only=pl.when("arm").then("y"),
    )
    with pytest.raises(InputError, match=fault) as found:
        analyze(table, arm="arm", unit="user", **settings)
    assert "\n" not in str(found.value)
