"""Shadow weighting: exact weights from scoring each visit with both arms' models.

An arm's slates depend on what its user has been recommended before. Given a slate, arm a picks item
x with propensity pi_a(x). Over all of a user's visits so far, this one included, let

    Lambda = sum of ln pi_T(x) - ln pi_C(x).

Who keeps one arm is treated with probability p, so that the density of the user's slates and items
in the test is p f_T + (1 - p) f_C, with f_T / f_C = exp(Lambda): what the world answers to an item
does not depend on the arm. To the treatment's model the visit is worth f_T over that density, to
the control's f_C over it:

    W_T = 1 / (p + (1 - p) exp(-Lambda)),    W_C = 1 / (p exp(Lambda) + 1 - p).

This is the balance heuristic of multiple importance sampling (Veach & Guibas 1995; the
deterministic mixture of Elvira et al. 2019). So E[W_T f(X)] = E[f(X) in the treatment's world] for
every f: no classifier is needed, and nothing can be misspecified. Where arms pick the best,
Lambda is 0 as long as they have picked the same, and infinite from a user's first disagreement on:
1, then 1[own arm] / P(arm). Where arms show lists, x is the list: arms agree where their lists are
the same, as nobody knows what the user would have taken from the other.

Axes: R replications, A arms, M models, B visits, U users.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from pydantic import PrivateAttr
from torch import Tensor

from realdataexp.designs.base import CONTROL, TREATMENT, Context, Design, Outcome, Paced, own_arm


class Shadow(Paced, Design):
    """Two models; an outcome counts for each by how likely its arm was to collect it.

    Where every visit is a new user, or slates do not depend on earlier recommendations, there is
    nothing to remember.
    """

    n_models: ClassVar[int] = 2
    # whether the arms have agreed in every visit of a user so far: uint8, as bool has no minimum
    _agreed_RU: Tensor | None = PrivateAttr(None)
    _lambda_RU: Tensor | None = PrivateAttr(None)  # in place of that, where an arm explores

    def start(self, context: Context) -> Shadow:
        """With what it remembers of each user who may come back.

        Raises:
            InputError: an arm's propensities are not known, or users who come back have both arms.
        """
        if context.arms == "unknown":
            raise context.refuse(
                "explore.kind = thompson: its weights need the arms' propensities, which are not "
                "known then; use softmax or epsilon_greedy, or another design"
            )
        explores = context.arms == "explore"
        if explores and context.n_users is not None and context.assignment == "visit":
            raise context.refuse(
                "experiment.assignment = visit: its weights need users who keep one arm where an "
                "arm explores; use assignment: user, or arms that do not explore"
            )
        started = self.begun(context)
        if context.n_users is not None:
            shape, to = (len(context.replication_R), context.n_users), context.device.torch
            if explores:
                started._lambda_RU = torch.zeros(shape, device=to)
            else:
                started._agreed_RU = torch.ones(shape, dtype=torch.uint8, device=to)
        return started

    def weights(self, outcome: Outcome) -> Tensor:
        """W_C and W_T."""
        return self.thinned(self._weights(outcome), outcome.visits)

    def _weights(self, outcome: Outcome) -> Tensor:
        if outcome.log_propensity_RAB is not None:
            return _balanced(self._lambda(outcome, outcome.log_propensity_RAB), outcome.p)
        visits, agree_RB = outcome.visits, outcome.agree_RB
        if self._agreed_RU is not None:
            agreed_RB = self._agreed_RU.gather(1, visits.user_RB).bool()
            now_RB = (agree_RB | ~visits.is_visit_RB).to(torch.uint8)  # padding forgets nothing
            self._agreed_RU.scatter_reduce_(1, visits.user_RB, now_RB, "amin")
            agree_RB = agree_RB & agreed_RB
        return torch.where(agree_RB.unsqueeze(1), 1.0, own_arm(outcome))

    def _lambda(self, outcome: Outcome, log_RAB: Tensor) -> Tensor:
        """Lambda of each visit, R, B, which users then remember."""
        visits = outcome.visits
        is_visit_RB = outcome.is_shown_RB & visits.is_visit_RB
        log_RAB = log_RAB.float()
        now_RB = torch.where(is_visit_RB, log_RAB[:, TREATMENT] - log_RAB[:, CONTROL], 0.0)
        if self._lambda_RU is None:
            return now_RB
        before_RB = self._lambda_RU.gather(1, visits.user_RB)
        self._lambda_RU.scatter_add_(1, visits.user_RB, now_RB)
        return before_RB + now_RB

    def state(self) -> dict[str, Tensor]:
        """What it remembers of each user."""
        named = {"agreed": self._agreed_RU, "lambda": self._lambda_RU}
        return super().state() | {name: x for name, x in named.items() if x is not None}


def _balanced(lambda_RB: Tensor, p: float) -> Tensor:
    """W_C and W_T, R, M, B, by the logistic function, which does not overflow."""
    if not 0.0 < p < 1.0:  # an arm that nobody gets has no outcomes to weigh
        is_alike_RB, own_RB = (lambda_RB == 0).float(), torch.ones_like(lambda_RB)
        return torch.stack([is_alike_RB, own_RB] if p else [own_RB, is_alike_RB], dim=1)
    logit_RB = lambda_RB + math.log(p / (1.0 - p))
    return torch.stack([(-logit_RB).sigmoid() / (1.0 - p), logit_RB.sigmoid() / p], dim=1)
