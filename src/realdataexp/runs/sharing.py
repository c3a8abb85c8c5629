"""How replications are shared out among processes.

Axes: R replications.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from realdataexp.config import Config
from realdataexp.device import Device, available_devices, usable_threads
from realdataexp.errors import InputError
from realdataexp.registry import find

FORK = "fork"  # the executor that forks processes here


def shares(n_replications: int, n_processes: int) -> list[tuple[int, ...]]:
    """Each process's replications: all in their order, as even as can be."""
    ends = [n_replications * i // n_processes for i in range(n_processes + 1)]
    return [tuple(range(ends[i], ends[i + 1])) for i in range(n_processes)]


def processes_of(config: Config, device: Device) -> int:
    """Over how many processes the loop's replications are spread.

    At least two replications each: PyTorch multiplies a stack of one network by another kernel,
    with other last bits.

    Raises:
        InputError: so many processes cannot share them here.
    """
    simulation, R = config.simulation, config.experiment.replications
    asked, fault = simulation.processes, None
    if simulation.executor == FORK:
        fault = _obstacle(device)
    else:
        executor_of(config)
    most = 1 if fault else max(1, R // 2)
    if asked == "auto":
        return min(usable_threads(), most)
    if asked > max(1, R // 2):
        fault = f"each needs two replications or more, and experiment.replications = {R}"
    if asked > 1 and fault:
        raise InputError(f"simulation.processes = {asked}: {fault}; use at most {most}, or auto")
    return asked


def executor_of(config: Config) -> Callable[[], Any]:
    """What makes the executor that a config names: an import path.

    Raises:
        InputError: it is not there, or lacks a method.
    """
    name, where = config.simulation.executor, "simulation.executor"
    found = find("executor", name, where)
    lacking = [x for x in ("start", "watch", "cancel") if not callable(getattr(found, x, None))]
    if lacking or not callable(found):
        raise InputError(f"{where} = {name!r}: is no executor: it lacks {', '.join(lacking)}")
    return found


def _obstacle(device: Device) -> str | None:
    """Why nothing can be shared here, if so: where PyTorch sees a GPU, autograd does not fork."""
    if device.is_cpu and sys.platform == "linux" and available_devices() == ("cpu",):
        return None
    return (
        "only on a CPU under Linux where PyTorch sees no GPU, and this run's device is "
        f"{device.torch.type} under {sys.platform}, where it sees {', '.join(available_devices())}"
    )
