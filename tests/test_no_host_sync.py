"""Nothing in a step waits for the device: only logging points read from it.

A step runs on PyTorch's meta device, whose tensors have shapes but no numbers. Whatever needs a
number on the host (``item``, ``bool``, ``tolist``, ``cpu``, a mask that selects, ``nonzero``)
cannot run there, so a step that ends has not waited once.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import support
import torch
from support import Setting, make_store, make_world, start_loop
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from realdataexp import draws
from realdataexp.designs import Design, Outcome
from realdataexp.designs.base import ones
from realdataexp.device import Device
from realdataexp.learner import Head, Learner
from realdataexp.loop import Block, Step
from realdataexp.models import LOSSES, MLP, Batch, LabelScale, is_module
from realdataexp.optimizers import LossScale, OptimizerSettings
from realdataexp.pretrain import Pretraining, PretrainSettings
from realdataexp.registry import find, names
from realdataexp.worlds.base import WorldSettings
from realdataexp.worlds.replay import FeatureStore
from realdataexp.worlds.si2023 import Si2023
from realdataexp.worlds.simulated import SimulatedEnvironment

META = Device(torch.device("meta"), "a test", chunk_bytes=4 << 20, float64=torch.float32)
SETTING = Setting(device=META, n_shown=3)
REPLICATIONS, P = (0, 1), 0.5
OPTIONS: dict[str, dict[str, Any]] = {
    "cluster": {"n_clusters": 3},
    "shadow": {"keep": 0.5, "steps": "launched"},
    "switchback": {"block_steps": 4, "washout_steps": 1},
    "weighting": {"features": ("tag", "video_duration", "user_active_degree")},
}
CROSSES = {"crosses": (("user_active_degree", "tag"), ("video_type", "tag"))}
CASES = [
    *((name, {}) for name in names("model") if not is_module(name)),
    ("MLP", {"embedding_dim": 3}),
    ("WideDeep", CROSSES),
]


@pytest.fixture(autouse=True)
def features_without_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The feature tables on the meta device."""
    make_store = support.make_store

    def make(n_rows_U: tuple[int, ...], dtype: torch.dtype = torch.float32) -> FeatureStore:
        store = copy.copy(make_store(n_rows_U, dtype))
        store._user, store._video = (
            {name: x.to("meta") for name, x in side.items()} for side in (store._user, store._video)
        )
        return store

    monkeypatch.setattr(support, "make_store", make)


def block(name: str) -> Block:
    return Block(name, find("design", name, name)(**OPTIONS.get(name, {})), P)


def steps(design: Design, n: int = 4) -> Iterator[Step]:
    loop, _, _ = start_loop(SETTING, [Block("a design", design, P)], REPLICATIONS)
    for step in range(n):
        visits = loop.world.draw(step)  # on the host, by design
        with NoFloat64():
            yield loop.step(visits)


class NoFloat64(TorchDispatchMode):
    """No operation may make float64 on the device: not all have it."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        for x in made if isinstance(made, tuple | list) else (made,):
            on_device = isinstance(x, Tensor) and x.device.type == "meta"
            assert not (on_device and x.dtype == torch.float64), func
        return made


class NoCopies(TorchFunctionMode):
    """No data may come from the host either: PyTorch waits for such copies on CUDA."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name, device = getattr(func, "__name__", ""), kwargs.get("device")
        if name in ("tensor", "as_tensor"):
            assert device is None or torch.device(device).type == "cpu", "a list to the device"
        on_device = bool(args) and isinstance(args[0], Tensor) and args[0].device.type == "meta"
        if name == "new_tensor":
            assert not on_device, "a list to the device"
        if name in ("__getitem__", "__setitem__") and on_device:
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            for i in index:
                assert not isinstance(i, list), "a list as an index"
                assert not isinstance(i, Tensor) or i.device.type == "meta", "an index on the host"
        made = func(*args, **kwargs)
        if name in ("to", "cuda") and isinstance(made, Tensor) and made.device.type == "meta":
            assert on_device, "a tensor to the device"
        return made


@pytest.mark.parametrize("name", names("design"))
def test_a_step_of_no_design_waits_for_the_device(name: str) -> None:
    for step in steps(block(name).design):
        assert {x.device.type for x in (step.y_WBL, step.loss_SL, step.is_treated_WB)} == {"meta"}


@pytest.mark.parametrize("assignment", ["user", "visit"])
def test_slots_and_arms_are_drawn_without_waiting_where_the_device_has_float64(
    assignment: str,
) -> None:
    device = replace(META, float64=torch.float64)
    setting = replace(SETTING, device=device, assignment=assignment)
    loop, _, _ = start_loop(setting, [block("pooling")], REPLICATIONS)
    for step in range(4):
        loop.step(loop.world.draw(step))


@pytest.mark.parametrize(("name", "options"), CASES)
def test_no_model_waits_for_the_device(name: str, options: dict[str, Any]) -> None:
    world = make_world(SETTING, REPLICATIONS, 1)
    batch = world.slate(world.draw(0)).batch
    schema = make_store(SETTING.n_rows_U, SETTING.dtype).schema
    model = find("model", name, name)(schema, 1, options, name)
    params = {
        key: torch.zeros(2, *p.shape, device="meta", requires_grad=True)
        for key, p in model.init(draws.key(0, name)).items()
    }
    with NoCopies():
        with torch.no_grad():
            model.forward(params, batch, None)
        raw = model.forward(params, batch, torch.zeros(2, dtype=torch.int64, device="meta"))
        grads = torch.autograd.grad(raw.sum(), list(params.values()))
    assert {g.device.type for g in grads} == {"meta"}


