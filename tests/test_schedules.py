"""Learning-rate schedules of stacked networks against PyTorch's schedulers of one network."""

from __future__ import annotations

import math

import pytest
import torch
from test_learner import NAN, B, S, keys, labels, learner_of, random_batch, snapshot

from realdataexp.optimizers import OptimizerSettings, Schedule


def torch_optimizer(lr: float = 1.0) -> torch.optim.SGD:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)


@pytest.mark.parametrize("min_factor", [0.0, 0.1])
@pytest.mark.parametrize("n_updates", [1, 7, 50])
def test_the_cosine_is_that_of_torch(n_updates: int, min_factor: float) -> None:
    optimizer = torch_optimizer()
    expected = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, n_updates, min_factor)
    schedule = Schedule("cosine", min_factor, n_updates=n_updates)
    for n_done in range(n_updates + 1):
        rate = optimizer.param_groups[0]["lr"]
        assert schedule.cosine(n_done) == pytest.approx(rate, rel=1e-9, abs=1e-12)
        optimizer.step()
        expected.step()
    assert schedule.cosine(0) == 1.0
    assert schedule.cosine(n_updates) == schedule.cosine(n_updates + 9) == min_factor


@pytest.mark.parametrize("patience", [0, 1, 3])
@pytest.mark.parametrize(("factor", "min_factor"), [(0.5, 0.0), (0.1, 0.05), (0.9, 0.5)])
def test_each_networks_plateau_is_that_of_torch(
    patience: int, factor: float, min_factor: float
) -> None:
    g = torch.Generator().manual_seed(patience)
    value_TS = torch.randint(0, 40, (60, 5), generator=g).double()
    value_TS += torch.linspace(20, 0, 60, dtype=torch.float64).unsqueeze(1).round()
    value_TS[7, 0], value_TS[0, 1], value_TS[20:30, 2] = NAN, NAN, math.inf
    schedule, learner = Schedule("plateau", min_factor, factor, patience), learner_of(5)
    theirs = []
    for _ in range(5):
        theirs.append(
            torch.optim.lr_scheduler.ReduceLROnPlateau(
                torch_optimizer(),
                "min",
                factor,
                patience,
                threshold=0.0,
                min_lr=min_factor,
                eps=0.0,
            )
        )
    for value_S in value_TS:
        learner.observe(value_S, schedule)
        for scheduler, value in zip(theirs, value_S.tolist(), strict=True):
            scheduler.step(value)
        rates = [x.optimizer.param_groups[0]["lr"] for x in theirs]
        assert learner.rate_factor_S.tolist() == pytest.approx(rates, rel=1e-5)
        assert learner.best_S.tolist() == [x.best for x in theirs]
        assert learner.n_bad_S.tolist() == [x.num_bad_epochs for x in theirs]
    assert float(learner.rate_factor_S.min()) < 1.0


@pytest.mark.parametrize("kind", ["none", "cosine"])
def test_other_schedules_do_not_heed_validation(kind: str) -> None:
    learner = learner_of()
    before = [snapshot(learner, s) for s in range(S)]
    for value in range(9):
        learner.observe(torch.full((S,), float(value)), Schedule(kind, patience=0))
    assert [snapshot(learner, s) for s in range(S)] == before


@pytest.mark.parametrize("kind", ["adam", "adamw", "sgd"])
def test_the_factor_acts_on_the_rate_of_its_own_network(kind: str) -> None:
    """A network at half the rate takes the steps that half the learning rate makes."""
    halved, slow, plain = learner_of(), learner_of(), learner_of()
    halved.rate_factor_S[1] = 0.5
    for step in range(4):
        data = (random_batch(step), labels(step), torch.ones(S, B))
        for learner, rate in ((halved, 0.02), (plain, 0.02), (slow, 0.01)):
            settings = OptimizerSettings(rate, 0.1, kind=kind)
            learner.update(*data, settings, keys(step=step))
    for name, p in halved.params.items():
        torch.testing.assert_close(p[1], slow.params[name][1], rtol=1e-6, atol=1e-7)
        for s in (0, 2, 3):
            assert torch.equal(p[s], plain.params[name][s])
        assert not torch.equal(p[1], plain.params[name][1])


def test_a_cosine_lowers_all_rates_by_the_phases_updates_done() -> None:
    """Also of a network that had nothing to learn for a while, and again after a new start."""
    schedule = Schedule("cosine", 0.1, n_updates=6)
    learner, plain = learner_of(), learner_of()
    for n_done in range(6):
        weight_SB = torch.ones(S, B)
        weight_SB[0] = float(n_done > 2)
        data = (random_batch(n_done), labels(n_done), weight_SB)
        learner.update(
            *data, OptimizerSettings(0.05, schedule=schedule), keys(step=n_done), n_done=n_done
        )
        plain.update(*data, OptimizerSettings(0.05 * schedule.cosine(n_done)), keys(step=n_done))
    assert learner.rate_factor_S.tolist() == pytest.approx([schedule.cosine(5)] * S)
    for name, p in learner.params.items():
        torch.testing.assert_close(p, plain.params[name], rtol=1e-5, atol=1e-6)


def test_a_factor_of_one_changes_no_bit() -> None:
    ends = []
    for schedule in (Schedule(), Schedule("plateau"), Schedule("cosine", n_updates=10**12)):
        learner = learner_of(dropout=0.3)
        for step in range(3):
            settings = OptimizerSettings(0.05, 0.1, 1.0, schedule=schedule)
            data = (random_batch(step), labels(step), torch.ones(S, B))
            learner.update(*data, settings, keys(step=step), n_done=0)
        ends.append([snapshot(learner, s) for s in range(S)])
    assert ends[0] == ends[1] == ends[2]
