"""Reading columns of Parquet and CSV files alike: what a cell means, and which cell is wrong.

A CSV file's cells are texts, so each of these takes a text as well as the type itself.
"""

from __future__ import annotations

import csv
import glob
import os
from collections.abc import Sequence
from functools import partial
from itertools import islice
from pathlib import Path

import polars as pl

from realdataexp.data.csv_files import (
    MAX_NUMBER,
    in_order,
    parse,
    pieces,
    read_header,
    require_file,
)
from realdataexp.data.parquet import parquet_columns, read_parquet
from realdataexp.errors import InputError

SUFFIXES = (".parquet", ".csv")

_WHOLE = r"^(0|-?[1-9]\d{0,17})$"
_WITH_ZEROS = r"\.0+$"  # behind a whole number: a column of them with gaps is written so
_DIGITS = r"^-?[0-9]+$"
_NUMBER_LIKE = r"^[+-]?[\d_ ]*\d([.,]\d*)?([eE][+-]?\d+)?$|^0[xX][0-9a-fA-F]+$"
_ISO = r"^\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}.*)?$"
_NANOSECONDS = r"\.\d{7}"
_FAULTS = (OSError, pl.exceptions.PolarsError)


def log_files(folder: Path, name: str) -> list[str]:
    """The files of one entry of the log, by their paths in the folder, in the order of the names.

    An entry is a file, a folder of parts, or, where there is neither, a pattern of such. Of a
    folder all Parquet and CSV files are parts, those of its folders too; names that begin with
    a dot or an underscore are not the data's (as with Spark, Hive and Arrow).

    Raises:
        InputError: there is none.
    """
    path = folder / name
    if path.is_dir():
        found = os.walk(path, onerror=_refuse_folder, followlinks=True)
        files = [Path(at, file) for at, _, names in found for file in names]
        parts = [x.relative_to(path) for x in files if x.suffix in SUFFIXES]
        shown = [x for x in parts if not any(y.startswith((".", "_")) for y in x.parts)]
        if not shown:
            raise InputError(f"{path}: holds no .parquet or .csv file; name the log's files")
        return sorted(str(Path(name) / part) for part in shown)
    if path.exists() or not glob.has_magic(name):
        return [name]
    matches = sorted(glob.glob(name, root_dir=folder, recursive=True))
    if not any(part.startswith("_") for part in Path(name).parts):
        matches = [x for x in matches if not any(y.startswith("_") for y in Path(x).parts)]
    if not matches:
        raise InputError(f"{path}: no such file, and as a pattern it matches none")
    return [file for match in matches for file in log_files(folder, match)]


def _refuse_folder(error: OSError) -> None:
    raise InputError(f"{error.filename}: cannot be listed: {error.strerror}") from error


def columns_of(path: Path) -> tuple[str, ...]:
    """The names of a file's columns; InputError where there is no such Parquet or CSV file."""
    if path.suffix not in SUFFIXES and (path.suffix or path.exists()):
        raise InputError(f"{path}: must be a .parquet or .csv file, with commas as separators")
    if not path.exists():
        there = sorted(p.name for p in path.parent.iterdir()) if path.parent.is_dir() else []
        raise InputError(f"{path}: no such file; there is: {', '.join(there[:20]) or 'nothing'}")
    require_file(path)
    if path.suffix == ".csv":
        return read_header(path)
    try:
        return parquet_columns(path)
    except _FAULTS as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> InputError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return InputError(f"{path}: cannot be read as Parquet: {reason}")


