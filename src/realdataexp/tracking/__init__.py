"""Reporting a run elsewhere, off by default: what a tracker is; one file each tracker.

``session`` names the series and sends them, while a run goes on or afterwards from its folder.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict

from realdataexp.errors import InputError


class Point(NamedTuple):
    """A number of a series at a step."""

    name: str
    step: int
    value: float


@dataclass(frozen=True)
class TrackedRun:
    """A run, as trackers see it."""

    folder: Path
    base_dir: Path  # what relative paths in a tracker's options are relative to
    log_dir: Path  # where the run's config has run folders made
    params: dict[str, str]  # every setting of the config, by its path
    tags: dict[str, str]  # what else tells runs apart: mode, seed, versions


class Writer(ABC):
    """An open connection for one run. Whatever it raises is taken as a failed transfer.

    Attributes:
        hint: how to look at what was written.
    """

    hint: str = ""

    @abstractmethod
    def last_steps(self) -> dict[str, int]:
        """The last step that is stored of each series of this run: nothing is sent twice."""

    @abstractmethod
    def log(self, points: Sequence[Point]) -> None:
        """Store points, at most 1,000, for good: a process killed later must not lose them.

        The points of a series come in the order of their steps.
        """

    def files(self, paths: Sequence[Path]) -> None:
        """Keep copies of a finished run's files, if that is the tracker's way."""
        return

    def close(self, *, is_finished: bool) -> None:
        """Close it; ``is_finished`` says whether the run came to its end."""
        return


class Tracker(BaseModel):
    """A tracker by its options, which are its fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def check(self) -> None:
        """Refuse to be used where something is missing on this machine.

        Raises:
            InputError: it is; the message says what to install.
        """
        return

    def open(self, run: TrackedRun) -> Writer:
        """Begin to write a run, or continue one that is stored in part."""
        raise NotImplementedError


def library(module: str, extra: str) -> Any:
    """Import a module of an optional library.

    Raises:
        InputError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InputError(
            f"tracker {extra}: its library cannot be imported ({error}): "
            f"pip install 'realdataexp[{extra}]'"
        ) from error
