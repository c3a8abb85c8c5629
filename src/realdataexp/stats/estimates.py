"""What each world's experimenter would report, and what all worlds of a design report together.

The estimand is the effect per visit: mean outcome of treated visits minus that of control visits.

Axes: W worlds.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from scipy import stats

from realdataexp.stats.intervals import CONFIDENCE, adjust
from realdataexp.stats.relative import RELATIVE_SCHEMA, Means, relative

ESTIMAND = "mean_per_visit"
TRUTH = "global"


def world_estimates(outcomes: pl.DataFrame) -> pl.DataFrame:
    """Difference in means of every design, world and label, with Welch's interval.

    Visits are taken as independent, as a plain two-sample test does (Welch 1947, Biometrika
    34:28); a training loop correlates an arm's visits, so the interval may be too narrow.

    A row per design, world and label of outcomes.parquet: design, world, label, estimand, value,
    se, ci_low, ci_high, p_value, se_method, n_T, n_C; value and what follows are null where an arm
    has no outcome, se and what follows where an arm has fewer than two.

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
    p-value by Holm's method over the labels of a design. The effect in percent of control
    (``relative.relative``, of the means over worlds) has an interval from the same source.

    Args:
        estimates: Welch's rows of estimates.parquet.
        n_starts: how many starting models the run has.
    """
    entries = []
    for (design, label), group in estimates.group_by(["design", "label"], maintain_order=True):
        known = group.filter(pl.col("value").is_not_null())
        base = {"design": design, "label": label, "estimand": ESTIMAND, "n_worlds": known.height}
        if known.height == 1:
            one = known.row(0, named=True)
            names = ("value", "se", "ci_low", "ci_high", "p_value", "se_method")
            entries.append({**base, **{name: one[name] for name in (*names, *RELATIVE_SCHEMA)}})
        else:
            value, world = known["value"].to_numpy(), known["world"].to_numpy()
            control = known["control_mean"].to_numpy()
            percent = _relative_of_worlds(control, value, world, n_starts)
            entries.append({**base, **between_worlds(value, world, n_starts), **percent})
    for design in dict.fromkeys(entry["design"] for entry in entries):
        ours = [entry for entry in entries if entry["design"] == design]
        p = adjust(np.array([entry["p_value"] for entry in ours], dtype=np.float64))
        for entry, x in zip(ours, p.tolist(), strict=True):
            entry["p_adjusted"] = x if math.isfinite(x) else None
    return entries


def _relative_of_worlds(
    control_W: np.ndarray, value_W: np.ndarray, world_W: np.ndarray, n_starts: int
) -> dict[str, Any]:
    """The mean of the worlds' effects in percent of the mean of their control means."""
    control, treated, value = (
        mean_over_worlds(x, world_W, n_starts) for x in (control_W, control_W + value_W, value_W)
    )
    v_C, v_T, v = ((np.nan if x.se is None else x.se) ** 2 for x in (control, treated, value))
    means, variances = ([[a, b]] for a, b in ((control.value, treated.value), (v_C, v_T)))
    df = np.array([control.df], dtype=np.float64)
    found = Means(
        np.array(means, dtype=np.float64), np.array(variances), np.array([(v_C + v_T - v) / 2]), df
    )
    return relative(found).row(0, named=True)


def between_worlds(value_W: np.ndarray, world_W: np.ndarray, n_starts: int = 1) -> dict[str, Any]:
    """Mean of worlds' values with Student's t interval; nulls where there is none.

    See ``mean_over_worlds``.

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


class Mean(NamedTuple):
    """A mean over worlds with its standard error and the error's degrees of freedom."""

    value: float | None  # None without a world
    se: float | None  # None where there is only one world, or starting model
    df: int | None


