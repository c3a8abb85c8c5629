"""Intervals that take units, not visits, as what was randomised.

``user_cluster`` and ``cuped`` are for a single look; ``always_valid`` stays valid however often one
looks.

A unit is a user, or what else the design gave an arm as one (a cluster of users, a block of
steps). Its visits resemble each other, so an arm holds less information than its number of visits
says, and an interval that takes visits as independent is too narrow.

The first two are regressions of the visits' outcomes on the arm (and what was foretold) with the
cluster-robust variance CR2 and Satterthwaite degrees of freedom (Bell and McCaffrey 2002, Survey
Methodology 28:169; Imbens and Kolesár 2016, Review of Economics and Statistics 98:701), which hold
where units are few and unequal: there the plain sandwich variance is too small, and the number of
units says too much about how well it is known.
"""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
from scipy import special

from realdataexp.stats.intervals import ALPHA, Intervals, cannot_tell, of_units, student
from realdataexp.stats.relative import Means, in_percent
from realdataexp.stats.tables import DesignTables, Units

MIN_UNITS = 6  # for always_valid
Fit = tuple[np.ndarray, np.ndarray, np.ndarray]
_ROUNDING = 1e-10  # equal covariates differ from their mean by less of their size
LEVERAGE = 1e-9  # a unit that fits itself but for this leaves no residual to tell its variance


def _means(tables: DesignTables) -> Means:
    """The arms' means per visit and their variances CR2, of which user_cluster's is made."""
    units = tables.units
    if units is None:
        nothing_ZA = np.full((tables.n_cells, 2), np.nan)
        return Means(nothing_ZA, nothing_ZA, nothing_ZA[:, 0], nothing_ZA[:, 0])
    _, influence_UA, df_Z = fitted(units, None)
    variance_ZA = np.column_stack([units.total(influence_UA[:, a] ** 2) for a in (0, 1)])
    # control's mean enters the difference with a minus
    covariance_Z = -units.total(influence_UA[:, 0] * influence_UA[:, 1])
    return Means(units.ratios(units.sum_UA), variance_ZA, covariance_Z, df_Z)


@in_percent(_means)
@of_units
def user_cluster(tables: DesignTables) -> Intervals:
    """Difference of the arms' means per visit, with the variance CR2 of units as clusters.

    Cannot tell where an arm has one unit.
    """
    units = tables.units
    return cannot_tell(tables.n_cells) if units is None else regression(units, None)


@of_units
def cuped(tables: DesignTables) -> Intervals:
    """The difference that is left after what the pre-period foretold (CUPED), with CR2.

    Deng, Xu, Kohavi and Walker 2013 (WSDM): value = (R_T - R_C) - theta (X_T - X_C), where X_a is
    the mean over arm a's visits of the unit's covariate, and theta the coefficient of the covariate
    beside the arm's in a regression of the visits' outcomes. That theta is estimated counts, too:
    the covariate is a column of the regression whose variance CR2 is. A unit without a covariate
    gets the mean over the visits, in both arms, of those who have one: it says nothing about them
    and favours no arm.

    Cannot tell where no unit has a covariate or all have the same.
    """
    units = tables.units
    return cannot_tell(tables.n_cells) if units is None else adjusted(units)


def adjusted(units: Units) -> Intervals:
    """The difference that is left after the units' covariate; see ``cuped``."""
    n_U = units.n_UA.sum(axis=1)
    is_known = np.isfinite(units.covariate_U)
    x_U = np.where(is_known, units.covariate_U, 0.0)
    n_known_Z = units.total(n_U * is_known)
    mean_Z = units.total(n_U * x_U) / np.where(n_known_Z > 0, n_known_Z, np.nan)
    size_Z = units.total(np.abs(x_U)) / units.total(is_known).clip(1)
    scale_Z = np.where(size_Z > 0, size_Z, np.nan)
    apart_U = np.where(is_known, x_U - mean_Z[units.cell_U], 0.0) / scale_Z[units.cell_U]
    return regression(units, apart_U)


