"""Files: read with care, written whole or not at all, and what the disk refuses as one line."""

from __future__ import annotations

import errno
import json
import math
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import polars as pl
import psutil
from safetensors import SafetensorError

from realdataexp.errors import DiskError, InputError

_FULL = (errno.ENOSPC, errno.EDQUOT)
OF_PLACE = (
    errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOTDIR, errno.EISDIR,
    errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL, errno.ENXIO, errno.ENODEV,
    errno.ENOENT,  # of a system's own tree, such as /proc
)  # fmt: skip
"""The system's errors that a place is wrong, not the disk."""
# Polars and safetensors tell the system's error in words only
_NUMBER = re.compile(r"(?:os error|code:) (\d+)")
_MAX_DEPTH = 100  # of JSON; code that follows a value down must not run out of stack
_MAX_DIGITS = 19  # of a whole number in JSON: one that fits 64 bits


# --- reading ------------------------------------------------------------------------------------


def require_regular(path: Path) -> None:
    """Raise an OSError for what is no regular file: reading a pipe or a device may never end."""
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))


def read_json(path: Path) -> Any:
    """A JSON file's value, every number in it finite and every whole one of 64 bits.

    Raises:
        OSError: it cannot be read, or is no regular file.
        ValueError: it is not such JSON; the message says why in one line.
    """
    require_regular(path)
    try:
        value = json.loads(
            path.read_text(encoding="utf-8"),
            parse_float=_finite,
            parse_int=_whole,
            parse_constant=_finite,
            object_pairs_hook=_each_once,
        )
        _check_depth(value)
    except (RecursionError, ValueError) as error:
        is_deep = isinstance(error, RecursionError)
        said = "nested too deeply" if is_deep else " ".join(str(error).split())
        raise ValueError(f"not JSON: {said}") from None
    return value


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in found if names.count(name) > 1)
        raise ValueError(f"{twice[:40]!r} stands twice in one object")
    return found


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]} is not a finite number")
    return value


def _whole(text: str) -> int:
    if len(text.lstrip("-")) > _MAX_DIGITS:
        raise ValueError(f"{text[:40]}... is too large a number")
    return int(text)


def _check_depth(value: Any) -> None:
    """Refuse what is nested too deeply, and texts that cannot be written again."""
    level, depth = [value], 0
    while level:
        if depth > _MAX_DEPTH:
            raise RecursionError
        below: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                below += [*item, *item.values()]
            elif isinstance(item, list):
                below += item
            elif isinstance(item, str) and not item.isascii():
                item.encode()  # a UnicodeEncodeError, of half a surrogate pair, is a ValueError
        level, depth = below, depth + 1


# --- writing ------------------------------------------------------------------------------------


@contextmanager
def disk_faults(path: Path, remedy: str = "choose another --out") -> Iterator[None]:
    """Turn what the system says of a file (or a folder's) that cannot be written into one line.

    Raises:
        InputError: nothing can be written at this place.
        DiskError: the disk is full, broken or gone.
    """
    try:
        yield
    except (OSError, pl.exceptions.PolarsError, SafetensorError) as error:
        found = _NUMBER.search(str(error))
        number = getattr(error, "errno", None) or (int(found[1]) if found else None)
        if os.path.isdir(path):  # Path.is_dir would raise for a name that is too long
            path = Path(getattr(error, "filename", None) or path)
        text = os.strerror(number) if number else " ".join(str(error).split())
        kind: type[Exception] = DiskError
        if number in _FULL or "No space left" in str(error):
            said = f"no space left on the device; free some or {remedy}"
        elif number == errno.EFBIG:
            said = f"larger than a file may be here; raise the limit (ulimit -f) or {remedy}"
        elif number == errno.ENOENT and not os.path.exists(path.parent):
            said = "cannot be written: its folder is gone"
        else:
            said = f"cannot be written: {getattr(error, 'strerror', None) or text}; {remedy}"
            kind = InputError if number in OF_PLACE else DiskError
        raise kind(f"{path}: {said}") from error


def require_space(folder: Path, needed: int) -> None:
    """Raise an InputError where fewer bytes are free than needed."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise InputError(
            f"{folder}: {free / 1e9:,.1f} GB are free, about {needed / 1e9:,.1f} GB are needed; "
            "free some or choose a folder on another disk"
        )


def write_atomically(
    path: Path, write: Callable[[Path], object], remedy: str = "choose another --out"
) -> Path:
    """Let ``write`` fill a temporary sibling, sync it, then rename it to ``path``; returns that."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with disk_faults(path, remedy):
        try:
            write(temporary)
            sync(temporary)
            temporary.replace(path)
        finally:
            with suppress(OSError):  # it says less than what went wrong before
                temporary.unlink(missing_ok=True)
    return path


def write_text(path: Path, text: str, remedy: str = "choose another --out") -> Path:
    """Write a text file atomically; returns its path."""
    return write_atomically(path, lambda to: to.write_text(text, encoding="utf-8"), remedy)


def write_json(path: Path, value: Any) -> Path:
    """Write JSON atomically; every number in it must be finite."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    return write_text(path, text + "\n")


def sync(path: Path) -> None:
    """Have a file's content on the disk, not only in the system's memory."""
    with path.open("rb+") as file:  # Windows syncs only what is open for writing
        os.fsync(file.fileno())


def sync_names(folder: Path) -> None:
    """Have the names in a folder on the disk, where the system can do that."""
    if os.name == "posix":
        number = os.open(folder, os.O_RDONLY)
        try:
            with suppress(OSError):  # some file systems sync files only
                os.fsync(number)
        finally:
            os.close(number)


# --- locks --------------------------------------------------------------------------------------


@contextmanager
def locked(path: Path, *, waits: bool = False) -> Iterator[None]:
    """Hold the lock of a file, or of a folder, so that one process at a time works there.

    Raises:
        InputError: another holds it, and this one does not wait.
    """
    if os.name == "nt":  # which has other locks
        yield
        return
    with disk_faults(path):
        flags = os.O_RDONLY if path.is_dir() else os.O_RDWR | os.O_CREAT
        file = os.open(path, flags, 0o666)
    try:
        if not lock(file, waits=waits):
            raise InputError(f"{path.parent}: another process works there; wait for its end")
        yield
    finally:
        os.close(file)


def is_locked(path: Path) -> bool:
    """Whether another process holds the lock of a file."""
    try:
        with path.open("r+") as file:
            return not lock(file)
    except OSError:
        return False


def lock(file: IO[str] | int, *, waits: bool = False) -> bool:
    """Lock a file until it is closed, or its process ends; False where another holds it."""
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | (0 if waits else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except (ModuleNotFoundError, OSError):  # Windows, or a file system without locks
        return True
    return True


def is_working(process: int) -> bool:
    """Whether a process of this machine works: one that died, and nobody waited for, does not."""
    try:
        return psutil.Process(process).status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True
