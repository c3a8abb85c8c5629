"""Whether a training begins at the loss of a guess.

Before the first step logits are noise: of variance s² and independent of what is to be found, they
lose s²/2 nats on the guess that knows nothing, whose loss is the entropy H. Sound initial scales
(s below 1, of rows of unit size s about 1) are within .9 and 1.25 H; a loss above is confident
noise, which the first hundred updates only unlearn, and one below .9 H knows the answer before it
has learned: something leaks. Over n targets the mean varies by s/√n, far less than the band.
"""

from __future__ import annotations

import torch

from realdataexp.diagnose.finding import Measured
from realdataexp.diagnose.probes import fresh, still
from realdataexp.diagnose.subject import CannotTell, Subject

_LOWEST, _HIGHEST = 0.9, 1.25


def check(subject: Subject, seed: int) -> Measured:
    """Compare the loss of the first batch, before any step, with the entropy of a guess."""
    if subject.entropy is None:
        raise CannotTell("the loss of a guess is missing: pass entropy to the Subject, in nats")
    (batch,) = subject.batches(1)
    with torch.no_grad():
        loss = float(subject.loss(still(fresh(subject)), batch))
    share = loss / subject.entropy
    if share < _LOWEST:
        advice = "something leaks: look for the target among the inputs, and at what is masked"
    else:
        advice = "initial outputs are too large: lower the scale of the last layer's parameters"
    return Measured(
        not _LOWEST <= share <= _HIGHEST, share, _HIGHEST,
        f"the first batch's loss is {loss:.4g}, {share:.3g} times the {subject.entropy:.4g} of a "
        f"guess (a sound start: {_LOWEST:g} to {_HIGHEST:g})",
        advice,
    )  # fmt: skip
