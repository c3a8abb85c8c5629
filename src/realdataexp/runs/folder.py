"""The run folder: every file appears whole or not at all."""

from __future__ import annotations

import errno
import json
import logging
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl

from realdataexp.errors import InputError, Warnings

_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def disk_faults(path: Path) -> Iterator[None]:
    """Turn a full disk or a folder that may not be written into one clear line."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise InputError(
                f"{path}: no space left on the device; free some or choose another --out"
            ) from error
        if isinstance(error, PermissionError | NotADirectoryError | FileExistsError):
            raise InputError(
                f"{path}: cannot be written: {error.strerror}; choose another --out"
            ) from error
        raise


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a temporary sibling, sync it to the disk, then rename it to ``path``."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with disk_faults(path):
        try:
            write(temporary)
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.rename(path)
        finally:
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8") and None)


def write_parquet(path: Path, frame: pl.DataFrame) -> None:
    """Write a table atomically."""
    write_atomically(path, frame.write_parquet)


def write_json(path: Path, value: Any, warnings: Warnings | None = None) -> None:
    """Write JSON atomically; a number that is not finite becomes null, with a warning."""
    text = json.dumps(_finite(value, "", warnings), indent=2, ensure_ascii=False)
    write_text(path, text + "\n")


def _finite(value: Any, where: str, warnings: Warnings | None) -> Any:
    if isinstance(value, dict):
        return {
            k: _finite(v, f"{where}.{k}" if where else str(k), warnings) for k, v in value.items()
        }
    if isinstance(value, list | tuple):
        return [_finite(v, f"{where}.{i}", warnings) for i, v in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        if warnings is not None:
            warnings.add("not_finite", f"{where} is {value}; null in result.json")
        return None
    return value


def check_new(out: Path) -> None:
    """Refuse a run folder that exists with something in it.

    Raises:
        InputError: it exists and is not an empty folder.
    """
    if out.is_dir() and not any(out.iterdir()):
        return
    if out.exists() or out.is_symlink():
        raise InputError(f"{out}: exists; a run never overwrites another: choose another --out")


def make_folder(out: Path | None, log_dir: Path, mode: str) -> Path:
    """Make the run folder: ``out``, or a new ``<log_dir>/<timestamp>-<mode>``."""
    if out is not None:
        check_new(out)
        with disk_faults(out):
            out.mkdir(parents=True, exist_ok=True)
        return out
    stem = f"{time.strftime('%Y%m%d-%H%M%S')}-{mode.rpartition(':')[2]}"
    with disk_faults(log_dir):
        log_dir.mkdir(parents=True, exist_ok=True)
        for attempt in range(1, 1000):
            path = log_dir / (stem if attempt == 1 else f"{stem}-{attempt}")
            try:
                path.mkdir()
            except FileExistsError:
                if not path.is_dir():
                    raise
                continue
            return path
    raise InputError(f"{log_dir}: a thousand runs began in this second; give --out")


class RunLog(logging.Handler):
    """Holds the log's lines until the run folder exists, then writes them to run.log."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self._waiting: list[str] = []
        self._path: Path | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record; its first word, such as [loop], stays in front of the time."""
        part, bracket, message = record.getMessage().partition("] ")
        if not (bracket and part.startswith("[")):
            part, message = "[run", record.getMessage()
        at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.created))
        self._waiting += [f"{part}] {at} {line}\n" for line in message.splitlines() or [""]]
        self._flush_to_file()

    def open(self, path: Path) -> None:
        """From now on lines go to this file, those that waited first."""
        self._path = path
        self._flush_to_file()

    def _flush_to_file(self) -> None:
        if self._path is not None:
            with disk_faults(self._path), self._path.open("a", encoding="utf-8") as file:
                file.writelines(self._waiting)
            self._waiting.clear()
