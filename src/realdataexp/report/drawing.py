"""What is used of matplotlib; drawings here are files, so MPLBACKEND may name what it will."""

from __future__ import annotations

import os
import sys
from contextlib import suppress

_backend = None if "matplotlib" in sys.modules else os.environ.pop("MPLBACKEND", None)

import matplotlib  # noqa: E402 (which does not load where MPLBACKEND names no backend)
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from matplotlib.ticker import FuncFormatter, MaxNLocator  # noqa: E402

if _backend is not None:  # others in this process, and its children, get what they asked for
    os.environ["MPLBACKEND"] = _backend
    with suppress(ValueError):
        matplotlib.rcParams["backend"] = _backend

__all__ = ["Axes", "Figure", "FuncFormatter", "MaxNLocator", "matplotlib"]
