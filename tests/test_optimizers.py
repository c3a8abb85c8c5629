"""Each stacked network is trained as one network by torch.optim, step by step."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from test_learner import SCALE, B, S, keys, labels, learner_of, random_batch, snapshot
from torch import Tensor

from realdataexp.learner import Learner, skipped_share
from realdataexp.optimizers import OptimizerSettings, descend, join

TORCH = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}
RATES = {"adam": 0.01, "adamw": 0.01, "sgd": 0.5}


class Plain:
    """Network s of a learner, by torch.optim."""

    def __init__(self, learner: Learner, s: int, settings: OptimizerSettings) -> None:
        self.learner, self.s, self.settings = learner, s, settings
        self.leaves = {n: p[s : s + 1].clone().requires_grad_() for n, p in learner.params.items()}
        self.optimizer = TORCH[settings.kind](
            self.leaves.values(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )

    def step(self, step: int, weight_B: Tensor) -> None:
        self.optimizer.zero_grad()
        rows = slice(self.s, self.s + 1)
        raw = self.learner.model.forward(self.leaves, random_batch(step)[rows], None)
        loss = self.learner.heads[0].loss.elementwise(raw[:, :, 0], labels(step)[rows, :, 0], SCALE)
        (weight_B * loss[0]).mean().backward()
        if self.settings.gradient_clip is not None:
            torch.nn.utils.clip_grad_norm_(self.leaves.values(), self.settings.gradient_clip)
        self.optimizer.step()


@pytest.mark.parametrize("kind", TORCH)
@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
@pytest.mark.parametrize("gradient_clip", [None, 0.05])
def test_every_step_is_that_of_torch(
    kind: str, weight_decay: float, gradient_clip: float | None
) -> None:
    """Also where a network rests for a while: its steps are its own."""
    settings = OptimizerSettings(RATES[kind], weight_decay, gradient_clip, kind)
    learner = learner_of(loss="BCE")
    plain = [Plain(learner, s, settings) for s in range(S)]
    start = learner.network(0)
    for step in range(10):
        weight_SB = torch.linspace(0.2, 1.8, S * B).view(S, B)
        weight_SB[2] *= float(step not in (3, 4, 7))
        learner.update(random_batch(step), labels(step), weight_SB, settings, keys())
        for s in range(S):
            if weight_SB[s].any():
                plain[s].step(step, weight_SB[s])
            for name, p in plain[s].leaves.items():
                torch.testing.assert_close(learner.params[name][s], p[0], rtol=0, atol=2e-5)
    moved = max(float((learner.params[n][0] - p).abs().max()) for n, p in start.items())
    assert moved > 0.02
    assert learner.n_updates_S.tolist() == [10, 10, 7, 10]


def test_decoupled_decay_differs_from_the_penalty() -> None:
    ends = []
    for kind in ("adam", "adamw"):
        learner = learner_of()
        settings = OptimizerSettings(0.01, 0.3, kind=kind)
        for step in range(5):
            learner.update(random_batch(step), labels(step), torch.ones(S, B), settings, keys())
        ends.append(learner.params["weight_1"])
    assert float((ends[0] - ends[1]).abs().max()) > 1e-3
    assert float(ends[1].norm()) > float(ends[0].norm())


@pytest.mark.parametrize("kind", TORCH)
def test_a_network_that_rests_keeps_every_bit(kind: str) -> None:
    learner = learner_of(dropout=0.3)
    settings = OptimizerSettings(0.05, 0.5, 1.0, kind)
    for step in range(3):
        learner.update(random_batch(step), labels(step), torch.ones(S, B), settings, keys())
    before = [snapshot(learner, s) for s in range(S)]
    weight_SB = torch.ones(S, B)
    weight_SB[1] = 0.0
    learner.update(random_batch(9), labels(9), weight_SB, settings, keys(step=9))
    assert snapshot(learner, 1) == before[1]
    assert all(snapshot(learner, s) != before[s] for s in (0, 2, 3))


def test_sgd_needs_no_moments() -> None:
    learner = learner_of()
    settings = OptimizerSettings(0.05, kind="sgd")
    learner.update(random_batch(), labels(), torch.ones(S, B), settings, keys())
    assert not learner.moment_1_SP.any() and not learner.moment_2_SP.any()


def skipped(learner: Learner, *least_due: int) -> Tensor:
    return skipped_share(learner.n_updates_S, learner.n_skipped_S, *least_due)


def test_a_share_of_skipped_updates_is_each_networks_own() -> None:
    learner, settings = learner_of(), OptimizerSettings(0.01)
    assert skipped(learner).tolist() == [0.0] * S
    bad = torch.where(torch.arange(S).view(S, 1, 1) == 2, 1e30, labels())
    for step in range(24):
        y_SBJ = bad if step % 3 == 0 else labels()
        weight_SB = torch.ones(S, B)
        weight_SB[3] = float(step >= 10)
        learner.update(random_batch(step), y_SBJ, weight_SB, settings, keys())
        expected = 0.0 if step < 19 else (step // 3 + 1) / (step + 1)
        assert skipped(learner).tolist() == pytest.approx([0, 0, expected, 0])
    assert skipped(learner, 1)[2] == pytest.approx(8 / 24)


@pytest.mark.parametrize("kind", ["adam", "adamw"])
def test_a_step_does_not_depend_on_how_many_networks_are_stacked_to_the_bit(kind: str) -> None:
    """beta ** t has other last bits behind the last whole SIMD lane: 0.999 ** 168 is the first.

    Below t = 168 the difference is lost in 1 - beta ** t, so these networks are no beginners.
    """
    n, n_steps, settings = 70, 60, OptimizerSettings(0.01, 0.1, kind=kind)
    g = torch.Generator().manual_seed(0)
    start, grads = torch.randn(n, 3, generator=g), torch.randn(n_steps, n, 3, generator=g)
    before_S = 150 + torch.arange(n) % 5

    def trained(networks: slice) -> Tensor:
        p = start[networks].clone()
        moments = torch.zeros_like(p), torch.zeros_like(p)
        on_S, ones_S = torch.ones(len(p), dtype=torch.bool), torch.ones(len(p))
        for step in range(n_steps):
            args = (
                grads[step, networks].clone(),
                ones_S,
                on_S,
                before_S[networks] + step + 1,
                ones_S,
            )
            descend({"p": p}, moments, *args, settings)
        return p

    together = trained(slice(0, n))
    for size in range(1, n + 1):
        assert torch.equal(trained(slice(0, size)), together[:size]), size
    for first in range(1, n, 7):
        assert torch.equal(trained(slice(first, n)), together[first:]), first


@pytest.mark.parametrize("kind", TORCH)
def test_a_parameter_may_be_a_single_number_or_of_any_shape(kind: str) -> None:
    """Such as a module's temperature; each network's step is that of torch.optim."""
    g, n, settings = torch.Generator().manual_seed(0), 3, OptimizerSettings(0.05, 0.1, kind=kind)
    shapes = {"temperature": (), "matrix": (2, 4), "bias": (3,), "cube": (2, 1, 2)}
    params = {name: torch.randn(n, *shape, generator=g) for name, shape in shapes.items()}
    leaves = [[p[s].clone().requires_grad_() for p in params.values()] for s in range(n)]
    plains = [TORCH[kind](of_one, lr=0.05, weight_decay=0.1) for of_one in leaves]
    moments = torch.zeros_like(join(params.values())), torch.zeros_like(join(params.values()))
    on_S, ones_S = torch.ones(n, dtype=torch.bool), torch.ones(n)
    for step in range(4):
        grads = [torch.randn(p.shape, generator=g) for p in params.values()]
        for s in range(n):
            for leaf, grad in zip(leaves[s], grads, strict=True):
                leaf.grad = grad[s].clone()
            plains[s].step()
        n_updates_S = torch.full((n,), step + 1)
        descend(params, moments, join(grads), ones_S, on_S, n_updates_S, ones_S, settings)
    for i, p in enumerate(params.values()):
        expected = torch.stack([of_one[i].detach() for of_one in leaves])
        torch.testing.assert_close(p, expected, rtol=0, atol=1e-5)


def test_settings_are_values() -> None:
    assert OptimizerSettings(0.1) == replace(OptimizerSettings(0.2), learning_rate=0.1)
