"""Data splitting: each arm's model learns from its own arm's outcomes."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from realdataexp.designs.base import Design, Outcome


class Splitting(Design):
    """Two models; an outcome of arm m counts for model m alone.

    With ``normalize`` it counts 1 / P(arm = m), so that each model takes steps of the size it
    would take if its arm were launched; without, 1: the models then take smaller steps.
    """

    n_models: ClassVar[int] = 2

    normalize: bool = Field(True, description="weigh an outcome 1 / P(its arm), instead of 1")

    def weights(self, outcome: Outcome) -> Tensor:
        """1[arm = m] / P(arm = m), or 1[arm = m]."""
        own_RMB = torch.stack([~outcome.is_treated_RB, outcome.is_treated_RB], dim=1).float()
        if not self.normalize:
            return own_RMB
        share_M1 = own_RMB.new_tensor([[1.0 - outcome.p], [outcome.p]])
        # an arm that nobody gets has no outcomes to weigh
        return torch.where(share_M1 > 0, own_RMB / share_M1, 0.0)
