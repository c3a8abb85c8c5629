"""Log rows of some users: freed of duplicates and put in the order of the `LogTable`.

Axes: N rows, U users.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl

from realdataexp.data import schema
from realdataexp.data.ids import IdSet

LOG = "_log"
"""Column of a row's log."""
EARLY = 0
"""Its value for the early period."""


@dataclass
class TargetSums:
    """What is said of a label's values; adding up in another order gives the same."""

    totals: list[float] = field(default_factory=list)
    n_valid: int = 0
    n_empty: int = 0
    n_out_of_range: int = 0

    def add(self, other: TargetSums) -> None:
        """Add those of other rows."""
        self.totals += other.totals
        self.n_valid += other.n_valid
        self.n_empty += other.n_empty
        self.n_out_of_range += other.n_out_of_range

    def stats(self) -> dict[str, float | int | None]:
        """The label's part of the stats."""
        return {
            "mean": math.fsum(self.totals) / self.n_valid if self.n_valid else None,
            "n_missing": self.n_empty + self.n_out_of_range,
            "n_empty": self.n_empty,
            "n_out_of_range": self.n_out_of_range,
        }


@dataclass(frozen=True)
class SortedRows:
    """Distinct rows by user, early first, then time, then everything else.

    Attributes:
        user_U: ids, int64, ascending.
        n_rows_U, n_early_U: each user's rows, and early rows, int64.
        video_N: int32, numbers of the videos.
        targets: float32 N, NaN = missing.
        sums: of the targets.
        n_dropped, n_across: rows that repeated another one; of them, one of another log.
    """

    user_U: np.ndarray
    n_rows_U: np.ndarray
    n_early_U: np.ndarray
    video_N: np.ndarray
    targets: dict[str, np.ndarray]
    sums: dict[str, TargetSums]
    n_dropped: int
    n_across: int


def sort_rows(frame: pl.DataFrame, videos: IdSet, targets: Sequence[str]) -> SortedRows:
    """Sort rows with the columns of the logs and `LOG`; drop those equal in all but `LOG`."""
    order_N, n_across = _distinct_in_order(frame)
    user_N = frame["user_id"].to_numpy()[order_N].astype(np.int64)
    is_early_N = frame[LOG].to_numpy()[order_N] == EARLY
    is_new_N = np.diff(user_N, prepend=-1) != 0
    starts = np.flatnonzero(is_new_N)
    values = {name: _target(frame[name].gather(order_N)) for name in targets}
    return SortedRows(
        user_U=user_N[starts],
        n_rows_U=np.diff(starts, append=len(user_N)),
        n_early_U=np.add.reduceat(is_early_N, starts, dtype=np.int64),
        video_N=videos.numbers(frame["video_id"].to_numpy()[order_N]),
        targets={name: value for name, (value, _) in values.items()},
        sums={name: sums for name, (_, sums) in values.items()},
        n_dropped=frame.height - len(order_N),
        n_across=n_across,
    )


def _distinct_in_order(frame: pl.DataFrame) -> tuple[np.ndarray, int]:
    """Which rows stay, in their order; and how many of the others repeat a row of another log.

    Few rows agree in user and time, so only those are sorted, and compared, by all columns.
    """
    order_N = _by_user_and_time(frame)
    user_N = frame["user_id"].to_numpy()[order_N]
    time_N = frame["time_ms"].to_numpy()[order_N]
    is_tied_N = np.zeros(len(order_N), dtype=bool)
    is_like_last = (user_N[1:] == user_N[:-1]) & (time_N[1:] == time_N[:-1])
    is_tied_N[1:] |= is_like_last
    is_tied_N[:-1] |= is_like_last
    places = np.flatnonzero(is_tied_N)
    content = [name for name in schema.LOG_COLUMNS if name in frame.columns]
    keys = dict.fromkeys(("user_id", "time_ms", *content, LOG))
    ties = frame[order_N[places]].with_columns(_row=order_N[places]).sort(list(keys))
    repeats = ties.select(
        row=pl.all_horizontal(pl.col(name).eq_missing(pl.col(name).shift(1)) for name in content),
        log=pl.col(LOG) != pl.col(LOG).shift(1),
    )
    order_N[places] = ties["_row"].to_numpy()
    stays_N = np.ones(len(order_N), dtype=bool)
    stays_N[places] = ~repeats["row"].to_numpy()
    order_N = order_N[stays_N]
    n_across = int((repeats["row"] & repeats["log"]).sum())
    return _early_first(frame, order_N), n_across


def _by_user_and_time(frame: pl.DataFrame) -> np.ndarray:
    """The rows' order by user and time.

    A stable sort merges what is in order already, as each file's rows mostly are; it takes one
    key, so user and time must fit into 63 bits together.
    """
    user_N, time_N = (frame[name].to_numpy().astype(np.int64) for name in ("user_id", "time_ms"))
    user_N -= user_N.min()
    time_N -= time_N.min()
    bits = int(time_N.max()).bit_length()
    if int(user_N.max()).bit_length() + bits <= 63:
        return np.argsort(user_N << bits | time_N, kind="stable")
    return np.lexsort((time_N, user_N))


def _early_first(frame: pl.DataFrame, order_N: np.ndarray) -> np.ndarray:
    """Move each user's early rows to the front, where they are not there by their time."""
    user_N = frame["user_id"].to_numpy()[order_N]
    is_late_N = frame[LOG].to_numpy()[order_N] != EARLY
    if ((user_N[1:] == user_N[:-1]) & is_late_N[:-1] & ~is_late_N[1:]).any():
        return order_N[np.lexsort((is_late_N, user_N))]
    return order_N


def _target(column: pl.Series) -> tuple[np.ndarray, TargetSums]:
    """A label's values as float32, NaN where missing or out of range; and what to say of them."""
    low, high = schema.LABEL_COLUMNS[column.name]
    is_valid = column.is_between(low, high) & column.cast(pl.Float64).is_finite()
    n_empty, n_out_of_range = column.null_count(), int((~is_valid).sum())
    valid = column.set(~is_valid, None) if n_out_of_range else column
    total = float(valid.cast(pl.Float64).sum())
    sums = TargetSums([total], len(column) - n_empty - n_out_of_range, n_empty, n_out_of_range)
    return valid.cast(pl.Float32).fill_null(float("nan")).to_numpy(), sums
