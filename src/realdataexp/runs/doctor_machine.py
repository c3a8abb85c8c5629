"""What a machine offers: versions, devices that are proven to work, threads, disk, memory."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import shutil
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import torch

from realdataexp.config import Config, default_cache_dir
from realdataexp.device import Device, available_devices, choose_device
from realdataexp.errors import InputError
from realdataexp.runs.findings import Finding, ok, size, stop, stops, warning
from realdataexp.runs.machine import free_memory

_N = 1024  # rows and columns of the product that is timed
_REPEATS = 5
_TOLERANCE, _AMP_TOLERANCE = 1e-3, 3e-2  # of the norm; rounding to 10 bits gives 5e-4, to 8 4e-3
_LOW_DISK, _NO_DISK = 1 << 30, 50 << 20
_LOW_MEMORY = 1 << 30


def check_machine(config: Config | None) -> list[Finding]:
    """All that can be said without data; a config says which device and folders a run uses."""
    return [
        *check_versions(),
        *check_devices(config),
        check_threads(),
        *check_disks(config),
        check_memory(),
        *check_packages(),
    ]


def check_versions() -> Iterator[Finding]:
    """Python, PyTorch, and the driver of an NVIDIA GPU."""
    yield ok("python", f"{platform.python_version()} on {platform.platform()}")
    build = torch.version.cuda and f"CUDA {torch.version.cuda}"
    build = build or (torch.version.hip and f"ROCm {torch.version.hip}")
    yield ok("torch", f"{torch.__version__}, built for {build or 'no CUDA or ROCm'}")
    driver, n_gpus = nvidia_driver()
    if driver is None:
        yield ok("driver", "no NVIDIA driver answers")
    elif n_gpus and "cuda" not in available_devices():
        text = f"NVIDIA {driver} has {n_gpus} GPUs, but this PyTorch uses none"
        yield warning("driver", text, "install a PyTorch built for CUDA, not newer than the driver")
    else:
        yield ok("driver", f"NVIDIA {driver}, GPUs: {n_gpus}")


def nvidia_driver() -> tuple[str | None, int]:
    """The version of the NVIDIA driver and the number of its GPUs; (None, 0) where unknown."""
    try:
        nvml = importlib.import_module("pynvml")
        nvml.nvmlInit()
    except Exception:  # no package, no library, no driver: each has an error of its own
        return None, 0
    try:
        return nvml.nvmlSystemGetDriverVersion(), nvml.nvmlDeviceGetCount()
    finally:
        nvml.nvmlShutdown()


def check_devices(config: Config | None) -> Iterator[Finding]:
    """Each device, with the proof that it computes; a stop if it is the one that would run."""
    there = available_devices()
    wanted = "auto" if config is None else config.device
    if wanted not in (*there, "auto"):
        try:
            choose_device(wanted)
        except InputError as error:
            yield from stops("device", error)
    used = there[0] if wanted == "auto" else wanted
    for kind in there:
        is_used = kind == used
        yield check_device(kind, is_used)
        yield check_amp(kind, is_used and config is not None and config.use_amp)


def check_device(kind: str, is_used: bool) -> Finding:
    """Whether a device multiplies matrices, rightly, and how fast."""
    name = f"device {kind}"
    remedy = "take another with --device" + (" cpu" if kind != "cpu" else ", or mend PyTorch")
    judge = stop if is_used else warning
    try:
        device = choose_device(kind)
        error, gflops = prove(device)
    except Exception as fault:
        text = " ".join(str(fault).split())
        return judge(name, f"does not compute: {type(fault).__name__}: {text}", remedy)
    if not error <= _TOLERANCE:
        return judge(name, f"{device.name}: wrong product, off by {error:.2g} of its size", remedy)
    used = ", which a run would use" if is_used else ""
    return ok(name, f"{device.name}{used}: product right to {error:.1g}, {gflops:,.0f} GFLOP/s")


def check_amp(kind: str, is_used: bool) -> Finding:
    """Whether a device computes in mixed precision."""
    name = f"amp {kind}"
    judge = stop if is_used else warning
    try:
        device = choose_device(kind, use_amp=True)
        error, gflops = prove(device)
    except InputError as fault:
        return stops(name, fault)[0] if is_used else ok(name, "none")
    except Exception as fault:
        text = " ".join(str(fault).split())
        return judge(name, f"{type(fault).__name__}: {text}", "set use_amp: false")
    if not error <= _AMP_TOLERANCE:
        return judge(name, f"wrong product, off by {error:.2g} of its size", "set use_amp: false")
    how = str(device.amp).removeprefix("torch.")
    return ok(name, f"{how}: product right to {error:.1g}, {gflops:,.0f} GFLOP/s")


def prove(device: Device, n: int = _N) -> tuple[float, float]:
    """Multiply two matrices on a device.

    Returns:
        How far the product is from that of the CPU in float64, relative to its size; and GFLOP/s,
        the median of a few repeats (of a product as small as those of a run, not the peak).
    """
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(n, n, generator=generator) for _ in range(2))
    there_a, there_b = device.tensor(a), device.tensor(b)
    seconds = []
    with device.autocast():
        product = there_a @ there_b  # warms up
        for _ in range(_REPEATS):
            device.synchronize()
            start = time.perf_counter()
            product = there_a @ there_b
            device.synchronize()
            seconds.append(time.perf_counter() - start)
    right = a.double() @ b.double()
    error = (product.cpu().double() - right).norm() / right.norm()
    return float(error), 2 * n**3 / statistics.median(seconds) / 1e9


def check_threads() -> Finding:
    """How many cores PyTorch uses, and whether somebody else does too."""
    cores = os.cpu_count() or 1
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cores
    threads, load = torch.get_num_threads(), psutil.getloadavg()[0]
    given = os.environ.get("OMP_NUM_THREADS") or "not set"
    text = f"PyTorch uses {threads} of {usable} cores (OMP_NUM_THREADS {given}; load {load:.1f})"
    if threads > usable:
        return warning("threads", text, f"set OMP_NUM_THREADS={usable}: more only wait")
    if threads > 1 and load + threads > 1.25 * usable:
        text += ": others use them too, and a run waits for its slowest process"
        return warning("threads", text, "set OMP_NUM_THREADS=1")
    return ok("threads", text)


def check_disks(config: Config | None) -> Iterator[Finding]:
    """Whether cache and results can be written, and how much."""
    cache = default_cache_dir() if config is None else config.cache_dir()
    results = Path("results") if config is None else config.path(config.logging.log_dir)
    yield check_disk("cache", cache, "set REALDATAEXP_CACHE or dataset.cache_path elsewhere")
    yield check_disk("results", results, "give --out or logging.log_dir elsewhere")


def check_disk(check: str, folder: Path, elsewhere: str) -> Finding:
    """A folder that runs write into, there or not yet."""
    there = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        return stop(check, f"{folder}: {there} cannot be written", elsewhere)
    free = shutil.disk_usage(there).free
    text = f"{folder}: {size(free)} free"
    if free < _NO_DISK:
        return stop(check, text, f"free some, or {elsewhere}")
    if free < _LOW_DISK:
        return warning(check, text, f"free some, or {elsewhere}")
    return ok(check, text)


def check_memory() -> Finding:
    """The memory that is left for a run."""
    free = free_memory()
    text = f"{size(free)} of {size(psutil.virtual_memory().total)} available"
    if free < _LOW_MEMORY:
        return warning("memory", text, "end other programs, or take fewer replications")
    return ok("memory", text)


def check_packages() -> Iterator[Finding]:
    """What is lost without the optional packages."""
    if (version := installed("scikit-learn")) is not None:
        yield ok("scikit-learn", version)
    else:
        lost = "not installed: no cluster design, no random_forest, svm, gradient_boosting"
        yield warning("scikit-learn", lost, "pip install 'realdataexp[sklearn]'")
    if (version := installed("nvidia-ml-py")) is not None:
        yield ok("nvidia-ml-py", version)
    elif "cuda" not in available_devices():
        yield ok("nvidia-ml-py", "not installed, and no use for it: no NVIDIA GPU")
    else:
        lost = "not installed: runs do not tell the GPU's use, memory and power"
        yield warning("nvidia-ml-py", lost, "pip install 'realdataexp[gpu]'")


def installed(package: str) -> str | None:
    """The version of a package, or None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
