"""How good the networks are on visits of users who are held out.

All of a held-out visit's candidates have known labels, so that one look gives both: how well each
network predicts its label, and how well each arm ranks. What a world has used does not matter
here, nor do weights or masks.

Axes: S stacked networks, B visits, C candidates, L outcomes (labels with a model first), K labels
with a model, R replications.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from realdataexp.learner import Learner
from realdataexp.loop import Block, LabelPolicy, by_label
from realdataexp.metrics import Figures, figures_of, label_metrics, ranking_metrics
from realdataexp.worlds.base import HeldOut


@dataclass(frozen=True)
class Look:
    """What the networks say of the held-out visits, on the device.

    Attributes:
        prediction_SBCK: in the labels' units.
        loss_SK: each network's mean loss, on the host; NaN where no label is known.
    """

    prediction_SBCK: Tensor
    loss_SK: Tensor


@dataclass(frozen=True)
class Validator:
    """Looks at networks with one fixed sample of held-out visits.

    Attributes:
        held_out: the visits.
        labels: K policies, whose labels are the sample's first; kinds: their types.
        outcomes: names of the L outcomes.
        labels_of: which labels the heads of each learner predict.
    """

    held_out: HeldOut
    labels: Sequence[LabelPolicy]
    kinds: Sequence[str]
    outcomes: Sequence[str]
    labels_of: Sequence[Sequence[int]]

    @property
    def size(self) -> str:
        """What the metrics rest on, in words."""
        n_rows = int(self.held_out.is_candidate_BC.sum())
        return f"{self.held_out.n_users:,} held-out users, {n_rows:,} rows"

    def look(self, learners: Sequence[Learner]) -> Look:
        """Have all networks predict."""
        predictions, losses = [], []
        for learner, places in zip(learners, self.labels_of, strict=True):
            n = learner.n_networks
            y_SBCK = self.held_out.y_BCL[..., list(places)].expand(n, -1, -1, -1)
            prediction, loss = learner.evaluate(self.held_out.batch.expand(n), y_SBCK)
            predictions.append(prediction)
            losses.append(loss.flatten(1, 2).cpu().double().nanmean(1))
        loss_SK = by_label(losses, self.labels_of)
        return Look(by_label(predictions, self.labels_of), loss_SK)

    def predictions(self, look: Look) -> Iterator[Figures]:
        """Every network's metrics, label by label."""
        y_NL = self.held_out.y_BCL.flatten(0, 1).cpu()
        for k, (policy, kind) in enumerate(zip(self.labels, self.kinds, strict=True)):
            prediction_SN = look.prediction_SBCK[..., k].flatten(1).cpu()
            found = label_metrics(kind, prediction_SN, y_NL[:, k])
            yield figures_of(policy.name, found, look.loss_SK[:, k])

    def rankings(self, look: Look, blocks: Sequence[Block]) -> Iterator[tuple[int, int, Figures]]:
        """How well the R worlds of each block rank: (block, arm, figures), by outcome.

        An arm that nobody gets is left out.
        """
        y_BCL = self.held_out.y_BCL.cpu()
        is_candidate_BC = self.held_out.is_candidate_BC.cpu()
        prediction_SBCK = look.prediction_SBCK.cpu()
        R, first = len(prediction_SBCK) // sum(b.design.n_models for b in blocks), 0
        for i, block in enumerate(blocks):
            for arm in (0, 1):
                if block.p == 1 - arm:
                    continue
                s = first + arm * (block.design.n_models - 1) * R
                factor_K = torch.tensor([x.alpha_A[arm] / x.unit for x in self.labels])
                score_RBC = (prediction_SBCK[s : s + R] * factor_K).sum(-1)
                for j, name in enumerate(self.outcomes):
                    found = ranking_metrics(score_RBC, y_BCL[..., j], is_candidate_BC)
                    yield i, arm, figures_of(name, found)
            first += block.design.n_models * R
