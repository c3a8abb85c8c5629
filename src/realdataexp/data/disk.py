"""A folder that large files are written into: its free space, and a lock."""

from __future__ import annotations

import logging
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from realdataexp.errors import InputError

logger = logging.getLogger("realdataexp")


def require_space(folder: Path, needed: int) -> None:
    """Raise an InputError where fewer bytes are free than needed."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise InputError(
            f"{folder}: {free / 1e9:,.1f} GB are free, about {needed / 1e9:,.1f} GB are needed; "
            "free some or give a folder on another disk"
        )


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
