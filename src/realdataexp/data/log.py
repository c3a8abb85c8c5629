"""The tables that the rest of the program reads: the log, its users and its videos."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from realdataexp.data.parquet import StoredTable


@dataclass(frozen=True)
class LogTable:
    """Logged views, grouped by user (CSR): the rows of user u are offset[u] .. offset[u+1].

    Users and videos are indices into the rows of ``DataSet.users`` and ``DataSet.videos``. Rows
    of one user are ordered early period first, then by time, then by the other columns, so that
    the order is a function of the content, not of the order in the files. The arrays are
    read-only, and memory-mapped where they are large.

    Attributes:
        offset_U1: int64 [U + 1], first row of each user; the last entry is N.
        n_early_U: int64 [U], how many of a user's rows (its first ones) are `standard_early`.
        video_N: int32 [N], index of the row's video.
        targets: per label target float32 [N] in the log's own units; NaN = missing.
    """

    offset_U1: np.ndarray
    n_early_U: np.ndarray
    video_N: np.ndarray
    targets: dict[str, np.ndarray]

    @property
    def n_rows(self) -> int:
        """N, the number of distinct log rows."""
        return len(self.video_N)

    @property
    def n_users(self) -> int:
        """U, the number of users that occur in the log."""
        return len(self.n_early_U)


@dataclass(frozen=True)
class DataSet:
    """An imported data set: the log, and the users and videos that occur in it.

    Attributes:
        version: "pure", "1k", "27k", or "tables" for one's own data.
        fingerprint: name of the cache entry; a hash of the request and of the source files.
        log: the logged views.
        users: U rows by ascending ``user_id`` (Int64, or String in one's own data), then one
            column per asked user feature, named as it was asked: numerical ones Float32,
            categorical ones String, or List(String) where they are lists in one's own data;
            missing values are null (never NaN).
        videos: V rows by ascending ``video_id``, then the asked video features likewise.
        stats: JSON-able counts: see ``kuairand.prepare`` and ``tables.prepare_tables``.
    """

    version: str
    fingerprint: str
    log: LogTable
    users: pl.DataFrame
    videos: pl.DataFrame | StoredTable
    stats: dict[str, Any]
