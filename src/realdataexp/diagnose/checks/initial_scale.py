"""Whether the scale at which an additional input begins matters.

The initial parameters of what leads the input into the model are tripled, as in a claim that an
initial scale of .3 helps where .1 was; the change of the outputs is measured against what removing
the input (parameters 0) changes. Where the input's effect is in proportion to its scale the ratio
is 2; where a norm follows, which takes the scale out again, it is near 0. So at a ratio above 1 the
scale matters more than that the input is there, and should be tuned; below, tuning it cannot help
much.
"""

from __future__ import annotations

import torch
from torch import Tensor

from realdataexp.diagnose.finding import Measured
from realdataexp.diagnose.probes import fresh, outputs, pieces
from realdataexp.diagnose.subject import Batch, CannotTell, Subject

_BOUND = 1.0
_SIZE = 32
_FACTOR = 3.0


def check(subject: Subject, seed: int) -> Measured:
    """Triple and remove the adapters' initial parameters, and compare the outputs' changes."""
    if not subject.adapters:
        raise CannotTell(
            "adapters of an additional input are missing: pass adapters to the Subject"
        )
    (batch,) = pieces(subject, 1, _SIZE, seed)
    as_is, tripled, removed = (_scaled(subject, batch, x) for x in (1.0, _FACTOR, 0.0))
    by_scale, by_removal = (float((x - as_is).norm() / as_is.norm()) for x in (tripled, removed))
    ratio = by_scale / by_removal if by_removal else 0.0
    return Measured(
        ratio > _BOUND, ratio, _BOUND,
        f"initial parameters {_FACTOR:g} times as large change the outputs by {by_scale:.2g} of "
        f"their size, and removing the input by {by_removal:.2g}",
        "put a norm behind the adapter, or choose its initial scale as you choose a learning rate",
    )  # fmt: skip


def _scaled(subject: Subject, batch: Batch, factor: float) -> Tensor:
    """Outputs of the model before its first step, with the adapters' parameters so scaled."""
    model = fresh(subject).eval()
    scaled = [
        p
        for k, p in model.named_parameters()
        if any(k == x or k.startswith(f"{x}.") for x in subject.adapters)
    ]
    if not scaled:
        raise CannotTell(f"adapters: the model has no parameters of {', '.join(subject.adapters)}")
    with torch.no_grad():
        for p in scaled:
            p.mul_(factor)
    return outputs(subject, model, batch)
