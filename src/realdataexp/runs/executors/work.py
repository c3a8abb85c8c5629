"""A shard's own work, from its folder alone; it goes on where it was stopped or killed."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from realdataexp.errors import DiskError, InputError, RunError
from realdataexp.files import read_json, write_json
from realdataexp.runs.executors.chunks import (
    JOB,
    STATE,
    Chunk,
    file_of,
    kept,
    read_chunk,
)
from realdataexp.runs.labels import Starts
from realdataexp.runs.life import differences, show
from realdataexp.runs.parts import ERROR, Status
from realdataexp.runs.recorder import recorded
from realdataexp.runs.setup import Setup
from realdataexp.runs.shard import Shard, Validator, next_stop

DISK = 74
"""Exit code of a part that could not even write what went wrong."""
_STOPPED = "stopped.safetensors"  # the chunk under way when a signal came, and the state
_LONGEST = 32  # steps of a chunk, between two stops that are further apart

Basis = tuple[Setup, Validator, Starts]
"""What all shards of a run have in common."""


class UnfitError(Exception):
    """The state that a shard should begin from is not one of such a shard."""


_KINDS = {kind.__name__: kind for kind in (UnfitError, InputError, DiskError, RunError)}


@contextmanager
def noting_errors(folder: Path) -> Iterator[None]:
    """What is raised is written to the part's error.json, too."""
    try:
        yield
    except Exception as error:
        said = {
            "error": type(error).__name__,
            "kind": next((k for k, kind in _KINDS.items() if isinstance(error, kind)), ""),
            "lines": getattr(error, "faults", None) or [" ".join(str(error).split())],
            "trace": "".join(traceback.format_exception(error)),
        }
        write_json(folder / ERROR, said)
        raise


def error_of(folder: Path) -> Exception:
    """What a part raised, by its error.json."""
    said: Mapping[str, Any] = read_json(folder / ERROR)
    kind: type[Exception] | None = _KINDS.get(said["kind"])
    if kind is not None:
        return kind(*said["lines"])
    error = RuntimeError(f"{said['error']}: {' '.join(said['lines'])}")
    error.__cause__ = RuntimeError(said["trace"])
    return error


def work(
    folder: Path,
    basis: Basis | None = None,
    is_wanted: Callable[[], bool] = lambda: True,
    is_stopped: Callable[[], bool] = lambda: False,
) -> bool:
    """Run the shard of a folder to its end; whether it got there.

    It begins from the newest state that the folder holds, and leaves when nobody waits for it any
    more, or, having kept what it has, when it is stopped. Where the basis is not at hand, it is
    made anew from the run folder.

    Raises:
        InputError: its config, data or versions are not those of the run that shared it out.
    """
    with noting_errors(folder):
        (folder / ERROR).unlink(missing_ok=True)
        job = read_json(folder / JOB)
        if basis is None:
            from realdataexp.runs.experiment import rebuilt

            basis = rebuilt(folder.parent.parent)
            _require_same(folder, job["of"], basis[0].identity())
        return _Work(folder, basis, job, is_wanted, is_stopped).run()


def _require_same(folder: Path, was: Any, now: Any) -> None:
    if found := differences(was, now):
        raise InputError(
            *(
                f"{folder}: {where} is {show(here)} here and {show(there)} in the run that it is "
                "part of: make them the same on all nodes, and resume the run"
                for where, there, here in found
            )
        )


