"""How replications are shared out among processes.

Axes: R replications.
"""

from __future__ import annotations

import sys

from realdataexp.config import Config
from realdataexp.device import Device, available_devices, usable_threads
from realdataexp.errors import InputError


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
    asked, R = config.simulation.processes, config.experiment.replications
    most = 1 if _obstacle(device) else max(1, R // 2)
    if asked == "auto":
        return min(usable_threads(), most)
    fault = fault_of_processes(asked, R, device)
    if fault:
        raise InputError(f"simulation.processes = {asked}: {fault}; use at most {most}, or auto")
    return asked


def fault_of_processes(n_processes: int, n_replications: int, device: Device) -> str | None:
    """Why so many processes cannot share the replications here, if so."""
    if n_processes == 1:
        return None
    if n_processes > n_replications // 2:
        return (
            f"each needs two replications or more, and experiment.replications = {n_replications}"
        )
    return _obstacle(device)


def _obstacle(device: Device) -> str | None:
    """Why nothing can be shared here, if so: where PyTorch sees a GPU, autograd does not fork."""
    if device.is_cpu and sys.platform == "linux" and available_devices() == ("cpu",):
        return None
    return (
        "only on a CPU under Linux where PyTorch sees no GPU, and this run's device is "
        f"{device.torch.type} under {sys.platform}, where it sees {', '.join(available_devices())}"
    )
