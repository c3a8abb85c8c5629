"""The starting model that all worlds share, trained on rows that are not replayed.

Axes: B rows of a batch, L labels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from realdataexp import draws
from realdataexp.learner import Learner, OptimizerSettings
from realdataexp.worlds.base import RowSource


@dataclass(frozen=True)
class PretrainSettings:
    """How the starting model is trained; see the config's block ``pretrain``."""

    seed: int
    batch_size: int
    epochs: int
    max_rows: int | None
    validate_every: int | None
    early_stopping: int | None


@dataclass(frozen=True)
class Check:
    """A look at the models while they pretrain.

    Attributes:
        iteration: batches done.
        training_L, validation_L: mean losses since the last check (NaN where a label learned
            nothing), and on validation rows.
        n_rows: rows trained on so far.
    """

    iteration: int
    training_L: tuple[float, ...]
    validation_L: tuple[float, ...]
    n_rows: int


def pretrain(
    learners: Sequence[Learner],
    optimizers: Sequence[OptimizerSettings],
    reader: RowSource,
    n_rows: int,
    validate: Callable[[], tuple[float, ...]],
    settings: PretrainSettings,
) -> Iterator[Check]:
    """Train the learners (one network each) in place; yields at each check.

    With early stopping a label's network stops after that many checks without a better validation
    loss, and ends as it was at its best check.

    Args:
        learners: L of them.
        optimizers: theirs.
        reader: reads training rows.
        n_rows: how many there are.
        validate: the mean validation loss of each label.
        settings: the rest.
    """
    best = [_Best(settings.early_stopping) for _ in learners]
    losses_L: list[list[Tensor]] = [[] for _ in learners]
    n_done = 0
    for iteration, (place_B, is_last) in enumerate(_batches(n_rows, settings), start=1):
        batch, y_L = reader.read(place_B)
        for i, (learner, optimizer) in enumerate(zip(learners, optimizers, strict=True)):
            if best[i].has_stopped:
                continue
            key_S = draws.key(settings.seed, f"pretrain dropout {i}", torch.tensor([iteration]))
            ones_SB = torch.ones_like(y_L[i])
            loss_S = learner.update(batch, y_L[i], ones_SB, optimizer, key_S.to(y_L[i].device))
            losses_L[i].append(loss_S[0])
        n_done += len(place_B)
        if is_last or (settings.validate_every and iteration % settings.validate_every == 0):
            validation_L = validate()
            for state, learner, loss in zip(best, learners, validation_L, strict=True):
                state.look(learner, loss)
            training_L = tuple(_mean(losses) for losses in losses_L)
            yield Check(iteration, training_L, validation_L, n_done)
            losses_L = [[] for _ in learners]
            if all(state.has_stopped for state in best):
                break
    for state, learner in zip(best, learners, strict=True):
        state.restore(learner)


def _mean(losses: list[Tensor]) -> float:
    """Mean of the batches that had something to learn from; NaN where there was none."""
    return float(torch.stack(losses).nanmean()) if losses else float("nan")


def _batches(n_rows: int, settings: PretrainSettings) -> Iterator[tuple[np.ndarray, bool]]:
    """Places of each batch, and whether it is an epoch's last one."""
    rows = draws.subset(
        draws.key(settings.seed, "pretrain rows"), n_rows, settings.max_rows or n_rows
    ).numpy()
    for epoch in range(settings.epochs):
        order = draws.permutation(draws.key(settings.seed, "pretrain order", epoch), len(rows))
        for start in range(0, len(rows), settings.batch_size):
            end = start + settings.batch_size
            yield rows[order[start:end].numpy()], end >= len(rows)


class _Best:
    """A label's best check so far, where early stopping is asked for."""

    def __init__(self, patience: int | None) -> None:
        self._patience, self._n_worse, self._loss = patience, 0, float("inf")
        self._params: dict[str, Tensor] | None = None
        self.has_stopped = False

    def look(self, learner: Learner, loss: float) -> None:
        if self._patience is None or self.has_stopped:
            return
        if loss < self._loss:
            self._loss, self._n_worse, self._params = loss, 0, learner.network(0)
        else:
            self._n_worse += 1
            self.has_stopped = self._n_worse >= self._patience

    def restore(self, learner: Learner) -> None:
        for name, value in (self._params or {}).items():
            learner.params[name][0] = value
