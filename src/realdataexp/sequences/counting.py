"""What recommenders that count share: each is fitted in one file, and scores items linearly.

Axes: B histories at once, T items of a history, V items.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import scipy.sparse as sp

from realdataexp.options import Options
from realdataexp.sequences.histories import Split


class Fitted(Protocol):
    """A recommender that has been fitted."""

    def scores(self, past_BT: np.ndarray) -> np.ndarray:
        """Scores of all items after histories: float32 B, V.

        Args:
            past_BT: int64, oldest first, -1 after the last.
        """


class CountingRecommender(Options, ABC):
    """A recommender that is fitted in seconds, by counting; its fields are its options."""

    @abstractmethod
    def fit(self, split: Split) -> Fitted:
        """Fit on the interactions of ``split.is_train_N``, and on nothing else."""


@dataclass(frozen=True)
class ItemToItem:
    """A score is a weighted sum over the items of a history of what each says for the item.

    Attributes:
        weight_VV: float32, from an item of the history to the one that is scored.
        window: how many of the latest items speak; None: all.
        decay: an item's weight over that of the item after it.
    """

    weight_VV: sp.csr_array | np.ndarray
    window: int | None = None
    decay: float = 1.0

    def scores(self, past_BT: np.ndarray) -> np.ndarray:
        """See Fitted."""
        B, V = len(past_BT), self.weight_VV.shape[0]
        row, place = np.nonzero(past_BT >= 0)
        age = (past_BT >= 0).sum(1)[row] - 1 - place
        is_near = age < (past_BT.shape[1] if self.window is None else self.window)
        row, place, age = row[is_near], place[is_near], age[is_near]
        weight = (self.decay**age).astype(np.float32)
        recent_BV = sp.csr_array((weight, (row, past_BT[row, place])), shape=(B, V))
        score_BV = recent_BV @ self.weight_VV
        return np.asarray(score_BV.toarray() if sp.issparse(score_BV) else score_BV)


def train_matrix(split: Split) -> sp.csr_array:
    """Which items each user had in training: float32 U, V of ones."""
    histories, is_train_N = split.histories, split.is_train_N
    user, item = histories.user_N[is_train_N], histories.item_N[is_train_N]
    shape = (histories.n_users, histories.n_items)
    matrix_UV = sp.csr_array((np.ones(len(user), np.float32), (user, item)), shape=shape)
    matrix_UV.data[:] = 1.0
    return matrix_UV


def train_counts(split: Split) -> np.ndarray:
    """How often each item was had in training: float64 V."""
    item = split.histories.item_N[split.is_train_N]
    return np.bincount(item, minlength=split.histories.n_items).astype(float)
