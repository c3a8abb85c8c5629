"""The processes that share a training: one, several of this machine, or those of `torchrun`.

All do the same, each with its share of every batch, and add their gradients up. So every process
has the same parameters and comes to the same decisions; the first one alone writes.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import shutil
import signal
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from realdataexp.device import Device
from realdataexp.errors import InputError, RunError
from realdataexp.runs import ENDING

logger = logging.getLogger("realdataexp")

_PATIENCE = timedelta(minutes=30)  # for a process that is far behind


@dataclass(frozen=True)
class Ranks:
    """The processes of a training, as one of them sees them.

    Attributes:
        rank: its own number, from 0.
        n: how many there are.
    """

    rank: int = 0
    n: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this one writes."""
        return self.rank == 0

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors of one type by their sums over all processes, in place."""
        if self.n == 1 or not tensors:
            return
        flat = torch.cat([x.flatten() for x in tensors])
        try:
            dist.all_reduce(flat)
        except RuntimeError as error:
            raise RunError(
                f"process {self.rank + 1} of {self.n} lost the others: {str(error).splitlines()[0]}"
            ) from error
        parts = flat.split([x.numel() for x in tensors])
        torch._foreach_copy_(
            list(tensors), [p.view_as(x) for p, x in zip(parts, tensors, strict=True)]
        )

    def agree(self, digests: dict[str, str]) -> None:
        """Refuse processes that differ in one of these, such as the data."""
        if self.n == 1:
            return
        found: list[dict[str, str]] = [{} for _ in range(self.n)]
        dist.all_gather_object(found, digests)
        for what, digest in digests.items():
            others = [i for i, own in enumerate(found) if own.get(what) != digest]
            if others:
                raise InputError(
                    f"{what}: process {others[0] + 1} of {self.n} has another than process "
                    f"{self.rank + 1}: start all with the same config and files"
                )


def of_torchrun() -> int | None:
    """How many processes `torchrun` has started; None: this one was not started by it."""
    size = os.environ.get("WORLD_SIZE")
    return int(size) if size and "MASTER_ADDR" in os.environ else None


@contextmanager
def place_of(folder: Path | None, *, is_there: bool = False) -> Iterator[Path | None]:
    """The folder that this process works in: a passing copy, unless it is torchrun's first."""
    if of_torchrun() is None or os.environ.get("RANK") == "0":
        yield folder
        return
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch) / "run"
        if is_there and folder is not None:
            shutil.copytree(folder, place)
        logger.disabled = True
        yield place


@contextmanager
def joined(n: int, device: Device, work: Callable[[Ranks], object]) -> Iterator[Ranks]:
    """The processes of a training; ``n`` of this machine, unless `torchrun` has started some.

    Those that are forked here do the ``work``, and end with this context.
    """
    if of_torchrun():
        dist.init_process_group("gloo" if device.is_cpu else "nccl", timeout=_PATIENCE)
        try:
            yield Ranks(dist.get_rank(), dist.get_world_size())
        finally:
            dist.destroy_process_group()
    elif n == 1:
        yield Ranks()
    else:
        with tempfile.TemporaryDirectory() as folder, _forked(n, f"file://{folder}/store", work):
            try:
                yield _begin(f"file://{folder}/store", 0, n)
            finally:
                if dist.is_initialized():
                    dist.destroy_process_group()


def _begin(store: str, rank: int, n: int) -> Ranks:
    dist.init_process_group("gloo", store, rank=rank, world_size=n, timeout=_PATIENCE)
    return Ranks(rank, n)


@contextmanager
def _forked(n: int, store: str, work: Callable[[Ranks], object]) -> Iterator[None]:
    context = multiprocessing.get_context("fork")
    children = [
        context.Process(target=_in_child, args=(store, rank, n, work), daemon=True)
        for rank in range(1, n)
    ]
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of other threads
            for child in children:
                child.start()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
    try:
        yield
    finally:
        for child in children:
            child.kill()
            child.join()


def _in_child(store: str, rank: int, n: int, work: Callable[[Ranks], object]) -> None:
    for number in ENDING:  # they are the first process's; when it is gone, so is this one
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
    code = 1
    try:
        work(_begin(store, rank, n))
        code = 0
    finally:
        os._exit(code)
