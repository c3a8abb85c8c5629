"""Retraining: does the effect change when the models are trained anew?

Between two rounds of training models stay as they are, and so, but for chance, does the effect.
What a round changes is what the models learned, from both arms' visits where an arm's model learns
from the other arm.

Axes: Z cells, T steps, A arms, K pairs.
"""

from __future__ import annotations

import numpy as np

from realdataexp.stats.detectors.base import LEARNS_NOTHING, DetectorTables, difference
from realdataexp.stats.intervals import Intervals, student

MIN_PAIRS = 3


def retraining(tables: DetectorTables) -> Intervals | str:
    """The mean change of the effect at a round of training: a paired t-test over the rounds.

    With r steps between two rounds, a round's pair is the effect in the r // 2 steps before and in
    the r // 2 steps after it, so that no step is in two pairs. The value is the mean of after minus
    before, in the label's unit per visit; Student's t with one degree of freedom less than pairs.

    Cannot tell with fewer than three pairs: where models learn after each step, there are none.
    """
    every, half = tables.retrain_every, tables.retrain_every // 2
    if not tables.learns:
        return LEARNS_NOTHING
    if half == 0:
        return "models learn after each step: simulation.retrain_every must be 2 or more"
    first_K = np.arange(every, tables.n_steps - half + 1, every)
    if len(first_K) < MIN_PAIRS:
        return f"the test has {len(first_K)} rounds of training with steps after it; 3 are needed"
    # sums up to each step, from which those of any steps in a row follow
    upto = [np.pad(x.cumsum(1), ((0, 0), (1, 0), (0, 0))) for x in (tables.n_ZTA, tables.sum_ZTA)]
    before, after = (
        difference(*(x[:, at + half] - x[:, at] for x in upto)) for at in (first_K - half, first_K)
    )
    change_ZK = after - before
    known_ZK = np.isfinite(change_ZK)
    n_Z = known_ZK.sum(1)
    n_Z1 = np.where(n_Z >= MIN_PAIRS, n_Z, np.nan)[:, None]
    mean_Z1 = np.where(known_ZK, change_ZK, 0.0).sum(1, keepdims=True) / n_Z1
    square_Z = np.where(known_ZK, (change_ZK - mean_Z1) ** 2, 0.0).sum(1)
    se_Z = np.sqrt(square_Z / (n_Z1[:, 0] - 1) / n_Z1[:, 0])
    return student(mean_Z1[:, 0], se_Z, n_Z - 1.0)