def mean_over_worlds(value_W: np.ndarray, world_W: np.ndarray, n_starts: int = 1) -> Mean:
    """The mean of worlds' values, with a standard error clustered by starting model.

    All replications of a starting model share its parameters and its split of users, so a mean over
    replications is as sure as the number of starting models makes it, not that of replications.

    With one starting model, sd / sqrt(W) with W - 1 degrees of freedom: the error is given that
    model. With X of them, of n_x worlds and mean m_x each, around the mean m of all worlds,

        se^2 = X / (X - 1) sum_x (n_x (m_x - m) / W)^2

    with X - 1 degrees of freedom (the cluster-robust variance of a mean, Liang & Zeger 1986), which
    is the standard deviation of the m_x over sqrt(X) where the n_x are equal.

    Values are finite; world w begins from starting model w mod n_starts.

    Examples:
        Two starting models, with means 1 and 3; the sd of these over sqrt(2) is 1:

        >>> mean_over_worlds(np.array([0.0, 2.0, 2.0, 4.0]), np.arange(4), n_starts=2)
        Mean(value=2.0, se=1.0, df=1)
    """
    n = len(value_W)
    if n == 0:
        return Mean(None, None, None)
    mean = float(value_W.mean())
    if n_starts == 1:
        se = float(value_W.std(ddof=1)) / math.sqrt(n) if n > 1 else None
        return Mean(mean, se, n - 1)
    starts, start_W = np.unique(world_W % n_starts, return_inverse=True)
    rest_X, n_starts = np.bincount(start_W, value_W - mean), len(starts)
    se = (
        math.sqrt(n_starts / (n_starts - 1) * float((rest_X**2).sum())) / n
        if n_starts > 1
        else None
    )
    return Mean(mean, se, n_starts - 1)


def sd_within_starts(value_W: np.ndarray, world_W: np.ndarray, n_starts: int = 1) -> float | None:
    """The standard deviation of a single test's values, given its starting model.

    Pooled over the starting models; None where no starting model has two worlds.
    """
    if n_starts == 1:
        return float(value_W.std(ddof=1)) if len(value_W) > 1 else None
    _, start_W, n_X = np.unique(world_W % n_starts, return_inverse=True, return_counts=True)
    mean_X = np.bincount(start_W, value_W) / n_X
    df = len(value_W) - len(n_X)
    return math.sqrt(float(((value_W - mean_X[start_W]) ** 2).sum()) / df) if df > 0 else None


class RelativeEffect(NamedTuple):
    """An effect in percent of control, and its standard error (None with fewer than 2 worlds)."""

    design: str
    label: str
    percent: float
    se: float | None


def relative_effects(totals: pl.DataFrame, n_starts: int = 1) -> list[RelativeEffect]:
    """Each label's effect in percent of control: of the truth where it is run, else of the design.

    With T and C a world's totals in its arms (of the truth), or its means per visit (of a design),
    the effect is rho = mean(T - C) / mean(C) over worlds, so that at the end of a run it is
    ``GTE_<label>_relative``. Its standard error is that of a ratio of means by the delta method
    (Cochran 1977, Sampling Techniques, equation 2.46): that of the mean over worlds of
    T - C - rho C, over |mean(C)|.

    Args:
        totals: as of ``aggregates.world_totals``.
        n_starts: how many starting models the run has.

    Returns:
        An entry for each label whose effect has a number: some world has outcomes in both arms, and
        the mean of C is not 0.

    Examples:
        Everybody treated brought 12 and 9 minutes in two worlds, nobody treated 10 and 10:

        >>> totals = pl.DataFrame({
        ...     "design": ["global"] * 4, "world": [0, 0, 1, 1], "arm": ["T", "C"] * 2,
        ...     "label": ["minutes"] * 4, "n": [5] * 4, "sum": [12.0, 10.0, 9.0, 10.0],
        ... })
        >>> effect = relative_effects(totals)[0]
        >>> effect.percent, round(effect.se, 6)  # T - C is 2 and -1, of 10
        (5.0, 15.0)
    """
    designs = totals["design"].unique(maintain_order=True).to_list()
    if not designs:
        return []
    design = TRUTH if TRUTH in designs else designs[0]
    value = pl.col("sum") if design == TRUTH else pl.col("sum") / pl.col("n")
    own = totals.filter(pl.col("design") == design).with_columns(value=value)
    keys = ["label", "world"]
    arms = [own.filter(pl.col("arm") == arm).select(*keys, value="value") for arm in ("T", "C")]
    worlds = arms[0].join(arms[1], on=keys, suffix="_C", maintain_order="left")
    found = []
    for (label,), group in worlds.group_by("label", maintain_order=True):
        treated, control = group["value"].to_numpy(), group["value_C"].to_numpy()
        scale = abs(control.mean())
        if scale == 0:
            continue
        rho = (treated - control).mean() / control.mean()
        rest = treated - control - rho * control
        se = mean_over_worlds(rest, group["world"].to_numpy(), n_starts).se
        relative = None if se is None else float(100 * se / scale)
        found.append(RelativeEffect(design, str(label), float(100 * rho), relative))
    return found
