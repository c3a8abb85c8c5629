"""The starting model that all worlds share, trained on rows that are not replayed.

Axes: B rows of a batch, L labels, J labels (heads) of a learner, N learners, T batches since the
last check.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from realdataexp import draws
from realdataexp.learner import Learner
from realdataexp.models.base import restore
from realdataexp.optimizers import OptimizerSettings
from realdataexp.worlds.base import RowSource


@dataclass(frozen=True)
class PretrainSettings:
    """How the starting model is trained; see the config's section ``pretrain``."""

    seed: int
    batch_size: int
    epochs: int
    max_rows: int | None
    validate_every: int | None
    early_stopping: int | None


@dataclass(frozen=True)
class Check:
    """A validation of the models while they pretrain.

    Attributes:
        iteration: batches done.
        training_L, validation_L: mean losses since the last check (NaN where a label learned
            nothing), and what ``validate`` said.
        n_rows: rows trained on so far.
    """

    iteration: int
    training_L: tuple[float, ...]
    validation_L: tuple[float, ...]
    n_rows: int


def rows_of(seed: int, n_rows: int, max_rows: int | None) -> np.ndarray:
    """Which rows a starting model learns from."""
    return draws.subset(draws.key(seed, "pretrain rows"), n_rows, max_rows or n_rows).numpy()


def order_of(seed: int, n_rows: int, epoch: int) -> np.ndarray:
    """In which order an epoch takes them."""
    return draws.permutation(draws.key(seed, "pretrain order", epoch), n_rows).numpy()


