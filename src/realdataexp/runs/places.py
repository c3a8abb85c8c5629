"""Where a run found its data and its own code, so that it can be resumed from any folder.

places.json says nothing that a result depends on, and no code is loaded from where it says.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from realdataexp.config import Config
from realdataexp.errors import InputError
from realdataexp.files import read_json, write_json

FILE = "places.json"
_COMPONENT = re.compile(r"([A-Za-z_][\w.]*):[A-Za-z_]\w*")


class _Places(BaseModel):
    """Absolute paths, as of when the run began or was last resumed.

    Attributes:
        folder: that a relative path of the config is relative to; None: it had none.
        data: a folder with the data, given to resume.
        modules: the folder on Python's path of each module that the config names.
    """

    model_config = ConfigDict(strict=True)

    folder: str | None = None
    data: str | None = None
    modules: dict[str, str] = {}


def write_places(run_dir: Path, config: Config, data: Path | None = None) -> None:
    """Note where relative paths of a config lead to, and where its own components come from.

    Args:
        run_dir: the run folder.
        config: as the run has it.
        data: the folder with the data, where another one than the config's was given.
    """
    try:
        folder = str(config.folder.absolute())
    except FileNotFoundError:  # the current folder was removed
        folder = None
    places = _Places(
        folder=folder,
        data=None if data is None else str(data),
        modules=dict(_modules(config.resolved())),
    )
    write_json(run_dir / FILE, places.model_dump())


def placed(config: Config, run_dir: Path, data: Path | None) -> Config:
    """A run's config, its paths relative to where they were when it began, if that is still there.

    Args:
        config: as it was read from the run folder.
        run_dir: the run folder.
        data: a folder with the data, where another one than the config's is given.

    Raises:
        InputError: a folder is given for data that have none.
    """
    if data is not None and config.dataset.path is None:
        raise InputError(f"--data {data}: the data set {config.dataset.name} has no folder")
    known = _read(run_dir)
    if data is None and known.data is not None and Path(known.data).is_dir():
        data = Path(known.data)
    there = [config.at(Path(known.folder), data)] if known.folder else []
    here = config.at(Path(), data and data.absolute())
    candidates = [*there, here]
    for found in candidates:
        path = found.data_dir()
        if path.is_dir() if path is not None else found.folder.is_dir():
            return found
    return candidates[0]


def require_modules(run_dir: Path) -> None:
    """Refuse a run whose own modules Python does not find here.

    Raises:
        InputError: with where they were when it began.
    """
    for module, place in _read(run_dir).modules.items():
        if importlib.util.find_spec(module.partition(".")[0]) is None:
            raise InputError(
                f"{run_dir}: its config names the module {module!r}, which is not on Python's "
                f"path here; it was in {place}: set PYTHONPATH={place} and resume again"
            )


def _read(run_dir: Path) -> _Places:
    """The places; none where the file is missing or odd, as no result depends on them."""
    try:
        return _Places.model_validate(read_json(run_dir / FILE))
    except (OSError, ValueError, ValidationError):
        return _Places()


def _modules(value: Any) -> Iterator[tuple[str, str]]:
    """The modules that a config's components come from, with their folders on Python's path."""
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _modules(item)
    elif isinstance(value, str) and (match := _COMPONENT.fullmatch(value)):
        top = sys.modules.get(match[1].partition(".")[0])
        packages, file = [*getattr(top, "__path__", ())], getattr(top, "__file__", None)
        if found := packages[0] if packages else file:
            yield match[1], str(Path(found).absolute().parent)
