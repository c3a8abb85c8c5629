"""A quantile of an outcome, such as the median or the 90th percentile, for the interval methods.

With q an arm's tau-quantile, F its share of rows up to q and f their density there, a row moves q
by (F - 1[y <= q]) / f (Hampel 1974, JASA 69:383): the mean of

    q + (F - 1[y <= q]) / f

over the arm's rows is q, and its variance, by units where rows depend on each other, is q's (Deng,
Knoblich and Lu 2018, arXiv 1803.06336, section 4.2). So every method that reads outcomes reads
quantiles.

1 / f is the slope of the quantile function between the shares F - h and F + h,

    1 / f = (Q(F + h) - Q(F - h)) / (2 h),

with the bandwidth of Hall and Sheather (1988, JRSS B 50:381) for as many independent rows as would
give F the standard error that it has by units.

Axes: N rows.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import stats

from realdataexp.errors import InputError
from realdataexp.stats.intervals import CONFIDENCE


class Quantile(NamedTuple):
    """A quantile's rows; NaN where the outcome is missing."""

    level: float  # the control's quantile, which is taken off the rows
    linear_N: np.ndarray


def quantile_of(
    name: str, y_N: np.ndarray, tau: float, unit_N: np.ndarray, is_treated_N: np.ndarray
) -> Quantile:
    """The tau-quantiles of both arms, as rows whose means they are.

    An arm's quantile is the least value up to which there is a share tau of its rows.

    Raises:
        InputError: an arm has no rows, or too few beyond its quantile for an interval, or so many
            equal to it that it cannot move. The line says which.
    """
    known_N = np.isfinite(y_N)
    linear_N = np.full(len(y_N), np.nan)
    of_arm = []
    for arm in (False, True):
        on_N = known_N & (is_treated_N == arm)
        who = f"quantiles.{name}: {'the treatment' if arm else 'the control'}"
        if not on_N.any():
            raise InputError(f"{who} has no value; leave the quantile out")
        found = _linear(y_N[on_N], tau, unit_N[on_N], who)
        of_arm.append(found.q)
        linear_N[on_N] = found.linear_N
    return Quantile(of_arm[0], linear_N - of_arm[0])


class _OfArm(NamedTuple):
    q: float
    linear_N: np.ndarray


def _linear(y_N: np.ndarray, tau: float, unit_N: np.ndarray, who: str) -> _OfArm:
    """An arm's quantile, and its rows linearised."""
    ordered_N, n = np.sort(y_N), len(y_N)
    q = _quantile(ordered_N, tau)
    is_below_N = y_N <= q
    share = is_below_N.mean()
    _, unit_N = np.unique(unit_N, return_inverse=True)
    apart_U = np.bincount(unit_N, is_below_N - share)
    n_units = len(apart_U)
    if n_units < 2:
        raise InputError(f"{who} has one unit, which has no spread; leave the quantile out")
    variance = n_units / (n_units - 1) * (apart_U**2).sum() / n**2
    h = _bandwidth(tau, share * (1 - share) / variance) if variance > 0 else 1.0
    low, high = tau - h, tau + h
    if low * n < 1 or high * n > n - 1:
        raise InputError(
            f"{who} has {n:,} rows of {n_units:,} units: too few for an interval of its "
            f"{tau:g} quantile; choose one nearer to the middle, or leave it out"
        )
    slope = (_quantile(ordered_N, high) - _quantile(ordered_N, low)) / (2 * h)
    if slope == 0:
        n_equal = int((y_N == q).sum())
        raise InputError(
            f"{who}: {100 * n_equal / n:.3g} % of its rows equal its {tau:g} quantile, {q:g}, so "
            "that it does not move and has no interval; choose another, or take the share of rows "
            "above a value as the outcome"
        )
    return _OfArm(q, q + (share - is_below_N) * slope)


def _quantile(ordered_N: np.ndarray, tau: float) -> float:
    """The least value up to which there is a share tau (``inverted_cdf`` of NumPy)."""
    n = len(ordered_N)
    return float(ordered_N[min(max(int(np.ceil(n * tau - 1e-9)) - 1, 0), n - 1)])


def _bandwidth(tau: float, n: float) -> float:
    """Of Hall and Sheather, for the 95 % interval of the tau-quantile of n independent rows."""
    z = stats.norm.ppf(tau)
    of_level = stats.norm.ppf(0.5 + CONFIDENCE / 2) ** (2 / 3)
    return float(
        n ** (-1 / 3) * of_level * (1.5 * stats.norm.pdf(z) ** 2 / (2 * z**2 + 1)) ** (1 / 3)
    )
