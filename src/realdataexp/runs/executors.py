"""Who runs a run's shards: a process for each here, or whatever runs a command elsewhere.

A shard is a folder, ``shards/<i>`` of a run folder: shard.json says which replications and steps
it has, and it leaves its chunks there. ``work`` does the rest, from the config of the run folder
alone; as a command it is ``python -m realdataexp.runs.executors FOLDER``. An executor says where.

A chunk is one safetensors file: the steps since the chunk before, what the networks and designs
came to, and, where the run saves, the shard's whole state. A tensor that differs between worlds
has an axis in front that counts them: W worlds, S networks or R replications, each laid out group
by group (of blocks, or of models) with the replications within. So one rule (`join`) merges what
several shards found, and its inverse (`share_of`) hands a state out to any number of them.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import shutil
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.numpy import save_file
from torch import Tensor

from realdataexp.device import own_arithmetic
from realdataexp.errors import DiskError, InputError, RunError
from realdataexp.files import disk_faults, read_json, write_json
from realdataexp.loop import Step
from realdataexp.metrics import MetricValues
from realdataexp.registry import calling
from realdataexp.runs import ENDING, Interrupts
from realdataexp.runs.labels import Starts
from realdataexp.runs.setup import Setup, shares
from realdataexp.runs.shard import Shard, Updates, Validation, Validator, next_stop
from realdataexp.worlds.base import Visits

_JOB, _STATE, _ERROR = "shard.json", "state.safetensors", "error.json"
_LONGEST = 32  # steps of a chunk, between two stops that are further apart
_AHEAD = 8  # chunks that a shard may be ahead of who merges them
_PAUSE = 0.005  # seconds between two looks for a file
_DISK = 74  # exit code of a shard that could not even write what went wrong
_HEADER = "realdataexp"
_OF_ONE = re.compile(r"(?:^|\.)replication_(\d+)\.")  # what only one replication has
_RECORDS = {cls.__name__: cls for cls in (Step, Visits, Validation, MetricValues, Updates)}

Tensors = dict[str, Tensor]
Basis = tuple[Setup, Validator, Starts]
"""What all shards of a run have in common."""


# --- chunks --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Chunk:
    """The steps [first, last) of some replications.

    From the step ``idle_from`` on nobody of them visits, all being padding. ``records`` is what
    ``flat`` says of each step, of the updates and, where there was one, of the validation;
    ``tensors`` are theirs, and those of ``networks`` and ``state``.
    """

    replications: tuple[int, ...]
    first: int
    last: int
    idle_from: int | None = None
    records: dict[str, Any] = field(default_factory=dict)
    validation_seconds: float = 0.0
    tensors: Tensors = field(default_factory=dict)

    def part(self, prefix: str) -> Tensors:
        """The tensors whose names start with ``prefix.``, without it."""
        n = len(prefix) + 1
        return {k[n:]: t for k, t in self.tensors.items() if k.startswith(f"{prefix}.")}

    def put(self, name: str, value: Any) -> None:
        """Take in a step, updates or a validation."""
        self.records[name] = flat(value, name, self.tensors)

    def get(self, name: str) -> Any:
        """What was put in."""
        return whole(self.records[name], name, self.tensors)

    def write(self, path: Path) -> None:
        """Write it whole; what a power cut takes is computed again from the run's checkpoint."""
        header = {k: v for k, v in vars(self).items() if k != "tensors"}
        # NumPy's writer takes tensors that share memory, each for itself
        own = {name: t.detach().cpu().contiguous().numpy() for name, t in self.tensors.items()}
        temporary = path.with_name(f".{path.name}.tmp")
        with disk_faults(path):
            save_file(own, temporary, {_HEADER: json.dumps(header)})
            temporary.replace(path)


def read_chunk(path: Path) -> Chunk:
    """What ``Chunk.write`` wrote."""
    with safe_open(path, "pt") as file:
        header = json.loads(file.metadata()[_HEADER])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return Chunk(**header | {"replications": tuple(header["replications"])}, tensors=tensors)


def flat(value: Any, name: str, tensors: Tensors) -> Any:
    """JSON that says how a value is made of tensors, which are added by name; see ``whole``."""
    if isinstance(value, Tensor):
        tensors[name] = value
        return "tensor"
    if value is None or isinstance(value, int):
        return value
    if isinstance(value, str):
        return [value]
    kind, parts = type(value).__name__, value
    if kind in _RECORDS:
        parts = vars(value)
    elif not isinstance(value, dict):
        kind, parts = "list", {str(i): x for i, x in enumerate(value)}
    return {"of": kind, "has": {k: flat(x, f"{name}.{k}", tensors) for k, x in parts.items()}}


