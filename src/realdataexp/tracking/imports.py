"""Finished runs into a tracker, from their folders."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from realdataexp.components import reason
from realdataexp.config import TrackerConfig
from realdataexp.errors import InputError
from realdataexp.options import check
from realdataexp.report.files import read_result, read_table
from realdataexp.tracking import build_tracker
from realdataexp.tracking.base import TrackedRun
from realdataexp.tracking.channel import Channel
from realdataexp.tracking.series import (
    check_names,
    metric_points,
    outcome_points,
    parameters,
    result_points,
    tags,
)


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
    try:
        channel.send(points)
        channel.finish()
    except InputError:
        raise
    except (Exception, SystemExit) as error:  # libraries raise what they like
        raise InputError(
            f"{folder}: {name} cannot be written to: {reason(error)}; mend that and import again"
        ) from error
    n_there = len(points) - channel.n_new
    return [
        f"{folder}: sent {channel.n_new:,} points to {name}, which had {n_there:,} of them already",
        f"Look with: {channel.hint}",
    ]


def _own(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The options that a run's config gave a tracker."""
    for tracker in config["logging"].get("trackers", ()):
        if isinstance(tracker, dict) and tracker["name"] == name:
            return {key: value for key, value in tracker.items() if key != "name"}
    return {}
