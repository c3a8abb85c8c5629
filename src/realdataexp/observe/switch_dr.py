"""The doubly robust estimator that leaves large weights to its model."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from realdataexp.observe.base import Estimator, Exposures, Terms, estimated

_QUANTILES = np.linspace(0.0, 1.0, 21)


class SwitchDR(Estimator):
    """Doubly robust where a weight is at most the threshold, else the model alone.

    Wang, Agarwal and Dudík 2017 (ICML), section 3. With a threshold of 0 it is the model's value
    (where no weight is 0), without a limit it is DR. A threshold of its own is the one, of the
    weights' quantiles, with the least variance plus squared bound of the bias (section 4): the
    bound is the largest prediction times the policy's chance of a weight above, both as logged.
    """

    threshold: float | None = Field(
        None, ge=0, description="largest weight that is not left to the model; null: chosen"
    )

    def terms(self, seen: Exposures) -> Terms:
        """See Estimator."""
        return _terms(seen, self.chosen(seen))

    def chosen(self, seen: Exposures) -> float:
        """The threshold: as asked, or the best of the weights' quantiles."""
        if self.threshold is not None:
            return self.threshold
        predicted_N, _ = seen.model()
        most = float(np.abs(predicted_N).max(initial=0.0))
        grid = np.unique(np.quantile(seen.weight_N, _QUANTILES))
        return float(min(grid, key=lambda tau: _risk(seen, float(tau), most)))


def _terms(seen: Exposures, threshold: float) -> Terms:
    predicted_N, value_N = seen.model()
    kept_N = np.where(seen.weight_N <= threshold, seen.weight_N, 0.0)
    return Terms(value_N + kept_N * (seen.reward_N - predicted_N), np.ones_like(value_N))


def _risk(seen: Exposures, threshold: float, most: float) -> float:
    """The variance by users, and the squared bound of the bias."""
    left_N = np.where(seen.weight_N > threshold, seen.weight_N, 0.0)
    bound = most * float((seen.share_N * left_N).sum())
    return estimated(seen, _terms(seen, threshold)).se ** 2 + bound**2
