"""The calendar of a replayed log: slices of time, each with about as many rows.

Axes: P slices, U users, N log rows.
"""

from __future__ import annotations

import numpy as np

from realdataexp.data.log import LogTable, RowRanges
from realdataexp.errors import InputError
from realdataexp.worlds.base import first_step

_MOST_TIMES = 1 << 22  # that the ends of slices are quantiles of
_ROWS_AT_ONCE = 1 << 22


def cuts_of(log: LogTable, rows: RowRanges, n_slices: int) -> np.ndarray:
    """Where in the log each user's rows of each slice begin, and the last one's end: P + 1, U.

    Slice p has the rows from the p-th of P quantiles of the rows' times until the next, so that
    what a user saw at one time is in one slice. A user's rows are in order of time.

    Raises:
        InputError: a user's early rows are later than others of theirs.
    """
    assert log.time_N is not None, "a log that was imported without its times"
    every = max(1, -(-rows.n_rows // _MOST_TIMES))
    time_X = np.sort(log.time_N[rows.locate(np.arange(0, rows.n_rows, every))[1]])
    ends = time_X[len(time_X) * np.arange(1, n_slices) // n_slices]
    n_PU = np.zeros((n_slices, log.n_users), dtype=np.int64)
    for first in range(0, rows.n_rows, _ROWS_AT_ONCE):
        place_N = np.arange(first, min(first + _ROWS_AT_ONCE, rows.n_rows))
        user_N, row_N = rows.locate(place_N)
        slice_N = np.searchsorted(ends, log.time_N[row_N], side="right")
        if ((np.diff(slice_N) < 0) & (user_N[1:] == user_N[:-1])).any():
            raise InputError(
                "simulation.order = 'time': rows of the early log are later than others of their "
                "user; replay one of the logs (pretrain.rows: early), or use order: any"
            )
        flat_N = slice_N * log.n_users + user_N
        n_PU += np.bincount(flat_N, minlength=n_PU.size).reshape(n_PU.shape)
    cuts_PU = np.zeros((n_slices + 1, log.n_users), dtype=np.int64)
    cuts_PU[1:] = n_PU.cumsum(0)
    return cuts_PU + rows.start_U


def require_visits(cuts_PU: np.ndarray, n_steps: int, batch_size: int, least: int) -> None:
    """Raise an InputError where a slice has too few rows for the visits of its steps.

    A user with n rows in a slice gives n - least + 1 visits, where ``least`` is min_candidates, as
    each visit takes a row.
    """
    n_slices = len(cuts_PU) - 1
    room_P = (np.diff(cuts_PU, axis=0) - least + 1).clip(0).sum(1)
    bounds = [first_step(p, n_steps, n_slices) for p in range(n_slices + 1)]
    asked_P = np.diff(bounds) * batch_size
    if (asked_P <= room_P).all():
        return
    p = int(np.argmax(asked_P - room_P))
    most = int(room_P.min() // batch_size) * n_slices
    remedy = f"use at most {most:,} steps, " if most else "use "
    raise InputError(
        f"simulation.n_steps = {n_steps:,}: with order time, slice {p + 1} of "
        f"{n_slices} asks for {asked_P[p]:,} visits, but its rows are enough for {room_P[p]:,} "
        f"(of users with {least} or more of them there); {remedy}a smaller batch_size or "
        "min_candidates, fewer time_slices, more dataset.logs, or order: any"
    )
