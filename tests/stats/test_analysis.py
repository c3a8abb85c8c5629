"""One's own A/B table gets what SciPy and statsmodels say, and what a run's tables get."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import polars as pl
import pytest
import statsmodels.api as sm
from scipy import stats
from statsmodels.stats.multitest import multipletests

from realdataexp.errors import InputError
from realdataexp.registry import names
from realdataexp.stats import ANALYSIS_SCHEMA, analyze
from realdataexp.stats.aggregates import arm_sums, outcome_table, unit_table
from realdataexp.stats.inference import inference_table
from realdataexp.stats.intervals import Intervals
from realdataexp.stats.tables import DesignTables


def visits(n_units: int = 200, n_rows: int = 800, seed: int = 0) -> pl.DataFrame:
    """Rows of users with their own levels, which a covariate foretells; some outcomes missing."""
    chance = np.random.default_rng(seed)
    user_N = chance.integers(0, n_units, n_rows)
    level_U = chance.normal(size=n_units)
    is_treated_N = user_N % 2 == 1
    minutes_N = 5 + level_U[user_N] + 0.3 * is_treated_N + chance.normal(size=n_rows)
    minutes_N[::50] = np.nan
    return pl.DataFrame(
        {
            "user": [f"u{u:03}" for u in user_N],
            "arm": np.where(is_treated_N, "treatment", "control"),
            "minutes": minutes_N,
            "click": chance.random(n_rows) < 0.3 + 0.1 * is_treated_N,
            "before": (level_U + chance.normal(size=n_units) / 2)[user_N],
            "hour": chance.integers(0, 48, n_rows),
        }
    )


def one(found: pl.DataFrame, outcome: str, method: str) -> dict[str, Any]:
    return found.row(by_predicate=pl.col("outcome").eq(outcome) & pl.col("method").eq(method),
                     named=True)  # fmt: skip


def arms(table: pl.DataFrame, name: str) -> tuple[np.ndarray, np.ndarray]:
    known = table.with_columns(pl.col(name).cast(pl.Float64).fill_nan(None)).drop_nulls(name)
    return tuple(  # type: ignore[return-value]
        known.filter(pl.col("arm") == arm)[name].to_numpy() for arm in ("treatment", "control")
    )


EVERYTHING = {"unit": "user", "covariates": "before", "time": "hour"}


def test_every_method_answers_in_the_order_of_outcomes_and_methods():
    found = analyze(visits(), arm="arm", outcomes=["minutes", "click"], **EVERYTHING)
    assert found.schema == ANALYSIS_SCHEMA
    expected = [(x, method) for x in ("minutes", "click") for method in names("interval method")]
    assert found.select("outcome", "method").rows() == expected
    numbers = found.drop("percent_se", "percent_low", "percent_high")
    assert numbers.null_count().sum_horizontal().item() == 0
    assert ((found["ci_low"] < found["value"]) & (found["value"] < found["ci_high"])).all()
    chosen = ["always_valid", "welch"]
    found = analyze(visits(), unit="user", arm="arm", outcomes="click", methods=chosen)
    assert found["method"].to_list() == chosen


def test_methods_without_their_column_are_left_out_unless_asked_for():
    found = analyze(visits(), unit="user", arm="arm", outcomes="click")
    assert {*names("interval method")} - {*found["method"]} == {"cuped", "block"}


@pytest.mark.parametrize("outcome", ["minutes", "click"])
def test_welch_is_scipys(outcome: str):
    table = visits()
    x = one(analyze(table, arm="arm", outcomes=outcome, methods=["welch"]), outcome, "welch")
    treated, control = arms(table, outcome)
    oracle = stats.ttest_ind(treated, control, equal_var=False)
    interval = oracle.confidence_interval()
    assert x["value"] == pytest.approx(treated.mean() - control.mean())
    assert x["p_value"] == pytest.approx(oracle.pvalue)
    assert (x["ci_low"], x["ci_high"]) == pytest.approx((interval.low, interval.high))
    assert (x["n_T"], x["n_C"]) == (len(treated), len(control))
    assert x["control_mean"] == pytest.approx(control.mean())
    assert x["percent"] == pytest.approx(100 * x["value"] / control.mean())


def test_with_one_row_a_unit_clusters_and_covariates_are_statsmodels_hc2():
    """The variance CR2 of clusters of one is HC2."""
    table = visits().drop_nans("minutes").unique("user", keep="first", maintain_order=True)
    found = analyze(
        table, unit="user", arm="arm", outcomes="minutes", covariates="before",
        methods=["user_cluster", "cuped"],
    )  # fmt: skip
    y, is_treated = table["minutes"].to_numpy(), (table["arm"] == "treatment").to_numpy()
    for method, columns in (
        ("user_cluster", [is_treated]),
        ("cuped", [is_treated, table["before"].to_numpy()]),
    ):
        design = sm.add_constant(np.column_stack(columns).astype(float))
        oracle = sm.OLS(y, design).fit(cov_type="HC2")
        x = one(found, "minutes", method)
        assert (x["value"], x["se"]) == pytest.approx((oracle.params[1], oracle.bse[1]))


def test_a_table_gets_what_a_runs_tables_get():
    table = visits().with_columns(pl.col("minutes") - pl.col("minutes").drop_nans().mean())
    user = (table["user"].rank("dense") - 1).cast(pl.Int64).to_numpy()
    arm = (table["arm"] == "treatment").to_numpy()
    y_NL = table.select("minutes").to_numpy()
    hour = table["hour"].to_numpy()
    sums = np.stack([arm_sums(arm[None, hour == t], y_NL[None, hour == t]) for t in range(48)])
    worlds, labels = [("table", 0)], ["minutes"]
    row, x_NL = np.arange(len(arm))[None], table.select("before").to_numpy()
    units = unit_table(user[None], row, arm[None], y_NL[None], [x_NL], worlds, labels)
    run = inference_table(outcome_table(sums, [*range(48)], worlds, labels), units)
    found = analyze(table, arm="arm", outcomes="minutes", **EVERYTHING)
    for method in names("interval method"):
        (theirs,) = run.filter(pl.col("se_method") == method).iter_rows(named=True)
        ours = one(found, "minutes", method)
        for name in ("value", "se", "ci_low", "ci_high", "p_value"):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-9), (method, name)


def test_randomisation_is_scipys_permutation_test_of_units_totals():
    table = visits(60, 60).unique("user", maintain_order=True).drop_nans("minutes")
    x = one(
        analyze(table, unit="user", arm="arm", outcomes="minutes", methods=["randomisation"]),
        "minutes", "randomisation",
    )  # fmt: skip

    def t(a: np.ndarray, b: np.ndarray) -> float:
        return abs(stats.ttest_ind(a, b, equal_var=False).statistic)

    oracle = stats.permutation_test(
        arms(table, "minutes"), t, n_resamples=999, alternative="greater", rng=1
    )
    # both are shares of random permutations: 199 and 999 of them
    error = 5 * np.sqrt(oracle.pvalue * (1 - oracle.pvalue) * (1 / 199 + 1 / 999)) + 1 / 200
    assert x["p_value"] == pytest.approx(oracle.pvalue, abs=error)


def test_p_values_are_adjusted_over_the_outcomes_of_a_method():
    outcomes = ["minutes", "click", "before"]
    found = analyze(visits(), unit="user", arm="arm", outcomes=outcomes)
    for (method,), rows in found.group_by("method"):
        oracle = multipletests(rows["p_value"].to_numpy(), method="holm")[1]
        assert rows["p_adjusted"].to_numpy() == pytest.approx(oracle), method


def test_neither_the_order_of_rows_nor_the_kind_of_table_matters():
    table = visits()
    found = analyze(table, arm="arm", outcomes=["minutes", "click"], **EVERYTHING)
    shuffled = table.sample(fraction=1.0, shuffle=True, seed=3)
    for other in (shuffled, table.lazy(), table.to_pandas(), table.to_arrow(), table.to_dict()):
        theirs = analyze(other, arm="arm", outcomes=["minutes", "click"], **EVERYTHING)
        for name in ("value", "se", "ci_low", "ci_high", "p_value"):
            assert theirs[name].to_numpy() == pytest.approx(found[name].to_numpy(), rel=1e-9), name


def test_a_common_level_costs_no_digits():
    table = visits().with_columns(far=pl.col("minutes") + 1e9)
    found = analyze(table, arm="arm", outcomes=["minutes", "far"], **EVERYTHING)
    near, far = (found.filter(pl.col("outcome") == x) for x in ("minutes", "far"))
    for name in ("value", "se", "p_value"):
        assert far[name].to_numpy() == pytest.approx(near[name].to_numpy(), rel=1e-5), name


@pytest.mark.parametrize(
    ("values", "treatment"),
    [
        ((0, 1), None),
        ((False, True), None),
        (("A", "B"), None),
        ((1, 2), 2),
        (("new", "old"), "new"),
    ],
)
def test_the_arm_may_be_named_in_any_way(values: tuple[Any, Any], treatment: Any):
    table = visits()
    treated, control = (values[0], values[1]) if treatment == "new" else (values[1], values[0])
    is_treated = (table["arm"] == "treatment").to_list()
    own = table.with_columns(pl.Series("arm", [treated if x else control for x in is_treated]))
    wanted = analyze(table, unit="user", arm="arm", outcomes="click")
    found = analyze(own, unit="user", arm="arm", outcomes="click", treatment=treatment)
    assert found.equals(wanted)


def test_arms_of_the_wrong_sizes_are_told_and_those_as_planned_are_not():
    table = {"arm": [1] * 700 + [0] * 300, "y": [0.0, 1.0] * 500}
    with pytest.warns(UserWarning, match="sample-ratio mismatch: 700 treated and 300 control"):
        found = analyze(table, arm="arm", outcomes="y", methods=["welch"])
    assert found["ratio_p_value"].item() == stats.binomtest(700, 1000, 0.5).pvalue
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = analyze(table, arm="arm", outcomes="y", methods=["welch"], p_treatment=0.7)
    assert (found["units_T"].item(), found["units_C"].item()) == (700, 300)


def z_interval(tables: DesignTables) -> Intervals:
    """A method of one's own: Welch's standard error and the normal distribution."""
    value, se = (tables.estimates[name].to_numpy() for name in ("value", "se"))
    half = stats.norm.ppf(0.975) * se
    return Intervals(value, se, value - half, value + half, 2 * stats.norm.sf(abs(value / se)))


def test_a_method_of_ones_own_stands_beside_the_packages():
    own = f"{__name__}:z_interval"
    found = analyze(visits(), unit="user", arm="arm", outcomes="click", methods=[own, "welch"])
    assert found["method"].to_list() == ["z_interval", "welch"]
    assert found["se"][0] == found["se"][1]


def test_units_with_rows_in_both_arms_are_told():
    table = visits().with_columns(arm=pl.Series([0, 1] * 400))
    with pytest.warns(UserWarning, match="units have rows in both arms"):
        found = analyze(table, unit="user", arm="arm", outcomes="click")
    assert one(found, "click", "randomisation")["p_value"] is None
    assert one(found, "click", "user_cluster")["p_value"] is not None


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"arm": "ram"}, r"arm = 'ram': the table has no such column; did you mean arm\?"),
    ({"unit": "session"}, "unit = 'session': the table has no such column"),
    ({"outcomes": []}, "outcomes = .*name one column or more"),
    ({"outcomes": ["click", "click"]}, "outcomes = .*each once"),
    ({"outcomes": "user"}, "outcomes = 'user': has dtype String; must be numbers"),
    ({"outcomes": "nothing"}, "outcomes = 'nothing': has no value"),
    ({"outcomes": "infinite"}, "outcomes = 'infinite': 800 infinite values, first in row 0"),
    ({"arm": "hour"}, r"arm = 'hour': has 48 values \(0, 1, 2, 3, 4\), must have two"),
    ({"arm": "minutes"}, "arm = 'minutes': 16 of 800 rows have no value, first row 0"),
    ({"unit": "minutes"}, "unit = 'minutes': 16 of 800 rows have no value"),
    ({"arm": "twos"}, "treatment = None: must be one of the arms 1 and 2"),
    ({"treatment": "T"}, "treatment = 'T': must be one of the arms 'control' and 'treatment'"),
    ({"covariates": {"clik": "before"}}, "covariates: 'clik' is no outcome; did you mean click"),
    ({"covariates": ["before"]}, "covariates = .*pass a column, or one for each outcome"),
    ({"covariates": "user"}, "covariates = 'user': has dtype String"),
    ({"methods": ["cuped"]}, "methods: 'cuped' needs covariates"),
    ({"methods": ["block"]}, "methods: 'block' needs time"),
    ({"methods": ["welsh"]}, r"methods = 'welsh': unknown.*did you mean welch"),
    ({"methods": []}, "methods: is empty"),
    ({"p_treatment": 1.0}, "p_treatment = 1.0: must be above 0 and below 1"),
    ({"unit": "objects"}, "unit = 'objects': holds Python objects; must be numbers or text"),
    ({"table": pl.DataFrame(schema={"arm": pl.String, "click": pl.Int8})}, "table: has no row"),
    ({"table": 7}, "table: no Polars, pandas or Arrow table"),
]


@pytest.mark.parametrize(("changes", "message"), WRONG, ids=[message[:30] for _, message in WRONG])
def test_wrong_input_is_one_line(changes: dict[str, Any], message: str):
    table = visits().with_columns(
        nothing=pl.lit(None),
        infinite=pl.lit(float("inf")),
        objects=pl.Series([object()] * 800, dtype=pl.Object),
        twos=pl.col("click").cast(pl.Int64) + 1,
    )
    given = {"table": table, "arm": "arm", "unit": "user", "outcomes": ["click"], **changes}
    with pytest.raises(InputError, match=message) as error:
        analyze(given.pop("table"), **given)
    assert "\n" not in str(error.value)


def rollout_visits(n: int = 3000) -> pl.DataFrame:
    """Three stages, in which users keep the treatment; both means are lines in the share."""
    g = np.random.default_rng(8)
    day, user = np.arange(n) * 6 // n, g.integers(0, 900, n)
    share = np.array([0.1, 0.3, 0.6])[day // 2]
    is_treated = g.random(900)[user] < share
    minutes = np.where(is_treated, 12 + 2 * share, 10 - share) + g.normal(size=n)
    columns = {"user": user, "day": day, "share": share, "treated": is_treated, "minutes": minutes}
    return pl.DataFrame(columns)


def test_the_stages_of_a_rollout_are_read_by_their_column():
    table, given = rollout_visits(), {"arm": "treated", "outcomes": "minutes", "unit": "user"}
    found = analyze(table, share="share", **given)
    asked = [*names("interval method"), "rollout_last", "rollout_linear", "rollout_quadratic"]
    asked = [x for x in [*asked, "rollout_jackknife"] if x not in ("cuped", "block")]
    assert found["method"].to_list() == asked
    linear, last = (one(found, "minutes", x) for x in ("rollout_linear", "rollout_last"))
    assert linear["ci_low"] < 14 - 10 < linear["ci_high"]
    stage = table.filter(pl.col("share") == 0.6)
    means = dict(stage.group_by("treated").agg(pl.col("minutes").mean()).iter_rows())
    assert last["value"] == pytest.approx(means[True] - means[False])
    assert found["ratio_p_value"].null_count() == found.height  # users change arm as planned
    timed = analyze(table, share="share", time="day", methods=["rollout_linear"], **given)
    assert timed["value"].item() == pytest.approx(linear["value"])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"methods": ["rollout_linear"]}, "'rollout_linear' needs share; pass it"),
        ({"methods": ["differences_in_qs"]}, "'differences_in_qs' is an estimator of a run's"),
        ({"share": "day"}, r"share = 'day': has values from 0 to 5; must be above 0 and below 1"),
        (
            {"share": "share", "time": "parity"},
            r"rows of one value of time = 'parity' have several",
        ),
        ({"share": "last", "methods": ["rollout_last"]}, r"2 different shares or more .* too few"),
    ],
)
def test_a_rollout_that_cannot_be_read_is_one_line(changes: dict, said: str):
    table = rollout_visits().with_columns(parity=pl.col("day") % 2, last=0.5)
    with pytest.raises(InputError, match=said) as error:
        analyze(table, arm="treated", outcomes="minutes", unit="user", **changes)
    assert "\n" not in str(error.value)
