"""Sets of ids that number their members: memory by the ids' size where they are small."""

from __future__ import annotations

import numpy as np

_DENSE = 1 << 26  # ids below are looked up in a table, those above by bisection


class IdSet:
    """Collects ids (whole numbers >= 0); then numbers them from 0 in ascending order.

    Attributes:
        members: the ids, int64, ascending; once it is frozen.
    """

    def __init__(self) -> None:
        """Start empty."""
        self._is_in_I = np.zeros(min(1 << 16, _DENSE), dtype=bool)
        self._high_H = np.zeros(0, dtype=np.int64)
        self._number_I = np.zeros(0, dtype=np.int32)
        self._n_low = 0
        self.members = np.zeros(0, dtype=np.int64)

    def add(self, ids_N: np.ndarray) -> None:
        """Add ids, in any order, repeated or not."""
        is_high_N = ids_N >= _DENSE
        if is_high_N.any():
            high = np.unique(ids_N[is_high_N]).astype(np.int64)
            self._high_H = np.union1d(self._high_H, high)
            ids_N = ids_N[~is_high_N]
        if not ids_N.size:
            return
        lacking = int(ids_N.max()) + 1 - len(self._is_in_I)  # low ids, so at most _DENSE in all
        if lacking > 0:
            size = len(self._is_in_I)
            more = np.zeros(max(lacking, min(size, _DENSE - size)), dtype=bool)
            self._is_in_I = np.concatenate([self._is_in_I, more])
        self._is_in_I[ids_N] = True

    def freeze(self) -> None:
        """Number the members; from here on none is added."""
        low = np.flatnonzero(self._is_in_I)
        self._number_I = np.full(len(self._is_in_I), -1, dtype=np.int32)
        self._number_I[low] = np.arange(len(low), dtype=np.int32)
        self._is_in_I = self._is_in_I[:0]
        self._n_low = len(low)
        self.members = np.concatenate([low, self._high_H]) if self._high_H.size else low

    def numbers(self, ids_N: np.ndarray) -> np.ndarray:
        """The ids' numbers, int32; -1 for one that is not in the set."""
        size = len(self._number_I)
        if not ids_N.size or int(ids_N.max()) < size:
            return self._number_I[ids_N]
        number_N = self._number_I[np.minimum(ids_N, size - 1)]
        is_beyond_N = ids_N >= size
        beyond = ids_N[is_beyond_N]
        place = np.searchsorted(self._high_H, beyond)
        is_in = place < len(self._high_H)
        is_in[is_in] = self._high_H[place[is_in]] == beyond[is_in]
        number_N[is_beyond_N] = np.where(is_in, place + self._n_low, -1)
        return number_N
