"""Data-diverted: each arm's model trains on its own arm's data, as if there were no others.

Brennan et al., arXiv 2309.07107. Its models learn from the same outcomes as those of splitting, but
not by as much: splitting weighs an outcome 1 / P(arm), so that a step of few own visits is a
smaller one than a step of many, right on average; here the loss is the mean over the own visits of
the step, so that a model takes a step of full size from however few visits it has. Where the arm of
a step is far from its share (few visits, p near 0 or 1), these differ.

Axes: R replications, M models (control, treatment), B visits.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from realdataexp.designs.base import Design, Outcome


class DataDiverted(Design):
    """Two models; each learns from the mean over its own arm's visits."""

    n_models: ClassVar[int] = 2

    def weights(self, outcome: Outcome) -> Tensor:
        """1[arm = m] x visits of the step / own visits of the step; 0 where it has none."""
        is_shown_R1B = outcome.is_shown_RB.unsqueeze(1)
        own_RMB = outcome.own_RMB & is_shown_R1B
        n_visits_R11 = is_shown_R1B.sum(2, keepdim=True)
        n_own_RM1 = own_RMB.sum(2, keepdim=True)
        return own_RMB * (n_visits_R11 / n_own_RM1.clamp_min(1))
