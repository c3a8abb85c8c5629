"""What a run took from the machine, and the versions it ran with."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil

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
    """What Linux says of this program; None elsewhere.

    What getrusage says there is of the process, and so of the program, too, that it was forked
    from before it became this one.
    """
    try:
        lines = status.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    kib = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
    return int(kib[0]) if kib else None


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
        **{name: importlib.metadata.version(name) for name in _PACKAGES},
    }


def _git_revision() -> str | None:
    """The commit of the checkout that the package lies in, "+" if it was changed; None without."""
    here = Path(__file__).parent
    words = ["git", "-C", str(here), "describe", "--always", "--abbrev=40", "--dirty=+"]
    try:
        found = subprocess.run(
            [*words, "--exclude=*"], capture_output=True, text=True, check=True, timeout=10
        )
        tracked = subprocess.run(
            ["git", "-C", str(here), "ls-files", "--error-unmatch", Path(__file__).name],
            capture_output=True, check=False, timeout=10,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    # a package installed inside somebody else's repository is no part of it
    return found.stdout.strip() if tracked.returncode == 0 else None
