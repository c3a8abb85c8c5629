"""Interleave: a visit is shown a list that both arms draft; what is taken speaks for its arm.

Team-draft interleaving (Radlinski, Kurup & Joachims, CIKM 2008, section 4): in each round a fair
coin says which arm chooses first, and each adds the best of its items that the list does not have
yet. The visit counts for the arm that drafted what was taken; where nothing was, for the arm that
drafted the head of the list, which the coin of the first round decided.

With t and c the shares of visits whose user takes an item that the treatment, or the control,
drafted, and n = 1 - t - c of the others, a hit is estimated as t / (t + n / 2) - c / (c + n / 2),
about 2 (t - c) where hits are rare. It says which ranking users prefer in one list, with less noise
than two groups of users (Chapelle, Joachims, Radlinski & Yue, TOIS 2012). It is no estimate of what
a launch is worth: the arms compete within the list, and one model learns from what both showed.

Axes: R replications, B visits, A arms, K places of the list.
"""

from __future__ import annotations

import torch
from pydantic import PrivateAttr
from torch import Tensor

from realdataexp import draws
from realdataexp.designs.base import CONTROL, TREATMENT, Context
from realdataexp.designs.pooling import Pooling
from realdataexp.worlds.base import Visits


class Interleave(Pooling):
    """One model; a list has half of its places from each arm."""

    _seed: int = PrivateAttr()

    def start(self, context: Context) -> Interleave:
        """With the run's seed.

        Raises:
            InputError: arms show one item, or the treatment's share is not one half.
        """
        if context.n_shown == 1:
            raise context.refuse(
                "its arms draft a list, and a visit is shown one item here: use a world of lists "
                "(dataset.name: sequences with dataset.n_shown of 2 or more)"
            )
        if context.p != 0.5:
            raise context.refuse(
                f"experiment.p_treatment = {context.p:g}: each arm drafts half of a list; use 0.5"
            )
        started = self.model_copy()
        started._seed = context.seed
        return started

    def shown(
        self, visits: Visits, list_RABK: Tensor, is_treated_RB: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The drafted lists, and which of their places are the treatment's: R, B, K each."""
        key_R = draws.key(self._seed, "draft", visits.replication_R, visits.step)
        R, _, B, K = list_RABK.shape
        n_rounds = (K + 1) // 2
        is_first_RBN = draws.chance(key_R, B * n_rounds, 0.5).view(R, B, n_rounds)
        drafted, owners = list[Tensor](), list[Tensor]()
        for k in range(K):
            owner_RB = is_first_RBN[..., k // 2] ^ bool(k % 2)
            arm_RB1 = owner_RB.long().unsqueeze(-1)
            own_RBK = torch.where(
                arm_RB1 == TREATMENT, list_RABK[:, TREATMENT], list_RABK[:, CONTROL]
            )
            is_in_RBK = torch.zeros_like(own_RBK, dtype=torch.bool)
            for item_RB in drafted:
                is_in_RBK |= own_RBK == item_RB.unsqueeze(-1)
            best_RB1 = (~is_in_RBK).long().argmax(-1, keepdim=True)
            drafted.append(own_RBK.gather(-1, best_RB1).squeeze(-1))
            owners.append(owner_RB)
        return torch.stack(drafted, -1), torch.stack(owners, -1)
