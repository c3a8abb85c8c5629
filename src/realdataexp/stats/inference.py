"""Every way to put an interval around a design's answer, by name.

A method takes one design's tables and answers for all its worlds and labels at once. To add one,
write a function and name it in METHODS (and in NEEDS_UNITS if it reads the units' table).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import polars as pl

from realdataexp.stats.blocks import block
from realdataexp.stats.clustered import cuped, user_cluster
from realdataexp.stats.comparison import TRUTH
from realdataexp.stats.estimates import ESTIMAND
from realdataexp.stats.intervals import Intervals
from realdataexp.stats.multiplicity import adjust_labels
from realdataexp.stats.resampling import bootstrap, randomisation
from realdataexp.stats.sequential import always_valid
from realdataexp.stats.tables import DesignTables

INFERENCE_SCHEMA = pl.Schema(
    {
        "design": pl.String,
        "world": pl.Int32,
        "label": pl.String,
        "estimand": pl.String,
        "se_method": pl.String,
        "value": pl.Float64,
        "se": pl.Float64,
        "ci_low": pl.Float64,
        "ci_high": pl.Float64,
        "p_value": pl.Float64,
        "n_T": pl.Int64,
        "n_C": pl.Int64,
        "p_adjusted": pl.Float64,
    }
)


def welch(tables: DesignTables) -> Intervals:
    """Visits taken as independent (Welch 1947): see ``estimates.world_estimates``."""
    names = ("value", "se", "ci_low", "ci_high", "p_value")
    columns = [tables.estimates[name].fill_null(float("nan")).to_numpy() for name in names]
    return Intervals(*(np.asarray(column, dtype=np.float64) for column in columns))


METHODS: dict[str, Callable[[DesignTables], Intervals]] = {
    "welch": welch,
    "user_cluster": user_cluster,
    "cuped": cuped,
    "block": block,
    "bootstrap": bootstrap,
    "randomisation": randomisation,
    "always_valid": always_valid,
}
NEEDS_UNITS = frozenset({"user_cluster", "cuped", "bootstrap", "randomisation"})


def inference_table(
    outcomes: pl.DataFrame, units: pl.DataFrame | None, methods: Sequence[str] | None = None
) -> pl.DataFrame:
    """Every design's answer in every world, with the interval of each method.

    The truth (design "global") gets "welch" only, whatever the methods: its arms are two worlds. A
    design whose every visit is a unit of its own has no rows in ``units``, and gets the methods
    that need none.

    Args:
        outcomes: the table of outcomes.parquet.
        units: the table of ``aggregates.unit_table``; None where no design has a row in it.
        methods: names of METHODS; None for all.

    Returns:
        INFERENCE_SCHEMA, ordered by design, method, world and label; null where a method cannot
        tell. ``p_adjusted`` is the p-value by Holm's method over the labels of a design, world and
        method (``multiplicity.adjust_labels``).

    Raises:
        ValueError: a method that does not exist.
    """
    methods = list(METHODS) if methods is None else methods
    for name in methods:
        if name not in METHODS:
            raise ValueError(f"interval method '{name}', must be one of {', '.join(METHODS)}")
    frames = []
    for (design,), ours in outcomes.group_by(["design"], maintain_order=True):
        is_truth = design == TRUTH
        theirs = None
        if units is not None and not is_truth:
            theirs = units.filter(pl.col("design").cast(pl.String) == design)
        tables = DesignTables(str(design), ours, theirs)
        able = [x for x in methods if tables.units is not None or x not in NEEDS_UNITS]
        for name in ["welch"] if is_truth else able:
            frames.append(
                tables.estimates.select(
                    "design", "world", "label",
                    pl.lit(ESTIMAND).alias("estimand"), pl.lit(name).alias("se_method"),
                    *METHODS[name](tables).columns(),
                    "n_T", "n_C",
                )
            )  # fmt: skip
    if not frames:
        return pl.DataFrame(schema=INFERENCE_SCHEMA)
    return adjust_labels(pl.concat(frames)).cast(INFERENCE_SCHEMA)


def designs_without_units(outcomes: pl.DataFrame, units: pl.DataFrame | None) -> list[str]:
    """The designs, but the truth, whose every visit is a unit of its own."""
    found = set() if units is None else set(units["design"].cast(pl.String).unique())
    designs = outcomes["design"].unique(maintain_order=True)
    return [name for name in designs if name != TRUTH and name not in found]
