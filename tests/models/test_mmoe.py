"""The stacked MMoE equals plain networks of nn.Linear, nn.Embedding and softmax."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from model_support import (
    SCHEMAS,
    Plain,
    assert_equals_plain,
    in_float32,
    plain_one_hot,
    random_batch,
    stacked,
)
from torch import Tensor, nn

from realdataexp import draws
from realdataexp.device import Device
from realdataexp.errors import InputError
from realdataexp.learner import Head, Learner
from realdataexp.models import LOSSES, Batch, FeatureSchema, LabelScale
from realdataexp.models.layers import DeepParams
from realdataexp.models.mmoe import MMoE
from realdataexp.optimizers import OptimizerSettings

SIZES = (1, 3, 1)
HEADS = (
    Head(LOSSES["MSE"], LabelScale(1.0, 2.0, 2.0)),
    Head(LOSSES["CE"], LabelScale(), 3),
    Head(LOSSES["BCE"], LabelScale()),
)
CPU = Device(torch.device("cpu"), "a test", 8 << 20)
MIXED = SCHEMAS["mixed"]


def mmoe(schema: FeatureSchema, sizes: int | tuple[int, ...] = SIZES, **params: Any) -> MMoE:
    params = {"n_experts": 3, "expert_layers": (6, 5), "tower_layers": (4,)} | params
    return MMoE(schema, sizes, params, "labels.0.model_params")


class PlainMMoE(Plain):
    """Every expert and tower is a chain of nn.Linear; the sum over experts is written out."""

    def __init__(self, schema: FeatureSchema, model: MMoE, sizes: tuple[int, ...]) -> None:
        super().__init__(schema)
        self.options = o = model.options
        self.n_labels, deep = len(sizes), DeepParams()
        width = o.n_experts * (o.expert_layers[0] + len(sizes))
        if o.embedding_dim is None:
            self.first = self.one_hot_layer(width)
        else:
            self.embeddings = self.tables(o.embedding_dim)
            self.first = self.embedded_layer(width, o.embedding_dim)
        self.experts = nn.ModuleList()
        for e in range(o.n_experts):
            prefix = f"{e} expert."
            self.experts.append(self.hidden(o.expert_layers, deep, True, prefix))
        self.towers = nn.ModuleList()
        for k, n in enumerate(sizes):
            widths = [o.expert_layers[-1], *o.tower_layers, n]
            self.towers.append(self.hidden(widths, deep, False, f"tower_{k}."))

    def copy_from(self, params: Mapping[str, Tensor]) -> None:
        own = {name: p for name, p in params.items() if not name.startswith("expert.")}
        for name in params.keys() - own.keys():
            own |= {f"{e} {name}": p for e, p in enumerate(params[name])}
        super().copy_from(own)

    def gradient(self, name: str) -> Tensor:
        if not name.startswith("expert."):
            return super().gradient(name)
        grads = [Plain.gradient(self, f"{e} {name}") for e in range(self.options.n_experts)]
        return torch.stack(grads)

    def forward(self, rows: Batch) -> Tensor:
        E, H = self.options.n_experts, self.options.expert_layers[0]
        if self.options.embedding_dim is None:
            x = self.first(plain_one_hot(self.schema, rows))
        else:
            x = self.first(self.embedded(self.embeddings, rows))
        outputs = [
            torch.relu(expert(x[:, e * H : (e + 1) * H])) for e, expert in enumerate(self.experts)
        ]
        raws = []
        for k, tower in enumerate(self.towers):
            gate = x[:, E * H + k * E : E * H + (k + 1) * E].softmax(1)
            raws.append(tower(sum(gate[:, e : e + 1] * f for e, f in enumerate(outputs))))
        return torch.cat(raws, dim=1)


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS.keys())
@pytest.mark.parametrize("embedding_dim", [None, 3])
def test_the_stack_equals_plain_networks(schema: FeatureSchema, embedding_dim: int | None) -> None:
    model = mmoe(schema, embedding_dim=embedding_dim)
    assert_equals_plain(model, schema, lambda: PlainMMoE(schema, model, SIZES))


@pytest.mark.parametrize("sizes", [(1,), (2, 1), (1, 1, 1, 4)])
@pytest.mark.parametrize(
    "params",
    [
        {"expert_layers": (5,)},
        {"n_experts": 1},
        {"n_experts": 5, "expert_layers": (4, 3, 2), "tower_layers": ()},
        {"tower_layers": (4, 3), "embedding_dim": 2},
    ],
    ids=str,
)
def test_other_shapes_equal_plain_networks_too(
    sizes: tuple[int, ...], params: dict[str, Any]
) -> None:
    model = mmoe(MIXED, sizes, **params)
    assert_equals_plain(model, MIXED, lambda: PlainMMoE(MIXED, model, sizes))


def test_one_label_may_be_given_by_its_number_of_outputs() -> None:
    batch = random_batch(MIXED)
    one, several = mmoe(MIXED, 2), mmoe(MIXED, (2,))
    raws = [model.forward(stacked(model), batch, None) for model in (one, several)]
    assert torch.equal(*raws) and raws[0].shape[-1] == 2


def test_experts_and_towers_start_differently() -> None:
    start = mmoe(MIXED, (1, 1)).init(draws.key(0, "init"))
    experts = start["expert.weight_1"]
    assert not torch.equal(experts[0], experts[1])
    assert not torch.equal(start["tower_0.weight_1"], start["tower_1.weight_1"])
    assert float(experts.abs().max()) <= 6**-0.5


def test_labels_share_the_experts_and_nothing_else() -> None:
    model = mmoe(MIXED)
    params, batch = stacked(model), random_batch(MIXED)
    before = model.forward(params, batch, None)
    params["tower_1.bias_1"] += 1.0
    after = model.forward(params, batch, None)
    moved = (before != after).any(dim=0).any(dim=0).any(dim=0)
    assert moved.tolist() == [False, True, True, True, False]
    params["expert.bias_1"] += 1.0
    assert bool((model.forward(params, batch, None) != after).any(0).any(0).any(0).all())


# --- dropout ---------------------------------------------------------------------------------


def test_dropout_masks_experts_and_towers_by_the_networks_own_key() -> None:
    """With a mask for each layer of each expert, and kept units scaled to an unchanged mean."""
    model = mmoe(MIXED, (1, 1), n_experts=2, expert_layers=(40,), tower_layers=(), dropout=0.5)
    params, batch = stacked(model, 2), random_batch(MIXED, (2, 400, 1))
    key_S = draws.key(0, "dropout", torch.arange(2))
    params = {name: torch.zeros_like(p) for name, p in params.items()}
    params["bias_0"][:, :80] = 1.0  # every expert's unit is 1
    params["tower_0.weight_1"][:, :20] = params["tower_1.weight_1"][:, 20:] = 1.0
    raw = model.forward(params, batch, key_S)[:, :, 0]
    assert float(raw.mean()) == pytest.approx(20.0, rel=0.02)
    # units are 0, 1 or 2: the mean of two experts' masks, each 0 or 2
    assert float(raw.var()) == pytest.approx(20 * 0.5, rel=0.2)
    again = model.forward(params, batch, key_S)[:, :, 0]
    assert torch.equal(raw, again)
    assert not torch.equal(raw[0], raw[1])
    other = model.forward(params, batch, key_S.flip(0))[:, :, 0]
    assert torch.equal(other, raw.flip(0))
    assert bool((model.forward(params, batch, None) == 20.0).all())


# --- learning --------------------------------------------------------------------------------


def learner(model: MMoE, n: int, device: Device = CPU, differ: bool = True) -> Learner:
    made = Learner.start(model, HEADS, device, model.init(draws.key(0, "init")), n)
    for name, p in made.params.items():
        for s in range(n if differ else 0):
            p[s] = model.init(draws.key(s, "init"))[name]
    return made


def lesson(step: int, n: int, n_rows: int = 7) -> tuple[Batch, Tensor, Tensor, Tensor]:
    """Inputs, labels (some missing), weights and keys; a network's do not depend on ``n``."""
    batch = in_float32(random_batch(MIXED, (40, n_rows, 1), seed=step))[:n]
    g = torch.Generator().manual_seed(step)
    y_SBJ = torch.stack(
        [
            torch.randn(40, n_rows, generator=g),
            torch.randint(0, 3, (40, n_rows), generator=g).float(),
            torch.randint(0, 2, (40, n_rows), generator=g).float(),
        ],
        dim=-1,
    )
    y_SBJ[torch.rand(y_SBJ.shape, generator=g) < 0.2] = torch.nan
    weight_SB = torch.rand(40, n_rows, generator=g)
    return batch, y_SBJ[:n], weight_SB[:n], draws.key(0, "dropout", torch.arange(n), step)


