"""Which rows pretrain the models, which are replayed, which users validate.

Every part is a range of rows for each user, so that no part costs memory per row.

Axes: U users, N log rows.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from realdataexp.data.log import LogTable
from realdataexp.errors import InputError, Warnings

_BLOCK_ROWS = 1 << 22


@dataclass(frozen=True)
class RowRanges:
    """The rows [start, end) of each user.

    Attributes:
        start_U, end_U: int64; equal where the user has no row in this part.
    """

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
    """The parts of a log.

    Attributes:
        is_training_U: users who take part in training and replay; the others validate.
        pretrain, replay: rows of training users. validation: rows of the others.
        kind: how pretraining rows were chosen: none, early, share or overlap.
    """

    is_training_U: np.ndarray
    pretrain: RowRanges
    replay: RowRanges
    validation: RowRanges
    kind: str


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
        warnings: told of an overlap.

    Raises:
        InputError: a part would be empty.
    """
    offset_U1, n_U = log.offset_U1, np.diff(log.offset_U1)
    start_U, end_U = offset_U1[:-1], offset_U1[1:]
    is_training_U = uniform_2U[0] >= share_validation
    n_training = int(is_training_U.sum())
    if n_training in (0, log.n_users):
        raise InputError(
            f"simulation.user_p_val = {share_validation}: leaves {n_training} of {log.n_users} "
            "users for training; both training and validation need one: take a share nearer to "
            "0.5 or a larger data set"
        )
    n_early = int(log.n_early_U.sum())
    kind = pretrain_rows
    if kind == "auto":
        kind = "early" if 0 < n_early < log.n_rows else "share"
    if kind == "early" and not 0 < n_early < log.n_rows:
        raise InputError(
            f"pretrain.rows = 'early': {n_early} of {log.n_rows} rows are of the early log; it "
            "needs standard_early and another log in dataset.logs, or use rows: share"
        )
    if kind == "overlap":
        warnings.add(
            "pretrain_overlaps_replay",
            "pretrain.rows = 'overlap': the models have seen the answers to the replayed rows; "
            "the result says little about unseen data",
        )
    if kind == "share":
        warnings.add(
            "pretrain_sees_later_rows",
            "pretraining takes each user's own earliest rows (pretrain.rows: share), so some of "
            "them are later than rows of other users that are replayed: what was learned from "
            "them leaks back in time",
        )
    none_U = np.zeros_like(n_U)
    n_pretrain_U = {
        "none": none_U,
        "early": log.n_early_U,
        "share": np.floor(pretrain_share * n_U + uniform_2U[1]).astype(np.int64).clip(max=n_U),
        "overlap": none_U,
    }[kind]
    cut_U = start_U + n_pretrain_U
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

    Behind a block the memory that its rows took is given back.
    """
    offset_U1 = log.offset_U1
    for start in range(0, log.n_rows, _BLOCK_ROWS):
        end = min(start + _BLOCK_ROWS, log.n_rows)
        first = int(np.searchsorted(offset_U1, start, side="right")) - 1
        last = int(np.searchsorted(offset_U1, end, side="left"))
        lengths = np.diff(offset_U1[first : last + 1].clip(start, end))
        yield slice(start, end), np.repeat(is_training_U[first:last], lengths)
        for array in (log.video_N, *log.targets.values()):
            _give_back(array)


def _give_back(array: np.ndarray) -> None:
    """Let go of what is in memory of a memory-mapped array; reading it again is still possible."""
    mapped = getattr(array, "_mmap", None)
    if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):  # not on Windows
        mapped.madvise(mmap.MADV_DONTNEED)
