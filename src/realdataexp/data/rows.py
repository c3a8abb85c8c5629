"""An array made in blocks of rows: in memory, or on disk when it has several blocks."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import IO

import numpy as np

from realdataexp.files import disk_faults


class Rows:
    """Collects blocks of rows; from the second on in a nameless file, to be memory-mapped."""

    def __init__(self, folder: Path | None) -> None:
        """Begin an array whose file, where one is needed, lies in ``folder``."""
        self._folder = folder
        self._first: np.ndarray | None = None
        self._file: IO[bytes] | None = None
        self._n_rows = 0

    def append(self, block_XD: np.ndarray, dtype: type[np.generic]) -> None:
        """Write rows behind those that are there.

        Raises:
            DiskError: the disk is full.
        """
        block_XD = np.ascontiguousarray(block_XD, dtype=dtype)
        self._n_rows += len(block_XD)
        if self._first is None:
            self._first = block_XD
            return
        place = self._folder or Path(tempfile.gettempdir())
        with disk_faults(place, "set dataset.cache_path (--cache) to another disk"):
            if self._file is None:
                self._file = _nameless_file(self._folder)
                self._file.write(self._first.tobytes())
                self._first = self._first[:0]
            self._file.write(block_XD.tobytes())
            self._file.flush()

    def array(self) -> np.ndarray:
        """All rows; read-only where they are on disk."""
        assert self._first is not None
        shape = (self._n_rows, self._first.shape[1])
        if self._file is None or 0 in shape:
            return self._first if self._file is None else np.zeros(shape, self._first.dtype)
        return np.memmap(self._file, self._first.dtype, mode="r", shape=shape)

    def __enter__(self) -> Rows:
        """Begin a block that ends with closing the file."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file; an array mapped from it stays."""
        if self._file is not None:
            self._file.close()


def _nameless_file(folder: Path | None) -> IO[bytes]:
    """A file that is gone once nobody reads it; elsewhere where the folder cannot be written."""
    try:
        return tempfile.TemporaryFile(dir=folder)
    except PermissionError:
        return tempfile.TemporaryFile()