def regression(units: Units, x_U: np.ndarray | None) -> Intervals:
    """The effect in ``fitted``, with its variance CR2 and Student's t."""
    value_Z, influence_UA, df_Z = fitted(units, x_U)
    return student(value_Z, np.sqrt(units.total(influence_UA.sum(1) ** 2)), df_Z)


def fitted(units: Units, x_U: np.ndarray | None) -> Fit:
    """Visits' outcomes on a column for each arm and, if given, one for the units' covariate.

    All that is needed of a unit's visits are their number and sum in each arm, as the columns are
    the same for all of them. With the covariate centred in each arm the columns are orthogonal, so
    with N their squared lengths and c_u what a visit of unit u weighs in the effect:

    - H_u, the unit's block of the hat matrix, acts on two numbers, one for each arm's visits;
    - CR2 = sum of squares of v_u' e_u over units, v_u = (I - H_u)^(-1/2) c_u, e_u the residuals;
    - its degrees of freedom are (tr P)^2 / tr P^2, P_uw = v_u' (I - H)_uw v_w: the Satterthwaite
      approximation if visits were independent.

    Axes: D columns of the regression: control, treatment, covariate.

    Returns:
        The effect (Z), v_u' e_u split by the arm of the visits (U, A), the degrees of freedom (Z).
    """
    if x_U is not None:
        return _fitted(units, x_U)
    if "fitted" not in units.known:  # several methods ask for it
        units.known["fitted"] = _fitted(units, None)
    found: Fit = units.known["fitted"]
    return found


def _fitted(units: Units, x_U: np.ndarray | None) -> Fit:
    cell = units.cell_U
    n_UA, root_UA = units.n_UA, np.sqrt(units.n_UA)
    ratio_ZA = units.ratios(units.sum_UA)
    value_Z, residual_UA = ratio_ZA[:, 1] - ratio_ZA[:, 0], units.sum_UA - ratio_ZA[cell] * n_UA
    # an orthonormal column's entry at the visits of each arm and unit
    column_ADU = np.zeros((2, 2 if x_U is None else 3, len(cell)))
    column_ADU[[0, 1], [0, 1]] = (units.n_ZA.clip(1) ** -0.5).T[:, cell]
    effect_ZD = np.array([-1.0, 1.0]) * units.n_ZA.clip(1) ** -0.5
    if x_U is not None:
        mean_ZA = units.ratios(x_U[:, None] * n_UA)
        x_UA = x_U[:, None] - mean_ZA[cell]
        x_UA = np.where(np.abs(x_UA) > _ROUNDING, x_UA, 0.0)
        square_Z = units.total((n_UA * x_UA**2).sum(1))
        square_Z = np.where(square_Z > 0, square_Z, np.nan)
        theta_Z = units.total((x_UA * units.sum_UA).sum(1)) / square_Z
        shift_Z = mean_ZA[:, 1] - mean_ZA[:, 0]
        value_Z = value_Z - theta_Z * shift_Z
        residual_UA = residual_UA - theta_Z[cell, None] * x_UA * n_UA
        column_ADU[:, 2] = x_UA.T / np.sqrt(square_Z)[cell]
        effect_ZD = np.column_stack([effect_ZD, -shift_Z / np.sqrt(square_Z)])

    # per unit, in the orthonormal basis of "the visits of one arm"
    of_C_DU, of_T_DU = column_ADU * root_UA.T[:, None]
    effect_DU = effect_ZD.T[:, cell]
    weight_C_U, weight_T_U = _inverse_root(
        (1 - (of_C_DU**2).sum(0), -(of_C_DU * of_T_DU).sum(0), 1 - (of_T_DU**2).sum(0)),
        ((of_C_DU * effect_DU).sum(0), (of_T_DU * effect_DU).sum(0)),
    )
    weight_UA = np.column_stack([weight_C_U, weight_T_U])
    influence_UA = weight_UA * residual_UA / np.where(n_UA > 0, root_UA, 1.0)
    q_DU = of_C_DU * weight_C_U + of_T_DU * weight_T_U
    own_U, q2_U = weight_C_U**2 + weight_T_U**2, (q_DU**2).sum(0)
    square_Z = units.total((own_U - q2_U) ** 2 - q2_U**2)
    square_Z = square_Z + sum(units.total(q_U**2) ** 2 for q_U in q_DU)
    square_Z = square_Z + 2 * sum(units.total(a * b) ** 2 for a, b in combinations(q_DU, 2))
    df_Z = units.total(own_U - q2_U) ** 2 / np.where(square_Z > 0, square_Z, np.nan)
    return value_Z, influence_UA, df_Z


