"""The first phase of a run: the starting models, one after the other."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor

from realdataexp import draws
from realdataexp.learner import Learner
from realdataexp.metrics import LOSS, Figures
from realdataexp.models import Batch
from realdataexp.models.base import restore
from realdataexp.pretrain import Check, Pretraining, PretrainSettings
from realdataexp.runs.checkpoint import Checkpoint
from realdataexp.runs.doubts import warn_of_updates
from realdataexp.runs.folder import DETAIL
from realdataexp.runs.networks import START, networks_of
from realdataexp.runs.parts import Parts, of_this_run
from realdataexp.runs.progress import PhaseProgress
from realdataexp.runs.skips import refuse_predictions, refuse_skips
from realdataexp.runs.validation import Look
from realdataexp.worlds.base import RowSource

logger = logging.getLogger("realdataexp")

PHASE: Final = "pretrain"


@dataclass
class _CountingRows:
    """Moves a progress bar on with every batch that is read."""

    source: RowSource
    progress: PhaseProgress

    @property
    def n_rows(self) -> int:
        return self.source.n_rows

    def read(self, place_B: np.ndarray) -> tuple[Batch, list[Tensor]]:
        self.progress.advance(len(place_B))
        return self.source.read(place_B)


class _Done:
    """The starts whose training has ended.

    Attributes:
        params: for each network, each start's parameters.
        n_iterations, n_rows: what it took, of all starts together.
    """

    def __init__(self, n_networks: int) -> None:
        self.params: list[list[dict[str, Tensor]]] = [[] for _ in range(n_networks)]
        self.n_iterations = self.n_rows = 0

    @property
    def n_starts(self) -> int:
        """How many starts are done."""
        return len(self.params[0])

    def add(self, training: Pretraining, learners: Sequence[Learner]) -> None:
        """Take in the next start."""
        for of_starts, learner in zip(self.params, learners, strict=True):
            of_starts.append(learner.network(0))
        self.n_iterations += training.iteration
        self.n_rows += training.n_rows_done

    def state(self) -> dict[str, Tensor]:
        """Everything, as flat named tensors: of each network, with the starts in front."""
        tensors = {"counts": torch.tensor([self.n_starts, self.n_iterations, self.n_rows])}
        for i, of_starts in enumerate(self.params):
            for name in of_starts[0] if of_starts else ():
                tensors[f"{i}.params.{name}"] = torch.stack([p[name] for p in of_starts])
        return tensors

    def load_state(
        self, tensors: Mapping[str, Tensor], untrained: Sequence[Sequence[Mapping[str, Tensor]]]
    ) -> None:
        """Go on from a state.

        Raises:
            ValueError: its tensors are not those of some of these starts' networks.
        """
        n_starts, n_iterations, n_rows = tensors["counts"].tolist()
        if not (0 <= n_starts < len(untrained[0]) and min(n_iterations, n_rows) >= 0):
            raise ValueError(f"state: {n_starts} of {len(untrained[0])} starting models are done")
        for i, of_starts in enumerate(untrained):
            live = {
                f"{i}.params.{name}": torch.zeros(n_starts, *p.shape)
                for name, p in of_starts[0].items()
                if n_starts
            }
            restore(live, {name: t for name, t in tensors.items() if name.startswith(f"{i}.")})
            self.params[i] = [
                {name: live[f"{i}.params.{name}"][start] for name in of_starts[0]}
                for start in range(n_starts)
            ]
        self.n_iterations, self.n_rows = n_iterations, n_rows


class PretrainingPhase:
    """Trains, checks and saves the starting models.

    Attributes:
        untrained: parameters of each start's network before training, for each network.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        config, setup = parts.config, parts.setup
        self._seeds = [
            draws.start_seed(config.seed, start) for start in range(config.experiment.n_starts)
        ]
        self.untrained = parts.starting or [
            [
                network.model.init(draws.key(seed, f"init {network.draws_as}"))
                for seed in self._seeds
            ]
            for network in setup.networks
        ]
        self._done = _Done(len(setup.networks))
        self._learners: list[Learner] = []
        self._look: Look | None = None

    def run(self, checkpoint: Checkpoint | None) -> list[list[dict[str, Tensor]]]:
        """Parameters of each start's network, for each network.

        Args:
            checkpoint: of this phase, to go on from.
        """
        parts, config = self._parts, self._parts.config.pretrain
        if not config.enabled:
            return self.untrained
        environment, targets = parts.setup.environment, parts.setup.targets
        sources = [environment.pretraining(targets, start) for start in range(len(self._seeds))]
        n_rows = [min(rows.n_rows, config.max_rows or sys.maxsize) for rows in sources]
        if not all(n_rows):
            how = "as they were loaded" if parts.starting else "untrained"
            parts.warnings.add("no_pretraining_rows", f"no row to pretrain on: models start {how}")
            return self.untrained
        if checkpoint is not None:
            with of_this_run(checkpoint):
                self._done.load_state(checkpoint.part("done"), self.untrained)
        first = self._done.n_starts
        with PhaseProgress(PHASE, sum(n_rows) * config.epochs, "rows") as progress:
            progress.skip(self._done.n_rows)
            for start in range(first, len(self._seeds)):
                own = checkpoint if start == first else None
                self._train(start, _CountingRows(sources[start], progress), own)
        return self._done.params

    def _train(self, start: int, rows: _CountingRows, checkpoint: Checkpoint | None) -> None:
        """Train a start's networks, to the end."""
        parts, setup = self._parts, self._parts.setup
        self._learners = [
            Learner.start(
                network.model, network.heads, setup.device, of_starts[start], 1, network.shared
            )
            for network, of_starts in zip(setup.networks, self.untrained, strict=True)
        ]
        training = self._pretraining(start, rows)
        if checkpoint is not None:
            with of_this_run(checkpoint):
                training.load_state(checkpoint.part("pretraining"))
                done = self._done.n_iterations + training.iteration
                if checkpoint.name != f"{PHASE}_{done}":
                    raise ValueError(f"is of iteration {done}")
            rows.progress.skip(training.n_rows_done)
        for check in self._advance(training):
            assert self._look is not None  # a check validates
            predictions = list(parts.validator.predictions(self._look))
            self._record(start, check, predictions, is_over=training.is_done)
            self._keep_best(start, check.iteration, predictions)
            self._save(training)
            parts.track("pretrain_tracking")
        self._done.add(training, self._learners)

    def _pretraining(self, start: int, rows: RowSource) -> Pretraining:
        parts, config = self._parts, self._parts.config
        names = [network.draws_as for network in parts.setup.networks]
        return Pretraining(
            self._learners,
            [network.pretrain_optimizer for network in parts.setup.networks],
            rows,
            rows.n_rows,
            partial(self._validate, start),
            PretrainSettings(
                self._seeds[start],
                config.pretrain.batch_size,
                config.pretrain.epochs,
                config.pretrain.max_rows,
                config.pretrain.validate_every_iters,
                config.pretrain.early_stopping,
            ),
            [network.labels for network in parts.setup.networks],
            [names.index(name) for name in names],
        )

    def _advance(self, training: Pretraining) -> Iterator[Check]:
        """Train to the end; saves between checks where that is asked for."""
        every = self._parts.config.pretrain.save_every_iters
        while not training.is_done:
            check = training.advance()
            self._parts.n_rows_pretrained = self._done.n_rows + training.n_rows_done
            if check is not None:
                yield check
            elif every is not None and training.iteration % every == 0:
                self._save(training)
            self._parts.interrupts.check()
        training.finish()

    def _validate(self, start: int) -> tuple[float, ...]:
        with self._parts.clock.timed("pretrain_validation"):
            self._look = self._parts.validator.look(self._learners, torch.tensor([start]))
        return tuple(self._look.loss_SK[0].tolist())

    def _record(
        self, start: int, check: Check, predictions: Sequence[Figures], *, is_over: bool
    ) -> None:
        """The metrics of a check, and the log's lines; refuses what cannot learn or predict."""
        parts, at = self._parts, check.iteration
        is_only, seen = len(self._seeds) == 1, parts.validator.held_out[start]
        world, name = (None, "") if is_only else (start, f"starting model {start}, ")
        names = ["starting model" if is_only else f"starting model {start}"]
        size = f"{seen.n_users:,} held-out users, {seen.n_rows:,} rows"
        for i, found in enumerate(predictions):
            parts.recorder.metric(
                PHASE, at, "", world, "start", found.label, "train", LOSS, check.training_L[i],
                check.n_rows,
            )  # fmt: skip
            parts.recorder.figures(PHASE, at, [("", world, "start")], "validation", found)
            text = ", ".join(f"{name} {float(v[0]):.4g}" for name, v in found.values.items())
            logger.info(
                "[pretrain] %siteration %d: %s: training loss %.4f; validation (%s): %s",
                name, at, found.label, check.training_L[i], size, text,
                extra=DETAIL if start else None,
            )  # fmt: skip
        for network, learner in zip(parts.setup.networks, self._learners, strict=True):
            n_updates_S, n_skipped_S = learner.n_updates_S.cpu(), learner.n_skipped_S.cpu()
            refuse_skips(
                n_updates_S,
                n_skipped_S,
                network.name,
                names,
                PHASE,
                parts.config.pretrain.max_skipped_share,
                parts.config.use_amp,
                is_over=is_over,
            )
            if is_over:
                warn_of_updates(network.name, int(n_skipped_S.sum()), PHASE, parts.warnings)
        for label, found in zip(parts.setup.labels, predictions, strict=True):
            refuse_predictions(found, names, label.components)

    def _keep_best(self, start: int, iteration: int, predictions: Sequence[Figures]) -> None:
        """Keep the networks as they are, if they are better by some metric than before."""
        parts = self._parts
        values = {
            f"{found.label}.{metric}": float(value_S[0])
            for found in predictions
            for metric, value_S in found.values.items()
        }

        def write(path: Path) -> None:
            params = [learner.params for learner in self._learners]
            networks_of(parts.setup, PHASE, iteration, [("", start, START)], params).write(path)

        with parts.clock.timed("pretrain_checkpoint"), parts.interrupts.postponed():
            name = f"start_{start}_{PHASE}_{iteration}"
            parts.checkpoints.keep_best(f"start_{start}", values, name, write)

    def _save(self, training: Pretraining) -> None:
        parts, at = self._parts, self._done.n_iterations + training.iteration
        with parts.clock.timed("pretrain_checkpoint"), parts.interrupts.postponed():
            state = parts.state(PHASE)  # flushes the recorder first
            tensors = {f"pretraining.{k}": t for k, t in training.state().items()}
            tensors |= {f"done.{k}": t for k, t in self._done.state().items()}
            tensors |= parts.tensors()
            parts.checkpoints.save(f"{PHASE}_{at}", tensors, state)
