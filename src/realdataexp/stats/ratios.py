"""A ratio of two outcomes, such as minutes watched per minute offered, for the interval methods.

A row's part in an arm's ratio R = sum(y) / sum(x) is R + (y - R x) / mean(x): its mean is R, and
its variance that of the delta method (Deng, Knoblich and Lu 2018, arXiv 1803.06336, section 3). So
every method that reads outcomes reads ratios, and a unit's sum of such rows moves R as the delta
method for units says: by (sum of its y - R times its sum of x) / sum(x).

Axes: N rows; W worlds, B visits of a step, X visits of a whole run, A arms, K ratios, L labels,
U users.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import polars as pl

from realdataexp.errors import InputError
from realdataexp.stats.aggregates import OUTCOME_SCHEMA, arm_sums

_SUMS = ("numerator", "denominator", "product")  # what is summed of a ratio in each step


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
        linear_N[arm] = linear(y_N[arm], x_N[arm])
    return Ratio(float(level), y_N, x_N, linear_N)


def linear(y_N: np.ndarray, x_N: np.ndarray) -> np.ndarray:
    """An arm's rows, linearised; NaN where one of the two is missing, or the x sum to 0.

    Examples:
        The ratio is 3 / 6, and so is the mean of the rows:

        >>> linear(np.array([1.0, 2.0]), np.array([4.0, 2.0])).tolist()
        [0.16666666666666669, 0.8333333333333333]
    """
    known_N = np.isfinite(y_N) & np.isfinite(x_N)
    y, x = y_N[known_N].astype(np.float64), x_N[known_N].astype(np.float64)
    linear_N, total = np.full(len(y_N), np.nan), x.sum()
    if total > 0:
        ratio = y.sum() / total
        linear_N[known_N] = ratio + (y - ratio * x) / x.mean()
    return linear_N


# --- of a run's worlds ---------------------------------------------------------------------------


def sum_names(ratios: Sequence[str]) -> list[str]:
    """What ``ratio_sums`` are called in the table of ``linear_outcomes``."""
    return [f"{name} {what}" for name in ratios for what in _SUMS]


def ratio_sums(is_treated_WB: np.ndarray, y_WBX: np.ndarray) -> np.ndarray:
    """``arm_sums`` of numerators, denominators and their products: W, A, 3 K, 3.

    The last axis of y is a numerator and a denominator for each ratio; a visit without one of them
    does not count.
    """
    pair_WBK2 = y_WBX.astype(np.float64).reshape(*y_WBX.shape[:2], -1, 2)
    known_WBK1 = np.isfinite(pair_WBK2).all(-1, keepdims=True)
    parts_WBK3 = np.concatenate([pair_WBK2, pair_WBK2.prod(-1, keepdims=True)], axis=-1)
    parts_WBK3 = np.where(known_WBK1, parts_WBK3, np.nan)
    return arm_sums(is_treated_WB, parts_WBK3.reshape(*y_WBX.shape[:2], -1))


def linear_outcomes(sums: pl.DataFrame, ratios: Sequence[str]) -> pl.DataFrame:
    """Rows of outcomes.parquet for ratios: counts, sums and squares of linearised visits.

    The sums are rows of OUTCOME_SCHEMA by ``sum_names``. R and mean(x) are those of the world's arm
    over all steps, so a ratio has no row where an arm's denominators sum to 0.
    """
    keys, worlds = ["design", "world", "step", "arm"], ["design", "world", "arm"]
    frames = [pl.DataFrame(schema=OUTCOME_SCHEMA)]
    for name in ratios:
        y, x, xy = (
            sums.filter(pl.col("label") == f"{name} {what}").select(
                *keys, "n", pl.col("sum", "sum_sq").name.suffix(f"_{what}")
            )
            for what in _SUMS
        )
        both = y.join(x.drop("n"), on=keys, how="inner", maintain_order="left")
        both = both.join(xy.drop("n"), on=keys, how="inner", maintain_order="left")
        total = pl.col("sum_denominator").sum().over(worlds)
        both = both.with_columns(
            ratio=pl.col("sum_numerator").sum().over(worlds) / total,
            mean=total / pl.col("n").sum().over(worlds),
        ).filter(pl.col("mean") > 0)
        n, r, m = pl.col("n"), pl.col("ratio"), pl.col("mean")
        apart = (pl.col("sum_numerator") - r * pl.col("sum_denominator")) / m
        apart_sq = (
            pl.col("sum_sq_numerator")
            - 2 * r * pl.col("sum_product")
            + r**2 * pl.col("sum_sq_denominator")
        ) / m**2
        linearised = both.with_columns(
            label=pl.lit(name), sum=n * r + apart, sum_sq=n * r**2 + 2 * r * apart + apart_sq
        )
        frames.append(linearised.select(OUTCOME_SCHEMA.names()).cast(OUTCOME_SCHEMA))
    return pl.concat(frames)


def linear_visits(
    is_treated_WX: np.ndarray, y_WXL: np.ndarray, n_ratios: int, *, by_arm: bool = True
) -> np.ndarray:
    """Visits' outcomes with their ratios linearised by world and arm: float64 W, X, L + K.

    The last 2 K of y are numerators and denominators, as in ``ratio_sums``. Not ``by_arm``, both
    arms' rows are around one ratio: then a visit has the same value in either arm where its
    outcomes are the same, and a difference of the arms' means is that of the ratios to first order.
    """
    n = y_WXL.shape[-1] - 2 * n_ratios
    out = np.full((*y_WXL.shape[:2], n + n_ratios), np.nan)
    out[..., :n] = y_WXL[..., :n]
    for w, is_treated_X in enumerate(is_treated_WX):
        for k in range(n_ratios):
            y_X2 = y_WXL[w, :, n + 2 * k : n + 2 * k + 2]
            arms = (is_treated_X, ~is_treated_X) if by_arm else (np.ones_like(is_treated_X),)
            for arm in arms:
                out[w, arm, n + k] = linear(*y_X2[arm].T)
    return out


def before(mean_UX: np.ndarray, n_ratios: int) -> np.ndarray:
    """Users' mean outcomes before a test with the ratios of two means in place of these: U, L + K.

    The last 2 K are a numerator's and a denominator's mean for each ratio; NaN where one is
    unknown, or the denominator's is 0.
    """
    n = mean_UX.shape[1] - 2 * n_ratios
    y_UK, x_UK = mean_UX[:, n::2], mean_UX[:, n + 1 :: 2]
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio_UK = np.where(x_UK > 0, y_UK / x_UK, np.nan)
    return np.concatenate([mean_UX[:, :n], ratio_UK], axis=1)