def _inverse_root(
    matrix_3U: tuple[np.ndarray, ...], vector_2U: tuple[np.ndarray, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """matrix^(-1/2) vector, of symmetric 2 x 2 matrices; NaN where one is not positive definite.

    A matrix is its upper triangle, row by row.

    By Cayley and Hamilton the root is (matrix + d) / sqrt(trace + 2 d), d the root of the
    determinant.
    """
    a, b, c = matrix_3U
    determinant = a * c - b * b
    d = np.sqrt(np.where(determinant > LEVERAGE, determinant, np.nan))
    scale = np.sqrt(a + c + 2 * d) / ((a + d) * (c + d) - b * b)
    x, y = vector_2U
    return ((c + d) * x - b * y) * scale, ((a + d) * y - b * x) * scale


# --- valid however often one looks ---------------------------------------------------------------


def planned_information(alpha: float = ALPHA) -> float:
    """The information t rho^2 at which the confidence sequence is relatively tightest.

    rho is chosen so that this falls on the planned end: the minimum over r of
    (1 + 1/r) log((1 + r)/alpha^2) is at r = -W_{-1}(-alpha^2/e) - 1, about 8.2 for 5 %.
    """
    return float(-special.lambertw(-(alpha**2) / math.e, -1).real - 1.0)


def confidence_sequence(
    value: np.ndarray, se: np.ndarray, fraction: float | np.ndarray = 1.0, alpha: float = ALPHA
) -> Intervals:
    """Asymptotic confidence sequence, at one of the looks.

    Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas, arXiv 2103.06476, equation 2 (Robbins' normal
    mixture): value +- se sqrt((1 + 1/r) log((1 + r)/alpha^2)) with r = t rho^2. All looks of an
    experiment together exclude the truth with a chance of alpha at most, in large samples. The
    p-value is the smallest alpha that would exclude 0 (the mixture sequential probability ratio
    test of Johari, Koomen, Pekelis and Walsh, arXiv 1512.04922).

    Args:
        value: estimates from all the visits until this look.
        se: their standard errors.
        fraction: the share of the planned visits that has been seen; beyond 1 is allowed.
        alpha: the chance of an error over all looks.

    Examples:
        At the planned end it is 1.55 times as wide as a z interval (1.96 standard errors):

        >>> looked = confidence_sequence(np.array([5.0]), np.array([1.0]))
        >>> round(float(looked.ci_high[0] - 5.0) / 1.96, 2)
        1.55
    """
    r = planned_information(alpha) * np.asarray(fraction, dtype=np.float64)
    half = np.sqrt((1 + 1 / r) * np.log((1 + r) / alpha**2)) * se
    with np.errstate(divide="ignore", invalid="ignore"):
        z2 = (value / se) ** 2
        p_value = np.minimum(1.0, np.sqrt(1 + r) * np.exp(-0.5 * z2 * r / (1 + r)))
    p_value = np.where(se > 0, p_value, np.nan)
    return Intervals(value, se, value - half, value + half, p_value)


def always_valid(tables: DesignTables) -> Intervals:
    """The confidence sequence at the planned end, where it is 1.55 times as wide as a z interval.

    Its standard error is user_cluster's; where every visit is a unit of its own, Welch's. Cannot
    tell with fewer than 6 units: there Student's interval for a single look would be wider.
    """
    units = tables.units
    if units is not None:
        fixed = user_cluster(tables)
        is_enough_Z = units.total(np.ones(len(units.cell_U))) >= MIN_UNITS
        return confidence_sequence(fixed.value, np.where(is_enough_Z, fixed.se, np.nan))
    value, se = tables.of_welch("value", "se")
    return confidence_sequence(value, se)
