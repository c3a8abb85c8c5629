"""THE STORY of one step, told for all worlds at once.

    1. users visit                          world.draw       (same for all designs)
    2. the design gives each visit an arm   design.assign
    3. each visit gets a slate              world.slate, design.candidates
    4. the models score it                  learner.predict
    5. each arm scores the candidates       arms.score
    6. each arm picks one of them           arms.pick        (or shows a list: arms.lists)
    7. the log answers                      world.taken, world.feedback
    8. the design weighs the outcomes       design.weights
    9. the models learn                     learner.update   (every retrain_every steps)

Axes: W worlds (block x replication), R replications, M models a world, A arms (0 = control,
1 = treatment), B visits, C candidates, K places of a list that is shown, L labels, J labels (heads)
of a learner, S stacked networks (block x model x replication).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby

import torch
from torch import Tensor

from realdataexp import draws
from realdataexp.arms import Arms
from realdataexp.designs import Design, OutsideDesign
from realdataexp.designs.base import Outcome
from realdataexp.device import Graphs
from realdataexp.learner import Learner
from realdataexp.models import Batch
from realdataexp.optimizers import OptimizerSettings
from realdataexp.worlds.base import Slate, Visits, World, own_rows


@dataclass(frozen=True)
class Block:
    """One design, run in every replication with the treatment probability p."""

    label: str
    design: Design | OutsideDesign
    p: float


@dataclass(frozen=True)
class LabelPolicy:
    """How a label's networks learn.

    Attributes:
        name: the label.
        optimizer: of its networks; the same for labels that share them.
        arms_A: whether its networks are for the control, and for the treatment.
        draws_as: the label whose draws its networks have: its own, or that of its twin.
    """

    name: str
    optimizer: OptimizerSettings
    arms_A: tuple[bool, bool] = (True, True)
    draws_as: str = ""


@dataclass(frozen=True)
class Step:
    """What a step leaves behind, on the device.

    Attributes:
        visits: who visited, the same for all blocks.
        unit_XRB: for each block X, which visits were randomised as one; None: the users'.
        is_treated_WB, is_visit_WB: each visit's arm, and whether it took place.
        y_WBL: the outcomes that enter the estimate; NaN = missing, or not to be counted.
        differs_WB: whether the two arms would have picked different candidates.
        n_candidates_WB: candidates on the slate.
        loss_SL: each network's mean training loss over the updates that were due after this step.
        prediction_SBL: what each network predicted for what it learns from, in the labels' units.
        target_SBL: the outcomes of that. Of both, and of the loss, NaN where it learns nothing.
        weight_SA: the sum of each network's weights over the visits of each arm.
        score_share_WAL: see ``score_shares``; None in steps that are not diagnosed.
        propensity_WB: how likely the visit's arm was to pick what it picked; None where no arm
            explores, NaN where that is not known.
        is_counted_WB: which visits enter the estimate; None: all.
        foretold_WBAJ: what the models predicted of each outcome J for what each arm would have
            picked; NaN where no model predicts it, or nobody visited; None where nobody asks.
        exposure: what the world reports of the lists that were shown; see ``World.exposure``.
    """

    visits: Visits
    unit_XRB: tuple[Tensor | None, ...]
    is_treated_WB: Tensor
    is_visit_WB: Tensor
    y_WBL: Tensor
    differs_WB: Tensor
    n_candidates_WB: Tensor
    loss_SL: Tensor
    prediction_SBL: Tensor
    target_SBL: Tensor
    weight_SA: Tensor
    score_share_WAL: Tensor | None
    propensity_WB: Tensor | None = None
    is_counted_WB: Tensor | None = None
    foretold_WBAJ: Tensor | None = None
    exposure: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Lesson:
    """What all networks have to learn from one step: weights and outcomes of the chosen items.

    The batch has C = 1; a weight is NaN for padding, an outcome where it is missing. For the
    inflation see ``Design``; None: no design has any.
    """

    step: int
    batch: Batch
    weight_SB: Tensor
    y_SBL: Tensor
    inflation_S: Tensor | None = None

    def state(self) -> dict[str, Tensor]:
        """Its tensors by name."""
        own = {"step": torch.tensor(self.step), "weight": self.weight_SB, "y": self.y_SBL}
        if self.inflation_S is not None:
            own["inflation"] = self.inflation_S
        return own | {f"batch.{name}": x for name, x in self.batch.state().items()}

    @classmethod
    def of_state(cls, tensors: Mapping[str, Tensor], to: torch.device) -> Lesson:
        """The lesson whose state this is, on a device."""
        shown = {k.removeprefix("batch."): x for k, x in tensors.items() if k.startswith("batch.")}
        batch = Batch.of_state(shown).map(lambda x: x.to(to))
        inflation_S = tensors["inflation"].to(to) if "inflation" in tensors else None
        own = tensors["weight"].to(to), tensors["y"].to(to), inflation_S
        return cls(int(tensors["step"]), batch, *own)


@dataclass
class Extremes:
    """The least and the greatest of many numbers: 0 before the first, NaN once one was."""

    least: Tensor
    greatest: Tensor

    def see(self, numbers_SBX: Tensor, is_visit_SB: Tensor) -> None:
        """Take in the numbers of some visits."""
        missing = ~is_visit_SB if numbers_SBX.dim() == 2 else ~is_visit_SB.unsqueeze(-1)
        least, greatest = torch.aminmax(numbers_SBX.masked_fill(missing, 0.0), dim=1)
        torch.minimum(self.least, least, out=self.least)
        torch.maximum(self.greatest, greatest, out=self.greatest)


class Loop:
    """All worlds' data-training loops, in lockstep.

    Attributes:
        is_idle_SL: whether a network of a label is for an arm that does not use it: it is neither
            asked nor trained; None where none is.
        weights_S, predictions_SL: the extremes of each network's weights, and of what it predicted
            for the chosen items.
    """

    def __init__(
        self,
        world: World,
        blocks: Sequence[Block],
        labels: Sequence[LabelPolicy],
        arms: Arms,
        learners: Sequence[Learner],
        seed: int,
        diagnose_every: int = 1,
        retrain_every: int = 1,
        designs: Sequence[Design | OutsideDesign] | None = None,
        labels_of: Sequence[Sequence[int]] | None = None,
        label_at: Sequence[int] | None = None,
        outcome_at: Sequence[int] | None = None,
        n_shown: int = 1,
        foretells: bool = False,
    ) -> None:
        """Join a world of R replications for each block, and learners with their networks.

        Args:
            world: see there.
            blocks: the designs.
            labels: L labels.
            arms: how the labels' predictions become picks.
            learners: each with ``n_networks(blocks, R)`` networks.
            seed: of the dropout draws.
            diagnose_every: steps between two looks at the scores' variance.
            retrain_every: steps between two rounds of training, with an update for each of these.
            designs: the designs as they started; None for designs without memory.
            labels_of: which labels the heads of each learner predict; None: a learner a label.
            label_at: where among the world's targets each label is; None: they are the first.
            outcome_at: likewise what is measured; None: all.
            n_shown: K, candidates that an arm shows.
            foretells: whether steps say what was predicted for both arms' picks.
        """
        self.world, self.blocks, self.labels, self.learners = world, blocks, labels, learners
        self.labels_of = labels_of or [(i,) for i in range(len(labels))]
        self._names = [
            "+".join(labels[i].draws_as or labels[i].name for i in places)
            for places in self.labels_of
        ]
        self._seed, self._diagnose_every = seed, diagnose_every
        self._retrain_every, self._n_shown = retrain_every, n_shown
        self._waiting: list[Lesson] = []
        self.designs = [*designs] if designs else [block.design for block in blocks]
        n_models = sum(block.design.n_models for block in blocks)
        R = learners[0].n_networks // n_models
        # of each network: its world, and the arm that ranks with it (any, where both do)
        world_S, arm_S = torch.tensor(
            [
                (i * R + r, m)
                for i, block in enumerate(blocks)
                for m in range(block.design.n_models)
                for r in range(R)
            ]
        ).unbind(1)
        to = learners[0].n_updates_S.device
        self._world_S, self._arm_S = world_S.to(to), arm_S.to(to)
        self._label_at = _places(label_at, len(labels), to)
        self._outcome_at = _places(outcome_at, None, to)
        self.is_idle_SL = _idle(blocks, labels, R, to)
        self._foretells = foretells
        is_asked_SL = torch.ones(len(world_S), len(labels))
        if self.is_idle_SL is not None:
            is_asked_SL = (~self.is_idle_SL).cpu().float()
        n_models_W = torch.bincount(world_S)
        n_asked_WL = torch.zeros(len(n_models_W), len(labels)).index_add_(0, world_S, is_asked_SL)
        # of two arms: one model serves both
        self._n_asked_WL = (n_asked_WL * (2.0 / n_models_W).unsqueeze(1)).to(to)
        self._targets = label_at or range(len(labels)), outcome_at
        zeros_S = torch.zeros(len(world_S), device=to)
        zeros_SL = torch.zeros(len(world_S), len(labels), device=to)
        self.weights_S = Extremes(zeros_S, zeros_S.clone())
        self.predictions_SL = Extremes(zeros_SL, zeros_SL.clone())
        self._arms = arms.to(to)
        is_fixed = all(learner.has_fixed_operations for learner in learners)
        self._graphs = Graphs(learners[0].device, can_record=is_fixed)

    def state(self) -> dict[str, Tensor]:
        """The lessons that wait for the next round of training."""
        tensors = {"n_waiting": torch.tensor(len(self._waiting))}
        for i, lesson in enumerate(self._waiting):
            tensors.update({f"{i}.{name}": t for name, t in lesson.state().items()})
        return tensors

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from a state."""
        self._waiting = []
        for i in range(int(tensors["n_waiting"])):
            own = {k.partition(".")[2]: t for k, t in tensors.items() if k.startswith(f"{i}.")}
            self._waiting.append(Lesson.of_state(own, self._world_S.device))

    def steps(self, first: int, last: int) -> Iterator[Step]:
        """Run the steps [first, last); ends early when nobody is left to visit."""
        for step in range(first, last):
            if not self.world.has_visitors:
                return
            yield self.step(self.world.draw(step))

    def step(self, visits: Visits) -> Step:
        """Lines 2 to 9 of the story."""
        R = len(visits.replication_R)
        worlds = [slice(i * R, (i + 1) * R) for i in range(len(self.blocks))]
        is_treated_WB = torch.cat(
            [d.assign(visits, b.p) for d, b in zip(self.designs, self.blocks, strict=True)]
        )
        slate = self.world.slate(visits)
        parts = [slate.part(w) for w in worlds]
        allowed_WBC = torch.cat(
            [
                d.candidates(visits, part, is_treated_WB[w])
                for d, part, w in zip(self.designs, parts, worlds, strict=True)
            ]
        )
        slate = replace(slate, is_candidate_WBC=allowed_WBC & slate.is_candidate_WBC)
        is_visit_WB = slate.is_candidate_WBC.any(-1)
        luck: tuple[Tensor, ...] = ()
        if self._arms.needs_scene:
            step = visits.replication_R.new_full((), visits.step)
            luck = visits.replication_R, step, slate.video_WBC
        prediction_WABCL, score_WABC, pick_WAB, *logs = self._graphs.run(
            self._score, slate.batch, slate.is_candidate_WBC, R, *luck
        )
        shown_WABK = self._arms.lists(score_WABC, pick_WAB, self._n_shown)
        shown_WBK = torch.where(is_treated_WB.unsqueeze(-1), shown_WABK[:, 1], shown_WABK[:, 0])
        drafted = self._drafted(visits, worlds, shown_WABK, is_treated_WB)
        for w, (list_RBK, _) in drafted:
            shown_WBK[w] = list_RBK
        choice_WB = self.world.taken(visits, slate, shown_WBK)
        for w, (list_RBK, is_treatments_RBK) in drafted:
            is_taken_RBK = list_RBK == choice_WB[w].unsqueeze(-1)
            is_treated_WB[w] = (is_taken_RBK & is_treatments_RBK).any(-1)
        log_WAB = _at_choice(logs[0], choice_WB) if logs else None
        y_WBX = self.world.feedback(visits, slate, choice_WB)
        y_WBL = y_WBX[..., self._outcome_at]
        parts = [
            replace(part, is_candidate_WBC=slate.is_candidate_WBC[w])
            for part, w in zip(parts, worlds, strict=True)
        ]
        weight_SB, inflation_S = self._weights(
            visits, parts, worlds, is_visit_WB, is_treated_WB, score_WABC, shown_WABK, choice_WB,
            y_WBL, log_WAB,
        )  # fmt: skip
        batch = slate.batch.chosen(choice_WB)[self._world_S]
        y_SBL = y_WBX[self._world_S][..., self._label_at]
        lesson = Lesson(visits.step, batch, weight_SB, y_SBL, inflation_S)
        loss_SL = self._learn(lesson, visits)
        is_counted_WB = torch.cat([d.counts(visits) for d in self.designs])
        y_WBL = torch.where(is_counted_WB.unsqueeze(-1), y_WBL, torch.nan)
        prediction_SBL = self._of_networks(prediction_WABCL, choice_WB)
        self.predictions_SL.see(prediction_SBL, is_visit_WB[self._world_S])
        shares = None
        if visits.step % self._diagnose_every == 0:
            shares = score_shares(self._arms.terms(prediction_WABCL), slate.is_candidate_WBC)
        propensity_WB = None
        if log_WAB is not None:
            propensity_WB = torch.where(is_treated_WB, log_WAB[:, 1], log_WAB[:, 0]).exp()
        return Step(
            visits,
            tuple(d.unit(visits) for d in self.designs),
            is_treated_WB,
            is_visit_WB,
            y_WBL,
            (shown_WABK[:, 0] != shown_WABK[:, 1]).any(-1) & is_visit_WB,
            slate.is_candidate_WBC.sum(-1),
            loss_SL,
            prediction_SBL,
            self._learned(weight_SB, y_SBL),
            _by_arm(weight_SB, is_treated_WB[self._world_S]),
            shares,
            propensity_WB,
            is_counted_WB,
            self._foretold(prediction_WABCL, shown_WABK[..., 0], is_visit_WB, y_WBX.shape[-1])
            if self._foretells
            else None,
            self.world.exposure(visits, slate, shown_WBK),
        )

    def _drafted(
        self,
        visits: Visits,
        worlds: Sequence[slice],
        shown_WABK: Tensor,
        is_treated_WB: Tensor,
    ) -> list[tuple[slice, tuple[Tensor, Tensor]]]:
        """The worlds whose design shows other lists than an arm's, with what it shows."""
        if self._n_shown == 1:
            return []
        asked = zip(self.designs, worlds, strict=True)
        found = [(w, d.shown(visits, shown_WABK[w], is_treated_WB[w])) for d, w in asked]
        return [(w, lists) for w, lists in found if lists is not None]

    def _score(
        self, batch: Batch, is_candidate_WBC: Tensor, R: int, *luck: Tensor
    ) -> tuple[Tensor, ...]:
        """Lines 4 to 6: predictions WABCL, scores WABC, picks WAB (and log propensities WABC).

        ``luck`` is what the arms' scene needs, where they explore or do not rank by labels.
        """
        prediction_WABCL = self._predict(batch, is_candidate_WBC.shape, R, luck[:2])
        scene = None
        if luck:
            replication_R, step, video_WBC = luck
            scene = self._arms.scene("pick", replication_R, step, video_WBC, is_candidate_WBC)
        score_WABC = self._arms.score(prediction_WABCL, is_candidate_WBC, scene)
        pick_WAB, log_WABC = self._arms.pick(score_WABC, scene)
        found = prediction_WABCL, score_WABC, pick_WAB
        return found if log_WABC is None else (*found, log_WABC)

    def _predict(
        self, batch: Batch, shape: torch.Size, R: int, luck: tuple[Tensor, ...] = ()
    ) -> Tensor:
        """Both arms' predictions W, A, B, C, L, with dropout where an arm draws its networks."""
        # labels in front, so that each arm's scores of a label lie together
        n_labels, n_arms, (W, B, C) = len(self.labels), 2, shape
        make = torch.empty if self.is_idle_SL is None else torch.zeros
        prediction_LWABC = make(n_labels, W, n_arms, B, C, device=self._world_S.device)
        is_drawn_A = self._arms.draws_networks_A
        for learner, labels, name in zip(self.learners, self.labels_of, self._names, strict=True):
            arms_A = self.labels[labels[0]].arms_A
            key_SB = self._thompson_keys(name, B, *luck) if any(is_drawn_A) else None
            for worlds, networks in self._stacks(batch, R):
                offered = batch[own_rows(worlds, batch.shape[0])]
                for m, own in enumerate(networks):
                    is_shared = len(networks) == 1
                    if not (any(arms_A) if is_shared else arms_A[m]):
                        continue
                    arms = (0, 1) if is_shared else (m,)
                    for is_drawn in sorted({is_drawn_A[arm] for arm in arms}):
                        key = key_SB[own] if key_SB is not None and is_drawn else None
                        predicted_WBCJ = learner.predict(offered, own, key)
                        for arm in (a for a in arms if is_drawn_A[a] == is_drawn):
                            for label, x_WBC in zip(labels, predicted_WBCJ.unbind(-1), strict=True):
                                prediction_LWABC[label, worlds, arm] = x_WBC
        return prediction_LWABC.movedim(0, -1)

    def _stacks(self, batch: Batch, R: int) -> Iterator[tuple[slice, list[slice]]]:
        """Worlds that are scored together, and the networks of each of their models.

        Blocks of one model that follow each other are, where each world has a slate of its own.
        """
        is_own = batch.shape[0] == len(self.blocks) * R
        w = s = 0
        for n_models, run in groupby(block.design.n_models for block in self.blocks):
            n_blocks = len(list(run))
            n_together = n_blocks if n_models == 1 and is_own else 1
            n_worlds = n_together * R
            for _ in range(n_blocks // n_together):
                starts = range(s, s + n_models * n_worlds, n_worlds)
                yield slice(w, w + n_worlds), [slice(i, i + n_worlds) for i in starts]
                w, s = w + n_worlds, s + n_models * n_worlds

    def _of_networks(self, prediction_WABCL: Tensor, choice_WB: Tensor) -> Tensor:
        """Each network's predictions for its world's choices: S, B, L."""
        W, A, B, _, L = prediction_WABCL.shape
        at_WAB1L = choice_WB.view(W, 1, B, 1, 1).expand(W, A, B, 1, L)
        return prediction_WABCL.gather(3, at_WAB1L).squeeze(3)[self._world_S, self._arm_S]

    def _foretold(
        self, prediction_WABCL: Tensor, pick_WAB: Tensor, is_visit_WB: Tensor, n_targets: int
    ) -> Tensor:
        """The mean prediction of a world's models for each arm's pick: W, B, A, J.

        That of both arms' models, so that it does not depend on which of them serves the visit.
        """
        W, A, B, _, L = prediction_WABCL.shape
        at_WABAL = pick_WAB.transpose(1, 2).view(W, 1, B, A, 1).expand(W, A, B, A, L)
        found_WABAL = prediction_WABCL.gather(3, at_WABAL)
        label_at, outcome_at = self._targets
        columns = []
        for target in range(n_targets) if outcome_at is None else outcome_at:
            own = [i for i, at in enumerate(label_at) if at == target]
            total_WBA = found_WABAL[..., own].sum((1, -1))
            n_W11 = self._n_asked_WL[:, own].sum(1).view(W, 1, 1)
            columns.append(total_WBA / n_W11)  # 0 / 0: NaN
        return torch.stack(columns, -1).masked_fill(~is_visit_WB.view(W, B, 1, 1), torch.nan)

    def _weights(
        self,
        visits: Visits,
        slates: Sequence[Slate],
        worlds: Sequence[slice],
        is_visit_WB: Tensor,
        is_treated_WB: Tensor,
        score_WABC: Tensor,
        shown_WABK: Tensor,
        choice_WB: Tensor,
        y_WBL: Tensor,
        log_WAB: Tensor | None,
    ) -> tuple[Tensor, Tensor | None]:
        """Line 8: how much each network learns from each visit, NaN for padding, and the inflation.

        Returns:
            S, B, and S or None.
        """
        weight, inflation = [], []
        for design, block, slate, w in zip(self.designs, self.blocks, slates, worlds, strict=True):
            log_RAB = None if log_WAB is None else log_WAB[w]
            own = slate, is_treated_WB[w], block.p, score_WABC[w], shown_WABK[w, ..., 0], y_WBL[w]
            lists = () if self._n_shown == 1 else (shown_WABK[w], choice_WB[w])
            outcome = Outcome(visits, *own, log_RAB, *lists)
            weight_RMB = design.weights(outcome)
            weight.append(weight_RMB.transpose(0, 1).flatten(0, 1))
            inflation.append(design.inflation(outcome, weight_RMB))
        weight_SB = torch.cat(weight)
        is_visit_SB = is_visit_WB[self._world_S]
        self.weights_S.see(weight_SB, is_visit_SB)
        return weight_SB.masked_fill(~is_visit_SB, torch.nan), self._joined(inflation)

    def _joined(self, per_block: Sequence[Tensor | None]) -> Tensor | None:
        """The designs' R, M each as S, 1 where a design has none; None where none has."""
        if all(x is None for x in per_block):
            return None
        R = len(self._world_S) // sum(d.n_models for d in self.designs)
        ones_S = torch.ones(len(self._world_S), device=self._world_S.device)
        parts_S = ones_S.split([d.n_models * R for d in self.designs])
        found = zip(per_block, parts_S, strict=True)
        return torch.cat([one_S if x is None else x.T.flatten() for x, one_S in found])

    def _learned(self, weight_SB: Tensor, y_SBL: Tensor) -> Tensor:
        """What each network learns of each label: S, B, L, NaN where it learns nothing."""
        is_learned = (weight_SB > 0).unsqueeze(-1)
        if self.is_idle_SL is not None:
            is_learned = is_learned & ~self.is_idle_SL.unsqueeze(1)
        return torch.where(is_learned, y_SBL, torch.nan)

    def _learn(self, lesson: Lesson, visits: Visits) -> Tensor:
        """Line 9, where a round of training is due; returns the training losses S, L."""
        self._waiting.append(lesson)
        if (visits.step + 1) % self._retrain_every:
            return torch.full_like(lesson.y_SBL[:, 0], torch.nan)
        due, self._waiting = self._waiting, []
        losses = [self._train(lesson, visits.replication_R) for lesson in due]
        return losses[0] if len(losses) == 1 else torch.stack(losses).nanmean(0)

    def _train(self, lesson: Lesson, replication_R: Tensor) -> Tensor:
        """Line 9: every network takes one step; returns the training losses S, L."""
        losses = []
        step = replication_R.new_full((), lesson.step)
        keys = self._graphs.run(self._dropout_keys, replication_R, step)
        for learner, places, key_S in zip(self.learners, self.labels_of, keys, strict=True):
            y_SBJ = torch.stack([lesson.y_SBL[..., i] for i in places], dim=-1)
            settings, weight_SB = self.labels[places[0]].optimizer, lesson.weight_SB
            if self.is_idle_SL is not None:
                weight_SB = weight_SB.masked_fill(self.is_idle_SL[:, places[0], None], 0.0)
            losses.append(
                learner.update(
                    lesson.batch, y_SBJ, weight_SB, settings, key_S, lesson.step, lesson.inflation_S
                )
            )
        return by_label(losses, self.labels_of)

    def _dropout_keys(self, replication_R: Tensor, step: Tensor) -> tuple[Tensor, ...]:
        """A key for each network of each learner: S each."""
        replication_S = replication_R.repeat(len(self.blocks))[self._world_S]
        return tuple(
            draws.key(self._seed, f"dropout {name}", replication_S, step) for name in self._names
        )

    def _thompson_keys(self, name: str, B: int, replication_R: Tensor, step: Tensor) -> Tensor:
        """A key for each network of a learner and visit: S, B."""
        replication_S = replication_R.repeat(len(self.blocks))[self._world_S]
        place_B = torch.arange(B, device=replication_R.device)
        purpose = f"thompson {name}"
        return draws.key(self._seed, purpose, replication_S.unsqueeze(1), step, place_B)


def by_label(per_learner: Sequence[Tensor], labels_of: Sequence[Sequence[int]]) -> Tensor:
    """What the learners' heads give (a last axis), in the order of the labels."""
    places = [i for of_learner in labels_of for i in of_learner]
    heads = [x for of_learner in per_learner for x in of_learner.unbind(-1)]
    return torch.stack([heads[places.index(i)] for i in range(len(places))], dim=-1)


def _at_choice(x_WABC: Tensor, choice_WB: Tensor) -> Tensor:
    """Each arm's numbers of the candidates that were chosen: W, A, B."""
    at_WAB1 = choice_WB[:, None, :, None].expand(-1, x_WABC.shape[1], -1, 1)
    return x_WABC.gather(3, at_WAB1).squeeze(3)


def _by_arm(weight_SB: Tensor, is_treated_SB: Tensor) -> Tensor:
    """The sum of each network's weights over the visits of each arm: S, A."""
    of_arms = [
        weight_SB.masked_fill(is_other_SB, 0.0) for is_other_SB in (is_treated_SB, ~is_treated_SB)
    ]
    return torch.stack([x_SB.nansum(1) for x_SB in of_arms], dim=1)


def _places(at: Sequence[int] | None, n: int | None, to: torch.device) -> slice | Tensor:
    """Some places of an axis; the first n, or all, as a slice, which costs nothing."""
    return slice(n) if at is None else torch.tensor(at, device=to)


def _idle(
    blocks: Sequence[Block], labels: Sequence[LabelPolicy], R: int, to: torch.device
) -> Tensor | None:
    """Which networks are for an arm that does not use the label: S, L; None where none is."""
    is_idle_SL = [
        [not (any(x.arms_A) if b.design.n_models == 1 else x.arms_A[m]) for x in labels]
        for b in blocks
        for m in range(b.design.n_models)
        for _ in range(R)
    ]
    return torch.tensor(is_idle_SL, device=to) if any(map(any, is_idle_SL)) else None


def n_networks(blocks: Sequence[Block], n_replications: int) -> int:
    """S: one network per block, model and replication, in this order."""
    return sum(b.design.n_models for b in blocks) * n_replications


def score_shares(term_WABCL: Tensor, is_candidate_WBC: Tensor) -> Tensor:
    """Each label's share of the variance of the fused score within slates: W, A, L.

    A share is cov(term, score) / var(score), summed over the step's slates; it can be negative
    where labels work against each other.
    """
    on = is_candidate_WBC[:, None, :, :, None].to(term_WABCL.dtype)
    n = on.sum(3, keepdim=True).clamp_min(1)
    term = (term_WABCL - (term_WABCL * on).sum(3, keepdim=True) / n) * on
    covariance_WAL = (term * term.sum(-1, keepdim=True)).sum((2, 3))
    return covariance_WAL / covariance_WAL.sum(-1, keepdim=True)
