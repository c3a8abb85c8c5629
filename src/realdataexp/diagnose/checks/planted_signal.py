"""Whether the model can learn anything at all.

Each of eight of the subject's items is followed by one and the same other of them, a cycle drawn
from the seed, and the model learns a batch of nothing else. Each is as often the next one as any,
so that a model that does not see the last item has a loss of at least log 8 = 2.08; one that has
learned the rule has a loss near 0. The bound is half of log 8, within 200 updates by AdamW of the
parameters that the training's optimiser has, at one of three learning rates: models differ in what
they need, and one that reads its input gets there at some rate in some tens of updates. A broken
one does not at any.

Axes: B histories, T their items.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import nn

from realdataexp.diagnose.asked import recommended_of
from realdataexp.diagnose.finding import Measured
from realdataexp.diagnose.subject import CannotTell, Subject

_N_ITEMS, _T = 8, 3
_LEARNING_RATES, _AT_ONCE, _N_UPDATES = (0.01, 0.03, 0.003), 20, 200
_BOUND = math.log(_N_ITEMS) / 2


def check(subject: Subject, seed: int) -> Measured:
    """Teach the model a rule, until its loss is below the bound."""
    recommended = recommended_of(subject, "batch_of")
    assert recommended.batch_of is not None
    V = recommended.split.histories.n_items
    if V < _N_ITEMS:
        raise CannotTell(f"what is missing: {_N_ITEMS} items")
    cycle = np.random.default_rng([seed, 0x516]).permutation(V)[:_N_ITEMS]
    place_BT = (np.arange(_N_ITEMS)[:, None] + np.arange(_T)) % _N_ITEMS
    batch = recommended.batch_of(torch.from_numpy(cycle[place_BT]))
    loss, n = math.inf, 0
    for learning_rate in _LEARNING_RATES:
        if not loss <= _BOUND:
            loss, n = _taught(subject, batch, learning_rate)
    return Measured(
        not loss <= _BOUND, loss, _BOUND,
        f"after {n} updates with a rule (an item decides the next) the loss is {loss:.3f} nats; "
        f"without its input a model has {2 * _BOUND:.2f}",
        "the model does not learn from its input: look at its gradients, at what is detached or "
        "masked, and at which parameters the optimiser has",
    )  # fmt: skip


def _taught(subject: Subject, batch: Any, learning_rate: float) -> tuple[float, int]:
    """The loss of a model that learns a batch until it is below the bound, and the updates."""
    model, loss, n = subject.model(), math.inf, 0
    optimizer = torch.optim.AdamW(_trained(subject, model), lr=learning_rate)
    while not loss <= _BOUND and n < _N_UPDATES:
        for _ in range(_AT_ONCE):
            optimizer.zero_grad()
            subject.loss(model.train(), batch).backward()
            optimizer.step()
        n += _AT_ONCE
        with torch.no_grad():
            loss = float(subject.loss(model.eval(), batch))
    return loss, n


def _trained(subject: Subject, model: nn.Module) -> list[Any]:
    """The parameters that the training's optimiser has."""
    if subject.optimizer is None:
        return [p for p in model.parameters() if p.requires_grad]
    return [p for group in subject.optimizer(model).param_groups for p in group["params"]]
