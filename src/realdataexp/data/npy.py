"""A NumPy file of one axis, written in pieces."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.lib import format as npy_format


class NpyWriter:
    """Appends to `<name>.npy`; closing it says in the header how long it has become."""

    def __init__(self, path: Path, dtype: type[np.generic]) -> None:
        """Begin a file."""
        self._file = path.open("wb")
        self._dtype, self._n = np.dtype(dtype), 0
        self._write_header()

    def append(self, values_N: np.ndarray) -> None:
        """Write values behind those that are there."""
        assert values_N.dtype == self._dtype
        self._file.write(np.ascontiguousarray(values_N).data)
        self._n += len(values_N)

    def __enter__(self) -> NpyWriter:
        """Begin a block that ends with closing the file."""
        return self

    def __exit__(self, *_: object) -> None:
        """Write the length and close the file."""
        with self._file:
            self._file.seek(0)
            self._write_header()

    def _write_header(self) -> None:
        """The header; NumPy leaves room in it for any length."""
        described = npy_format.dtype_to_descr(self._dtype)
        header = {"descr": described, "fortran_order": False, "shape": (self._n,)}
        npy_format.write_array_header_1_0(self._file, header)
