"""The one place that knows the device; no other file asks what it is."""

from __future__ import annotations

import contextlib
import warnings
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from realdataexp.errors import InputError

_ORDER = ("cuda", "xpu", "mps", "cpu")


@dataclass(frozen=True)
class Device:
    """Where tensors live and how the arithmetic is done there.

    Attributes:
        torch: the PyTorch device.
        reason: why it was chosen, for the log.
        chunk_bytes: bytes of activations that one chunk of stacked networks should stay within:
            the cache of a CPU, a share of the memory of an accelerator.
        amp: whether matrix products run in bfloat16 (automatic mixed precision).
    """

    torch: torch.device
    reason: str
    chunk_bytes: int
    amp: bool = False

    def tensor(self, array: np.ndarray) -> Tensor:
        """An array on the device; on the CPU it shares the memory, and must not be written to."""
        with warnings.catch_warnings():
            # read-only memory maps: torch has no read-only tensors and says so
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            return torch.from_numpy(array).to(self.torch)

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """Mixed precision for the forward pass, or nothing."""
        if not self.amp:
            return contextlib.nullcontext()
        return torch.autocast(self.torch.type, dtype=torch.bfloat16)


def available_devices() -> tuple[str, ...]:
    """The kinds of device found on this machine, best first."""
    found = {
        "cuda": torch.cuda.is_available(),
        "xpu": torch.xpu.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    return tuple(kind for kind in _ORDER if found[kind])


def choose_device(wanted: str, use_amp: bool = False) -> Device:
    """The device called ``wanted``, or the best one for "auto".

    Raises:
        InputError: the device is not on this machine, or has no bfloat16 for ``use_amp``.
    """
    there = available_devices()
    if wanted != "auto" and wanted not in there:
        raise InputError(
            f"device = {wanted!r}: not on this machine; there is: {', '.join(there)}; "
            "use one of these or auto"
        )
    kind = there[0] if wanted == "auto" else wanted
    reason = f"best of {', '.join(there)}" if wanted == "auto" else "as asked"
    if use_amp and kind == "cuda" and not torch.cuda.is_bf16_supported():
        raise InputError("use_amp = true: this GPU has no bfloat16; set use_amp: false")
    chunk_bytes = 8 << 20 if kind == "cpu" else 1 << 30
    return Device(torch.device(kind), reason, chunk_bytes, use_amp)
