"""Whether the training can learn a few examples by heart.

What learns at all learns eight examples: within 120 updates by the training's own optimiser,
without dropout and at a learning rate that suits (tried in turn; plain SGD, whose steps shrink with
the gradient, needs larger ones), their loss is below a third of the first three times in a row.
Labels that do not belong to their examples leave it at the entropy of their shares: of 50 labels
among 12,000 items at .42 of the first. Four labels of each of two classes that are shuffled at each
update are by chance those learned before once in 70 updates, so three times in a row in 1 of 1,000
trainings. Where what reads the examples does not learn, the loss falls by what the last layer can
do with features at random, which with many of them is enough (dead_parameter finds that at any
size).
"""

from __future__ import annotations

import itertools
import math

import torch

from realdataexp.diagnose.finding import Measured
from realdataexp.diagnose.probes import fresh, pieces, updates
from realdataexp.diagnose.subject import Batch, Subject

_SIZE, _N_UPDATES = 8, 120
_SHARE = 1 / 3
_RATES, _RATES_SGD = (0.01, 0.05, 0.003), (0.2, 2.0, 0.02)
_IN_A_ROW = 3


def check(subject: Subject, seed: int) -> Measured:
    """Train on eight examples at a few learning rates, until the loss is a third at one."""
    (batch,) = pieces(subject, 1, _SIZE, seed)
    shares = {}
    for rate in _rates(subject):
        n, shares[rate] = _learned(subject, batch, rate)
        if shares[rate] < _SHARE:
            break
    best = min(shares, key=lambda x: shares[x])
    return Measured(
        not shares[best] < _SHARE, shares[best], _SHARE,
        f"of {_SIZE} examples' loss {shares[best]:.2g} is left after {n} updates at the learning "
        f"rate {best:g}",
        "a training that cannot learn a few examples by heart cannot learn: look whether labels "
        "belong to their examples, and what of the model gets a gradient",
    )  # fmt: skip


def _rates(subject: Subject) -> tuple[float, ...]:
    make = subject.optimizer
    is_sgd = make is not None and isinstance(make(fresh(subject)), torch.optim.SGD)
    return _RATES_SGD if is_sgd else _RATES


def _learned(subject: Subject, batch: Batch, rate: float) -> tuple[int, float]:
    """After how many updates which share of the loss is left, the least in a row."""
    found, least = list[float](), math.inf
    for loss in updates(subject, fresh(subject), itertools.repeat(batch), rate):
        found.append(loss)
        if len(found) > _IN_A_ROW:
            least = min(least, max(found[-_IN_A_ROW:]) / found[0])
        if least < _SHARE or len(found) > _N_UPDATES:
            break
    return len(found) - 1, least
