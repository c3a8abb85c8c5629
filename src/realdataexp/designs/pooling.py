"""Data pooling: one model learns from both arms' outcomes. What most A/B tests do."""

from __future__ import annotations

from torch import Tensor

from realdataexp.designs.base import Design, Outcome, ones


class Pooling(Design):
    """One model, every outcome counts 1. With p = 1 or 0 it is the launched or the old system."""

    def weights(self, outcome: Outcome) -> Tensor:
        """All ones."""
        return ones(outcome, self.n_models)
