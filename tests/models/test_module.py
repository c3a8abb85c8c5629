"""A stack of any nn.Module equals the module run network by network."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from support import batch_of
from torch import Tensor, nn

from realdataexp import draws
from realdataexp.errors import InputError
from realdataexp.models import Batch, FeatureSchema, ModuleStack, SideSchema, build_model

SCHEMA = FeatureSchema(
    SideSchema(2, (("level", 0, 1),), 4, (), (0,)),
    SideSchema(1, (("type", 0, 1), ("tag", 1, 3)), 7, (), (0, 3)),
)
S, B, C = 3, 4, 5


class Plain(nn.Module):
    """Embeddings summed over the slots, joined with the numbers; the last id is an empty slot."""

    def __init__(self, schema: FeatureSchema, n_outputs: int, width: int = 6) -> None:
        super().__init__()
        n_ids = schema.user.n_ids + schema.video.n_ids
        self.embedding = self.table(n_ids)
        n_numbers = schema.user.n_numerical + schema.video.n_numerical
        self.layers = self.stack(n_numbers + 3, width, n_outputs)

    def table(self, n_ids: int) -> nn.Embedding:
        return nn.Embedding(n_ids + 1, 3)

    def stack(self, n_inputs: int, width: int, n_outputs: int) -> nn.Sequential:
        return nn.Sequential(nn.Linear(n_inputs, width), nn.ReLU(), nn.Linear(width, n_outputs))

    def forward(self, num_ND: Tensor, cat_NK: Tensor) -> Tensor:
        return self.layers(torch.cat([num_ND, self.embedding(cat_NK).sum(-2)], dim=-1))


class WithEmptySlot(Plain):
    """The usual way to give an empty slot an embedding of zeros that never learns."""

    def table(self, n_ids: int) -> nn.Embedding:
        return nn.Embedding(n_ids + 1, 3, padding_idx=n_ids)


class WithDropout(Plain):
    def stack(self, n_inputs: int, width: int, n_outputs: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Linear(n_inputs, width), nn.Dropout(0.5), nn.ReLU(), nn.Linear(width, n_outputs)
        )


class WithBatchNorm(Plain):
    def stack(self, n_inputs: int, width: int, n_outputs: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Linear(n_inputs, width), nn.BatchNorm1d(width), nn.Linear(width, n_outputs)
        )


class WithBatchStatistics(Plain):
    """Batch norm that keeps no running statistics, but takes the batch's in every forward."""

    def stack(self, n_inputs: int, width: int, n_outputs: int) -> nn.Sequential:
        norm = nn.BatchNorm1d(width, track_running_stats=False)
        return nn.Sequential(nn.Linear(n_inputs, width), norm, nn.Linear(width, n_outputs))


class WithDropoutRate(Plain):
    def __init__(self, schema: FeatureSchema, n_outputs: int, rate: float) -> None:
        super().__init__(schema, n_outputs)
        self.dropout = nn.Dropout(rate)


def stack_of(module: type[nn.Module], n_outputs: int = 2, **params: Any) -> ModuleStack:
    return ModuleStack(module, SCHEMA, n_outputs, params, "labels.click.model_params")


def stacked(model: ModuleStack, n: int = S) -> dict[str, Tensor]:
    starts = [model.init(draws.key(i, "init")) for i in range(n)]
    return {name: torch.stack([start[name] for start in starts]) for name in starts[0]}


def random_batch() -> Batch:
    g = torch.Generator().manual_seed(0)
    user, video = SCHEMA.user, SCHEMA.video
    weight = torch.ones(S, B, C, video.n_slots)
    weight[..., 2] = (torch.rand(S, B, C, generator=g) < 0.5).float()
    return batch_of(
        torch.randn(S, B, user.n_numerical, generator=g),
        torch.randint(0, user.n_ids, (S, B, user.n_slots), generator=g).int(),
        torch.ones(S, B, user.n_slots),
        torch.randn(S, B, C, video.n_numerical, generator=g),
        torch.randint(0, video.n_ids, (S, B, C, video.n_slots), generator=g).int(),
        weight,
    )


def joined_rows(batch: Batch, s: int) -> tuple[Tensor, Tensor]:
    """The documented inputs of a module, row by row: N, D and N, K."""
    num, cat = [], []
    n_user, n_ids = SCHEMA.user.n_ids, SCHEMA.user.n_ids + SCHEMA.video.n_ids
    for b in range(B):
        for c in range(C):
            user_num, video_num = batch.visit["user_num"], batch.candidate["video_num"]
            num.append(torch.cat([user_num[s, b], video_num[s, b, c]]))
            ids = batch.visit["user_cat"][s, b].tolist()
            slots = zip(
                batch.candidate["video_cat"][s, b, c].tolist(),
                batch.candidate["video_weight"][s, b, c].tolist(),
                strict=True,
            )
            ids += [i + n_user if weight else n_ids for i, weight in slots]
            cat.append(torch.tensor(ids))
    return torch.stack(num), torch.stack(cat)


def alone(module: type[nn.Module], params: dict[str, Tensor], s: int) -> nn.Module:
    """The plain module with one network's parameters."""
    plain = module(SCHEMA, 2)
    plain.load_state_dict({name: p[s].detach() for name, p in params.items()})
    return plain


def test_scoring_equals_the_module_network_by_network() -> None:
    batch = random_batch()
    for module in (Plain, WithEmptySlot, WithDropout):
        model = stack_of(module)
        params = stacked(model)
        raw = model.forward(params, batch, None)
        assert raw.shape == (S, B, C, 2)
        for s in range(S):
            expected = alone(module, params, s).eval()(*joined_rows(batch, s)).view(B, C, 2)
            torch.testing.assert_close(raw[s], expected, rtol=1e-5, atol=1e-6)
        assert not torch.allclose(raw[0], raw[1], atol=0.01)


