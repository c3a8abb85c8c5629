"""What the machine can do at best: matrix products, and moving memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch

_N = 1024  # rows and columns of the product
_FLOATS = 1 << 25  # 128 MiB, more than the caches hold
_N_PRODUCTS, _N_COPIES = 20, 7


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
