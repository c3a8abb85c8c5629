"""Processes of this machine: forked ones on a CPU, commands elsewhere, one for each GPU."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch

from realdataexp.config.cluster import ClusterConfig
from realdataexp.device import can_fork, n_gpus
from realdataexp.errors import DiskError, RunError
from realdataexp.files import disk_faults
from realdataexp.runs import ENDING
from realdataexp.runs.executors import command_of
from realdataexp.runs.executors.work import DISK, Basis, work
from realdataexp.runs.parts import ERROR, LOG

_SAVING_SECONDS = 60.0  # for what is told to end, until it is killed


def local(_: Path, __: ClusterConfig, basis: Basis) -> Forked | Commands:
    """What runs shards here; forked processes share what the run has set up."""
    device = basis[0].device
    if can_fork(device):
        return Forked(partial(work, basis=basis))
    return Commands(0 if device.is_cpu else n_gpus())


class Forked:
    """A process for each shard, forked from this one.

    Half of a step's time on a CPU are operations too small for two threads, so two processes with
    one thread each, and half of the replications each, are faster than one with two. They share
    the data, and start at once; but OpenMP's threads do not survive a fork, and a second one would
    be waited for without end. Signals are this process's; when it is gone, so are they.
    """

    outlives = False

    def __init__(self, work: Callable[..., Any] = work) -> None:
        """Fork processes for some work: (folder, is_wanted=...)."""
        self._work = work
        self._processes: list[tuple[Path, Any]] = []

    def start(self, shards: Sequence[Path]) -> None:
        """Begin to ``work`` on these folders, all at the same time, and return."""
        context, parent = multiprocessing.get_context("fork"), os.getpid()
        for folder in shards:
            args = (partial(self._work, folder), parent)
            process = context.Process(target=_in_child, args=args, daemon=True)
            # a signal between the fork and the child's own handling of it would end the child
            signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
            try:
                with warnings.catch_warnings():
                    # of locks that other threads hold; the monitor's thread, if any, holds none
                    warnings.simplefilter("ignore", DeprecationWarning)
                    process.start()
            finally:
                signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
            self._processes.append((folder, process))

    def watch(self) -> None:
        """Raise RunError if a shard is gone that neither finished nor left an error.json."""
        for i, (folder, process) in enumerate(self._processes):
            if process.exitcode in (None, 0) or (folder / ERROR).exists():
                continue
            raise _gone(folder, i, len(self._processes), process.exitcode)

    def cancel(self) -> None:
        """End what still works on them; a shard may be started again afterwards."""
        for _, process in self._processes:
            process.kill()
            process.join()
        self._processes = []


def _in_child(run: Callable[..., Any], parent: int) -> None:
    """The life of a process."""
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
    gc.freeze()  # to look through what is shared would copy it
    torch.set_num_threads(1)
    pools = sys.modules.get("threadpoolctl")
    if pools is not None:  # of scikit-learn, whose threads do not survive a fork
        pools.threadpool_limits(1)
    code = 0
    try:
        run(is_wanted=lambda: os.getppid() == parent)
    except (DiskError, OSError):  # error.json may lack the room that a chunk lacked
        code = DISK
    except Exception:
        code = 1
    os._exit(code)


def _gone(folder: Path, i: int, n: int, code: int) -> RunError:
    """What to say of a process that ended and left no error.json."""
    if code == DISK:
        return DiskError(f"{folder}: nothing can be written there; free disk space")
    return RunError(
        f"process {i + 1} of {n} of the loop ended (exit code {code}), as a rule because the "
        "system ran out of memory: lower experiment.replications or the number of designs, or set "
        "simulation.processes: 1"
    )


class Commands:
    """A command for each part, in turn on each of the GPUs that this process may use."""

    outlives = False

    def __init__(self, n_gpus: int = 0, n_at_once: int | None = None) -> None:
        """Run commands; without GPUs, each computes where its config says.

        ``n_at_once`` is how many run at the same time, the next as one ends; None: all.
        """
        self._n_gpus, self._n_at_once = n_gpus, n_at_once
        self._waiting: list[Path] = []
        self._processes: list[tuple[Path, subprocess.Popen[bytes]]] = []

    def start(self, parts: Sequence[Path]) -> None:
        """Begin to work on these folders, and return."""
        self._waiting = [*parts]
        self._begin_next()

    def _begin_next(self) -> None:
        """Begin as many as there is room for."""
        given = os.environ.get("CUDA_VISIBLE_DEVICES")
        gpus = given.split(",") if given else [str(i) for i in range(self._n_gpus)]
        n_running = sum(process.poll() is None for _, process in self._processes)
        while self._waiting and (self._n_at_once is None or n_running < self._n_at_once):
            part, i = self._waiting.pop(0), len(self._processes)
            n_running += 1
            own = {"CUDA_VISIBLE_DEVICES": gpus[i % self._n_gpus]} if self._n_gpus else {}
            with disk_faults(part / LOG), (part / LOG).open("ab") as log:
                process = subprocess.Popen(
                    [*command_of(part), "--parent", str(os.getpid())],
                    stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                    env={**os.environ, "OMP_NUM_THREADS": "1", **own},
                )  # fmt: skip
            self._processes.append((part, process))

    def watch(self) -> None:
        """Raise RunError if a part is gone that neither finished nor left an error.json."""
        for i, (part, process) in enumerate(self._processes):
            if process.poll() not in (None, 0) and not (part / ERROR).exists():
                raise _gone(part, i, len(self._processes), process.returncode)
        self._begin_next()

    def cancel(self) -> None:
        """End what still works on them, which saves; a part may be started again afterwards."""
        self._waiting = []
        for _, process in self._processes:
            process.terminate()
        until = time.monotonic() + _SAVING_SECONDS
        for _, process in self._processes:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, until - time.monotonic()))
            process.kill()
            process.wait()
        self._processes = []
