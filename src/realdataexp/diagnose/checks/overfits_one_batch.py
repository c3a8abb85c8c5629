"""Whether the training can learn a few examples by heart.

What learns at all learns eight examples: within 120 updates by the training's own optimiser,
without dropout and at a learning rate that suits (tried in turn), their loss falls below a third of
the first. Labels that do not belong to their examples leave it at the entropy of their shares: of
50 labels among 12,000 items at .42 of the first. Where what reads the examples does not learn, it
falls by what the last layer can do with features at random, which with many of them is enough
(dead_parameter finds that at any size).
"""

from __future__ import annotations

import itertools

from realdataexp.diagnose.finding import Measured
from realdataexp.diagnose.probes import fresh, pieces, updates
from realdataexp.diagnose.subject import Batch, Subject

_SIZE, _N_UPDATES = 8, 120
_SHARE = 1 / 3
_RATES = (0.01, 0.05, 0.003)


def check(subject: Subject, seed: int) -> Measured:
    """Train on eight examples at a few learning rates, until the loss is a third at one."""
    (batch,) = pieces(subject, 1, _SIZE, seed)
    shares = {}
    for rate in _RATES:
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


def _learned(subject: Subject, batch: Batch, rate: float) -> tuple[int, float]:
    """After how many updates which share of the loss is left, the least so far."""
    first = least = None
    for n, loss in enumerate(updates(subject, fresh(subject), itertools.repeat(batch), rate)):
        first = loss if first is None else first
        least = loss if least is None or loss < least else least
        if least < _SHARE * first or n >= _N_UPDATES:
            break
    assert first is not None and least is not None
    return n, least / first
