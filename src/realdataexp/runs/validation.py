"""How good the networks are on visits of users who are held out.

All of a held-out visit's candidates have known labels, so that one look gives both: how well each
network predicts its label, and how well each arm ranks. What a world has used does not matter
here, nor do weights or masks.

Axes: S stacked networks, B visits, C candidates, L outcomes (labels with a model first), K labels
with a model, R replications, X starts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from realdataexp.arms import Arms, Scene
from realdataexp.learner import Learner
from realdataexp.loop import Block, by_label
from realdataexp.metrics import (
    Figures,
    Metric,
    figures_of,
    for_metrics,
    label_metrics,
    own_metrics,
    ranking_metrics,
)
from realdataexp.models import Batch
from realdataexp.worlds.base import HeldOut


@dataclass(frozen=True)
class Look:
    """What the networks say of the held-out visits, on the device.

    Attributes:
        prediction_SBCK: in the labels' units.
        loss_SK: each network's mean loss, on the host; NaN where no label is known.
        start_S: the start whose held-out visits each network saw; on the host.
        is_idle_SK: networks that no arm asks, of which nothing is said; None: there are none.
    """

    prediction_SBCK: Tensor
    loss_SK: Tensor
    start_S: Tensor
    is_idle_SK: Tensor | None = None


@dataclass(frozen=True)
class Validator:
    """Looks at networks with one fixed sample of held-out visits for each start.

    Attributes:
        held_out: each start's visits.
        labels: names of K labels; kinds: their types.
        arms: how their predictions become scores.
        outcomes: names of the L outcomes.
        labels_of: which labels the heads of each learner predict.
        label_at, outcome_at: where among the sample's targets labels and outcomes are; None: the
            labels are the first, and the outcomes all.
        own: metrics from outside the package, by name.
    """

    held_out: Sequence[HeldOut]
    labels: Sequence[str]
    kinds: Sequence[str]
    arms: Arms
    outcomes: Sequence[str]
    labels_of: Sequence[Sequence[int]]
    label_at: Sequence[int] | None = None
    outcome_at: Sequence[int] | None = None
    own: Mapping[str, Metric] = field(default_factory=dict)

    @property
    def size(self) -> str:
        """What the metrics rest on, in words."""
        each = f"{self.n_users:,} held-out users, {self.n_rows:,} rows"
        return each if self.n_starts == 1 else f"{each}, by {self.n_starts} splits"

    @property
    def n_starts(self) -> int:
        """X."""
        return len(self.held_out)

    @property
    def n_users(self) -> int:
        """Held-out users; a user whom several starts hold out counts for each."""
        return sum(sample.n_users for sample in self.held_out)

    @property
    def n_rows(self) -> int:
        """Their rows."""
        return sum(sample.n_rows for sample in self.held_out)

    @cached_property
    def _padded(self) -> HeldOut:
        """All starts' samples, with an axis X in front of every tensor, padded to equal sizes."""
        n_visits = max(len(sample.y_BCL) for sample in self.held_out)
        samples = [sample.padded(n_visits) for sample in self.held_out]
        return HeldOut(
            Batch.stacked([sample.batch for sample in samples]),
            torch.stack([sample.y_BCL for sample in samples]),
            torch.stack([sample.is_candidate_BC for sample in samples]),
            self.n_users,
            None
            if any(sample.video_BC is None for sample in samples)
            else torch.stack([x.video_BC for x in samples if x.video_BC is not None]),
        )

    def look(
        self, learners: Sequence[Learner], start_S: Tensor, is_idle_SK: Tensor | None = None
    ) -> Look:
        """Have all networks predict.

        Args:
            learners: S networks of each label.
            start_S: int64, on the host, the start that each began from.
            is_idle_SK: networks of which nothing is to be said; None: there are none.
        """
        label_at = self.label_at or range(len(self.labels))
        predictions, losses = [], []
        for learner, places in zip(learners, self.labels_of, strict=True):
            places = [label_at[i] for i in places]
            batch, y_XBCK = self._padded.batch, self._padded.y_BCL[..., places]
            if self.n_starts == 1:  # all see the same: no copies
                n = learner.n_networks
                found = learner.evaluate(batch.expand(n), y_XBCK.expand(n, -1, -1, -1))
            else:
                found = learner.evaluate(batch, y_XBCK, place_S=start_S.to(y_XBCK.device))
            predictions.append(found[0])
            losses.append(found[1].flatten(1, 2).cpu().double().nanmean(1))
        loss_SK = by_label(losses, self.labels_of)
        if is_idle_SK is not None:
            loss_SK = loss_SK.masked_fill(is_idle_SK.cpu(), torch.nan)
        return Look(by_label(predictions, self.labels_of), loss_SK, start_S, is_idle_SK)

    def predictions(self, look: Look) -> Iterator[Figures]:
        """Every network's metrics, label by label."""
        y_XNL = for_metrics(self._padded.y_BCL.flatten(1, 2))
        label_at = self.label_at or range(len(self.labels))
        for k, (name, kind) in enumerate(zip(self.labels, self.kinds, strict=True)):
            prediction_SN = for_metrics(look.prediction_SBCK[..., k].flatten(1))
            y_N = self._of(look.start_S, y_XNL[..., label_at[k]])
            if look.is_idle_SK is not None:
                is_idle_S1 = look.is_idle_SK[:, k, None].to(y_N.device)
                y_N = torch.where(is_idle_S1, torch.nan, y_N)
            found = label_metrics(kind, prediction_SN, y_N)
            own = own_metrics(self.own, kind, prediction_SN, y_N)
            yield figures_of(name, found, look.loss_SK[:, k], own)

    def rankings(self, look: Look, blocks: Sequence[Block]) -> Iterator[tuple[int, int, Figures]]:
        """How well the R worlds of each block rank: (block, arm, figures), by outcome.

        An arm that nobody gets is left out.
        """
        y_XBCL, is_candidate_XBC = (
            for_metrics(x) for x in (self._padded.y_BCL, self._padded.is_candidate_BC)
        )
        prediction_SBCK = look.prediction_SBCK
        R, first = len(prediction_SBCK) // sum(b.design.n_models for b in blocks), 0
        start_R = look.start_S[:R]
        outcome_at = self.outcome_at or range(len(self.outcomes))
        scene = self._scene(start_R)
        for i, block in enumerate(blocks):
            for arm in (0, 1):
                if block.p == 1 - arm:
                    continue
                s = first + arm * (block.design.n_models - 1) * R
                score_RBC = for_metrics(self.arms.score_of(arm, prediction_SBCK[s : s + R], scene))
                for j, name in zip(outcome_at, self.outcomes, strict=True):
                    found = ranking_metrics(
                        score_RBC,
                        self._of(start_R, y_XBCL[..., j]),
                        self._of(start_R, is_candidate_XBC),
                    )
                    yield i, arm, figures_of(name, found)
            first += block.design.n_models * R

    def _scene(self, start_R: Tensor) -> Scene | None:
        """What arms that do not rank by labels may know of the held-out visits."""
        if not self.arms.needs_scene:
            return None
        start_R = start_R.to(self._padded.is_candidate_BC.device)
        on_RBC = self._padded.is_candidate_BC[start_R]
        video_XBC = self._padded.video_BC
        video_RBC = torch.zeros_like(on_RBC, dtype=torch.int64)
        if video_XBC is not None:
            video_RBC = video_XBC[start_R]
        return self.arms.scene("held-out pick", start_R, 0, video_RBC, on_RBC)

    def _of(self, start_S: Tensor, x_X: Tensor) -> Tensor:
        """What each network's start has; without an axis for the networks where all have one."""
        return x_X[0] if self.n_starts == 1 else x_X[start_S.to(x_X.device)]
