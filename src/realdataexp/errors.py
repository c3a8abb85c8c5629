"""Errors a user can mend, and warnings that a run reports."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field

logger = logging.getLogger("realdataexp")


class InputError(Exception):
    """Something the user gave is wrong; the command ends with exit code 2.

    The message is one line that names the file or config path, the value, the bound and what
    to do. Several faults found in one pass are joined by newlines, one line each.
    """


class RunError(Exception):
    """The input was right but the run failed; the command ends with exit code 1."""


@dataclass
class Warnings:
    """The doubtful things that a run met, each reported once, in the order they were met."""

    items: list[dict[str, str]] = field(default_factory=list)

    def add(self, code: str, message: str) -> None:
        """Record and log a warning; one with the same code and message is kept only once."""
        item = {"code": code, "message": message}
        if item not in self.items:
            self.items.append(item)
            logger.warning("[warning] %s: %s", code, message)

    def __iter__(self) -> Iterator[dict[str, str]]:
        return iter(self.items)
