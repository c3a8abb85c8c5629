"""Popularity: everybody gets what most had."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from realdataexp.sequences.counting import CountingRecommender, train_counts
from realdataexp.sequences.histories import Split


class Popularity(CountingRecommender):
    """An item's score is how often it was had."""

    def fit(self, split: Split) -> Popular:
        """See CountingRecommender."""
        return Popular(train_counts(split).astype(np.float32))


@dataclass(frozen=True)
class Popular:
    """Counts of items, float32 V."""

    count_V: np.ndarray

    def scores(self, past_BT: np.ndarray) -> np.ndarray:
        """See Fitted."""
        return np.broadcast_to(self.count_V, (len(past_BT), len(self.count_V)))
