"""Inverse propensity scoring."""

import numpy as np

from realdataexp.observe.base import Estimator, Exposures, Terms


class IPS(Estimator):
    """The mean of weight x reward (Horvitz and Thompson 1952; Dudík et al. 2014, section 3.2).

    Unbiased where the propensities are right and above 0 wherever the policy's chance is.
    """

    def terms(self, seen: Exposures) -> Terms:
        """See Estimator."""
        return Terms(seen.weight_N * seen.reward_N, np.ones_like(seen.reward_N))
