"""Block intervals: by a plain loop, for switchbacks, and where shocks last from step to step."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest
from scipy import signal, stats
from simulated import bounds, coverage

from realdataexp.stats.aggregates import OUTCOME_SCHEMA, outcome_table
from realdataexp.stats.blocks import block_edges
from realdataexp.stats.inference import inference_table


def outcomes_of(n_TWA: np.ndarray, sum_TWA: np.ndarray, sq_TWA: np.ndarray) -> pl.DataFrame:
    sums = np.stack([n_TWA, sum_TWA, sq_TWA], axis=-1)[:, :, :, None].astype(float)
    worlds = [("pooling", w) for w in range(n_TWA.shape[1])]
    return outcome_table(sums, list(range(len(sums))), worlds, ["click"])


def shocks(phi: float, n_worlds: int, n_steps: int = 200, n_visits: int = 32) -> pl.DataFrame:
    """Outcomes of noise 1 around a shock per arm of standard deviation 1 that fades by phi."""
    g = np.random.default_rng(4)
    steps = g.normal(size=(n_steps + 200, n_worlds, 2)) * math.sqrt(1 - phi**2)
    shock_TWA = signal.lfilter([1.0], [1.0, -phi], steps, axis=0)[200:]
    mean_TWA = shock_TWA + g.normal(size=shock_TWA.shape) / math.sqrt(n_visits)
    n_TWA = np.full(shock_TWA.shape, n_visits)
    return outcomes_of(n_TWA, n_visits * mean_TWA, n_visits * (mean_TWA**2 + 1))


@pytest.mark.parametrize(("n_steps", "n_blocks"), [(16, 4), (17, 4), (100, 10), (200, 14)])
def test_blocks_are_about_sqrt_t_steps_long_and_equal(n_steps: int, n_blocks: int) -> None:
    edges = block_edges(n_steps)
    assert len(edges) == n_blocks + 1 and (edges[0], edges[-1]) == (0, n_steps)
    assert np.ptp(np.diff(edges)) <= 1


def test_block_equals_a_plain_loop() -> None:
    g = np.random.default_rng(0)
    n_TWA = g.integers(0, 9, (16, 1, 2))
    sum_TWA = n_TWA * g.normal(size=n_TWA.shape)
    table = inference_table(outcomes_of(n_TWA, sum_TWA, sum_TWA**2), None, ["block"])
    row = table.row(0, named=True)

    n_A, sum_A = n_TWA[:, 0].sum(0), sum_TWA[:, 0].sum(0)
    parts = []
    for b in range(4):
        steps = slice(4 * b, 4 * b + 4)
        n_a, sum_a = n_TWA[steps, 0].sum(0), sum_TWA[steps, 0].sum(0)
        t, c = (sum_a - sum_A / n_A * n_a) / n_A
        parts.append(c - t)
    squares = sum(x * x for x in parts)
    r = sum(x * y for x, y in zip(parts[1:], parts[:-1], strict=True)) / squares + 0.25
    r = min(0.8, max(0.0, r))
    se = math.sqrt(4 / 3 * squares * (1 + r) / (1 - r))
    value = sum_A[1] / n_A[1] - sum_A[0] / n_A[0]
    half = stats.t.ppf(0.975, 3) * se
    assert (row["value"], row["se"]) == pytest.approx((value, se))
    assert (row["ci_low"], row["ci_high"]) == pytest.approx((value - half, value + half))
    assert row["p_value"] == pytest.approx(2 * stats.t.sf(abs(value) / se, 3))


@pytest.mark.parametrize(
    ("phi", "at_least", "welch_at_most"), [(0.0, 0.94, 0.45), (0.5, 0.94, 0.3), (0.9, 0.88, 0.2)]
)
def test_shocks_shared_by_an_arms_visits_need_blocks(
    phi: float, at_least: float, welch_at_most: float
) -> None:
    n_worlds = 3000
    table = inference_table(shocks(phi, n_worlds), None, ["welch", "block"])
    found = {name: table.filter(pl.col("se_method") == name) for name in ("welch", "block")}
    # claimed: blocks cover at_least..0.98 (0.91 at phi = 0.9), visits taken as independent do not
    assert bounds(at_least, n_worlds)[0] <= coverage(found["block"], 0.0)
    assert coverage(found["block"], 0.0) <= bounds(0.98, n_worlds)[1]
    assert coverage(found["block"], 0.0, 0.6) < bounds(at_least, n_worlds)[0]
    assert coverage(found["welch"], 0.0) < welch_at_most


def test_a_block_may_hold_one_arm_only() -> None:
    g = np.random.default_rng(1)
    n_TWA = np.zeros((100, 2000, 2))
    n_TWA[np.arange(100), :, np.arange(100) // 10 % 2] = 10
    shock_bW = np.repeat(g.normal(size=(10, 2000)), 10, axis=0)[:, :, None]
    sum_TWA = n_TWA * shock_bW
    table = inference_table(outcomes_of(n_TWA, sum_TWA, n_TWA * shock_bW**2), None)
    block = table.filter(pl.col("se_method") == "block")
    welch = table.filter(pl.col("se_method") == "welch")
    np.testing.assert_allclose(block["value"], welch["value"], atol=1e-12)
    # five switches an arm are few: 0.90 at least, where visits as independent have under 0.5
    assert coverage(block, 0.0) >= bounds(0.90, 2000)[0]
    assert coverage(welch, 0.0) < 0.5


def test_too_few_steps_leave_no_estimate() -> None:
    rows = [
        ("pooling", 0, step, arm, "click", 5, float(step), 50.0)
        for step in range(16)
        for arm in "CT"
    ]
    outcomes = pl.DataFrame(rows, schema=OUTCOME_SCHEMA, orient="row")
    for n_steps, is_told in ((1, False), (15, False), (16, True)):
        first = outcomes.filter(pl.col("step") < n_steps)
        row = inference_table(first, None, ["block"]).row(0, named=True)
        assert (row["value"] is not None) == is_told and row["n_T"] == 5 * n_steps


def test_steps_may_begin_anywhere() -> None:
    outcomes = shocks(0.5, 3, n_steps=40)
    late = outcomes.with_columns(pl.col("step") + 1000)
    assert inference_table(late, None, ["block"]).equals(inference_table(outcomes, None, ["block"]))
