"""Curves over steps: the mean over worlds and the range of most of them, in few points."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

LOW, HIGH = 0.1, 0.9  # the band: the middle 80 % of the worlds
MAX_POINTS = 200
EARLY = 0.2  # share of the steps, in which estimates still scatter widely
_MIN_BAND = 3  # worlds
_ARM_OF_TRUTH = pl.col("design").str.extract(r"^global_([TC])$")


def bands(table: pl.DataFrame, keys: Sequence[str]) -> pl.DataFrame:
    """For each of ``keys`` and each step, the mean of ``value`` over worlds, and its band.

    Returns:
        The keys, step, mean, low and high, in the order of the steps; low and high are null where
        fewer than three worlds tell.
    """
    value, by_step = pl.col("value"), [*keys, "step"]
    table = table.filter(pl.col("step").is_in(thinned(table["step"])))
    is_told = value.count() >= _MIN_BAND
    return (
        table.group_by(by_step, maintain_order=True)
        .agg(
            mean=value.mean(),
            low=pl.when(is_told).then(value.quantile(LOW, "linear")),
            high=pl.when(is_told).then(value.quantile(HIGH, "linear")),
        )
        .sort("step", maintain_order=True)
    )


def thinned(steps: pl.Series) -> list[int]:
    """At most 200 of the steps, evenly spread, the first and the last among them."""
    known = steps.unique().sort().to_list()
    if len(known) <= MAX_POINTS:
        return known
    at = np.linspace(0, len(known) - 1, MAX_POINTS).round().astype(int)
    return [known[i] for i in at]


def totals(outcomes: pl.DataFrame) -> pl.DataFrame:
    """The sum of outcomes so far: design, label, arm, step, mean, low, high.

    Of the truth where there is one, else of the first design.
    """
    designs = outcomes["design"].unique(maintain_order=True).to_list()
    shown = "global" if "global" in designs else (designs or [""])[0]
    table = _so_far(outcomes.filter(pl.col("design") == shown))
    return bands(table.with_columns(value=pl.col("sum")), ["design", "label", "arm"])


def effects(outcomes: pl.DataFrame) -> pl.DataFrame:
    """The effect per visit that each design would report after each step.

    Returns:
        design, label, step, mean, low, high.
    """
    table = _so_far(outcomes).with_columns(value=pl.col("sum") / pl.col("n"))
    keys = ["design", "label", "world", "step"]
    arm = {x: table.filter(pl.col("arm") == x).select(*keys, value="value") for x in "TC"}
    both = arm["T"].join(arm["C"], on=keys, suffix="_C", maintain_order="left")
    both = both.with_columns(value=pl.col("value") - pl.col("value_C"))
    return bands(both.filter(pl.col("value").is_finite()), ["design", "label"])


def settled_range(table: pl.DataFrame) -> tuple[float, float] | None:
    """The ends of an axis for curves that start with much noise; None where all of them fits it.

    It holds every mean after the first fifth of the steps, the band of the truth there, and a
    margin.

    Args:
        table: design, step, mean, low, high.
    """
    late = _shown(table.filter(pl.col("step") > EARLY * pl.col("step").max()))
    if late.is_empty():
        return None
    margin = 0.08 * float(late.max() - late.min())  # type: ignore[operator, arg-type]
    low, high = float(late.min()) - margin, float(late.max()) + margin  # type: ignore[arg-type]
    is_beyond = not _shown(table).is_between(low, high).all()
    return (low, high) if is_beyond and high > low else None


def _shown(table: pl.DataFrame) -> pl.Series:
    """Every mean, and the ends of the truth's band."""
    of_truth = table.filter(pl.col("design") == "global")
    parts = [table["mean"], of_truth["low"], of_truth["high"]]
    return pl.concat([x.cast(pl.Float64).rename("") for x in parts]).drop_nulls()


def _so_far(outcomes: pl.DataFrame) -> pl.DataFrame:
    """Visits and sum of each world, label and arm up to each step; step counts what is done."""
    own = ["design", "world", "label", "arm"]
    return outcomes.sort("step", maintain_order=True).with_columns(
        step=pl.col("step") + 1,
        n=pl.col("n").cast(pl.Int64).cum_sum().over(own),
        sum=pl.col("sum").cum_sum().over(own),
    )


def looks(metrics: pl.DataFrame) -> pl.DataFrame:
    """What was measured of the loop's networks and rankings.

    Returns:
        design, label, metric, split, who (T, C or shared), step, mean, low, high. The truth's two
        worlds stand under the design "global"; who is then the arm that everybody is in.
    """
    table = metrics.filter(
        (pl.col("phase") == "loop")
        & pl.col("split").is_in(["train", "validation"])
        & (pl.col("metric") != "n_nonfinite")
    )
    table = table.with_columns(who=pl.coalesce(_ARM_OF_TRUTH, "model"))
    in_truth = _ARM_OF_TRUTH.is_not_null()
    table = table.with_columns(
        design=pl.when(in_truth).then(pl.lit("global")).otherwise(pl.col("design"))
    )
    return bands(table, ["design", "label", "metric", "split", "who"])


def weight_figures(metrics: pl.DataFrame) -> pl.DataFrame:
    """How good the weight models are: design, metric, step, mean, low, high."""
    return bands(metrics.filter(pl.col("split") == "weights"), ["design", "metric"])


def data_left(metrics: pl.DataFrame) -> pl.DataFrame:
    """Shares of users and slates with fewer candidates than a full slate: metric, step, mean."""
    return bands(metrics.filter(pl.col("split") == "data"), ["metric"])


def main_metric(metrics: Sequence[str]) -> str | None:
    """The metric that says best how good a label's predictions are, of those there are."""
    names = ("auc", "relative_error", "mae")
    return next((name for name in names if name in metrics), None)
