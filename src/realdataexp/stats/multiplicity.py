"""Several labels are several chances to be wrong: p-values adjusted for them."""

from __future__ import annotations

from typing import Literal

import numpy as np
import polars as pl

Method = Literal["holm", "fdr_bh"]


def adjust(p_values: np.ndarray, method: Method = "holm") -> np.ndarray:
    """Adjusted p-values; the last axis is a family of tests, the axes before it are families.

    As ``statsmodels.stats.multitest.multipletests`` gives (the tests compare), which takes one
    family a call and, at 20 ms a call, minutes for the worlds of a run.

    Args:
        p_values: NaN stays NaN and is no test of its family.
        method: "holm" bounds the chance of any false rejection (Holm 1979), "fdr_bh" the share of
            false ones among the rejections (Benjamini and Hochberg 1995).

    Raises:
        ValueError: another method.

    Examples:
        Holm: the smallest of three p-values counts three times, the next twice:

        >>> adjust(np.array([0.01, 0.5, 0.02])).tolist()
        [0.03, 0.5, 0.04]
    """
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, axis=-1)  # NaN last
    p_sorted = np.take_along_axis(p, order, axis=-1)
    n_tests = np.isfinite(p).sum(axis=-1, keepdims=True)
    rank = np.arange(p.shape[-1])
    if method == "holm":
        adjusted = np.maximum.accumulate(p_sorted * (n_tests - rank), axis=-1)
    elif method == "fdr_bh":
        steps = (p_sorted * n_tests / (rank + 1))[..., ::-1]
        adjusted = np.fmin.accumulate(steps, axis=-1)[..., ::-1]
    else:
        raise ValueError(f"method '{method}', must be holm or fdr_bh")
    out = np.full_like(p, np.nan)
    np.put_along_axis(out, order, np.minimum(adjusted, 1.0), axis=-1)
    return np.where(np.isfinite(p), out, np.nan)


def adjust_labels(inference: pl.DataFrame, method: Method = "holm") -> pl.DataFrame:
    """The table with ``p_adjusted``: a family is the labels of one design, world and method."""
    family = pl.struct("design", "world", "se_method").rank("dense") - 1
    family_N, label_N = (
        inference.select(x).to_series().cast(pl.Int64).to_numpy()
        for x in (family, pl.col("label").rank("dense") - 1)
    )
    p_FL = np.full((family_N.max(initial=-1) + 1, label_N.max(initial=-1) + 1), np.nan)
    p_FL[family_N, label_N] = inference["p_value"].fill_null(float("nan")).to_numpy()
    adjusted = pl.Series("p_adjusted", adjust(p_FL, method)[family_N, label_N])
    return inference.with_columns(adjusted.cast(pl.Float64).fill_nan(None))
