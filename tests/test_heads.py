"""Laws of networks with several heads: each label's own mean, and one gradient for all of them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from test_learner import (
    CPU,
    NAN,
    SCHEMA,
    B,
    S,
    assert_same_network,
    first_gradient,
    keys,
    random_batch,
    snapshot,
)
from torch import Tensor

from realdataexp import draws
from realdataexp.device import Device
from realdataexp.learner import Head, Learner
from realdataexp.models import LOSSES, MLP, LabelScale
from realdataexp.optimizers import OptimizerSettings

K = 3
HEADS = (
    Head(LOSSES["MSE"], LabelScale(1.0, 2.0, 2.0)),
    Head(LOSSES["CE"], LabelScale(), 3),
    Head(LOSSES["logMAE"], LabelScale(0.5, 0.7, 1.0)),
)
SETTINGS = OptimizerSettings(0.05, 0.1, 1.0)


def learner_of(
    heads: tuple[Head, ...] = HEADS, n: int = S, device: Device = CPU, dropout: float = 0.0
) -> Learner:
    n_outputs = sum(head.n_outputs for head in heads)
    model = MLP(SCHEMA, n_outputs, {"hidden_layers": [5], "dropout": dropout}, "model_params")
    learner = Learner.start(model, heads, device, model.init(draws.key(0, "i")), n)
    for name, p in learner.params.items():
        for s in range(n):
            p[s] = model.init(draws.key(s, "i"))[name]
    return learner


def labels(seed: int = 0, n: int = S) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    y = [torch.randn(S, B, generator=g), torch.randint(0, 3, (S, B), generator=g).float()]
    return torch.stack([*y, torch.rand(S, B, generator=g)], dim=-1)[:n]


def train(learner: Learner, n_steps: int = 3) -> Tensor:
    n = learner.n_networks
    for step in range(n_steps):
        ones_SB, key_S = torch.ones(n, B), keys(n, step)
        loss_SJ = learner.update(random_batch(step)[:n], labels(step, n), ones_SB, SETTINGS, key_S)
    return loss_SJ


def test_the_gradient_is_that_of_the_sum_of_the_heads_means() -> None:
    """A missing label leaves a row to the other heads, and out of its own head's mean alone."""
    learner, batch, y_SBJ = learner_of(), random_batch(), labels()
    weight_SB = torch.tensor([1.0, 2.0, 0.0, 0.5, 1.0, 3.0]).repeat(S, 1)
    y_SBJ[0, 1, 0], y_SBJ[1, :, 2], y_SBJ[3, 4, 1], weight_SB[2, 5] = NAN, NAN, NAN, NAN
    leaves = {name: p.clone().requires_grad_() for name, p in learner.params.items()}
    raw = learner.model.forward(leaves, batch, None)[:, :, 0]
    total, means = torch.tensor(0.0), torch.full((S, K), NAN)
    for s in range(S):
        for k, (head, part) in enumerate(zip(HEADS, ((0, 1), (1, 4), (4, 5)), strict=True)):
            rows = [b for b in range(B) if not (y_SBJ[s, b, k].isnan() or weight_SB[s, b].isnan())]
            weight_N = weight_SB[s, rows]
            raw_NO, y_N = raw[s, rows, slice(*part)], y_SBJ[s, rows, k]
            loss_N = head.loss.elementwise(raw_NO, y_N, head.scale)
            if rows:
                total = total + (weight_N * loss_N).sum() / len(rows)
                means[s, k] = loss_N[weight_N > 0].detach().mean()
    expected = dict(zip(leaves, torch.autograd.grad(total, leaves.values()), strict=True))
    loss_SJ = learner.update(batch, y_SBJ, weight_SB, OptimizerSettings(0.01), keys())
    torch.testing.assert_close(loss_SJ, means, rtol=1e-5, atol=1e-6, equal_nan=True)
    assert loss_SJ.isnan().sum() == 1
    for name, g in first_gradient(learner).items():
        torch.testing.assert_close(g, expected[name], rtol=1e-4, atol=1e-6)
    assert learner.n_updates_S.tolist() == [1] * S


