"""Weighted training with the true E[Z|X], in worlds where it can be computed.

Where a slate's candidates are independent draws from one distribution, the density of arm m's pick
is f_m(x) = f(x) N F_m(s_m(x))^(N-1), with F_m the distribution function of the arm's score of one
random candidate. So E[Z|x] = sigmoid(logit p + (N-1) (ln F_T(s_T(x)) - ln F_C(s_C(x)))), and F_m is
estimated by ranking s_m(x) among all candidates of the step. It separates the error of the idea of
weighting from the error of a learned G.

Axes: R replications, A arms, B visits, C candidates.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from realdataexp.designs.base import CONTROL, TREATMENT, Context, Design, Outcome


class Oracle(Design):
    """Two models, outcomes weighted by the true share of treated data at their item."""

    n_models: ClassVar[int] = 2

    def start(self, context: Context) -> Oracle:
        """Itself.

        Raises:
            InputError: E[Z|X] cannot be computed in this world or with these arms, or one of the
                arms is missing.
        """
        if context.arms != "pick the best":
            raise context.refuse(
                "E[Z|X] can be computed only where both arms pick the best of a slate; leave "
                "explore and rule: random out, or use weighting"
            )
        if not context.has_exchangeable_candidates:
            raise context.refuse(
                "E[Z|X] can be computed only where all candidates are alike, as in si2023; "
                "use weighting or shadow"
            )
        context.refuse_one_arm()
        return self

    def weights(self, outcome: Outcome) -> Tensor:
        """E[Z|x] / p and (1 - E[Z|x]) / (1 - p)."""
        p, score_RABC = outcome.p, outcome.score_RABC
        R, A, B, C = score_RABC.shape
        at_RAB1 = outcome.choice_RB.unsqueeze(1).expand(R, A, B).unsqueeze(-1)
        own_RAB = score_RABC.gather(3, at_RAB1).squeeze(-1)
        sorted_RAX = score_RABC.flatten(2).sort(-1).values
        # mid-rank: half of the ties count as below, the item itself among them
        below_RAB = torch.searchsorted(sorted_RAX, own_RAB.contiguous())
        to_RAB = torch.searchsorted(sorted_RAX, own_RAB.contiguous(), right=True)
        log_F_RAB = ((below_RAB + to_RAB) / (2.0 * B * C)).log()
        logit_RB = math.log(p / (1.0 - p)) + (C - 1) * (
            log_F_RAB[:, TREATMENT] - log_F_RAB[:, CONTROL]
        )
        share_RB = logit_RB.sigmoid()
        return torch.stack([(1.0 - share_RB) / (1.0 - p), share_RB / p], dim=1)
