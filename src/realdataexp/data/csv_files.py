"""Reading the needed columns of a CSV file, typed, and saying exactly what is wrong in it.

The fast path is Polars with a fixed type per column. Only when that fails are the lines read a
second time, slowly, for the row, column and value to name in the error.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import polars as pl

from realdataexp.data.csv_chunks import Piece
from realdataexp.data.schema import nearest
from realdataexp.errors import InputError

DTypes = Mapping[str, type[pl.DataType]]

MAX_ID = 2**53  # ids and times may come through float64, exact up to here


def read_header(path: Path) -> tuple[str, ...]:
    """Return the column names of a CSV file.

    Raises:
        InputError: the file is empty or cannot be read.
    """
    try:
        with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
            header = tuple(next(csv.reader(file), ()))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    if not header:
        raise InputError(f"{path}: is empty, without even a header; fetch the file again")
    return header


def shared_header(paths: Sequence[Path]) -> tuple[str, ...]:
    """Return the one header of all shards of a file.

    Raises:
        InputError: a shard's header differs from the first's.
    """
    first = read_header(paths[0])
    for path in paths[1:]:
        header = read_header(path)
        if header != first:
            lacks = [name for name in first if name not in header]
            adds = [name for name in header if name not in first]
            how = f"lacks {lacks}, adds {adds}" if lacks or adds else "other order"
            raise InputError(
                f"{path}: its header differs from that of {paths[0].name} ({how}); "
                "all parts of one file must have the same columns; fetch them again"
            )
    return first


def require_columns(path: Path, header: Sequence[str], needed: Collection[str]) -> None:
    """Raise an InputError (one line) that names the needed columns the header lacks."""
    absent = [name for name in needed if name not in header]
    if absent:
        said = ", ".join(f"{name!r}{nearest(name, header)}" for name in absent)
        raise InputError(
            f"{path}: row 1 (the header) has no column {said}; "
            "rename the column or take it out of the config"
        )


def parse(piece: Piece, dtypes: DTypes, ids: Collection[str]) -> pl.DataFrame:
    """Read the columns named in `dtypes`, and only those, in the order of the lines.

    Empty cells become null, blank lines are left out. An integer column may be written with
    fractions ("3.0"); it then comes back as Int64, or as Float64 if some value is not whole.

    Args:
        piece: lines of a CSV file with a header that has all the columns.
        dtypes: type per column; integer types are the narrow ones expected.
        ids: columns that must hold a whole number >= 0 in every row.

    Raises:
        InputError: a text where a number belongs, a missing or odd id, a ragged row; with file,
            row (1-based line, the header is row 1), column and value.
    """
    try:
        frame = _scan(piece, dtypes)
    except pl.exceptions.PolarsError:
        frame = _read_wide(piece, dtypes, ids)
    if frame.height and frame[next(iter(ids))].null_count():
        frame = frame.filter(~pl.all_horizontal(pl.all().is_null()))  # blank lines
    if any(frame[name].null_count() or _below_zero(frame[name]) for name in ids):
        raise InputError(diagnose(piece, [], ids) or f"{piece.path}: an id is missing")
    return frame


def _scan(piece: Piece, dtypes: DTypes) -> pl.DataFrame:
    lazy = pl.scan_csv(io.BytesIO(piece.text), schema_overrides=dict(dtypes), infer_schema=False)
    return lazy.select(list(dtypes)).collect()


def _read_wide(piece: Piece, dtypes: DTypes, ids: Collection[str]) -> pl.DataFrame:
    """Read all numbers as Float64, then go back to Int64 where a column's values are whole."""
    integers = [name for name, dtype in dtypes.items() if dtype.is_integer()]
    numbers = [name for name, dtype in dtypes.items() if dtype.is_numeric()]
    wide = {name: pl.Float64 if name in integers else dtype for name, dtype in dtypes.items()}
    try:
        frame = _scan(piece, wide).with_columns(pl.col(integers).fill_nan(None))
    except pl.exceptions.PolarsError as error:
        reason = str(error).splitlines()[0]
        fault = diagnose(piece, numbers, ids) or f"{piece.path}: cannot be read as CSV: {reason}"
        raise InputError(fault) from error
    for name in integers:
        column = frame[name].drop_nulls()
        if (column.is_finite() & (column == column.round()) & (column.abs() < MAX_ID)).all():
            frame = frame.with_columns(pl.col(name).cast(pl.Int64))
        elif name in ids:
            raise InputError(diagnose(piece, [], ids) or f"{piece.path}: {name} is not whole")
    return frame


def _below_zero(column: pl.Series) -> bool:
    least = column.min()
    return isinstance(least, int | float) and least < 0


def diagnose(piece: Piece, numbers: Collection[str], ids: Collection[str]) -> str | None:
    """Find the first cell of some lines of a CSV file that cannot be what it should be.

    Args:
        piece: the lines.
        numbers: columns that must hold a number or nothing.
        ids: columns that must hold a whole number >= 0.

    Returns:
        One line: file, row, column, value, what to do; None when nothing is wrong.
    """
    rows = piece.rows()
    _, header = next(rows)
    places = [(name, header.index(name)) for name in dict.fromkeys((*ids, *numbers))]
    for number, row in rows:
        at = f"{piece.path}, row {number}"
        if len(row) > len(header):
            return f"{at}: {len(row)} fields where the header has {len(header)}; mend the row"
        for name, place in places if row else ():
            cell = row[place].strip() if place < len(row) else ""
            fault = _fault(cell, name in ids)
            if fault:
                return f"{at}, column {name!r}: {cell!r} {fault}"
    return None


def _fault(cell: str, is_id: bool) -> str | None:
    if cell == "":
        return "where an id must be; delete the row or fetch the file again" if is_id else None
    try:
        value = float(cell)
    except ValueError:
        return "is not a number; correct the cell or leave it empty"
    if is_id and not (math.isfinite(value) and value.is_integer() and 0 <= value < MAX_ID):
        return "is no id (a whole number >= 0); correct the cell or delete the row"
    return None
