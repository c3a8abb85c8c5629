"""Operations that are recorded once and then started as one, where the device can (CUDA graphs).

A step is hundreds of small operations, most of which a GPU ends sooner than the host can start the
next. A recording starts them all at once. They are the same operations in the same order, so that
nothing changes to the bit.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
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
        """Start without any; ``can_record``: whether the functions are as they must be."""
        self._is_on = device.has_graphs and can_record
        self._n_calls: dict[Hashable, int] = {}
        self._recordings: dict[Hashable, _Recording] = {}

    def run(self, function: Callable[..., _Results], *arguments: Any) -> _Results:
        """What a method gives for the arguments, in tensors that are the caller's own.

        Arguments are tensors, dicts and dataclasses of tensors alone, and hashable settings.
        """
        if not self._is_on:
            return function(*arguments)
        found = [_tensors(x) for x in arguments]
        tensors = [x for own in found for x in own]
        kind = (
            function.__name__,
            *((x.shape, x.stride(), x.dtype) for x in tensors),
            *(x for x, own in zip(arguments, found, strict=True) if not own),
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


def _tensors(x: Any) -> list[Tensor]:
    """All tensors of an argument, or of several; none of a setting."""
    if isinstance(x, Tensor):
        return [x]
    return [tensor for part in _members(x).values() for tensor in _tensors(part)]


def _copy(x: Any) -> Any:
    """Tensors of the same layout; settings as they are."""
    if isinstance(x, Tensor):
        return x.clone()
    if isinstance(x, dict):
        return {name: _copy(part) for name, part in x.items()}
    return replace(x, **{k: _copy(part) for k, part in _members(x).items()}) if _tensors(x) else x


def _members(x: Any) -> Mapping[Any, Any]:
    if isinstance(x, dict):
        return x
    if isinstance(x, list | tuple):
        return dict(enumerate(x))
    return {f.name: getattr(x, f.name) for f in fields(x)} if is_dataclass(x) else {}


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
