"""A ratio of two outcomes, such as minutes watched per minute offered, for the interval methods.

Axes: N rows.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from realdataexp.errors import InputError


class Ratio(NamedTuple):
    """A ratio's rows, both parts divided by the denominator's mean; NaN where one is missing."""

    level: float  # the ratio of both arms, which is taken off the numerator
    numerator_N: np.ndarray
    denominator_N: np.ndarray
    linear_N: np.ndarray


def ratio_of(name: str, y_N: np.ndarray, x_N: np.ndarray, is_treated_N: np.ndarray) -> Ratio:
    """The ratio sum(y) / sum(x) of an arm, as sums for units and linearised for rows.

    A unit with the denominator x weighs in an arm's ratio what one with x visits weighs in a mean
    per visit, so methods of units read x in place of the number of visits. For rows, an arm's
    ratio is the mean of R + (y - R x) / mean(x), whose variance is the delta method's (Deng,
    Knoblich and Lu 2018, arXiv 1803.06336, section 3).

    Raises:
        InputError: a denominator is below 0, or an arm has none above.
    """
    known = np.isfinite(y_N) & np.isfinite(x_N)
    if (x_N[known] < 0).any():
        row = int(np.flatnonzero(known & (x_N < 0))[0])
        raise InputError(
            f"ratios.{name}: the denominator is {x_N[row]:g} in row {row} (from 0); must be 0 or "
            "more: leave these rows out"
        )
    arms = [known & (is_treated_N == arm) for arm in (False, True)]
    if not all(x_N[arm].sum() > 0 for arm in arms):
        raise InputError(f"ratios.{name}: the denominators of an arm sum to 0; leave the ratio out")
    scale, level = x_N[known].mean(), y_N[known].sum() / x_N[known].sum()
    y_N = np.where(known, y_N - level * x_N, np.nan) / scale
    x_N = np.where(known, x_N, np.nan) / scale
    linear_N = np.full_like(y_N, np.nan)
    for arm in arms:
        y, x = y_N[arm], x_N[arm]
        ratio = y.sum() / x.sum()
        linear_N[arm] = ratio + (y - ratio * x) / x.mean()
    return Ratio(float(level), y_N, x_N, linear_N)
