"""A run and its trackers, while it runs or afterwards, from its folder.

While it runs, whatever a tracker meets never ends the run.

A run's tables and result become series of numbers, whose names docs/tracking.md lists. Steps count
steps done, from 1; in pretraining, batches.
"""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from realdataexp.config import Config, TrackerConfig
from realdataexp.errors import InputError
from realdataexp.options import check, construct
from realdataexp.registry import calling, find, reason
from realdataexp.report.files import leaves, read_result, read_table
from realdataexp.tracking import Point, TrackedRun, Tracker, Writer

logger = logging.getLogger("realdataexp")

_BATCH = 1000  # points in one transfer
_PATIENCE = 3  # failures in a row after which a tracker is left alone until the end
_FILES = ("config.yaml", "result.json", "plot.svg", "report.html")


# --- names and numbers -----------------------------------------------------------------------


def name_of(*parts: str) -> str:
    """The name of a series; what a tracker may refuse in a part becomes an underscore."""
    return "/".join(_clean(part) for part in parts if part)


def _clean(part: str) -> str:
    return re.sub(r"[^\w-]", "_", part)


def check_names(designs: Sequence[str]) -> None:
    """Refuse designs whose series would have the same names.

    Raises:
        InputError: two labels differ only in what cannot stand in a name.
    """
    taken: dict[str, str] = {}
    for design in designs:
        other = taken.setdefault(_clean(design), design)
        if other != design:
            raise InputError(
                f"designs {other!r} and {design!r}: both are {_clean(design)!r} to a tracker; "
                "choose another label for one, of letters, digits, _ and -"
            )


def metric_points(metrics: pl.DataFrame, since: Mapping[str, int]) -> Iterator[Point]:
    """The series of metrics.parquet, each phase since a step of it: means over worlds."""
    for (phase,), rows in metrics.partition_by("phase", as_dict=True).items():
        prefix = "pretrain" if phase == "pretrain" else ""
        wanted = rows.filter(pl.col("step") >= since.get(str(phase), 0))
        parts = ["split", "label", "metric", "design", "model"]
        groups = wanted.group_by("step", *parts, maintain_order=True).agg("value")
        for step, *names, values in groups.iter_rows():
            # exact sums: the same bits in whatever order the rows come
            yield Point(name_of(prefix, *names), step, math.fsum(values) / len(values))


def outcome_points(outcomes: pl.DataFrame, since: Mapping[str, int]) -> Iterator[Point]:
    """The series of outcomes.parquet: means per visit, of all worlds together."""
    wanted = outcomes.filter(pl.col("step") + 1 >= since.get("loop", 0))
    groups = wanted.group_by("step", "label", "design", "arm", maintain_order=True)
    for step, label, design, arm, n, sums in groups.agg(pl.sum("n"), "sum").iter_rows():
        yield Point(name_of("outcome", label, f"{design}_{arm}"), step + 1, math.fsum(sums) / n)


def result_points(result: Mapping[str, Any]) -> list[Point]:
    """The numbers of result.json, at the run's last step; null has no point."""
    named = [(name_of("gte", key), value) for key, value in result["gte_results"].items()]
    named += [
        (name_of(what, row["label"], key, row["design"]), value)
        for what, part in (("estimate", "estimates"), ("comparison", "comparison"))
        for row in result[part]
        for key, value in row.items()
    ]
    return _at_the_end(result, named)


def training_points(metrics: pl.DataFrame, result: Mapping[str, Any]) -> list[Point]:
    """The series of a training, over updates, and what it came to."""

    def kind(row: Mapping[str, Any]) -> str:
        return row["metric"] if row["k"] is None else f"{row['metric']}_{row['k']}"

    points = [
        Point(name_of(row["split"], kind(row)), row["step"], row["value"])
        for row in metrics.drop_nulls("value").iter_rows(named=True)
    ]
    named = [
        (name_of("result", row["split"], kind(row), row["model"]), row["value"])
        for row in result["results"]
    ]
    named += [
        (name_of("compared", kind(row), key, row["against"]), row[key])
        for row in result["compared"]
        for key in ("difference", "ci_low", "ci_high")
    ]
    return [*points, *_at_the_end(result, named)]


