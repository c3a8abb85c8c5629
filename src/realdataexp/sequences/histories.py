"""Users' histories, and the questions that are held out of them.

Axes: N interactions (user by user, in order of time), U users, V items, Q questions, T places of a
history, B histories at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np


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
