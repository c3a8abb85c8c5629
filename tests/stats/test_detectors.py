"""Detectors against SciPy, statsmodels and plain loops; and the laws that all of them keep."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import polars as pl
import pytest
import statsmodels.api as sm
from scipy import stats
from simulated import bounds

from realdataexp.errors import InputError
from realdataexp.registry import ComponentError, names
from realdataexp.stats.aggregates import arm_sums, outcome_table
from realdataexp.stats.blocks import block_edges
from realdataexp.stats.detection import (
    DETECTION_SCHEMA,
    detection_table,
    detector_results,
    find_detector,
    rehearse_detector,
)
from realdataexp.stats.detectors.base import DetectorTables, hac_slope
from realdataexp.stats.intervals import Intervals
from realdataexp.stats.ledger import ledger_table

LABELS = ["minutes", "click"]
DETECTORS = names("detector")
B = 40


@dataclass
class AbTests:
    """AbTests of one design with one model that learns from every visit; axes W, T, B, L."""

    is_treated_WTB: np.ndarray
    y_WTBL: np.ndarray
    differs_WTB: np.ndarray

    @property
    def tables(self) -> tuple[pl.DataFrame, pl.DataFrame]:
        """Outcomes and ledger."""
        W, T, _ = self.is_treated_WTB.shape
        worlds, steps = [("pooling", w) for w in range(W)], list(range(T))
        sums = [arm_sums(self.is_treated_WTB[:, t], self.y_WTBL[:, t]) for t in steps]
        of_arm_TWAB = np.stack([~self.is_treated_WTB, self.is_treated_WTB], 2).swapaxes(0, 1)
        differ_TWA = (of_arm_TWAB & self.differs_WTB.swapaxes(0, 1)[:, :, None]).sum(-1)
        visits_TWA = of_arm_TWAB.sum(-1)
        weight_TWAA = np.repeat(visits_TWA[:, :, None], 2, axis=2).astype(float)
        ledger = ledger_table(visits_TWA, differ_TWA, weight_TWAA, np.ones(W, bool), steps, worlds)
        return outcome_table(np.stack(sums), steps, worlds, LABELS), ledger

    def of_design(self, retrain_every: int = 1) -> DetectorTables:
        return DetectorTables("pooling", *self.tables, retrain_every)

    def effect(self, w: int, label: int, steps: slice | int) -> float:
        """The difference in means over some steps, plainly."""
        treated, y = self.is_treated_WTB[w, steps].ravel(), self.y_WTBL[w, steps, ..., label]
        return float(y.ravel()[treated].mean() - y.ravel()[~treated].mean())


def ab_tests(
    seed: int, W: int = 2, T: int = 60, p_T: np.ndarray | float = 0.5, effect_T: float = 0.0,
    d_T: np.ndarray | float = 0.3,
) -> AbTests:  # fmt: skip
    """Independent visits; effects and shares may differ between steps."""
    g = np.random.default_rng(seed)
    p_T, effect_T, d_T = (np.broadcast_to(x, T)[:, None] for x in (p_T, effect_T, d_T))
    is_treated_WTB = g.random((W, T, B)) < p_T
    y_WTBL = g.normal(size=(W, T, B, 2))
    y_WTBL[..., 1] = y_WTBL[..., 1] > 0
    return AbTests(is_treated_WTB, y_WTBL + (effect_T * is_treated_WTB)[..., None],
                 g.random((W, T, B)) < d_T)  # fmt: skip


STAGES = np.repeat([0.1, 0.3, 0.5], 20)


def answer(name: str, tables: DetectorTables) -> Intervals:
    found = find_detector(name, "x")(tables)
    assert isinstance(found, Intervals), found
    return found


def hac(x: np.ndarray, y: np.ndarray) -> tuple[float, float, float]:
    """Slope, standard error and p-value by statsmodels."""
    lags = int(4 * (len(x) / 100) ** (2 / 9))
    how = {"maxlags": lags, "use_correction": True}
    fit = sm.OLS(y, sm.add_constant(x)).fit(cov_type="HAC", cov_kwds=how, use_t=True)
    return fit.params[1], fit.bse[1], fit.pvalues[1]


def told(found: Intervals, cell: int) -> tuple[float, float, float]:
    return found.value[cell], found.se[cell], found.p_value[cell]


def cells(data: AbTests) -> list[tuple[int, int]]:
    """World and label of each cell, in the order of the outcomes' rows."""
    found = data.of_design().cells
    return [(w, LABELS.index(name)) for w, name in found.select("world", "label").iter_rows()]


# --- against what others compute -----------------------------------------------------------------


