"""Some of the replications, with all designs, in one process; and how good their networks are.

A validator validates networks with visits of users who are held out. All of such a visit's
candidates have known labels, so that one validation gives both: how well each network predicts its
label, and how well each arm ranks. What a world has used does not matter there, nor do weights or
masks.

Axes: S stacked networks, R replications, B visits, C candidates, L outcomes, J labels with a
model, X starts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from realdataexp.config import SimulationConfig
from realdataexp.designs import Design, OutsideDesign
from realdataexp.learner import Learner
from realdataexp.loop import Block, Loop, Step, by_label, n_networks
from realdataexp.metrics import (
    MetricValues,
    derived_metrics,
    for_metrics,
    label_metrics,
    own_metrics,
    ranking_metrics,
    values_of,
)
from realdataexp.models import Batch
from realdataexp.runs.labels import Starts
from realdataexp.runs.setup import Setup, derived_of_labels
from realdataexp.stats.inference import needs_foretold
from realdataexp.worlds.base import HeldOut, World, start_of


@dataclass(frozen=True)
class Seen:
    """What the networks say of the held-out visits of their starts, in the labels' units.

    Mean losses and starts are on the host; a loss is NaN where no label is known. Of idle
    networks, which no arm asks, nothing is said.
    """

    prediction_SBCJ: Tensor
    loss_SJ: Tensor
    start_S: Tensor
    is_idle_SJ: Tensor | None = None


class Validator:
    """Looks at networks with one fixed sample of held-out visits for each start: ``held_out``."""

    def __init__(self, setup: Setup, held_out: Sequence[HeldOut] | None = None) -> None:
        """Draw a run's samples, unless they are given."""
        config, loop = setup.config, setup.config.simulation
        n_visits = config.validation.validation_batches * loop.batch_size
        self._derived = derived_of_labels(config)
        self.held_out = held_out or [
            setup.environment.held_out(setup.held_out_targets, n_visits, loop.n_candidate, start)
            for start in range(config.experiment.n_starts)
        ]
        self._setup, self._arms = setup, setup.arms
        self._label_at = setup.label_at or range(len(setup.labels))
        at = setup.outcome_at or range(len(setup.outcomes))
        self._outcome_at = at[: len(setup.outcomes)]  # what follows are parts of ratios

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

    def validate(
        self, learners: Sequence[Learner], start_S: Tensor, is_idle_SJ: Tensor | None = None
    ) -> Seen:
        """Have all networks predict; ``start_S`` is on the host."""
        predictions, losses = [], []
        labels_of = [network.labels for network in self._setup.networks]
        for learner, labels in zip(learners, labels_of, strict=True):
            places = [self._label_at[i] for i in labels]
            batch, y_XBCJ = self._padded.batch, self._padded.y_BCL[..., places]
            if self.n_starts == 1:  # all see the same: no copies
                n = learner.n_networks
                found = learner.evaluate(batch.expand(n), y_XBCJ.expand(n, -1, -1, -1))
            else:
                found = learner.evaluate(batch, y_XBCJ, place_S=start_S.to(y_XBCJ.device))
            predictions.append(found[0])
            losses.append(found[1].flatten(1, 2).cpu().double().nanmean(1))
        loss_SJ = by_label(losses, labels_of)
        if is_idle_SJ is not None:
            loss_SJ = loss_SJ.masked_fill(is_idle_SJ.cpu(), torch.nan)
        return Seen(by_label(predictions, labels_of), loss_SJ, start_S, is_idle_SJ)

    def predictions(self, seen: Seen) -> Iterator[MetricValues]:
        """Every network's metrics, label by label."""
        y_XNL = for_metrics(self._padded.y_BCL.flatten(1, 2))
        for k, label in enumerate(self._setup.labels):
            kind = label.config.type
            prediction_SN = for_metrics(seen.prediction_SBCJ[..., k].flatten(1))
            y_N = self._of(seen.start_S, y_XNL[..., self._label_at[k]])
            if seen.is_idle_SJ is not None:
                is_idle_S1 = seen.is_idle_SJ[:, k, None].to(y_N.device)
                y_N = torch.where(is_idle_S1, torch.nan, y_N)
            found = label_metrics(kind, prediction_SN, y_N)
            own = own_metrics(self._setup.metrics, kind, prediction_SN, y_N)
            values = values_of(label.config.name, found, seen.loss_SJ[:, k], own)
            for place, x in self._derived:
                if place == k:
                    at = [
                        self._setup.held_out_targets.index(name) for name in (x.columns[1], x.name)
                    ]
                    x_N, of_x_N = (self._of(seen.start_S, y_XNL[..., i]) for i in at)
                    of_x_N = torch.where(torch.isnan(y_N), torch.nan, of_x_N)
                    most = math.inf if x.at_most is None else x.at_most
                    told, n_rows_S = derived_metrics(
                        x.name, x.rule, most, prediction_SN, x_N, of_x_N
                    )
                    values.values.update(told)
                    values.counts.update(dict.fromkeys(told, n_rows_S))
            yield values

    def rankings(
        self, seen: Seen, blocks: Sequence[Block]
    ) -> Iterator[tuple[int, int, MetricValues]]:
        """How well the R worlds of each block rank: (block, arm, values), by outcome.

        An arm that nobody gets is left out.
        """
        y_XBCL, is_candidate_XBC = (
            for_metrics(x) for x in (self._padded.y_BCL, self._padded.is_candidate_BC)
        )
        prediction_SBCJ = seen.prediction_SBCJ
        R, first = len(prediction_SBCJ) // sum(b.design.n_models for b in blocks), 0
        start_R = seen.start_S[:R]
        scene = None
        if self._arms.needs_scene:
            where_R = start_R.to(self._padded.is_candidate_BC.device)
            on_RBC, video_RBC = self._padded.is_candidate_BC[where_R], self._padded.video_BC
            if video_RBC is not None:
                video_RBC = video_RBC[where_R]
            else:
                video_RBC = torch.zeros_like(on_RBC, dtype=torch.int64)
            scene = self._arms.scene("held-out pick", where_R, 0, video_RBC, on_RBC)
        for i, block in enumerate(blocks):
            for arm in (0, 1):
                if block.p == 1 - arm:
                    continue
                s = first + arm * (block.design.n_models - 1) * R
                score_RBC = for_metrics(self._arms.score_of(arm, prediction_SBCJ[s : s + R], scene))
                for j, name in zip(self._outcome_at, self._setup.outcomes, strict=True):
                    found = ranking_metrics(
                        score_RBC,
                        self._of(start_R, y_XBCL[..., j]),
                        self._of(start_R, is_candidate_XBC),
                    )
                    yield i, arm, values_of(name, found)
            first += block.design.n_models * R

    def _of(self, start_S: Tensor, x_X: Tensor) -> Tensor:
        """What each network's start has; without an axis for the networks where all have one."""
        return x_X[0] if self.n_starts == 1 else x_X[start_S.to(x_X.device)]


