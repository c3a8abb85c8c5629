"""Whether several processes learn what one would learn from the joint batch.

Two processes over gloo take half a batch each and go through the training's own step, in float64
where the model allows. What their optimisers would use is compared with the gradient of the whole
batch in one process: its error is |g - g'| / |g'|, of rounding alone below 1e-4 (float32 sums of
10^4 numbers differ by some 1e-6). A framework that adds up where it should average, or twice, has
an error of 1 and a scale of 2 or 1/2; a step that goes round the framework leaves each process with
its own gradient.
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
from realdataexp.diagnose.subject import Subject

_N = 2
_BOUND = 1e-4


def check(subject: Subject, seed: int) -> Measured:
    """Compare two processes' gradients with each other, and with that of the joint batch."""
    (batch,) = subject.batches(1)
    even = subject.n_examples(batch) // _N * _N
    batch = subject.rows(batch, slice(0, even))
    model = still(subject.model())
    subject.loss(model, batch).backward()
    wanted = _flat(model)
    with tempfile.TemporaryDirectory() as folder:
        store = f"file://{Path(folder) / 'store'}"
        found = in_processes(_N, _share, subject, batch, store)
    error = max(float((x - wanted).norm() / wanted.norm()) for x in found)
    apart = float((found[0] - found[1]).norm() / wanted.norm())
    scale = float(found[0] @ wanted / (wanted @ wanted))
    return Measured(
        error > _BOUND, error, _BOUND,
        f"the gradient differs from the joint batch's by {error:.2g} of its length (is {scale:.3g} "
        f"times as long along it), and between two processes by {apart:.2g}",
        "processes must end with the mean gradient of all, whether the framework or the loop sees "
        "to it; call the wrapped model, not its .module, or add up and divide yourself",
    )  # fmt: skip


def _share(rank: int, subject: Subject, batch: Any, store: str) -> Tensor:
    # never destroyed: gloo may wait for ever for threads that the interpreter's lock holds up
    dist.init_process_group("gloo", store, rank=rank, world_size=_N)
    model = still(subject.model())
    if subject.step is not None:
        subject.step(model, batch, rank, _N)
    else:
        wrapped = nn.parallel.DistributedDataParallel(model)
        subject.loss(wrapped, subject.rows(batch, slice(rank, None, _N))).backward()
    return _flat(model)


def _flat(model: nn.Module) -> Tensor:
    parts = [p.grad if p.grad is not None else torch.zeros_like(p) for p in model.parameters()]
    return torch.cat([x.detach().flatten().double() for x in parts])
