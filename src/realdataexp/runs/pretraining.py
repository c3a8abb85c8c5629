"""The first phase of a run: the starting model that all worlds share."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from realdataexp import draws
from realdataexp.learner import Learner
from realdataexp.metrics import LOSS
from realdataexp.models import Batch
from realdataexp.pretrain import Check, Pretraining, PretrainSettings
from realdataexp.runs.checkpoint import Checkpoint
from realdataexp.runs.doubts import warn_of_updates
from realdataexp.runs.parts import Parts, of_this_run
from realdataexp.runs.progress import PhaseProgress
from realdataexp.runs.skips import refuse_predictions, refuse_skips
from realdataexp.runs.validation import Look
from realdataexp.worlds.base import RowSource

logger = logging.getLogger("realdataexp")

PHASE = "pretrain"
_START = [("", None, "start")]


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


class PretrainingPhase:
    """Trains, checks and saves the starting model."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        config, setup = parts.config, parts.setup
        self._starts = [
            network.model.init(draws.key(config.seed, f"init {network.name}"))
            for network in setup.networks
        ]
        self.learners = [
            Learner.start(network.model, network.heads, setup.device, start, 1)
            for network, start in zip(setup.networks, self._starts, strict=True)
        ]
        self._look: Look | None = None

    def run(self, checkpoint: Checkpoint | None) -> list[dict[str, Tensor]]:
        """Parameters of the starting model of each network.

        Args:
            checkpoint: of this phase, to go on from.
        """
        parts, config = self._parts, self._parts.config.pretrain
        if not config.enabled:
            return self._starts
        rows = parts.setup.environment.pretraining(parts.setup.targets)
        n_rows = min(rows.n_rows, config.max_rows or sys.maxsize)
        if n_rows == 0:
            text = "no row to pretrain on: models start untrained"
            parts.warnings.add("no_pretraining_rows", text)
            return self._starts
        with PhaseProgress(PHASE, n_rows * config.epochs, "rows") as progress:
            training = self._pretraining(_CountingRows(rows, progress))
            if checkpoint is not None:
                with of_this_run(checkpoint):
                    training.load_state(checkpoint.part("pretraining"))
                progress.skip(training.n_rows_done)
            for check in self._advance(training):
                self._record(check, is_over=training.is_done)
                self._save(training)
                parts.track("pretrain_tracking")
        return [learner.network(0) for learner in self.learners]

    def _pretraining(self, rows: RowSource) -> Pretraining:
        parts, config = self._parts, self._parts.config
        return Pretraining(
            self.learners,
            [network.pretrain_optimizer for network in parts.setup.networks],
            rows,
            rows.n_rows,
            self._validate,
            PretrainSettings(
                config.seed,
                config.pretrain.batch_size,
                config.pretrain.epochs,
                config.pretrain.max_rows,
                config.pretrain.validate_every_iters,
                config.pretrain.early_stopping,
            ),
            [network.labels for network in parts.setup.networks],
        )

    def _advance(self, training: Pretraining) -> Iterator[Check]:
        """Train to the end; saves between checks where that is asked for."""
        every = self._parts.config.pretrain.save_every_iters
        while not training.is_done:
            check = training.advance()
            self._parts.n_rows_pretrained = training.n_rows_done
            if check is not None:
                yield check
            elif every is not None and training.iteration % every == 0:
                self._save(training)
            self._parts.interrupts.check()
        training.finish()

    def _validate(self) -> tuple[float, ...]:
        with self._parts.clock.timed("pretrain_validation"):
            self._look = self._parts.validator.look(self.learners)
        return tuple(self._look.loss_SK[0].tolist())

    def _record(self, check: Check, *, is_over: bool) -> None:
        """The metrics of a check, and the log's lines; refuses what cannot learn or predict."""
        parts, at, names = self._parts, check.iteration, ["starting model"]
        assert self._look is not None  # a check validates
        predictions = list(parts.validator.predictions(self._look))
        for i, found in enumerate(predictions):
            parts.recorder.metric(
                PHASE, at, "", None, "start", found.label, "train", LOSS, check.training_L[i],
                check.n_rows,
            )  # fmt: skip
            parts.recorder.figures(PHASE, at, _START, "validation", found)
            text = ", ".join(f"{name} {float(v[0]):.4g}" for name, v in found.values.items())
            logger.info(
                "[pretrain] iteration %d: %s: training loss %.4f; validation (%s): %s",
                at, found.label, check.training_L[i], parts.validator.size, text,
            )  # fmt: skip
        for network, learner in zip(parts.setup.networks, self.learners, strict=True):
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

    def _save(self, training: Pretraining) -> None:
        parts, at = self._parts, training.iteration
        with parts.clock.timed("pretrain_checkpoint"), parts.interrupts.postponed():
            tensors = {f"pretraining.{k}": t for k, t in training.state().items()}
            tensors |= {f"recorder.{k}": t for k, t in parts.recorder.state().items()}
            state = parts.state(PHASE)
            parts.checkpoints.save(f"{PHASE}_{at}", tensors, state)
