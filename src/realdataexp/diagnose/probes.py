"""What several checks do with a subject: still modes, small pieces of batches, a few updates."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn

from realdataexp.diagnose.subject import Batch, CannotTell, Subject

_N_BATCHES = 20
_DRAWN = 0.1  # of parameters that are 0


def still(model: nn.Module) -> nn.Module:
    """A model in training mode but for what is random, or takes statistics of its batch."""
    model.train()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
        for name, value in vars(module).items():  # of attention, recurrent layers, and others' own
            if "drop" in name and isinstance(value, float):
                setattr(module, name, 0.0)
    return model


def awake(model: nn.Module, seed: int) -> nn.Module:
    """A model whose trained parameters that are 0 in every number are drawn."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad and not p.any():
                p.copy_(_DRAWN * torch.randn(p.shape, generator=generator))
    return model


def fresh(subject: Subject) -> nn.Module:
    """The model before its first step; CannotTell where only the trained one is known."""
    if subject.fresh is not None:
        return subject.fresh()
    if subject.is_trained:
        raise CannotTell("the model before its first step is missing: pass fresh to the Subject")
    return subject.model()


def pieces(subject: Subject, n: int, size: int, seed: int) -> list[Batch]:
    """Some pieces of at most ``size`` examples each, drawn from the first batches in turn."""
    generator, found = torch.Generator().manual_seed(seed), []
    for batch in itertools.islice(itertools.cycle(subject.batches(min(n, _N_BATCHES))), n):
        order = torch.randperm(subject.n_examples(batch), generator=generator)
        found.append(subject.rows(batch, order[:size].sort().values))
    return found


def outputs(subject: Subject, model: nn.Module, batch: Batch) -> Tensor:
    """What a model makes of a batch; CannotTell where a subject has no outputs."""
    if subject.outputs is None:
        raise CannotTell("outputs are missing: pass outputs to the Subject")
    return subject.outputs(model, batch).detach()


def apart(a: Tensor, b: Tensor) -> float:
    """The largest difference of two outputs, against the root mean square of the second."""
    if a.shape != b.shape:
        raise CannotTell(f"outputs that must be alike have shapes {[*a.shape]} and {[*b.shape]}")
    size = float(b.double().square().mean().sqrt())
    return float((a.double() - b.double()).abs().max()) / size if size else float((a != b).any())


def losses(subject: Subject, model: nn.Module, batches: Sequence[Batch]) -> Tensor:
    """The loss of each batch, in evaluation mode; what it draws is the same in every call."""
    model.eval()
    found = []
    with torch.no_grad():
        for i, batch in enumerate(batches):
            torch.manual_seed(i)
            found.append(float(subject.loss(model, batch)))
    return torch.tensor(found, dtype=torch.float64)


def updates(
    subject: Subject, model: nn.Module, batches: Iterable[Batch], rate: float
) -> Iterator[float]:
    """Updates by the subject's own optimiser at a learning rate; each batch's loss before its own.

    Gradients are clipped to norm 1, as trainings of transformers do; what the loss draws is the
    same in every call.
    """
    if subject.optimizer is None:
        raise CannotTell("the optimiser is missing: pass optimizer to the Subject")
    optimizer = subject.optimizer(model)
    for group in optimizer.param_groups:
        group["lr"] = rate
    still(model)
    for i, batch in enumerate(batches):
        torch.manual_seed(i)
        optimizer.zero_grad()
        loss = subject.loss(model, batch)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        yield float(loss.detach())
