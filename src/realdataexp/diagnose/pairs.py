"""Pairs of an item and the next one: those in histories, and those that are learned.

Axes: P pairs in histories, X pairs of whatever kind, K kinds of pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from realdataexp.sequences.histories import Split


@dataclass(frozen=True)
class Pairs:
    """Pairs in a row, as whole numbers.

    Attributes:
        pair_P: the pairs of all histories.
        is_train_P: whether the second item is fitted on.
        is_last_P: whether it is the last such of its user.
    """

    pair_P: np.ndarray
    is_train_P: np.ndarray
    is_last_P: np.ndarray


def pairs_of(split: Split) -> Pairs:
    """The pairs of a split's histories."""
    h = split.histories
    second = np.flatnonzero(h.user_N[1:] == h.user_N[:-1]) + 1
    pair_P = pair(h.item_N[second - 1], h.item_N[second], h.n_items)
    is_last_P = second == split.train_end_U[h.user_N[second]] - 1
    return Pairs(pair_P, split.is_train_N[second], is_last_P)


def pair(first_X: np.ndarray, second_X: np.ndarray, n_items: int) -> np.ndarray:
    """Pairs as whole numbers."""
    return first_X.astype(np.int64) * n_items + second_X


def beyond(pair_X: np.ndarray, known_X: np.ndarray) -> tuple[np.ndarray, int]:
    """The kinds of pairs that come more often than among the known ones, and by how many."""
    kind_K, place_X = np.unique(np.concatenate([pair_X, known_X]), return_inverse=True)
    sign_X = np.repeat([1.0, -1.0], [len(pair_X), len(known_X)])
    more_K = np.bincount(place_X, sign_X, len(kind_K))
    return kind_K[more_K > 0], int(more_K[more_K > 0].sum())
