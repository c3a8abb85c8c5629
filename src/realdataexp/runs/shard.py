"""Some of the replications, with all designs: the loop's worlds and networks in one process.

Axes: S stacked networks, R replications, K labels with a model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from realdataexp.config import SimulationConfig
from realdataexp.designs import Design, OutsideDesign
from realdataexp.learner import Learner
from realdataexp.loop import Loop, Step, n_networks
from realdataexp.metrics import Figures
from realdataexp.runs.setup import Setup
from realdataexp.runs.validation import Validator
from realdataexp.worlds.base import World, WorldSettings, start_of


@dataclass(frozen=True)
class Updates:
    """What one learner's networks were told and said so far, on the host.

    Attributes:
        n_updates_S, n_skipped_S: updates that were made, and skipped.
        weight_S2: least and greatest weight of an outcome; NaN once one was.
        prediction_SK2: least and greatest prediction of each label, likewise.
    """

    n_updates_S: Tensor
    n_skipped_S: Tensor
    weight_S2: Tensor
    prediction_SK2: Tensor


@dataclass(frozen=True)
class Look:
    """How good networks and rankings are, and what the designs tell of their weights.

    Attributes:
        predictions: of each label with a model, S networks.
        rankings: (block, arm, figures) of each outcome, R worlds; without arms that nobody gets.
        updates: of each learner.
        evidence: of each block's design.
    """

    predictions: list[Figures]
    rankings: list[tuple[int, int, Figures]]
    updates: list[Updates]
    evidence: list[dict[str, Tensor]]


def next_stop(loop: SimulationConfig, step: int) -> int:
    """The next step after which it is time to look or to save."""
    due = (every * (step // every + 1) for every in (loop.validate_every, loop.save_every))
    return min(loop.n_steps, *due)


class Shard:
    """Replications that run in this process.

    Attributes:
        replications: their numbers.
        look_seconds: of looks that happened elsewhere.
    """

    look_seconds = 0.0

    def __init__(
        self,
        setup: Setup,
        validator: Validator,
        starts: Sequence[Sequence[Mapping[str, Tensor]]],
        replications: tuple[int, ...],
        running: Sequence[Design | OutsideDesign],
    ) -> None:
        """Make the worlds.

        Args:
            setup: the run's.
            validator: looks at the networks.
            starts: parameters of each start's network, for each of the run's networks.
            replications: the replications' numbers.
            running: the designs, started for these replications.
        """
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
        self._world = self._make_world()
        self._loop = Loop(
            self._world,
            setup.blocks,
            [label.policy for label in setup.labels],
            setup.arms,
            self._learners,
            setup.config.seed,
            diagnose_every=settings.validate_every,
            retrain_every=settings.retrain_every,
            running=running,
            labels_of=[network.labels for network in setup.networks],
            label_at=setup.label_at,
            outcome_at=setup.outcome_at,
        )

    def _make_world(self) -> World:
        config, loop = self._setup.config, self._setup.config.simulation
        settings = WorldSettings(
            seed=config.seed,
            replications=self.replications,
            n_blocks=len(self._setup.blocks),
            batch_size=loop.batch_size,
            n_candidates=loop.n_candidate,
            n_steps=loop.n_steps,
            min_candidates=loop.min_candidates,
            assignment=config.experiment.assignment,
        )
        return self._setup.environment.world(self._setup.world_targets, settings)

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

    def look(self) -> Look:
        """Validate, tell the schedules of the networks' losses, and collect what designs tell."""
        look = self._validator.look(self._learners, self._start_S, self._loop.is_idle_SL)
        for network, learner in zip(self._setup.networks, self._learners, strict=True):
            schedule = self._setup.labels[network.labels[0]].policy.optimizer.schedule
            learner.look(look.loss_SK[:, list(network.labels)].sum(1), schedule)
        return Look(
            list(self._validator.predictions(look)),
            list(self._validator.rankings(look, self._setup.blocks)),
            self.updates(),
            [design.evidence() for design in self._loop.running],
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
        designs = {f"design.{i}": design for i, design in enumerate(self._loop.running)}
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
        """Begin from a state.

        Args:
            tensors: by name.
            n_steps_done: the steps that it is after.

        Raises:
            ValueError: it is none of such a shard.
        """
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
        if {name: tuple(tensor.shape) for name, tensor in saved.items()} != wanted:
            raise ValueError("loop: the outcomes that wait for training are others")
        for name, tensor in saved.items():
            own = inputs.get(name.rpartition(".")[2])
            n = None if own is None else own.n_ids
            if n is not None and not bool(((tensor >= 0) & (tensor < n)).all()):
                raise ValueError(f"loop: {name} holds ids of no category")

    def close(self) -> None:
        """Nothing is left open."""
