"""Whether each input of the model reaches its loss, and whether a trained model uses it.

An input is permuted among the examples of small pieces of batches. Where not a bit of the loss
changes, nor of the gradient of any parameter, it is dead: this holds for a model before its first
step too, where what begins at zero (an adapter's last layer) changes no loss, but gets a gradient.

A trained model's loss must rise. An input is not used if 20 pieces show that this does not matter:
if the upper end of the one-sided 99 % interval of the mean rise (Student's t) is below .002 of what
the model has learned, the nats by which its loss is below that of a guess. So of inputs whose rise
is just that, 1 % are blamed; inputs that are used raise the loss by a hundred times more. A model
that uses no input (p > .01 for each) and has learned less than a fifth of a guess's loss may know
which labels are frequent and no more, and is not blamed for that.
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
_P, _LEAST = 0.01, 0.002
_LEARNED = 0.2


@dataclass(frozen=True)
class _Rise:
    """Of the loss when an input is permuted: mean, standard error, and the one-sided p value."""

    mean: float
    se: float
    p: float
    is_dead: bool

    @classmethod
    def of(cls, rise_P: Tensor, is_dead: bool) -> _Rise:
        mean, se = float(rise_P.mean()), float(rise_P.std()) / len(rise_P) ** 0.5
        p = stats.t.sf(mean / se, len(rise_P) - 1) if se else float(mean <= 0)
        return cls(mean, se, float(p), is_dead)


def check(subject: Subject, seed: int) -> Measured:
    """Permute each input; count those that are dead, or that a trained model does not use."""
    if not subject.changes:
        raise CannotTell("what permutes an input is missing: pass changes to the Subject")
    parts = pieces(subject, _N_PIECES, _SIZE, seed)
    before_P = losses(subject, subject.model(), parts)
    rises = {
        k: _rise(subject, change, parts, before_P, seed) for k, change in subject.changes.items()
    }
    unused = _unused(subject, parts, before_P, rises) if subject.is_trained else []
    n = len(unused) + sum(x.is_dead for x in rises.values())
    told = "; ".join(
        f"{k}: {'dead' if x.is_dead else 'not used' if k in unused else 'arrives'}, "
        f"the loss rises by {x.mean:.3g} ± {x.se:.2g}"
        for k, x in rises.items()
    )
    return Measured(
        n > 0, float(n), 0.0, f"permuted among examples, {told}",
        "follow the input from the batch to the loss: its name in the batch, what overwrites or "
        "detaches its output, and whether its parameters are in the optimiser",
    )  # fmt: skip


def _rise(
    subject: Subject, change: Change, parts: list[Batch], before_P: Tensor, seed: int
) -> _Rise:
    generator = torch.Generator().manual_seed(seed)
    others = [change(x, generator) for x in parts]
    rise_P = losses(subject, subject.model(), others) - before_P
    is_dead = not rise_P.any() and _is_blind(subject, parts[0], others[0])
    return _Rise.of(rise_P, is_dead)


def _unused(
    subject: Subject, parts: list[Batch], before_P: Tensor, rises: dict[str, _Rise]
) -> list[str]:
    """The inputs whose rise is below what matters, where the model has learned enough to tell."""
    start = subject.entropy
    if start is None and subject.fresh is not None:
        start = float(losses(subject, subject.fresh(), parts).mean())
    learned = 0.0 if start is None else start - float(before_P.mean())
    is_used = any(x.p <= _P for x in rises.values())
    if start is None or learned < (0 if is_used else _LEARNED * start):
        return []
    errors = stats.t.isf(_P, len(parts) - 1)
    return [
        k for k, x in rises.items() if not x.is_dead and x.mean + errors * x.se < _LEAST * learned
    ]


def _is_blind(subject: Subject, a: Batch, b: Batch) -> bool:
    """Whether the gradients of two batches are the same to the bit."""
    model = still(subject.model())
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
