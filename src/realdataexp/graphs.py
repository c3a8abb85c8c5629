"""Operations that are recorded once and then started as one, where the device can (CUDA graphs).

A step is hundreds of small operations, most of which a GPU ends sooner than the host can start the
next. A recording starts them all at once. They are the same operations in the same order, so that
nothing changes to the bit.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from realdataexp.device import Device

_CALLS_BEFORE = 2  # of a kind before it is recorded: they load kernels and libraries
_Results = tuple[Tensor, ...]


class Graphs:
    """Recordings of the functions of one object.

    A function may change tensors in place that stay where they are, such as parameters. What it
    does may depend on the shapes and types of its tensors and on settings, but on nothing else
    that changes on the host, and it may not ask the device for a number.
    """

    def __init__(self, device: Device, *, can_record: bool = True) -> None:
        """Nothing is recorded yet.

        Args:
            device: where the tensors are.
            can_record: whether the functions are as they must be, for all that is known.
        """
        self._is_on = device.has_graphs and can_record
        self._n_calls: dict[Hashable, int] = {}
        self._recordings: dict[Hashable, _Recording] = {}

    def run(self, function: Callable[..., _Results], *arguments: Any) -> _Results:
        """What the function gives for the arguments, in tensors that are the caller's own.

        Args:
            function: a method of the object.
            arguments: tensors, dataclasses of tensors alone, and settings, which are hashable.
        """
        if not self._is_on:
            return function(*arguments)
        tensors = _tensors(arguments)
        kind = (
            function.__name__,
            *((x.shape, x.stride(), x.dtype) for x in tensors),
            *(x for x in arguments if not _has_tensors(x)),
        )
        if kind not in self._recordings:
            self._n_calls[kind] = self._n_calls.get(kind, 0) + 1
            if self._n_calls[kind] <= _CALLS_BEFORE:
                with _on_own_stream():
                    return function(*arguments)
            self._recordings[kind] = _Recording(function, arguments)
        return self._recordings[kind].replay(tensors)


class _Recording:
    """The operations of one kind of call; what they read and give lies always in one place."""

    def __init__(self, function: Callable[..., _Results], arguments: Sequence[Any]) -> None:
        own = [_copy(x) for x in arguments]
        self._inputs, self._graph = _tensors(own), torch.cuda.CUDAGraph()
        torch.cuda.empty_cache()  # a recording cannot use what earlier calls have left
        with _on_own_stream():
            self._graph.capture_begin(capture_error_mode="thread_local")
            try:
                self._results = function(*own)
            except BaseException:
                with contextlib.suppress(RuntimeError):
                    self._graph.capture_end()
                raise
            self._graph.capture_end()

    def replay(self, tensors: Sequence[Tensor]) -> _Results:
        """Do them with other numbers."""
        for own, given in zip(self._inputs, tensors, strict=True):
            own.copy_(given)
        self._graph.replay()
        return tuple(x.clone() for x in self._results)


def _has_tensors(x: Any) -> bool:
    return isinstance(x, Tensor) or (
        is_dataclass(x) and all(isinstance(getattr(x, f.name), Tensor) for f in fields(x))
    )


def _tensors(arguments: Sequence[Any]) -> list[Tensor]:
    """All tensors of the arguments."""
    found: list[Tensor] = []
    for x in arguments:
        if isinstance(x, Tensor):
            found.append(x)
        elif _has_tensors(x):
            found += [getattr(x, f.name) for f in fields(x)]
    return found


def _copy(x: Any) -> Any:
    """Tensors of the same layout; settings as they are."""
    if isinstance(x, Tensor):
        return x.clone()
    if _has_tensors(x):
        return replace(x, **{f.name: getattr(x, f.name).clone() for f in fields(x)})
    return x


_streams: dict[int, torch.cuda.Stream] = {}


@contextlib.contextmanager
def _on_own_stream() -> Iterator[None]:
    """Recordings need a stream of their own, and libraries their memory on it beforehand."""
    device, outside = torch.cuda.current_device(), torch.cuda.current_stream()
    inside = _streams.setdefault(device, torch.cuda.Stream())
    inside.wait_stream(outside)
    with torch.cuda.stream(inside):
        yield
    outside.wait_stream(inside)