@dataclass(frozen=True)
class Updates:
    """What one learner's networks were told and said so far, on the host.

    Weights of outcomes and predictions of each label are the least and the greatest; NaN once one
    was.
    """

    n_updates_S: Tensor
    n_skipped_S: Tensor
    weight_S2: Tensor
    prediction_SJ2: Tensor


@dataclass(frozen=True)
class Validation:
    """How good networks and rankings are, and what the designs tell of their weights."""

    predictions: list[MetricValues]  # of each label with a model, S networks
    rankings: list[tuple[int, int, MetricValues]]  # block, arm and R worlds, for each outcome
    evidence: list[dict[str, Tensor]]  # of each block's design


def next_stop(loop: SimulationConfig, step: int) -> int:
    """The next step after which it is time to validate or to save."""
    due = (every * (step // every + 1) for every in (loop.validate_every, loop.save_every))
    return min(loop.n_steps, *due)


class Shard:
    """Replications that run in this process."""

    validation_seconds = 0.0  # of validations that happened elsewhere

    def __init__(
        self, setup: Setup, validator: Validator, starts: Starts, replications: tuple[int, ...]
    ) -> None:
        """Make the worlds, and start the designs."""
        self.replications = replications
        self._setup, self._validator = setup, validator
        settings = setup.config.simulation
        start_R = start_of(torch.tensor(replications), setup.config.experiment.n_starts)
        self._start_S = start_R.repeat(n_networks(setup.blocks, 1))
        self._learners = [
            Learner.of_starts(
                network.model, network.heads, setup.device, own, self._start_S, network.shared
            )
            for network, own in zip(setup.networks, starts, strict=True)
        ]
        self._world = setup.environment.world(
            setup.world_targets, setup.world_settings(replications)
        )
        self._loop = Loop(
            self._world,
            setup.blocks,
            [label.policy for label in setup.labels],
            setup.arms,
            self._learners,
            setup.config.seed,
            diagnose_every=settings.validate_every,
            retrain_every=settings.retrain_every,
            designs=setup.start_designs(replications),
            labels_of=[network.labels for network in setup.networks],
            label_at=setup.label_at,
            outcome_at=setup.outcome_at,
            n_shown=setup.environment.n_shown,
            foretells=setup.records(needs_foretold),
        )

    @property
    def has_visitors(self) -> bool:
        """Whether anybody is left to visit."""
        return self._world.has_visitors

    def step(self, step: int) -> Step:
        """Run one step, of padding where nobody is left."""
        return self._loop.step(self._world.draw(step))

    def steps(self, first: int, last: int) -> Iterator[Step]:
        """Run the steps [first, last); ends early when nobody is left to visit."""
        return self._loop.steps(first, last)

    def validate(self) -> Validation:
        """Validate, tell the schedules of the networks' losses, and collect what designs tell."""
        seen = self._validator.validate(self._learners, self._start_S, self._loop.is_idle_SL)
        for network, learner in zip(self._setup.networks, self._learners, strict=True):
            schedule = self._setup.labels[network.labels[0]].policy.optimizer.schedule
            learner.observe(seen.loss_SJ[:, list(network.labels)].sum(1), schedule)
        return Validation(
            list(self._validator.predictions(seen)),
            list(self._validator.rankings(seen, self._setup.blocks)),
            [design.evidence() for design in self._loop.designs],
        )

    def updates(self) -> list[Updates]:
        """Each learner's updates so far; waits for the device."""
        weight_S2, prediction_SL2 = (
            torch.stack([x.least, x.greatest], dim=-1).cpu()
            for x in (self._loop.weights_S, self._loop.predictions_SL)
        )
        return [
            Updates(
                learner.n_updates_S.cpu(),
                learner.n_skipped_S.cpu(),
                weight_S2,
                prediction_SL2[:, list(network.labels)],
            )
            for network, learner in zip(self._setup.networks, self._learners, strict=True)
        ]

    def networks(self) -> dict[str, Tensor]:
        """Each learner's parameters, numbered: S, ..."""
        learners = enumerate(self._learners)
        return {f"{i}.{k}": p for i, learner in learners for k, p in learner.params.items()}

    def _stateful(self) -> dict[str, World | Loop | Learner | Design | OutsideDesign]:
        """Everything with a state, by name."""
        learners = {f"network.{i}": learner for i, learner in enumerate(self._learners)}
        designs = {f"design.{i}": design for i, design in enumerate(self._loop.designs)}
        return {"world": self._world, "loop": self._loop, **learners, **designs}

    def state(self) -> dict[str, Tensor]:
        """Everything that changes while running, by name."""
        return {
            f"{name}.{k}": t
            for name, part in self._stateful().items()
            for k, t in part.state().items()
        }

    def begin(self) -> None:
        """The worlds begin from the starting models."""

    def load_state(self, tensors: Mapping[str, Tensor], n_steps_done: int) -> None:
        """Begin from a state after some steps; ValueError where it is none of such a shard."""
        n_waiting = n_steps_done % self._setup.config.simulation.retrain_every
        parts: dict[str, dict[str, Tensor]] = {name: {} for name in self._stateful()}
        for name, tensor in tensors.items():
            own = next((x for x in parts if name.startswith(f"{x}.")), None)
            if own is not None:
                parts[own][name.removeprefix(f"{own}.")] = tensor
        self._check_lessons(parts["loop"], n_waiting)
        for name, part in self._stateful().items():
            part.load_state(parts[name])

    def _check_lessons(self, saved: Mapping[str, Tensor], n_waiting: int) -> None:
        """The lessons that wait have shapes that only a shard knows; ValueError for others."""
        S, B = len(self._learners[0].n_updates_S), self._setup.config.simulation.batch_size
        shapes: dict[str, tuple[int, ...]] = {
            "step": (), "weight": (S, B), "y": (S, B, len(self._setup.labels)),
        }  # fmt: skip
        inputs = self._setup.environment.schema.inputs
        for name, x in inputs.items():
            shapes[f"batch.{x.axis}.{name}"] = (S, B, *[1] * (x.axis == "candidate"), *x.shape)
        wanted = {"n_waiting": ()} | {
            f"{i}.{k}": shape for i in range(n_waiting) for k, shape in shapes.items()
        }
        inflated = [f"{i}.inflation" for i in range(n_waiting) if f"{i}.inflation" in saved]
        wanted |= dict.fromkeys(inflated, (S,))  # where a design has any
        if {name: tuple(tensor.shape) for name, tensor in saved.items()} != wanted:
            raise ValueError("loop: the outcomes that wait for training are others")
        if not all(bool((saved[name] > 0).all()) for name in inflated):
            raise ValueError("loop: an inflation is not above 0")
        for name, tensor in saved.items():
            own = inputs.get(name.rpartition(".")[2])
            n = None if own is None else own.n_ids
            if n is not None and not bool(((tensor >= 0) & (tensor < n)).all()):
                raise ValueError(f"loop: {name} holds ids of no category")

    def saved(self, step: int) -> None:
        """The run has saved all up to a step: nothing is kept beside it."""

    def close(self, error: type[BaseException] | None) -> None:
        """Nothing is left open."""
