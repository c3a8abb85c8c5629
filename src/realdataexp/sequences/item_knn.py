"""Item-kNN: items that were had by users who had those of the history (Sarwar et al., WWW 2001)."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from pydantic import Field

from realdataexp.options import Count, Decay
from realdataexp.sequences.counting import CountingRecommender, ItemToItem, train_matrix
from realdataexp.sequences.histories import Split


class ItemKNN(CountingRecommender):
    """A score is the sum of the cosines, of columns users × items, with the history's items."""

    neighbours: Count | None = Field(None, description="nearest items that an item has; null: all")
    shrinkage: Decay = Field(0.0, description="added to a cosine's divisor")

    def fit(self, split: Split) -> ItemToItem:
        """See CountingRecommender."""
        matrix_UV = train_matrix(split)
        both_VV = (matrix_UV.T @ matrix_UV).tocoo()
        n_V = matrix_UV.sum(0)
        i, j = both_VV.coords
        cosine = both_VV.data / (np.sqrt(n_V[i] * n_V[j]) + self.shrinkage)
        is_kept = i != j
        if self.neighbours is not None:
            order = np.lexsort((j, -cosine, i))
            first_V = np.searchsorted(i[order], np.arange(len(n_V)))
            place = np.empty(len(order), np.int64)
            place[order] = np.arange(len(order)) - first_V[i[order]]
            is_kept &= place <= self.neighbours  # the item itself is the first
        kept = (cosine[is_kept].astype(np.float32), (i[is_kept], j[is_kept]))
        return ItemToItem(sp.csr_array(kept, shape=both_VV.shape))