def whole(said: Any, name: str, tensors: Mapping[str, Tensor]) -> Any:
    """The value that ``flat`` took apart; a sequence comes back as a list."""
    if said == "tensor":
        return tensors[name]
    if isinstance(said, list):
        return said[0]
    if not isinstance(said, dict):
        return said
    parts = {k: whole(x, f"{name}.{k}", tensors) for k, x in said["has"].items()}
    if said["of"] in _RECORDS:
        return _RECORDS[said["of"]](**parts)
    return parts if said["of"] == "dict" else list(parts.values())


def merge(chunks: Sequence[Chunk], n_replications: int) -> Chunk:
    """The chunks of several shards as that of one which has all replications, in any order.

    A merged chunk is merged with nothing: merging it again changes nothing. Where a chunk is
    shorter, as its shard failed, only the steps that all have are taken.

    Raises:
        InputError: a replication is in two of them, or in none.
    """
    numbers = [r for chunk in chunks for r in chunk.replications]
    twice = sorted({r for r in numbers if numbers.count(r) > 1})
    missing = sorted({*range(n_replications)} - {*numbers})
    if twice or missing:
        fault, worlds = ("in two shards", twice) if twice else ("in no shard", missing)
        raise InputError(
            f"shards: replication {', '.join(map(str, worlds))} is {fault}; each must be in one: "
            "resume the run"
        )
    last = min(chunk.last for chunk in chunks)
    parts, records = [chunk.tensors for chunk in chunks], chunks[0].records
    if any(chunk.last != last for chunk in chunks):
        steps = tuple(f"step.{step}" for step in range(chunks[0].first, last))
        starts = tuple(f"{step}." for step in steps)
        parts = [{k: t for k, t in own.items() if k.startswith(starts)} for own in parts]
        records = {k: records[k] for k in steps if k in records}
    idle = [chunk.idle_from for chunk in chunks]
    return replace(
        chunks[0],
        replications=tuple(range(n_replications)),
        last=last,
        idle_from=None if None in idle else max(x for x in idle if x is not None),
        records=records,
        validation_seconds=sum(chunk.validation_seconds for chunk in chunks) / len(chunks),
        tensors=join(parts, [chunk.replications for chunk in chunks]),
    )


def join(parts: Sequence[Mapping[str, Tensor]], replications: Sequence[Sequence[int]]) -> Tensors:
    """The tensors of several shards, of equal names, as those of one with all replications.

    Each counts worlds, networks or replications in front, or is a number that all shards share.
    What only one replication has is named ``replication_<number>``.
    """
    order = torch.tensor([r for own in replications for r in own]).argsort()
    is_ordered = bool((order == torch.arange(len(order))).all())
    joined = {name: t for part in parts for name, t in part.items() if _OF_ONE.search(name)}
    for name, x in parts[0].items():
        if name in joined:
            continue
        if x.dim() == 0:
            joined[name] = x
            continue
        of_shards = [*zip([part[name] for part in parts], replications, strict=True)]
        if any(len(x) % len(own) for x, own in of_shards):
            raise RunError(
                f"{name}: does not count replications in front, as what a design keeps must where "
                "a run is spread over processes; mend its state(), or set simulation.processes: 1"
            )
        x_GRX = torch.cat([x.unflatten(0, (-1, len(own))) for x, own in of_shards], dim=1)
        joined[name] = (x_GRX if is_ordered else x_GRX[:, order]).flatten(0, 1)
    return joined


def share_of(tensors: Mapping[str, Tensor], own: Sequence[int], n_replications: int) -> Tensors:
    """Some replications' share of a state that has all; see ``join``.

    Raises:
        ValueError: a tensor does not count replications.
    """
    found = {}
    for name, x in tensors.items():
        if of_one := _OF_ONE.search(name):
            if int(of_one[1]) in own:
                found[name] = x
        elif x.dim() == 0:
            found[name] = x
        elif len(x) % n_replications:
            raise ValueError(f"{name} counts {len(x)}, which {n_replications} replications cannot")
        else:
            found[name] = x.unflatten(0, (-1, n_replications))[:, list(own)].flatten(0, 1)
    return found


