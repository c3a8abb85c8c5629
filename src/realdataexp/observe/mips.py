"""Marginalised inverse propensity scoring."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from pydantic import Field

from realdataexp.errors import InputError, did_you_mean
from realdataexp.observe.base import CannotTell, Estimator, Exposures, Terms


class MIPS(Estimator):
    """The mean of the weight of a video's category x reward (Saito and Joachims 2022, equation 6).

    A category's weight is how much more likely the policy shows any of its videos than the log did.
    Unbiased where videos of a category have the same mean reward for a user, and with a category
    for each video it is IPS; the variance is the less the fewer categories there are. It takes the
    chance of all videos of the pool in the log, so a log whose rows have unequal propensities will
    not do.
    """

    feature: str | None = Field(
        None, min_length=1, description="a video's categorical feature; null: all of them together"
    )

    def terms(self, seen: Exposures) -> Terms:
        """See Estimator."""
        if not seen.is_uniform:
            raise CannotTell(
                "propensities differ between rows, and those of videos not shown are not known"
            )
        weight_N = self.category_weights(seen)
        return Terms(weight_N * seen.reward_N, np.ones_like(seen.reward_N))

    def category_weights(self, seen: Exposures) -> np.ndarray:
        """Each row's weight: N."""
        category_K = self._categories(seen)
        by_category = np.argsort(category_K, kind="stable")
        starts = np.flatnonzero(np.diff(category_K[by_category], prepend=-1))
        chance_UE = np.add.reduceat(seen.chance_UK[:, by_category], starts, axis=1)
        share_E = np.bincount(category_K) / len(category_K)
        weight_UE = chance_UE / share_E[share_E > 0]
        place_K = np.unique(category_K, return_inverse=True)[1]
        return weight_UE[seen.user_N, place_K[seen.action_N]]

    def _categories(self, seen: Exposures) -> np.ndarray:
        known = seen.categories
        if not known:
            raise CannotTell("videos have no categorical feature")
        if self.feature is None:
            together = np.stack([*known.values()], axis=1)
            return np.unique(together, axis=0, return_inverse=True)[1].reshape(-1)
        self.check(known)
        return known[self.feature]

    def check(self, features: Collection[str]) -> None:
        """See Estimator."""
        if self.feature is not None and self.feature not in features:
            raise InputError(
                f"mips: feature = {self.feature!r}: no categorical feature of videos"
                f"{did_you_mean(self.feature, features)}; known are {', '.join(features)}"
            )
