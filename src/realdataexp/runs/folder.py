"""The run folder: its place, its log, and where the run found its data and its own code.

Every file appears whole or not at all. places.json says nothing that a result depends on, and no
code is loaded from where it says.
"""

from __future__ import annotations

import importlib.util
import logging
import math
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors.torch import save_file
from torch import Tensor

from realdataexp.config import RunSettings
from realdataexp.errors import InputError, Warnings, one_line
from realdataexp.files import (
    disk_faults,
    lock,
    read_json,
    require_regular,
    write_atomically,
    write_json,
)

DETAIL = {"is_detail": True}
"""What a log record gets (``extra``) that a terminal shows only when asked for details."""
PLACES = "places.json"
_Settings = TypeVar("_Settings", bound=RunSettings)
_COMPONENT = re.compile(r"([A-Za-z_][\w.]*):[A-Za-z_]\w*")


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], header: dict[str, str] | None = None
) -> None:
    """Write tensors as safetensors, atomically."""
    own = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}

    def write(temporary: Path) -> None:
        save_file(own, temporary, header)
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)  # safetensors writes for the owner alone

    write_atomically(path, write)


def finite(value: Any, warnings: Warnings, where: str = "") -> Any:
    """The value with null, and a warning, for every number in it that is not finite."""
    if isinstance(value, dict):
        return {k: finite(v, warnings, f"{where}.{k}".lstrip(".")) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite(v, warnings, f"{where}[{_name(v) or i}]") for i, v in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        warnings.add("not_finite", f"{where} is {value}; null in result.json")
        return None
    return value


def _name(item: Any) -> str:
    """What tells an entry of a list from the others: its texts."""
    texts = item.values() if isinstance(item, dict) else ()
    return ", ".join(text for text in texts if text and isinstance(text, str))


# --- making and removing -------------------------------------------------------------------------


@dataclass(frozen=True)
class Folder:
    """A run folder that this run made, or found empty; what was made for it, innermost first."""

    path: Path
    made: tuple[Path, ...] = ()

    def discard(self) -> None:
        """Remove the folder's content, then what was made for it."""
        for path in self.path.iterdir() if self.path.is_dir() else ():
            _remove(path)
        self.leave()

    def leave(self) -> None:
        """Remove the folders that were made, as far as nothing is in them."""
        with suppress(OSError):
            for path in self.made:
                path.rmdir()


def remove_unfinished(folder: Path) -> None:
    """Remove what a killed process was writing in a run folder that nobody else writes in."""
    for path in [*folder.rglob(".*.tmp")]:
        _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def check_place(out: Path | None, log_dir: Path) -> None:
    """Refuse a place for the run folder where it cannot be made.

    Raises:
        InputError: ``out`` exists with something in it, or nothing can be written there.
    """
    path = log_dir if out is None else out
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise InputError(f"{path}: its name is not UTF-8; choose another --out") from None
    if out is not None and (out.exists() or out.is_symlink()) and not _is_empty(out):
        has_run = (out / "checkpoints" / "index.json").is_file()
        resume = f", or, where it was interrupted, realdataexp resume {out}" if has_run else ""
        raise InputError(
            f"{out}: exists; a run never overwrites another: choose another --out{resume}"
        )
    there = next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())
    where = f"{path}" if out is not None else f"logging.log_dir = {str(log_dir)!r}"
    if not there.is_dir():
        raise InputError(f"{where}: {there} is a file, not a folder; choose another --out")
    if not os.access(there, os.W_OK | os.X_OK):
        raise InputError(f"{where}: no permission to write in {there}; choose another --out")


def _is_empty(path: Path) -> bool:
    with disk_faults(path):
        return path.is_dir() and not any(path.iterdir())


def make_folder(out: Path | None, log_dir: Path, mode: str) -> Folder:
    """Make the run folder: ``out``, or a new ``<log_dir>/<timestamp>-<mode>``.

    Raises:
        InputError: it cannot be made, or another run is there; nothing is left behind.
    """
    check_place(out, log_dir)
    if out is not None:
        return _make(out)
    stem = f"{time.strftime('%Y%m%d-%H%M%S')}-{mode.rpartition(':')[2]}"
    for attempt in range(1, 1000):
        path = log_dir / (stem if attempt == 1 else f"{stem}-{attempt}")
        try:
            return _make(path, is_new=True)
        except InputError as error:
            if not isinstance(error.__cause__, FileExistsError):
                raise
    raise InputError(f"{log_dir}: a thousand runs began in this second; pass --out")


