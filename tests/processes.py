"""Python commands in processes of their own, which need not import everything again.

A server, started with the first command, imports what a run imports, and forks for each command: a
process with its own memory, files, signals and exit code. `Popen` and `run` are used like those of
`subprocess`, which stay for whatever depends on a fresh interpreter: what is imported and when,
environment variables that libraries read when they are loaded, and memory.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from pathlib import Path
from subprocess import CalledProcessError, CompletedProcess
from typing import Any

import psutil

SLOW = """
import os, time
from realdataexp.designs.pooling import Pooling


class Slow(Pooling):
    def assign(self, visits, p):
        if os.path.exists(os.environ.get("SLOWLY", "")):
            time.sleep(0.2)
        return super().assign(visits, p)
"""
"""A module with a design whose loop is slow while there is the file SLOWLY."""


def trust_memory() -> None:
    """Have this process wait for no disk: what it writes need not outlive a loss of power."""
    os.fsync = lambda fd: None


_SERVER = multiprocessing.get_context("forkserver") if os.name == "posix" else None
if _SERVER:
    _SERVER.set_forkserver_preload(
        ["realdataexp.cli", "realdataexp.runs.experiment", "realdataexp.report.page",
         "matplotlib.backends.backend_svg", "torch._dynamo"]
    )  # fmt: skip


def until(what: Callable[[], Any], patience_seconds: float = 150.0) -> Any:
    """The first true answer."""
    end = time.monotonic() + patience_seconds
    while not (found := what()):
        assert time.monotonic() < end, f"not in {patience_seconds:g} s"
        time.sleep(0.1)
    return found


def start_server() -> None:
    """Start the server and what it keeps beside it, which stay until the tests end."""
    if _SERVER:
        forkserver.ensure_running()


class Popen(subprocess.Popen):  # type: ignore[type-arg]
    """As subprocess's; ``[sys.executable, "-c" or "-m", what, *arguments]`` is a fork."""

    _process: Any = None

    def _execute_child(self, args: Any, *more: Any) -> None:
        if _SERVER is None or args[0] != sys.executable or args[1] not in ("-c", "-m"):
            super()._execute_child(args, *more)  # type: ignore[misc]
            return
        cwd, env, pipes, is_leader = more[4], more[5], more[9:15], more[20]
        ours = [fd if fd != -1 else i for i, fd in enumerate((pipes[0], pipes[3], pipes[5]))]
        # these are handed to the process, and end here
        files = [Connection(os.dup(fd)) for fd in ours]
        words = [os.fspath(x) for x in args[1:]]
        place = os.fspath(cwd or os.getcwd())
        given = (words, place, dict(env or os.environ), is_leader, files)
        self._process = _SERVER.Process(target=_work, args=given)
        try:
            self._process.start()
        finally:
            for file in files:
                file.close()
            self._close_pipe_fds(*pipes)  # type: ignore[attr-defined]
        self.pid, self._child_created = self._process.pid, True

    def _internal_poll(self, **_: Any) -> int | None:
        if self._process is None:
            return super()._internal_poll()  # type: ignore[misc,no-any-return]
        if self.returncode is None and (ended := self._try_wait(os.WNOHANG))[0]:
            self._handle_exitstatus(ended[1])  # type: ignore[attr-defined]
        return self.returncode

    def _try_wait(self, wait_flags: int) -> tuple[int, int]:
        if self._process is None:
            return super()._try_wait(wait_flags)  # type: ignore[misc,no-any-return]
        self._process.join(0 if wait_flags else None)
        code = self._process.exitcode
        if code is None:
            return 0, 0
        return self.pid, code << 8 if code >= 0 else -code  # as waitpid has it


@contextmanager
def started(config: Path, out: Path) -> Iterator[tuple[Any, list[psutil.Process]]]:
    """A run of the command line, in its loop, in a process group of its own; and its processes."""
    words = [sys.executable, "-m", "realdataexp", "run", str(config), "--out", str(out)]
    process = Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    own: list[psutil.Process] = []
    try:
        assert process.stderr
        assert any("[loop] step 5:" in line for line in process.stderr), "ended before"
        own += psutil.Process(process.pid).children(recursive=True)
        yield process, own
    finally:
        for each in (process, *own):
            with suppress(psutil.Error):
                each.kill()
        process.communicate()


def run(
    args: list[str], *, capture_output: bool = False, check: bool = False, **more: Any
) -> CompletedProcess[Any]:
    """As subprocess's."""
    if capture_output:
        more |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with Popen(args, **more) as process:
        out, err = process.communicate()
    if check and process.returncode:
        raise CalledProcessError(process.returncode, args, out, err)
    return CompletedProcess(args, process.returncode, out, err)


def _work(
    words: list[str], cwd: str, env: dict[str, str], is_leader: bool, files: list[Connection]
) -> None:
    """What the process does."""
    trust_memory()
    for fd, file in enumerate(files):
        os.dup2(file.fileno(), fd)
        file.close()
    if is_leader:
        os.setsid()
    sys.stdin, sys.stdout = (os.fdopen(i, mode, closefd=False) for i, mode in enumerate("rw"))
    sys.stderr = os.fdopen(2, "w", buffering=1, errors="backslashreplace", closefd=False)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    sys.path[:0] = [cwd]  # as -c and -m have it
    kind, what, *rest = words
    sys.argv = [kind, *rest]
    if kind == "-m":
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    else:
        exec(compile(what, "<string>", "exec"), {"__name__": "__main__"})