# --- a shard's own work --------------------------------------------------------------------------


class UnfitError(Exception):
    """The state that a shard should begin from is not one of such a shard."""


_KINDS = {kind.__name__: kind for kind in (UnfitError, InputError, DiskError, RunError)}


def work(
    folder: Path, basis: Basis | None = None, is_wanted: Callable[[], bool] = lambda: True
) -> None:
    """Run the shard of a folder to its end, or until nobody waits for it any more.

    Where the basis is not at hand, it is made anew from the run folder. What goes wrong is raised,
    and written to error.json.
    """
    try:
        if basis is None:
            from realdataexp.runs.experiment import rebuilt

            basis = rebuilt(folder.parent.parent)
        _Work(folder, basis, is_wanted).run()
    except Exception as error:
        said = {
            "error": type(error).__name__,
            "kind": next((k for k, kind in _KINDS.items() if isinstance(error, kind)), ""),
            "lines": getattr(error, "faults", None) or [" ".join(str(error).split())],
            "trace": "".join(traceback.format_exception(error)),
        }
        write_json(folder / _ERROR, said)
        raise


class _Work:
    """One shard, from its shard.json to its last chunk."""

    def __init__(self, folder: Path, basis: Basis, is_wanted: Callable[[], bool]) -> None:
        self._folder, self._is_wanted = folder, is_wanted
        job = read_json(folder / _JOB)
        self._own, self._first, self._last = tuple(job["replications"]), job["first"], job["last"]
        self._loop, self._shard = basis[0].config.simulation, Shard(*basis, self._own)
        self._n_chunks = 0
        self._idle_from: int | None = None

    def run(self) -> None:
        """Work through the steps, chunk by chunk, as far as anybody waits for them."""
        step, last = self._first, self._last
        state = self._folder / _STATE
        is_new = not state.exists()
        if not is_new:
            try:
                self._shard.load_state(read_chunk(state).part("state"), step)
            except Exception as error:
                raise UnfitError(f"{type(error).__name__}: {error}") from error
        self._write(Chunk(self._own, step, step), is_new=is_new)
        while step < last and self._may_go_on():
            stop = min(next_stop(self._loop, step), step + _LONGEST, last)
            chunk = Chunk(self._own, step, stop)
            for number in range(step, stop):
                if not self._is_wanted():
                    return
                if self._idle_from is None and not self._shard.has_visitors:
                    self._idle_from = number
                try:
                    chunk.put(f"step.{number}", self._shard.step(number))
                except Exception:
                    if number > step:
                        self._put(replace(chunk, last=number))
                    raise
            self._write(chunk)
            step = stop

    def _may_go_on(self) -> bool:
        """Wait for who merges; whether to go on."""
        while len([*self._folder.glob("chunk_*")]) > _AHEAD:
            if not self._is_wanted():
                return False
            time.sleep(_PAUSE)
        return self._is_wanted()

    def _write(self, chunk: Chunk, *, is_new: bool = False) -> None:
        """Validate and save where that is due, and write the chunk."""
        loop, last, shard = self._loop, chunk.last, self._shard
        is_over, began = is_new or last == self._last, chunk.first < last
        if is_over or (began and last % loop.validate_every == 0):
            started = time.perf_counter()
            chunk.put("validation", shard.validate())
            chunk = replace(chunk, validation_seconds=time.perf_counter() - started)
            chunk.tensors.update({f"networks.{k}": t for k, t in shard.networks().items()})
        if is_over or (began and last % loop.save_every == 0):
            chunk.tensors.update({f"state.{k}": t for k, t in shard.state().items()})
        chunk.put("updates", shard.updates())
        self._put(chunk)

    def _put(self, chunk: Chunk) -> None:
        path = _chunk_file(self._folder, self._n_chunks)
        replace(chunk, idle_from=self._idle_from).write(path)
        self._n_chunks += 1


def _chunk_file(folder: Path, number: int) -> Path:
    return folder / f"chunk_{number:06d}.safetensors"


# --- processes of this machine -------------------------------------------------------------------


