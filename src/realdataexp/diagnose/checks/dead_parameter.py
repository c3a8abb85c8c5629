"""Whether some parameter learns from nothing.

A parameter to which no gradient comes, in several batches, is not connected with the loss: its
module was wrapped again, its key has another name, or its output is not used. There is no noise:
the gradient of what is connected is 0 in every number, in all batches, only where an activation is
dead for all examples.
"""

from __future__ import annotations

import torch

from realdataexp.diagnose.finding import Measured
from realdataexp.diagnose.subject import Subject

_N_BATCHES = 3


def check(subject: Subject, seed: int) -> Measured:
    """Count the trained parameters whose gradient is none or 0 in each of three batches."""
    model = subject.model().train()
    trained = {k: p for k, p in model.named_parameters() if p.requires_grad}
    is_alive = dict.fromkeys(trained, False)
    for batch in subject.batches(_N_BATCHES):
        torch.manual_seed(seed)
        model.zero_grad()
        subject.loss(model, batch).backward()
        for name, p in trained.items():
            is_alive[name] |= p.grad is not None and bool(p.grad.any())
    dead = [name for name, alive in is_alive.items() if not alive]
    listed = f": {', '.join(dead[:5])}{' …' * (len(dead) > 5)}" if dead else ""
    return Measured(
        bool(dead), float(len(dead)), 0.0,
        f"{len(dead)} of {len(trained)} trained parameters get no gradient{listed}",
        "look how their outputs reach the loss, and at the names in the state that was loaded",
    )  # fmt: skip
