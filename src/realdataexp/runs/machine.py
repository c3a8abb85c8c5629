"""What a run took from the machine, and the versions it ran with."""

from __future__ import annotations

import importlib.metadata
import platform
import sys

_PACKAGES = ("realdataexp", "torch", "numpy", "polars", "scipy", "pydantic", "safetensors")


def peak_memory_mb() -> float:
    """The most memory this process has held so far, in MiB."""
    try:
        import resource
    except ImportError:  # Windows
        import psutil

        memory = psutil.Process().memory_info()
        return getattr(memory, "peak_wset", memory.rss) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # macOS counts bytes, the others KiB
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def versions() -> dict[str, str]:
    """Versions of the package, of Python, of the system, and of what computes."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        **{name: importlib.metadata.version(name) for name in _PACKAGES},
    }
