"""Reading the needed columns of CSV files, typed, and saying exactly what is wrong in them.

A file is read in pieces of whole lines, so that memory does not grow with it. The fast path is
Polars with a fixed type per column. Only when that fails are a piece's lines read a second time,
slowly, for the row, column and value to name in the error.
"""

from __future__ import annotations

import csv
import io
import re
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TypeVar

import numpy as np
import polars as pl

from realdataexp.data.schema import nearest
from realdataexp.errors import InputError

CHUNK_BYTES = 8 << 20
"""Bytes read at a time: few enough that the memory of one piece serves the next."""

_N_THREADS = 2
_MOST_HEADER_BYTES = 1 << 20
_CACHED = 1 << 18  # bytes that stay in the processor's cache
_COMMA, _LINE_BREAK, _QUOTE = 44, 10, 34
_UNMARKED = bytes(i for i in range(256) if i not in (_COMMA, _LINE_BREAK, _QUOTE))
_T = TypeVar("_T")
_R = TypeVar("_R")
DTypes = Mapping[str, type[pl.DataType]]

MAX_NUMBER = float(np.finfo(np.float32).max)  # features and labels are float32
MAX_ID = 2**53  # ids and times may come through float64, exact up to here
_OTHER_SEPARATORS = {";": "';'", "\t": "a tab", "|": "'|'"}
_NUMBER = re.compile(r" *[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


# ---- pieces -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Piece:
    """Some lines of a CSV file, after its header line, which may break inside quotes.

    ``offset`` is where in the file the lines start, in bytes.
    """

    path: Path
    text: bytes
    offset: int
    n_header_lines: int
    n_columns: int

    @property
    def line_before(self) -> int:
        """What is to be added to a line's number in the text to get that in the file."""
        n = -self.n_header_lines
        with self.path.open("rb") as file:
            while file.tell() < self.offset:
                n += file.read(min(1 << 20, self.offset - file.tell())).count(b"\n")
        return n

    def rows(self) -> Iterator[tuple[int, list[str]]]:
        """Each line's fields, the header's first, with its row in the file (the header is 1).

        A blank line has none. Raises an InputError for a field of unbearable length.
        """
        before = self.line_before
        text = self.text.decode("utf-8-sig", errors="replace")
        reader = csv.reader(io.StringIO(text, newline=""))
        try:
            for row in reader:
                yield reader.line_num + before, row
        except csv.Error as error:
            at = reader.line_num + before
            raise InputError(
                f"{self.path}, row {at}: cannot be read as CSV ({error}); is a quote left open?"
            ) from error

    def may_be_ragged(self, n_rows: int | None) -> bool:
        """Whether some line may have not as many fields as the header; else it is sure that none.

        Blank lines, and quotes where there should be none, make it unsure. Where it is known that
        none of the ``n_rows`` lines has too many, counting all commas is enough, and costs far
        less.
        """
        n_commas = self.n_columns - 1
        if n_rows is not None and b'"' not in self.text:
            bytes_X = np.frombuffer(self.text, np.uint8)
            # five times as fast as ``bytes.count``, which is made for rare ones
            starts = range(0, len(bytes_X), _CACHED)
            parts = (bytes_X[i : i + _CACHED] == _COMMA for i in starts)
            if sum(map(np.count_nonzero, parts)) == n_commas * (n_rows + 1):
                return False
        # what stands inside quotes does not count: behind an odd number of them
        marks_X = np.frombuffer(self.text.translate(None, _UNMARKED), np.uint8)
        is_quote_X = marks_X == _QUOTE
        is_inside_X = np.bitwise_xor.accumulate(is_quote_X.view(np.uint8)).view(bool)
        marks = marks_X[~is_inside_X & ~is_quote_X].tobytes()
        line = b"," * n_commas + b"\n"
        marks += b"" if marks.endswith(b"\n") else b"\n"
        return marks != line * (len(marks) // len(line))


def _header_line(file: IO[bytes]) -> bytes:
    """A CSV file's first line, with all lines that it breaks into inside quotes."""
    line = file.readline(_MOST_HEADER_BYTES)
    while line.count(b'"') % 2 and len(line) < _MOST_HEADER_BYTES:
        more = file.readline(_MOST_HEADER_BYTES)
        if not more:
            break
        line += more
    return line


def pieces(path: Path) -> Iterator[Piece]:
    """Cut a CSV file into pieces; none when it has no line below its header.

    A line break inside quotes does not end a line.
    """
    with path.open("rb") as file:
        header = _header_line(file)
        if not header.endswith(b"\n"):
            return
        names = next(csv.reader(io.StringIO(header.decode("utf-8-sig", errors="replace"))), [])
        shape = (header.count(b"\n"), len(names))
        offset, rest = len(header), b""
        while block := file.read(CHUNK_BYTES):
            text = b"".join((header, rest, block))
            end = _end_of_lines(text, len(header))
            rest = text[end:]
            if end > len(header):
                yield Piece(path, text[:end], offset, *shape)
            offset += end - len(header)
        if rest:
            yield Piece(path, header + rest, offset, *shape)


def _end_of_lines(text: bytes, start: int) -> int:
    """Where the last line break behind ``start`` and not inside quotes ends; start without any."""
    end = max(start, text.rfind(b"\n", start) + 1)
    # finding whether there is any is far quicker than counting them
    is_inside = text.find(b'"', start, end) >= 0 and text.count(b'"', start, end) % 2 == 1
    while end > start and is_inside:
        before = max(start, text.rfind(b"\n", start, end - 1) + 1)
        is_inside ^= text.count(b'"', before, end) % 2 == 1
        end = before
    return end


def in_order(function: Callable[[_T], _R], items: Iterable[_T]) -> Iterator[_R]:
    """Results of a function on items, in the items' order; two threads compute them.

    At most three items and their results are in memory.
    """
    with ThreadPoolExecutor(_N_THREADS) as pool:
        waiting: deque[Future[_R]] = deque()
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > _N_THREADS:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


# ---- headers ------------------------------------------------------------------------------------


def read_header(path: Path) -> tuple[str, ...]:
    """The column names of a CSV file; InputError where it is no UTF-8 text with such a header."""
    require_file(path)
    try:
        with path.open("rb") as file:
            line = _header_line(file)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    if line.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in line:
        raise InputError(f"{path}: is not UTF-8 text (UTF-16, or no text at all); save it as UTF-8")
    try:
        text = line.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}, row 1: {_not_utf8(line[error.start])}") from error
    if not text.strip():
        what = "its first line is blank" if text else "is empty, without even a header"
        raise InputError(f"{path}: {what}; fetch the file again or name its columns there")
    if '"' not in text and "\r" in text.rstrip("\r\n"):
        raise InputError(f"{path}: its lines end with carriage returns alone; save it with \\n")
    header = tuple(next(csv.reader(io.StringIO(text, newline=""))))
    for separator, name in _OTHER_SEPARATORS.items() if len(header) == 1 else ():
        if separator in header[0]:
            raise InputError(
                f"{path}: its header is separated by {name}, not by commas: {header[0][:200]!r}; "
                "write the file with commas between the columns and points in the numbers"
            )
    twice = sorted({name for name in header if name and header.count(name) > 1})
    if twice:
        raise InputError(f"{path}: has two columns {', '.join(twice)}; rename one")
    return header


def require_file(path: Path) -> None:
    """Raise an InputError where a path is none of a file; a pipe or a device would never end."""
    if not path.is_file():
        what = "a pipe, a device or a folder, not a file" if path.exists() else "no such file"
        raise InputError(f"{path}: {what}; name a file")


def _not_utf8(byte: int) -> str:
    return f"byte 0x{byte:02x} is not UTF-8; save the file as UTF-8"


def shared_header(paths: Sequence[Path]) -> tuple[str, ...]:
    """Return the one header of all shards of a file; raises an InputError where one differs."""
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


# ---- cells --------------------------------------------------------------------------------------


def parse(piece: Piece, dtypes: DTypes, ids: Collection[str] = ()) -> pl.DataFrame:
    """Read the columns named in `dtypes`, and only those, in the order of the lines.

    Empty cells become null, blank lines are left out. An integer column may be written with
    fractions ("3.0"); it then comes back as Int64, or as Float64 if some value is not whole.

    The columns must be in the header; ``ids`` must hold a whole number >= 0 in every row.

    Raises:
        InputError: a text where a number belongs, a missing or odd id, a row with more or fewer
            fields than the header; with file, row (1-based line, the header is row 1), column and
            value.
    """
    try:
        frame = _scan(piece, dtypes)
    except pl.exceptions.PolarsError:
        frame = _read_wide(piece, dtypes, ids)
    # only where all columns are read does Polars find a row that has more
    n_rows = frame.height if len(dtypes) == piece.n_columns else None
    if piece.may_be_ragged(n_rows) and (fault := diagnose(piece, [], [])):
        raise InputError(fault)
    if frame.height and frame.to_series().null_count():
        # a blank line is no row, but a line of commas alone is one
        is_row = pl.Series([bool(row) for _, row in piece.rows()][1:], dtype=pl.Boolean)
        frame = frame if is_row.all() else frame.filter(is_row)
    if any(frame[name].null_count() or (frame[name] < 0).any() for name in ids):
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
        fault = _undecodable(piece) or diagnose(piece, numbers, ids)
        raise InputError(fault or f"{piece.path}: cannot be read as CSV: {reason}") from error
    for name in integers:
        column = frame[name].drop_nulls()
        if (column.is_finite() & (column == column.round()) & (column.abs() < MAX_ID)).all():
            frame = frame.with_columns(pl.col(name).cast(pl.Int64))
        elif name in ids:
            raise InputError(diagnose(piece, [], ids) or f"{piece.path}: {name} is not whole")
    return frame


def _undecodable(piece: Piece) -> str | None:
    """Where some lines are not UTF-8."""
    try:
        piece.text.decode()
    except UnicodeDecodeError as error:
        row = piece.line_before + piece.text.count(b"\n", 0, error.start) + 1
        return f"{piece.path}, row {row}: {_not_utf8(piece.text[error.start])}"
    return None


def diagnose(piece: Piece, numbers: Collection[str], ids: Collection[str]) -> str | None:
    """Find the first cell that cannot be what it should be, or a row with too many or few.

    ``numbers`` are columns that must hold a number or nothing, ``ids`` a whole number >= 0.

    Returns:
        One line: file, row, column, value, what to do; None when nothing is wrong.
    """
    rows = piece.rows()
    _, header = next(rows)
    places = [(name, header.index(name)) for name in dict.fromkeys((*ids, *numbers))]
    for number, row in rows:
        at = f"{piece.path}, row {number}"
        if row and len(row) != len(header):
            return f"{at}: {len(row)} fields where the header has {len(header)}; mend the row"
        for name, place in places if row else ():
            fault = _fault(row[place], name in ids)
            if fault:
                return f"{at}, column {name!r}: {row[place]!r} {fault}"
    return None


def _fault(cell: str, is_id: bool) -> str | None:
    if cell == "":
        return "where an id must be; delete the row or fetch the file again" if is_id else None
    is_number = _NUMBER.fullmatch(cell) is not None
    if not is_number and (is_id or cell.lower() != "nan"):
        return (
            "is not a number as CSV files write it (12, -0.5, 1e3); correct the cell"
            f"{'' if is_id else ' or leave it empty'}"
        )
    value = float(cell)
    if is_id and not (value.is_integer() and 0 <= value < MAX_ID):
        return "is no id (a whole number >= 0); correct the cell or delete the row"
    if abs(value) > MAX_NUMBER:
        return "is too large for a number (3.4e38); correct the cell or leave it empty"
    return None
