"""Work in several forked processes, with a time limit and none left behind."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from typing import Any

import numpy as np
import torch
from torch import Tensor

from realdataexp.diagnose.subject import CannotTell
from realdataexp.registry import reason
from realdataexp.runs import ENDING

_PATIENCE_S = 30


def in_processes(n: int, work: Callable[..., Tensor], *arguments: Any) -> list[Tensor]:
    """``work(rank, *arguments)`` of each of n processes.

    They end with this call, within a second when the process that made it is gone, and after 30 s
    whatever holds them up.

    Raises:
        CannotTell: one failed, or they took too long.
    """
    context = multiprocessing.get_context("fork")
    children, pipes = [], []
    try:
        # a signal between the fork and the child's own handling of it would end the child
        signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
        try:
            for rank in range(n):
                pipe, end = context.Pipe(duplex=False)
                child = context.Process(
                    target=_in_child, args=(end, work, rank, arguments), daemon=True
                )
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", DeprecationWarning)  # of other threads
                    child.start()
                end.close()  # the child's alone: when it is gone, so is the pipe
                children.append(child)
                pipes.append(pipe)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
        return _received(pipes)
    finally:
        for child in children:
            child.kill()
            child.join()


def _in_child(end: Connection, work: Callable[..., Tensor], rank: int, arguments: Any) -> None:
    for number in ENDING:  # they are the first process's; when it is gone, so is this one
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(_PATIENCE_S)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        end.send_bytes(b"\0" + work(rank, *arguments).double().numpy().tobytes())
    except CannotTell as error:
        end.send_bytes(b"\2" + str(error).encode())
    except BaseException as error:
        end.send_bytes(b"\1" + reason(error).encode())
    time.sleep(_PATIENCE_S)  # until it is killed: the others may still want to hear of it


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def _received(pipes: list[Connection]) -> list[Tensor]:
    """What each sent; what goes wrong in one is heard while others still wait for it."""
    found: dict[Connection, Tensor] = {}
    end_s = time.monotonic() + _PATIENCE_S
    while missing := [x for x in pipes if x not in found]:
        ready = wait(missing, max(0.0, end_s - time.monotonic()))
        if not ready:
            raise CannotTell(f"{len(pipes)} processes did not end within {_PATIENCE_S} s")
        for pipe in ready:
            assert isinstance(pipe, Connection)
            found[pipe] = _unpacked(pipe)
    return [found[pipe] for pipe in pipes]


def _unpacked(pipe: Connection) -> Tensor:
    try:
        kind, told = (message := pipe.recv_bytes())[:1], message[1:]
    except EOFError:
        raise CannotTell("a process ended without a word: out of memory, or killed") from None
    if kind == b"\2":
        raise CannotTell(told.decode())
    if kind == b"\1":
        raise CannotTell(f"a process failed: {told.decode()}")
    return torch.from_numpy(np.frombuffer(told, dtype=np.float64).copy())
