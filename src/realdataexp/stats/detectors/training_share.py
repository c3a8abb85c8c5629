"""Training share: does the effect go with how much of the treatment the model has learned from?

Who is treated is chance, so the share of treated visits among those that a model has learned from
wanders around p. If both arms rank with what it learned from both, the effect goes with it.

Axes: Z cells, T steps, A arms, Q redrawn tests.
"""

from __future__ import annotations

import numpy as np

from realdataexp.stats.detectors.base import (
    LEARNS_NOTHING,
    MIN_STEPS,
    TOO_SHORT,
    DetectorTables,
    share_changes,
)
from realdataexp.stats.intervals import ALPHA, Intervals, cannot_tell
from realdataexp.stats.resampling import TIE, generator

N_REDRAWN = 199


def training_share(tables: DetectorTables) -> Intervals | str:
    """The slope of the effect by step on the treated share of what the model had learned from.

    The share is that of training weight before the step, as of the latest round of training. The
    value is the change of the effect, in the label's unit per visit, for a share greater by 1. The
    p-value is that of a randomisation test (Fisher): the numbers of treated visits are drawn anew
    199 times, by step from the binomial law of the test's own share, and the value counts by its
    rank among the slopes, times the root of the share's sum of squares, on shares that can have
    done nothing. So it holds whatever the effect's autocorrelation. A Newey-West standard error
    does not serve: the share's early steps have nearly all the weight (see docs/detectors.md).

    Cannot tell of designs with a model for each arm, nor where the share treated changes in the
    course of the test. Where users come back with the arm that they had, the redrawn shares vary
    somewhat more than the test's, late in it.
    """
    if not tables.learns:
        return LEARNS_NOTHING
    if not tables.has_one_model:
        return "each arm has a model of its own: the ledger says what came from the other arm"
    if tables.n_steps < MIN_STEPS:
        return TOO_SHORT
    changes_Z = share_changes(tables)
    if changes_Z.all():
        return "the share treated changes during the test, and with it what models learn"
    out = cannot_tell(tables.n_cells)
    for (world,), cells in tables.cells.group_by("world", maintain_order=True):
        at = cells["cell"].to_list()
        if not changes_Z[at[0]]:
            chance = generator(tables.design, world, "training_share")
            share_QT = _shares(tables, at[0], chance)
            for i in at:
                _regress(share_QT, tables.effect_ZT[i], out, i)
    return out


def _shares(tables: DetectorTables, i: int, chance: np.random.Generator) -> np.ndarray:
    """The treated share of what a cell's model had learned from before each step, NaN if nothing.

    That of the test, then those of the redrawn ones.
    """
    visits_TA, treated_T = tables.visits_ZTA[i], tables.own_ZTA[i, :, 1]
    weight_T, n_T = treated_T + tables.other_ZTA[i, :, 1], visits_TA.sum(-1).astype(np.int64)
    p = visits_TA[:, 1].sum() / n_T.sum()
    drawn_QT = chance.binomial(n_T, p, (N_REDRAWN, tables.n_steps)) / n_T.clip(1)
    weight_QT = np.vstack([weight_T, treated_T, weight_T * drawn_QT])
    # the sum over what had been learned from before each step
    upto_QT = np.pad(weight_QT.cumsum(1), ((0, 0), (1, 0)))
    seen_QT = upto_QT[:, np.arange(tables.n_steps) // tables.retrain_every * tables.retrain_every]
    total_T = np.where(seen_QT[0] > 0, seen_QT[0], np.nan)
    found: np.ndarray = seen_QT[1:] / total_T
    return found


def _regress(share_QT: np.ndarray, effect_T: np.ndarray, out: Intervals, i: int) -> None:
    """A cell's answer."""
    known_T = np.isfinite(effect_T) & np.isfinite(share_QT[0])
    if known_T.sum() < MIN_STEPS:
        return
    x_QT, y_T = share_QT[:, known_T], effect_T[known_T]
    x_QT, y_T = x_QT - x_QT.mean(1, keepdims=True), y_T - y_T.mean()
    root_Q = np.sqrt((x_QT**2).sum(1))
    if root_Q[0] == 0 or np.ptp(y_T) == 0:
        return
    # not by a BLAS, which adds up in an order that depends on its threads
    along_Q = np.einsum("qt,t->q", x_QT, y_T) / np.where(root_Q > 0, root_Q, np.inf)
    size_Q = np.abs(along_Q)
    at_least = int((size_Q[1:] >= size_Q[0] * (1 - TIE)).sum())
    n_few = int((N_REDRAWN + 1) * ALPHA)
    half = np.sort(size_Q[1:])[-n_few] / (1 - TIE) / root_Q[0]
    value = along_Q[0] / root_Q[0]
    out.value[i], out.se[i] = value, along_Q[1:].std(ddof=1) / root_Q[0]
    out.ci_low[i], out.ci_high[i] = value - half, value + half
    out.p_value[i] = (1 + at_least) / (1 + N_REDRAWN)
