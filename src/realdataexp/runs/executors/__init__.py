"""Who runs the parts of a run: processes of this machine, or engines that run commands elsewhere.

A part is a folder: a shard, ``shards/<i>`` of a run folder, or a run folder whose config waits to
be run. ``python -m realdataexp.runs.executors FOLDER`` works on one, anywhere that sees the folder,
and goes on where it was stopped. An executor says where that happens, and is one file here; what
shards leave (chunks), a shard's own work (work) and several as one (merging) do not depend on it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from realdataexp.config.cluster import ClusterConfig
from realdataexp.files import read_json
from realdataexp.registry import calling, find
from realdataexp.runs.parts import JOBS


def command_of(part: Path) -> list[str]:
    """What works on a part: exit code 0 done, 130 stopped by a signal, 1 failed, 2 wrong input."""
    return [sys.executable, "-m", "realdataexp.runs.executors", str(part)]


class Executor(Protocol):
    """Runs parts; one from outside the package has these three methods.

    Where it ``outlives`` the run, its parts go on when that is interrupted or killed, and the run
    finds them again when it is resumed; then ``cancel`` may come before ``start``.
    """

    outlives: bool

    def start(self, parts: Sequence[Path]) -> None:
        """Begin to work on these folders, all at the same time where there is room, and return."""

    def watch(self) -> None:
        """Raise RunError where a part is gone that neither finished nor left an error.json."""

    def cancel(self) -> None:
        """End what still works on them; a part may be started again afterwards."""


def of_jobs(folder: Path, jobs: str = JOBS) -> Any:
    """The executor whose jobs the jobs.json of a run folder, or of a sweep's, names.

    It has ``states()``, part's name -> queued, running or failed, with a reason after a colon, and
    ``cancel()``.
    """
    name = str(read_json(folder / jobs)["executor"])
    return find("executor", name, str(folder / jobs))(folder, ClusterConfig(), None)


class OutsideExecutor:
    """An executor from outside the package: whatever it raises is a line that names it."""

    def __init__(self, make: Callable[[], Any], who: str) -> None:
        self._who = who
        with calling(who, "its constructor"):
            self._executor = make()
            self.outlives = bool(getattr(self._executor, "outlives", False))

    def start(self, parts: Sequence[Path]) -> None:
        """See Executor."""
        with calling(self._who, "start()"):
            self._executor.start(parts)

    def watch(self) -> None:
        """See Executor."""
        with calling(self._who, "watch()"):
            self._executor.watch()

    def cancel(self) -> None:
        """See Executor."""
        with calling(self._who, "cancel()"):
            self._executor.cancel()
