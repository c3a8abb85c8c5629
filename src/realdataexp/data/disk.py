"""A folder that large files are written into: its free space, its faults, and a lock."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from realdataexp.errors import InputError

logger = logging.getLogger("realdataexp")

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def require_space(folder: Path, needed: int) -> None:
    """Raise an InputError where fewer bytes are free than needed."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise InputError(
            f"{folder}: {free / 1e9:,.1f} GB are free, about {needed / 1e9:,.1f} GB are needed; "
            "free some or give a folder on another disk"
        )


def sync(path: Path) -> None:
    """Have a file's content on the disk, not only in the system's memory."""
    with path.open("rb+") as file:  # Windows syncs only what is open for writing
        os.fsync(file.fileno())


@contextmanager
def disk_faults(folder: Path) -> Iterator[None]:
    """Turn a full disk, or a folder that cannot be written, into one clear line."""
    try:
        yield
    except OSError as error:
        place = error.filename or folder
        if error.errno in _FULL:
            fault = "no space left on the device; free some and run the command again"
        else:
            fault = f"cannot be written: {error.strerror or error}; give another folder"
        raise InputError(f"{place}: {fault}") from error


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep a second download out of the folder; the system frees it with the process."""
    if sys.platform == "win32":
        yield
        return
    import fcntl

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"{folder}: another download is writing here; wait for it or give another folder"
            ) from None
        except OSError:
            logger.debug("[download] %s: this file system has no locks", folder)
        yield
    finally:
        os.close(descriptor)
