"""What an interval method answers: one estimate with its interval for each cell.

A *cell* is one world and label of a design (axis Z). NaN stands for "cannot tell" and becomes null
in tables. Every method's interval excludes 0 exactly where its p-value is at most 0.05 (an interval
of one point has no p-value).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import numpy as np
import polars as pl
from scipy import stats

CONFIDENCE = 0.95
ALPHA = 0.05


@dataclass(frozen=True)
class Intervals:
    """Estimates, standard errors, 95 % intervals and p-values: float64 Z each."""

    value: np.ndarray
    se: np.ndarray
    ci_low: np.ndarray
    ci_high: np.ndarray
    p_value: np.ndarray

    def columns(self) -> list[pl.Series]:
        """As columns of a table, null where a number is not finite."""
        columns = []
        for field in fields(self):
            x = np.asarray(getattr(self, field.name), dtype=np.float64)
            columns.append(pl.Series(field.name, x).set(pl.Series(~np.isfinite(x)), None))
        return columns


Method = TypeVar("Method", bound=Callable[..., Intervals])


def of_units(method: Method) -> Method:
    """Mark an interval method that reads the units' table: it is left out where there is none."""
    vars(method)["needs_units"] = True
    return method


def of_picks(method: Method) -> Method:
    """Mark a method that reads at which visits the arms' picks differ: recorded if one is named."""
    vars(method)["needs_picks"] = True
    return method


def of_foretold(method: Method) -> Method:
    """Mark a method that reads what the models predicted of both arms' picks; see ``of_picks``."""
    vars(method)["needs_foretold"] = True
    return of_picks(method)


def compares(what: str, applies: Callable[[Any], bool]) -> Callable[[Method], Method]:
    """Mark an estimator by what it compares; it is left out where that is not there.

    ``applies`` says so of a design's tables (``tables.DesignTables``).
    """

    def mark(method: Method) -> Method:
        vars(method).update(compares=what, applies=applies)
        return method

    return mark


def cannot_tell(n_cells: int) -> Intervals:
    """Nothing for any cell."""
    return Intervals(*np.full((5, n_cells), np.nan))


def student(value_Z: np.ndarray, se_Z: np.ndarray, df_Z: np.ndarray) -> Intervals:
    """Student's t interval and two-sided p-value.

    A standard error of 0 gives an interval of one point and no p-value.
    """
    df_Z = np.where(df_Z > 0, df_Z, np.nan)
    half_Z = stats.t.ppf(0.5 + CONFIDENCE / 2, df_Z) * se_Z
    with np.errstate(divide="ignore", invalid="ignore"):
        p_Z = 2.0 * stats.t.sf(np.abs(value_Z) / se_Z, df_Z)
    p_Z = np.where(se_Z > 0, p_Z, np.nan)
    return Intervals(value_Z, se_Z, value_Z - half_Z, value_Z + half_Z, p_Z)


def rejects(inference: pl.DataFrame) -> pl.Series:
    """Whether each row's interval excludes 0, null where it has none."""
    return inference.select((pl.col("ci_low") > 0) | (pl.col("ci_high") < 0)).to_series()


def adjust(p_values: np.ndarray) -> np.ndarray:
    """P-values by Holm's method, which bounds the chance of any false rejection (Holm 1979).

    As ``statsmodels.stats.multitest.multipletests`` gives (the tests compare), which takes one
    family a call and, at 20 ms a call, minutes for the worlds of a run.

    Args:
        p_values: the last axis is a family of tests, the axes before it are families; NaN stays
            NaN and is no test of its family.

    Examples:
        The smallest of three p-values counts three times, the next twice:

        >>> adjust(np.array([0.01, 0.5, 0.02])).tolist()
        [0.03, 0.5, 0.04]
    """
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, axis=-1)  # NaN last
    p_sorted = np.take_along_axis(p, order, axis=-1)
    n_left = np.isfinite(p).sum(axis=-1, keepdims=True) - np.arange(p.shape[-1])
    adjusted = np.maximum.accumulate(p_sorted * n_left, axis=-1)
    out = np.full_like(p, np.nan)
    np.put_along_axis(out, order, np.minimum(adjusted, 1.0), axis=-1)
    return np.where(np.isfinite(p), out, np.nan)


def adjust_labels(inference: pl.DataFrame) -> pl.DataFrame:
    """The table with ``p_adjusted``: a family is the labels of one design, world and method."""
    family = pl.struct("design", "world", "se_method").rank("dense") - 1
    family_N, label_N = (
        inference.select(x).to_series().cast(pl.Int64).to_numpy()
        for x in (family, pl.col("label").rank("dense") - 1)
    )
    p_FL = np.full((family_N.max(initial=-1) + 1, label_N.max(initial=-1) + 1), np.nan)
    p_FL[family_N, label_N] = inference["p_value"].fill_null(float("nan")).to_numpy()
    adjusted = pl.Series("p_adjusted", adjust(p_FL)[family_N, label_N])
    return inference.with_columns(adjusted.cast(pl.Float64).fill_nan(None))
