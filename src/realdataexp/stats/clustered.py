"""Intervals that take units, not visits, as what was randomised: user_cluster and cuped.

A unit is a user, or what else the design gave an arm as one (a cluster of users, a block of
steps). Its visits resemble each other, so an arm holds less information than its number of visits
says, and an interval that takes visits as independent is too narrow.
"""

from __future__ import annotations

import numpy as np

from realdataexp.stats.intervals import Intervals, cannot_tell, student
from realdataexp.stats.tables import DesignTables


def user_cluster(tables: DesignTables) -> Intervals:
    """Difference of the arms' means per visit, with a unit-clustered standard error.

    The delta method for a ratio of sums over units (Deng, Knoblich and Lu 2018, arXiv 1803.06336,
    section 3), which equals the cluster-robust variance of the regression of the outcome on the
    arm (Liang and Zeger 1986) but for the small-sample factor: here g/(g-1) for each arm of g
    units. Student's t with the number of units minus 2 degrees of freedom.
    """
    units = tables.units
    if units is None:
        return cannot_tell(tables.n_cells)
    value_K, influence_U = units.difference(units.sum_UA)
    n_units_K = units.total(np.ones(len(units.cell_U)))
    return student(value_K, np.sqrt(units.total(influence_U**2)), n_units_K - 2)


def cuped(tables: DesignTables) -> Intervals:
    """The difference that is left after what the pre-period foretold (CUPED), unit-clustered.

    Deng, Xu, Kohavi and Walker 2013 (WSDM, equation 3 and its section for ratio metrics):
    value = (R_T - R_C) - theta (X_T - X_C), where X_a is the mean over arm a's visits of the
    unit's covariate, and theta = cov / var of the units' influences on the two differences, the
    choice with the least variance. A unit without a covariate gets the mean over the visits, in
    both arms, of those who have one: it says nothing about them and favours no arm. Student's t
    with the number of units minus 3 degrees of freedom. That theta is estimated counts, too, where
    units are few: with one visit a unit and arms of equal size this is the regression of the
    outcome on the arm and the covariate, to the digit.

    Cannot tell where no unit has a covariate or all have the same.
    """
    units = tables.units
    if units is None:
        return cannot_tell(tables.n_cells)
    n_U = units.n_UA.sum(axis=1)
    is_known = np.isfinite(units.covariate_U)
    x_U = np.where(is_known, units.covariate_U, 0.0)
    n_known_K = units.total(n_U * is_known)
    mean_K = units.total(n_U * x_U) / np.where(n_known_K > 0, n_known_K, np.nan)
    apart_U = np.where(is_known, x_U - mean_K[units.cell_U], 0.0)
    size_K = units.total(np.abs(x_U)) / units.total(is_known).clip(1)
    # equal covariates differ from their mean by rounding only
    apart_U = np.where(np.abs(apart_U) > 1e-10 * size_K[units.cell_U], apart_U, 0.0)

    value_K, influence_U = units.difference(units.sum_UA)
    shift_K, influence_x_U = units.difference(apart_U[:, None] * units.n_UA)
    var_x_K = units.total(influence_x_U**2)
    var_x_K = np.where(var_x_K > 0, var_x_K, np.nan)
    theta_K = units.total(influence_U * influence_x_U) / var_x_K
    left_U = influence_U - theta_K[units.cell_U] * influence_x_U
    n_units_K = units.total(np.ones(len(units.cell_U)))
    df_K = np.where(n_units_K > 3, n_units_K - 3, np.nan)
    # of two parameters and theta, and of theta's error where the arms' covariates differ
    widened_K = (df_K + 1) / df_K + shift_K**2 / (df_K * var_x_K)
    se_K = np.sqrt(units.total(left_U**2) * widened_K)
    return student(value_K - theta_K * shift_K, se_K, df_K)
