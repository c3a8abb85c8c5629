"""What a design is: who gets which arm, and how much each model learns from each outcome.

Axes: R replications, B visits, A arms (0 = control, 1 = treatment), C candidates, K places of a
list that is shown, M models.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from realdataexp.device import Device
from realdataexp.errors import InputError
from realdataexp.models import FeatureSchema
from realdataexp.models.base import restore
from realdataexp.worlds.base import Slate, Visits

CONTROL, TREATMENT = 0, 1


@dataclass(frozen=True)
class Context:
    """What a design may know when its worlds start.

    Attributes:
        label: the design's name in the results.
        seed: the run's seed, for draws.
        p: the treatment probability.
        replication_R: the replications' numbers.
        n_steps: length of the test.
        device: where tensors live.
        schema: the features that models see.
        tastes: makes a table U, D of what each user watched before the test (float64), as a start
            has it, for designs that group users; None where every visit is a new user.
        n_starts: how many starts there are; see worlds.base.start_of.
        has_exchangeable_candidates: whether the candidates of a step are independent draws from
            one distribution.
        n_users: how many users there are; None where every visit is a new one, or slates do not
            depend on what was recommended before.
        arms: whether arms "pick the best" of a slate, "explore" it with known propensities, or
            explore with "unknown" ones.
        assignment: "user" or "visit": what keeps an arm.
    """

    label: str
    seed: int
    p: float
    replication_R: Tensor
    n_steps: int
    device: Device
    schema: FeatureSchema
    tastes: Callable[[int], np.ndarray | None] = lambda start: None
    n_starts: int = 1
    has_exchangeable_candidates: bool = False
    n_users: int | None = None
    arms: Literal["pick the best", "explore", "unknown"] = "pick the best"
    assignment: str = "user"

    def refuse(self, why: str) -> InputError:
        """An error that says why the design cannot run here, to be raised."""
        return InputError(f"design {self.label}: {why}")

    def refuse_one_arm(self) -> None:
        """For designs whose weights divide by the share of each arm.

        Raises:
            InputError: nobody gets one of the arms.
        """
        if not 0.0 < self.p < 1.0:
            raise self.refuse(
                f"experiment.p_treatment = {self.p}: its weights divide by the share of each arm; "
                "use a share between 0 and 1"
            )


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
        y_RBL: the chosen candidate's outcomes, NaN where missing.
        log_propensity_RAB: the logarithm of the probability with which each arm picks the chosen
            candidate from this slate; None where no arm explores: then both pick as in
            ``pick_RAB``.
        shown_RABK: the list that each arm would show, the best first, of which ``pick_RAB`` is the
            head; None where arms show one candidate.
        taken_RB: what the outcomes are of then: what the user took, or the head where that is
            nothing of the list.
    """

    visits: Visits
    slate: Slate
    is_treated_RB: Tensor
    p: float
    score_RABC: Tensor
    pick_RAB: Tensor
    y_RBL: Tensor
    log_propensity_RAB: Tensor | None = None
    shown_RABK: Tensor | None = None
    taken_RB: Tensor | None = None

    @property
    def agree_RB(self) -> Tensor:
        """Whether both arms would show the same.

        The same list in the same order, where they show one: what the user would have taken from
        another list than the one shown, no platform knows.
        """
        if self.shown_RABK is None:
            return self.pick_RAB[:, CONTROL] == self.pick_RAB[:, TREATMENT]
        return (self.shown_RABK[:, CONTROL] == self.shown_RABK[:, TREATMENT]).all(-1)

    @property
    def choice_RB(self) -> Tensor:
        """The candidate that each visit's own arm picked, or that was taken from its list."""
        if self.taken_RB is not None:
            return self.taken_RB
        control_RB, treatment_RB = self.pick_RAB.unbind(1)
        return torch.where(self.is_treated_RB, treatment_RB, control_RB)

    @property
    def is_shown_RB(self) -> Tensor:
        """Which visits take place: there is a candidate."""
        return self.slate.is_candidate_WBC.any(-1)

    @property
    def own_RMB(self) -> Tensor:
        """Whether each visit's arm is that of the model: bool, M = (control, treatment)."""
        return torch.stack([~self.is_treated_RB, self.is_treated_RB], dim=1)


