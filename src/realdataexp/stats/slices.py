"""The effect by slices of an A/B table: new and old users, by activity, by country."""

from __future__ import annotations

from typing import Any

import polars as pl

from realdataexp.errors import InputError
from realdataexp.stats.analysis import ANALYSIS_SCHEMA, analyze, as_frame, is_treated, require_known
from realdataexp.stats.intervals import adjust_labels

SLICE_SCHEMA = pl.Schema([("slice", pl.String()), *ANALYSIS_SCHEMA.items(), ("why", pl.String())])


def analyze_slices(
    table: Any, *, by: str, arm: str, treatment: Any = None, **settings: Any
) -> pl.DataFrame:
    """``analyze`` of each slice of the rows, with Holm's method over outcomes and slices.

    A slice must have been known before the test, such as a unit's country or its activity before:
    what the treatment itself changes sorts the arms' units differently.

    Args:
        table: as for ``analyze``.
        by: the column of each row's slice. Its values are the slices, in their order; of an Enum,
            its categories.
        arm: as for ``analyze``.
        treatment: as for ``analyze``.
        settings: the rest of ``analyze``'s.

    Returns:
        SLICE_SCHEMA: ``analyze``'s rows of each slice. ``p_adjusted`` is Holm's over the outcomes
        and slices of a method. A slice without rows in both arms has one row of nulls, with the
        cause in ``why``, which is empty elsewhere.

    Raises:
        InputError: as ``analyze``; the line names the slice where one cannot be analysed.
    """
    frame = as_frame(table, by=by, arm=arm)
    column = require_known(frame, by, "by")
    is_treated_N = pl.Series(is_treated(frame, arm, treatment))
    treated = frame[arm].filter(is_treated_N)[0]
    slices = (
        column.dtype.categories if isinstance(column.dtype, pl.Enum) else column.unique().sort()
    )
    parts = []
    for value in slices.to_list():
        in_slice = column == value
        n_T, n_C = (frame.filter(in_slice & x).height for x in (is_treated_N, ~is_treated_N))
        if n_T and n_C:
            try:
                found = analyze(frame.filter(in_slice), arm=arm, treatment=treated, **settings)
            except InputError as error:
                raise InputError(f"slice {value!r} of {by}: {error}") from error
            why = ""
        else:
            found = pl.DataFrame({"n_T": [n_T], "n_C": [n_C]})
            lacking = [x for x, n in (("treatment", n_T), ("control", n_C)) if not n]
            why = f"no row of the {' or the '.join(lacking)}"
        parts.append(found.with_columns(slice=pl.lit(str(value)), why=pl.lit(why)))
    both = pl.concat(parts, how="diagonal_relaxed").with_row_index("place")
    test = both.drop("p_adjusted", strict=False).filter(pl.col("method").is_not_null())
    # a family's tests: an outcome in a slice each
    test = test.with_columns(
        design=pl.lit(by), world=pl.lit(0), se_method="method",
        label=pl.struct("slice", "outcome").rank("dense"),
    )  # fmt: skip
    adjusted = adjust_labels(test).select("place", "p_adjusted")
    return (
        both.drop("p_adjusted")
        .join(adjusted, on="place", how="left", maintain_order="left")
        .select(SLICE_SCHEMA.names())
        .cast(SLICE_SCHEMA)
    )
