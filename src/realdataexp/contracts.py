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
    """A tensor that a component returned, if it is what was wanted.

    Looks at types and shapes only, so that nothing waits for a device.

    Args:
        value: what it returned.
        kinds: the types that will do.
        shape: the shape that was wanted.
        axes: names of its axes.
        like: a tensor on the device that was wanted.

    Raises:
        Unfit: it is another.
    """
    is_fit = isinstance(value, Tensor) and value.dtype in kinds and value.shape == tuple(shape)
    if is_fit and value.device == like.device:
        return value
    elsewhere = ""
    if isinstance(value, Tensor) and value.device != like.device:
        elsewhere = f" on {value.device}"
    names = " or ".join(name for own, name in _KINDS.items() if set(own) <= set(kinds))
    on = f" on {like.device}" if elsewhere else ""
    raise Unfit(
        f"returned {described(value)}{elsewhere}; wanted {_article(names)} tensor of "
        f"shape {tuple(shape)} ({axes}){on}"
    )


def check_values(value: Tensor, axes: str, *, is_weight: bool = False) -> None:
    """Look at a tensor's values; waits for the device.

    Args:
        value: what a component returned.
        axes: names of its axes.
        is_weight: whether it must not be negative either.

    Raises:
        Unfit: some are not finite, or negative.
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
    """Refuse a component that writes into what it was given, which others see too.

    Raises:
        Unfit: it did. PyTorch counts writes on the host, so that nothing waits for a device.
    """
    before = {name: tensor._version for name, tensor in tensors.items()}
    yield
    written = [name for name, tensor in tensors.items() if tensor._version != before[name]]
    if written:
        raise Unfit(
            f"changed its input {', '.join(written)} in place, which others see too; work on a "
            "copy (clone)"
        )
