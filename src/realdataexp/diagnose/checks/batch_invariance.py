"""Whether an example's outputs depend on which others are in its batch.

Some examples of a batch, of all its lengths, go through the model together and each alone, so
without the others' padding; in evaluation mode, since batch normalisation is meant to differ in
training. Other shapes make other sums of some 1e-6 of the outputs' size; the bound is 1e-3. What is
normalised by a batch, or attends to padding, changes by far more.
"""

from __future__ import annotations

import torch

from realdataexp.diagnose.finding import Measured
from realdataexp.diagnose.probes import apart, outputs, pieces
from realdataexp.diagnose.subject import CannotTell, Subject

_BOUND = 1e-3
_SIZE = 12


def check(subject: Subject, seed: int) -> Measured:
    """Compare the outputs of examples together with those of each alone."""
    (batch,) = pieces(subject, 1, _SIZE, seed)
    n = subject.n_examples(batch)
    if n < 2:
        raise CannotTell("a batch has one example: there are no others to depend on")
    model = subject.model().eval()
    with torch.no_grad():
        together = outputs(subject, model, batch)
        alone = [outputs(subject, model, subject.rows(batch, slice(i, i + 1))) for i in range(n)]
    found = apart(_joined(alone, together), together)
    return Measured(
        not found <= _BOUND, found, _BOUND,
        f"{n} examples' outputs alone differ from those together by {found:.2g} of their size",
        "mask padding, and normalise no example by others (BatchNorm without running statistics, "
        "a mean over the batch)",
    )  # fmt: skip


def _joined(alone: list[torch.Tensor], together: torch.Tensor) -> torch.Tensor:
    if any(x.shape[1:] != together.shape[1:] for x in alone):
        raise CannotTell(
            "the shape of an example's outputs depends on its batch: let the subject's outputs "
            "have a row for each position that is no padding"
        )
    return torch.cat(alone)