def _at_the_end(result: Mapping[str, Any], named: list[tuple[str, Any]]) -> list[Point]:
    """Numbers, and the timing, at the run's last step."""
    named += [(name_of("timing", key), value) for key, value in result["timing"].items()]
    return [
        Point(name, result["n_steps_done"], float(x))
        for name, x in named
        if isinstance(x, int | float) and not isinstance(x, bool) and math.isfinite(x)
    ]


def parameters(config: Mapping[str, Any]) -> dict[str, str]:
    """Every setting of a resolved config by its path, such as simulation.n_steps.

    The trackers are left out: they are no part of what was run.
    """
    logging = {key: value for key, value in config["logging"].items() if key != "trackers"}
    return {
        re.sub(r"[^\w.\-]", "_", ".".join(path)): x
        if isinstance(x, str)
        else json.dumps(x, ensure_ascii=False)
        for path, x in leaves({**config, "logging": logging})
    }


def tags(mode: str, seed: int, versions: Mapping[str, str | None]) -> dict[str, str]:
    """What tells runs apart besides the config."""
    known = {f"version.{name}": version for name, version in versions.items() if version}
    return {"mode": mode, "seed": str(seed), **known}


# --- one tracker ------------------------------------------------------------------------------


class Channel:
    """What its tracker raises comes through, unless something is done by `attempt`.

    What was sent is asked of the place where it is stored, so that an interruption, a failure or
    a second import makes no point twice.

    Attributes:
        name: of the tracker.
        hint: how to look at what was sent.
        n_new: points that were sent.
    """

    def __init__(self, name: str, tracker: Tracker, run: TrackedRun) -> None:
        self.name, self._tracker, self._run = name, tracker, run
        self._writer: Writer | None = None
        self._last: dict[str, int] = {}
        self.n_new, self.hint = 0, ""
        self._tried: list[str] = []  # what went wrong in each attempt; empty where it worked

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
        """Hand over the files of a finished run, and close."""
        paths = [self._run.folder / name for name in _FILES]
        self.open().files([path for path in paths if path.is_file()])
        self.close(is_finished=True)

    def close(self, *, is_finished: bool) -> None:
        """Close the writer; the next transfer would open another."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close(is_finished=is_finished)

    def attempt(self, transfer: Callable[[], None], *, is_last: bool = False) -> bool:
        """Make a transfer of a run that must go on; returns whether it worked.

        A tracker that failed several times in a row is left alone until the last transfers, as
        each may have to wait for a lock or a network.
        """
        recent = self._tried[-_PATIENCE:]
        if len(recent) == _PATIENCE and all(recent) and not is_last:
            return False
        failure = ""
        try:
            transfer()
        except (Exception, SystemExit) as error:
            failure = reason(error)
            logger.warning("[track] %s: a transfer failed: %s", self.name, failure)
            with suppress(Exception, SystemExit):
                self.close(is_finished=False)
        self._tried.append(failure)
        return not failure

    @property
    def is_failing(self) -> bool:
        """Whether the latest attempt failed."""
        return bool(self._tried and self._tried[-1])

    def report(self) -> str:
        """What failed, and what to do; empty where nothing did."""
        failed = [x for x in self._tried if x]
        if not failed:
            return ""
        remedy = f"send what is missing with: realdataexp track RUN_DIR --to {self.name}"
        return (
            f"{self.name}: {len(failed)} of {len(self._tried)} transfers failed, the last with "
            f"{failed[-1]}; {remedy if self.is_failing else 'what they lacked came later'}"
        )


# --- while a run goes on ----------------------------------------------------------------------


class Tracking:
    """The trackers of a run; without any, nothing happens."""

    def __init__(self, channels: Sequence[Channel] = ()) -> None:
        self._channels = channels
        self._since: dict[str, int] = {}  # every tracker has all before these steps of the phases

    @property
    def is_on(self) -> bool:
        """Whether there is any tracker."""
        return bool(self._channels)

    def send(
        self, metrics: pl.DataFrame, outcomes: pl.DataFrame, *last: Point, is_last: bool = False
    ) -> None:
        """Send what a run's tables have got since the last time, and the last points of all."""
        new = [
            *metric_points(metrics, self._since), *outcome_points(outcomes, self._since), *last
        ]  # fmt: skip
        if all([x.attempt(partial(x.send, new), is_last=is_last) for x in self._channels]):
            self._since = dict(metrics.group_by("phase").agg(pl.max("step")).iter_rows())

    def send_last(
        self, metrics: pl.DataFrame, outcomes: pl.DataFrame, result: Mapping[str, Any]
    ) -> list[str]:
        """Send the rest of a complete run, and its results; returns what failed so far."""
        if self.is_on:
            self.send(metrics, outcomes, *result_points(result), is_last=True)
        return [text for channel in self._channels if (text := channel.report())]

    def finish(self) -> list[str]:
        """Hand over the files of a complete run; returns what failed in that."""
        failed = []
        for channel in self._channels:
            if not channel.is_failing:  # else that is reported already
                if channel.attempt(channel.finish, is_last=True):
                    logger.info("[track] %s: look with: %s", channel.name, channel.hint)
                else:
                    failed.append(channel.report())
        return failed

    def close(self) -> None:
        """Close the trackers of a run that ends early; once finished, nothing is left to do."""
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
        (tracker.name, _build(tracker, f"logging.trackers.{i}"))
        for i, tracker in enumerate(config.logging.trackers)
    ]


