"""Whether each input of the model reaches its loss, and whether a trained model uses it.

An input is permuted among the examples of small pieces of batches. Where not a bit of the loss
changes, nor of the gradient of any parameter, it is dead: this holds for a model before its first
step too, where what begins at zero (an adapter's last layer) changes no loss, but gets a gradient.

A trained model's loss must rise. The rises of 20 pieces are tested against 0 by a one-sided t
test; an input at p > .01 is not used if they are enough to tell: if the upper end of their 99 %
interval is below 1 % of what the model has learned, the nats by which its loss is below that of a
guess. So no more than 1 % of used inputs is blamed, those with a rise of just that size. A model
that has learned less than a tenth of a guess's loss may know no more than which labels are
frequent, and is not blamed for that.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from scipy import stats
from torch import Tensor, nn

from realdataexp.diagnose.finding import Measured
from realdataexp.diagnose.probes import losses, pieces, still
from realdataexp.diagnose.subject import Batch, CannotTell, Change, Subject

_N_PIECES, _SIZE = 20, 16
_P, _LEAST = 0.01, 0.01
_LEARNED = 0.1


@dataclass(frozen=True)
class _Rise:
    """Of the loss when an input is permuted; its standard error, and what that makes of it."""

    mean: float
    se: float
    is_dead: bool
    is_unused: bool = False


def check(subject: Subject, seed: int) -> Measured:
    """Permute each input; count those that are dead, or that a trained model does not use."""
    if not subject.changes:
        raise CannotTell("what permutes an input is missing: pass changes to the Subject")
    parts = pieces(subject, _N_PIECES, _SIZE, seed)
    rises = {k: _rise(subject, change, parts, seed) for k, change in subject.changes.items()}
    n = sum(x.is_dead or x.is_unused for x in rises.values())
    told = "; ".join(
        f"{k}: {'dead' if x.is_dead else 'not used' if x.is_unused else 'arrives'}, "
        f"the loss rises by {x.mean:.3g} ± {x.se:.2g}"
        for k, x in rises.items()
    )
    return Measured(
        n > 0, float(n), 0.0, f"permuted among examples, {told}",
        "follow the input from the batch to the loss: its name in the batch, what overwrites or "
        "detaches its output, and whether its parameters are in the optimiser",
    )  # fmt: skip


def _rise(subject: Subject, change: Change, parts: list[Batch], seed: int) -> _Rise:
    generator = torch.Generator().manual_seed(seed)
    others = [change(x, generator) for x in parts]
    model = subject.model()
    before_P, after_P = (losses(subject, model, x) for x in (parts, others))
    rise_P = after_P - before_P
    mean, se = float(rise_P.mean()), float(rise_P.std()) / len(parts) ** 0.5
    if not rise_P.any() and _is_blind(subject, still(model), parts[0], others[0]):
        return _Rise(0.0, 0.0, is_dead=True)
    start = _start(subject, parts) if subject.is_trained else None
    if start is None or before_P.mean() > (1 - _LEARNED) * start:
        return _Rise(mean, se, is_dead=False)
    freedom = len(parts) - 1
    p = stats.t.sf(mean / se, freedom) if se else float(mean <= 0)
    highest = mean + se * stats.t.isf(_P, freedom)
    learned = start - float(before_P.mean())
    return _Rise(mean, se, False, bool(p > _P and highest < _LEAST * learned))


def _start(subject: Subject, parts: list[Batch]) -> float | None:
    """What the loss was before anything was learned; None: not known."""
    if subject.entropy is None and subject.fresh is not None:
        return float(losses(subject, subject.fresh(), parts).mean())
    return subject.entropy


def _is_blind(subject: Subject, model: nn.Module, a: Batch, b: Batch) -> bool:
    """Whether the gradients of two batches are the same to the bit."""
    of_a, of_b = (_gradient(subject, model, x) for x in (a, b))
    return all(torch.equal(x, y) for x, y in zip(of_a, of_b, strict=True))


def _gradient(subject: Subject, model: nn.Module, batch: Batch) -> list[Tensor]:
    torch.manual_seed(0)
    trained = [p for p in model.parameters() if p.requires_grad]
    return list(
        torch.autograd.grad(
            subject.loss(model, batch), trained, allow_unused=True, materialize_grads=True
        )
    )
