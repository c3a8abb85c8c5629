"""Holdout: nobody learns from the users of the test.

A share of the users is in the test, where the arms are drawn as ever. All others get the control,
and the one model learns from them alone. So the model is that of the control world (from fewer
visits), whoever is treated and whatever the treatment does: its parameters do not depend on it (but
for how many outcomes of a step are missing, where a label has missing ones: a loss is a mean).

With Y(a, m) the outcome of a visit by arm a, ranked with the models of world m, a test of this kind
estimates E[Y(T, C) - Y(C, C)]: what the treatment does while the models are the control's. A launch
is worth E[Y(T, T) - Y(C, C)]; what is missing, E[Y(T, T) - Y(T, C)], is what the models would learn
from the treatment. Snapshot misses that too, and moreover what they would learn from the control.

Axes: R replications, B visits, M models (one).
"""

from __future__ import annotations

from pydantic import Field, PrivateAttr
from torch import Tensor

from realdataexp import draws
from realdataexp.designs.base import Context, Outcome
from realdataexp.designs.pooling import Pooling
from realdataexp.options import Options, Share
from realdataexp.worlds.base import Visits


class Holdout(Pooling, Options):
    """One model; it learns from the users who are not in the test, all of them control.

    Where every visit is a new user, a share of the visits is in the test. What the model learns
    from counts 1 / (1 - share), so that its training steps keep their size.
    """

    share: Share = Field(0.5, description="share of the users who are in the test")

    _seed: int = PrivateAttr()

    def start(self, context: Context) -> Holdout:
        """With the run's seed."""
        started = self.model_copy()
        started._seed = context.seed
        return started

    def assign(self, visits: Visits, p: float) -> Tensor:
        """As ever in the test; control elsewhere."""
        return super().assign(visits, p) & self._is_tested(visits)

    def counts(self, visits: Visits) -> Tensor:
        """Those of the test."""
        return visits.is_visit_RB & self._is_tested(visits)

    def weights(self, outcome: Outcome) -> Tensor:
        """0 in the test, 1 / (1 - share) elsewhere."""
        is_taught_RB = ~self._is_tested(outcome.visits)
        return (is_taught_RB / (1.0 - self.share)).float().unsqueeze(1)

    def _is_tested(self, visits: Visits) -> Tensor:
        """Whether each visit's user is in the test, in every step alike: bool R, B."""
        replication_R1 = visits.replication_R.unsqueeze(1)
        keys_RB = draws.key(self._seed, "user of the test", replication_R1, visits.user_RB)
        return draws.chance(keys_RB, 1, self.share).squeeze(-1)
