"""A run and its trackers, while it runs or afterwards, from its folder.

While it runs, whatever a tracker meets never ends the run.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from realdataexp.config import Config, TrackerConfig
from realdataexp.errors import InputError
from realdataexp.options import check
from realdataexp.registry import reason
from realdataexp.report.files import read_result, read_table
from realdataexp.tracking import build_tracker
from realdataexp.tracking.base import TrackedRun, Tracker, Writer
from realdataexp.tracking.series import (
    Point,
    check_names,
    metric_points,
    outcome_points,
    parameters,
    result_points,
    tags,
)

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


class Tracking:
    """The trackers of a run; without any, nothing happens."""

    def __init__(self, channels: Sequence[Channel] = ()) -> None:
        self._channels = channels
        self._since: dict[str, int] = {}  # every tracker has all before these steps of the phases

    @property
    def is_on(self) -> bool:
        """Whether there is anybody to tell."""
        return bool(self._channels)

    def send(self, metrics: pl.DataFrame, outcomes: pl.DataFrame) -> None:
        """Send what a run's tables have got since the last time."""
        if self._send(metrics, outcomes):
            self._since = dict(metrics.group_by("phase").agg(pl.max("step")).iter_rows())

    def _send(
        self, metrics: pl.DataFrame, outcomes: pl.DataFrame, last: Sequence[Point] | None = None
    ) -> bool:
        """Send what is new, and the last points of all; returns whether every tracker got it."""
        new = [
            *metric_points(metrics, self._since),
            *outcome_points(outcomes, self._since),
            *(last or ()),
        ]
        return all(
            [x.attempt(partial(x.send, new), is_last=last is not None) for x in self._channels]
        )

    def send_last(
        self, metrics: pl.DataFrame, outcomes: pl.DataFrame, result: Mapping[str, Any]
    ) -> list[str]:
        """Send the rest of a complete run, and its results; returns what failed so far."""
        if self.is_on:
            self._send(metrics, outcomes, result_points(result))
        return [text for channel in self._channels if (text := channel.report())]

    def finish(self) -> list[str]:
        """Hand over the files of a complete run; returns what failed in that."""
        failed = []
        for channel in self._channels:
            if not channel.failure:  # else that is reported already
                if channel.attempt(channel.finish, is_last=True):
                    logger.info("[track] %s: look with: %s", channel.name, channel.hint)
                else:
                    failed.append(channel.report())
        return failed

    def close(self) -> None:
        """Let go of the trackers of a run that ends early; once finished, nothing is left to do."""
        for channel in self._channels:
            with suppress(Exception, SystemExit):
                channel.close(is_finished=False)


def trackers_of(config: Config) -> list[tuple[str, Tracker]]:
    """The trackers that a config names, each with its name.

    Raises:
        InputError: one is unknown, refuses an option, or lacks its library.
    """
    if config.logging.trackers:
        check_names([design.label for design in config.designs()])
    return [
        (tracker.name, build_tracker(tracker.name, tracker.options, f"logging.trackers.{i}"))
        for i, tracker in enumerate(config.logging.trackers)
    ]


def begin_tracking(
    trackers: Sequence[tuple[str, Tracker]],
    config: Config,
    folder: Path,
    versions: Mapping[str, str | None],
) -> Tracking:
    """Open a run's trackers; those of a run that was interrupted go on where they were.

    Raises:
        InputError: one cannot be written to.
    """
    run = TrackedRun(
        folder,
        config.path("."),
        config.path(config.logging.log_dir),
        parameters(config.resolved()),
        tags(config.mode, config.seed, versions),
    )
    channels = [Channel(name, tracker, run) for name, tracker in trackers]
    tracking = Tracking(channels)
    try:
        for channel in channels:
            with _writing("logging.trackers", channel.name, "mend that, or leave it out"):
                channel.open()
    except InputError:
        tracking.close()
        raise
    return tracking


def import_run(folder: Path, name: str, options: Mapping[str, Any]) -> list[str]:
    """Send a finished run to a tracker; what is there already is not sent again.

    Args:
        folder: the run folder.
        name: of the tracker.
        options: of the tracker; those not given are what the run's config says.

    Returns:
        Lines that say what was sent, and how to look at it.

    Raises:
        InputError: the run is not complete, or the tracker cannot be used.
    """
    result = read_result(folder)
    if result["status"] != "complete":
        raise InputError(
            f"{folder}: status = {result['status']!r}: only a complete run can be imported; "
            f"finish it with: realdataexp resume {folder}"
        )
    metrics, outcomes = read_table(folder, "metrics"), read_table(folder, "outcomes")
    check_names(outcomes["design"].unique(maintain_order=True).to_list())
    config = result["config"]
    base_dir = Path(config["base_dir"]).expanduser()
    given = {"name": name, **_own(config, name), **options}
    wanted = check(TrackerConfig, given, f"--to {name}")
    run = TrackedRun(
        folder,
        Path() if "uri" in options else base_dir,
        base_dir / Path(config["logging"]["log_dir"]).expanduser(),
        parameters(config),
        tags(result["mode"], result["seed"], result["versions"]),
    )
    channel = Channel(name, build_tracker(name, wanted.options, "--to"), run)
    points = [*metric_points(metrics, {}), *outcome_points(outcomes, {}), *result_points(result)]
    with _writing(str(folder), name, "mend that and import again"):
        channel.send(points)
        channel.finish()
    n_there = len(points) - channel.n_new
    return [
        f"{folder}: sent {channel.n_new:,} points to {name}, which had {n_there:,} of them already",
        f"Look with: {channel.hint}",
    ]


@contextmanager
def _writing(where: str, name: str, remedy: str) -> Iterator[None]:
    """Whatever a tracker raises inside is a wrong input: libraries raise what they like."""
    try:
        yield
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        text = f"{where}: {name} cannot be written to: {reason(error)}; {remedy}"
        raise InputError(text) from error


def _own(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The options that a run's config gave a tracker."""
    for tracker in config["logging"].get("trackers", ()):
        if isinstance(tracker, dict) and tracker["name"] == name:
            return {key: value for key, value in tracker.items() if key != "name"}
    return {}
