"""A CSV file in pieces of whole lines, so that memory does not grow with the file."""

from __future__ import annotations

import csv
import io
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TypeVar

import numpy as np

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


@dataclass(frozen=True)
class Piece:
    """Some lines of a CSV file.

    Attributes:
        path: the file.
        text: the file's header line and the lines.
        offset: where in the file the lines start, in bytes.
        n_header_lines: lines of the header, which may break inside quotes.
        n_columns: fields of the header.
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

        A blank line has none.

        Raises:
            InputError: a field of unbearable length.
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

        Blank lines, and quotes where there should be none, make it unsure.

        Args:
            n_rows: how many lines there are, if it is known that none has too many fields: then
                it is enough to count all commas, which costs far less.
        """
        n_commas = self.n_columns - 1
        if (
            n_rows is not None
            and b'"' not in self.text
            and _count_commas(self.text) == n_commas * (n_rows + 1)
        ):
            return False
        # what stands inside quotes does not count: behind an odd number of them
        marks_X = np.frombuffer(self.text.translate(None, _UNMARKED), np.uint8)
        is_quote_X = marks_X == _QUOTE
        is_inside_X = np.bitwise_xor.accumulate(is_quote_X.view(np.uint8)).view(bool)
        marks = marks_X[~is_inside_X & ~is_quote_X].tobytes()
        line = b"," * n_commas + b"\n"
        marks += b"" if marks.endswith(b"\n") else b"\n"
        return marks != line * (len(marks) // len(line))


def _count_commas(text: bytes) -> int:
    """Commas in a text; five times as fast as ``bytes.count``, which is made for rare ones."""
    bytes_X = np.frombuffer(text, np.uint8)
    starts = range(0, len(bytes_X), _CACHED)
    return sum(int(np.count_nonzero(bytes_X[i : i + _CACHED] == _COMMA)) for i in starts)


def read_header_line(file: IO[bytes]) -> bytes:
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
        header = read_header_line(file)
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
    # whether there is any is told far sooner than how many
    is_inside = text.find(b'"', start, end) >= 0 and text.count(b'"', start, end) % 2 == 1
    while end > start and is_inside:
        before = max(start, text.rfind(b"\n", start, end - 1) + 1)
        is_inside ^= text.count(b'"', before, end) % 2 == 1
        end = before
    return end


def last_line(path: Path) -> str:
    """What stands behind a file's last line break; "" where the file ends with one."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - (1 << 16)))
        return file.read().rpartition(b"\n")[2].decode("utf-8", errors="replace")


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
