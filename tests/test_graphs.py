"""Which calls are recorded and replayed; what a real recording gives, only a GPU can tell."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from support import CPU
from torch import Tensor

from realdataexp import device
from realdataexp.device import Graphs
from realdataexp.learner import Head, Learner
from realdataexp.models import LOSSES, MLP, FeatureSchema, LabelScale, Loss, SideSchema

ON = replace(CPU, has_graphs=True)


@dataclass(frozen=True)
class Pair:
    a: Tensor
    b: Tensor


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """The arguments of each recording; a replay does the function again."""
    made: list[tuple[Any, ...]] = []

    class Again:
        def __init__(self, function: Callable[..., Any], arguments: Sequence[Any]) -> None:
            made.append(tuple(arguments))
            self.function, self.arguments = function, arguments

        def replay(self, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
            own = device._tensors(self.arguments)
            assert [x.shape for x in own] == [x.shape for x in tensors]
            for x, given in zip(own, tensors, strict=True):
                x.copy_(given)
            return self.function(*self.arguments)

    monkeypatch.setattr(device, "_Recording", Again)
    monkeypatch.setattr(device, "_on_own_stream", contextlib.nullcontext)
    return made


def weigh(pair: Pair, x: Tensor, factor: float) -> tuple[Tensor]:
    return ((pair.a + pair.b + x) * factor,)


def numbers(i: int, n: int = 2) -> tuple[Pair, Tensor]:
    return Pair(torch.full((n,), i), torch.full((n,), 10 * i)), torch.full((n,), 100 * i)


def test_a_call_is_recorded_the_third_time_and_gives_the_same_as_before(
    recorded: list[tuple[Any, ...]],
) -> None:
    own = Graphs(ON)
    for i in range(5):
        assert own.run(weigh, *numbers(i), 2)[0].tolist() == [222 * i] * 2
        assert len(recorded) == (i >= 2)


@pytest.mark.parametrize(
    "other", [(*numbers(1, 3), 2), (*numbers(1), 3), (numbers(1)[0], torch.ones(2), 2)]
)
def test_calls_of_other_shapes_types_or_settings_are_recorded_apart(
    recorded: list[tuple[Any, ...]], other: tuple[Any, ...]
) -> None:
    own = Graphs(ON)
    for _ in range(4):
        own.run(weigh, *numbers(1), 2)
        assert torch.equal(own.run(weigh, *other)[0], weigh(*other)[0])
    assert len(recorded) == 2


def test_nothing_is_recorded_where_the_device_cannot_or_an_object_may_not(
    recorded: list[tuple[Any, ...]],
) -> None:
    for own in (Graphs(CPU), Graphs(ON, can_record=False)):
        for i in range(5):
            assert own.run(weigh, *numbers(i), 2)[0].tolist() == [222 * i] * 2
    assert not recorded


def test_networks_of_ones_own_are_not_recorded() -> None:
    """Nobody knows whether they do the same each time."""

    class Own(MLP):
        pass

    own_loss = Loss(LOSSES["MSE"].elementwise, lambda raw_XO, scale: raw_XO[..., 0])
    side = SideSchema(2, (), 0)
    for kind, loss, is_fixed in (
        (MLP, LOSSES["MSE"], True),
        (Own, LOSSES["MSE"], False),
        (MLP, own_loss, False),
    ):
        model = kind(FeatureSchema(side, side), 1, {"hidden_layers": [2]}, "a test")
        start = model.init(torch.tensor(0))
        learner = Learner.start(model, (Head(loss, LabelScale()),), CPU, start, 2)
        assert learner.has_fixed_operations == is_fixed
