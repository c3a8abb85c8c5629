"""Sufficient statistics of outcomes: the seam between a run and every inference from it.

Axes: W worlds, B visits, A arms (0 = control, 1 = treatment), L labels.
"""

from __future__ import annotations

import numpy as np
import polars as pl

ARMS = ("C", "T")

OUTCOME_SCHEMA = pl.Schema(
    {
        "design": pl.String,
        "world": pl.Int32,
        "step": pl.Int32,
        "arm": pl.String,
        "label": pl.String,
        "n": pl.Int32,
        "sum": pl.Float64,
        "sum_sq": pl.Float64,
    }
)


def arm_sums(is_treated_WB: np.ndarray, y_WBL: np.ndarray) -> np.ndarray:
    """Count, sum and sum of squares of the known outcomes of each arm: float64 W, A, L, 3.

    Args:
        is_treated_WB: bool, each visit's arm.
        y_WBL: outcomes; NaN where a label is missing or there was no visit.
    """
    known = np.isfinite(y_WBL)
    y = np.where(known, y_WBL, 0.0).astype(np.float64)
    sums = []
    for is_treated in (False, True):
        on = known & (is_treated_WB == is_treated)[..., None]
        value = y * on
        sums.append(np.stack([on.sum(1), value.sum(1), (value * value).sum(1)], axis=-1))
    return np.stack(sums, axis=1).astype(np.float64)


def outcome_table(
    sums_TWAL3: np.ndarray,
    steps: list[int],
    worlds: list[tuple[str, int]],
    labels: list[str],
) -> pl.DataFrame:
    """Rows of outcomes.parquet: one for each world, step, arm with outcomes, and label.

    Args:
        sums_TWAL3: ``arm_sums`` of several steps.
        steps: their numbers.
        worlds: each world's design and replication.
        labels: the labels' names.
    """
    T, W, A, L, _ = sums_TWAL3.shape
    index = [x.ravel() for x in np.indices((T, W, A, L))]
    flat = sums_TWAL3.reshape(-1, 3)
    frame = pl.DataFrame(
        {
            "design": np.array([name for name, _ in worlds])[index[1]],
            "world": np.array([replication for _, replication in worlds])[index[1]],
            "step": np.array(steps)[index[0]],
            "arm": np.array(ARMS)[index[2]],
            "label": np.array(labels)[index[3]],
            "n": flat[:, 0],
            "sum": flat[:, 1],
            "sum_sq": flat[:, 2],
        },
    )
    return frame.cast(OUTCOME_SCHEMA).filter(pl.col("n") > 0)
