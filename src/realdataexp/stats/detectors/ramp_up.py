"""Ramp-up: is the effect another one while another share of users is treated?

A test that is rolled out in stages treats a growing share. Where arms do not act on each other, the
effect does not depend on that share (Boyarsky, Namkoong and Pouget-Abadie, arXiv 2305.10728; Han,
Li, Mao and Wu, arXiv 2211.03262).

Axes: Z cells, T steps, K blocks of steps, A arms.
"""

from __future__ import annotations

import numpy as np

from realdataexp.stats.blocks import block_edges
from realdataexp.stats.detectors.base import (
    MIN_STEPS,
    TOO_SHORT,
    DetectorTables,
    difference,
    share_changes,
)
from realdataexp.stats.intervals import Intervals, student

MIN_BLOCKS = 4


def ramp_up(tables: DetectorTables) -> Intervals | str:
    """The slope of the effect on the share treated, over about sqrt(T) blocks of steps.

    Weighted least squares with an intercept: a block counts by the inverse of its effect's variance
    (Welch's); the residuals' variance is estimated, Student's t with two degrees of freedom less
    than blocks. The value is the change of the effect, in the label's unit per visit, for a share
    treated that is greater by 1.

    Cannot tell of tests whose share treated does not change beyond chance (see
    ``share_changes``), or with fewer than four blocks with both arms. A share that
    only grows grows with time, so whatever else changes the effect over time looks the same.
    """
    if tables.n_steps < MIN_STEPS:
        return TOO_SHORT
    changes_Z = share_changes(tables)
    if not changes_Z.any():
        return "the share treated does not change"
    edges = block_edges(tables.n_steps)[:-1]
    visits_ZKA, n_ZKA, sum_ZKA, sq_ZKA = (
        np.add.reduceat(x, edges, axis=1)
        for x in (tables.visits_ZTA, tables.n_ZTA, tables.sum_ZTA, tables.sum_sq_ZTA)
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        share_ZK = visits_ZKA[..., 1] / visits_ZKA.sum(-1)
        rest_ZKA = (sq_ZKA - sum_ZKA**2 / n_ZKA).clip(0) / (n_ZKA - 1)
        weight_ZK = 1 / (rest_ZKA / n_ZKA).sum(-1)
    effect_ZK = difference(n_ZKA, sum_ZKA)
    known_ZK = np.isfinite(weight_ZK) & np.isfinite(effect_ZK) & (n_ZKA > 1).all(-1)
    known_ZK &= changes_Z[:, None]
    x_ZK, y_ZK, w_ZK = (np.where(known_ZK, a, 0.0) for a in (share_ZK, effect_ZK, weight_ZK))
    n_Z, total_Z1 = known_ZK.sum(1), np.where(known_ZK.any(1), w_ZK.sum(1), np.nan)[:, None]
    x_ZK, y_ZK = (a - (w_ZK * a).sum(1, keepdims=True) / total_Z1 for a in (x_ZK, y_ZK))
    square_Z = (w_ZK * x_ZK**2).sum(1)
    square_Z = np.where((square_Z > 0) & (n_Z >= MIN_BLOCKS), square_Z, np.nan)
    slope_Z = (w_ZK * x_ZK * y_ZK).sum(1) / square_Z
    rest_Z = (w_ZK * (y_ZK - slope_Z[:, None] * x_ZK) ** 2).sum(1) / (n_Z - 2.0).clip(1)
    return student(slope_Z, np.sqrt(rest_Z / square_Z), n_Z - 2.0)
