"""The stacked MLP equals S plain networks over the joined row, values and gradients."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from model_support import (
    NOTHING,
    SCHEMAS,
    TAGS,
    B,
    C,
    Plain,
    S,
    assert_equals_plain,
    fit,
    plain_one_hot,
    random_batch,
    stacked,
)
from scipy import stats
from support import batch_of
from torch import Tensor, nn

from realdataexp import draws
from realdataexp.errors import InputError
from realdataexp.models import MLP, Batch, FeatureSchema, SideSchema, layers

FALSE_FAIL = 1e-6

every_schema = pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS.keys())
every_encoding = pytest.mark.parametrize("embedding_dim", [None, 2], ids=["one-hot", "embedding"])
every_depth = pytest.mark.parametrize("hidden", [[], [4], [6, 3]], ids=str)


def mlp(schema: FeatureSchema, n_outputs: int = 2, **params: Any) -> MLP:
    return MLP(schema, n_outputs, params, "labels.click.model_params")


def plain_input(side: SideSchema, num: Tensor, cat: Tensor, weight: Tensor) -> Tensor:
    """A joined row's one-hot columns of one side, one entry at a time."""
    one_hot = torch.zeros(side.n_ids, dtype=torch.float64)
    for i, w in zip(cat.tolist(), weight.tolist(), strict=True):
        one_hot[i] += w
    return torch.cat([num, one_hot])


def plain_network(model: MLP, params: Mapping[str, Tensor]) -> nn.Sequential:
    """The layers of one network as torch.nn.Linear; the first over [user, video] columns."""
    blocks = []
    for name, side in (("user", model.schema.user), ("video", model.schema.video)):
        n_fields, dim = len(side.fields), model.options.embedding_dim
        if dim is None:
            if side.n_numerical:
                blocks.append(params[f"{name}_weight"])
            if n_fields:
                blocks.append(params[f"{name}_one_hot"])
        elif side.n_numerical or n_fields:
            # numerical columns, then each field's id columns: embedding times its slice
            weight = params[f"{name}_weight"]
            blocks.append(weight[: side.n_numerical])
            for i in range(n_fields):
                first = side.n_numerical + i * dim
                blocks.append(params[f"{name}_embedding"] @ weight[first : first + dim])
    weights = [torch.cat(blocks)] + [
        params[f"weight_{i}"] for i in range(1, len(model.tower.widths))
    ]
    layers: list[nn.Module] = []
    for i, weight in enumerate(weights):
        if i:
            layers.append(nn.ReLU())
        linear = nn.Linear(*weight.shape, dtype=torch.float64)
        linear.weight = nn.Parameter(weight.T.contiguous())
        linear.bias = nn.Parameter(params[f"bias_{i}"])
        layers.append(linear)
    return nn.Sequential(*layers)


def plain_row(model: MLP, batch: Batch, s: int, b: int, c: int) -> Tensor:
    """The joined row; with embeddings each field has id columns of its own."""
    parts = []
    for side, inputs in (
        (model.schema.user, batch.visit.values()),
        (model.schema.video, batch.candidate.values()),
    ):
        num, cat, weight = (x[s, b] if x.dim() == 3 else x[s, b, c] for x in inputs)
        if model.options.embedding_dim is None:
            parts.append(plain_input(side, num, cat, weight))
        else:
            parts.append(num)
            for _, first, last in side.fields:
                parts.append(plain_input(side, num[:0], cat[first:last], weight[first:last]))
    return torch.cat(parts)


def plain_outputs(model: MLP, params: Mapping[str, Tensor], batch: Batch) -> Tensor:
    outputs = []
    for s in range(batch.shape[0]):
        network = plain_network(model, {name: p[s] for name, p in params.items()})
        rows = [
            plain_row(model, batch, s, b, c)
            for b in range(batch.shape[1])
            for c in range(batch.shape[2])
        ]
        outputs.append(network(torch.stack(rows)))
    return torch.stack(outputs).view(*batch.shape, -1)


