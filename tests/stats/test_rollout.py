"""Estimators of a rollout: against NumPy's fits, lines and parabolas known to hold, and chance."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from scipy import stats
from support import FALSE_FAIL_RATE

from realdataexp.stats.inference import inference_table
from realdataexp.stats.intervals import Intervals
from realdataexp.stats.rollout import (
    Stages,
    rollout_jackknife,
    rollout_last,
    rollout_linear,
    rollout_quadratic,
)
from realdataexp.stats.tables import DesignTables

SHARES = (0.05, 0.05, 0.2, 0.5)  # of four steps, which are three stages
MEANS = {
    "line": (lambda p: 2.0 + 3.0 * p, lambda p: 1.0 - 0.5 * p),
    "parabola": (lambda p: 2.0 + 3.0 * p - p**2, lambda p: 1.0 - 0.5 * p + 4.0 * p**2),
}


def visits(g: np.random.Generator, mean: str = "line", n: int = 400, sd: float = 1.0) -> dict:
    """Outcomes of each step and arm, of unequal numbers."""
    found = {}
    for step, p in enumerate(SHARES):
        for arm, of_arm, share in (("T", 0, p), ("C", 1, 1 - p)):
            size = max(3, round(n * share) + step)
            found[step, arm] = MEANS[mean][of_arm](p) + sd * g.normal(size=size)
    return found


def tables(*worlds: dict, p: tuple[float | None, ...] = SHARES) -> DesignTables:
    rows = [
        {
            "design": "rollout", "world": w, "step": step, "arm": arm, "label": "click",
            "n": len(y), "sum": y.sum(), "sum_sq": (y**2).sum(), "p": p[step],
        }
        for w, world in enumerate(worlds)
        for (step, arm), y in world.items()
    ]  # fmt: skip
    return DesignTables("rollout", pl.DataFrame(rows, infer_schema_length=None))


@pytest.mark.parametrize(
    ("method", "mean"), [(rollout_linear, "line"), (rollout_quadratic, "parabola")]
)
def test_without_noise_the_effect_of_everybody_against_nobody_is_found(method, mean: str):
    treated, control = MEANS[mean]
    found = method(tables(visits(np.random.default_rng(0), mean, sd=0.0)))
    assert found.value == pytest.approx([treated(1.0) - control(0.0)])
    assert found.se == pytest.approx([0.0], abs=1e-6)
    # where the means are no lines, lines are wrong
    if mean == "parabola":
        other = rollout_linear(tables(visits(np.random.default_rng(0), mean, sd=0.0)))
        assert abs(float(other.value[0] - found.value[0])) > 0.5


@pytest.mark.parametrize(("method", "degree"), [(rollout_linear, 1), (rollout_quadratic, 2)])
def test_the_value_is_that_of_a_regression_of_visits_on_powers_of_the_share(method, degree: int):
    worlds = [visits(np.random.default_rng(seed)) for seed in (1, 2)]
    found = method(tables(*worlds))
    for w, world in enumerate(worlds):
        ends = []
        for arm, end in (("T", 1.0), ("C", 0.0)):
            y = np.concatenate([world[t, arm] for t in range(4)])
            p = np.concatenate([np.full(len(world[t, arm]), SHARES[t]) for t in range(4)])
            ends.append(np.polynomial.Polynomial.fit(p, y, degree)(end))
        assert found.value[w] == pytest.approx(ends[0] - ends[1])


def test_the_error_of_the_last_stage_is_welchs_and_it_is_the_stage_of_the_largest_share():
    world = visits(np.random.default_rng(3))
    found = rollout_last(tables(world))
    oracle = stats.ttest_ind(world[3, "T"], world[3, "C"], equal_var=False)
    assert found.value == pytest.approx([world[3, "T"].mean() - world[3, "C"].mean()])
    assert found.p_value == pytest.approx([oracle.pvalue])
    interval = oracle.confidence_interval()
    assert (found.ci_low[0], found.ci_high[0]) == pytest.approx((interval.low, interval.high))


def test_the_error_of_an_extrapolation_is_that_of_its_combination_of_means():
    world = visits(np.random.default_rng(4))
    design = tables(world)
    stages, found = Stages.of(design), rollout_quadratic(design)
    # three shares and a parabola: Lagrange's polynomials, read at the ends
    variance = 0.0
    for arm, end in (("T", 1.0), ("C", 0.0)):
        for p in stages.share_K:
            others = [q for q in stages.share_K if q != p]
            lagrange = np.prod([(end - q) / (p - q) for q in others])
            y = np.concatenate([world[t, arm] for t in range(4) if SHARES[t] == p])
            variance += lagrange**2 * y.var(ddof=1) / len(y)
    assert found.se == pytest.approx([variance**0.5])


def test_the_jackknife_is_that_of_a_loop_over_the_stages_that_are_left_out():
    world = visits(np.random.default_rng(5), "parabola", sd=0.2)
    design = tables(world)
    found, whole = rollout_jackknife(design), rollout_linear(design)
    parts = []
    for left_out in sorted(set(SHARES)):
        rest = {at: y for at, y in world.items() if SHARES[at[0]] != left_out}
        parts.append(float(rollout_linear(tables(rest)).value[0]))
    se = (2 / 3 * ((np.array(parts) - np.mean(parts)) ** 2).sum()) ** 0.5
    assert found.value == pytest.approx(whole.value) and found.se == pytest.approx([se])
    assert found.se[0] > 3 * whole.se[0]  # these stages do not lie on lines
    half = stats.t.ppf(0.975, 2) * se
    assert found.ci_high == pytest.approx(whole.value + half)


def test_its_interval_covers_as_often_as_it_claims():
    """Binomial: 600 worlds; fails by chance once in a million, and sees 88 % in place of 95 %."""
    g, n = np.random.default_rng(6), 600
    design = tables(*(visits(g, n=200) for _ in range(n)))
    truth = MEANS["line"][0](1.0) - MEANS["line"][1](0.0)
    for method in (rollout_linear, rollout_quadratic):
        found: Intervals = method(design)
        hits = int(((found.ci_low <= truth) & (truth <= found.ci_high)).sum())
        low, high = stats.binom.ppf([FALSE_FAIL_RATE / 2, 1 - FALSE_FAIL_RATE / 2], n, 0.95)
        assert low <= hits <= high
    assert stats.binom.cdf(low, n, 0.88) > 0.9


def test_a_stage_without_an_arm_has_no_answer_and_other_worlds_do():
    full, lacking = visits(np.random.default_rng(7)), visits(np.random.default_rng(8))
    del lacking[2, "T"]
    for method in (rollout_linear, rollout_quadratic, rollout_jackknife):
        found = method(tables(full, lacking))
        assert np.isfinite(found.value[0]) and np.isnan(found.value[1]) and np.isnan(found.se[1])
        assert found.value[0] == pytest.approx(method(tables(full)).value[0])
    assert np.isfinite(rollout_last(tables(full, lacking)).value).all()


@pytest.mark.parametrize(
    ("p", "answers"),
    [
        (SHARES, ["rollout_last", "rollout_linear", "rollout_quadratic", "rollout_jackknife"]),
        ((0.1, 0.1, 0.1, 0.5), ["rollout_last", "rollout_linear"]),
        ((0.5,) * 4, []),
        ((None,) * 4, []),
    ],
)
def test_a_design_of_too_few_shares_has_no_such_answer(p, answers: list[str]):
    outcomes = tables(visits(np.random.default_rng(9)), p=p).outcomes
    outcomes = outcomes.with_columns(pl.col("p").cast(pl.Float64))
    found = inference_table(outcomes, None)["se_method"].unique(maintain_order=True).to_list()
    assert [x for x in found if x.startswith("rollout")] == answers
    without = inference_table(outcomes.drop("p"), None)["se_method"].to_list()
    assert not [x for x in without if x.startswith("rollout")] and "welch" in without
