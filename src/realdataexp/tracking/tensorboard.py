"""TensorBoard: event files in the run folder."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from typing import Any

from realdataexp.options import Options
from realdataexp.tracking import Point, TrackedRun, Tracker, Writer, library

EXTRA = "tensorboard"


class TensorBoard(Tracker, Options):
    """Writes ``<run folder>/tensorboard/``; TensorBoard keeps numbers in single precision."""

    def check(self) -> None:
        """See Tracker."""
        library("tensorboard", EXTRA)

    def open(self, run: TrackedRun) -> Writer:
        """See Tracker."""
        return _Events(run.folder / "tensorboard")


class _Events(Writer):
    """A new event file, made when there is something to write."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._events = library("tensorboard.compat.proto.event_pb2", EXTRA)
        self._summaries = library("tensorboard.compat.proto.summary_pb2", EXTRA)
        self._records = library("tensorboard.summary.writer.record_writer", EXTRA)
        self._file: Any = None
        self.hint = f"tensorboard --logdir {folder}"

    def last_steps(self) -> dict[str, int]:
        if not self._folder.is_dir():
            return {}
        accumulator = library("tensorboard.backend.event_processing.event_accumulator", EXTRA)
        # of each series the latest point is enough
        sizes = {accumulator.SCALARS: 1}
        found = accumulator.EventAccumulator(str(self._folder), size_guidance=sizes)
        found.Reload()  # as far as a file goes that a killed process left cut
        return {tag: found.Scalars(tag)[-1].step for tag in found.Tags()["scalars"]}

    def log(self, points: Sequence[Point]) -> None:
        if self._file is None:
            self._folder.mkdir(exist_ok=True)
            # never one that is there: it may end in half a record; names in the order of time
            path = self._folder / f"events.out.tfevents.{time.time_ns():020d}.realdataexp"
            self._file = self._records.RecordWriter(path.open("xb"))
            self._write(file_version="brain.Event:2")
        value = self._summaries.Summary.Value
        for step, own in groupby(points, key=lambda point: point.step):
            values = [value(tag=name, simple_value=number) for name, _, number in own]
            self._write(step=step, summary=self._summaries.Summary(value=values))
        self._file.flush()

    def _write(self, **content: object) -> None:
        event = self._events.Event(wall_time=time.time(), **content)
        self._file.write(event.SerializeToString())

    def close(self, *, is_finished: bool) -> None:
        if self._file is not None:
            with suppress(OSError):  # what was logged is flushed
                self._file.close()
