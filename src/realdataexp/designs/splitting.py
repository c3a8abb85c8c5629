"""Data splitting: each arm's model learns from its own arm's outcomes."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from realdataexp.designs.base import Context, Design, Outcome, Paced, own_arm


class Splitting(Paced, Design):
    """Two models; an outcome of arm m counts for model m alone.

    With ``normalize`` it counts 1 / P(arm = m), so that each model takes steps of the size it
    would take if its arm were launched; without, 1: the models then take smaller steps.
    """

    n_models: ClassVar[int] = 2

    normalize: bool = Field(
        True, description="whether a visit of the model's own arm weighs 1/P(arm) instead of 1"
    )

    def start(self, context: Context) -> Splitting:
        """With what ``Paced`` remembers.

        Raises:
            InputError: it is to have a launched system's steps with weights of another mean.
        """
        if self.steps == "launched" and not self.normalize:
            raise context.refuse(
                "steps = launched with normalize = false: a launched system's weights have the "
                "mean 1; use normalize: true, or steps: weighted"
            )
        return self.begun(context)

    def weights(self, outcome: Outcome) -> Tensor:
        """1[arm = m] / P(arm = m), or 1[arm = m]."""
        weight_RMB = own_arm(outcome) if self.normalize else outcome.own_RMB.float()
        return self.thinned(weight_RMB, outcome.visits)