def train(ours: Learner, n_steps: int = 5) -> Tensor:
    settings = OptimizerSettings(0.02, 0.01, 0.5)
    for step in range(n_steps):
        batch, y_SBJ, weight_SB, key_S = lesson(step, ours.n_networks)
        loss_SJ = ours.update(batch, y_SBJ, weight_SB, settings, key_S)
    return loss_SJ


@pytest.mark.parametrize("per_chunk", [1, 2, 3])
def test_more_networks_or_chunks_change_no_network(per_chunk: int) -> None:
    model = mmoe(MIXED, dropout=0.3)
    cut = replace(CPU, chunk_bytes=per_chunk * 4 * 7 * model.floats_per_row)
    many, few, chunked = learner(model, 9), learner(model, 4), learner(model, 9, cut)
    losses = [train(x) for x in (many, few, chunked)]
    batch = in_float32(random_batch(MIXED, (9, 5, 4)))
    predicted = many.predict(batch, slice(0, 9))
    assert predicted.shape == (9, 5, 4, 3)
    torch.testing.assert_close(losses[0][:4], losses[1], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(losses[0], losses[2], rtol=1e-4, atol=1e-5)
    for other, n in ((few, 4), (chunked, 9)):
        for name, p in other.params.items():
            torch.testing.assert_close(many.params[name][:n], p, rtol=0, atol=1e-5)
        theirs = other.predict(batch[:n], slice(0, n))
        torch.testing.assert_close(predicted[:n], theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("embedding_dim", [None, 3])
@pytest.mark.parametrize("n_experts", [1, 3, 8])
def test_a_networks_place_in_its_stack_changes_nothing_to_the_bit(
    n_experts: int, embedding_dim: int | None
) -> None:
    """37 equal networks stay equal, whatever a vectorised kernel does with the last elements."""
    n = 37
    model = mmoe(MIXED, dropout=0.2, n_experts=n_experts, embedding_dim=embedding_dim)
    equal = learner(model, n, differ=False)
    for p in equal.params.values():
        p *= 3.0  # spread the outputs: most roundings agree near zero
    settings = OptimizerSettings(0.02, 0.01, 0.5)
    for step in range(8):
        batch, y_SBJ, weight_SB, key_S = lesson(step, 1)
        scored = in_float32(random_batch(MIXED, (1, 5, 3), seed=step)).expand(n)
        prediction = equal.predict(scored, slice(0, n))
        assert bool((prediction == prediction[:1]).all())
        loss_SJ = equal.update(
            batch.expand(n),
            y_SBJ.expand(n, -1, -1),
            weight_SB.expand(n, -1),
            settings,
            key_S.expand(n),
        )
        assert bool((loss_SJ == loss_SJ[:1]).all())
        for x in equal.state().values():
            assert bool((x == x[:1]).all())
    assert equal.n_updates_S.tolist() == [8] * n


def test_a_label_without_rows_keeps_its_tower_and_gate_but_not_its_experts() -> None:
    model, E = mmoe(MIXED, embedding_dim=3), 3
    ours = learner(model, 2)
    batch, y_SBJ, weight_SB, key_S = lesson(0, 2)
    y_SBJ[..., 1] = torch.nan
    before = {name: p.clone() for name, p in ours.params.items()}
    predicted = ours.predict(batch, slice(0, 2))
    loss_SJ = ours.update(batch, y_SBJ, weight_SB, OptimizerSettings(0.01), key_S)
    assert loss_SJ.isnan().any(0).tolist() == [False, True, False]
    gate = slice(model.n_expert_units + E, model.n_expert_units + 2 * E)
    for name, p in ours.params.items():
        if name.startswith("tower_1."):
            assert torch.equal(p, before[name])
        elif name.endswith("_weight") or name == "bias_0":
            assert torch.equal(p[..., gate], before[name][..., gate])
            assert not torch.equal(p[..., : gate.start], before[name][..., : gate.start])
        else:
            assert not torch.equal(p, before[name])
    assert bool((ours.predict(batch, slice(0, 2)) != predicted).any(1).any(0).all())


# --- settings --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"n_experts": 0}, "n_experts = 0: must be at least 1"),
        ({"expert_layers": ()}, "expert_layers"),
        ({"tower_layers": (0,)}, "tower_layers.0 = 0: must be at least 1"),
        ({"group": ""}, "group"),
        ({"hidden_layers": (4,)}, "hidden_layers"),
    ],
    ids=str,
)
def test_settings_out_of_bounds_are_refused(params: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as caught:
        mmoe(MIXED, **params)
    assert str(caught.value).startswith("labels.0.model_params") and said in str(caught.value)
    assert "\n" not in str(caught.value)