class Pretraining:
    """Trains learners (one network each) in place, a batch at a time, with a state to go on from.

    A network's validation value is the sum over its labels. With early stopping a network stops
    after that many checks without a better value, and ends as it was at its best check.
    """

    def __init__(
        self,
        learners: Sequence[Learner],
        optimizers: Sequence[OptimizerSettings],
        reader: RowSource,
        n_rows: int,
        validate: Callable[[], tuple[float, ...]],
        settings: PretrainSettings,
        labels_of: Sequence[Sequence[int]] | None = None,
        draws_as: Sequence[int] | None = None,
    ) -> None:
        """Join N learners and their rows.

        Args:
            learners: N of them.
            optimizers: theirs; a cosine schedule gets the number of updates here.
            reader: reads training rows, ``n_rows`` in all, with L labels.
            n_rows: see there.
            validate: a value of each label, lower = better, such as the mean validation loss.
            settings: the rest.
            labels_of: which labels the heads of each learner predict; None: a learner a label.
            draws_as: the learner whose dropout each has; None: its own.
        """
        self._draws_as = draws_as or range(len(learners))
        self._learners, self._reader, self._validate = learners, reader, validate
        self._settings = settings
        self._labels_of = labels_of or [(i,) for i in range(len(learners))]
        self._rows = rows_of(settings.seed, n_rows, settings.max_rows)
        self._per_epoch = max(1, -(-len(self._rows) // settings.batch_size))
        self._n_batches = self._per_epoch * settings.epochs if n_rows else 0
        self._order: tuple[int, np.ndarray] | None = None  # the epoch and its order of the rows
        self._optimizers = [
            replace(x, schedule=replace(x.schedule, n_updates=self._n_batches)) for x in optimizers
        ]
        self.iteration = 0
        self._losses_TL: list[Tensor] = []
        self._best_N = torch.full((len(learners),), torch.inf, dtype=torch.float64)
        self._n_worse_N = torch.zeros(len(learners), dtype=torch.int64)
        is_kept = settings.early_stopping is not None
        self._best_params = [learner.network(0) if is_kept else {} for learner in learners]

    @property
    def is_done(self) -> bool:
        """Whether all batches are done, or all networks have stopped."""
        has_stopped = [self._has_stopped(n) for n in range(len(self._learners))]
        return self.iteration >= self._n_batches or all(has_stopped)

    @property
    def n_rows_done(self) -> int:
        """Rows trained on so far."""
        epoch, batch = divmod(self.iteration, self._per_epoch)
        return epoch * len(self._rows) + batch * self._settings.batch_size

    def checks(self) -> Iterator[Check]:
        """Train to the end, from wherever it is; yields at each check."""
        while not self.is_done:
            if check := self.advance():
                yield check
        self.finish()

    def finish(self) -> None:
        """Give each network the parameters of its best check, where one was kept."""
        for learner, best, params in zip(
            self._learners, self._best_N.tolist(), self._best_params, strict=True
        ):
            if best < torch.inf:
                for name, value in params.items():
                    learner.params[name][0] = value

    def advance(self) -> Check | None:
        """Train on the next batch, and check where one is due."""
        batch, y_L = self._reader.read(self._next_places())
        self.iteration += 1
        loss_L = torch.full((len(y_L),), torch.nan, device=y_L[0].device)
        for n, (learner, places) in enumerate(zip(self._learners, self._labels_of, strict=True)):
            if self._has_stopped(n):
                continue
            purpose = f"pretrain dropout {self._draws_as[n]}"
            y_SBJ = torch.stack([y_L[i] for i in places], dim=-1)
            iteration_S = torch.full((1,), self.iteration, device=y_SBJ.device)
            key_S = draws.key(self._settings.seed, purpose, iteration_S)
            weight_SB = torch.ones_like(y_L[places[0]])
            settings, n_done = self._optimizers[n], self.iteration - 1
            loss_SJ = learner.update(batch, y_SBJ, weight_SB, settings, key_S, n_done)
            for i, loss_S in zip(places, loss_SJ.unbind(-1), strict=True):
                loss_L[i] = loss_S[0]
        self._losses_TL.append(loss_L)
        every = self._settings.validate_every
        is_due = every is not None and self.iteration % every == 0
        return self._check() if is_due or self.iteration % self._per_epoch == 0 else None

    def _next_places(self) -> np.ndarray:
        """The next batch's rows."""
        epoch, batch = divmod(self.iteration, self._per_epoch)
        if self._order is None or self._order[0] != epoch:
            self._order = (epoch, order_of(self._settings.seed, len(self._rows), epoch))
        start = batch * self._settings.batch_size
        return self._rows[self._order[1][start : start + self._settings.batch_size]]

    def _check(self) -> Check:
        validation_L = self._validate()
        for n, (learner, places) in enumerate(zip(self._learners, self._labels_of, strict=True)):
            value = sum(validation_L[i] for i in places)
            if not self._has_stopped(n):
                learner.observe(torch.tensor([value]), self._optimizers[n].schedule)
                self._keep_best(n, value)
        losses_LT = torch.stack(self._losses_TL, dim=1).cpu()
        self._losses_TL = []
        # of the batches that had something to learn from; NaN where there was none
        training_L = tuple(float(losses_T.nanmean()) for losses_T in losses_LT)
        return Check(self.iteration, training_L, validation_L, self.n_rows_done)

    def _keep_best(self, n: int, value: float) -> None:
        if self._settings.early_stopping is None:
            return
        if value < self._best_N[n]:
            self._best_N[n], self._n_worse_N[n] = value, 0
            self._best_params[n] = self._learners[n].network(0)
        else:
            self._n_worse_N[n] += 1

    def _has_stopped(self, n: int) -> bool:
        patience = self._settings.early_stopping
        return patience is not None and int(self._n_worse_N[n]) >= patience

    def state(self) -> dict[str, Tensor]:
        """Everything that changes while training, the learners too, as flat named tensors."""
        losses_TL = torch.zeros(0, sum(map(len, self._labels_of)))
        tensors = {
            "iteration": torch.tensor(self.iteration),
            "losses": torch.stack(self._losses_TL) if self._losses_TL else losses_TL,
            "best": self._best_N,
            "n_worse": self._n_worse_N,
        }
        for n, learner in enumerate(self._learners):
            tensors.update({f"best.{n}.{k}": p for k, p in self._best_params[n].items()})
            tensors.update({f"learner.{n}.{k}": x for k, x in learner.state().items()})
        return tensors

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from a state of the same settings; raises ValueError for another."""
        state = self.state()
        n_losses = tensors.get("losses", state["losses"]).shape[:1].numel()
        shape, device = (n_losses, state["losses"].shape[1]), self._learners[0].device.torch
        state["losses"] = torch.zeros(shape, device=device)
        restore(state, tensors)
        self.iteration = int(state["iteration"])
        self._losses_TL = list(state["losses"])
