"""One tracker of one run: sends what is not stored there yet."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress

from realdataexp.components import reason
from realdataexp.tracking.base import TrackedRun, Tracker, Writer
from realdataexp.tracking.series import Point

logger = logging.getLogger("realdataexp")

_BATCH = 1000  # points in one transfer
_PATIENCE = 3  # failures in a row after which a tracker is left alone until the end
_FILES = ("config.yaml", "result.json", "plot.svg", "report.html")


class Channel:
    """What its tracker raises comes through, unless something is done by `attempt`.

    What was sent is asked of the place where it is stored, so that an interruption, a failure or
    a second import makes no point twice.

    Attributes:
        name: of the tracker.
        hint: how to look at what was sent.
        n_new, n_before: points that were sent, and series that were there before.
        failure: what went wrong in the latest attempt; empty where it worked.
    """

    def __init__(self, name: str, tracker: Tracker, run: TrackedRun) -> None:
        self.name, self._tracker, self._run = name, tracker, run
        self._writer: Writer | None = None
        self._last: dict[str, int] = {}
        self.n_new, self.hint, self.failure = 0, "", ""
        self._n_attempts = self._n_failed = self._n_in_a_row = 0
        self._last_failure = ""

    def open(self) -> Writer:
        """The writer, which is opened if need be."""
        if self._writer is None:
            writer = self._tracker.open(self._run)
            self._last, self.hint = writer.last_steps(), writer.hint
            self._writer = writer
        return self._writer

    def send(self, points: Sequence[Point]) -> None:
        """Store the points that are not stored yet."""
        writer = self.open()
        new = [point for point in points if point.step > self._last.get(point.name, -1)]
        new.sort(key=lambda point: point.step)
        for i in range(0, len(new), _BATCH):
            writer.log(new[i : i + _BATCH])
        self.n_new += len(new)
        self._last |= {point.name: point.step for point in new}

    def finish(self) -> None:
        """Hand over the files of a finished run, and let go."""
        paths = [self._run.folder / name for name in _FILES]
        self.open().files([path for path in paths if path.is_file()])
        self.close(is_finished=True)

    def close(self, *, is_finished: bool) -> None:
        """Let go of the writer; the next transfer would open another."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close(is_finished=is_finished)

    # --- beside a run, which must go on ------------------------------------------------------

    def attempt(self, transfer: Callable[[], None], *, is_last: bool = False) -> bool:
        """Make a transfer; returns whether it worked.

        A tracker that failed several times in a row is left alone until the last transfers, as
        each may have to wait for a lock or a network.
        """
        if self._n_in_a_row >= _PATIENCE and not is_last:
            return False
        self._n_attempts += 1
        try:
            transfer()
        except (Exception, SystemExit) as error:
            self._n_failed, self._n_in_a_row = self._n_failed + 1, self._n_in_a_row + 1
            self.failure = self._last_failure = reason(error)
            logger.warning("[track] %s: a transfer failed: %s", self.name, self.failure)
            with suppress(Exception, SystemExit):
                self.close(is_finished=False)
            return False
        self._n_in_a_row, self.failure = 0, ""
        return True

    def report(self) -> str:
        """What failed, and what to do; empty where nothing did."""
        if not self._n_failed:
            return ""
        remedy = f"send what is missing with: realdataexp track RUN_DIR --to {self.name}"
        return (
            f"{self.name}: {self._n_failed} of {self._n_attempts} transfers failed, the last with "
            f"{self._last_failure}; {remedy if self.failure else 'what they lacked came later'}"
        )
