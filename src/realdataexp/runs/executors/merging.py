"""Several shards as one: shared out, started, and merged as they go."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from realdataexp.errors import InputError, RunError
from realdataexp.files import read_json, write_json
from realdataexp.loop import Step
from realdataexp.runs import Interrupts
from realdataexp.runs.executors import Executor
from realdataexp.runs.executors.chunks import (
    JOB,
    STATE,
    Chunk,
    Kept,
    Tensors,
    file_of,
    kept,
    merge,
    read_chunk,
    read_packed,
    share_of,
)
from realdataexp.runs.executors.work import UnfitError, error_of
from realdataexp.runs.parts import ERROR
from realdataexp.runs.setup import Setup, shares
from realdataexp.runs.shard import Updates, Validation

logger = logging.getLogger("realdataexp")

_SHORTEST_PAUSE_SECONDS = 0.005  # between two looks for a file
_PAUSE_SECONDS_OF_FAULTS = 0.2  # between two looks for what ended a shard
_LONGEST_PAUSE_SECONDS = {False: 0.05, True: 0.5}  # of parts here, which end with the run; of jobs


class Shards:
    """Several shards, as if they were one (see Shard): merged as they go.

    What a shard has computed beyond the run's newest checkpoint stays in its folder until the run
    has saved that too, so that a run which goes on asks only for what is missing.
    """

    def __init__(
        self, run_dir: Path, setup: Setup, n_shards: int, executor: Executor, interrupts: Interrupts
    ) -> None:
        """Share the replications out; how many shards there are changes no result."""
        self._executor, self._interrupts = executor, interrupts
        self._n_steps = setup.config.simulation.n_steps
        self._n_replications = setup.config.experiment.replications
        self._root, self._identity = run_dir / "shards", setup.identity()
        own = shares(self._n_replications, n_shards)
        self._shards = [(self._root / str(i), replications) for i, replications in enumerate(own)]
        self._n_read, self._n_gone = [0] * n_shards, [0] * n_shards
        self._with_state: dict[int, list[int]] = {}  # step -> each shard's number of that chunk
        self._chunk: Chunk

    def begin(self) -> None:
        """Start from the starting models."""
        self._start_from({}, 0)

    def load_state(self, tensors: Mapping[str, Tensor], n_steps_done: int) -> None:
        """Start from a state, whatever number of shards left it; ValueError for another run's."""
        try:
            self._start_from(tensors, n_steps_done)
        except UnfitError as error:
            raise ValueError(str(error)) from error

    def _start_from(self, tensors: Mapping[str, Tensor], step: int) -> None:
        """Start at a step; a shard that is there or further goes on with what it has."""
        found = [self._found(i, step) for i in range(len(self._shards))]
        if None in found and self._executor.outlives and self._root.exists():
            self._executor.cancel()  # what may still work there
        if all(chunks is None for chunks in found):
            shutil.rmtree(self._root, ignore_errors=True)
        todo = []
        for i, chunks in enumerate(found):
            if chunks is None:
                share = share_of(tensors, self._shards[i][1], self._n_replications)
                self._hand_out(i, share, step, self._n_steps)
            else:
                self._n_gone[i] = chunks[0].number if chunks else 0
                self._n_read[i] = next((x.number for x in chunks if x.last == step), 0)
            if not chunks or chunks[-1].last < self._n_steps:
                todo.append(i)
        self._start(todo)
        read = self._read()
        if any(chunk.first < chunk.last or chunk.layout != read[0].layout for chunk in read):
            names = ("updates", "state.", *(() if tensors else ("validation", "networks.")))
            read = [_part(chunk.unpacked(), names) for chunk in read]
        self._merge(read)

    def _found(self, i: int, step: int) -> list[Kept] | None:
        """A shard's chunks, where it is this run's and at a step or further; else None."""
        folder, own = self._shards[i]
        with suppress(OSError, ValueError):
            if read_json(folder / JOB) == self._job(own, self._n_steps):
                chunks = kept(folder)
                for cut in [x for x in chunks if not x.has_updates]:  # its shard failed there
                    file_of(folder, cut.number).unlink()
                if not chunks:  # it has not begun; its first chunk will end where it begins
                    given = folder / STATE
                    is_there = step == (read_chunk(given).last if given.exists() else 0)
                    return [] if is_there else None
                chunks = [x for x in chunks if x.has_updates]
                if any(x.last == step for x in chunks):
                    return chunks
        return None

    def _job(self, own: Sequence[int], last: int) -> dict[str, Any]:
        return {"replications": [*own], "last": last, "of": self._identity}

    def _hand_out(self, i: int, state: Mapping[str, Tensor], step: int, last: int) -> None:
        """A shard begins anew, from a state at a step, or from nothing."""
        folder, own = self._shards[i]
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        if state:
            named = {f"state.{name}": t.contiguous() for name, t in state.items()}
            Chunk(tuple(own), step, step, tensors=named).write(folder / STATE)
        write_json(folder / JOB, self._job(own, last))
        self._n_read[i] = self._n_gone[i] = 0

    def _start(self, shards: Sequence[int]) -> None:
        folders = [self._shards[i][0] for i in shards]
        for folder in folders:
            (folder / ERROR).unlink(missing_ok=True)
        with self._interrupts.postponed():  # or a process could be started and not be known
            self._executor.start(folders)

    def _read(self) -> list[Chunk]:
        """The next chunk of each shard, once all have written theirs."""
        paths = [
            file_of(folder, n) for (folder, _), n in zip(self._shards, self._n_read, strict=True)
        ]
        for path in paths:
            pause, at_faults = _SHORTEST_PAUSE_SECONDS, 0.0
            while not path.exists():
                self._interrupts.check()
                if time.monotonic() >= at_faults:
                    self._look_for_faults(path)
                    at_faults = time.monotonic() + _PAUSE_SECONDS_OF_FAULTS
                time.sleep(pause)
                pause = min(1.2 * pause, _LONGEST_PAUSE_SECONDS[self._executor.outlives])
        return [read_packed(path) for path in paths]

    def _look_for_faults(self, path: Path) -> None:
        """Raise what ended the shard that should write a chunk, or any of the others."""
        folder = path.parent
        if (folder / ERROR).exists() and not path.exists():
            raise error_of(folder)
        self._executor.watch()
        if gone := [x for x, _ in self._shards if not (x / JOB).exists()]:
            raise InputError(f"{gone[0]}: the shard is gone; resume the run")

    def _merge(self, chunks: Sequence[Chunk]) -> None:
        """Take in a chunk of each shard."""
        self._chunk = merge(chunks, self._n_replications)
        if self._is_used and self._chunk.part("state"):
            self._with_state[self._chunk.last] = [*self._n_read]
        self._n_read = [n + 1 for n in self._n_read]

    @property
    def _is_used(self) -> bool:
        """Whether somebody visited in all steps of the newest chunk."""
        return self._chunk.idle_from is None or self._chunk.idle_from >= self._chunk.last

    def steps(self, first: int, last: int) -> Iterator[Step]:
        """Run the steps [first, last); ends early when nobody is left to visit."""
        while first < last:
            self._merge(self._read())
            for number in range(self._chunk.first, self._chunk.last):
                if number == self._chunk.idle_from:
                    self._end_at(number)
                    return
                yield self._chunk.get(f"step.{number}")
            first = self._chunk.last

    def _end_at(self, last: int) -> None:
        """Have the shards end where the last of them has nobody left, as one shard would."""
        self._executor.cancel()
        step = max(self._with_state)
        for i, number in enumerate(self._with_state[step]):
            state = read_chunk(file_of(self._shards[i][0], number)).part("state")
            self._hand_out(i, state, step, last)
        self._start(range(len(self._shards)))
        self._merge(self._read())
        while self._chunk.last < last:
            self._merge(self._read())

    def saved(self, step: int) -> None:
        """The run has saved all up to a step: what the shards keep of it can go."""
        if (found := self._with_state.get(step)) is None:
            return
        self._with_state = {k: x for k, x in self._with_state.items() if k >= step}
        for i, number in enumerate(found):
            for old in range(self._n_gone[i], number):
                file_of(self._shards[i][0], old).unlink(missing_ok=True)
            self._n_gone[i] = number

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

    def close(self, error: type[BaseException] | None) -> None:
        """End the shards, but those that outlive an interrupted run.

        Of a run that is complete only what they say of themselves is kept.
        """
        if error is not None and issubclass(error, KeyboardInterrupt) and self._executor.outlives:
            logger.warning(
                "[run] its parts do not end with it: realdataexp status %s, and resume or cancel",
                self._root.parent,
            )
            return
        try:
            self._executor.cancel()
        except RunError as fault:  # what ended the run says more
            logger.warning(
                "[run] %s: realdataexp cancel %s ends its parts", fault, self._root.parent
            )
        if error is None:
            for folder, _ in self._shards:
                for path in (*folder.glob("*.safetensors"), *folder.glob(".*.tmp")):
                    with suppress(OSError):
                        path.unlink()


def _part(chunk: Chunk, names: tuple[str, ...]) -> Chunk:
    """What a chunk says of its last step, by the names with which that begins."""
    records = {k: x for k, x in chunk.records.items() if k.startswith(names)}
    tensors = {k: t for k, t in chunk.tensors.items() if k.startswith(names)}
    return replace(chunk, first=chunk.last, records=records, tensors=tensors)
