"""Training a sequence model: all positions of a user in one pass, by one process or several.

What is random is a function of (seed, purpose, epoch, batch), not of what came before; so a state
is parameters, moments and counters, and a training that goes on from one is the same to the bit.

Axes: U users, B histories of a batch, T their items, X positions with a next item, V items of the
catalogue, E width, Q questions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from realdataexp import draws
from realdataexp.device import Device
from realdataexp.errors import RunError
from realdataexp.models.base import restore
from realdataexp.models.sequence import Items, SequenceModel
from realdataexp.options import Count, Decay, Options, Rate
from realdataexp.sequences.histories import Split
from realdataexp.train.ranks import Ranks

_POOL = 32  # batches whose users are sorted by length


class Training(Options):
    """How a model is trained."""

    epochs: Count = Field(16, description="passes over the users")
    users_per_batch: Count = Field(256, description="users of a batch, over all processes")
    learning_rate: Rate = Field(1e-3, description="the largest learning rate, of AdamW")
    weight_decay: Decay = Field(0.01, description="weight decay of AdamW")
    warmup_steps: int = Field(
        100, ge=0, le=10**9, description="updates over which the learning rate rises from near 0"
    )
    schedule: Literal["constant", "linear", "cosine"] = Field(
        "constant", description="how the learning rate changes from there to the last epoch's end"
    )
    gradient_clip: Rate | None = Field(
        1.0, description="largest norm of a gradient; null: no clipping"
    )
    early_stopping: Count | None = Field(
        None,
        description="epochs without a better validation NDCG before it stops; null: never",
    )
    processes: Count = Field(
        1, description="processes of this machine that share each batch, on a CPU"
    )


@dataclass(frozen=True)
class Passage:
    """Some users' histories, and what came next after each of their items.

    Attributes:
        item_BT: items, oldest first, right-padded with item 0.
        place_X: where in ``item_BT``, flattened, a next item is known.
        target_X: that item.
        n_positions: how many there are in the whole batch, over all processes.
    """

    item_BT: Tensor
    place_X: Tensor
    target_X: Tensor
    n_positions: int


class Passages:
    """The batches of each epoch: users of about the same length together, in a seeded order."""

    def __init__(
        self, split: Split, longest: int, options: Training, seed: int, device: Device
    ) -> None:
        histories, end_U = split.histories, split.train_end_U
        start_U = np.maximum(histories.offset_U1[:-1], end_U - longest - 1)
        is_trained_U = end_U - start_U > 1
        self._item_N = histories.item_N
        self._start_U, self._n_U = start_U[is_trained_U], (end_U - start_U)[is_trained_U]
        self._size, self._seed, self._device = options.users_per_batch, seed, device
        self.n_batches = -(-len(self._n_U) // self._size)
        self.n_positions = int((self._n_U - 1).sum())

    def epoch(self, epoch: int, first: int, ranks: Ranks) -> Iterator[Passage]:
        """A process's share of the batches of an epoch, from the ``first`` on."""
        for user_B in self._order(epoch)[first:]:
            yield self._passage(user_B, ranks)

    def _order(self, epoch: int) -> list[np.ndarray]:
        rng = np.random.default_rng(int(draws.key(self._seed, "batches", epoch)) & (2**63 - 1))
        user_U = rng.permutation(len(self._n_U))
        pool = _POOL * self._size
        pools = (user_U[i : i + pool] for i in range(0, len(user_U), pool))
        batches = [batch for x in pools for batch in self._batches(x)]
        return [batches[i] for i in rng.permutation(len(batches))]

    def _batches(self, user_U: np.ndarray) -> list[np.ndarray]:
        """Users by length, in batches of about as many positions, so that all count alike."""
        user_U = user_U[np.argsort(self._n_U[user_U], kind="stable")]
        n = -(-len(user_U) // self._size)
        place_B = np.arange(1, n)
        total_U = (self._n_U[user_U] - 1).cumsum()
        cut_B = np.searchsorted(total_U, place_B * total_U[-1] / n)
        cut_B = np.maximum.accumulate(np.maximum(cut_B, 1) - place_B) + place_B  # none is empty
        return np.split(user_U, np.minimum(cut_B, len(user_U) - n + place_B))

    def _passage(self, user_B: np.ndarray, ranks: Ranks) -> Passage:
        own_B = user_B[ranks.rank :: ranks.n]
        n_B = self._n_U[own_B] - 1
        place_T = np.arange(n_B.max(initial=1))
        is_there_BT = place_T < n_B[:, None]
        place_BT = np.where(is_there_BT, self._start_U[own_B, None] + place_T, 0)
        item_BT = np.where(is_there_BT, self._item_N[place_BT], 0).astype(np.int64)
        target_X = self._item_N[place_BT[is_there_BT] + 1].astype(np.int64)
        to = self._device.tensor
        return Passage(
            to(item_BT),
            to(np.flatnonzero(is_there_BT)),
            to(target_X),
            int((self._n_U[user_B] - 1).sum()),
        )


def loss_of(model: SequenceModel, batch: Passage, catalogue: Items) -> Tensor:
    """The mean negative log-likelihood of the next items; of a share of a batch, its part of it."""
    shown = {name: x[batch.item_BT] for name, x in catalogue.items()}
    hidden_NE = model.encode(model.embed(shown)).flatten(0, 1)
    losses_X = model.losses(hidden_NE[batch.place_X], batch.target_X, catalogue)
    return losses_X.float().sum() / batch.n_positions


@dataclass
class Progress:
    """How far a training has come.

    Attributes:
        epoch, batch: what is next.
        step: updates so far.
        loss, norm: sums over the batches of the epoch so far; their first loss, and largest norm.
        best: the best validation value, of epoch ``best_epoch``.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    loss: float = 0.0
    first_loss: float = 0.0
    norm: float = 0.0
    largest_norm: float = 0.0
    best: float = -1.0
    best_epoch: int = -1


class Trainer:
    """A model in training."""

    def __init__(
        self,
        model: SequenceModel,
        catalogue: Items,
        passages: Passages,
        options: Training,
        seed: int,
        device: Device,
    ) -> None:
        self.model, self.catalogue, self.passages = model, catalogue, passages
        self.options, self.seed, self.device = options, seed, device
        self.ranks, self.progress = Ranks(), Progress()
        for unused in (model.scale, model.bias):  # which turn a score into a label's prediction
            unused.requires_grad_(False)
        self.trained = {k: p for k, p in model.named_parameters() if p.requires_grad}
        self.optimizer = torch.optim.AdamW(
            self.trained.values(),
            lr=options.learning_rate,
            weight_decay=options.weight_decay,
            fused=True,
        )
        self.scaler = torch.amp.GradScaler(device.torch.type, enabled=device.needs_scaling)
        self.best = {k: p.detach().clone() for k, p in self.trained.items()}

    @property
    def n_steps(self) -> int:
        """Updates until the last epoch's end."""
        return self.options.epochs * self.passages.n_batches

    def learning_rate(self, step: int) -> float:
        """The learning rate of an update, counted from 0."""
        options, warmup = self.options, self.options.warmup_steps
        if step < warmup:
            return options.learning_rate * (step + 1) / warmup
        done = (step - warmup) / max(1, self.n_steps - warmup)
        factor = {
            "constant": 1.0,
            "linear": 1.0 - done,
            "cosine": 0.5 + 0.5 * math.cos(math.pi * done),
        }[options.schedule]
        return options.learning_rate * factor

    def step(self, batch: Passage) -> tuple[float, float]:
        """One update; the loss before it, of the whole batch, and the norm of its gradient."""
        step = self.progress.step
        torch.manual_seed(int(draws.key(self.seed, "dropout", step, self.ranks.rank)))
        self.model.train()
        loss = self.gradients(batch)
        self.scaler.unscale_(self.optimizer)
        clip = self.options.gradient_clip or math.inf
        norm = nn.utils.clip_grad_norm_(list(self.trained.values()), clip)
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate(step)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return loss, float(norm)

    def gradients(self, batch: Passage) -> float:
        """The gradients of the whole batch's mean loss, of all processes' shares; and the loss."""
        self.optimizer.zero_grad()
        with self.device.autocast():
            loss = loss_of(self.model, batch, self.catalogue)
        self.scaler.scale(loss).backward()
        total = loss.detach().clone()
        self.ranks.add_up([total, *(_gradient(p) for p in self.trained.values())])
        return float(total)

    def updates(self) -> Iterator[bool]:
        """The rest of the epoch, an update at a time."""
        now = self.progress
        for batch in self.passages.epoch(now.epoch, now.batch, self.ranks):
            loss, norm = self.step(batch)
            if not math.isfinite(loss):
                raise RunError(
                    f"the loss of update {now.step} is {loss}: lower training.learning_rate, which "
                    f"is {self.options.learning_rate:g}"
                )
            now.first_loss = loss if now.batch == 0 else now.first_loss
            now.loss, now.norm = now.loss + loss, now.norm + norm
            now.largest_norm = max(now.largest_norm, norm)
            now.batch, now.step = now.batch + 1, now.step + 1
            yield True

    def end_epoch(self, value: float) -> bool:
        """Take in a validation's value, and begin the next epoch; whether it is the best yet."""
        now = self.progress
        is_best = value > now.best
        if is_best:
            now.best, now.best_epoch = value, now.epoch
            restore(self.best, {k: p.detach() for k, p in self.trained.items()})
        now.epoch, now.batch = now.epoch + 1, 0
        now.loss = now.norm = now.largest_norm = 0.0
        return is_best

    @property
    def is_over(self) -> bool:
        """Whether all epochs are done, or too many did not help."""
        now, patience = self.progress, self.options.early_stopping
        is_stuck = patience is not None and now.epoch - 1 - now.best_epoch >= patience
        return now.epoch >= self.options.epochs or (is_stuck and now.batch == 0)

    def use_best(self) -> None:
        """Take the parameters that validated best."""
        with torch.no_grad():
            restore(self.trained, self.best)

    # --- a state -----------------------------------------------------------------------------

    def state(self) -> dict[str, Tensor]:
        """All tensors that change, by name."""
        found = {f"model.{k}": p.detach() for k, p in self.trained.items()}
        found |= {f"best.{k}": p for k, p in self.best.items()}
        for k, p in self.trained.items():
            own = self.optimizer.state[p] or {
                "step": torch.zeros(()),
                "exp_avg": torch.zeros_like(p),
                "exp_avg_sq": torch.zeros_like(p),
            }
            self.optimizer.state[p] = own
            found |= {f"{name}.{k}": x for name, x in own.items()}
        found |= {f"scaler.{k}": torch.tensor(x) for k, x in self.scaler.state_dict().items()}
        return found

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from a state; ValueError where it is another model's."""
        with torch.no_grad():
            restore(self.state(), tensors)
        scaler = {k.partition(".")[2]: x.item() for k, x in tensors.items() if k[:7] == "scaler."}
        if scaler:
            self.scaler.load_state_dict(scaler)


def _gradient(parameter: Tensor) -> Tensor:
    """A parameter's gradient; zeros where nothing depends on it."""
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad
