"""What a design is: who gets which arm, and how much each model learns from each outcome.

Axes: R replications, B visits, A arms (0 = control, 1 = treatment), C candidates, M models.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from realdataexp.worlds.base import Slate, Visits

CONTROL, TREATMENT = 0, 1


@dataclass(frozen=True)
class Outcome:
    """What happened in a step in one design's worlds.

    Attributes:
        visits: who visited; ``visits.is_visit_RB`` is False for padding.
        slate: what was offered, after ``Design.candidates``.
        is_treated_RB: the arm of each visit.
        p: the treatment probability.
        score_RABC: each arm's fused score of each candidate, -inf for padding.
        pick_RAB: the candidate that each arm would choose; the visit's own arm did.
        y_RBL: the chosen candidate's labels, NaN where missing.
    """

    visits: Visits
    slate: Slate
    is_treated_RB: Tensor
    p: float
    score_RABC: Tensor
    pick_RAB: Tensor
    y_RBL: Tensor


class Design(BaseModel):
    """A way to run the A/B test. Its fields are the options that a config may give it.

    A design with two models has one for each arm (0 = control, 1 = treatment); with one, both
    arms rank with the same model's predictions and differ in how they fuse them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    n_models: ClassVar[int] = 1

    def assign(self, visits: Visits, p: float) -> Tensor:
        """Whether each visit is treated: bool R, B. By default each is, with probability p.

        The default draw is common to all designs of a replication, and it is per user or per
        visit as ``experiment.assignment`` says.
        """
        return visits.arm_draw_RB < p

    def candidates(self, visits: Visits, slate: Slate, is_treated_RB: Tensor) -> Tensor:
        """Which candidates the visit's arm may show: bool R, B, C. By default all there are.

        A visit left without any candidate does not take place; it still costs its user a row,
        so that all designs have the same number of rows left.
        """
        return slate.is_candidate_WBC

    def weights(self, outcome: Outcome) -> Tensor:
        """How much each model learns from each outcome: float32 R, M, B, 0 or more.

        Weights that average to 1 over visits keep the size of a model's training step.
        """
        raise NotImplementedError(f"{type(self).__name__} does not say what its models learn")


def ones(outcome: Outcome, n_models: int) -> Tensor:
    """Every model learns fully from every outcome: R, M, B."""
    is_treated_RB = outcome.is_treated_RB
    return torch.ones(
        is_treated_RB.shape[0], n_models, is_treated_RB.shape[1], device=is_treated_RB.device
    )
