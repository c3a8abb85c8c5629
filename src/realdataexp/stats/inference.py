"""Every way to put an interval around a design's answer, by name.

A method takes one design's tables and answers for all its worlds and labels at once. An interval
method puts an interval around the difference of the arms; an estimator has an answer of its own,
from what only some designs vary. To add one, write a function (``intervals.of_units`` if it reads
the units' table) and its line in the registry; or name it as ``package.module:Name``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields

import numpy as np
import polars as pl

from realdataexp.errors import InputError
from realdataexp.registry import ComponentError, Kind, Unfit, calling, find, is_outside, names
from realdataexp.stats.estimates import ESTIMAND, TRUTH
from realdataexp.stats.intervals import Intervals, adjust_labels
from realdataexp.stats.relative import (
    NUMBERS,
    Means,
    in_percent,
    relative,
    without_interval,
)
from realdataexp.stats.tables import DesignTables

Method = Callable[[DesignTables], Intervals]

_ANSWER = ("value", "se", "ci_low", "ci_high", "p_value")
INFERENCE_SCHEMA = pl.Schema(
    {
        "design": pl.String, "world": pl.Int32,
        **dict.fromkeys(("label", "estimand", "se_method"), pl.String),
        **dict.fromkeys(_ANSWER, pl.Float64),
        "n_T": pl.Int64, "n_C": pl.Int64, "p_adjusted": pl.Float64,
        **dict.fromkeys(NUMBERS, pl.Float64), "percent_why": pl.String,
    }
)  # fmt: skip


def _means(tables: DesignTables) -> Means:
    """The arms' means per visit and their variances, of which Welch's is made."""
    n_ZA, sum_ZA, square_ZA = tables.sums_XZA
    with np.errstate(divide="ignore", invalid="ignore"):
        mean_ZA = sum_ZA / n_ZA
        variance_ZA = (square_ZA - n_ZA * mean_ZA**2).clip(0) / (n_ZA - 1) / n_ZA
        df_Z = variance_ZA.sum(1) ** 2 / (variance_ZA**2 / (n_ZA - 1)).sum(1)
    return Means(mean_ZA, variance_ZA, np.zeros(tables.n_cells), df_Z)


@in_percent(_means)
def welch(tables: DesignTables) -> Intervals:
    """Visits taken as independent (Welch 1947): see ``estimates.world_estimates``."""
    return Intervals(*tables.of_welch(*_ANSWER))


def find_method(name: str, where: str) -> Method:
    """The interval method called ``name``, or ``package.module:Name``.

    Raises:
        InputError: there is none; ``where`` is the config path.
    """
    kind: Kind = "estimator" if name in names("estimator") else "interval method"
    method = find(kind, name, where)
    if not callable(method):
        raise InputError(f"{where} = {name!r}: is no function of a design's tables")
    return method


def short_name(name: str) -> str:
    """What tables call a method."""
    return name.rpartition(":")[2]


def needs_units(method: Method) -> bool:
    """Whether a method reads the units' table."""
    return getattr(method, "needs_units", False)


def needs_picks(method: Method) -> bool:
    """Whether a method reads at which visits the arms' picks differ."""
    return getattr(method, "needs_picks", False)


def needs_foretold(method: Method) -> bool:
    """Whether a method reads what the models predicted of both arms' picks."""
    return getattr(method, "needs_foretold", False)


def compared(method: Method) -> str | None:
    """What an estimator compares, in words; None of an interval method."""
    return getattr(method, "compares", None)


def applies(method: Method, tables: DesignTables) -> bool:
    """Whether a design has what a method reads."""
    if needs_units(method) and tables.units is None:
        return False
    return compared(method) is None or vars(method)["applies"](tables)


def rehearse_method(name: str, where: str) -> None:
    """Find a method, and have one from outside answer for a small made-up design.

    Raises:
        InputError: there is none, it fails, or it returns what it must not; ``where`` is the
            config path.
    """
    method = find_method(name, where)
    if is_outside(name):
        rows = made_up_outcomes(6)
        units = rows.rename({"step": "unit"}).drop("p").with_columns(covariate=pl.lit(0.5))
        tables = DesignTables("rehearsal", rows, units if needs_units(method) else None)
        _answer(name, method, tables, f"{where} = {name!r}", InputError)


