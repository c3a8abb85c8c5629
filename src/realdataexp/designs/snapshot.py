"""Snapshot: the model is frozen while the test runs."""

from __future__ import annotations

from torch import Tensor

from realdataexp.designs.base import Design, Outcome, ones


class Snapshot(Design):
    """One model that learns nothing: arms cannot contaminate it, but the loop is gone too."""

    def weights(self, outcome: Outcome) -> Tensor:
        """All zeros."""
        return ones(outcome, self.n_models).zero_()
