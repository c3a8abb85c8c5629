"""The tables that the rest reads: the log, its users and videos; and who and what plays which part.

Which rows pretrain the models, which are replayed, which users validate: every part is a range of
rows for each user, so that no part costs memory per row.

Axes: U users, N log rows.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from realdataexp.data.parquet import StoredTable
from realdataexp.errors import InputError, Warnings

_BLOCK_ROWS = 1 << 22


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
        time_N: int64 [N], in the order of the rows' times; None where they were not asked for.
    """

    offset_U1: np.ndarray
    n_early_U: np.ndarray
    video_N: np.ndarray
    targets: dict[str, np.ndarray]
    time_N: np.ndarray | None = None

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


# ---- the parts ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class RowRanges:
    """The rows [start, end) of each user, int64; empty where the user has none in this part."""

    start_U: np.ndarray
    end_U: np.ndarray

    @property
    def n_rows(self) -> int:
        """Rows in all ranges."""
        return int((self.end_U - self.start_U).sum())

    def locate(self, place_X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The users and log rows at places 0 .. n_rows - 1 of the ranges laid end to end."""
        ends_U = np.cumsum(self.end_U - self.start_U)
        user_X = np.searchsorted(ends_U, place_X, side="right")
        row_X = self.end_U[user_X] - (ends_U[user_X] - place_X)
        return user_X, row_X


@dataclass(frozen=True)
class Split:
    """The parts of a log: rows of users who take part in training and replay; the others validate.

    ``kind`` is how pretraining rows were chosen: none, early, share or overlap.
    """

    is_training_U: np.ndarray
    pretrain: RowRanges
    replay: RowRanges
    validation: RowRanges
    kind: str


_DOUBTS = {
    "overlap": (
        "pretrain_overlaps_replay",
        "pretrain.rows = 'overlap': the models have seen the answers to the replayed rows; the "
        "result says little about unseen data",
    ),
    "share": (
        "pretrain_sees_later_rows",
        "pretraining takes each user's own earliest rows (pretrain.rows: share), so some of them "
        "are later than rows of other users that are replayed: what was learned from them leaks "
        "back in time",
    ),
}


def split_log(
    log: LogTable,
    *,
    uniform_2U: np.ndarray,
    share_validation: float,
    pretrain_rows: str,
    pretrain_share: float,
    warnings: Warnings,
) -> Split:
    """Split the users, and the training users' rows.

    Args:
        log: the log, each user's rows in order of time, the early period first.
        uniform_2U: two U[0, 1) draws a user: one holds users out, one rounds shares of rows.
        share_validation: share of users held out.
        pretrain_rows: "none"; "early": the early log pretrains, the rest is replayed; "share":
            each user's earliest rows; "overlap": all rows do both; "auto": early where the logs
            have both periods, else share.
        pretrain_share: the share for "share".
        warnings: told of leaks.

    Raises:
        InputError: a part would be empty.
    """
    start_U, end_U = log.offset_U1[:-1], log.offset_U1[1:]
    is_training_U = uniform_2U[0] >= share_validation
    n_training, n_early = int(is_training_U.sum()), int(log.n_early_U.sum())
    if n_training in (0, log.n_users):
        raise InputError(
            f"simulation.user_p_val = {share_validation}: leaves {n_training} of {log.n_users} "
            "users for training; both training and validation need one: take a share nearer to "
            "0.5 or a larger data set"
        )
    has_both = 0 < n_early < log.n_rows
    kind = pretrain_rows
    if kind == "auto":
        kind = "early" if has_both else "share"
    if kind == "early" and not has_both:
        raise InputError(
            f"pretrain.rows = 'early': {n_early} of {log.n_rows} rows are of the early log; it "
            "needs standard_early and another log in dataset.logs, or use rows: share"
        )
    if kind in _DOUBTS:
        warnings.add(*_DOUBTS[kind])
    cut_U = start_U
    if kind == "early":
        cut_U = start_U + log.n_early_U
    elif kind == "share":
        n_U = end_U - start_U
        cut_U = start_U + np.floor(pretrain_share * n_U + uniform_2U[1]).astype(int).clip(max=n_U)
    pretrain_end_U = end_U if kind == "overlap" else cut_U
    split = Split(
        is_training_U,
        RowRanges(start_U, np.where(is_training_U, pretrain_end_U, start_U)),
        RowRanges(cut_U, np.where(is_training_U, end_U, cut_U)),
        RowRanges(start_U, np.where(is_training_U, start_U, end_U)),
        kind,
    )
    if split.replay.n_rows == 0:
        raise InputError(
            "simulation: no row is left to replay after pretraining took its rows; lower "
            "pretrain.share or choose more dataset.logs"
        )
    return split


def training_blocks(log: LogTable, is_training_U: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Walk through the log in blocks: (rows, bool mask of those of training users).

    After a block the memory of its rows is released; they can still be read again.
    """
    offset_U1 = log.offset_U1
    for start in range(0, log.n_rows, _BLOCK_ROWS):
        end = min(start + _BLOCK_ROWS, log.n_rows)
        first = int(np.searchsorted(offset_U1, start, side="right")) - 1
        last = int(np.searchsorted(offset_U1, end, side="left"))
        lengths = np.diff(offset_U1[first : last + 1].clip(start, end))
        yield slice(start, end), np.repeat(is_training_U[first:last], lengths)
        for array in (log.video_N, *log.targets.values()):
            mapped = getattr(array, "_mmap", None)
            if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):  # not on Windows
                mapped.madvise(mmap.MADV_DONTNEED)
