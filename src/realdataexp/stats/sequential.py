"""Intervals that stay valid however often one looks: always_valid."""

from __future__ import annotations

import math

import numpy as np
from scipy import special

from realdataexp.stats.clustered import user_cluster
from realdataexp.stats.intervals import ALPHA, Intervals
from realdataexp.stats.tables import DesignTables

MIN_UNITS = 6


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
        is_enough_K = units.total(np.ones(len(units.cell_U))) >= MIN_UNITS
        return confidence_sequence(fixed.value, np.where(is_enough_K, fixed.se, np.nan))
    value, se = tables.of_welch("value", "se")
    return confidence_sequence(value, se)
