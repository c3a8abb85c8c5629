"""Disagreement: do the arms' picks drift apart while the models learn?

Axes: Z cells, T steps, A arms.
"""

from __future__ import annotations

import numpy as np

from realdataexp.stats.detectors.base import MIN_STEPS, TOO_SHORT, DetectorTables, hac_slope
from realdataexp.stats.intervals import Intervals


def disagreement(tables: DetectorTables) -> Intervals | str:
    """The trend of the share of visits in which the arms would pick differently: ``hac_slope``.

    The value is the growth of that share over the whole test; it is the same for all labels.

    Cannot tell where that share is the same in all steps, such as 0 in an A/A test with one model.
    """
    if tables.n_steps < MIN_STEPS:
        return TOO_SHORT
    visits_ZT = tables.visits_ZTA.sum(-1)
    share_ZT = tables.differ_ZTA.sum(-1) / np.where(visits_ZT > 0, visits_ZT, np.nan)
    known = share_ZT[np.isfinite(share_ZT)]
    if not known.size or np.ptp(known) == 0:
        return "the arms disagree in the same share of visits in all steps"
    time_T = np.arange(tables.n_steps) / tables.n_steps
    return hac_slope(np.broadcast_to(time_T, share_ZT.shape), share_ZT)
