"""What a run takes from the machine, second by second, and the versions it runs with."""

from __future__ import annotations

import importlib
import importlib.metadata
import logging
import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import psutil

from realdataexp.data.parquet import read_parquet, write_parquet
from realdataexp.files import require_regular

if TYPE_CHECKING:  # it loads PyTorch, which takes 200 MB
    from realdataexp.device import Device

logger = logging.getLogger("realdataexp")

MONITOR_FILE = "monitor.parquet"
MONITOR_SCHEMA: dict[str, type[pl.DataType]] = {
    "process": pl.Int64, "seconds": pl.Float64, "phase": pl.String, "cpu_percent": pl.Float64,
    "machine_percent": pl.Float64, "cores": pl.Int64, "memory_mb": pl.Float64,
    "gpu_percent": pl.Float64, "gpu_memory_mb": pl.Float64, "gpu_watts": pl.Float64,
}  # fmt: skip
_SECONDS_BETWEEN_WRITES = 60.0
_PATIENCE = 5.0  # seconds for a sample that hangs in a driver
_RESERVED = 1 << 30  # addresses that threads and allocators take without using the memory
_CGROUP = Path("/sys/fs/cgroup")
_PACKAGES = ("realdataexp", "torch", "numpy", "polars", "scipy", "pydantic", "safetensors")


def peak_memory_mb() -> float:
    """The most memory this program has held so far, in MiB."""
    kib = _linux_peak_kib(Path("/proc/self/status"))
    if kib is not None:
        return kib / 2**10
    try:
        import resource
    except ImportError:  # Windows
        memory = psutil.Process().memory_info()
        return getattr(memory, "peak_wset", memory.rss) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # macOS counts bytes, the others KiB
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def _linux_peak_kib(status: Path) -> int | None:
    """What Linux says; None elsewhere. getrusage counts the program that started this one, too."""
    try:
        lines = status.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), None)


def memory_limit() -> int:
    """Bytes that this program can have at most: the machine's, its container's or ulimit's."""
    caps = [psutil.virtual_memory().total, *(limit for limit, _ in _container())]
    return int(min([*caps, *(left + psutil.Process().memory_info().rss for left in _ulimit())]))


def free_memory() -> int:
    """Bytes that a run can still have: of the machine, or of the container it is in."""
    left = [limit - used for limit, used in _container()]
    return int(max(0, min([psutil.virtual_memory().available, *left, *_ulimit()])))


def _container() -> Iterator[tuple[int, int]]:
    """Limit and use of the container's memory, where there is one."""
    try:
        limit, used = (int((_CGROUP / f"memory.{x}").read_text()) for x in ("max", "current"))
        lines = (_CGROUP / "memory.stat").read_text().splitlines()
        cached = {name: int(n) for name, n in (line.split() for line in lines)}
    except (OSError, ValueError):  # no container, or one without a limit ("max")
        return
    # files that the system has read are given up when memory is wanted
    yield limit, used - cached.get("active_file", 0) - cached.get("inactive_file", 0)


def _ulimit() -> Iterator[int]:
    """What is left of the addresses that this program may use (ulimit -v), where it is limited."""
    try:
        import resource
    except ImportError:  # Windows
        return
    most, _ = resource.getrlimit(resource.RLIMIT_AS)
    if most != resource.RLIM_INFINITY:
        yield max(0, most - psutil.Process().memory_info().vms - _RESERVED)


def size(n_bytes: float) -> str:
    """A number of bytes for people."""
    return f"{n_bytes / 2**30:,.1f} GiB" if n_bytes >= 2**30 else f"{n_bytes / 2**20:,.0f} MiB"


