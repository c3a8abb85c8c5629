"""A run and its trackers, while it goes on: what a tracker meets never ends the run."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from realdataexp.components import reason
from realdataexp.config import Config
from realdataexp.errors import InputError
from realdataexp.tracking import build_tracker
from realdataexp.tracking.base import TrackedRun, Tracker
from realdataexp.tracking.channel import Channel
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
        points = [*metric_points(metrics, self._since), *outcome_points(outcomes, self._since)]
        if self._send(points, is_last=False):
            self._since = dict(metrics.group_by("phase").agg(pl.max("step")).iter_rows())

    def _send(self, points: list[Point], *, is_last: bool) -> bool:
        sends = [(channel, partial(channel.send, points)) for channel in self._channels]
        return all([channel.attempt(send, is_last=is_last) for channel, send in sends])

    def send_last(
        self, metrics: pl.DataFrame, outcomes: pl.DataFrame, result: Mapping[str, Any]
    ) -> list[str]:
        """Send the rest of a complete run, and its results; returns what failed so far."""
        if not self.is_on:
            return []
        points = [*metric_points(metrics, self._since), *outcome_points(outcomes, self._since)]
        self._send([*points, *result_points(result)], is_last=True)
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
    for channel in channels:
        try:
            channel.open()
        except (Exception, SystemExit) as error:  # libraries raise what they like
            tracking.close()
            if isinstance(error, InputError):
                raise
            raise InputError(
                f"logging.trackers: {channel.name} cannot be written to: {reason(error)}; mend "
                "that, or leave it out"
            ) from error
    return tracking
