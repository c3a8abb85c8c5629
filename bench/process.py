"""A function in a fresh process, so that what it takes of the machine is its own."""

from __future__ import annotations

import contextlib
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

_SECONDS_BETWEEN_LOOKS = 0.05
_LOOKS_BETWEEN_OTHERS = 20  # a look at another process takes 5 ms of it and of us
_ROOT = Path(__file__).parents[1]
_COMMAND = f"import sys; sys.path.insert(0, {str(_ROOT)!r}); from bench.process import work; work()"


Function = Callable[..., dict[str, Any]]


def measure(function: Function, then: Function | None = None, **arguments: Any) -> dict[str, Any]:
    """Call a function of the suite in a fresh process.

    Args:
        function: stands in a module; returns JSON values by name.
        then: called with the same arguments afterwards, when memory has been read: what the
            function is compared with, under the machine's load of the same minute.
        arguments: JSON values.

    Returns:
        What the functions returned, and ``peak_mib`` (the most memory that the process, with those
        it started, held, pages of files included), ``anonymous_mib`` (the most that the system
        could not take back), and ``modules_mib`` (the peak before the call: that of importing
        the function's module).

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
    found = {"modules_mib": peak_memory_mb()}
    watch = _Watch()
    try:
        found |= functions[0](**arguments)
        watch.look()
        found |= {"peak_mib": watch.most, "anonymous_mib": watch.most_anonymous}
        for then in functions[1:]:
            found |= then(**arguments)
    except InputError as error:
        print(" ".join(str(error).splitlines()), file=sys.stderr)
        sys.exit(2)
    print(json.dumps(found))


def _named(text: str) -> Function:
    """A function of the suite."""
    module, _, name = text.partition(":")
    if not module.startswith("bench."):
        sys.exit(f"{module}: no part of the benchmark suite")
    function: Function = getattr(importlib.import_module(module), name)
    return function


class _Watch:
    """Looks now and then, in a thread, at the memory of this process and those it started.

    Attributes:
        most: the most MiB of them, what they share counted once.
        most_anonymous: the most that the system could not take back.
    """

    def __init__(self) -> None:
        self.most = self.most_anonymous = 0.0
        self._of_others, self._n_looks = 0, 0
        self._process = psutil.Process()
        threading.Thread(target=self._look_again, daemon=True).start()

    def look(self) -> None:
        """Take the memory of this moment into account."""
        memory = self._process.memory_info()
        if self._n_looks % _LOOKS_BETWEEN_OTHERS == 0:
            self._of_others = 0
            for other in self._process.children(recursive=True):
                with contextlib.suppress(psutil.Error):  # it has ended meanwhile
                    self._of_others += other.memory_full_info().uss
        self._n_looks += 1
        anonymous = memory.rss - getattr(memory, "shared", 0)
        self.most = max(self.most, (memory.rss + self._of_others) / 2**20, peak_memory_mb())
        self.most_anonymous = max(self.most_anonymous, (anonymous + self._of_others) / 2**20)

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
