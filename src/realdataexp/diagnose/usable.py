"""Whether a subject's parts do what they must, before checks look at them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from realdataexp.diagnose.subject import (
    Batch,
    Recommended,
    Subject,
    changes_of,
    rows_of,
    tensors_of,
)
from realdataexp.errors import InputError
from realdataexp.registry import calling


@torch.random.fork_rng(devices=[])
def usable(subject: Subject, seed: int) -> Subject:
    """A subject whose model, batches and loss can be learned from, with what it leaves out.

    Raises:
        InputError: they cannot.
    """
    fresh = None if subject.fresh is None else _seeded(subject.fresh, seed)
    _require_values(subject)
    subject = replace(
        subject, model=_seeded(subject.model, seed), fresh=fresh, batches=_at_most(subject.batches)
    )
    model = _model(subject)
    with calling(subject.name, "its batches", InputError):
        batches = subject.batches(2)
    if not batches:
        raise InputError(f"{subject.name}: there are no batches; return at least one")
    for i, batch in enumerate(batches):
        _require_rows(subject, batch, i)
        _require_loss(subject, model, batches, i)
    return subject if subject.changes else replace(subject, changes=changes_of(batches[0]))


def _require_values(subject: Subject) -> None:
    for name in ("learning_rate", "entropy"):
        value = getattr(subject, name)
        if value is not None and not (isinstance(value, int | float) and 0 < value < math.inf):
            raise InputError(f"{subject.name}: {name} is {value!r}: pass a number above 0")
    if not isinstance(subject.recommended, Recommended | None):
        raise InputError(
            f"{subject.name}: recommended must be a realdataexp.diagnose.Recommended, not "
            f"{type(subject.recommended).__name__}"
        )


def _at_most(make: Callable[[int], Iterable[Batch]]) -> Callable[[int], list[Batch]]:
    """The first n of the batches, where there are more, as of a loader."""
    return lambda n: list(itertools.islice(make(n), n))


def _seeded(make: Callable[[], nn.Module], seed: int) -> Callable[[], nn.Module]:
    """The same, whatever was drawn before."""

    def model() -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return make()

    return model


def _model(subject: Subject) -> nn.Module:
    who = subject.name
    with calling(who, "its model", InputError):
        model, again = subject.model(), subject.model()
    if not isinstance(model, nn.Module):
        raise InputError(f"{who}: model must return a torch.nn.Module, not {type(model).__name__}")
    if model is again:
        raise InputError(
            f"{who}: model returned the same module twice: return a new one, such as "
            "copy.deepcopy(it), as checks change what they get"
        )
    other = dict(again.named_parameters())
    for name, p in model.named_parameters():
        if p.is_meta:
            raise InputError(f"{who}: {name} of model has no values (device meta): load them")
        if name not in other or not torch.equal(p, other[name]):
            raise InputError(
                f"{who}: two calls of model differ in {name}: seed whatever it draws by"
            )
    return model.train()


def _require_rows(subject: Subject, batch: Batch, i: int) -> None:
    """Of a batch that is cut by its tensors' rows, these must be as many."""
    if subject.rows is not rows_of:
        return
    found = tensors_of(batch)
    if not found:
        raise InputError(
            f"{subject.name}: batch {i} has no tensor in it: pass rows and size to the Subject"
        )
    n_rows = {name: len(x) if x.dim() else None for name, x in found.items()}
    first, n = next(iter(n_rows.items()))
    if n == 0:
        raise InputError(f"{subject.name}: batch {i} has no examples: leave it out")
    for name, own in n_rows.items():
        if own is None or own != n:
            said = "is a single number" if own is None else f"has {own} rows"
            raise InputError(
                f"{subject.name}: batch {i}: {name} {said}, and {first} {n}: make them as many, or "
                "pass rows and size to the Subject"
            )


def _require_loss(subject: Subject, model: nn.Module, batches: Sequence[Batch], i: int) -> None:
    who = f"{subject.name}: batch {i}"
    differs = _difference(batches[0], batches[i])
    with calling(who + (f", where {differs}" if differs else ""), "its loss", InputError):
        loss = subject.loss(model, batches[i])
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        is_tensor = isinstance(loss, Tensor)
        found = f"of shape {tuple(loss.shape)}" if is_tensor else f"a {type(loss).__name__}"
        raise InputError(
            f"{who}: the loss must be a tensor of one number, not {found}: return the mean that "
            "backward is called on"
        )
    if not loss.requires_grad:
        raise InputError(
            f"{who}: the loss has no gradient: compute it from parameters that require one, "
            "without no_grad or detach"
        )
    if not torch.isfinite(loss).all():
        raise InputError(
            f"{who}: the loss is {loss.item()}: look for values that are not finite in the batch, "
            "and for logarithms of 0 and divisions by it"
        )


def _difference(first: Batch, batch: Batch) -> str:
    """How an input's shape differs from that in the first batch, but for the rows."""
    shapes = {name: tuple(x.shape[1:]) for name, x in tensors_of(first).items()}
    for name, x in tensors_of(batch).items():
        if name in shapes and shapes[name] != tuple(x.shape[1:]):
            own, other = tuple(x.shape[1:]), shapes[name]
            return f"rows of {name} have shape {own} (in batch 0: {other})"
    return ""