def _build(wanted: TrackerConfig, where: str) -> Tracker:
    component = find("tracker", wanted.name, where)
    if not (isinstance(component, type) and issubclass(component, Tracker)):
        raise InputError(f"{where} = {wanted.name!r}: is not a realdataexp.tracking.Tracker")
    tracker = construct(component, wanted.name, wanted.options, where)
    with calling(f"{where} = {wanted.name!r}", "check()", InputError):
        tracker.check()
    return tracker


def begin_tracking(
    trackers: Sequence[tuple[str, Tracker]],
    config: Config,
    folder: Path,
    versions: Mapping[str, str | None],
) -> Tracking:
    """Open a run's trackers; those of a run that was interrupted continue where they were.

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


# --- afterwards -------------------------------------------------------------------------------


def import_run(folder: Path, name: str, options: Mapping[str, Any]) -> list[str]:
    """Send a finished run to a tracker; what is there already is not sent again.

    Options of the tracker that are missing are those of the run's config. Returns lines that say
    what was sent, and how to look at it.

    Raises:
        InputError: the run is not complete, or the tracker cannot be used.
    """
    result = read_result(folder)
    if result["status"] != "complete":
        raise InputError(
            f"{folder}: status = {result['status']!r}: only a complete run can be imported; "
            f"finish it with: realdataexp resume {folder}"
        )
    points, config = _points_of(folder, result), result["config"]
    base_dir = Path(config["base_dir"]).expanduser()
    before: dict[str, Any] = {}
    for tracker in config["logging"].get("trackers", ()):
        if isinstance(tracker, dict) and tracker["name"] == name:
            before = tracker
    wanted = check(TrackerConfig, {**before, **options, "name": name}, f"--to {name}")
    run = TrackedRun(
        folder,
        Path() if "uri" in options else base_dir,
        base_dir / Path(config["logging"]["log_dir"]).expanduser(),
        parameters(config),
        tags(result["mode"], result["seed"], result["versions"]),
    )
    channel = Channel(name, _build(wanted, "--to"), run)
    with _writing(str(folder), name, "mend that and import again"):
        channel.send(points)
        channel.finish()
    n_there = len(points) - channel.n_new
    return [
        f"{folder}: sent {channel.n_new:,} points to {name}, which had {n_there:,} of them already",
        f"Look with: {channel.hint}",
    ]


def _points_of(folder: Path, result: Mapping[str, Any]) -> list[Point]:
    metrics = read_table(folder, "metrics")
    if result["mode"] == "train":
        return training_points(metrics, result)
    outcomes = read_table(folder, "outcomes")
    check_names(outcomes["design"].unique(maintain_order=True).to_list())
    return [*metric_points(metrics, {}), *outcome_points(outcomes, {}), *result_points(result)]


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
