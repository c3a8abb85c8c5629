"""Where the picks differ, what the models predicted of both, and what the outcomes add to it.

``paired`` compares the outcomes of the visits whose picks differ. Much of their spread was known
beforehand: some users watch long whatever they are shown. The models said so at the visit, of both
arms' picks, before they learned from its outcome. With m_T and m_C these predictions, D of N visits
in which the picks differ so far, and means over them and over each arm's of them,

    value = D / N [mean(m_T - m_C) + mean_T(Y - m_T) - mean_C(Y - m_C)],

augmented inverse propensity weighting (Robins, Rotnitzky and Zhao 1994, JASA 89:846), with the
arms' shares in place of the propensities, which are known: so it is right whatever the predictions
are, as long as they do not depend on the arm. They are used times

    theta = -Cov(paired, A) / Var(A),

A what a prediction of size one adds to ``paired``, which is 0 on average: the optimal additive
control variate (Jeunen and Ustimenko, arXiv 2405.10024, section 3.2). So predictions on another
scale, or bad ones, cost nothing but the noise of theta, which counts where units are few; without
any it is ``paired``. What theta is fitted to it leaves too little of, the more of it the more a
unit weighs in it: as in CR2 (``clustered``), each unit's residual is over the root of one minus its
leverage, and a degree of freedom is lost.

Predictions must not depend on the visit's arm. They are the mean of both arms' models', of the
slate at the user's first visit in which the picks differ, which both arms saw. A later slate is
what the user's arm has left over: m_T there is what the control has not used up, of a control user,
and what the treatment has, of a treated one.

Axes: Z cells, U units, A arms (0 = control, 1 = treatment).
"""

from __future__ import annotations

import numpy as np

from realdataexp.stats.aggregates import ARMS
from realdataexp.stats.clustered import LEVERAGE
from realdataexp.stats.intervals import Intervals, cannot_tell, compares, of_foretold, of_units
from realdataexp.stats.paired import difference, interval, plain
from realdataexp.stats.tables import DesignTables

_ROUNDING = 1e-10


@of_units
@of_foretold
@compares(
    "visits whose picks by both arms are from the same slate, known and predicted",
    lambda tables: tables.has_foretold,
)
def aipw(tables: DesignTables) -> Intervals:
    """``paired`` less what the models foretold of both picks, times theta.

    Cannot tell where ``paired`` cannot, or no model predicts the outcome. Where all predictions are
    the same it is ``paired``.
    """
    units = tables.units
    if units is None or units.foretold_U is None:
        return cannot_tell(tables.n_cells)
    paired = plain(units, "parted")
    told_A = [units.picks[f"foretold_{arm}"] for arm in ARMS]  # of each pick, in each arm
    own_UA = np.column_stack([told_A[arm][:, arm] for arm in (0, 1)])
    both_U = (told_A[1] - told_A[0]).sum(1)
    added = difference(units, "parted", -own_UA, both_U)
    square_Z = units.total(added.moved_U**2)
    size_Z = units.total(np.abs(own_UA).sum(1)) / units.n_ZA.sum(1)
    is_constant_Z = square_Z <= (_ROUNDING * size_Z) ** 2  # nothing but rounding
    theta_Z = -units.total(paired.moved_U * added.moved_U) / np.where(is_constant_Z, 1.0, square_Z)
    theta_Z = np.where(is_constant_Z, 0.0, theta_Z)
    cell = units.cell_U
    leverage_U = added.moved_U**2 / np.where(is_constant_Z, np.inf, square_Z)[cell]
    left_U = paired.moved_U + theta_Z[cell] * added.moved_U
    found = paired._replace(
        value_Z=paired.value_Z + theta_Z * added.value_Z,
        moved_U=left_U / np.sqrt((1.0 - leverage_U).clip(LEVERAGE)),
        df_Z=np.where(is_constant_Z, paired.df_Z, np.maximum(paired.df_Z - 1.0, 1.0)),
    )
    return interval(units, found)