def made_up_outcomes(n_steps: int) -> pl.DataFrame:
    """Outcomes of a design "rehearsal" in so many steps (or units), two worlds and two labels."""
    i = pl.int_range(8 * n_steps, eager=True)
    return pl.DataFrame({"design": ["rehearsal"] * (8 * n_steps)}).select(
        "design", world=i % 2, step=i // 8, label=pl.format("label_{}", i // 2 % 2),
        arm=pl.when(i // 4 % 2 == 0).then(pl.lit("T")).otherwise(pl.lit("C")),
        n=5 + i // 8 % 3, sum=2.0 + i * 7 % 5, sum_sq=9.0 + (i * 7 % 5) ** 2,
        p=(1.0 + i // 8) / (2 * n_steps),
    )  # fmt: skip


def require_intervals(found: object, n_cells: int) -> Intervals:
    """What a component from outside answered, if that is what is wanted.

    Raises:
        Unfit: it is not.
    """
    if not isinstance(found, Intervals):
        raise Unfit(
            f"is of type {type(found).__name__}; wanted realdataexp.stats.intervals.Intervals"
        )
    for field in fields(found):
        size = np.shape(getattr(found, field.name))
        if size != (n_cells,):
            raise Unfit(
                f"has {field.name} of shape {size}; wanted {(n_cells,)}, one for each world and "
                "label of tables.cells"
            )
    return found


def _answer(
    name: str,
    method: Method,
    tables: DesignTables,
    who: str,
    kind: type[Exception] = ComponentError,
) -> Intervals:
    """What a method answers; one of ``kind`` where one from outside fails."""
    if not is_outside(name):
        return method(tables)
    with calling(who, "its answer", kind):
        return require_intervals(method(tables), tables.n_cells)


def inference_table(
    outcomes: pl.DataFrame,
    units: pl.DataFrame | None,
    methods: Sequence[str] | None = None,
    failed: list[str] | None = None,
    levels: Mapping[str, float] | None = None,
) -> pl.DataFrame:
    """Every design's answer in every world, with the interval of each method.

    The truth (design "global") gets "welch" only, whatever the methods: its arms are two worlds. A
    design whose every visit is a unit of its own has no rows in ``units``, and gets the methods
    that need none; likewise one that treats the same share in all steps.

    Args:
        outcomes: the table of outcomes.parquet; without its column ``p`` no shares are known.
        units: the table of ``aggregates.unit_table``; None where no design has a row in it.
        methods: their names; None for all that are registered.
        failed: takes why a method from outside the package did not answer; None: that is raised.
        levels: what was taken off every outcome of a label, for the effect in percent.

    Returns:
        INFERENCE_SCHEMA, ordered by design, method, world and label; null where a method cannot
        tell. ``p_adjusted`` is the p-value by Holm's method over the labels of a design, world and
        method (``intervals.adjust_labels``). The effect in percent of control is ``relative``'s.

    Raises:
        InputError: a method that does not exist.
        ComponentError: one from outside fails, and there is no ``failed``.
    """
    asked = (*names("interval method"), *names("estimator")) if methods is None else methods
    known = {name: find_method(name, "methods") for name in dict.fromkeys(["welch", *asked])}
    frames = []
    for tables in design_tables(outcomes, units):
        able = [x for x in asked if applies(known[x], tables)]
        for name in ["welch"] if tables.design == TRUTH else able:
            try:
                answer = _answer(name, known[name], tables, f"interval method {name!r}")
            except ComponentError as error:
                if failed is None:
                    raise
                failed.append(str(error))
                continue
            frames.append(
                tables.estimates.select(
                    "design", "world", "label",
                    pl.lit(ESTIMAND).alias("estimand"), pl.lit(short_name(name)).alias("se_method"),
                    *answer.columns(),
                    "n_T", "n_C",
                    *_in_percent(known[name], tables, answer.value, levels or {}),
                )
            )  # fmt: skip
    if not frames:
        return pl.DataFrame(schema=INFERENCE_SCHEMA)
    table = adjust_labels(pl.concat(frames))
    return table.select(INFERENCE_SCHEMA.names()).cast(INFERENCE_SCHEMA)


def _in_percent(
    method: Method, tables: DesignTables, value_Z: np.ndarray, levels: Mapping[str, float]
) -> list[pl.Series]:
    """A method's answer in percent of control, as columns."""
    level_Z = np.array([levels.get(label, 0.0) for label in tables.estimates["label"]])
    if "means" in vars(method):
        means = vars(method)["means"](tables)
        return relative(means._replace(mean_ZA=means.mean_ZA + level_Z[:, None])).get_columns()
    control_Z = _means(tables).mean_ZA[:, 0] + level_Z
    return without_interval(control_Z, np.asarray(value_Z)).get_columns()


def design_tables(outcomes: pl.DataFrame, units: pl.DataFrame | None) -> Iterator[DesignTables]:
    """The tables of each design; the truth has no units."""
    for (design,), ours in outcomes.group_by(["design"], maintain_order=True):
        theirs = None
        if units is not None and design != TRUTH:
            theirs = units.filter(pl.col("design").cast(pl.String) == design)
        yield DesignTables(str(design), ours, theirs)


def designs_without_units(outcomes: pl.DataFrame, units: pl.DataFrame | None) -> list[str]:
    """The designs, but the truth, whose every visit is a unit of its own."""
    found = set() if units is None else set(units["design"].cast(pl.String).unique())
    designs = outcomes["design"].unique(maintain_order=True)
    return [name for name in designs if name != TRUTH and name not in found]
