"""Whether what must not change stays as it is.

Parameters that the subject names as frozen, and those that require no gradient, must be the same to
the bit after two steps of the training's own optimiser, and in none of its groups: there weight
decay moves them as soon as some gradient of theirs is 0 rather than none. There is no noise.
"""

from __future__ import annotations

import torch
from torch import nn

from realdataexp.diagnose.finding import Measured
from realdataexp.diagnose.subject import CannotTell, Subject

_N_STEPS = 2


def check(subject: Subject, seed: int) -> Measured:
    """Count the frozen parameters that two steps change, or that the optimiser holds."""
    if subject.optimizer is None:
        raise CannotTell("the optimiser is missing: pass optimizer to the Subject")
    model = subject.model().train()
    optimizer = subject.optimizer(model)
    frozen = _frozen(model, subject)
    before = {k: p.detach().clone() for k, p in frozen.items()}
    for batch in subject.batches(_N_STEPS):
        optimizer.zero_grad()
        subject.loss(model, batch).backward()
        optimizer.step()
    changed = [k for k, p in frozen.items() if not torch.equal(p.detach(), before[k])]
    held_ids = {id(p) for group in optimizer.param_groups for p in group["params"]}
    held = [k for k, p in frozen.items() if id(p) in held_ids]
    faulty = list(dict.fromkeys([*changed, *held]))
    listed = f": {', '.join(faulty[:5])}{' …' * (len(faulty) > 5)}" if faulty else ""
    return Measured(
        bool(faulty), float(len(faulty)), 0.0,
        f"of {len(frozen)} frozen parameters two steps change {len(changed)}, and the optimiser "
        f"holds {len(held)}{listed}",
        "freeze everything, then unfreeze by object what learns, and pass only that to the "
        "optimiser; a shared parameter has one name of several",
    )  # fmt: skip


def _frozen(model: nn.Module, subject: Subject) -> dict[str, nn.Parameter]:
    named = dict(model.named_parameters(remove_duplicate=False))
    for name in subject.frozen:
        if not any(_is_of(k, name) for k in named):
            raise CannotTell(f"frozen: {name!r} is the name of no parameter or module of the model")
    found = {
        k: p
        for k, p in named.items()
        if not p.requires_grad or any(_is_of(k, name) for name in subject.frozen)
    }
    if not found:
        raise CannotTell("nothing is frozen: pass frozen to the Subject")
    return found


def _is_of(parameter: str, name: str) -> bool:
    return parameter == name or parameter.startswith(f"{name}.")
