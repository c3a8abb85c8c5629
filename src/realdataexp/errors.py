"""Errors a user can mend, and warnings that a run reports."""

from __future__ import annotations

import logging
import re
import unicodedata
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from difflib import get_close_matches

logger = logging.getLogger("realdataexp")

_LONGEST_LINE = 1_000
_LONGEST_NAME = 100
_LONG_WORD = re.compile(r"(\S{100})\S{100,}(\S{97})")


def one_line(text: str, *, is_cut: bool = True) -> str:
    r"""A text as one line that a terminal or a log file shows as it is.

    Whatever could act on a terminal, or look like another line, is written as its escape: control
    characters (with newlines and ANSI sequences), marks that change the direction of writing, line
    separators, and what is no character. A very long word or line is cut in the middle, unless
    told otherwise: its place is at the start, and its remedy at the end.

    Examples:
        >>> print(one_line("label a\x1b[2J\nb: 5 µs"))
        label a\x1b[2J\nb: 5 µs
    """
    if is_cut and len(text) > 200:
        text = _cut(_LONG_WORD.sub(r"\1...\2", _cut(text, 20 * _LONGEST_LINE)), _LONGEST_LINE)
    return text if text.isprintable() else "".join(map(_escaped, text))


def _cut(text: str, n: int) -> str:
    half = (n - 3) // 2
    return text if len(text) <= n else f"{text[:half]}...{text[-half:]}"


def _escaped(character: str) -> str:
    is_shown = character.isprintable() or unicodedata.category(character) == "Zs"
    return character if is_shown else repr(character)[1:-1]


def did_you_mean(name: str, known: Collection[str]) -> str:
    """``; did you mean X?`` for the nearest known name, or nothing where none is near."""
    if len(name) > _LONGEST_NAME:  # the time of a comparison grows with the lengths' product
        return ""
    by_lower = {item.lower(): item for item in known}
    near = get_close_matches(name.lower(), by_lower, n=1, cutoff=0.5)
    return f"; did you mean {by_lower[near[0]]}?" if near else ""


class InputError(Exception):
    """Something the user gave is wrong; the command ends with exit code 2.

    Each of ``faults`` is one line that names the file or config path, the value, the bound and what
    to do; the message is all that were found in one pass, joined by newlines.
    """

    def __init__(self, *faults: str) -> None:
        self.faults = tuple(one_line(fault) for fault in faults)
        super().__init__("\n".join(self.faults))


class RunError(Exception):
    """The input was right but the run failed; the command ends with exit code 1."""


class DiskError(RunError):
    """The disk is full or broken, or a folder vanished while it was in use."""


# How libraries and the system say it in words, through a process too
_NO_MEMORY = (
    "DefaultCPUAllocator", "MemoryError", "bad_alloc", "out of memory", "Cannot allocate memory",
    "memory allocation of", "capacity overflow", "array is too big",
    "Maximum allowed size exceeded", "Storage size calculation overflowed", "failed to map segment",
)  # fmt: skip


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of any library means that memory, the CPU's or a device's, ran out."""
    said = f"{type(error).__name__}: {error}"
    return isinstance(error, MemoryError) or any(words in said for words in _NO_MEMORY)


@dataclass
class Warnings:
    """The doubtful things that a run met, each reported once, in the order they were met."""

    items: list[dict[str, str]] = field(default_factory=list)

    def add(self, code: str, message: str) -> None:
        """Record and log a warning; one with the same code and message is kept only once."""
        item = {"code": code, "message": one_line(message)}
        if item not in self.items:
            self.items.append(item)
            logger.warning("[warning] %s: %s", code, item["message"])

    def __iter__(self) -> Iterator[dict[str, str]]:
        return iter(self.items)
