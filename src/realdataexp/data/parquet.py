"""Parquet files by their own names: no path is a pattern, an address or a home folder.

Polars reads `run[1]/x.parquet` as a pattern that matches another folder, `~/x.parquet` as a file
of the user's home, and `file:/x.parquet` as an address. So all readers go through here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq

from realdataexp.files import write_atomically


def scan_parquet(path: Path) -> pl.LazyFrame:
    """One file, not read yet."""
    return pl.scan_parquet(path.absolute(), glob=False, hive_partitioning=False)


def read_parquet(path: Path, columns: Sequence[str] | None = None) -> pl.DataFrame:
    """All columns of one file, or some, in memory; raises an OSError or a PolarsError."""
    return (scan_parquet(path) if columns is None else scan_parquet(path).select(columns)).collect()


def write_parquet(path: Path, frame: pl.DataFrame) -> None:
    """Write a table atomically; equal tables become equal bytes, in whatever parts they came."""
    write_atomically(path.absolute(), frame.rechunk().write_parquet)


def parquet_columns(path: Path) -> tuple[str, ...]:
    """The names of a file's columns; raises an OSError or a PolarsError."""
    return tuple(scan_parquet(path).collect_schema())


class StoredTable:
    """A table in a Parquet file, read a block of rows at a time; nothing of it is kept in memory.

    Attributes:
        folder: where the file lies.
        height, n_blocks: number of rows, and of blocks of them.
        columns: their names.
    """

    def __init__(self, path: Path) -> None:
        """Open a file; it stays open, and readable should it be deleted."""
        self.folder = path.parent
        self._file = pq.ParquetFile(path.absolute())
        self.height: int = self._file.metadata.num_rows
        self.n_blocks: int = self._file.metadata.num_row_groups
        self.columns: list[str] = self._file.schema_arrow.names

    def blocks(self, columns: Sequence[str] | None = None) -> Iterator[pl.DataFrame]:
        """Some columns, or all, in the blocks of rows in which they were written."""
        for i in range(self.n_blocks):
            table = self._file.read_row_group(i, columns)
            n_rows = self._file.metadata.row_group(i).num_rows
            yield pl.DataFrame(table) if table.num_columns else pl.DataFrame(height=n_rows)
