"""Whether several processes learn what one would learn from the joint batch.

Two processes over gloo take half a batch each and go through the training's own step, in float64
where the model allows. What their optimisers would use is compared with the gradient of the whole
batch in one process: its error is |g - g'| / |g'|, of rounding alone below 1e-4 (float32 sums of
10^4 numbers differ by some 1e-6). A framework that adds up where it should average, or twice, has
an error of 1 and a scale of 2 or 1/2; a step that goes round the framework leaves each process with
its own gradient. Where what differs is the loss (it draws, or a batch's is not the mean of its
shares', as with negatives from the batch), and the subject has no step of its own that takes care
of it, this cannot tell.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from realdataexp.diagnose.finding import Measured
from realdataexp.diagnose.probes import still
from realdataexp.diagnose.processes import in_processes
from realdataexp.diagnose.subject import CannotTell, Subject

_N = 2
_BOUND = 1e-4


def check(subject: Subject, seed: int) -> Measured:
    """Compare two processes' gradients with each other, and with that of the joint batch."""
    (batch,) = subject.batches(1)
    even = subject.n_examples(batch) // _N * _N
    if not even:
        raise CannotTell("a batch has one example: two processes need one each")
    batch = subject.rows(batch, slice(0, even))
    wanted = _gradient(subject, [batch], seed)
    if not 0 < wanted.norm() < torch.inf:
        raise CannotTell(f"the joint batch's gradient has the length {wanted.norm():g}")
    with tempfile.TemporaryDirectory() as folder:
        store = f"file://{Path(folder) / 'store'}"
        found = in_processes(_N, _share, subject, batch, store)
    error = max(_error(x, wanted) for x in found)
    if error > _BOUND:
        _require_mean(subject, batch, wanted, found, seed)
    apart = float((found[0] - found[1]).norm() / wanted.norm())
    scale = float(found[0] @ wanted / (wanted @ wanted))
    return Measured(
        error > _BOUND, error, _BOUND,
        f"the gradient differs from the joint batch's by {error:.2g} of its length (is {scale:.3g} "
        f"times as long along it), and between two processes by {apart:.2g}",
        "processes must end with the mean gradient of all, whether the framework or the loop sees "
        "to it; call the wrapped model, not its .module, or add up and divide yourself",
    )  # fmt: skip


def _require_mean(
    subject: Subject, batch: Any, wanted: Tensor, found: list[Tensor], seed: int
) -> None:
    """Raise CannotTell where one process would not learn the same from the shares either."""
    if _error(_gradient(subject, [batch], seed + 1), wanted) > _BOUND:
        raise CannotTell("the loss is random even with all dropout rates at 0")
    by_hand = _gradient(subject, _shares(subject, batch), seed)
    if subject.step is None and max(_error(x, by_hand) for x in found) <= _BOUND:
        raise CannotTell(
            "processes average their gradients, but the mean of the shares' gradients is "
            f"{_error(by_hand, wanted):.2g} of its length from the joint batch's: the loss is no "
            "mean over examples (negatives from the batch, a mean over words); pass step to the "
            "Subject"
        )


def _shares(subject: Subject, batch: Any) -> list[Any]:
    return [subject.rows(batch, slice(rank, None, _N)) for rank in range(_N)]


def _gradient(subject: Subject, parts: list[Any], seed: int) -> Tensor:
    """Of the mean of some batches' losses, in this process."""
    model = still(subject.model())
    torch.manual_seed(seed)
    for part in parts:
        (subject.loss(model, part) / len(parts)).backward()
    return _flat(model)


def _error(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


def _share(rank: int, subject: Subject, batch: Any, store: str) -> Tensor:
    # never destroyed: gloo may wait for ever for threads that the interpreter's lock holds up
    dist.init_process_group("gloo", store, rank=rank, world_size=_N)
    model = still(subject.model())
    if subject.step is not None:
        subject.step(model, batch, rank, _N)
    else:
        wrapped = nn.parallel.DistributedDataParallel(model)
        subject.loss(wrapped, _shares(subject, batch)[rank]).backward()
    return _flat(model)


def _flat(model: nn.Module) -> Tensor:
    parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]
    return torch.cat([x.detach().to_dense().flatten().double() for x in parts])
