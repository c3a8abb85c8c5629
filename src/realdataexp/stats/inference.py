"""Every way to put an interval around a design's answer, by name.

A method takes one design's tables and answers for all its worlds and labels at once. To add one,
write a function (``intervals.of_units`` if it reads the units' table) and its line in the registry;
or name it as ``package.module:Name``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields

import numpy as np
import polars as pl

from realdataexp.components import Unfit, calling
from realdataexp.errors import InputError
from realdataexp.registry import find, is_outside, names
from realdataexp.stats.comparison import TRUTH
from realdataexp.stats.estimates import ESTIMAND
from realdataexp.stats.intervals import Intervals
from realdataexp.stats.multiplicity import adjust_labels
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


def find_method(name: str, where: str) -> Callable[[DesignTables], Intervals]:
    """The interval method called ``name``, or ``package.module:Name``.

    Raises:
        InputError: there is none; ``where`` is the config path.
    """
    method = find("interval method", name, where)
    if not callable(method):
        raise InputError(f"{where} = {name!r}: is no function of a design's tables")
    return method


def short_name(name: str) -> str:
    """What tables call a method."""
    return name.rpartition(":")[2]


def needs_units(method: Callable[[DesignTables], Intervals]) -> bool:
    """Whether a method reads the units' table."""
    return getattr(method, "needs_units", False)


def _answer(name: str, tables: DesignTables) -> Intervals:
    """What a method answers.

    Raises:
        ComponentError: one from outside fails, or returns what it must not.
    """
    method = find_method(name, "experiment.intervals")
    if not is_outside(name):
        return method(tables)
    with calling(f"interval method {name!r}", "its answer"):
        found, shape = method(tables), (tables.estimates.height,)
        if not isinstance(found, Intervals):
            raise Unfit(f"is of type {type(found).__name__}; wanted realdataexp.stats.Intervals")
        for field in fields(found):
            size = np.shape(getattr(found, field.name))
            if size != shape:
                raise Unfit(f"has {field.name} of shape {size}; wanted {shape} (worlds x labels)")
    return found


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
        methods: their names; None for all that are registered.

    Returns:
        INFERENCE_SCHEMA, ordered by design, method, world and label; null where a method cannot
        tell. ``p_adjusted`` is the p-value by Holm's method over the labels of a design, world and
        method (``multiplicity.adjust_labels``).

    Raises:
        InputError: a method that does not exist.
        ComponentError: one from outside the package fails.
    """
    methods = names("interval method") if methods is None else methods
    of_units = [name for name in methods if needs_units(find_method(name, "methods"))]
    frames = []
    for (design,), ours in outcomes.group_by(["design"], maintain_order=True):
        is_truth = design == TRUTH
        theirs = None
        if units is not None and not is_truth:
            theirs = units.filter(pl.col("design").cast(pl.String) == design)
        tables = DesignTables(str(design), ours, theirs)
        able = [x for x in methods if tables.units is not None or x not in of_units]
        for name in ["welch"] if is_truth else able:
            frames.append(
                tables.estimates.select(
                    "design", "world", "label",
                    pl.lit(ESTIMAND).alias("estimand"), pl.lit(short_name(name)).alias("se_method"),
                    *_answer(name, tables).columns(),
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
