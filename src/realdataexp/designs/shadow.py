"""Shadow weighting: exact weights from scoring each visit with both arms' models.

An arm's slates depend on what its user has been recommended before. As long as the arms have picked
the same items in all of a user's visits, both arms' worlds would have offered the user this slate.
Given the slate, let i_T and i_C be what the arms would pick; the collected item is i_T with
probability p and i_C with 1 - p. To the treatment's model it is worth P(i_T collects it) over P(it
is collected): 1 where the arms agree, else 1[treated] / p. This is the balance heuristic of
multiple importance sampling (Veach & Guibas 1995) for policies that are deterministic given the
slate. From a user's first disagreement on, the slates are those of the user's own arm, and only
1[own arm] / P(arm) is exact. So E[W_T f(X)] = E[f(i_T)] for every f where a user keeps one arm or
comes once: no classifier is needed, and nothing can be misspecified.

Axes: R replications, B visits, U users.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import PrivateAttr
from torch import Tensor

from realdataexp.designs.base import CONTROL, TREATMENT, Context, Design, Outcome, own_arm


class Shadow(Design):
    """Two models; an outcome counts for both while both arms pick all of its user's items alike.

    Where every visit is a new user there is nothing to remember.
    """

    n_models: ClassVar[int] = 2
    # whether the arms have agreed in every visit of a user so far: uint8, as bool has no minimum
    _agreed_RU: Tensor | None = PrivateAttr(None)

    def start(self, context: Context) -> Shadow:
        """With what it remembers of each user who may come back."""
        started = self.model_copy()
        if context.n_users is not None:
            shape = len(context.replication_R), context.n_users
            started._agreed_RU = torch.ones(shape, dtype=torch.uint8, device=context.device.torch)
        return started

    def weights(self, outcome: Outcome) -> Tensor:
        """1 where the arms have always picked the same, else 1[arm = m] / P(arm = m)."""
        pick_RAB, visits = outcome.pick_RAB, outcome.visits
        agree_RB = pick_RAB[:, CONTROL] == pick_RAB[:, TREATMENT]
        if self._agreed_RU is not None:
            agreed_RB = self._agreed_RU.gather(1, visits.user_RB).bool()
            now_RB = (agree_RB | ~visits.is_visit_RB).to(torch.uint8)  # padding forgets nothing
            self._agreed_RU.scatter_reduce_(1, visits.user_RB, now_RB, "amin")
            agree_RB = agree_RB & agreed_RB
        return torch.where(agree_RB.unsqueeze(1), 1.0, own_arm(outcome))

    def state(self) -> dict[str, Tensor]:
        """Of whom the arms have agreed so far."""
        return {} if self._agreed_RU is None else {"agreed": self._agreed_RU}
