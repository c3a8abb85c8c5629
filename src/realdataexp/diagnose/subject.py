"""What a diagnosis looks at: a model, its batches and its loss, and what else there is to ask.

Anybody's training becomes a `Subject` by a callable that makes one. The first three parts are all
that it needs; a check that wants more, and does not find it, cannot tell.

Axes: B examples of a batch, X rows of an output, V items, L codes of an item, D numbers of a
vector, Q questions, K places of a list, T items of a history.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from realdataexp.sequences.histories import Questions, Split

Batch = Any
Change = Callable[[Batch, torch.Generator], Batch]
_LEAST_CHANGED = 0.05


class CannotTell(Exception):
    """A check lacks something that it needs; the message says what."""


@dataclass(frozen=True)
class Recommended:
    """A recommender of items, and what it was trained on.

    Attributes:
        split: histories and questions.
        scores: of all items after histories (B, T; -1 after the last item) by a model: B, V.
        codes_VL, vector_VD: what the model is shown of items; None: nothing.
        is_likelihood: whether scores are log-probabilities of the items.
        search: the items that a model's own search finds for histories, best first: B, K, a row
            each; None: it ranks all.
        reported, validated: of a run that has ended, `rank_Q` of all questions of the test and of
            the validation; None: none.
        is_given: whether the vectors were made elsewhere, of whatever interactions.
        judged: of a model's answers to questions, the metrics of the training's own evaluation,
            under the names ``hit@10``, ``ndcg@10`` and ``mrr``, and the lists judged: Q, K.
        learned: at each place that one epoch learns from, the item read last and the one to be
            found: X and X.
        batch_of: a batch that learns each next item of these histories: B, T, no padding.
        written: of each item, the text that answers are compared by; None: numbers are compared.
    """

    split: Split
    scores: Callable[[nn.Module, np.ndarray], np.ndarray]
    codes_VL: np.ndarray | None = None
    vector_VD: np.ndarray | None = None
    is_likelihood: bool = False
    search: Callable[[nn.Module, np.ndarray, int], np.ndarray] | None = None
    reported: np.ndarray | None = None
    validated: np.ndarray | None = None
    is_given: bool = False
    judged: Callable[[nn.Module, Questions], tuple[Mapping[str, float], np.ndarray]] | None = None
    learned: Callable[[], tuple[np.ndarray, np.ndarray]] | None = None
    batch_of: Callable[[Tensor], Batch] | None = None
    written: Sequence[str] | None = None


class Step(Protocol):
    """One process's part of a training step, up to the gradients that the optimiser would use."""

    def __call__(self, model: nn.Module, batch: Batch, rank: int, n: int) -> None:
        """In a process group of ``n``, of whose ``batch`` this process takes its share."""


def mapped(batch: Batch, change: Callable[[str, Tensor], Tensor], name: str = "") -> Batch:
    """A batch of tensors, mappings, lists and tuples with a function of each tensor's name."""
    if isinstance(batch, Tensor):
        return change(name or "batch", batch)
    named = name and f"{name}."
    if isinstance(batch, Mapping):
        parts = {k: mapped(x, change, f"{named}{k}") for k, x in batch.items()}
        return type(batch)(parts)  # type: ignore[call-arg]
    if isinstance(batch, list | tuple):
        names = getattr(batch, "_fields", range(len(batch)))
        make = getattr(type(batch), "_make", type(batch))
        return make(mapped(x, change, f"{named}{k}") for k, x in zip(names, batch, strict=True))
    return batch


def tensors_of(batch: Batch) -> dict[str, Tensor]:
    """The tensors of a batch by name, such as inputs.ids, or 0 of a tuple."""
    found: dict[str, Tensor] = {}
    mapped(batch, lambda name, x: found.setdefault(name, x))
    return found


def rows_of(batch: Batch, rows: slice | Tensor) -> Batch:
    """Some examples of a batch: of every tensor in it, these rows."""
    return mapped(batch, lambda _, x: x[rows].contiguous())


