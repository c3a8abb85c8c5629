"""Reading columns of Parquet and CSV files alike: what a cell means, and which cell is wrong.

A CSV file's cells are texts, so each of these takes a text as well as the type itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from realdataexp.data.csv_files import read_header
from realdataexp.data.parquet import parquet_columns, read_parquet
from realdataexp.errors import InputError

SUFFIXES = (".parquet", ".csv")

_ROW = "__row__"
_WHOLE = r"^(0|-?[1-9]\d{0,17})$"
_ISO = r"^\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}.*)?$"
_FAULTS = (OSError, pl.exceptions.PolarsError)


def columns_of(path: Path) -> tuple[str, ...]:
    """The names of a file's columns.

    Raises:
        InputError: there is no such file, or it is no Parquet or CSV file.
    """
    if path.suffix not in SUFFIXES:
        raise InputError(f"{path}: must be a .parquet or .csv file")
    if not path.is_file():
        there = sorted(p.name for p in path.parent.iterdir()) if path.parent.is_dir() else []
        raise InputError(f"{path}: no such file; there is: {', '.join(there[:20]) or 'nothing'}")
    if path.suffix == ".parquet":
        try:
            return parquet_columns(path)
        except _FAULTS as error:
            raise InputError(f"{path}: cannot be read as Parquet: {_first_line(error)}") from error
    names = read_header(path)
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"{path}: has two columns {', '.join(twice)}; rename one")
    return names


class TableFile:
    """Columns of one file; a CSV file's blank lines are left out."""

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        """Read these columns, which must be there.

        Raises:
            InputError: the file cannot be read, or a row has more cells than the header.
        """
        self.path, names = path, list(dict.fromkeys(columns))
        is_csv = path.suffix == ".csv"
        try:
            if is_csv:
                # all columns: only so are rows found that have too many cells
                frame = pl.read_csv(path, infer_schema=False, glob=False).select(names)
            else:
                frame = read_parquet(path, names)
        except _FAULTS as error:
            kind = "CSV" if is_csv else "Parquet"
            raise InputError(f"{path}: cannot be read as {kind}: {_first_line(error)}") from error
        frame = frame.with_row_index(_ROW, offset=2 if is_csv else 1)
        if is_csv:
            frame = frame.filter(~pl.all_horizontal(pl.col(names).is_null()))
        for name in names:
            if frame[name].dtype in (pl.String, pl.Categorical, pl.Enum):
                text = pl.col(name).cast(pl.String).str.strip_chars()
                frame = frame.with_columns(pl.when(text != "").then(text).alias(name))
        self._frame = frame

    def __len__(self) -> int:
        return self._frame.height

    def ids(self, name: str) -> pl.Series:
        """A column of ids: Int64, or String (a CSV file's always).

        Raises:
            InputError: one is missing, or they are neither whole numbers nor texts.
        """
        column = self._frame[name]
        if column.null_count():
            raise self._fault(column, column.is_null(), "no id; give one or remove the row")
        if column.dtype == pl.String:
            return column
        if not column.dtype.is_numeric():
            raise InputError(self._no(name, "hold ids, whole numbers or texts"))
        ids = column.cast(pl.Int64, strict=False)
        is_wrong = ids.is_null() | (ids != column)
        if is_wrong.any():
            raise self._fault(column, is_wrong, "is no whole number; mend it or use texts as ids")
        return ids

    def numbers(self, name: str) -> pl.Series:
        """A column of numbers as Float32; null where a cell is empty or not finite.

        Raises:
            InputError: a cell holds something else.
        """
        column = self._frame[name]
        if not (column.dtype.is_numeric() or column.dtype in (pl.String, pl.Boolean, pl.Null)):
            raise InputError(self._no(name, "hold numbers"))
        text = column.str.to_lowercase() if column.dtype == pl.String else column
        text = text.replace(["true", "false"], ["1", "0"]) if text.dtype == pl.String else text
        numbers = text.cast(pl.Float64, strict=False).cast(pl.Float32)
        is_wrong = numbers.is_null() & column.is_not_null()
        if is_wrong.any():
            raise self._fault(column, is_wrong, "is not a number; mend or empty the cell")
        return numbers.set(~numbers.is_finite(), None)

    def categories(self, name: str, *, is_list: bool) -> pl.Series:
        """A column of categories: String, or List(String) where a cell holds several.

        Args:
            name: the column.
            is_list: whether a text holds several categories, as "a,b,c" or "[a, b, c]".

        Raises:
            InputError: the cells are neither plain values nor lists of them.
        """
        column = self._frame[name]
        try:
            if isinstance(column.dtype, pl.List | pl.Array):
                lists = column.cast(pl.List(pl.String))
            elif column.dtype.is_nested():
                raise InputError(self._no(name, "hold plain values or lists of them"))
            elif is_list:
                lists = column.cast(pl.String).str.strip_chars("[](){} ").str.split(",")
            else:
                return _plain(column.cast(pl.String))
        except pl.exceptions.PolarsError as error:
            raise InputError(self._no(name, "hold plain values or lists of them")) from error
        lists = lists.list.eval(_plain_item(pl.element()).drop_nulls())
        return lists.set(lists.list.len() == 0, None)

    def times(self, name: str) -> tuple[pl.Series, bool]:
        """A column of times and whether they are dates: numbers as they are, dates as Int64 µs.

        Raises:
            InputError: a cell is neither a number nor an ISO date and time.
        """
        column = self._frame[name]
        if column.dtype == pl.String:
            for dtype in (pl.Int64, pl.Float64):
                times = column.cast(dtype, strict=False)
                if times.null_count() == column.null_count():
                    return times, False
            dates = parse_dates(column)
            is_wrong = dates.is_null() & column.is_not_null()
            if is_wrong.any():
                hint = "is no time; give all as numbers, or all as ISO dates and times"
                raise self._fault(column, is_wrong, hint)
            return dates, True
        if column.dtype in (pl.Date, pl.Datetime):
            return column.cast(pl.Datetime("us")).to_physical(), True
        if not column.dtype.is_numeric():
            raise InputError(self._no(name, "hold times, numbers or dates"))
        if column.dtype.is_integer():
            return column.cast(pl.Int64), False
        return column.cast(pl.Float64).fill_nan(None), False

    def _fault(self, column: pl.Series, is_wrong: pl.Series, hint: str) -> InputError:
        first = is_wrong.arg_true()[0]
        value = "" if column[first] is None else f"{column[first]!r} "
        row = self._frame[_ROW][first]
        return InputError(f"{self.path}, row {row}, column {column.name!r}: {value}{hint}")

    def _no(self, name: str, wanted: str) -> str:
        dtype = self._frame[name].dtype
        return f"{self.path}: column {name!r} must {wanted}, not {dtype}; convert it"


def parse_dates(texts: pl.Series) -> pl.Series:
    """ISO dates and times as microseconds (UTC where no zone is given); null where it is none."""
    iso = texts.set(~texts.str.contains(_ISO), None)
    dates = iso.str.to_datetime(time_unit="us", time_zone="UTC", strict=False)
    return dates.to_physical()


def is_whole(ids: pl.Series) -> bool:
    """Whether ids are whole numbers, as numbers or written as one writes them."""
    return ids.dtype == pl.Int64 or bool(ids.str.contains(_WHOLE).all())


def _plain(texts: pl.Series) -> pl.Series:
    return texts.to_frame().select(_plain_item(pl.first())).to_series()


def _plain_item(text: pl.Expr) -> pl.Expr:
    """A category's name: "1.0" and "1" are one, and quotes do not belong to it."""
    stripped = text.str.strip_chars(" '\"").str.replace(r"^([+-]?\d+)\.0*$", "${1}")
    return pl.when(stripped != "").then(stripped)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