class TableFile:
    """Columns of one file; a CSV file's blank lines are left out.

    Each method returns a column as what it is to be, and raises an InputError that names the first
    cell, with its row, that cannot be that.
    """

    def __init__(
        self, path: Path, columns: Sequence[str], frame: pl.DataFrame | None = None
    ) -> None:
        """Read these columns, which must be there; InputError where that cannot be done.

        Args:
            path: the file.
            columns: their names.
            frame: what is in the file, where it is of another kind and has been read.
        """
        self.path, names = path, list(dict.fromkeys(columns))
        if frame is not None:
            frame = frame.select(names)
        elif path.suffix == ".csv":
            texts = dict.fromkeys(names, pl.String)
            frames = in_order(partial(parse, dtypes=texts), pieces(path))
            frame = pl.concat([pl.DataFrame(schema=texts), *frames])
        else:
            try:
                frame = read_parquet(path, names)
            except _FAULTS as error:
                raise _unreadable(path, error) from error
        for name in names:
            if frame[name].dtype in (pl.String, pl.Categorical, pl.Enum):
                text = pl.col(name).cast(pl.String).str.strip_chars()
                frame = frame.with_columns(pl.when(text != "").then(text).alias(name))
        self._frame = frame

    @property
    def frame(self) -> pl.DataFrame:
        """All columns as read; a text has no blanks around it, and is null where it is empty."""
        return self._frame

    def ids(self, name: str) -> pl.Series:
        """A column of ids: Int64, or String (a CSV file's always, and what is too large)."""
        column = self._frame[name]
        self._refuse(column, column.is_null(), "no id; add one or remove the row")
        if column.dtype == pl.String:
            return self._text_ids(column)
        if not column.dtype.is_numeric():
            raise self._no(name, "hold ids, whole numbers or texts")
        ids = column.cast(pl.Int64, strict=False)
        if _is_whole_type(column.dtype):
            return column.cast(pl.String) if ids.null_count() else ids
        is_wrong = ids.is_null() | (ids.cast(column.dtype, strict=False) != column)
        self._refuse(column, is_wrong, "is no whole number; mend it or use texts as ids")
        hint = "is too large to tell from its neighbours; store ids as whole numbers or texts"
        self._refuse(column, ids.abs() >= _exact(column.dtype), hint)
        return ids

    def _text_ids(self, column: pl.Series) -> pl.Series:
        """Texts; whole numbers as one writes them, if all are numbers."""
        plain = column.str.replace(_WITH_ZEROS, "")
        is_number = plain.str.contains(_DIGITS)
        is_odd = ~is_number & plain.str.contains(_NUMBER_LIKE)
        if is_number.any() and (is_number | is_odd).all():
            hint = "is not written as the whole numbers around it are; write 1000, or only texts"
            self._refuse(column, is_odd, hint)
        return plain if plain.str.contains(_WHOLE).all() else column

    def numbers(self, name: str) -> pl.Series:
        """A column of numbers as Float32; null where a cell is empty or not finite."""
        column = text = self._frame[name]
        if not (column.dtype.is_numeric() or column.dtype in (pl.String, pl.Boolean, pl.Null)):
            raise self._no(name, "hold numbers")
        if column.dtype == pl.String:
            text = column.str.to_lowercase().replace(["true", "false"], ["1", "0"])
        numbers = text.cast(pl.Float64, strict=False)
        is_wrong = numbers.is_null() & column.is_not_null()
        self._refuse(column, is_wrong, "is not a number (12, -0.5, 1e3); mend or empty the cell")
        is_named = text.str.contains("inf") if text.dtype == pl.String else numbers.is_infinite()
        is_wrong = (numbers.abs() > MAX_NUMBER) & ~numbers.is_nan() & ~is_named
        hint = "is too large for a number (3.4e38); mend or empty the cell"
        self._refuse(column, is_wrong, hint)
        return numbers.set(~numbers.is_finite(), None).cast(pl.Float32)

    def propensities(self, name: str) -> pl.Series:
        """A column of chances above 0 and at most 1, as `numbers`; null where it is not known."""
        numbers, column = self.numbers(name), self._frame[name]
        is_infinite = column.cast(pl.Float64, strict=False).is_infinite().fill_null(False)
        is_wrong = ~numbers.is_between(0.0, 1.0, closed="right").fill_null(True) | is_infinite
        hint = "is no propensity: must be above 0 and at most 1; mend it, or empty an unknown one"
        self._refuse(column, is_wrong, hint)
        return numbers

    def categories(self, name: str, *, is_list: bool) -> pl.Series:
        """A column of categories: String, or List(String) where a cell holds several.

        With ``is_list`` a text holds several, as "a,b,c" or "[a, b, c]".
        """
        column, wanted = self._frame[name], "hold plain values or lists of them"
        try:
            if isinstance(column.dtype, pl.List | pl.Array):
                lists = column.cast(pl.List(pl.String))
            elif column.dtype.is_nested():
                raise self._no(name, wanted)
            elif is_list:
                lists = column.cast(pl.String).str.strip_chars("[](){} ").str.split(",")
            else:
                return column.cast(pl.String).to_frame().select(_plain(pl.first())).to_series()
        except pl.exceptions.PolarsError as error:
            raise self._no(name, wanted) from error
        lists = lists.list.eval(_plain(pl.element()).drop_nulls())
        return lists.set(lists.list.len() == 0, None)

    def times(self, name: str) -> pl.Series:
        """A column of times: Int64, Float64, or Datetime in UTC (of ns where µs do not do)."""
        column = self._frame[name]
        if column.dtype == pl.Null:
            return column.cast(pl.Int64)
        if column.dtype == pl.String:
            return self._text_times(column)
        if isinstance(column.dtype, pl.Date | pl.Datetime):
            if getattr(column.dtype, "time_zone", None) is not None:
                column = column.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
            return column if column.dtype == pl.Datetime("ns") else column.cast(pl.Datetime("us"))
        if not column.dtype.is_numeric():
            raise self._no(name, "hold times, numbers or dates")
        if not _is_whole_type(column.dtype):
            return self._fractions(column, column.cast(pl.Float64))
        times = column.cast(pl.Int64, strict=False)
        is_wrong = times.is_null() & column.is_not_null()
        self._refuse(column, is_wrong, "is too large for a time (9.2e18); mend it")
        return times

    def _text_times(self, column: pl.Series) -> pl.Series:
        """Times that are texts: numbers, or dates, whichever there are more of."""
        column = column.set(column.str.to_lowercase() == "nan", None)
        times = column.str.replace(_WITH_ZEROS, "").cast(pl.Int64, strict=False)
        if times.null_count() == column.null_count():
            return times
        numbers, dates = column.cast(pl.Float64, strict=False), parse_dates(column)
        times = numbers if numbers.null_count() <= dates.null_count() else dates
        is_wrong = times.is_null() & column.is_not_null()
        hint = "is no time; write all as numbers, or all as ISO dates and times"
        self._refuse(column, is_wrong, hint)
        return self._fractions(column, times) if times is numbers else times

    def _fractions(self, column: pl.Series, times: pl.Series) -> pl.Series:
        """Times with fractions; none where one is nan."""
        times = times.fill_nan(None)
        self._refuse(column, times.is_infinite(), "is no time; mend or empty the cell")
        is_wrong = times.abs() * 10.0 ** (_scale(column.dtype) or 0) >= _exact(column.dtype)
        hint = "has more digits than a number with fractions keeps; write all as whole numbers"
        self._refuse(column, is_wrong, hint)
        return times

    def _refuse(self, column: pl.Series, is_wrong: pl.Series, hint: str) -> None:
        """Name the first wrong cell, where there is one."""
        if is_wrong.any():
            first = is_wrong.arg_true()[0]
            value = "" if column[first] is None else f"{column[first]!r} "
            row = first + (1 if self.path.suffix == ".parquet" else 2)  # with a header, or without
            row = _line(self.path, first) if self.path.suffix == ".csv" else row
            raise InputError(f"{self.path}, row {row}, column {column.name!r}: {value}{hint}")

    def _no(self, name: str, wanted: str) -> InputError:
        dtype = self._frame[name].dtype
        return InputError(f"{self.path}: column {name!r} must {wanted}, not {dtype}; convert it")