class Design(BaseModel):
    """A way to run the A/B test. Its fields are the options that a config may give it.

    A design with two models has one for each arm (0 = control, 1 = treatment); with one, both
    arms rank with the same model's predictions and differ in how they fuse them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    n_models: ClassVar[int] = 1

    @property
    def outside_option(self) -> str:
        """An option that names a component from outside the package; empty: none does."""
        return ""

    def start(self, context: Context) -> Design:
        """The design as it runs: itself, or with what it remembers a copy of itself.

        What a copy (``self.model_copy()``) remembers are private attributes. It has ``state`` and
        ``load_state`` for what changes while it runs, unless that follows from the context.

        Raises:
            InputError: the design cannot run under these circumstances (``context.refuse``).
        """
        return self

    def state(self) -> dict[str, Tensor]:
        """Everything that changes while running, by name; nothing without memory."""
        return {}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Resume from a state of the same design in a context like this, in place of its own.

        Raises:
            ValueError: a tensor's name, shape or type is not that of this design's state.
        """
        restore(self.state(), tensors)

    def evidence(self) -> dict[str, Tensor]:
        """What ``diagnostics`` needs of the steps since the last call; forgets it.

        Returns:
            By name, R, ... on the host: each replication's own, so that those of replications
            that ran elsewhere can be appended. By default there is none.
        """
        return {}

    def diagnostics(self, evidence: Mapping[str, Tensor], p: float) -> dict[str, float]:
        """Metrics of the weights from the evidence of all replications; p as in a Block."""
        return {}

    def assign(self, visits: Visits, p: float) -> Tensor:
        """Whether each visit is treated: bool R, B. By default each is, with probability p.

        The default draw is common to all designs of a replication, and it is per user or per
        visit as ``experiment.assignment`` says.
        """
        return visits.arm_draw_RB < p

    def treated_share(self, step: int, n_steps: int, p: float) -> float:
        """How likely a visit of this step that counts is treated, of ``n_steps``: by default p.

        Methods that compare steps of different shares read it, as ``p`` in outcomes.parquet.
        """
        return p

    def candidates(self, visits: Visits, slate: Slate, is_treated_RB: Tensor) -> Tensor:
        """Which candidates the visit's arm may show: bool R, B, C. By default all there are.

        A visit left without any candidate does not take place; it still costs its user a row,
        so that all designs have the same number of rows left.
        """
        return slate.is_candidate_WBC

    def counts(self, visits: Visits) -> Tensor:
        """Which visits' outcomes enter the estimate: bool R, B. By default all."""
        return visits.is_visit_RB

    def unit(self, visits: Visits) -> Tensor | None:
        """Which visits were randomised as one: int64 R, B, from 0; None: those of a user.

        Intervals that take units, not visits, as independent read it.
        """
        return None

    def weights(self, outcome: Outcome) -> Tensor:
        """How much each model learns from each outcome: float32 R, M, B, 0 or more.

        Weights that average to 1 over visits keep the size of a model's training step.
        """
        raise NotImplementedError(f"{type(self).__name__} does not say what its models learn")


def ones(outcome: Outcome, n_models: int) -> Tensor:
    """Every model learns fully from every outcome: R, M, B."""
    R, B = outcome.is_treated_RB.shape
    return torch.ones(R, n_models, B, device=outcome.is_treated_RB.device)


def own_arm(outcome: Outcome) -> Tensor:
    """1[arm = m] / P(arm = m): R, M, B; nothing for an arm that nobody gets."""
    shares = 1.0 - outcome.p, outcome.p
    weight_MRB = [
        own_RB / share if share > 0 else own_RB.float().zero_()
        for own_RB, share in zip(outcome.own_RMB.unbind(1), shares, strict=True)
    ]
    return torch.stack(weight_MRB, dim=1)