@pytest.mark.parametrize("T", [16, 120, 700])
def test_a_slope_and_its_error_are_those_of_statsmodels(T: int):
    g = np.random.default_rng(T)
    x, y = g.normal(size=(2, 3, T)).cumsum(2)
    found = hac_slope(x, y)
    for i in range(3):
        assert told(found, i) == pytest.approx(hac(x[i], y[i]), rel=1e-9)


def test_a_step_that_is_missing_is_left_out_and_counts_as_a_lag():
    g = np.random.default_rng(1)
    x, y = g.normal(size=(2, 1, 40))
    x[0, 7], y[0, 21] = np.nan, np.nan
    known = np.isfinite(x[0]) & np.isfinite(y[0])
    at, n = np.flatnonzero(known), int(known.sum())
    slope, intercept = np.polyfit(x[0, known], y[0, known], 1)
    score = {
        t: (x[0, t] - x[0, known].mean()) * (y[0, t] - intercept - slope * x[0, t]) for t in at
    }
    lags = int(4 * (n / 100) ** (2 / 9))
    total = sum(
        (1 - abs(s - t) / (lags + 1)) * score[s] * score[t]
        for s in at for t in at if abs(s - t) <= lags
    )  # fmt: skip
    square = ((x[0, known] - x[0, known].mean()) ** 2).sum()
    found = hac_slope(x, y)
    assert found.value[0] == pytest.approx(slope)
    assert found.se[0] == pytest.approx(np.sqrt(n / (n - 2) * total) / square)


@pytest.mark.parametrize("every", [2, 5, 8])
def test_retraining_is_a_paired_t_test_of_the_steps_around_each_round(every: int):
    data, half = ab_tests(2, effect_T=np.arange(60) / 30), every // 2
    found = answer("retraining", data.of_design(every))
    for i, (w, label) in enumerate(cells(data)):
        rounds = [t for t in range(every, 60, every) if t + half <= 60]
        before = [data.effect(w, label, slice(t - half, t)) for t in rounds]
        after = [data.effect(w, label, slice(t, t + half)) for t in rounds]
        oracle = stats.ttest_rel(after, before)
        assert found.value[i] == pytest.approx(np.mean(after) - np.mean(before))
        assert found.p_value[i] == pytest.approx(oracle.pvalue, rel=1e-9)


