"""Reading Parquet files by their own names: no path is a pattern, an address or a home folder.

Polars reads `run[1]/x.parquet` as a pattern that matches another folder, `~/x.parquet` as a file
of the user's home, and `file:/x.parquet` as an address. So all readers go through here.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl


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
