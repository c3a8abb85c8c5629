"""Data sharing: a dial from splitting to two models that learn from everything.

What a model learns of the other arm biases it; what it does not learn costs it data. The dial ``s``
trades one for the other, as a partial pooling of two estimates does (James & Stein 1961).

Axes: R replications, M models (control, treatment), B visits.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from realdataexp.designs.base import Design, Outcome, ones, own_arm
from realdataexp.options import Options


class Sharing(Design, Options):
    """Two models; an outcome of arm a counts s + (1 - s) 1[a = m] / P(a = m) for model m.

    With s = 0 it is splitting. With s = 1 both models learn from everything, as the one model of
    pooling does. In between a model learns from the other arm's outcomes with the weight s. Weights
    average to 1 over arms whatever s is, so a model's training steps keep their size.
    """

    n_models: ClassVar[int] = 2

    s: Annotated[float, Field(ge=0, le=1)] = Field(
        0.5, description="what is shared: 0 is splitting, 1 everything, as in pooling"
    )

    def weights(self, outcome: Outcome) -> Tensor:
        """The sum s + (1 - s) 1[arm = m] / P(arm = m), which is exact at both ends of s."""
        return torch.lerp(own_arm(outcome), ones(outcome, self.n_models), self.s)
