"""Telling others of a run, off by default: one file each tracker, and one place of names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from realdataexp.errors import InputError
from realdataexp.options import construct
from realdataexp.registry import calling, find
from realdataexp.tracking.base import TrackedRun, Tracker, Writer
from realdataexp.tracking.series import Point

__all__ = ["Point", "TrackedRun", "Tracker", "Writer", "build_tracker"]


def build_tracker(name: str, options: Mapping[str, Any], where: str) -> Tracker:
    """The tracker called ``name``, or an outside class given as ``package.module:Name``.

    Raises:
        InputError: no such tracker, it refuses an option, or its library is missing; ``where`` is
            the config path.
    """
    component = find("tracker", name, where)
    if not (isinstance(component, type) and issubclass(component, Tracker)):
        raise InputError(f"{where} = {name!r}: is not a realdataexp.tracking.Tracker")
    tracker = construct(component, name, options, where)
    with calling(f"{where} = {name!r}", "check()", InputError):
        tracker.check()
    return tracker