def changes_of(batch: Batch) -> dict[str, Change]:
    """Of each tensor of a batch whose rows differ, the batch with these rows permuted."""
    return {
        name: partial(_permuted, name)
        for name, x in tensors_of(batch).items()
        if x.dim() and varies(x)
    }


def varies(x: Tensor) -> bool:
    """Whether permuting rows would change at least some in twenty, so that small pieces show it."""
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    is_changed = (x != x[order]).reshape(len(x), -1).any(dim=1)
    return float(is_changed.float().mean()) >= _LEAST_CHANGED


def _permuted(name: str, batch: Batch, generator: torch.Generator) -> Batch:
    def change(own: str, x: Tensor) -> Tensor:
        return x[torch.randperm(len(x), generator=generator)] if own == name else x

    return mapped(batch, change)


@dataclass(frozen=True)
class Subject:
    """A training, as checks see it.

    Attributes:
        name: what a report calls it.
        model: a model with the parameters that are to be looked at; every call makes a new one,
            which is the same (PyTorch's own draws are seeded).
        batches: the first n batches of the training.
        loss: the mean loss of a batch by a model, whose gradient is learned from.
        optimizer: of a model, as the training makes it; None: none is known.
        rows: some examples of a batch: ``rows(batch, slice or numbers)``.
        size: how many examples a batch has.
        changes: of each input by name, the batch with this input permuted among its examples;
            none: of each tensor in mappings, lists and tuples.
        shown: the features of a batch's examples by name (B, or B and whatever), and what is to be
            predicted of each (B, or B, J; NaN: unknown); None: this is not known.
        outputs: what the model makes of a batch, a row for each example or position: X, …
        future: the batch with other values for what comes later, and which rows X of the outputs
            must stay as they are; None: there is no order in it.
        step: how a process of several learns from its share of a batch; None: by PyTorch's
            DistributedDataParallel, whose shares are every n-th example.
        entropy: nats of a guess that knows nothing, which the first loss should be near; None:
            not known.
        learning_rate: of the training; None: not known.
        is_trained: whether the parameters are those of a training that has ended.
        fresh: the model before its first step; None: it is ``model``, where that is not trained.
        frozen: names of parameters that must not change, or of modules of such.
        adapters: names of parameters, or of modules, that lead an additional input into the model.
        recommended: what it recommends; None: not a recommender of items.
        folder: of a finished run; None: there is none.
        data: a digest of the data that it is trained on, for the record; empty: none is known.
    """

    name: str
    model: Callable[[], nn.Module]
    batches: Callable[[int], Sequence[Batch]]
    loss: Callable[[nn.Module, Batch], Tensor]
    optimizer: Callable[[nn.Module], torch.optim.Optimizer] | None = None
    rows: Callable[[Batch, slice | Tensor], Batch] = rows_of
    size: Callable[[Batch], int] | None = None
    changes: Mapping[str, Change] = field(default_factory=dict)
    shown: Callable[[Batch], tuple[Mapping[str, Tensor], Tensor]] | None = None
    outputs: Callable[[nn.Module, Batch], Tensor] | None = None
    future: Callable[[Batch, torch.Generator], tuple[Batch, Tensor]] | None = None
    step: Step | None = None
    entropy: float | None = None
    learning_rate: float | None = None
    is_trained: bool = False
    fresh: Callable[[], nn.Module] | None = None
    frozen: Sequence[str] = ()
    adapters: Sequence[str] = ()
    recommended: Recommended | None = None
    folder: Path | None = None
    data: str = ""

    def n_examples(self, batch: Batch) -> int:
        """How many examples a batch has: of its first tensor, the rows."""
        if self.size is not None:
            return self.size(batch)
        return len(first_tensor(batch))


def first_tensor(batch: Batch) -> Tensor:
    """The first tensor in a batch; CannotTell where there is none."""
    for found in tensors_of(batch).values():
        return found
    raise CannotTell(
        f"a batch is of type {type(batch).__name__}: pass rows and size to the Subject"
    )
