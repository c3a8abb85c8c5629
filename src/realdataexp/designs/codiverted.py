"""User-corpus co-diverted: users and videos are split together (Su et al., arXiv 2305.07764).

Each arm's users see, and each arm's model learns from, only their arm's part of the corpus, so
neither data nor videos cross. The price: an arm is tested on a smaller corpus than it would have
if launched. Compared with other designs by Brennan et al., arXiv 2309.07107.

Axes: R replications, B visits, C candidates, M models (control, treatment).
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import PrivateAttr
from torch import Tensor

from realdataexp import draws
from realdataexp.designs.base import Context, Design, Outcome, own_arm
from realdataexp.worlds.base import Slate, Visits


class Codiverted(Design):
    """Two models; a video belongs to the treatment with probability p, for a whole replication.

    A visit none of whose candidates belong to its arm does not take place.
    """

    n_models: ClassVar[int] = 2

    _seed: int = PrivateAttr()
    _p: float = PrivateAttr()

    def start(self, context: Context) -> Codiverted:
        """With the run's seed and the treatment's share of the corpus."""
        started = self.model_copy()
        started._seed, started._p = context.seed, context.p
        return started

    def candidates(self, visits: Visits, slate: Slate, is_treated_RB: Tensor) -> Tensor:
        """Those of the visit's arm."""
        # drawn for the videos shown: a table would cost the whole corpus in each replication
        replication_R11 = visits.replication_R.view(-1, 1, 1)
        keys_RBC = draws.key(self._seed, "corpus", replication_R11, slate.video_WBC)
        of_treatment_RBC = draws.chance(keys_RBC, 1, self._p).squeeze(-1)
        return slate.is_candidate_WBC & (of_treatment_RBC == is_treated_RB.unsqueeze(-1))

    def weights(self, outcome: Outcome) -> Tensor:
        """1[arm = m] / P(arm = m)."""
        return own_arm(outcome)
