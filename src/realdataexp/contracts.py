"""What a component from outside may return: tensors of the right type, shape, device and values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from realdataexp.registry import Unfit

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
BOOLS = (torch.bool,)
_KINDS = {FLOATS: "float", INTEGERS: "int", BOOLS: "bool"}


def described(value: Any) -> str:
    """A value in words: type, shape and number of values of a tensor."""
    if isinstance(value, Tensor):
        dtype = str(value.dtype).removeprefix("torch.")
        size = f"shape {tuple(value.shape)}, {value.numel()} values"
        return f"{_article(dtype)} tensor of {size}"
    return "None" if value is None else f"an object of type {type(value).__name__}"


def _article(noun: str) -> str:
    return f"{'an' if noun[0] == 'i' else 'a'} {noun}"


def fit(
    value: Any, kinds: tuple[torch.dtype, ...], shape: Sequence[int], axes: str, like: Tensor
) -> Tensor:
    """A tensor that a component returned, if type, shape and device (that of ``like``) are right.

    Values are not looked at, so that nothing waits for a device.

    Raises:
        Unfit: it is another; ``axes`` names those of the shape.
    """
    is_here = not isinstance(value, Tensor) or value.device == like.device
    is_fit = isinstance(value, Tensor) and value.dtype in kinds and value.shape == tuple(shape)
    if is_fit and is_here:
        return value
    elsewhere, on = ("", "") if is_here else (f" on {value.device}", f" on {like.device}")
    names = " or ".join(name for own, name in _KINDS.items() if set(own) <= set(kinds))
    raise Unfit(
        f"returned {described(value)}{elsewhere}; wanted {_article(names)} tensor of "
        f"shape {tuple(shape)} ({axes}){on}"
    )


def check_values(value: Tensor, axes: str, *, is_weight: bool = False) -> None:
    """Look at the values of what a component returned; waits for the device.

    Raises:
        Unfit: some are not finite, or of weights negative.
    """
    for name, bad in (
        ("NaN", value.isnan()),
        ("infinite", value.isinf()),
        ("negative", (value < 0) & is_weight),
    ):
        if n := int(bad.sum()):
            raise Unfit(
                f"returned {described(value)} ({axes}), {n} of them {name}; wanted finite "
                f"numbers{', 0 or more' if is_weight else ''}"
            )


@contextmanager
def unchanged(tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """Refuse a component that writes into what it was given (Unfit), which others see too.

    PyTorch counts writes on the host, so that nothing waits for a device.
    """
    before = {name: tensor._version for name, tensor in tensors.items()}
    yield
    written = [name for name, tensor in tensors.items() if tensor._version != before[name]]
    if written:
        raise Unfit(
            f"changed its input {', '.join(written)} in place, which others see too; work on a "
            "copy (clone)"
        )