@every_schema
@every_encoding
@every_depth
def test_the_stack_equals_plain_networks_over_the_joined_row(
    schema: FeatureSchema, embedding_dim: int | None, hidden: list[int]
) -> None:
    model = mlp(schema, hidden_layers=hidden, embedding_dim=embedding_dim)
    params, batch = stacked(model), random_batch(schema)
    expected = plain_outputs(model, params, batch)
    training = model.forward(params, batch, None)  # gradients on: nothing is done in place
    before = {name: p.clone() for name, p in params.items()}
    with torch.no_grad():
        scoring = model.forward(params, batch, None)
    assert training.shape == (S, B, C, 2)
    torch.testing.assert_close(training, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(scoring, expected, rtol=1e-10, atol=1e-10)
    assert expected.std() > 0.05  # the inputs matter
    for name, p in params.items():
        assert torch.equal(p, before[name])


class PlainNormalised(Plain):
    """nn.Linear, nn.LayerNorm, ReLU; embeddings, if any, as nn.Embedding."""

    def __init__(self, model: MLP) -> None:
        super().__init__(model.schema)
        dim, width = model.options.embedding_dim, model.tower.widths[0]
        if dim is None:
            self.first = self.one_hot_layer(width)
        else:
            self.embeddings = self.tables(dim)
            self.first = self.embedded_layer(width, dim)
        self.rest = self.hidden(model.tower.widths, model.options, activates_input=True)

    def forward(self, rows: Batch) -> Tensor:
        if hasattr(self, "embeddings"):
            return self.rest(self.first(self.embedded(self.embeddings, rows)))
        return self.rest(self.first(plain_one_hot(self.schema, rows)))


@every_schema
@every_encoding
@pytest.mark.parametrize("normalization", ["none", "layer"])
def test_the_stack_equals_plain_networks_with_layer_norm(
    schema: FeatureSchema, embedding_dim: int | None, normalization: str
) -> None:
    options = {"embedding_dim": embedding_dim, "normalization": normalization}
    model = mlp(schema, hidden_layers=[6, 5], **options)
    assert_equals_plain(model, schema, lambda: PlainNormalised(model))


def test_layer_norm_makes_a_network_blind_to_the_scale_of_its_first_layer() -> None:
    schema = SCHEMAS["numbers"]
    batch = random_batch(schema)
    for normalization, is_blind in (("layer", True), ("none", False)):
        model = mlp(schema, hidden_layers=[6], normalization=normalization)
        params = stacked(model)
        raw = model.forward(params, batch, None)
        for name in ("user_weight", "video_weight", "bias_0"):
            params[name] = params[name] * 1000.0
        scaled = model.forward(params, batch, None)
        assert torch.allclose(raw, scaled, rtol=0.02, atol=1e-2) == is_blind


@pytest.mark.parametrize("normalization", ["none", "layer"])
def test_it_learns_a_bent_function(normalization: str) -> None:
    schema = SCHEMAS["numbers"]
    batch = random_batch(schema, (2, 200, 1))
    y_SB = batch.visit["user_num"][..., 0].abs() + batch.candidate["video_num"][:, :, 0, 1].relu()
    model = mlp(schema, 1, hidden_layers=[16, 8], normalization=normalization)
    before_S, after_S = fit(model, batch, y_SB, 400)
    assert bool((after_S < 0.05 * before_S).all())


@every_schema
@every_encoding
def test_scoring_in_place_leaves_its_inputs_alone(
    schema: FeatureSchema, embedding_dim: int | None
) -> None:
    model = mlp(schema, hidden_layers=[4], embedding_dim=embedding_dim)
    params, batch = stacked(model), random_batch(schema, (S, B, 1))
    inputs = {name: x.clone() for name, x in batch.tensors.items()}
    before = {name: p.clone() for name, p in params.items()}
    with torch.no_grad():
        first, again = (model.forward(params, batch, None) for _ in range(2))
    assert torch.equal(first, again)
    assert all(torch.equal(params[name], p) for name, p in before.items())
    assert all(torch.equal(batch.tensors[name], x) for name, x in inputs.items())


@every_schema
@every_encoding
def test_gradients_equal_finite_differences(
    schema: FeatureSchema, embedding_dim: int | None
) -> None:
    model = mlp(schema, hidden_layers=[3], embedding_dim=embedding_dim, dropout=0.3)
    params, batch = stacked(model, 2), random_batch(schema, (2, 2, 2))
    names, leaves = list(params), [p.requires_grad_() for p in params.values()]
    keys_S = draws.key(0, "dropout", torch.arange(2))
    for key_S in (None, keys_S):
        assert torch.autograd.gradcheck(
            lambda *p, key_S=key_S: model.forward(dict(zip(names, p, strict=True)), batch, key_S),
            leaves,
        )


@every_schema
def test_gradients_equal_the_plain_networks(schema: FeatureSchema) -> None:
    model = mlp(schema, hidden_layers=[6, 3])
    params, batch = stacked(model), random_batch(schema)
    leaves = {name: p.requires_grad_() for name, p in params.items()}
    raw = model.forward(leaves, batch, draws.key(0, "dropout", torch.arange(S)))
    grads = dict(zip(leaves, torch.autograd.grad(raw.square().sum(), leaves.values()), strict=True))
    for s in range(S):
        network = plain_network(model, {name: p[s].detach() for name, p in params.items()})
        rows = [plain_row(model, batch, s, b, c) for b in range(B) for c in range(C)]
        network(torch.stack(rows)).square().sum().backward()
        linears = [layer for layer in network if isinstance(layer, nn.Linear)]
        first = [
            grads[f"{side}_{part}"][s]
            for side in ("user", "video")
            for part in ("weight", "one_hot")
            if f"{side}_{part}" in grads
        ]
        ours = [torch.cat(first), *(grads[f"weight_{i}"][s] for i in range(1, len(linears)))]
        for i, linear in enumerate(linears):
            torch.testing.assert_close(ours[i], linear.weight.grad.T, rtol=1e-9, atol=1e-9)
            torch.testing.assert_close(
                grads[f"bias_{i}"][s], linear.bias.grad, rtol=1e-9, atol=1e-9
            )


@every_schema
@pytest.mark.parametrize("embedding_dim", [None, 3])
def test_many_rows_teach_what_they_teach_a_few_at_a_time(
    schema: FeatureSchema, embedding_dim: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of few categories are one-hot columns; else products, or embeddings, are looked up."""
    model = mlp(schema, hidden_layers=[6], embedding_dim=embedding_dim)
    params, batch = stacked(model), random_batch(schema, (S, 40, 1))
    target_SBCO = torch.linspace(-1, 1, S * 40 * 2, dtype=torch.float64).view(S, 40, 1, 2)
    found = []
    for size, most_one_hot in ((40, 64), (40, 0), (2, 64)):
        monkeypatch.setattr(layers, "_MOST_ONE_HOT", most_one_hot)
        leaves = {name: p.clone().requires_grad_() for name, p in params.items()}
        raws = []
        for start in range(0, 40, size):
            rows = slice(start, start + size)
            part = batch.visits(rows)
            raws.append(model.forward(leaves, part, None))
        raw_SBCO = torch.cat(raws, dim=1)
        ((raw_SBCO - target_SBCO) ** 2).sum().backward()
        found.append([raw_SBCO, *(p.grad for p in leaves.values())])
    for one_hot, looked_up, few in zip(*found, strict=True):
        torch.testing.assert_close(one_hot, few, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(looked_up, few, rtol=1e-10, atol=1e-12)


@every_encoding
def test_candidates_of_a_visit_equal_separate_rows(embedding_dim: int | None) -> None:
    schema = SCHEMAS["mixed"]
    model = mlp(schema, hidden_layers=[6, 3], embedding_dim=embedding_dim)
    params, batch = stacked(model), random_batch(schema)
    together = model.forward(params, batch, None)
    for c in range(C):
        parts = {
            name: x[:, :, c : c + 1] if name.startswith("video") else x
            for name, x in batch.tensors.items()
        }
        apart = model.forward(params, batch_of(**parts), None)
        torch.testing.assert_close(apart[:, :, 0], together[:, :, c], rtol=1e-12, atol=1e-12)


def test_a_network_sees_neither_the_others_nor_their_inputs() -> None:
    schema = SCHEMAS["mixed"]
    model = mlp(schema, hidden_layers=[6], dropout=0.5)
    params, batch = stacked(model), random_batch(schema)
    keys_S = draws.key(0, "dropout", torch.arange(S))
    together = model.forward(params, batch, keys_S)
    for s in range(S):
        one = slice(s, s + 1)
        apart = model.forward({k: p[one] for k, p in params.items()}, batch[one], keys_S[one])
        torch.testing.assert_close(apart[0], together[s], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_table_s_gradient_has_the_same_bits_whatever_is_stacked_beside(
    dtype: torch.dtype,
) -> None:
    schema = FeatureSchema(NOTHING, TAGS)  # few ids, many rows: long sums
    model, batch = mlp(schema, 3, hidden_layers=[]), random_batch(schema, (S, 60, C))
    params = {name: p.to(dtype) for name, p in stacked(model).items()}
    batch = batch.map(lambda x: x.to(dtype) if x.is_floating_point() else x)
    pull = torch.randn(S, 60, C, 3, generator=torch.Generator().manual_seed(2)).to(dtype)

    def table_gradient(part: slice) -> Tensor:
        leaves = {name: p[part].clone().requires_grad_() for name, p in params.items()}
        raw = model.forward(leaves, batch[part], None)
        return torch.autograd.grad((raw * pull[part]).sum(), leaves["video_one_hot"])[0]

    together = table_gradient(slice(0, S))
    for s in range(S):
        assert torch.equal(table_gradient(slice(s, s + 1))[0], together[s])


@every_encoding
def test_an_empty_slot_of_a_multi_hot_feature_has_no_part_and_no_gradient(
    embedding_dim: int | None,
) -> None:
    model = mlp(FeatureSchema(NOTHING, TAGS), 1, hidden_layers=[32], embedding_dim=embedding_dim)
    params = {name: p.requires_grad_() for name, p in stacked(model, 1).items()}
    none = torch.zeros(1, 1, 0)
    weight = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64).expand(1, 1, 2, 3)
    outputs = []
    for padding in (5, 3):  # id 5 stands in an empty slot, id 2 and 4 in filled ones
        cat = torch.tensor([[2, padding, padding], [4, padding, padding]]).view(1, 1, 2, 3)
        batch = batch_of(none, none.int(), none, torch.zeros(1, 1, 2, 0), cat, weight)
        outputs.append(model.forward(params, batch, None))
        table = params["video_one_hot" if embedding_dim is None else "video_embedding"]
        (grad,) = torch.autograd.grad(outputs[-1].square().sum(), table)
        used = (grad[0] != 0).any(-1).tolist()
        assert used == [False, False, True, False, True, False]
    assert torch.equal(*outputs)


# --- dropout ---------------------------------------------------------------------------------


def mask_of(model: MLP, n_hidden: int, n_rows: int, keys_S: Tensor) -> Tensor:
    """The mask of the one hidden layer, read from outside: units are 1, outputs copy them."""
    S = len(keys_S)
    params = {
        "video_weight": torch.zeros(S, 1, n_hidden),
        "bias_0": torch.ones(S, n_hidden),
        "weight_1": torch.eye(n_hidden).expand(S, n_hidden, n_hidden),
        "bias_1": torch.zeros(S, n_hidden),
    }
    none = torch.zeros(S, n_rows, 0)
    video = torch.zeros(S, n_rows, 1, 0)
    batch = batch_of(none, none.int(), none, torch.zeros(S, n_rows, 1, 1), video.int(), video)
    return model.forward(params, batch, keys_S)[:, :, 0]


def test_dropout_drops_its_share_and_scales_the_rest() -> None:
    schema = FeatureSchema(NOTHING, SideSchema(1, (), 0))
    model = mlp(schema, 64, hidden_layers=[64], dropout=0.25)
    keys_S = draws.key(0, "dropout", torch.arange(2))
    mask = mask_of(model, 64, 500, keys_S)
    assert mask.unique().tolist() == pytest.approx([0.0, 4 / 3])
    for one in mask:
        low, high = stats.binom.interval(1 - FALSE_FAIL / 2, one.numel(), 0.25)
        assert low <= int((one == 0).sum()) <= high < 0.27 * one.numel()
    limit = stats.norm.isf(FALSE_FAIL / 2) / math.sqrt(mask[0].numel())
    assert abs(float(torch.corrcoef(mask.flatten(1))[0, 1])) < limit
    # rows behind a batch's end do not change the masks of those before
    torch.testing.assert_close(mask_of(model, 64, 9, keys_S), mask[:, :9])


def test_hidden_layers_have_masks_of_their_own() -> None:
    model = mlp(SCHEMAS["numbers"], 8, hidden_layers=[8, 8], dropout=0.5)
    params = stacked(model, 1)
    for name in params:
        params[name] = torch.zeros_like(params[name])
    params["bias_0"] += 1.0
    params["weight_1"] += torch.eye(8)
    params["weight_2"] += torch.eye(8)
    batch = random_batch(SCHEMAS["numbers"], (1, 200, 1))
    raw = model.forward(params, batch, draws.key(0, "dropout", torch.arange(1)))
    # a unit survives both layers in a quarter of the cases, not in half of them
    low, high = stats.binom.interval(1 - FALSE_FAIL, raw.numel(), 0.25)
    assert low <= int((raw > 0).sum()) <= high < 0.4 * raw.numel()


def test_there_is_no_dropout_in_scoring_nor_at_the_output() -> None:
    schema = SCHEMAS["mixed"]
    params, batch = stacked(mlp(schema, hidden_layers=[6])), random_batch(schema)
    keys_S = draws.key(0, "dropout", torch.arange(S))
    with_dropout = mlp(schema, hidden_layers=[6], dropout=0.5)
    without = mlp(schema, hidden_layers=[6]).forward(params, batch, keys_S)
    assert torch.equal(with_dropout.forward(params, batch, None), without)
    assert not torch.allclose(with_dropout.forward(params, batch, keys_S), without)


# --- start -----------------------------------------------------------------------------------


@every_schema
@every_encoding
def test_the_start_is_a_pure_function_of_the_key(
    schema: FeatureSchema, embedding_dim: int | None
) -> None:
    model = mlp(schema, hidden_layers=[4], embedding_dim=embedding_dim)
    first = model.init(draws.key(0, "init"))
    torch.manual_seed(0)
    again, other = model.init(draws.key(0, "init")), model.init(draws.key(0, "other"))
    assert list(first) == list(again)
    for name, p in first.items():
        assert p.dtype == torch.float32
        assert torch.equal(p, again[name])
        assert not torch.isin(p, other[name]).any()
    values = torch.cat([p.flatten() for p in first.values()])
    assert values.unique().numel() > 0.99 * values.numel()  # no two tensors share their draws


@pytest.mark.parametrize(
    ("embedding_dim", "fan_in"),
    [
        (None, 3 + 2 + 4),  # numbers, and one column for each slot of the user and the video
        (5, 3 + 4 * 5),  # numbers, and the embeddings of two user's and two video's fields
    ],
)
def test_the_start_has_the_scale_of_torch_nn_linear(embedding_dim: int | None, fan_in: int) -> None:
    model = mlp(SCHEMAS["mixed"], 1, hidden_layers=[500, 30], embedding_dim=embedding_dim)
    start = model.init(draws.key(0, "init"))
    fans = {"weight_1": 500, "bias_1": 500, "weight_2": 30, "bias_2": 30}
    for name, p in start.items():
        if name.endswith("embedding"):
            continue
        bound = 1 / math.sqrt(fans.get(name, fan_in))
        assert float(p.abs().max()) <= bound * (1 + 1e-6)
        assert stats.kstest(p.flatten().numpy() / bound, "uniform", (-1, 2)).pvalue > 1e-7
        if p.numel() > 1000:
            assert stats.kstest(p.flatten().numpy() / bound, "uniform", (-1.1, 2.2)).pvalue < 1e-6


def test_embeddings_start_standard_normal() -> None:
    schema = FeatureSchema(NOTHING, SideSchema(0, (("author", 0, 1),), 5000, (), (0,)))
    table = mlp(schema, hidden_layers=[4], embedding_dim=4).init(draws.key(0, "init"))
    values = table["video_embedding"].flatten().numpy()
    assert values.shape == (20_000,)
    assert stats.kstest(values, "norm").pvalue > FALSE_FAIL
    assert stats.kstest(values * 1.1, "norm").pvalue < FALSE_FAIL


def test_floats_per_row_grow_with_the_layers_and_the_embeddings() -> None:
    schema = SCHEMAS["mixed"]
    small = mlp(schema, 1, hidden_layers=[4]).floats_per_row
    assert small >= 4 + 1
    assert mlp(schema, 1, hidden_layers=[40]).floats_per_row - small == 36
    assert mlp(schema, 1, hidden_layers=[4], embedding_dim=8).floats_per_row > small


@pytest.mark.parametrize(
    "params",
    [
        {"hidden": [4]},
        {"dropout": 1.0},
        {"hidden_layers": [0]},
        {"embedding_dim": 0},
        {"normalization": "batch"},
    ],
)
def test_wrong_settings_are_refused_with_their_path(params: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=rf"labels\.click\.model_params: {next(iter(params))}"):
        mlp(SCHEMAS["mixed"], **params)
