"""An effect in percent of control, with Fieller's interval.

Axes: Z cells (one world and label each), A arms (0 = control, 1 = treatment).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numpy as np
import polars as pl
from scipy import stats

from realdataexp.stats.intervals import CONFIDENCE

NUMBERS = ("control_mean", "percent", "percent_se", "percent_low", "percent_high")
RELATIVE_SCHEMA = pl.Schema({**dict.fromkeys(NUMBERS, pl.Float64), "percent_why": pl.String})
NO_ARM = "an arm has no outcome"
NO_ERROR = "too few outcomes or units for a standard error, or they do not vary"
ZERO = "control's mean is 0, of which nothing is a percentage"
NEAR_ZERO = "control's mean cannot be told from 0, so Fieller's set has no end"
OF_METHOD = "this method has no interval in percent; see those of welch and user_cluster"


class Means(NamedTuple):
    """The arms' means, how sure they are, and the degrees of freedom of that."""

    mean_ZA: np.ndarray
    variance_ZA: np.ndarray
    covariance_Z: np.ndarray
    df_Z: np.ndarray


Method = TypeVar("Method", bound=Callable[..., Any])


def in_percent(means: Callable[[Any], Means]) -> Callable[[Method], Method]:
    """Mark an interval method by what its design's tables say of the arms' means."""

    def mark(method: Method) -> Method:
        vars(method)["means"] = means
        return method

    return mark


def relative(means: Means) -> pl.DataFrame:
    """Treatment's mean over control's, less 1, in percent: RELATIVE_SCHEMA, a row per cell.

    The standard error is the delta method's (Deng, Knoblich and Lu 2018, arXiv 1803.06336, section
    3): with rho = m_T / m_C it is sqrt(v_T - 2 rho c + rho^2 v_C) / |m_C|. The interval is
    Fieller's (1954, JRSS B 16:175): every theta for which

        (m_T - theta m_C)^2 <= t^2 (v_T - 2 theta c + theta^2 v_C)

    with t the limit of Student's t. It tends to value +- t se where m_C is many standard errors
    from 0, stays right where it is few, and holds 0 exactly where the interval of m_T - m_C does.
    Where m_C itself is within t standard errors of 0 no bounded set covers (Gleser and Hwang 1987),
    and ``percent_why`` says so. Percent are of the size of m_C, as the effect has its sign.

    Examples:
        Means 12 and 10, with variances 4 and 1, apart from each other:

        >>> means, variances = np.array([[10.0, 12.0]]), np.array([[1.0, 4.0]])
        >>> found = relative(Means(means, variances, np.zeros(1), np.array([9.0])))
        >>> found = found.row(0, named=True)
        >>> round(found["percent"]), round(found["percent_se"], 2)  # 100 sqrt(4 + 1.44) / 10
        (20, 23.32)
    """
    m_C, m_T = means.mean_ZA.T
    v_C, v_T = means.variance_ZA.T
    c, df = means.covariance_Z, np.where(means.df_Z > 0, means.df_Z, np.nan)
    t2 = stats.t.ppf(0.5 + CONFIDENCE / 2, df) ** 2
    with np.errstate(divide="ignore", invalid="ignore"):
        rho = m_T / np.where(m_C != 0, m_C, np.nan)
        se = np.sqrt((v_T - 2 * rho * c + rho**2 * v_C).clip(0)) / np.abs(m_C)
        # theta^2 square - 2 theta half + rest <= 0
        square, half, rest = m_C**2 - t2 * v_C, m_T * m_C - t2 * c, m_T**2 - t2 * v_T
        root = np.sqrt((half**2 - square * rest).clip(0))
        is_bounded = square > 0
        low, high = ((half + x * root) / np.where(is_bounded, square, np.nan) for x in (-1, 1))
    sign = np.sign(m_C)
    low, high = np.where(sign < 0, high, low), np.where(sign < 0, low, high)
    why = np.where(is_bounded, "", NEAR_ZERO)
    why = np.where(np.isfinite(square), why, NO_ERROR)
    why = np.where(m_C == 0, ZERO, why)
    why = np.where(np.isfinite(m_C) & np.isfinite(m_T), why, NO_ARM)
    columns = (m_C, *(100 * sign * x for x in (rho - 1, sign * se, low - 1, high - 1)))
    numbers = dict(zip(RELATIVE_SCHEMA, columns, strict=False))
    frame = pl.DataFrame({**numbers, "percent_why": why}, schema=RELATIVE_SCHEMA)
    return frame.with_columns(pl.when(pl.col(x).is_finite()).then(x).alias(x) for x in numbers)


def without_interval(control_mean_Z: np.ndarray, value_Z: np.ndarray) -> pl.DataFrame:
    """RELATIVE_SCHEMA of a method that says nothing of the arms' means: the percents alone."""
    nothing = np.full(len(value_Z), np.nan)
    means = np.column_stack([control_mean_Z, control_mean_Z + value_Z])
    found = relative(Means(means, np.column_stack([nothing, nothing]), nothing, nothing))
    return found.with_columns(percent_why=pl.lit(OF_METHOD))
