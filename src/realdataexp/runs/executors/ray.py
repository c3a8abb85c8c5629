"""Ray: a task for each part, which runs its command; on a cluster that runs, or one started here.

What is sent to Ray is a list of words. When the run is gone, so are its tasks, and then their
commands, which end with the worker that started them; a part goes on from its newest state.
"""

from __future__ import annotations

import logging
import os
import platform
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from realdataexp.config.cluster import ClusterConfig
from realdataexp.errors import DiskError, InputError, RunError
from realdataexp.files import disk_faults, is_locked
from realdataexp.runs import ENDING
from realdataexp.runs.executors import command_of
from realdataexp.runs.executors.work import DISK, Basis
from realdataexp.runs.parts import ERROR, LOCK, LOG

logger = logging.getLogger("realdataexp")

_STOPPED = 130  # exit code of a part that a signal stopped
_SAVING_SECONDS = 60.0  # from SIGTERM to SIGKILL
_ORPHAN_SECONDS = 600.0  # for the command of a worker that was lost to end after its step
_ANSWER_SECONDS = 10.0
_GB = 10**9


class LostError(Exception):
    """A part's command was ended from outside: Ray starts the task again."""


class Ray:
    """Parts as tasks of Ray; see the module."""

    outlives = False

    def __init__(self, _: Path, cluster: ClusterConfig, __: Basis | None = None) -> None:
        """For the parts of a run folder; nothing is started yet."""
        self._cluster = cluster
        self._tasks: dict[Any, Path] = {}
        self._is_own = False  # whether the connection is ours to close

    def check(self) -> str:
        """Which cluster it is, and what it has.

        Raises:
            InputError: Ray is not installed, nothing answers, or no node has what a part asks for.
        """
        ray = _ray()
        self._connect(ray)
        try:
            nodes = self._require(ray)
            has = ray.cluster_resources()
            return (
                f"Ray {ray.__version__}: {len(nodes)} nodes, {has.get('CPU', 0):g} CPUs, "
                f"{has.get('GPU', 0):g} GPUs, {has.get('memory', 0) / _GB:.3g} GB"
            )
        finally:
            self._close(ray)

    def start(self, parts: Sequence[Path]) -> None:
        """Begin a task for each of these folders, and return.

        Raises:
            InputError: see ``check``.
        """
        ray, asked = _ray(), self._cluster
        self._connect(ray)
        self._require(ray)
        task = ray.remote(_task).options(
            num_cpus=asked.cpus,
            num_gpus=asked.gpus or None,
            memory=None if asked.memory_gb is None else int(asked.memory_gb * _GB),
            max_retries=asked.retries,
            retry_exceptions=[LostError],
        )
        for part in parts:
            path = part.resolve()
            self._tasks[task.remote(command_of(path), str(path))] = part

    def watch(self) -> None:
        """See what ended.

        Raises:
            InputError: a worker does not see a part's folder.
            RunError: a part was lost more often than `cluster.retries`.
            DiskError: a part could write nothing.
        """
        ray = _ray()
        ended, _ = ray.wait([*self._tasks], num_returns=len(self._tasks), timeout=0)
        for ref in ended:
            part = self._tasks[ref]
            try:
                code, node = ray.get(ref)
            except ray.exceptions.RayError as error:
                said = " ".join(str(getattr(error, "cause", None) or error).split())[:200]
                raise RunError(
                    f"{part}: lost more than {self._cluster.retries} times (cluster.retries), the "
                    f"last time by {said} (its output: {part / LOG})"
                ) from None
            if code is None:
                raise InputError(
                    f"{part}: not seen on the node {node}: set logging.log_dir on storage that "
                    "all nodes share"
                )
            if code == DISK:
                raise DiskError(f"{part}: nothing can be written there; free disk space")
            if code and not (part / ERROR).exists():
                raise RunError(f"{part}: ended with exit code {code} on {node}; see {part / LOG}")

    def cancel(self) -> None:
        """End the tasks and their commands, which keep what they have."""
        if not self._tasks and not self._is_own:
            return
        ray = _ray()
        for ref in self._tasks:
            ray.cancel(ref)
        if self._tasks:
            ray.wait([*self._tasks], num_returns=len(self._tasks), timeout=2 * _SAVING_SECONDS)
        self._tasks = {}
        self._close(ray)

    def _connect(self, ray: ModuleType) -> None:
        if ray.is_initialized():
            return
        address = self._cluster.address or os.environ.get("RAY_ADDRESS")
        where = "cluster.address" if self._cluster.address else "RAY_ADDRESS"
        if address:
            _require_answer(address, where)
        own = {} if address else {"include_dashboard": False, "num_cpus": os.cpu_count()}
        handlers = {number: signal.getsignal(number) for number in ENDING}
        try:
            ray.init(
                address or "local", logging_level=logging.ERROR, log_to_driver=False,
                configure_logging=False, **own,
            )  # fmt: skip
        except (ConnectionError, RuntimeError, ValueError) as error:
            said = " ".join(str(error).split())[:200]
            raise InputError(
                f"{where} = {address!r}: no Ray cluster there, or one that asks for a token "
                f"(RAY_AUTH_MODE=token): {said}"
            ) from None
        finally:  # signals are the run's
            for number, handler in handlers.items():
                signal.signal(number, handler)
        self._is_own = True

    def _close(self, ray: ModuleType) -> None:
        if self._is_own:
            ray.shutdown()
        self._is_own = False

    def _require(self, ray: ModuleType) -> list[dict[str, float]]:
        """The nodes' resources; InputError where none of them has what a part asks for."""
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        asked = {
            "CPU": ("cpus", self._cluster.cpus, 1),
            "GPU": ("gpus", self._cluster.gpus, 1),
            "memory": ("memory_gb", self._cluster.memory_gb or 0, _GB),
        }
        if not any(all(has.get(x, 0) >= n * u for x, (_, n, u) in asked.items()) for has in nodes):
            wanted = ", ".join(f"cluster.{key} = {n:g}" for key, n, _ in asked.values() if n)
            most = ", ".join(
                f"{max((has.get(x, 0) for has in nodes), default=0) / u:.3g} {key}"
                for x, (key, _, u) in asked.items()
            )
            raise InputError(
                f"{wanted}: no node has so much, a part would wait for ever: the nodes have at "
                f"most {most}"
            )
        return nodes


