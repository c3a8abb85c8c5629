"""What a measurement says: a figure, its floor, and what a user would write otherwise.

And what the machine can do at best: matrix products, and moving memory.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

import torch

Better = Literal["higher", "lower"]

_N = 1024  # rows and columns of the product
_FLOATS = 1 << 25  # 128 MiB, more than the caches hold
_N_PRODUCTS, _N_COPIES = 20, 7


@dataclass(frozen=True)
class Reference:
    """What a figure is compared with, measured in the same run and in the figure's unit.

    Attributes:
        what: it in a few words.
        value: positive.
    """

    what: str
    value: float


@dataclass(frozen=True)
class Figure:
    """One measured number.

    Attributes:
        name: what was measured, the same in every run of a size.
        value: in ``unit``.
        better: whether more of it is better, or less; so for the ratios too.
        floor: the best that the machine could do, whoever writes the code.
        peer: what a user would write or do otherwise.
        limit: a bound that the figure shall keep, in ``unit``.
        n_repeats: the value is the median of so many.
        note: what one should know to read it.
    """

    name: str
    value: float
    unit: str
    better: Better = "higher"
    floor: Reference | None = None
    peer: Reference | None = None
    limit: float | None = None
    n_repeats: int = 1
    note: str = ""

    def ratios(self) -> dict[str, float]:
        """The figure over its references: what is stored in a baseline."""
        there = {"floor": self.floor, "peer": self.peer}
        return {kind: self.value / x.value for kind, x in there.items() if x is not None}

    def as_json(self, measurement: str) -> dict[str, Any]:
        """The figure as plain values."""
        ratios = self.ratios()
        references = {
            kind: None if x is None else {"what": x.what, "value": x.value, "ratio": ratios[kind]}
            for kind, x in (("floor", self.floor), ("peer", self.peer))
        }
        return {
            "measurement": measurement,
            "name": self.name,
            "value": self.value,
            "unit": self.unit,
            "better": self.better,
            "n_repeats": self.n_repeats,
            **references,
            "limit": self.limit,
            "note": self.note,
        }


def memory(name: str, found: Mapping[str, Any], **more: Any) -> Figure:
    """The peak memory of a process beside that of importing its modules.

    Args:
        name: the figure's.
        found: what ``process.measure`` says.
        more: of the figure.
    """
    bare = Reference("its modules alone", found["modules_mib"])
    return Figure(name, found["peak_mib"], "MiB", "lower", floor=bare, **more)


def typical(function: Callable[[], Any], n_calls: int) -> float:
    """Seconds of the median of some calls, after one that does not count.

    Not of the fastest: what a figure is compared with shall feel the same load as the figure.
    """
    function()
    times = []
    for _ in range(n_calls):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return median(times)


def rates() -> dict[str, Any]:
    """The machine's rates, with as many threads as PyTorch takes by itself.

    Returns:
        ``gflops`` of a single-precision product of 1024 x 1024 matrices, ``gb_s``: bytes read and
        written by a copy of 128 MiB, in GB/s, and ``n_threads``.
    """
    a, b = torch.randn(_N, _N), torch.randn(_N, _N)
    product = typical(lambda: a @ b, _N_PRODUCTS)
    source, target = torch.zeros(_FLOATS), torch.zeros(_FLOATS)
    copy = typical(lambda: target.copy_(source), _N_COPIES)
    return {
        "gflops": 2 * _N**3 / product / 1e9,
        "gb_s": 2 * 4 * _FLOATS / copy / 1e9,
        "n_threads": torch.get_num_threads(),
    }
