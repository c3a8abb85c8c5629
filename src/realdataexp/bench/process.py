"""A function in a fresh process, so that what it takes of the machine is its own."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from realdataexp.errors import InputError, RunError
from realdataexp.runs.machine import peak_memory_mb

_SECONDS_BETWEEN_LOOKS = 0.02
_COMMAND = "from realdataexp.bench.process import work; work()"


Function = Callable[..., dict[str, Any]]


def measure(function: Function, then: Function | None = None, **arguments: Any) -> dict[str, Any]:
    """Call a function of this package in a fresh process.

    Args:
        function: stands in a module; returns JSON values by name.
        then: called with the same arguments afterwards, when memory has been read: what the
            function is compared with, under the machine's load of the same minute.
        arguments: JSON values.

    Returns:
        What the functions returned, and ``peak_mib`` (the most memory that the process held, pages
        of files included), ``anonymous_mib`` (the most that the system could not take back), and
        ``modules_mib`` (the peak before the call: that of importing the function's module).

    Raises:
        InputError: the function raised one.
        RunError: it failed otherwise.
    """
    names = [f"{x.__module__}:{x.__qualname__}" for x in (function, then) if x is not None]
    done = subprocess.run(
        [sys.executable, "-c", _COMMAND, json.dumps(arguments), *names],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        if done.returncode == 2:
            raise InputError(lines[-1])
        raise RunError(f"bench: {names[0]} {json.dumps(arguments)[:200]}: {lines[-1]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def work() -> None:
    """The fresh process: call the named functions and print what they say, as JSON."""
    arguments, functions = json.loads(sys.argv[1]), [_named(name) for name in sys.argv[2:]]
    found = {"modules_mib": _peak_mib()}
    watch = _Watch()
    try:
        found |= functions[0](**arguments)
        watch.look()
        found |= {"peak_mib": _peak_mib(), "anonymous_mib": watch.most}
        for then in functions[1:]:
            found |= then(**arguments)
    except InputError as error:
        print(" ".join(str(error).splitlines()), file=sys.stderr)
        sys.exit(2)
    print(json.dumps(found))


def _named(text: str) -> Function:
    """A function of the suite."""
    module, _, name = text.partition(":")
    if not module.startswith("realdataexp.bench."):
        sys.exit(f"{module}: no part of the benchmark suite")
    function: Function = getattr(importlib.import_module(module), name)
    return function


def _peak_mib() -> float:
    """The most memory that this program has held.

    What getrusage says is of the process, so that it counts the parent's memory too, from which
    the process was forked before it became this program.
    """
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return peak_memory_mb()
    kib = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
    return int(kib[0]) / 1024 if kib else peak_memory_mb()


class _Watch:
    """Looks at this process's memory now and then, in a thread."""

    def __init__(self) -> None:
        self.most = 0.0
        self._process = psutil.Process()
        threading.Thread(target=self._look_again, daemon=True).start()

    def look(self) -> None:
        """Take the memory of this moment into account."""
        memory = self._process.memory_info()
        self.most = max(self.most, (memory.rss - getattr(memory, "shared", 0)) / 2**20)

    def _look_again(self) -> None:
        while True:
            self.look()
            time.sleep(_SECONDS_BETWEEN_LOOKS)


def timed(function: Callable[[], Any]) -> dict[str, Any]:
    """Call a function: ``seconds``, ``cpu_seconds`` of this process, and its ``result``."""
    start, cpu = time.perf_counter(), time.process_time()
    result = function()
    return {
        "seconds": time.perf_counter() - start,
        "cpu_seconds": time.process_time() - cpu,
        "result": result,
    }


class Parts:
    """Where the time goes: seconds of methods, without what they spend in each other.

    Attributes:
        seconds: of each part.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._inside = 0.0

    def watch(self, owner: Any, method: str, part: str) -> None:
        """From now on, count the time of a method to a part."""
        real = getattr(owner, method)

        def call(*args: Any, **kwargs: Any) -> Any:
            start, inside = time.perf_counter(), self._inside
            try:
                return real(*args, **kwargs)
            finally:
                took = time.perf_counter() - start
                self.seconds[part] += took - (self._inside - inside)
                self._inside = inside + took

        setattr(owner, method, call)
