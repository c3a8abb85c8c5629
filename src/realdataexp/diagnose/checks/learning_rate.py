"""Whether a learning rate ten times as high, or as low, would learn far more.

From one state and with the same 60 small batches (100 for small models, which learn little in 60),
what the training's own optimiser learns at its rate is compared with what it learns at ten times
that (at a tenth, where it learns nothing and ten times is no better): how far the losses of the
last 20 batches, each before its own update, fall below what they were before the first. While steps
are too small to matter, what is learned is in proportion to the rate, and ten times the rate learns
ten times as much; at a rate of the right order the easy part has been learned, and it learns about
as much. The bound is the middle of the two, √10. The differences of the 20 batches are paired; the
other rate must also be ahead by 4 of their standard errors, which by chance happens once in some
thousand trainings.
"""

from __future__ import annotations

import torch
from torch import Tensor

from realdataexp.diagnose.finding import Measured
from realdataexp.diagnose.probes import fresh, losses, pieces, updates
from realdataexp.diagnose.subject import Batch, CannotTell, Subject

_N_UPDATES, _N_CHEAP, _N_LAST, _SIZE = 60, 100, 20, 8
_SMALL = 200_000  # numbers of a model
_BOUND, _ERRORS = 10**0.5, 4.0


def check(subject: Subject, seed: int) -> Measured:
    """Learn for some updates at the training's rate, and at ten times or a tenth of it."""
    rate = subject.learning_rate
    if rate is None:
        raise CannotTell("the learning rate is missing: pass learning_rate to the Subject")
    n_numbers = sum(p.numel() for p in fresh(subject).parameters())
    n = _N_UPDATES if n_numbers > _SMALL else _N_CHEAP
    parts = pieces(subject, n, _SIZE, seed)
    first_P = losses(subject, fresh(subject), parts[-_N_LAST:])
    own_P, higher_P = (_learned(subject, parts, first_P, x) for x in (rate, 10 * rate))
    best, best_P = 10 * rate, higher_P
    if not _is_above(own_P) and not higher_P.mean() > own_P.mean():
        best, best_P = rate / 10, _learned(subject, parts, first_P, rate / 10)
    own, best_learned = float(own_P.mean()), float(best_P.mean())
    ratio = best_learned / max(own, 1e-3 * abs(best_learned), 1e-12)
    return Measured(
        _is_above(best_P - own_P) and ratio > _BOUND, ratio, _BOUND,
        f"{n} updates lower the loss by {own:.3g} at the learning rate {rate:g}, "
        f"and by {best_learned:.3g} at {best:g}",
        f"train at a learning rate near {best:g}, with warm-up",
    )  # fmt: skip


def _is_above(x_P: Tensor) -> bool:
    """Whether the mean of the batches is above 0 by more than noise."""
    return bool(x_P.mean() > _ERRORS * x_P.std() / len(x_P) ** 0.5)


def _learned(subject: Subject, parts: list[Batch], first_P: Tensor, rate: float) -> Tensor:
    """How far the last batches' losses fall at a learning rate; they rise to tenfold at most."""
    found = list(updates(subject, fresh(subject), parts, rate))[-_N_LAST:]
    found_P = torch.tensor(found, dtype=torch.float64).nan_to_num(torch.inf)
    return first_P - found_P.minimum(10 * first_P.abs())
