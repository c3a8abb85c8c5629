"""Replay real logs through a recommender's training loop, and test A/B designs against the truth.

``import realdataexp as rx`` costs nothing: `run`, `sweep`, `plan`, `load_config`, `load_model`,
`Result`, `Sweep`, `Config`, the designs in `designs` and the two errors, `InputError` and
`RunError`, are imported on first use.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from realdataexp import designs
    from realdataexp.api import (
        Config,
        InputError,
        Result,
        RunError,
        Sweep,
        load_config,
        load_model,
        plan,
        run,
        sweep,
    )

# MKL's matrix products then depend neither on where in memory a network lies nor on threads, so
# that a world's result is the same to the bit whatever runs beside it. MKL hears of it at its first
# product; what somebody set already stays.
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")

__version__ = "0.1.0"
__all__ = [
    "Config",
    "InputError",
    "Result",
    "RunError",
    "Sweep",
    "__version__",
    "designs",
    "load_config",
    "load_model",
    "plan",
    "run",
    "sweep",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for (PEP 562)."""
    if name == "designs":
        return importlib.import_module("realdataexp.designs")
    if name in __all__:
        return getattr(importlib.import_module("realdataexp.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