class _Work:
    """One shard, from its newest state to its last chunk."""

    def __init__(
        self,
        folder: Path,
        basis: Basis,
        job: Mapping[str, Any],
        is_wanted: Callable[[], bool],
        is_stopped: Callable[[], bool],
    ) -> None:
        self._folder, self._is_wanted, self._is_stopped = folder, is_wanted, is_stopped
        self._own, self._last = tuple(job["replications"]), int(job["last"])
        self._loop, self._shard = basis[0].config.simulation, Shard(*basis, self._own)
        self._n_chunks = 0
        self._idle_from: int | None = None

    def run(self) -> bool:
        """Work through the steps, chunk by chunk, as far as anybody waits for them."""
        chunk = self._begin()
        step = chunk.last
        status = Status(self._folder, step, self._last)
        status.note(step)
        while step < self._last:
            stop = min(next_stop(self._loop, chunk.first), chunk.first + _LONGEST, self._last)
            for number in range(step, stop):
                if not self._is_wanted():
                    return False
                if self._is_stopped():
                    self._stop(replace(chunk, last=number))
                    status.stop(number)
                    return False
                if self._idle_from is None and not self._shard.has_visitors:
                    self._idle_from = number
                try:
                    chunk.put(f"step.{number}", recorded(self._shard.step(number)))
                except Exception:
                    if number > chunk.first:
                        self._put(replace(chunk, last=number))
                    raise
            self._write(replace(chunk, last=stop))
            (self._folder / _STOPPED).unlink(missing_ok=True)
            step, chunk = stop, Chunk(self._own, stop, stop)
            status.note(step)
        status.note(step, "done")
        return True

    def _begin(self) -> Chunk:
        """Load the newest state, and return the chunk that is under way there.

        That is what was being computed when a signal came; else the newest chunk with a state,
        those after it being computed again, to the same bits; else what the run handed out; else
        the starting models.
        """
        found, path = kept(self._folder), self._folder / _STOPPED
        stopped = read_chunk(path) if path.exists() else None
        if found and stopped and stopped.first == found[-1].last:
            self._load(stopped)
            self._n_chunks, self._idle_from = found[-1].number + 1, stopped.idle_from
            steps = {k: t for k, t in stopped.tensors.items() if not k.startswith("state.")}
            return replace(stopped, tensors=steps)
        if with_state := [x.number for x in found if x.has_state]:
            newest = read_chunk(file_of(self._folder, with_state[-1]))
            self._load(newest)
            self._n_chunks, self._idle_from = with_state[-1] + 1, newest.idle_from
            return Chunk(self._own, newest.last, newest.last)
        is_new, first = not (self._folder / STATE).exists(), 0
        if not is_new:
            given = read_chunk(self._folder / STATE)
            self._load(given)
            first = given.last
        self._write(Chunk(self._own, first, first), is_new=is_new)
        return Chunk(self._own, first, first)

    def _load(self, chunk: Chunk) -> None:
        try:
            self._shard.load_state(chunk.part("state"), chunk.last)
        except Exception as error:
            raise UnfitError(f"{type(error).__name__}: {error}") from error

    def _stop(self, chunk: Chunk) -> None:
        """Keep the chunk that is under way."""
        chunk.tensors.update({f"state.{k}": t for k, t in self._shard.state().items()})
        replace(chunk, idle_from=self._idle_from).write(self._folder / _STOPPED)

    def _write(self, chunk: Chunk, *, is_new: bool = False) -> None:
        """Validate and save where that is due, and write the chunk."""
        loop, last, shard = self._loop, chunk.last, self._shard
        is_first, is_over = chunk.first == last, is_new or last == self._last
        if is_over or (not is_first and last % loop.validate_every == 0):
            started = time.perf_counter()
            chunk.put("validation", shard.validate())
            chunk = replace(chunk, validation_seconds=time.perf_counter() - started)
            chunk.tensors.update({f"networks.{k}": t for k, t in shard.networks().items()})
        if is_over or is_first or last % loop.save_every == 0:
            chunk.tensors.update({f"state.{k}": t for k, t in shard.state().items()})
        chunk.put("updates", shard.updates())
        self._put(chunk)

    def _put(self, chunk: Chunk) -> None:
        replace(chunk, idle_from=self._idle_from).write(file_of(self._folder, self._n_chunks))
        self._n_chunks += 1
