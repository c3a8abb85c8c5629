"""Several runs for one question: their folders prepared, then run, whatever is left of each.

A prepared folder holds config.yaml and places.json: a run that has not begun. Running one resumes
it, so that what was interrupted goes on where it was, and the bits are those of an unbroken run.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from realdataexp.config import Config, load_config
from realdataexp.errors import DiskError, InputError
from realdataexp.files import disk_faults, write_text
from realdataexp.runs.experiment import resume_experiment
from realdataexp.runs.folder import write_places

logger = logging.getLogger("realdataexp")


def is_prepared(place: Path, config: Config) -> bool:
    """Whether a folder holds the run of a config, begun or not; False where it can be made.

    Raises:
        InputError: it holds a run of another config, or something else.
    """
    path = place / "config.yaml"
    said = "holds something that is no run"
    if path.is_file():
        with disk_faults(path):
            text = path.read_text(encoding="utf-8")
        if text == config.to_yaml() or load_config(path).decisive() == config.decisive():
            return True
        said = "holds a run of other settings than are asked for"
    elif not place.is_dir() or all(x.name.startswith((".", "places")) for x in place.iterdir()):
        return False
    raise InputError(f"{place}: {said}; remove it or choose another --out")


def prepare(place: Path, config: Config) -> None:
    """Make the folder of a run that has not begun, unless it is there."""
    if not is_prepared(place, config):
        with disk_faults(place):
            place.mkdir(parents=True, exist_ok=True)
        write_places(place, config)
        write_text(place / "config.yaml", config.to_yaml())


def run_folders(
    folders: Sequence[Path], data: Path | None = None, *, is_shown: bool = True
) -> Iterator[tuple[Path, Exception | None]]:
    """Run prepared folders to their ends, one after another; yields each with what it failed of.

    ``data`` is where the data are now (None: where they were); ``is_shown`` shows the runs' own
    lines and bars.

    Raises:
        DiskError: the disk is full: other runs would fail of it, too.
        KeyboardInterrupt: interrupted; the run so far is saved.
    """
    for folder in folders:
        fault = None
        try:
            with hushed(not is_shown):
                resume_experiment(folder, data)
        except DiskError:
            raise
        except Exception as error:
            fault = error
        yield folder, fault


@contextmanager
def hushed(is_hushed: bool = True) -> Iterator[None]:
    """Let a terminal show errors only, where asked; a run's own log hears all."""
    shown = [x for x in logger.handlers if isinstance(x, logging.StreamHandler) and is_hushed]
    levels = [handler.level for handler in shown]
    for handler in shown:
        handler.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for handler, level in zip(shown, levels, strict=True):
            handler.setLevel(level)
