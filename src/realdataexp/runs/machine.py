"""What a run took from the machine, and the versions it ran with."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
import sys
from pathlib import Path

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