@pytest.mark.parametrize("every", [1, 7])
def test_training_share_is_the_rank_of_a_slope_among_those_on_redrawn_shares(every: int):
    """P-values by another generator, 1,000 draws, within 5 standard errors of both."""
    data, g = ab_tests(3), np.random.default_rng(0)
    found = answer("training_share", data.of_design(every))
    steps = range(every, 60)
    for i, (w, label) in enumerate(cells(data)):
        y = np.array([data.effect(w, label, t) for t in steps])
        drawn = [g.binomial(B, data.is_treated_WTB[w].mean(), 60) for _ in range(1000)]
        sizes = []
        for counts in (data.is_treated_WTB[w].sum(1), *drawn):
            x = [counts[: t // every * every].sum() / (B * (t // every * every)) for t in steps]
            sizes.append(abs(np.corrcoef(x, y)[0, 1]))
        assert found.value[i] == pytest.approx(
            stats.linregress(
                steps and [data.is_treated_WTB[w, : t // every * every].mean() for t in steps], y
            ).slope
        )
        p = np.mean(np.array(sizes[1:]) >= sizes[0])
        assert abs(found.p_value[i] - p) < 0.01 + 5 * np.sqrt(p * (1 - p) * (1 / 199 + 1 / 1000))


def test_ramp_up_is_a_weighted_regression_over_blocks():
    data = ab_tests(4, p_T=STAGES)
    found = answer("ramp_up", data.of_design())
    edges = block_edges(60)
    for i, (w, label) in enumerate(cells(data)):
        rows = []
        for first, last in pairwise(edges):
            treated = data.is_treated_WTB[w, first:last].ravel()
            y = data.y_WTBL[w, first:last, :, label].ravel()
            var = sum(part.var(ddof=1) / len(part) for part in (y[treated], y[~treated]))
            rows.append((treated.mean(), y[treated].mean() - y[~treated].mean(), 1 / var))
        x, y, weight = np.array(rows).T
        fit = sm.WLS(y, sm.add_constant(x), weight).fit()
        oracle = fit.params[1], fit.bse[1], fit.pvalues[1]
        assert told(found, i) == pytest.approx(oracle, rel=1e-9)


def test_disagreement_is_the_growth_over_the_test():
    data = ab_tests(5, d_T=np.linspace(0.2, 0.5, 60))
    found = answer("disagreement", data.of_design())
    for i, (w, _) in enumerate(cells(data)):
        oracle = hac(np.arange(60) / 60, data.differs_WTB[w].mean(-1))
        assert told(found, i) == pytest.approx(oracle, rel=1e-9)
    assert found.value.mean() == pytest.approx(0.3, abs=0.1)


# --- laws ----------------------------------------------------------------------------------------


def planted(name: str) -> AbTests:
    """Tests that a detector can tell something of."""
    return ab_tests(6, W=3, p_T=STAGES if name == "ramp_up" else 0.5)


@pytest.mark.parametrize("name", DETECTORS)
def test_adding_worlds_changes_no_world(name: str):
    tables = planted(name).tables
    whole = detection_table(*tables, 4, [name]).filter(world=1)
    assert detection_table(*(x.filter(world=1) for x in tables), 4, [name]).equals(whole)
    assert whole["p_value"].null_count() == 0


@pytest.mark.parametrize("name", DETECTORS)
def test_only_differences_of_outcomes_count_and_units_cancel(name: str):
    data = planted(name)
    other = AbTests(data.is_treated_WTB, 60.0 * data.y_WTBL + 7.0, data.differs_WTB)
    a, b = (answer(name, x.of_design(4)) for x in (data, other))
    assert b.p_value == pytest.approx(a.p_value, rel=1e-6)
    factor = 1.0 if name == "disagreement" else 60.0
    assert b.value == pytest.approx(factor * a.value, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("name", DETECTORS)
def test_with_the_arms_names_swapped_the_effect_changes_its_sign(name: str):
    data = planted(name)
    other = AbTests(~data.is_treated_WTB, data.y_WTBL, data.differs_WTB)
    a, b = (answer(name, x.of_design(4)) for x in (data, other))
    if name != "training_share":  # which draws other shares then
        assert b.p_value == pytest.approx(a.p_value, rel=1e-6)
    # a slope on a share keeps its own, as the share is then that of the other arm
    sign = -1.0 if name == "retraining" else 1.0
    assert b.value == pytest.approx(sign * a.value, rel=1e-6)


N_WORLDS = 600


@pytest.mark.parametrize("name", DETECTORS)
def test_where_nothing_happens_five_percent_of_tests_alarm(name: str):
    """Visits are independent; false-fail rate 1e-6, a rate of 1.6 times is seen in 99 % of runs."""
    is_ramped = name == "ramp_up"
    data = ab_tests(7, W=N_WORLDS, T=100, p_T=np.repeat([0.2, 0.5], 50) if is_ramped else 0.5)
    found = detection_table(*data.tables, 4, [name]).filter(label="minutes")
    share = (found["verdict"] == "alarm").mean()
    assert found.height == N_WORLDS and found["p_value"].null_count() == 0
    # regressions on little that varies err somewhat more often: see docs/detectors.md
    low, high = bounds(0.05, N_WORLDS)[0], bounds(0.08, N_WORLDS)[1]
    assert low <= share <= high


PLANTED = {
    "retraining": dict(effect_T=0.4 * (np.arange(60) // 4)),
    "ramp_up": dict(p_T=STAGES, effect_T=2.0 * STAGES),
    "disagreement": dict(d_T=np.linspace(0.2, 0.5, 60)),
}


@pytest.mark.parametrize("name", PLANTED)
def test_what_is_planted_is_seen(name: str):
    data = ab_tests(8, W=40, **PLANTED[name])
    found = detection_table(*data.tables, 4, [name]).filter(label="minutes")
    assert (found["verdict"] == "alarm").mean() > 0.5


def test_an_effect_that_goes_with_the_share_that_was_seen_is_seen():
    data = ab_tests(9, W=40)
    seen = data.is_treated_WTB.cumsum(1).sum(-1) / (B * np.arange(1, 61))
    seen = np.concatenate([np.zeros((40, 1)), seen[:, :-1]], 1)  # before the step
    data.y_WTBL += (20.0 * seen[..., None] * data.is_treated_WTB)[..., None]
    found = detection_table(*data.tables, 1, ["training_share"]).filter(label="minutes")
    assert (found["verdict"] == "alarm").mean() > 0.9


# --- what cannot be told -------------------------------------------------------------------------


def whys(
    data: AbTests, every: int = 4, own_only: bool = False, frozen: bool = False
) -> dict[str, str]:
    outcomes, ledger = data.tables
    if own_only:
        ledger = ledger.with_columns(other_weight=0.0)
    if frozen:
        ledger = ledger.with_columns(other_weight=0.0, own_weight=0.0)
    found = detection_table(outcomes, ledger, every).filter(verdict="cannot tell")
    return dict(found.select("detector", "why").iter_rows())


def test_every_detector_says_why_it_cannot_tell():
    apart = "the share treated changes during the test, and with it what models learn"
    assert whys(planted("ramp_up")) == {"training_share": apart}
    one = ab_tests(1, d_T=0.0)
    assert whys(one, every=1) == {
        "retraining": "models learn after each step: simulation.retrain_every must be 2 or more",
        "ramp_up": "the share treated does not change",
        "disagreement": "the arms disagree in the same share of visits in all steps",
    }
    assert "a model of its own" in whys(one, own_only=True)["training_share"]
    nothing = "its models learn nothing during the test"
    assert {k: x for k, x in whys(one, frozen=True).items() if x == nothing}.keys() == {
        "retraining",
        "training_share",
    }
    assert "2 rounds of training" in whys(one, every=20)["retraining"]
    assert set(whys(ab_tests(1, T=15))) == {
        "retraining",
        "training_share",
        "ramp_up",
        "disagreement",
    } - {"retraining"}


def test_a_design_that_gives_a_step_one_arm_has_no_effect_by_step():
    data = ab_tests(1)
    data.is_treated_WTB[:] = (np.arange(60) // 10 % 2 == 0)[:, None]
    found = detection_table(*data.tables, 4, ["retraining"])
    assert set(found["why"]) == {"too few steps have both arms, or nothing varies"}
    found = detection_table(*data.tables, 4, ["training_share"])
    assert set(found["why"]) == {
        "the share treated changes during the test, and with it what models learn"
    }


def test_the_truth_is_not_asked_and_no_table_has_no_rows():
    outcomes, ledger = (x.with_columns(design=pl.lit("global")) for x in ab_tests(1).tables)
    found = detection_table(outcomes, ledger, 4)
    assert found.height == 0 and dict(found.schema) == dict(DETECTION_SCHEMA)
    assert detector_results(found) == []


# --- many tests ----------------------------------------------------------------------------------


def test_the_share_of_alarms_comes_with_its_interval_and_verdict():
    rows = [("pooling", w, "click", "a", 1.0, 0.04 if w < 3 else 0.5) for w in range(10)]
    table = pl.DataFrame(rows, [*DETECTION_SCHEMA.names()[:5], "p_value"], orient="row")
    verdict = pl.when(pl.col("p_value") <= 0.05).then(pl.lit("alarm")).otherwise(pl.lit("no alarm"))
    table = table.with_columns(verdict=verdict, why=pl.lit(""))
    (entry,) = detector_results(table)
    low, high = stats.binomtest(3, 10).proportion_ci(0.95, "exact")
    assert entry == {
        "design": "pooling", "label": "click", "detector": "a", "n_tests": 10, "verdict": "alarm",
        "alarm_share": 0.3, "alarm_low": pytest.approx(low), "alarm_high": pytest.approx(high),
        "value": 1.0,
    }  # fmt: skip
    (one,) = detector_results(table.filter(world=0))
    assert (one["verdict"], one["alarm_share"]) == ("alarm", 1.0)
    (none,) = detector_results(table.filter(world=9))
    assert (none["verdict"], none["alarm_share"]) == ("no alarm", 0.0)


# --- from outside --------------------------------------------------------------------------------


def zeros(tables: DetectorTables) -> Intervals:
    return Intervals(*np.zeros((5, tables.n_cells)))


def too_short(tables: DetectorTables) -> Intervals:
    return Intervals(*np.zeros((5, tables.n_cells - 1)))


def failing(tables: DetectorTables) -> str:
    raise KeyError("nothing here")


def silent(tables: DetectorTables) -> str:
    return ""


def test_a_detector_from_outside_is_rehearsed_and_blamed_by_name():
    rehearse_detector("test_detectors:zeros", "here")
    for name, said in (
        ("too_short", r"has value of shape \(3,\); wanted \(4,\)"),
        ("failing", "KeyError"),
        ("silent", "is of type str"),
    ):
        with pytest.raises(InputError, match=rf"here = 'test_detectors:{name}'.*{said}"):
            rehearse_detector(f"test_detectors:{name}", "here")
    with pytest.raises(InputError, match="is no function"):
        find_detector("test_detectors:B", "here")
    outcomes, ledger = ab_tests(1).tables
    failed: list[str] = []
    found = detection_table(
        outcomes, ledger, 4, ["test_detectors:zeros", "test_detectors:failing"], failed
    )
    assert set(found["detector"]) == {"zeros"} and len(failed) == 1 and "failing" in failed[0]
    with pytest.raises(ComponentError, match="nothing here"):
        detection_table(outcomes, ledger, 4, ["test_detectors:failing"])
