"""What every built-in model keeps: networks apart to the bit, and scoring without chance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from model_support import NOTHING, SCHEMAS, in_float32, learner_of, random_batch
from torch import Tensor

from realdataexp import draws
from realdataexp.errors import InputError
from realdataexp.learner import Learner
from realdataexp.models import Batch, FeatureSchema, StackedModel, build_model, is_module
from realdataexp.optimizers import OptimizerSettings
from realdataexp.options import Options
from realdataexp.registry import find, names

S, B, C, N_STEPS = 7, 9, 3, 6
SETTINGS = OptimizerSettings(0.02, weight_decay=0.01, gradient_clip=0.5)
MIXED = SCHEMAS["mixed"]

# widths are odd on purpose: a vectorised kernel computes an array's last elements in another way
DEEP = {"hidden_layers": (13, 5), "dropout": 0.3}
CROSSES = {"crosses": (("level", "tag"), ("type", "range")), "cross_buckets": 17}
LOW_RANK = {"structure": "parallel", "rank": 2, "n_cross_layers": 3}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "MLP one-hot": ("MLP", DEEP),
    "MLP embeddings": ("MLP", DEEP | {"embedding_dim": 3, "normalization": "layer"}),
    "Linear": ("Linear", {}),
    "WideDeep": ("WideDeep", DEEP | {"embedding_dim": 3}),
    "WideDeep crosses": ("WideDeep", DEEP | CROSSES | {"normalization": "layer"}),
    "DCNv2": ("DCNv2", DEEP | {"embedding_dim": 3}),
    "DCNv2 low rank": ("DCNv2", DEEP | LOW_RANK | {"normalization": "layer"}),
    "DLRM": ("DLRM", DEEP | {"embedding_dim": 3, "bottom_layers": (7,)}),
    "DLRM norm": ("DLRM", DEEP | {"bottom_layers": (), "normalization": "layer"}),
}
_OTHERS = {m for m, _ in CASES.values()} | set(filter(is_module, names("model")))  # see test_module
CASES |= {name: (name, {}) for name in names("model") if name not in _OTHERS}
every_case = pytest.mark.parametrize(("name", "params"), CASES.values(), ids=CASES.keys())


def build(
    name: str, params: Mapping[str, Any], schema: FeatureSchema = MIXED, n_outputs: int = 1
) -> StackedModel:
    return build_model(name, schema, n_outputs, params, "labels.0.model_params")


def make_learner(model: StackedModel, networks: Tensor, size: int = S) -> Learner:
    """Networks that start differently, of which an update takes ``size`` at once."""
    starts = [model.init(draws.key(int(i), "init")) for i in networks]
    return learner_of(model, "BCE", starts, chunk_bytes=4 * B * model.floats_per_row * size)


def inputs(step: int, schema: FeatureSchema = MIXED) -> tuple[Batch, Tensor]:
    batch = in_float32(random_batch(schema, (S, B, 1), seed=step))
    y_SBJ = torch.rand(S, B, 1, generator=torch.Generator().manual_seed(step)) < 0.4
    return batch, y_SBJ.float()


def train(learner: Learner, networks: Tensor, schema: FeatureSchema = MIXED) -> None:
    """Some steps, with the rows and the dropout that each network has wherever it stands."""
    for step in range(N_STEPS):
        batch, y_SBJ = inputs(step, schema)
        keys_S = draws.key(0, "dropout", networks, step)
        weight_SB = torch.ones(len(networks), B)
        learner.update(batch[networks], y_SBJ[networks], weight_SB, SETTINGS, keys_S)


def scores(learner: Learner, networks: Tensor, schema: FeatureSchema = MIXED) -> Tensor:
    """Predictions S, B, C, in chunks of as many networks as an update's."""
    batch = in_float32(random_batch(schema, (S, B, C), seed=99))[networks]
    update = learner.device
    learner.device = replace(update, chunk_bytes=C * update.chunk_bytes)
    score_SBCJ = learner.predict(batch, slice(0, len(networks)))
    learner.device = update
    return score_SBCJ[..., 0]


@every_case
def test_the_place_in_the_stack_changes_nothing_to_the_bit(name: str, params: dict) -> None:
    model, order, other = build(name, params), torch.arange(S), torch.tensor([3, 6, 0, 2, 5, 1, 4])
    one, two = make_learner(model, order), make_learner(model, other)
    train(one, order)
    train(two, other)
    assert int(one.n_updates_S.min()) == N_STEPS
    for tensor_name, x in one.state().items():
        assert torch.equal(x[other], two.state()[tensor_name]), tensor_name
    assert torch.equal(scores(one, order)[other], scores(two, other))


@every_case
@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_how_the_stack_is_cut_changes_nothing(name: str, params: dict, size: int) -> None:
    """To the bit; but PyTorch multiplies a stack of one by another kernel, in another order."""
    model, networks = build(name, params), torch.arange(S)
    whole, cut = make_learner(model, networks), make_learner(model, networks, size)
    assert len(list(cut._chunks(slice(0, S), inputs(0)[0]))) == {1: 7, 2: 3, 3: 3, 5: 2}[size]
    train(whole, networks)
    train(cut, networks)
    tolerance = {"rtol": 0.0, "atol": 1e-4 if size == 1 else 0.0}
    for tensor_name, x in whole.state().items():
        torch.testing.assert_close(cut.state()[tensor_name], x, **tolerance)
    torch.testing.assert_close(scores(cut, networks), scores(whole, networks), **tolerance)


@every_case
def test_fewer_networks_beside_it_change_nothing_to_the_bit(name: str, params: dict) -> None:
    model, networks, few = build(name, params), torch.arange(S), torch.tensor([4, 1, 6])
    together, apart = make_learner(model, networks), make_learner(model, few)
    train(together, networks)
    train(apart, few)
    for tensor_name, x in together.state().items():
        assert torch.equal(x[few], apart.state()[tensor_name]), tensor_name


