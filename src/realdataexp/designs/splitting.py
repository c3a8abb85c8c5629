"""Data splitting: each arm's model learns from its own arm's outcomes."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from realdataexp.designs.base import Design, Outcome, own_arm
from realdataexp.options import Options


class Splitting(Design, Options):
    """Two models; an outcome of arm m counts for model m alone.

    With ``normalize`` it counts 1 / P(arm = m), so that each model takes steps of the size it
    would take if its arm were launched; without, 1: the models then take smaller steps.
    """

    n_models: ClassVar[int] = 2

    normalize: bool = Field(
        True, description="whether a visit of the model's own arm weighs 1/P(arm) instead of 1"
    )

    def weights(self, outcome: Outcome) -> Tensor:
        """1[arm = m] / P(arm = m), or 1[arm = m]."""
        return own_arm(outcome) if self.normalize else outcome.own_RMB.float()
