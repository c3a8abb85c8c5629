"""What each world's experimenter would report, and what all worlds of a design report together.

The estimand is the effect per visit: mean outcome of treated visits minus that of control visits.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import polars as pl
from scipy import stats

from realdataexp.stats.multiplicity import adjust
from realdataexp.stats.starts import mean_over_worlds

ESTIMAND = "mean_per_visit"
CONFIDENCE = 0.95


def world_estimates(outcomes: pl.DataFrame) -> pl.DataFrame:
    """Difference in means of every design, world and label, with Welch's interval.

    Visits are taken as independent, as a plain two-sample test does (Welch 1947, Biometrika
    34:28); a training loop correlates an arm's visits, so the interval may be too narrow.

    Args:
        outcomes: the table of outcomes.parquet.

    Returns:
        One row per design, world and label: design, world, label, estimand, value, se, ci_low,
        ci_high, p_value, se_method, n_T, n_C; value and what follows are null where an arm has
        no outcome, se and what follows where an arm has fewer than two.

    Examples:
        Three of four treated visits clicked, one of four in control:

        >>> outcomes = pl.DataFrame({
        ...     "design": ["pooling"] * 2, "world": [0, 0], "label": ["click"] * 2,
        ...     "arm": ["T", "C"], "n": [4, 4], "sum": [3.0, 1.0], "sum_sq": [3.0, 1.0],
        ... })
        >>> estimate = world_estimates(outcomes).row(0, named=True)
        >>> estimate["value"], round(estimate["se"], 4)  # 3/4 - 1/4, sqrt(2 x 3/16 x 4/3 / 4)
        (0.5, 0.3536)
    """
    keys = ["design", "world", "label"]
    sums = outcomes.group_by([*keys, "arm"], maintain_order=True).agg(
        pl.col("n", "sum", "sum_sq").cast(pl.Float64).sum()
    )
    arms = [
        sums.filter(pl.col("arm") == arm).select(
            *keys, pl.col("n", "sum", "sum_sq").name.suffix(f"_{arm}")
        )
        for arm in ("T", "C")
    ]
    both = (
        sums.select(keys)
        .unique(maintain_order=True)
        .join(arms[0], on=keys, how="left", maintain_order="left")
        .join(arms[1], on=keys, how="left", maintain_order="left")
    )
    rows = [
        _welch(*(row[f"{x}_{arm}"] for arm in "TC" for x in ("n", "sum", "sum_sq")))
        for row in both.iter_rows(named=True)
    ]
    columns = ["value", "se", "ci_low", "ci_high", "p_value"]
    found = pl.DataFrame(rows, schema=dict.fromkeys(columns, pl.Float64), orient="row")
    return both.select(
        *keys,
        pl.lit(ESTIMAND).alias("estimand"),
        *(found[c] for c in columns),
        pl.lit("welch").alias("se_method"),
        pl.col("n_T").fill_null(0).cast(pl.Int64),
        pl.col("n_C").fill_null(0).cast(pl.Int64),
    )


def _welch(
    n_t: float | None, sum_t: float, sq_t: float, n_c: float | None, sum_c: float, sq_c: float
) -> tuple[float | None, ...]:
    """Value, standard error, interval and p-value from the arms' sums."""
    if not n_t or not n_c:
        return (None,) * 5
    mean_t, mean_c = sum_t / n_t, sum_c / n_c
    value = mean_t - mean_c
    if n_t < 2 or n_c < 2:
        return (value, None, None, None, None)
    # a sum of squares minus a square can come out a hair below zero
    part_t = max(0.0, (sq_t - n_t * mean_t**2) / (n_t - 1)) / n_t
    part_c = max(0.0, (sq_c - n_c * mean_c**2) / (n_c - 1)) / n_c
    se = math.sqrt(part_t + part_c)
    if se == 0.0:
        return (value, 0.0, value, value, None)
    df = (part_t + part_c) ** 2 / (part_t**2 / (n_t - 1) + part_c**2 / (n_c - 1))
    half = float(stats.t.ppf(0.5 + CONFIDENCE / 2, df)) * se
    p_value = 2.0 * float(stats.t.sf(abs(value) / se, df))
    return (value, se, value - half, value + half, p_value)


def summarise(estimates: pl.DataFrame, n_starts: int = 1) -> list[dict[str, Any]]:
    """One entry per design and label: the mean over worlds with the interval of that mean.

    With several worlds the standard error comes from how the worlds' estimates vary
    (``se_method`` "between_worlds", given the starting model), with several starting models from
    how these vary ("between_starts"); with one world it is that world's own. ``p_adjusted`` is the
    p-value by Holm's method over the labels of a design.
    """
    entries = []
    for (design, label), group in estimates.group_by(["design", "label"], maintain_order=True):
        known = group.filter(pl.col("value").is_not_null())
        base = {"design": design, "label": label, "estimand": ESTIMAND, "n_worlds": known.height}
        if known.height == 1:
            one = known.row(0, named=True)
            names = ("value", "se", "ci_low", "ci_high", "p_value", "se_method")
            entries.append({**base, **{name: one[name] for name in names}})
        else:
            value, world = known["value"].to_numpy(), known["world"].to_numpy()
            entries.append({**base, **between_worlds(value, world, n_starts)})
    return _adjusted(entries)


def _adjusted(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The entries, with each design's p-values adjusted for its labels."""
    for design in dict.fromkeys(entry["design"] for entry in entries):
        ours = [entry for entry in entries if entry["design"] == design]
        p = adjust(np.array([entry["p_value"] for entry in ours], dtype=np.float64))
        for entry, x in zip(ours, p.tolist(), strict=True):
            entry["p_adjusted"] = x if math.isfinite(x) else None
    return entries


def between_worlds(value_W: np.ndarray, world_W: np.ndarray, n_starts: int = 1) -> dict[str, Any]:
    """Mean of worlds' values with Student's t interval; nulls where there is none.

    See ``starts.mean_over_worlds``.

    Examples:
        >>> found = between_worlds(np.array([1.0, 2.0, 3.0]), np.arange(3))
        >>> found["value"], round(found["se"], 4)  # 1 / sqrt(3)
        (2.0, 0.5774)
        >>> round(found["ci_high"], 3)  # 2 + 4.303 x 0.5774, with 2 degrees of freedom
        4.484
    """
    mean, se, df = mean_over_worlds(value_W, world_W, n_starts)
    out: dict[str, Any] = {"value": mean, "se": se}
    out |= dict.fromkeys(("ci_low", "ci_high", "p_value"))
    out["se_method"] = "between_worlds" if n_starts == 1 else "between_starts"
    if mean is not None and se is not None:
        half = float(stats.t.ppf(0.5 + CONFIDENCE / 2, df)) * se
        p_value = 2.0 * float(stats.t.sf(abs(mean) / se, df)) if se > 0 else None
        out.update(ci_low=mean - half, ci_high=mean + half, p_value=p_value)
    return out
