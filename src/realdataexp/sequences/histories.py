"""Users' histories, and the questions that are held out of them.

Axes: N interactions (user by user, in order of time), U users, V items, Q questions, T places of a
history, B histories at once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl

from realdataexp.errors import InputError


@dataclass(frozen=True)
class Histories:
    """Which items each user had, in order of time.

    Attributes:
        item_N: int32 items, 0 to V - 1.
        offset_U1: int64; user u has the interactions [offset_U1[u], offset_U1[u + 1]).
        user_names, item_names: as the file calls them.
        time_N: seconds, float64; None where the file has an order only.
    """

    item_N: np.ndarray
    offset_U1: np.ndarray
    user_names: Sequence[str]
    item_names: Sequence[str]
    time_N: np.ndarray | None = None

    @property
    def n_users(self) -> int:
        """U."""
        return len(self.offset_U1) - 1

    @property
    def n_items(self) -> int:
        """V."""
        return len(self.item_names)

    @cached_property
    def user_N(self) -> np.ndarray:
        """The user of each interaction, int32."""
        return np.repeat(np.arange(self.n_users, dtype=np.int32), np.diff(self.offset_U1))


def histories_of(rows: pl.DataFrame) -> Histories:
    """The histories of rows in whatever order, of equal times in that of the rows.

    Items are numbered in the order of their names' hashes: numbers in the order of the names would
    tell a model when an item came, as catalogues grow.

    Args:
        rows: ``user`` and ``item``, String; ``time``, Float64, or none where a user's rows are in
            order.
    """
    user_names = rows["user"].unique(maintain_order=True)
    item_names = sorted(rows["item"].unique().to_list(), key=_hash)
    rows = rows.with_columns(
        pl.col("user").cast(pl.Enum(user_names)).to_physical(),
        pl.col("item").cast(pl.Enum(item_names)).to_physical(),
    )
    rows = rows.sort([name for name in rows.columns if name != "item"], maintain_order=True)
    n_U = np.bincount(rows["user"], minlength=len(user_names))
    return Histories(
        rows["item"].to_numpy().astype(np.int32),
        np.concatenate([[0], n_U.cumsum()]),
        user_names.to_list(),
        item_names,
        rows["time"].to_numpy() if "time" in rows.columns else None,
    )


def _hash(name: str) -> bytes:
    return hashlib.blake2b(name.encode(), digest_size=16).digest()


@dataclass(frozen=True)
class Questions:
    """Next items to rank: what comes at some places, after all that its user had before.

    Attributes:
        user_Q: whose.
        place_Q: int64, where in ``item_N`` the item is that came; those of the user before it are
            the history, whether they were fitted on or not.
    """

    user_Q: np.ndarray
    place_Q: np.ndarray

    def __len__(self) -> int:
        return len(self.user_Q)

    def __getitem__(self, some: slice | np.ndarray) -> Questions:
        return Questions(self.user_Q[some], self.place_Q[some])


@dataclass(frozen=True)
class Split:
    """What recommenders are fitted on, and what they are asked.

    Attributes:
        histories: all of them.
        train_end_U: int64; of a user's interactions those before this place are fitted on.
        validation, test: questions.
    """

    histories: Histories
    train_end_U: np.ndarray
    validation: Questions
    test: Questions

    @cached_property
    def is_train_N(self) -> np.ndarray:
        """Which interactions are fitted on."""
        n = np.arange(len(self.histories.item_N))
        return n < self.train_end_U[self.histories.user_N]

    def target_Q(self, questions: Questions) -> np.ndarray:
        """The items that came."""
        return self.histories.item_N[questions.place_Q]

    def past_BT(self, questions: Questions, longest: int | None = None) -> np.ndarray:
        """The histories in front of questions, oldest first, -1 after the last: int64 B, T.

        Args:
            questions: B of them.
            longest: at most so many of the latest items; None: all.
        """
        start_B = self.histories.offset_U1[questions.user_Q]
        if longest is not None:
            start_B = np.maximum(start_B, questions.place_Q - longest)
        n_B = questions.place_Q - start_B
        place_T = np.arange(int(n_B.max(initial=0)))
        place_BT = start_B[:, None] + place_T
        is_past_BT = place_T < n_B[:, None]
        last = len(self.histories.item_N) - 1
        return np.where(is_past_BT, self.histories.item_N[place_BT.clip(max=last)], -1).astype(
            np.int64
        )


def leave_one_out(histories: Histories) -> Split:
    """Each user's last item is the test's, the one before it the validation's; the rest is fitted.

    The protocol of SASRec (Kang & McAuley, arXiv 1808.09781, section IV). Users with fewer than
    three items are fitted on and asked nothing.
    """
    end_U, start_U = histories.offset_U1[1:], histories.offset_U1[:-1]
    user_Q = np.flatnonzero(end_U - start_U >= 3)
    train_end_U = np.where(end_U - start_U >= 3, end_U - 2, end_U)
    return Split(
        histories,
        train_end_U,
        Questions(user_Q, end_U[user_Q] - 2),
        Questions(user_Q, end_U[user_Q] - 1),
    )


def time_split(histories: Histories, held_out: float) -> Split:
    """What came last, over all users, is held out: a share for the test, and as much before it.

    Who has interactions before a period and in it is asked for the first one in it; the test's
    histories hold the validation's items. Nothing that is fitted on is later than any question, as
    it is in `leave_one_out` (Meng et al., arXiv 2007.13237).

    Raises:
        InputError: the histories have no times, or nobody is asked anything.
    """
    time_N = histories.time_N
    if time_N is None:
        raise InputError("dataset.split = 'time': the histories have no times; use leave_one_out")
    shares = [1 - 2 * held_out, 1 - held_out]
    start_1, start_2 = np.quantile(time_N, shares, method="higher")
    train_end_U, validation = _first_since(histories, time_N, start_1, start_2)
    _, test = _first_since(histories, time_N, start_2, np.inf)
    if not (len(validation) and len(test)):
        raise InputError(
            f"dataset.held_out = {held_out:g}: {len(validation):,} users have a validation and "
            f"{len(test):,} a test question, each must be more than 0; hold out another share"
        )
    return Split(histories, train_end_U, validation, test)


def _first_since(
    histories: Histories, time_N: np.ndarray, start: float, end: float
) -> tuple[np.ndarray, Questions]:
    """Where each user's interactions since a time begin, and the questions up to another time."""
    n_before_U = np.bincount(histories.user_N[time_N < start], minlength=histories.n_users)
    place_U = histories.offset_U1[:-1] + n_before_U
    is_there_U = (n_before_U > 0) & (place_U < histories.offset_U1[1:])
    is_there_U[is_there_U] = time_N[place_U[is_there_U]] < end
    user_Q = np.flatnonzero(is_there_U)
    return place_U, Questions(user_Q, place_U[user_Q])