class Forked:
    """A process for each shard, forked from this one; any executor has these three methods.

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
        """End what still works on them; a shard may be started again afterwards."""
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


# --- several shards as one -----------------------------------------------------------------------


class Shards:
    """Several shards, as if they were one (see Shard): merged as they go."""

    def __init__(
        self, run_dir: Path, setup: Setup, n_shards: int, executor: Any, interrupts: Interrupts
    ) -> None:
        """Share the replications out; how many shards there are changes no result."""
        self._executor, self._interrupts = executor, interrupts
        self._n_steps = setup.config.simulation.n_steps
        self._n_replications = setup.config.experiment.replications
        self._root = run_dir / "shards"
        own = shares(self._n_replications, n_shards)
        self._shards = [(self._root / str(i), replications) for i, replications in enumerate(own)]
        self._n_read = self._saved_at = 0
        self._chunk: Chunk

    def begin(self) -> None:
        """Start from the starting models."""
        self._make_folders()
        self._start(0, self._n_steps)
        self._chunk = self._next()

    def load_state(self, tensors: Mapping[str, Tensor], n_steps_done: int) -> None:
        """Start from a state, whatever number of shards left it; ValueError for another run's."""
        self._make_folders()
        for folder, own in self._shards:
            share = share_of(tensors, own, self._n_replications)
            named = {f"state.{name}": t.contiguous() for name, t in share.items()}
            Chunk(own, n_steps_done, n_steps_done, tensors=named).write(folder / _STATE)
        self._saved_at = n_steps_done
        self._start(n_steps_done, self._n_steps)
        try:
            self._chunk = self._next()
        except UnfitError as error:
            raise ValueError(str(error)) from error

    def _make_folders(self) -> None:
        shutil.rmtree(self._root, ignore_errors=True)
        for folder, _ in self._shards:
            folder.mkdir(parents=True)

    def _start(self, first: int, last: int) -> None:
        for folder, own in self._shards:
            for path in (*folder.glob("chunk_*"), folder / _ERROR):
                path.unlink(missing_ok=True)
            write_json(folder / _JOB, {"replications": own, "first": first, "last": last})
        self._n_read = 0
        with self._interrupts.postponed():  # or a process could be started and not be known
            self._executor.start([folder for folder, _ in self._shards])

    def _next(self) -> Chunk:
        """The next chunk of all shards, once each has written its own."""
        paths = [_chunk_file(folder, self._n_read) for folder, _ in self._shards]
        for path in paths:
            folder = path.parent
            while not path.exists():
                self._interrupts.check()
                if (folder / _ERROR).exists() and not path.exists():
                    raise _error(read_json(folder / _ERROR))
                self._executor.watch()
                if gone := [x for x, _ in self._shards if not (x / _JOB).exists()]:
                    raise InputError(f"{gone[0]}: the shard is gone; resume the run")
                time.sleep(_PAUSE)
        chunks = [read_chunk(path) for path in paths]
        merged = merge(chunks, self._n_replications)
        is_used = merged.idle_from is None or merged.idle_from >= merged.last
        has_state = is_used and all(chunk.part("state") for chunk in chunks)
        for path in paths:
            if has_state:  # from here it could be run again
                path.replace(path.with_name(_STATE))
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
            for number in range(self._chunk.first, self._chunk.last):
                if number == self._chunk.idle_from:
                    self._end_at(number)
                    return
                yield self._chunk.get(f"step.{number}")
            first = self._chunk.last

    def _end_at(self, last: int) -> None:
        """Have the shards end where the last of them has nobody left, as one shard would."""
        self._executor.cancel()
        self._start(self._saved_at, last)
        self._chunk = self._next()
        while self._chunk.last < last:
            self._chunk = self._next()

    @property
    def validation_seconds(self) -> float:
        """What the newest validation took the shards, on average."""
        return self._chunk.validation_seconds

    def validate(self) -> Validation:
        """See Shard."""
        return self._chunk.get("validation")

    def updates(self) -> list[Updates]:
        """See Shard."""
        return self._chunk.get("updates")

    def networks(self) -> Tensors:
        """See Shard."""
        return self._chunk.part("networks")

    def state(self) -> Tensors:
        """See Shard: as one shard with all replications has it."""
        return self._chunk.part("state")

    def close(self) -> None:
        """End the shards; what they were doing is lost, but for what the run has saved."""
        self._executor.cancel()
        for folder, _ in self._shards:
            for path in (*folder.glob("*.safetensors"), *folder.glob(".*.tmp")):
                with suppress(OSError):
                    path.unlink()


def _error(said: Mapping[str, Any]) -> Exception:
    """What a shard raised."""
    kind: type[Exception] | None = _KINDS.get(said["kind"])
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
