"""Self-normalised inverse propensity scoring."""

from realdataexp.observe.base import Estimator, Exposures, Terms


class SNIPS(Estimator):
    """The weighted mean of rewards (Swaminathan and Joachims 2015, section 4).

    Within the rewards' range, and unmoved by a constant that is added to all; biased by the order
    of 1 / effective rows.
    """

    def terms(self, seen: Exposures) -> Terms:
        """See Estimator."""
        return Terms(seen.weight_N * seen.reward_N, seen.weight_N)