def _ray() -> ModuleType:
    try:
        import ray
    except ImportError:
        raise InputError(
            "simulation.executor = 'ray': Ray is not installed; pip install 'realdataexp[ray]'"
        ) from None
    module: ModuleType = ray
    return module


def _require_answer(address: str, where: str) -> None:
    """Ray itself ends the process, or waits for minutes, where nothing answers."""
    host, colon, port = address.rpartition("://")[2].rpartition(":")
    if not colon or not port.isdecimal():
        return  # auto, which Ray looks up
    try:
        socket.create_connection((host, int(port)), _ANSWER_SECONDS).close()
    except OSError as error:
        raise InputError(
            f"{where} = {address!r}: no Ray cluster answers there ({error}); start one with "
            "ray start --head, or leave it out for one on this machine"
        ) from None


def _task(command: list[str], folder: str) -> tuple[int | None, str]:
    """On a worker: a part's exit code, None where its folder is not there, and the node's name.

    Raises:
        LostError: the command was ended from outside.
    """
    part, node = Path(folder), platform.node()
    if not part.is_dir():
        return None, node
    until = time.monotonic() + _ORPHAN_SECONDS
    while is_locked(part / LOCK) and time.monotonic() < until:
        time.sleep(0.1)
    with disk_faults(part / LOG), (part / LOG).open("ab") as log:
        process = subprocess.Popen(
            [*command, "--parent", str(os.getpid())],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
    try:
        while (code := process.poll()) is None:
            time.sleep(0.1)
    finally:  # cancelled: KeyboardInterrupt
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(_SAVING_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    if code < 0 or code == _STOPPED:
        raise LostError(f"its command, ended with exit code {code} on {node}")
    return code, node
