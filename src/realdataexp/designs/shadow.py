"""Shadow weighting: exact weights given the slate, from scoring each visit with both arms' models.

For a visit with slate s let i_T and i_C be what the arms would pick. Given s, the collected item is
i_T with probability p and i_C with 1 - p. So a collected item is worth, to the treatment's model,
P(i_T collects it) over P(it is collected): 1 where the arms agree, else 1[treated] / p. This is the
balance heuristic of multiple importance sampling (Veach & Guibas 1995) for policies that are
deterministic given the slate. E[W_T f(X)] = E[f(i_T)] for every f: the treatment's model learns
from the distribution that it would see if launched, no classifier is needed, and nothing can be
misspecified.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from realdataexp.designs.base import CONTROL, TREATMENT, Design, Outcome, own_arm


class Shadow(Design):
    """Two models; an outcome counts for both where both arms would have picked its item."""

    n_models: ClassVar[int] = 2

    def weights(self, outcome: Outcome) -> Tensor:
        """1 where the arms pick the same, else 1[arm = m] / P(arm = m)."""
        pick_RAB = outcome.pick_RAB
        agree_RB = pick_RAB[:, CONTROL] == pick_RAB[:, TREATMENT]
        return torch.where(agree_RB.unsqueeze(1), 1.0, own_arm(outcome))
