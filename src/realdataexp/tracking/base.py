"""What a tracker is: a place outside the run folder, or a format, that is told of a run."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from realdataexp.errors import InputError
from realdataexp.tracking.series import Point


@dataclass(frozen=True)
class TrackedRun:
    """A run, as trackers are told of it.

    Attributes:
        folder: the run folder.
        base_dir: what relative paths in a tracker's options are relative to.
        log_dir: where the run's config has run folders made.
        params: every setting of the config, by its path.
        tags: what else tells runs apart: mode, seed, versions.
    """

    folder: Path
    base_dir: Path
    log_dir: Path
    params: dict[str, str]
    tags: dict[str, str]


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
        """Let go; ``is_finished`` tells whether the run came to its end."""
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
        """Begin to write a run, or go on with one that is stored in part."""
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
