"""What a run takes from the machine while it runs: a row a second, in `monitor.parquet`."""

from __future__ import annotations

import importlib
import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import psutil
import torch

from realdataexp.data.parquet import read_parquet
from realdataexp.device import Device
from realdataexp.files import require_regular
from realdataexp.runs.folder import write_parquet

logger = logging.getLogger("realdataexp")

FILE = "monitor.parquet"
SCHEMA: dict[str, type[pl.DataType]] = {
    "process": pl.Int64,
    "seconds": pl.Float64,
    "phase": pl.String,
    "cpu_percent": pl.Float64,
    "machine_percent": pl.Float64,
    "cores": pl.Int64,
    "memory_mb": pl.Float64,
    "gpu_percent": pl.Float64,
    "gpu_memory_mb": pl.Float64,
    "gpu_watts": pl.Float64,
}
_EVERY = 1.0
_SECONDS_BETWEEN_WRITES = 60.0
_PATIENCE = 5.0  # seconds for a sample that hangs in a driver


class Monitor:
    """Samples the run's processes and its GPU from a thread; use as a context manager.

    Nothing that goes wrong here ends a run: failed samples and writes are counted, and told once
    in the log when the monitor stops. Rows of an earlier process of the same run stay, and time
    goes on from the last of them. Rows are written every minute, so a killed run loses no more.

    A row: `process` (0, then one more each time the run was resumed), `seconds` since the start,
    `phase`, `cpu_percent` of this process and those of the loop (100 = one core),
    `machine_percent` of all `cores`, `memory_mb` resident (what they share counts once), and of
    the whole GPU, whoever uses it, `gpu_percent`, `gpu_memory_mb` and
    `gpu_watts` (null where NVML does not tell).

    Attributes:
        phase: what the run is at; set it where a phase begins.
        n_errors: samples and writes that failed.
    """

    def __init__(self, path: Path, device: Device | None = None, every: float = _EVERY) -> None:
        """Sample into a file.

        Args:
            path: the file, as a rule `monitor.parquet` of a run folder.
            device: the run's device; its GPU is looked at, if NVML knows it.
            every: seconds between two samples.
        """
        self.phase = ""
        self.n_errors = 0
        self._path, self._device, self._every = path, device, every
        self._last_error = ""
        self._earlier = pl.DataFrame(schema=SCHEMA)
        self._rows: list[dict[str, Any]] = []
        self._process: psutil.Process | None = None
        self._workers: dict[int, psutil.Process] = {}
        self._gpu: Callable[[], dict[str, float | None]] = dict
        self._first, self._offset, self._n_before = 0.0, 0.0, 0
        self._written = 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="monitor", daemon=True)

    def __enter__(self) -> Monitor:
        """Read the rows that are there already, and begin to sample."""
        self._first = self._written = time.monotonic()
        self._attempt(self._read)
        self._attempt(self._open)
        self._attempt(self._thread.start)
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
        return pl.concat([self._earlier, pl.DataFrame(list(self._rows), schema=SCHEMA)])

    def sample(self) -> None:
        """Add a row."""
        assert self._process is not None, "psutil knows nothing of this process"
        cpu_percent, memory_mb = self._use_of_workers(self._process)
        self._rows.append(
            {
                "process": self._n_before,
                "seconds": self._offset + time.monotonic() - self._first,
                "phase": self.phase,
                "cpu_percent": self._process.cpu_percent() + cpu_percent,
                "machine_percent": psutil.cpu_percent(),
                "cores": os.cpu_count() or 1,
                "memory_mb": self._process.memory_info().rss / 2**20 + memory_mb,
                **self._gpu(),
            }
        )

    def peak_memory_mb(self) -> float:
        """The most memory of any sample of this process and those of the loop."""
        return max((row["memory_mb"] for row in self._rows), default=0.0)

    def _use_of_workers(self, process: psutil.Process) -> tuple[float, float]:
        """Percent of a core, and MiB of their own, of the processes that this one started."""
        children = {child.pid: child for child in process.children(recursive=True)}
        self._workers = {pid: self._workers.get(pid, x) for pid, x in children.items()}
        cpu_percent = memory = 0.0
        for worker in self._workers.values():
            try:
                cpu_percent += worker.cpu_percent()
                memory += worker.memory_full_info().uss
            except psutil.Error:  # it has ended meanwhile
                continue
        return cpu_percent, memory / 2**20

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
            rows = read_parquet(self._path).select(pl.col(k).cast(v) for k, v in SCHEMA.items())
            if rows.height:
                self._earlier = rows
                self._offset, self._n_before = rows["seconds"][-1], rows["process"][-1] + 1

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
    kind = device.torch.type if device is not None else "cpu"
    properties = getattr(getattr(torch, kind, None), "get_device_properties", None)
    uuid = getattr(properties(0), "uuid", None) if kind != "cpu" and properties else None
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