def test_predictions_and_losses_are_each_heads_own() -> None:
    learner, y_SBJ = learner_of(dropout=0.5), labels()
    y_SBJ[0, 2, 1] = NAN
    batch, one = random_batch(1, (S, B, 4)), random_batch(1)
    raw = learner.model.forward(learner.params, batch, None)
    predicted = learner.predict(batch, slice(0, S))
    assert predicted.shape == (S, B, 4, K)
    losses = learner.losses(one, y_SBJ, slice(0, S))
    raw_one = learner.model.forward(learner.params, one, None)[:, :, 0]
    for k, (head, part) in enumerate(zip(HEADS, ((0, 1), (1, 4), (4, 5)), strict=True)):
        outputs = raw[..., slice(*part)]
        torch.testing.assert_close(predicted[..., k], head.loss.predict(outputs, head.scale))
        y_SB = y_SBJ[..., k].nan_to_num()
        expected = head.loss.elementwise(raw_one[..., slice(*part)], y_SB, head.scale)
        is_known = y_SBJ[..., k].isfinite()
        torch.testing.assert_close(losses[..., k][is_known], expected[is_known])
    assert losses.isnan().nonzero().tolist() == [[0, 2, 1]]
    part = learner.predict(batch[1:3], slice(1, 3))
    torch.testing.assert_close(part, predicted[1:3])


@pytest.mark.parametrize("why", ["no weight", "no label", "padding"])
def test_a_network_without_anything_to_learn_is_left_bit_for_bit(why: str) -> None:
    learner = learner_of(dropout=0.3)
    train(learner)
    before = [snapshot(learner, s) for s in range(S)]
    y_SBJ, weight_SB = labels(9), torch.ones(S, B)
    if why == "no label":
        y_SBJ[1] = NAN
    else:
        weight_SB[1] = 0.0 if why == "no weight" else NAN
    loss_SJ = learner.update(random_batch(9), y_SBJ, weight_SB, SETTINGS, keys(step=9))
    assert snapshot(learner, 1) == before[1]
    assert loss_SJ.isnan().all(1).tolist() == [False, True, False, False]
    assert learner.n_updates_S.tolist() == [4, 3, 4, 4]
    assert learner.n_skipped_S.tolist() == [0] * S


def test_a_head_that_is_not_finite_skips_the_whole_networks_update() -> None:
    learner, without = learner_of(), learner_of()
    y_SBJ, weight_SB = labels(), torch.ones(S, B)
    y_SBJ[1, 4, 0] = 1e30
    before = learner.network(1)
    learner.update(random_batch(), y_SBJ, weight_SB, SETTINGS, keys())
    weight_SB[1] = 0.0
    without.update(random_batch(), labels(), weight_SB, SETTINGS, keys())
    assert learner.n_skipped_S.tolist() == [0, 1, 0, 0]
    assert all(torch.equal(p, before[name]) for name, p in learner.network(1).items())
    for s in (0, 2, 3):
        assert snapshot(learner, s) == snapshot(without, s)


def test_equal_heads_with_outputs_of_their_own_learn_as_networks_of_one_label() -> None:
    """Without hidden layers heads share nothing: each is a network of its own."""
    heads = (HEADS[0], HEADS[2])
    model = MLP(SCHEMA, 2, {"hidden_layers": []}, "model_params")
    start = model.init(draws.key(0, "i"))
    both = Learner.start(model, heads, CPU, start, S)
    alone = [
        Learner.start(
            MLP(SCHEMA, 1, {"hidden_layers": []}, "model_params"),
            (head,),
            CPU,
            {name: p[..., k : k + 1] for name, p in start.items()},
            S,
        )
        for k, head in enumerate(heads)
    ]
    for step in range(4):
        y_SBJ, ones = labels(step)[..., [0, 2]], torch.ones(S, B)
        settings = OptimizerSettings(0.05, 0.1)
        loss_SJ = both.update(random_batch(step), y_SBJ, ones, settings, keys())
        for k, learner in enumerate(alone):
            y_SB1 = y_SBJ[..., k : k + 1]
            loss_S1 = learner.update(random_batch(step), y_SB1, ones, settings, keys())
            torch.testing.assert_close(loss_SJ[:, k : k + 1], loss_S1)
    for name, p in both.params.items():
        for k, learner in enumerate(alone):
            torch.testing.assert_close(p[..., k : k + 1], learner.params[name])


def test_chunks_and_more_networks_change_nothing() -> None:
    floats = learner_of().model.floats_per_row
    whole, few = learner_of(dropout=0.3), learner_of(n=2, dropout=0.3)
    cut = learner_of(device=replace(CPU, chunk_bytes=2 * 4 * B * floats), dropout=0.3)
    losses = [train(x, 4) for x in (whole, few, cut)]
    torch.testing.assert_close(losses[0][:2], losses[1])
    torch.testing.assert_close(losses[0], losses[2])
    for s in range(S):
        assert_same_network(cut, whole, s)
    for s in range(2):
        assert_same_network(few, whole, s)
