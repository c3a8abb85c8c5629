"""EASE: a linear model of all items on all others, in closed form (Steck, arXiv 1905.03375).

Axes: U users, V items.
"""

from __future__ import annotations

import numpy as np
import torch
from pydantic import Field

from realdataexp.device import own_arithmetic
from realdataexp.errors import InputError
from realdataexp.options import Rate
from realdataexp.sequences.counting import CountingRecommender, ItemToItem, train_matrix
from realdataexp.sequences.histories import Split

_MOST_ITEMS = 20_000  # the matrix of their weights has 1.6 GB, and its factor as much


class EASE(CountingRecommender):
    """A score is the sum of the weights from a history's items, fitted by ridge regression."""

    regularisation: Rate = Field(500.0, description="added to an item's count of users, λ")

    def fit(self, split: Split) -> ItemToItem:
        """See CountingRecommender.

        With P the inverse of X'X + λ, the weight from i to j is -P_ij / P_jj, and 0 from an item to
        itself (the paper's equation 8).

        Raises:
            InputError: there are too many items for a matrix of all pairs.
        """
        V = split.histories.n_items
        if V > _MOST_ITEMS:
            raise InputError(
                f"EASE: {V:,} items, must be at most {_MOST_ITEMS:,}, for it has a weight for each "
                "pair; use ItemKNN"
            )
        matrix_UV = train_matrix(split)
        gram_VV = (matrix_UV.T @ matrix_UV).toarray()
        gram_VV[np.diag_indices(V)] += self.regularisation
        with own_arithmetic():
            inverse_VV = torch.from_numpy(gram_VV)
            torch.linalg.cholesky(inverse_VV, out=inverse_VV)
            torch.cholesky_inverse(inverse_VV, out=inverse_VV)
            weight_VV = inverse_VV.div_(-inverse_VV.diagonal().clone()).fill_diagonal_(0.0)
        return ItemToItem(weight_VV.numpy())
