"""Shards in processes of their own, one for each thread that PyTorch would use.

Half of a step's time on a CPU are operations too small for two threads, so two processes with one
thread each, and half of the replications each, are faster than one with two. Every world computes
the same, to the bit. Processes are forked: they share the data, and start at once; but OpenMP's
threads do not survive a fork, and a second one would be waited for without end.

The parent says what to run; a shard runs ahead of it by no more than the pipe holds, and never
past the steps that it was told to run. Signals are the parent's; when it is gone, so are they.
"""

from __future__ import annotations

import multiprocessing
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch import Tensor

from realdataexp.errors import InputError, RunError
from realdataexp.loop import Step
from realdataexp.runs.interrupts import ENDING
from realdataexp.runs.messages import (
    Tensors,
    dump,
    join,
    load,
    of_look,
    of_step,
    of_updates,
    to_look,
    to_step,
    to_updates,
)
from realdataexp.runs.shard import Look, Shard, Updates

_KINDS: dict[str, type[Exception]] = {"InputError": InputError, "RunError": RunError}


class Workers:
    """Several shards, as if they were one; see Shard."""

    def __init__(
        self, makers: Sequence[Callable[[], Shard]], n_replications: Sequence[int], n_blocks: int
    ) -> None:
        """Start a process for each shard.

        Args:
            makers: each makes a shard, in its process.
            n_replications: of each shard.
            n_blocks: how many designs there are.

        Raises:
            InputError, RunError: as the makers.
        """
        self._n_replications, self._n_blocks = n_replications, n_blocks
        self._connections: list[Connection] = []
        self._processes: list[Any] = []
        try:
            for make in makers:
                self._start(make)
            self._ask("begin")
        except BaseException:
            self.close()
            raise

    def _start(self, make: Callable[[], Shard]) -> None:
        context = multiprocessing.get_context("fork")
        ours, theirs = context.Pipe()
        self._connections.append(ours)
        process = context.Process(
            target=_serve, args=(theirs, tuple(self._connections), make), daemon=True
        )
        # a signal between the fork and the child's own handling of it would end the child
        signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
        try:
            with warnings.catch_warnings():
                # of locks that other threads hold; the monitor's thread, if any, holds none
                warnings.simplefilter("ignore", DeprecationWarning)
                process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
        self._processes.append(process)
        theirs.close()

    def _tell(self, i: int, text: Any, tensors: Mapping[str, Tensor] | None = None) -> None:
        try:
            self._connections[i].send_bytes(dump(text, tensors or {}))
        except OSError as error:
            raise self._loss(i) from error

    def _hear(self, i: int) -> tuple[Any, Tensors]:
        try:
            text, tensors = load(self._connections[i].recv_bytes())
        except (EOFError, OSError) as error:
            raise self._loss(i) from error
        if isinstance(text, dict) and "error" in text:
            raise _error(text)
        return text, tensors

    def _loss(self, i: int) -> RunError:
        self._processes[i].join(1.0)
        return RunError(
            f"process {i + 1} of {len(self._processes)} of the loop ended (exit code "
            f"{self._processes[i].exitcode}), as a rule because the system ran out of memory: "
            "lower experiment.replications or the number of designs, or set simulation.processes: 1"
        )

    def _ask(self, *command: Any) -> list[tuple[Any, Tensors]]:
        """What each shard answers; all work at the same time."""
        for i in range(len(self._connections)):
            self._tell(i, command)
        return [self._hear(i) for i in range(len(self._connections))]

    def _joined(self, tensors: Sequence[Tensors]) -> Tensors:
        return join(tensors, self._n_replications)

    def steps(self, first: int, last: int) -> Iterator[Step]:
        """Run the steps [first, last); ends early when nobody is left to visit."""
        everyone = range(len(self._connections))
        for i in everyone:
            self._tell(i, ("steps", first, last))
        for step in range(first, last):
            heard = [self._hear(i) for i in everyone]
            idle = [i for i, (text, _) in enumerate(heard) if text == "nobody"]
            for i in idle:  # others may have visitors; as one shard, it would go on with padding
                self._tell(i, len(idle) < len(heard))
            if len(idle) == len(heard):
                return
            for i in idle:
                heard[i] = self._hear(i)
            yield to_step(step, self._joined([x for _, x in heard]), self._n_blocks)

    def look(self) -> Look:
        """See Shard."""
        heard = self._ask("look")
        return to_look(heard[0][0], self._joined([x for _, x in heard]))

    def updates(self) -> list[Updates]:
        """See Shard."""
        heard = self._ask("updates")
        return to_updates(self._joined([x for _, x in heard]))

    def networks(self) -> dict[str, Tensor]:
        """See Shard."""
        return self._joined([x for _, x in self._ask("networks")])

    def state(self) -> dict[str, Tensor]:
        """See Shard; each shard's own, named after it."""
        heard = self._ask("state")
        return {f"shard_{i}.{k}": t for i, (_, x) in enumerate(heard) for k, t in x.items()}

    def load_state(self, tensors: Mapping[str, Tensor], n_waiting: int) -> None:
        """See Shard."""
        for i in range(len(self._connections)):
            prefix = f"shard_{i}."
            own = {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}
            self._tell(i, ("load_state", n_waiting), own)
        faults = [self._hear(i)[0] for i in range(len(self._connections))]
        for fault in faults:
            if fault is not None:
                raise ValueError(fault)

    def close(self) -> None:
        """End the processes; what they were doing is lost."""
        for process in self._processes:
            process.kill()
            process.join()
        for connection in self._connections:
            connection.close()


