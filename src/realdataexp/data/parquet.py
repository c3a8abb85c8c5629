"""Reading Parquet files by their own names: no path is a pattern, an address or a home folder.

Polars reads `run[1]/x.parquet` as a pattern that matches another folder, `~/x.parquet` as a file
of the user's home, and `file:/x.parquet` as an address. So all readers go through here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq


def scan_parquet(path: Path) -> pl.LazyFrame:
    """One file, of which only what is asked for is read."""
    return pl.scan_parquet(path.absolute(), glob=False, hive_partitioning=False)


def read_parquet(path: Path, columns: Sequence[str] | None = None) -> pl.DataFrame:
    """All columns of one file, or some, in memory.

    Raises:
        OSError, polars.exceptions.PolarsError: it cannot be read.
    """
    table = scan_parquet(path)
    return (table if columns is None else table.select(columns)).collect()


def parquet_columns(path: Path) -> tuple[str, ...]:
    """The names of a file's columns.

    Raises:
        OSError, polars.exceptions.PolarsError: it cannot be read.
    """
    return tuple(scan_parquet(path).collect_schema())


class StoredTable:
    """Columns and blocks of rows of a Parquet file; nothing of it is kept in memory.

    Attributes:
        folder: where the file lies.
        height: number of rows.
        columns: their names.
    """

    def __init__(self, path: Path) -> None:
        """Open a file; it stays open, and readable should it be deleted."""
        self.folder = path.parent
        self._file = pq.ParquetFile(path.absolute())
        self.height: int = self._file.metadata.num_rows
        self.columns: list[str] = self._file.schema_arrow.names

    def blocks(self, columns: Sequence[str] | None = None) -> Iterator[pl.DataFrame]:
        """Some columns, or all, in the blocks of rows in which they were written."""
        for i in range(self._file.metadata.num_row_groups):
            n_rows = self._file.metadata.row_group(i).num_rows
            table = self._file.read_row_group(i, columns)
            yield pl.DataFrame(table) if table.num_columns else pl.DataFrame(height=n_rows)

    def __getitem__(self, name: str) -> pl.Series:
        """One column, all rows."""
        return pl.Series(name, self._file.read([name]).column(0))

    def frame(self) -> pl.DataFrame:
        """All of it in memory."""
        empty = pl.DataFrame(pa.table(self._file.schema_arrow.empty_table()))
        return pl.concat([empty, *self.blocks()])


def blocks(
    table: pl.DataFrame | StoredTable, names: list[str]
) -> Iterator[tuple[slice, pl.DataFrame]]:
    """Columns of a table in blocks of rows, and where in the table each block is."""
    start = 0
    for block in [table] if isinstance(table, pl.DataFrame) else table.blocks(names):
        yield slice(start, start + block.height), block
        start += block.height
