"""Markov counts: what came after the items of the history, within a window.

Axes: V items, P pairs.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from pydantic import Field

from realdataexp.options import Count, Decay
from realdataexp.sequences.counting import CountingRecommender, ItemToItem, train_counts
from realdataexp.sequences.histories import Split


class Markov(CountingRecommender):
    """Counts of pairs (an item, one that came d items later), each times decay^(d - 1).

    A pair's weight is count × out(first)^-out_power × popularity(second)^-popularity_power, where
    out is an item's sum of counts. The items of a history speak with decay^age, within the window.
    """

    window: Count = Field(10, description="items between the two of a pair, at most, and one")
    decay: float = Field(0.7, gt=0, le=1, description="weight of a pair over that one item nearer")
    out_power: Decay = Field(0.5, description="how much what an item is followed by is divided by")
    popularity_power: Decay = Field(0.25, description="how much an item's popularity is divided by")

    def fit(self, split: Split) -> ItemToItem:
        """See CountingRecommender."""
        count_VV = pair_counts(split, self.window, self.decay)
        out_V = np.maximum(count_VV.sum(1), 1e-9) ** -self.out_power
        popularity_V = np.maximum(train_counts(split), 1) ** -self.popularity_power
        weight_VV = sp.diags_array(out_V) @ count_VV @ sp.diags_array(popularity_V)
        return ItemToItem(weight_VV.tocsr().astype(np.float32), self.window, self.decay)


def pair_counts(split: Split, window: int, decay: float) -> sp.csr_array:
    """Sum over d up to a window of decay^(d - 1) × pairs of items d apart: float64 V, V."""
    histories, is_train_N = split.histories, split.is_train_N
    item, user = histories.item_N[is_train_N], histories.user_N[is_train_N]
    V = histories.n_items
    total_VV = sp.csr_array((V, V), dtype=np.float64)
    for d in range(1, min(window, len(item) - 1) + 1):
        first, second = item[:-d], item[d:]
        is_pair_P = user[:-d] == user[d:]
        if not is_pair_P.any():
            break
        weight = np.full(int(is_pair_P.sum()), decay ** (d - 1))
        places = (first[is_pair_P], second[is_pair_P])
        total_VV = total_VV + sp.csr_array((weight, places), shape=(V, V))
    return total_VV