def _error(text: Mapping[str, Any]) -> Exception:
    """What a shard raised."""
    kind = _KINDS.get(text["kind"])
    if kind is not None:
        return kind(*text["lines"])
    error = RuntimeError(f"{text['error']}: {' '.join(text['lines'])}")
    error.__cause__ = RuntimeError(text["trace"])
    return error


def _serve(connection: Connection, others: Sequence[Connection], make: Callable[[], Shard]) -> None:
    """The life of a process: make the shard, then do what the parent says until it is gone."""
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
    for other in others:  # or it would not be told when the parent is gone
        other.close()
    _limit_threads()
    try:
        shard = make()
        while True:
            _answer(connection, shard, *load(connection.recv_bytes()))
    except (EOFError, ConnectionError):
        return
    except Exception as error:
        said = {
            "error": type(error).__name__,
            "kind": next((k for k, kind in _KINDS.items() if isinstance(error, kind)), ""),
            "lines": getattr(error, "faults", None) or [" ".join(str(error).split())],
            "trace": "".join(traceback.format_exception(error)),
        }  # fmt: skip
        try:
            connection.send_bytes(dump(said, {}))
        except OSError:
            return


def _limit_threads() -> None:
    torch.set_num_threads(1)
    pools = sys.modules.get("threadpoolctl")
    if pools is not None:  # of scikit-learn, whose threads do not survive a fork
        pools.threadpool_limits(1)


def _answer(connection: Connection, shard: Shard, command: Sequence[Any], tensors: Tensors) -> None:
    name, *args = command
    if name == "begin":
        connection.send_bytes(dump(None, {}))
    elif name == "steps":
        _run_steps(connection, shard, *args)
    elif name == "look":
        connection.send_bytes(dump(*of_look(shard.look())))
    elif name == "updates":
        connection.send_bytes(dump(None, of_updates(shard.updates())))
    elif name == "networks":
        connection.send_bytes(dump(None, shard.networks()))
    elif name == "state":
        connection.send_bytes(dump(None, shard.state()))
    elif name == "load_state":
        fault = None
        try:
            shard.load_state(tensors, *args)
        except Exception as error:  # the parent says whose state it is
            fault = f"{type(error).__name__}: {error}"
        connection.send_bytes(dump(fault, {}))


def _run_steps(connection: Connection, shard: Shard, first: int, last: int) -> None:
    for step in range(first, last):
        if not shard.has_visitors:
            connection.send_bytes(dump("nobody", {}))
            goes_on, _ = load(connection.recv_bytes())
            if not goes_on:
                return
        connection.send_bytes(dump(*of_step(shard.step(step))))
