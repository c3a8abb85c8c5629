"""What a design is: who gets which arm, and how much each model learns from each outcome.

Axes: R replications, B visits, A arms (0 = control, 1 = treatment), C candidates, K places of a
list that is shown, M models.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr
from torch import Tensor

from realdataexp import draws
from realdataexp.device import Device
from realdataexp.errors import InputError
from realdataexp.models import FeatureSchema
from realdataexp.models.base import restore
from realdataexp.options import Options
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
        n_shown: K, candidates that an arm shows: one, or the list of its best.
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
    n_shown: int = 1

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

    @property
    def is_credited(self) -> bool:
        """Whether a visit's arm is known only by what was taken."""
        return type(self).shown is not Design.shown

    @property
    def has_own_candidates(self) -> bool:
        """Whether what a visit may be shown can depend on its arm."""
        return type(self).candidates is not Design.candidates

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

    def shown(
        self, visits: Visits, list_RABK: Tensor, is_treated_RB: Tensor
    ) -> tuple[Tensor, Tensor] | None:
        """What each visit is shown where arms show lists: by default, None, its arm's own.

        Returns:
            int64 R, B, K: the candidates shown, the best first; bool R, B, K: whose place each is,
            True the treatment's. The visit then counts for the arm whose place was taken.
        """
        return None

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

    def inflation(self, outcome: Outcome, weight_RMB: Tensor) -> Tensor | None:
        """By how much the weights raise the mean square of a gradient: float32 R, M, above 0.

        Adam divides a step's squares by it: see ``Paced``. By default there is none: None.
        """
        return None


class Paced(Options):
    """Options of designs whose models may learn at a launched system's pace, or from fewer visits.

    Where a gradient is mostly noise, weights W with the mean 1 raise its mean square by E[W^2], so
    that the steps of Adam (Kingma & Ba, arXiv 1412.6980, Algorithm 1), which are divided by the
    root of that, are too short by the root of E[W^2]: such models learn more slowly than a launched
    system. sgd's do not. What is left is that they learn from fewer visits; a test that is thinned
    further shows how much that matters (docs/weights.md).
    """

    steps: Literal["weighted", "launched"] = Field(
        "weighted",
        description="launched: Adam's steps are as long as a launched system's, as it divides "
        "squared gradients by the mean squared weight; weighted: they are shorter",
    )
    keep: float = Field(
        1.0,
        gt=0,
        le=1,
        description="share of the visits that models learn from, drawn at random; weights are "
        "divided by it",
    )

    _seed: int = PrivateAttr(0)
    # of a launched system's steps: the sums of the inflations, and how many: R, M + 1
    _squares_RX: Tensor | None = PrivateAttr(None)

    def begun(self, context: Context) -> Self:
        """A copy that draws by the run's seed, and remembers how large weights were."""
        started = self.model_copy()
        started._seed = context.seed
        if self.steps == "launched":
            R = len(context.replication_R)
            started._squares_RX = torch.zeros(R, 3, device=context.device.torch)
        return started

    def thinned(self, weight_RMB: Tensor, visits: Visits) -> Tensor:
        """The weights, of the visits that are kept over their share, of the others 0: R, M, B."""
        if self.keep == 1:
            return weight_RMB
        key_R = draws.key(self._seed, "thin", visits.replication_R, visits.step)
        is_kept_RB = draws.chance(key_R, weight_RMB.shape[2], self.keep).view(len(key_R), -1)
        return weight_RMB * (is_kept_RB / self.keep).to(weight_RMB.dtype).unsqueeze(1)

    def inflation(self, outcome: Outcome, weight_RMB: Tensor) -> Tensor | None:
        """The step's mean squared weight."""
        if self.steps == "weighted":
            return None
        on_R1B = (outcome.is_shown_RB & outcome.visits.is_visit_RB).unsqueeze(1)
        square_RM = (weight_RMB.square() * on_R1B).sum(2)
        # where no visit counts, nothing is learned
        found_RM = torch.where(square_RM > 0, square_RM / on_R1B.sum(2).clamp_min(1), 1.0)
        if self._squares_RX is not None:
            self._squares_RX += torch.cat([found_RM, torch.ones_like(found_RM[:, :1])], dim=1)
        return found_RM

    def state(self) -> dict[str, Tensor]:
        """How large the weights were."""
        return {} if self._squares_RX is None else {"squares": self._squares_RX}

    def evidence(self) -> dict[str, Tensor]:
        """How large the weights were since the start of the test."""
        return {name: x.cpu().clone() for name, x in Paced.state(self).items()}

    def diagnostics(self, evidence: Mapping[str, Tensor], p: float) -> dict[str, float]:
        """The share of its visits that a model learns from in effect: 1 / E[W^2]."""
        if not evidence:
            return {}
        *square_M, n = evidence["squares"].double().sum(0).tolist()
        shares = zip("CT", square_M, strict=True)
        return {f"effective_share_{m}": n / square for m, square in shares if n}


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