def versions() -> dict[str, str | None]:
    """Versions of the package, of Python, of the system, and of what computes."""
    return {
        "git_revision": _git_revision(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        **{name: _installed(name) for name in _PACKAGES},
    }


_installed = cache(importlib.metadata.version)


@cache  # a program stays what it was loaded from
def _git_revision() -> str | None:
    """The commit of the checkout that the package lies in, "+" if it was changed; None without."""

    def git(*words: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *words]
        return subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        # a package installed inside somebody else's repository is no part of it
        git("ls-files", "--error-unmatch", Path(__file__).name)
        return git("describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*")
    except (OSError, subprocess.SubprocessError):
        return None


# --- while a run goes on -------------------------------------------------------------------------


class Clock:
    """Where a run's seconds go, by phase, over all its processes.

    The device, once known, is waited for at the end of a phase; the monitor is told of each.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.device: Device | None = None
        self.monitor: Monitor | None = None
        self._since: dict[str, float] = {}  # phases that go on
        self._before, self._started = 0.0, time.perf_counter()

    @property
    def total(self) -> float:
        """Seconds so far."""
        return self._before + time.perf_counter() - self._started

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Count what happens inside to a phase."""
        self._since[phase] = time.perf_counter()
        self._tell()
        try:
            yield
        finally:
            if self.device is not None:
                self.device.synchronize()
            self.add(phase, time.perf_counter() - self._since.pop(phase))
            self._tell()

    def _tell(self) -> None:
        if self.monitor is not None:
            self.monitor.phase = next(reversed(self._since), "")

    def add(self, phase: str, seconds: float) -> None:
        """Count seconds to a phase."""
        self.seconds[phase] = self.seconds.get(phase, 0.0) + seconds

    def state(self) -> dict[str, Any]:
        """The seconds so far, those of phases that go on included."""
        now, phases = time.perf_counter(), dict(self.seconds)
        for phase, since in self._since.items():
            phases[phase] = phases.get(phase, 0.0) + now - since
        return {"total": self.total, "phases": phases}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from the seconds of an earlier process."""
        self._before = state["total"]
        for phase, seconds in state["phases"].items():
            self.add(phase, seconds)


class Monitor:
    """Samples the run's processes and its GPU from a thread; use as a context manager.

    Nothing that goes wrong here ends a run: failed samples and writes are counted (``n_errors``),
    and reported once in the log when the monitor stops. Rows of an earlier process of the same run
    stay, and time goes on from the last of them. Rows are written every minute, so a killed run
    loses no more.

    A row: `process` (0, then one more each time the run was resumed), `seconds` since the start,
    `phase`, `cpu_percent` of this process and those of the loop (100 = one core),
    `machine_percent` of all `cores`, `memory_mb` resident (what they share counts once), and of
    the whole GPU, whoever uses it, `gpu_percent`, `gpu_memory_mb` and `gpu_watts` (null where NVML
    does not tell).
    """

    def __init__(self, path: Path, device: Device | None = None, every: float = 1.0) -> None:
        """Sample into a file, ``every`` so many seconds; of the device a GPU is looked at."""
        self.phase, self.n_errors = "", 0
        self._path, self._device, self._every = path, device, every
        self._last_error = ""
        self._earlier = pl.DataFrame(schema=MONITOR_SCHEMA)
        self._rows: list[dict[str, Any]] = []
        self._process: psutil.Process | None = None
        self._workers: dict[int, psutil.Process] = {}
        self._gpu: Callable[[], dict[str, float | None]] = dict
        self._began = self._written = time.monotonic()
        self._n_before = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="monitor", daemon=True)

    def __enter__(self) -> Monitor:
        """Read the rows that are there already, and begin to sample."""
        self._began = self._written = time.monotonic()
        for what in (self._read, self._open, self._thread.start):
            self._attempt(what)
        return self

    def __exit__(self, *_: object) -> None:
        """End the thread, which has sampled once at least, and write the file."""
        self._ended.set()
        if self._thread.ident is not None:
            self._thread.join(_PATIENCE)
        if not self._thread.is_alive():
            self._attempt(self._write)
        else:
            self._note(f"a sample took more than {_PATIENCE:g} s")
        if self.n_errors:
            logger.warning(
                "[warning] monitor: %d samples or writes of %s failed, the last: %s; the result "
                "does not depend on them",
                self.n_errors, self._path.name, self._last_error,
            )  # fmt: skip

    def table(self) -> pl.DataFrame:
        """All rows so far, those of earlier processes first."""
        return pl.concat([self._earlier, pl.DataFrame(list(self._rows), schema=MONITOR_SCHEMA)])

    def peak_memory_mb(self) -> float:
        """The most memory of any sample of this process and those of the loop."""
        return max((row["memory_mb"] for row in self._rows), default=0.0)

    def sample(self) -> None:
        """Add a row."""
        assert self._process is not None, "psutil knows nothing of this process"
        children = {child.pid: child for child in self._process.children(recursive=True)}
        # a process must be asked twice for its share of a core
        self._workers = {pid: self._workers.get(pid, x) for pid, x in children.items()}
        cpu_percent, memory = 0.0, 0
        for worker in self._workers.values():
            try:
                cpu_percent += worker.cpu_percent()
                memory += worker.memory_full_info().uss
            except psutil.Error:  # it has ended meanwhile
                continue
        self._rows.append(
            {
                "process": self._n_before,
                "seconds": time.monotonic() - self._began,
                "phase": self.phase,
                "cpu_percent": self._process.cpu_percent() + cpu_percent,
                "machine_percent": psutil.cpu_percent(),
                "cores": os.cpu_count() or 1,
                "memory_mb": (self._process.memory_info().rss + memory) / 2**20,
                **self._gpu(),
            }
        )

    def _run(self) -> None:
        self._attempt(psutil.cpu_percent)  # counts from this thread's last call
        is_ended = False
        while not is_ended:
            is_ended = self._ended.wait(self._every)
            if not is_ended or not self._rows:
                self._attempt(self.sample)
            if time.monotonic() - self._written >= _SECONDS_BETWEEN_WRITES:
                self._written = time.monotonic()
                self._attempt(self._write)

    def _open(self) -> None:
        self._process = psutil.Process()
        self._process.cpu_percent()  # the first call has nothing to compare with
        psutil.cpu_percent()
        self._gpu = gpu_reader(self._device)

    def _read(self) -> None:
        if self._path.exists():
            require_regular(self._path)
            columns = (pl.col(name).cast(kind) for name, kind in MONITOR_SCHEMA.items())
            rows = read_parquet(self._path).select(columns)
            if rows.height:
                self._earlier, self._n_before = rows, rows["process"][-1] + 1
                self._began -= rows["seconds"][-1]

    def _write(self) -> None:
        write_parquet(self._path, self.table())

    def _attempt(self, what: Callable[[], object]) -> None:
        try:
            what()
        except Exception as error:
            self._note(f"{type(error).__name__}: {' '.join(str(error).split())}")

    def _note(self, error: str) -> None:
        self.n_errors += 1
        self._last_error = error


def gpu_reader(device: Device | None) -> Callable[[], dict[str, float | None]]:
    """What reads the run's GPU; it reads nothing where NVML, or the package for it, is missing."""
    if device is None or device.is_cpu:
        return dict
    import torch

    ask = getattr(getattr(torch, device.torch.type, None), "get_device_properties", None)
    uuid = getattr(ask(0), "uuid", None) if ask else None
    if uuid is None:
        return dict
    try:
        nvml = importlib.import_module("pynvml")
        nvml.nvmlInit()
        handle = nvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
    except ModuleNotFoundError:
        logger.info("[run] GPU not monitored: pip install 'realdataexp[gpu]'")
        return dict
    except nvml.NVMLError as error:
        logger.info("[run] GPU not monitored: %s", error)
        return dict

    def reading(ask: Callable[[], float]) -> float | None:
        try:
            return ask()
        except nvml.NVMLError_NotSupported:  # a part of a GPU, or an older one
            return None

    return lambda: {
        "gpu_percent": reading(lambda: float(nvml.nvmlDeviceGetUtilizationRates(handle).gpu)),
        "gpu_memory_mb": reading(lambda: nvml.nvmlDeviceGetMemoryInfo(handle).used / 2**20),
        "gpu_watts": reading(lambda: nvml.nvmlDeviceGetPowerUsage(handle) / 1000),
    }