def _make(path: Path, *, is_new: bool = False) -> Folder:
    """Make a folder and its parents; ``is_new`` refuses one that is there, empty or not."""
    folder = Folder(path, tuple(p for p in (path, *path.parents) if not p.exists()))
    with disk_faults(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.mkdir(exist_ok=not is_new)
        except OSError:
            folder.leave()
            raise
    return folder


# --- the log -------------------------------------------------------------------------------------


class RunLog(logging.Handler):
    """Holds the log's lines until the run folder exists, then writes them to run.log."""

    def __init__(self, level: str) -> None:
        super().__init__(level)
        self._waiting: list[str] = []
        self._path: Path | None = None
        self._lock: IO[str] | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record; its first word, such as [loop], stays in front of the time."""
        line = one_line(record.getMessage())
        part, bracket, message = line.partition("] ")
        if not (bracket and part.startswith("[")):
            part, message = "[run", line
        at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.created))
        self._waiting.append(f"{part}] {at} {message}\n")
        self._flush_to_file()

    @contextmanager
    def listening(self, to: logging.Logger) -> Iterator[None]:
        """Hear what a logger says, whatever its own level."""
        level = to.level
        to.setLevel(self.level if level == logging.NOTSET else min(level, self.level))
        to.addHandler(self)
        try:
            yield
        finally:
            to.removeHandler(self)
            to.setLevel(level)
            self.stop()

    def open(self, path: Path, *, is_new: bool = True) -> None:
        """From now on lines go to this file; those that waited come first.

        It is locked, as one run at a time writes there; ``is_new``: it must not exist yet.

        Raises:
            InputError: another run writes there, or it is no file that can be written.
            DiskError: the disk is full.
        """
        with disk_faults(path):
            if is_new:
                path.touch(exist_ok=False)
            elif path.exists():
                require_regular(path)
            self._lock = path.open("a")
            if not lock(self._lock):
                self._lock.close()
                raise InputError(f"{path}: another run is writing there; wait for its end")
        self._path = path
        self._flush_to_file()

    def stop(self) -> None:
        """From now on lines go nowhere."""
        self._path = None
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _flush_to_file(self) -> None:
        if self._path is not None:
            with disk_faults(self._path), self._path.open("a", encoding="utf-8") as file:
                file.writelines(self._waiting)
            self._waiting.clear()


# --- places --------------------------------------------------------------------------------------


class _Places(BaseModel):
    """Absolute paths, as of when the run began or was last resumed.

    ``folder`` is what the config's relative paths are relative to, ``data`` was given to resume,
    ``modules`` has the folder on Python's path of each module that the config names.
    """

    model_config = ConfigDict(strict=True)

    folder: str | None = None
    data: str | None = None
    modules: dict[str, str] = {}

    @classmethod
    def of(cls, run_dir: Path) -> _Places:
        """None where the file is missing or odd, as no result depends on them."""
        try:
            return cls.model_validate(read_json(run_dir / PLACES))
        except (OSError, ValueError, ValidationError):
            return cls()


def write_places(run_dir: Path, config: RunSettings, data: Path | None = None) -> None:
    """Note where relative paths of a config, and the data given to resume, are, and its modules."""
    try:
        folder = str(config.folder.absolute())
    except FileNotFoundError:  # the current folder was removed
        folder = None
    modules = dict(_modules(config.resolved()))
    own = None if data is None else str(data)
    places = _Places(folder=folder, data=own, modules=modules)
    write_json(run_dir / PLACES, places.model_dump())


def placed(config: _Settings, run_dir: Path, data: Path | None) -> _Settings:
    """A run's config, its paths relative to where they were when it began, if that is still there.

    Raises:
        InputError: a folder is given for data that have none.
    """
    if data is not None and config.dataset.path is None:
        raise InputError(f"--data {data}: the data set {config.dataset.name} has no folder")
    known = _Places.of(run_dir)
    if data is None and known.data is not None and Path(known.data).is_dir():
        data = Path(known.data)
    there = [config.at(Path(known.folder), data)] if known.folder else []
    candidates = [*there, config.at(Path(), data and data.absolute())]
    for found in candidates:
        if (found.data_dir() or found.folder).is_dir():
            return found
    return candidates[0]


def require_modules(run_dir: Path) -> None:
    """InputError for a run whose own modules Python does not find here."""
    for module, place in _Places.of(run_dir).modules.items():
        if importlib.util.find_spec(module.partition(".")[0]) is None:
            raise InputError(
                f"{run_dir}: its config names the module {module!r}, which is not on Python's "
                f"path here; it was in {place}: set PYTHONPATH={place} and resume again"
            )


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