@every_case
def test_a_network_that_breaks_leaves_the_others_alone(name: str, params: dict) -> None:
    model, networks = build(name, params), torch.arange(S)
    calm, wild = make_learner(model, networks), make_learner(model, networks)
    for p in wild.params.values():
        p[2] = torch.inf
    train(calm, networks)
    train(wild, networks)
    assert wild.n_skipped_S.tolist() == [0, 0, N_STEPS, 0, 0, 0, 0]
    others = networks[networks != 2]
    for tensor_name, x in calm.state().items():
        assert torch.equal(x[others], wild.state()[tensor_name][others]), tensor_name


@every_case
def test_training_lowers_the_loss(name: str, params: dict) -> None:
    model, networks = build(name, params), torch.arange(S)
    learner, (batch, y_SBJ) = make_learner(model, networks), inputs(0)
    before_S = learner.losses(batch, y_SBJ).mean((1, 2))
    for step in range(60):
        keys_S = draws.key(0, "dropout", networks, step)
        learner.update(batch, y_SBJ, torch.ones(S, B), SETTINGS, keys_S)
    after_S = learner.losses(batch, y_SBJ).mean((1, 2))
    assert bool((after_S < 0.8 * before_S).all())


@every_case
def test_dropout_is_only_in_training_and_only_of_its_key(name: str, params: dict) -> None:
    model, networks = build(name, params), torch.arange(S)
    start, (batch, _) = make_learner(model, networks).params, inputs(0)
    scored = model.forward(start, batch, None)
    assert torch.equal(model.forward(start, batch, None), scored)
    key_S, other_S = draws.key(0, "dropout", networks), draws.key(1, "dropout", networks)
    trained = model.forward(start, batch, key_S)
    torch.rand(3)
    assert torch.equal(model.forward(start, batch, key_S), trained)
    if params.get("dropout"):
        without = build(name, params | {"dropout": 0.0})
        assert torch.equal(without.forward(start, batch, None), scored)
        assert torch.equal(without.forward(start, batch, key_S), scored)
        for s in range(S):
            assert not torch.equal(trained[s], scored[s])
            assert not torch.equal(trained[s], model.forward(start, batch, other_S)[s])
    else:
        assert torch.equal(trained, scored)


@every_case
@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS.keys())
def test_any_side_may_be_empty(name: str, params: dict, schema: FeatureSchema) -> None:
    params = {key: value for key, value in params.items() if key not in CROSSES}
    model, networks = build(name, params, schema), torch.arange(S)
    learner = make_learner(model, networks)
    train(learner, networks, schema)
    assert int(learner.n_updates_S.min()) == N_STEPS
    score_SBC = scores(learner, networks, schema)
    assert score_SBC.shape == (S, B, C) and bool(score_SBC.isfinite().all())
    assert torch.equal(scores(learner, networks, schema), score_SBC)
    if schema.video == NOTHING:
        assert torch.equal(score_SBC, score_SBC[:, :, :1].expand(S, B, C))
    else:
        assert float(score_SBC.std()) > 0


@every_case
def test_the_start_is_a_pure_function_of_the_key(name: str, params: dict) -> None:
    model = build(name, params)
    torch.manual_seed(0)
    first, again = model.init(draws.key(0, "init")), model.init(draws.key(0, "init"))
    other = model.init(draws.key(0, "other"))
    assert list(first) == list(again) == list(other)
    drawn = [key for key in first if ".norm_" not in f".{key}"]
    for key, p in first.items():
        assert p.dtype == torch.float32 and torch.equal(p, again[key])
        assert not torch.isin(p, other[key]).any() or key not in drawn
    values = torch.cat([first[key].flatten() for key in drawn])
    assert values.unique().numel() > 0.99 * values.numel()  # no two tensors share their draws


@every_case
def test_a_row_s_result_does_not_depend_on_the_other_rows(name: str, params: dict) -> None:
    model, networks = build(name, params), torch.arange(S)
    start = make_learner(model, networks).params
    batch = in_float32(random_batch(MIXED, (S, B, C), seed=99))
    raw = model.forward(start, batch, None)
    part = batch.visits(slice(2, 5))
    torch.testing.assert_close(model.forward(start, part, None), raw[:, 2:5], rtol=0, atol=1e-5)


@every_case
def test_mixed_precision_is_close(name: str, params: dict) -> None:
    model, networks = build(name, params), torch.arange(S)
    leaves = {k: p.requires_grad_() for k, p in make_learner(model, networks).params.items()}
    batch, key_S = inputs(0)[0], draws.key(0, "dropout", networks)
    exact = model.forward(leaves, batch, key_S)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        trained = model.forward(leaves, batch, key_S)
        with torch.no_grad():
            scored = model.forward(leaves, batch, None)
    grads = torch.autograd.grad(trained.float().square().sum(), leaves.values())
    assert all(bool(g.isfinite().all()) for g in grads)
    torch.testing.assert_close(trained.float(), exact, rtol=0.02, atol=0.05)
    plain = model.forward(leaves, batch, None)
    torch.testing.assert_close(scored.float(), plain, rtol=0.02, atol=0.05)
    assert name == "Linear" or not torch.equal(scored.float(), plain)  # it was in use


@every_case
def test_an_unknown_setting_is_one_line(name: str, params: dict) -> None:
    with pytest.raises(InputError, match=r"^labels\.0\.model_params: widths: ") as caught:
        build(name, params | {"widths": 3})
    assert "\n" not in str(caught.value)


def test_every_model_names_the_class_of_its_settings() -> None:
    for name in names("model"):
        assert issubclass(find("model", name, name).Params, Options)
