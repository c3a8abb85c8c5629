"""The doubly robust estimator."""

import numpy as np

from realdataexp.observe.base import Estimator, Exposures, Terms


class DR(Estimator):
    """The model's value, plus the mean of weight x what the model errs by (Dudík et al. 2014, (4)).

    Unbiased where the propensities are right or the model is, if it learned from other rows.
    """

    def terms(self, seen: Exposures) -> Terms:
        """See Estimator."""
        predicted_N, value_N = seen.model()
        correction_N = seen.weight_N * (seen.reward_N - predicted_N)
        return Terms(value_N + correction_N, np.ones_like(value_N))
