"""Whether what comes later changes what a model makes of what came before.

Other values for the later half of some examples must leave the outputs of the earlier positions as
they are, in training mode (without dropout) as in evaluation. Both computations have the same
shapes, so they agree to the bit but where a kernel sums in another order: bound 1e-4 of the
outputs' size, where a position that sees the next one changes by about all of it.
"""

from __future__ import annotations

import torch

from realdataexp.diagnose.finding import Measured
from realdataexp.diagnose.probes import apart, outputs, pieces, still
from realdataexp.diagnose.subject import CannotTell, Subject

_BOUND = 1e-4
_SIZE = 32


def check(subject: Subject, seed: int) -> Measured:
    """Change what comes later, and compare the outputs of what came before."""
    if subject.future is None:
        raise CannotTell("what comes later is missing: pass future to the Subject")
    (batch,) = pieces(subject, 1, _SIZE, seed)
    other, is_early_X = subject.future(batch, torch.Generator().manual_seed(seed))
    found = {}
    for mode in ("training", "evaluation"):
        model = still(subject.model()).train(mode == "training")
        with torch.set_grad_enabled(mode == "training"):
            before, after = (outputs(subject, model, x) for x in (batch, other))
        if torch.equal(before, after):
            raise CannotTell("the outputs do not change at all: future must change what is read")
        found[mode] = apart(after[is_early_X], before[is_early_X])
    worst = max(found.values())
    told = ", ".join(f"{x:.2g} in {k}" for k, x in found.items())
    return Measured(
        not worst <= _BOUND, worst, _BOUND,
        f"when later values change, earlier outputs change, of their size, by {told}",
        "mask what comes later in attention, and normalise no position by others",
    )  # fmt: skip
