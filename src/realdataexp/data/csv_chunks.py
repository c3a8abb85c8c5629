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
from typing import TypeVar

CHUNK_BYTES = 8 << 20
"""Bytes read at a time: few enough that the memory of one piece serves the next."""

_N_THREADS = 2
_T = TypeVar("_T")
_R = TypeVar("_R")


@dataclass(frozen=True)
class Piece:
    """Some lines of a CSV file.

    Attributes:
        path: the file.
        text: the file's header line and the lines.
        offset: where in the file the lines start, in bytes.
    """

    path: Path
    text: bytes
    offset: int

    def rows(self) -> Iterator[tuple[int, list[str]]]:
        """Each line's fields, the header's first, with its row in the file (the header is 1)."""
        before = 0
        with self.path.open("rb") as file:
            while file.tell() < self.offset:
                before += file.read(min(1 << 20, self.offset - file.tell())).count(b"\n")
        text = self.text.decode("utf-8-sig", errors="replace")
        reader = csv.reader(io.StringIO(text, newline=""))
        for row in reader:
            yield reader.line_num + before - 1, row


def pieces(path: Path) -> Iterator[Piece]:
    """Cut a CSV file into pieces; none when it has no line below its header.

    A line break inside quotes does not end a line.
    """
    with path.open("rb") as file:
        header = file.readline()
        if not header.endswith(b"\n"):
            return
        offset, rest = len(header), b""
        while block := file.read(CHUNK_BYTES):
            text = b"".join((header, rest, block))
            end = _end_of_lines(text, len(header))
            rest = text[end:]
            if end > len(header):
                yield Piece(path, text[:end], offset)
            offset += end - len(header)
        if rest:
            yield Piece(path, header + rest, offset)


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
