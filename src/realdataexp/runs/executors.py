"""Who runs a run's shards: a process for each here, or whatever runs a command elsewhere.

A shard is a folder, ``shards/<i>`` of a run folder: shard.json says which replications and steps
it has, and it leaves its chunks there. ``work`` does the rest, from the config of the run folder
alone; as a command it is ``python -m realdataexp.runs.executors FOLDER``. An executor says where.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from realdataexp.device import own_arithmetic
from realdataexp.errors import DiskError, InputError, RunError
from realdataexp.files import read_json, write_json
from realdataexp.loop import Step
from realdataexp.registry import calling
from realdataexp.runs.chunks import (
    Chunk,
    Tensors,
    merge,
    of_look,
    of_step,
    of_updates,
    read_chunk,
    share_of,
    to_look,
    to_updates,
)
from realdataexp.runs.interrupts import ENDING, Interrupts
from realdataexp.runs.setup import Setup
from realdataexp.runs.shard import Look, Shard, Updates, next_stop
from realdataexp.runs.sharing import shares
from realdataexp.runs.validation import Validator

_KINDS: dict[str, type[Exception]] = {
    "InputError": InputError, "DiskError": DiskError, "RunError": RunError,
}  # fmt: skip
_JOB, _STATE, _ERROR = "shard.json", "state.safetensors", "error.json"
_LONGEST = 32  # steps of a chunk, between two stops that are further apart
_AHEAD = 8  # chunks that a shard may be ahead of who merges them
_PAUSE = 0.005  # seconds between two looks for a file
_DISK = 74  # exit code of a shard that could not even write what went wrong

Starts = Sequence[Sequence[Mapping[str, Tensor]]]


class Executor(Protocol):
    """Runs shards, each to the end of ``work``; see ``Forked`` for one."""

    def start(self, shards: Sequence[Path]) -> None:
        """Begin to work on these folders, all at the same time, and return."""
        ...

    def watch(self) -> None:
        """Raise RunError if a shard is gone that neither finished nor left an error.json."""
        ...

    def cancel(self) -> None:
        """End what still works on them; a shard may be started again afterwards."""
        ...


class OutsideExecutor:
    """An executor from outside the package: whatever it raises is a line that names it."""

    def __init__(self, make: Callable[[], Any], who: str) -> None:
        self._who = who
        with calling(who, "its constructor"):
            self._executor = make()

    def __getattr__(self, method: str) -> Callable[..., None]:
        def ask(*given: Sequence[Path]) -> None:
            with calling(self._who, f"{method}()"):
                getattr(self._executor, method)(*given)

        return ask


# --- a shard's own work --------------------------------------------------------------------------


class _Job(BaseModel):
    """shard.json.

    Attributes:
        replications: the shard's.
        first, last: the steps [first, last); the state after ``first`` lies in the folder,
            unless that is 0 and none does: the worlds begin from the starting models.
    """

    model_config = ConfigDict(strict=True)

    replications: tuple[int, ...]
    first: int
    last: int


class UnfitError(Exception):
    """The state that a shard should begin from is not one of such a shard."""


def work(
    folder: Path,
    setup: Setup | None = None,
    validator: Validator | None = None,
    starts: Starts | None = None,
    is_wanted: Callable[[], bool] = lambda: True,
) -> None:
    """Run a shard to its end.

    Args:
        folder: the shard's, in ``shards`` of the run folder.
        setup: the run's, where it is at hand; else it is made anew.
        validator: likewise.
        starts: likewise, parameters of each start's network, for each of the run's networks.
        is_wanted: whether anybody waits for it; else it ends.

    Raises:
        Exception: what went wrong, which error.json says too.
    """
    try:
        if setup is None or validator is None or starts is None:
            from realdataexp.runs.experiment import rebuilt

            setup, validator, starts = rebuilt(folder.parent.parent)
        _Work(folder, setup, validator, starts, is_wanted).run()
    except Exception as error:
        kind = next((k for k, kind in _KINDS.items() if isinstance(error, kind)), "")
        said = {
            "error": type(error).__name__,
            "kind": "UnfitError" if isinstance(error, UnfitError) else kind,
            "lines": getattr(error, "faults", None) or [" ".join(str(error).split())],
            "trace": "".join(traceback.format_exception(error)),
        }
        write_json(folder / _ERROR, said)
        raise


class _Work:
    """One shard, from its shard.json to its last chunk."""

    def __init__(
        self,
        folder: Path,
        setup: Setup,
        validator: Validator,
        starts: Starts,
        is_wanted: Callable[[], bool],
    ) -> None:
        self._folder, self._is_wanted = folder, is_wanted
        self._job = _Job.model_validate_json((folder / _JOB).read_text())
        self._loop, own = setup.config.simulation, self._job.replications
        self._shard = Shard(setup, validator, starts, own, setup.start_designs(own))
        self._n_chunks = 0
        self._idle_from: int | None = None

    def run(self) -> None:
        """Work through the steps, chunk by chunk, as far as anybody waits for them."""
        step, last = self._job.first, self._job.last
        state = self._folder / _STATE
        if state.exists():
            try:
                self._shard.load_state(read_chunk(state).part("state"), step)
            except Exception as error:
                raise UnfitError(f"{type(error).__name__}: {error}") from error
        self._write(step, step, {}, is_new=not state.exists())
        while step < last and self._may_go_on():
            stop = min(next_stop(self._loop, step), step + _LONGEST, last)
            tensors: Tensors = {}
            for number in range(step, stop):
                if not self._is_wanted():
                    return
                if self._idle_from is None and not self._shard.has_visitors:
                    self._idle_from = number
                try:
                    found = of_step(self._shard.step(number))
                except Exception:
                    if number > step:
                        self._put(self._chunk(step, number, tensors))
                    raise
                tensors |= {f"step.{number}.{name}": t for name, t in found.items()}
            self._write(step, stop, tensors)
            step = stop

    def _may_go_on(self) -> bool:
        """Wait for who merges; whether to go on."""
        while len([*self._folder.glob("chunk_*")]) > _AHEAD:
            if not self._is_wanted():
                return False
            time.sleep(_PAUSE)
        return self._is_wanted()

    def _write(self, first: int, last: int, tensors: Tensors, *, is_new: bool = False) -> None:
        """Look and save where that is due, and write the chunk."""
        loop, chunk = self._loop, self._chunk(first, last, tensors)
        is_over, began = is_new or last == self._job.last, first < last
        if is_over or (began and last % loop.validate_every == 0):
            started = time.perf_counter()
            look, found = of_look(self._shard.look())
            chunk = replace(chunk, look=look, look_seconds=time.perf_counter() - started)
            tensors |= {f"look.{name}": t for name, t in found.items()}
            tensors |= {f"networks.{name}": t for name, t in self._shard.networks().items()}
        if is_over or (began and last % loop.save_every == 0):
            tensors |= {f"state.{name}": t for name, t in self._shard.state().items()}
        tensors |= {f"updates.{k}": t for k, t in of_updates(self._shard.updates()).items()}
        self._put(chunk)

    def _chunk(self, first: int, last: int, tensors: Tensors) -> Chunk:
        return Chunk(self._job.replications, first, last, self._idle_from, tensors=tensors)

    def _put(self, chunk: Chunk) -> None:
        chunk.write(_chunk_file(self._folder, self._n_chunks))
        self._n_chunks += 1


def _chunk_file(folder: Path, number: int) -> Path:
    return folder / f"chunk_{number:06d}.safetensors"


# --- processes of this machine -------------------------------------------------------------------


class Forked:
    """A process for each shard, forked from this one.

    Half of a step's time on a CPU are operations too small for two threads, so two processes with
    one thread each, and half of the replications each, are faster than one with two. They share
    the data, and start at once; but OpenMP's threads do not survive a fork, and a second one would
    be waited for without end. Signals are this process's; when it is gone, so are they.
    """

    def __init__(self, work: Callable[..., None] = work) -> None:
        """Fork processes for some work: (folder, is_wanted=...)."""
        self._work = work
        self._processes: list[tuple[Path, Any]] = []

    def start(self, shards: Sequence[Path]) -> None:
        """See Executor."""
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
        """See Executor."""
        for i, (folder, process) in enumerate(self._processes):
            if process.exitcode in (None, 0) or (folder / _ERROR).exists():
                continue
            if process.exitcode == _DISK:
                raise DiskError(f"{folder}: nothing can be written there; free disk space")
            raise RunError(
                f"process {i + 1} of {len(self._processes)} of the loop ended (exit code "
                f"{process.exitcode}), as a rule because the system ran out of memory: lower "
                "experiment.replications or the number of designs, or set "
                "simulation.processes: 1"
            )

    def cancel(self) -> None:
        """See Executor."""
        for _, process in self._processes:
            process.kill()
            process.join()
        self._processes = []


def _in_child(run: Callable[..., None], parent: int) -> None:
    """The life of a process."""
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
    torch.set_num_threads(1)
    pools = sys.modules.get("threadpoolctl")
    if pools is not None:  # of scikit-learn, whose threads do not survive a fork
        pools.threadpool_limits(1)
    code = 0
    try:
        run(is_wanted=lambda: os.getppid() == parent)
    except (DiskError, OSError):  # error.json may lack the room that a chunk lacked
        code = _DISK
    except Exception:
        code = 1
    os._exit(code)


# --- several shards as one -----------------------------------------------------------------------


class Shards:
    """Several shards, as if they were one (see Shard): merged as they go."""

    def __init__(
        self, run_dir: Path, setup: Setup, n_shards: int, executor: Executor, interrupts: Interrupts
    ) -> None:
        """Share the replications out.

        Args:
            run_dir: the run folder.
            setup: the run's.
            n_shards: how many there are; it changes no result.
            executor: what runs them.
            interrupts: may end the waiting.
        """
        self._executor, self._interrupts = executor, interrupts
        self._n_steps, self._n_blocks = setup.config.simulation.n_steps, len(setup.blocks)
        self._n_replications = setup.config.experiment.replications
        self._own = shares(self._n_replications, n_shards)
        self._root = run_dir / "shards"
        self._folders = [self._root / str(i) for i in range(n_shards)]
        self._n_read = self._saved_at = 0
        self._chunk: Chunk

    def begin(self) -> None:
        """Start from the starting models."""
        shutil.rmtree(self._root, ignore_errors=True)
        for folder in self._folders:
            folder.mkdir(parents=True)
        self._start(0, self._n_steps)
        self._chunk = self._next()

    def load_state(self, tensors: Mapping[str, Tensor], n_steps_done: int) -> None:
        """Start from a state after some steps, whatever number of shards left it.

        Raises:
            ValueError: it is none of such a run.
        """
        shutil.rmtree(self._root, ignore_errors=True)
        for folder, own in zip(self._folders, self._own, strict=True):
            folder.mkdir(parents=True)
            share = share_of(tensors, own, self._n_replications)
            named = {f"state.{name}": t.contiguous() for name, t in share.items()}
            Chunk(own, n_steps_done, n_steps_done, tensors=named).write(folder / _STATE)
        self._saved_at = n_steps_done
        self._start(n_steps_done, self._n_steps)
        try:
            self._chunk = self._next()
        except UnfitError as error:
            raise ValueError(str(error)) from error

    def _start(self, first: int, last: int) -> None:
        for folder, own in zip(self._folders, self._own, strict=True):
            for path in (*folder.glob("chunk_*"), folder / _ERROR):
                path.unlink(missing_ok=True)
            job = _Job(replications=own, first=first, last=last)
            write_json(folder / _JOB, job.model_dump(mode="json"))
        self._n_read = 0
        with self._interrupts.postponed():  # or a process could be started and not be known
            self._executor.start(self._folders)

    def _next(self) -> Chunk:
        """The next chunk of all shards, once each has written its own."""
        paths = [_chunk_file(folder, self._n_read) for folder in self._folders]
        for folder, path in zip(self._folders, paths, strict=True):
            while not path.exists():
                self._interrupts.check()
                if (folder / _ERROR).exists() and not path.exists():
                    raise _error(read_json(folder / _ERROR))
                self._executor.watch()
                if gone := [x for x in self._folders if not (x / _JOB).exists()]:
                    raise InputError(f"{gone[0]}: the shard is gone; resume the run")
                time.sleep(_PAUSE)
        chunks = [read_chunk(path) for path in paths]
        merged = merge(chunks, self._n_replications)
        is_used = merged.idle_from is None or merged.idle_from >= merged.last
        has_state = is_used and all(chunk.part("state") for chunk in chunks)
        for folder, path in zip(self._folders, paths, strict=True):
            if has_state:  # from here it could be run again
                path.replace(folder / _STATE)
            else:
                path.unlink()
        if has_state:
            self._saved_at = merged.last
        self._n_read += 1
        return merged

    def steps(self, first: int, last: int) -> Iterator[Step]:
        """Run the steps [first, last); ends early when nobody is left to visit."""
        while first < last:
            self._chunk = self._next()
            for step in self._chunk.steps(self._n_blocks):
                if step.visits.step == self._chunk.idle_from:
                    self._end_at(step.visits.step)
                    return
                yield step
            first = self._chunk.last

    def _end_at(self, last: int) -> None:
        """Have the shards end where the last of them has nobody left, as one shard would."""
        self._executor.cancel()
        self._start(self._saved_at, last)
        self._chunk = self._next()
        while self._chunk.last < last:
            self._chunk = self._next()

    @property
    def look_seconds(self) -> float:
        """What the newest look took the shards, on average."""
        return self._chunk.look_seconds

    def look(self) -> Look:
        """See Shard."""
        return to_look(self._chunk.look, self._chunk.part("look"), self.updates())

    def updates(self) -> list[Updates]:
        """See Shard."""
        return to_updates(self._chunk.part("updates"))

    def networks(self) -> Tensors:
        """See Shard."""
        return self._chunk.part("networks")

    def state(self) -> Tensors:
        """See Shard: as one shard with all replications has it."""
        return self._chunk.part("state")

    def close(self) -> None:
        """End the shards; what they were doing is lost, but for what the run has saved."""
        self._executor.cancel()
        for folder in self._folders:
            for path in (*folder.glob("*.safetensors"), *folder.glob(".*.tmp")):
                with suppress(OSError):
                    path.unlink()


def _error(said: Mapping[str, Any]) -> Exception:
    """What a shard raised."""
    if said["kind"] == "UnfitError":
        return UnfitError(*said["lines"])
    kind = _KINDS.get(said["kind"])
    if kind is not None:
        return kind(*said["lines"])
    error = RuntimeError(f"{said['error']}: {' '.join(said['lines'])}")
    error.__cause__ = RuntimeError(said["trace"])
    return error


@own_arithmetic()
def main(folder: Path) -> int:
    """Run the shard of a folder; its error is a line on stderr."""
    try:
        work(folder)
    except Exception as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        return 2 if isinstance(error, InputError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