@pytest.mark.parametrize("module", [Plain, WithEmptySlot])
def test_gradients_equal_the_module_network_by_network(module: type[nn.Module]) -> None:
    batch, model = random_batch(), stack_of(module)
    params = {name: p.requires_grad_() for name, p in stacked(model).items()}
    raw = model.forward(params, batch, draws.key(0, "dropout", torch.arange(S)))
    grads = dict(zip(params, torch.autograd.grad(raw.square().sum(), params.values()), strict=True))
    for s in range(S):
        plain = alone(module, params, s)
        plain(*joined_rows(batch, s)).square().sum().backward()
        for name, p in plain.named_parameters():
            torch.testing.assert_close(grads[name][s], p.grad, rtol=1e-4, atol=1e-5)


def test_dropout_is_the_modules_own_under_the_networks_key() -> None:
    batch, model = random_batch(), stack_of(WithDropout)
    params = {name: p.requires_grad_() for name, p in stacked(model).items()}
    keys_S = draws.key(0, "dropout", torch.arange(S))
    raw = model.forward(params, batch, keys_S)
    grads = dict(zip(params, torch.autograd.grad(raw.square().sum(), params.values()), strict=True))
    for s in range(S):
        plain = alone(WithDropout, params, s).train()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(keys_S[s]) & (2**63 - 1))
            expected = plain(*joined_rows(batch, s))
        torch.testing.assert_close(raw[s].flatten(0, 1), expected, rtol=1e-5, atol=1e-6)
        expected.square().sum().backward()
        for name, p in plain.named_parameters():
            torch.testing.assert_close(grads[name][s], p.grad, rtol=1e-4, atol=1e-5)


def test_dropout_depends_on_the_networks_own_key_only() -> None:
    batch, model = random_batch(), stack_of(WithDropout)
    params = {name: p[:1].expand_as(p) for name, p in stacked(model).items()}
    same = batch[:1].expand(S)
    keys_S = draws.key(0, "dropout", torch.tensor([5, 6, 5]))
    raw = model.forward(params, same, keys_S)
    assert torch.equal(raw[0], raw[2])
    assert not torch.allclose(raw[0], raw[1])
    assert not torch.allclose(raw, model.forward(params, same, None))
    alone_1 = model.forward({k: p[1:2] for k, p in params.items()}, same[1:2], keys_S[1:2])
    assert torch.equal(alone_1[0], raw[1])


def test_the_global_random_state_neither_matters_nor_moves() -> None:
    batch, model = random_batch(), stack_of(WithDropout)
    keys_S = draws.key(0, "dropout", torch.arange(S))
    results = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        params = stacked(stack_of(WithDropout))
        results.append((params, model.forward(params, batch, keys_S)))
        assert torch.equal(torch.get_rng_state(), before)
    (first, raw_1), (second, raw_2) = results
    assert torch.equal(raw_1, raw_2)
    assert all(torch.equal(p, second[name]) for name, p in first.items())


def test_the_start_is_the_modules_own_and_differs_between_keys() -> None:
    model = stack_of(Plain)
    start, other = model.init(draws.key(0, "init")), model.init(draws.key(1, "init"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(draws.key(0, "init")) & (2**63 - 1))
        expected = dict(Plain(SCHEMA, 2).named_parameters())
    assert list(start) == list(expected)
    assert all(torch.equal(start[name], p) for name, p in expected.items())
    assert not torch.equal(start["layers.0.weight"], other["layers.0.weight"])
    assert not any(p.requires_grad for p in start.values())


def test_settings_reach_the_module() -> None:
    start = stack_of(Plain, n_outputs=3, width=11).init(draws.key(0, "init"))
    assert start["layers.0.weight"].shape[0] == 11
    assert start["layers.2.weight"].shape == (3, 11)
    wide = stack_of(Plain, width=110).floats_per_row - stack_of(Plain, width=11).floats_per_row
    assert wide == 99


@pytest.mark.parametrize("module", [WithBatchNorm, WithBatchStatistics])
def test_batch_norm_is_refused_in_one_line_that_names_a_way_out(module: type[nn.Module]) -> None:
    with pytest.raises(InputError) as caught:
        stack_of(module)
    text = str(caught.value)
    assert text.startswith("labels.click.model_params: ") and "\n" not in text
    assert "batch statistics" in text and "LayerNorm" in text


@pytest.mark.parametrize(
    ("module", "params", "says"),
    [
        (Plain, {"depth": 3}, "depth"),
        (WithDropoutRate, {}, "rate"),
        (WithDropoutRate, {"rate": 5.0}, "between 0 and 1"),
    ],
)
def test_settings_that_the_module_refuses_are_an_input_error(
    module: type[nn.Module], params: dict[str, Any], says: str
) -> None:
    with pytest.raises(InputError) as caught:
        stack_of(module, **params)
    text = str(caught.value)
    assert text.startswith(f"labels.click.model_params = {params!r}: ") and says in text


def test_build_model_wraps_a_module_and_takes_a_stacked_model_as_it_is() -> None:
    where = "labels.click.model"
    # under whichever name pytest has imported this file
    plain = build_model(f"{__name__}:Plain", SCHEMA, 2, {"width": 3}, where)
    assert isinstance(plain, ModuleStack)
    assert isinstance(sys.modules[__name__].Plain(SCHEMA, 2), nn.Module)
    mlp = build_model("MLP", SCHEMA, 2, {}, where)
    outside = build_model("realdataexp.models.mlp:MLP", SCHEMA, 2, {}, where)
    assert type(outside) is type(mlp)