@pytest.mark.parametrize("is_scaled", [False, True], ids=["float32", "scaled"])
def test_a_batch_of_pretraining_fetches_nothing_from_the_host(is_scaled: bool) -> None:
    world = make_world(SETTING, (0,), 1)
    batch = world.slate(world.draw(0)).batch
    rows = batch.chosen(torch.zeros(batch.shape[:2], dtype=torch.int64, device="meta"))[:1]
    y_SB = torch.zeros(rows.shape[:2], device="meta")

    class Rows:
        n_rows = 100

        def read(self, place_B: Any) -> tuple[Batch, list[Tensor]]:
            return rows, [y_SB]

    schema = make_store(SETTING.n_rows_U, SETTING.dtype).schema
    model = MLP(schema, 1, {"embedding_dim": 3, "dropout": 0.2}, "a test")
    start, head = model.init(draws.key(0, "start")), Head(LOSSES["MSE"], LabelScale())
    learner = Learner.start(model, (head,), META, start, 1)
    learner.loss_scale = LossScale.start(1, META.torch) if is_scaled else None
    optimizers = [OptimizerSettings(0.01, 0.1, 1.0)]
    settings = PretrainSettings(0, 10, 1, None, None, None)
    pretraining = Pretraining([learner], optimizers, Rows(), 100, lambda: (0.0,), settings)
    with NoCopies(), NoFloat64():
        for _ in range(3):
            pretraining.advance()
        learner.evaluate(rows, y_SB[..., None, None])


def test_all_designs_together_do_not_either() -> None:
    blocks = [block(name) for name in names("design")]
    loop, _, _ = start_loop(SETTING, blocks, REPLICATIONS)
    loop._foretells = True
    for step in range(3):
        with NoFloat64():
            loop.step(loop.world.draw(step))


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.sum().item(),
        lambda x: float(x.sum()),
        lambda x: bool((x > 0).any()),
        lambda x: x.tolist(),
        lambda x: x.cpu(),
        lambda x: x.to("cpu"),
        lambda x: x.numpy(),
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: torch.zeros(x.shape).copy_(x),
    ],
)
def test_a_design_that_waits_is_caught(wait: Callable[[Tensor], Any]) -> None:
    class Waiting(Design):
        def weights(self, outcome: Outcome) -> Tensor:
            wait(outcome.y_RBL)
            return ones(outcome, 1)

    with pytest.raises((RuntimeError, TypeError, NotImplementedError), match=r"[Mm]eta"):
        list(steps(Waiting(), 1))


@pytest.mark.parametrize("name", names("design"))
def test_world_and_design_fetch_nothing_from_the_host(name: str) -> None:
    loop, _, _ = start_loop(SETTING, [block(name)], REPLICATIONS)
    world, (design,) = loop.world, loop.designs
    R, B, C = len(REPLICATIONS), SETTING.batch_size, SETTING.n_candidates
    for step in range(4):
        visits = world.draw(step)
        with NoCopies(), NoFloat64():
            z_RB = design.assign(visits, P)
            slate = world.slate(visits)
            design.candidates(visits, slate, z_RB)
            score_RABC = torch.zeros(R, 2, B, C, device="meta")
            pick_RAB = score_RABC.argmax(-1)
            y_RBL = world.feedback(visits, slate, pick_RAB[:, 0])
            design.weights(Outcome(visits, slate, z_RB, P, score_RABC, pick_RAB, y_RBL))
            design.shown(visits, score_RABC.long()[..., : SETTING.n_shown], z_RB)
            design.counts(visits)
            design.unit(visits)


def test_the_simulated_platform_stays_on_the_device() -> None:
    environment = SimulatedEnvironment(Si2023(name="si2023"), 0, META)
    settings = WorldSettings(0, REPLICATIONS, 2, 4, 5, 3, 1, "visit")
    world = environment.world(("stay_time", "finish"), settings)
    world.slate(world.draw(0))  # the platform, which is drawn once, goes to the device
    for step in range(3):
        with NoCopies(), NoFloat64():
            visits = world.draw(step)
            slate = world.slate(visits)
            choice_WB = torch.zeros(4, 4, dtype=torch.int64, device="meta")
            assert world.feedback(visits, slate, choice_WB).shape == (4, 4, 2)


@pytest.mark.parametrize(
    "copy_in",
    [
        lambda x: torch.tensor([1.0], device=x.device),
        lambda x: x.new_tensor([1.0]),
        lambda x: x[..., [0]],
        lambda x: x[torch.zeros(1, dtype=torch.int64)],
        lambda x: torch.zeros(1).to(x.device),
    ],
)
def test_a_copy_from_the_host_is_caught(copy_in: Callable[[Tensor], Any]) -> None:
    with NoCopies(), pytest.raises(AssertionError):
        copy_in(torch.zeros(2, 2, device="meta"))


def test_float64_on_the_device_is_caught() -> None:
    key = draws.key(0, "x", torch.arange(3, device="meta"))
    with NoFloat64(), pytest.raises(AssertionError):
        draws.uniform(key, 2)
