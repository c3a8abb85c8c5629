"""A step with made-up visits before a run, for components from outside: what they return shows.

Axes: S stacked networks (two), R replications, B visits, C candidates, M models, L labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from realdataexp import draws
from realdataexp.contracts import check_values, described
from realdataexp.designs import OutsideDesign
from realdataexp.designs.base import Context, Outcome
from realdataexp.learner import Head, Learner
from realdataexp.loop import Block
from realdataexp.models import OutsideModel, StackedModel
from realdataexp.optimizers import OptimizerSettings
from realdataexp.registry import Unfit, calling
from realdataexp.worlds.base import Environment, Slate, Visits, WorldSettings
from realdataexp.worlds.outside import OutsideEnvironment

_REPLICATIONS, _VISITS = 2, 8


@dataclass(frozen=True)
class Rehearsal:
    """Some visits of the first replications, as the first step of a run would have them.

    Attributes:
        environment: whose.
        targets: of the outcomes; those of the labels with a model first.
        context: of the run's designs.
        n_candidates: C.
        min_candidates, assignment: see WorldSettings.
    """

    environment: Environment
    targets: tuple[str, ...]
    context: Context
    n_candidates: int
    min_candidates: int
    assignment: str

    @property
    def _settings(self) -> WorldSettings:
        replications = tuple(self.context.replication_R[:_REPLICATIONS].tolist())
        return WorldSettings(
            self.context.seed, replications, 1, _VISITS, self.n_candidates, 1,
            self.min_candidates, self.assignment,
        )  # fmt: skip

    @cached_property
    def _step(self) -> tuple[Visits, Slate, Tensor, Tensor]:
        """Visits, slates, each arm's scores and picks, and outcomes."""
        world = self.environment.world(self.targets, self._settings)
        visits = world.draw(0)
        slate = world.slate(visits)
        R, B, C = slate.is_candidate_WBC.shape
        key_RA = draws.key(self.context.seed, "rehearsal", torch.arange(2 * R).view(R, 2))
        score_RABC = draws.uniform(key_RA, B * C).view(R, 2, B, C).float()
        score_RABC = score_RABC.to(slate.is_candidate_WBC.device)
        score_RABC = score_RABC.masked_fill(~slate.is_candidate_WBC.unsqueeze(1), -torch.inf)
        y_RBL = world.feedback(visits, slate, score_RABC[:, 0].argmax(-1))
        return visits, slate, score_RABC, y_RBL

    def world(self) -> None:
        """Ask a world from outside what a run would.

        Raises:
            ComponentError: it failed, or returned what it must not.
        """
        if isinstance(self.environment, OutsideEnvironment):
            self.environment.rehearse(self.targets, self._settings)

    # --- designs -----------------------------------------------------------------------------

    def design(self, block: Block) -> None:
        """Ask a design from outside everything that a run would.

        Raises:
            ComponentError, InputError: it failed, or returned what it must not.
        """
        design, p = block.design, block.p
        if not isinstance(design, OutsideDesign):
            return
        visits, slate, score_RABC, y_RBL = self._step
        context = replace(
            self.context, label=block.label, p=p, replication_R=visits.replication_R.cpu()
        )
        running, again = design.start(context), design.start(context)
        is_treated_RB = running.assign(visits, p)
        with calling(design.who, "assign()"):
            if not torch.equal(is_treated_RB, again.assign(visits, p)):
                raise Unfit(
                    "gave the same visits other arms the second time: draw with "
                    "realdataexp.draws, whose numbers are a function of a key"
                )
        allowed_RBC = running.candidates(visits, slate, is_treated_RB)
        slate = replace(slate, is_candidate_WBC=allowed_RBC & slate.is_candidate_WBC)
        pick_RAB = score_RABC.argmax(-1)
        weight_RMB = running.weights(
            Outcome(visits, slate, is_treated_RB, p, score_RABC, pick_RAB, y_RBL)
        )
        is_visit_R1B = slate.is_candidate_WBC.any(-1).unsqueeze(1)
        with calling(design.who, "weights()"):
            of_visits = weight_RMB.masked_fill(~is_visit_R1B, 0.0)
            check_values(of_visits, "replications, models, visits", is_weight=True)
        running.counts(visits)
        unit_RB = running.unit(visits)
        with calling(design.who, "unit()"):
            if unit_RB is not None and bool((unit_RB < 0).any()):
                raise Unfit(f"returned {described(unit_RB)}, some of them negative; count from 0")
        self._state(design.who, running, again)
        design.diagnostics(running.evidence(), p)

    def _state(self, who: str, running: OutsideDesign, again: OutsideDesign) -> None:
        """A run that is resumed loads the state of the one before into a design just started."""
        state = {name: tensor.clone() for name, tensor in running.state().items()}
        with calling(who, "load_state()"):
            again.load_state(state)
            for name, tensor in again.state().items():
                is_same = name in state and torch.equal(tensor.cpu(), state[name].cpu())
                if not is_same:
                    raise Unfit(f"left {name} of its state() as it was: a resumed run would differ")

    # --- networks ----------------------------------------------------------------------------

    def network(
        self,
        model: StackedModel,
        shared: Mapping[str, Tensor],
        heads: Sequence[Head],
        losses: Sequence[str | None],
        labels: Sequence[int],
        optimizer: OptimizerSettings,
    ) -> None:
        """Score with a network for each replication, and train them on a step's outcomes.

        Args:
            model: the architecture.
            shared: its frozen parameters.
            heads: its labels'.
            losses: the config path and name of each head's loss; None for one of the package.
            labels: the heads' places among the outcomes.
            optimizer: of the loop.

        Raises:
            ComponentError: the model or a loss failed, or returned what it must not.
        """
        blamed = [model.who] if isinstance(model, OutsideModel) else [x for x in losses if x]
        if not blamed:
            return
        visits, slate, score_RABC, y_RBL = self._step
        R, device = len(visits.replication_R), self.context.device
        start = model.init(draws.key(self.context.seed, "rehearsal"))
        learner = Learner.start(model, tuple(heads), device, start, R, shared)
        y_RBK, is_shown_RBC = y_RBL[..., list(labels)], slate.is_candidate_WBC
        raw_RBCO = self._score(learner, slate)
        parts = raw_RBCO.split([head.n_outputs for head in heads], dim=-1)
        for k, (head, who, part) in enumerate(zip(heads, losses, parts, strict=True)):
            y_N = y_RBK[..., k].unsqueeze(-1).expand(is_shown_RBC.shape)[is_shown_RBC]
            is_known_N = y_N.isfinite()
            if who and bool(is_known_N.any()):
                _check_loss(head, who, part[is_shown_RBC][is_known_N], y_N[is_known_N])
        choice_RB = score_RABC[:, 0].argmax(-1)
        weight_RB, key_R = torch.ones_like(y_RBK[..., 0]), draws.key(0, "x", visits.replication_R)
        with calling(blamed[0], "its gradient"):
            learner.update(slate.batch.chosen(choice_RB), y_RBK, weight_RB, optimizer, key_R)
            if int(learner.n_skipped_S.sum()):
                raise Unfit("is not finite at the start: look for a division, root or logarithm")

    def _score(self, learner: Learner, slate: Slate) -> Tensor:
        """The networks' raw outputs in float32: R, B, C, O; those of a model from outside checked.

        Raises:
            ComponentError: some are not finite, or depend on other rows.
        """
        model, batch = learner.model, slate.batch
        n_first = max(1, batch.shape[1] // 2)
        first = batch.visits(slice(n_first))
        with torch.no_grad(), self.context.device.autocast():
            raw_RBCO = learner.forward(learner.params, batch, None).float()
            alone_RBCO = learner.forward(learner.params, first, None).float()
        if isinstance(model, OutsideModel):
            with calling(model.who, "forward()"):
                hidden_RBC1 = ~slate.is_candidate_WBC.unsqueeze(-1)
                shown = raw_RBCO.masked_fill(hidden_RBC1, 0.0)
                check_values(shown, "networks, visits, candidates, outputs")
                _check_rows(raw_RBCO[:, :n_first], alone_RBCO)
        return raw_RBCO


def _check_loss(head: Head, who: str, raw_NO: Tensor, y_N: Tensor) -> None:
    """Look at what a loss from outside makes of known outcomes."""
    half = slice(0, max(1, len(y_N) // 2))
    predicted = head.predict(raw_NO), head.predict(raw_NO[half])
    lost = head.losses(raw_NO, y_N), head.losses(raw_NO[half], y_N[half])
    for call, (found_N, alone_N) in (("predict()", predicted), ("elementwise()", lost)):
        with calling(who, call):
            check_values(found_N, "rows")
            _check_rows(found_N[half], alone_N)


def _check_rows(among_others: Tensor, alone: Tensor) -> None:
    """Rows must get what they get without the rows beside them; Unfit where they do not."""
    at_most = float(alone.abs().max())
    if not torch.allclose(among_others, alone, rtol=1e-2, atol=1e-3 * at_most):
        raise Unfit(
            "returned other numbers for the same rows when other rows stood beside them, or at the "
            "second time: each row's result must depend on that row alone"
        )