def _line(path: Path, record: int) -> int:
    """In which line a record ends, the header not counted; blank lines are none."""
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        reader = csv.reader(file)
        next(islice(filter(None, reader), record + 1, None))
        return reader.line_num


def _scale(dtype: pl.DataType) -> int | None:
    """Digits behind the point of a decimal number."""
    return dtype.scale if isinstance(dtype, pl.Decimal) else None


def _is_whole_type(dtype: pl.DataType) -> bool:
    return dtype.is_integer() or _scale(dtype) == 0


def _exact(dtype: pl.DataType) -> float:
    """From here on a type's numbers, as Float64, are not all whole numbers."""
    return 2.0**24 if dtype == pl.Float32 else 2.0**53


def parse_dates(texts: pl.Series) -> pl.Series:
    """ISO dates and times as Datetime (UTC where no zone is given); null where it is none."""
    iso = texts.set(~texts.str.contains(_ISO), None)
    is_fine = iso.str.contains(_NANOSECONDS).any()
    dates = iso.str.to_datetime(time_unit="ns" if is_fine else "us", time_zone="UTC", strict=False)
    return dates.dt.replace_time_zone(None)


def is_whole(ids: pl.Series) -> bool:
    """Whether ids are whole numbers, as numbers or written as one writes them."""
    return ids.dtype == pl.Int64 or bool(ids.str.contains(_WHOLE).all())


def _plain(text: pl.Expr) -> pl.Expr:
    """A category's name: "1.0" and "1" are one, and quotes do not belong to it."""
    stripped = text.str.strip_chars(" '\"").str.replace(r"^([+-]?\d+)\.0*$", "${1}")
    return pl.when(stripped != "").then(stripped)
