"""Work in several forked processes, with a time limit and none left behind."""

from __future__ import annotations

import multiprocessing
import time
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import torch
from torch import Tensor

from realdataexp.diagnose.subject import CannotTell
from realdataexp.registry import reason

_PATIENCE_S = 30.0


def in_processes(n: int, work: Callable[..., Tensor], *arguments: Any) -> list[Tensor]:
    """``work(rank, *arguments)`` of each of n processes.

    Raises:
        CannotTell: one failed, or they took too long.
    """
    context = multiprocessing.get_context("fork")
    pipes = [context.Pipe(duplex=False) for _ in range(n)]
    children = [
        context.Process(target=_send, args=(pipes[rank][1], work, rank, arguments), daemon=True)
        for rank in range(n)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of other threads
        for child in children:
            child.start()
    try:
        return [_received(pipe) for pipe, _ in pipes]
    finally:
        for child in children:
            child.kill()
            child.join()


def _send(pipe: Connection, work: Callable[..., Tensor], rank: int, arguments: Any) -> None:
    try:
        pipe.send_bytes(b"\0" + work(rank, *arguments).double().numpy().tobytes())
    except CannotTell as error:
        pipe.send_bytes(b"\2" + str(error).encode())
    except Exception as error:
        pipe.send_bytes(b"\1" + reason(error).encode())
    time.sleep(_PATIENCE_S)  # until it is killed: the others may still want to hear of it


def _received(pipe: Connection) -> Tensor:
    if not pipe.poll(_PATIENCE_S):
        raise CannotTell(f"two processes did not end within {_PATIENCE_S:g} s")
    kind, told = (message := pipe.recv_bytes())[:1], message[1:]
    if kind == b"\2":
        raise CannotTell(told.decode())
    if kind == b"\1":
        raise CannotTell(f"a process of two failed: {told.decode()}")
    return torch.from_numpy(np.frombuffer(told, dtype=np.float64).copy())
