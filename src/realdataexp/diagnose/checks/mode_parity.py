"""Whether a model computes the same in training, evaluation and inference.

Without what is meant to differ (dropout, statistics of a batch) outputs in training mode, in
evaluation mode, and there under no_grad and inference_mode must agree but for rounding: fused
kernels change float32 outputs by some 1e-6 of their size, far below the bound of 1e-3. A module
that a fast path leaves out, such as an adapter in nn.TransformerEncoderLayer, changes them by what
it adds. As many adapters add nothing at first, parameters that are all 0 are drawn before.
"""

from __future__ import annotations

import torch

from realdataexp.diagnose.finding import Measured
from realdataexp.diagnose.probes import apart, awake, outputs, pieces, still
from realdataexp.diagnose.subject import CannotTell, Subject

_BOUND = 1e-3
_SIZE = 16


def check(subject: Subject, seed: int) -> Measured:
    """Compare outputs in training mode with those of evaluation's three ways."""
    (batch,) = pieces(subject, 1, _SIZE, seed)
    model = still(awake(subject.model(), seed))
    wanted = outputs(subject, model, batch)
    if apart(outputs(subject, model, batch), wanted) > _BOUND:
        raise CannotTell("outputs in training mode are random even with all dropout rates at 0")
    model.eval()
    found = {"evaluation": apart(outputs(subject, model, batch), wanted)}
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            found[mode.__name__] = apart(outputs(subject, model, batch), wanted)
    worst = max(found.values())
    told = ", ".join(f"{x:.2g} in {k}" for k, x in found.items())
    return Measured(
        not worst <= _BOUND, worst, _BOUND,
        f"from training mode without dropout outputs differ, of their size, by {told}",
        "look for what only one mode runs: a fast path that reads weights and does not call the "
        "module (torch.backends.mha.set_fastpath_enabled(False)), or an `if self.training`",
    )  # fmt: skip
