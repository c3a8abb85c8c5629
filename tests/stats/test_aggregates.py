"""Sums per world, arm and label equal counting the visits one by one."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest

from realdataexp.stats.aggregates import OUTCOME_SCHEMA, arm_sums, outcome_table

W, B, L = 3, 7, 2


def outcomes(seed: int = 0, dtype: type = np.float32) -> tuple[np.ndarray, np.ndarray]:
    g = np.random.default_rng(seed)
    y_WBL = g.normal(3, 2, (W, B, L)).astype(dtype)
    y_WBL[g.random((W, B, L)) < 0.3] = np.nan
    y_WBL[1, :, 0] = np.nan  # a world in which a label is never known
    is_treated_WB = g.random((W, B)) < 0.5
    is_treated_WB[2] = True  # a world with one arm
    return is_treated_WB, y_WBL


def brute_force(is_treated_WB: np.ndarray, y_WBL: np.ndarray) -> np.ndarray:
    sums = np.zeros((W, 2, L, 3))
    for w in range(W):
        for b in range(B):
            for label in range(L):
                y = float(y_WBL[w, b, label])
                if not math.isnan(y):
                    sums[w, int(is_treated_WB[w, b]), label] += [1, y, y * y]
    return sums


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_arm_sums_equal_counting_one_by_one(dtype: type) -> None:
    is_treated_WB, y_WBL = outcomes(dtype=dtype)
    sums = arm_sums(is_treated_WB, y_WBL)
    assert sums.shape == (W, 2, L, 3) and sums.dtype == np.float64
    np.testing.assert_allclose(sums, brute_force(is_treated_WB, y_WBL), rtol=1e-12)
    assert sums[2, 0].tolist() == [[0, 0, 0]] * L
    assert sums[1, :, 0].tolist() == [[0, 0, 0]] * 2
    assert sums[..., 0].sum() == np.isfinite(y_WBL).sum()


def test_sums_keep_float64_precision_of_float32_outcomes() -> None:
    y_WBL = np.full((1, 20_000, 1), 16_777_217 / 16, dtype=np.float32)
    sums = arm_sums(np.ones((1, 20_000), dtype=bool), y_WBL)
    y = float(y_WBL[0, 0, 0])
    assert sums[0, 1, 0].tolist() == [20_000, 20_000 * y, 20_000 * y * y]


def test_the_order_of_visits_does_not_matter_but_their_arm_does() -> None:
    is_treated_WB, y_WBL = outcomes()
    order = np.random.default_rng(1).permutation(B)
    np.testing.assert_allclose(
        arm_sums(is_treated_WB[:, order], y_WBL[:, order]), arm_sums(is_treated_WB, y_WBL)
    )
    flipped = arm_sums(~is_treated_WB, y_WBL)
    assert np.array_equal(flipped[:, ::-1], arm_sums(is_treated_WB, y_WBL))


def test_the_table_has_a_row_for_each_cell_with_outcomes() -> None:
    sums_TWAL3 = np.stack([arm_sums(*outcomes(seed)) for seed in (0, 5)])
    worlds, labels = [("global", 0), ("pooling", 0), ("pooling", 3)], ["click", "play_time"]
    table = outcome_table(sums_TWAL3, [10, 11], worlds, labels)
    assert dict(table.schema) == OUTCOME_SCHEMA
    expected = {}
    for t, step in enumerate((10, 11)):
        for w, (design, world) in enumerate(worlds):
            for a, arm in enumerate("CT"):
                for i, label in enumerate(labels):
                    n, total, squares = sums_TWAL3[t, w, a, i]
                    if n:
                        expected[design, world, step, arm, label] = (n, total, squares)
    assert len(expected) < 2 * 3 * 2 * 2  # some cells are empty
    rows = {row[:5]: row[5:] for row in table.iter_rows()}
    assert len(rows) == table.height
    assert rows == expected


def test_a_table_without_outcomes_is_empty_with_its_columns() -> None:
    table = outcome_table(np.zeros((1, 1, 2, 1, 3)), [0], [("pooling", 0)], ["click"])
    assert table.height == 0 and dict(table.schema) == OUTCOME_SCHEMA
    assert table["n"].dtype == pl.Int32
