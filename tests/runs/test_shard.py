"""What a look at held-out visits finds, against scikit-learn on the same predictions.

Axes: as in runs.validation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from sklearn.metrics import (
    accuracy_score,
    log_loss,
    mean_absolute_error,
    ndcg_score,
    roc_auc_score,
)
from support import (
    GLOBAL_C,
    GLOBAL_T,
    POOLING,
    SPLITTING,
    Setting,
    make_arms,
    make_learner,
    make_store,
)
from torch import Tensor

from realdataexp import draws
from realdataexp.api import run
from realdataexp.config import load_config
from realdataexp.learner import Learner
from realdataexp.loop import Block, n_networks
from realdataexp.pretrain import Pretraining
from realdataexp.runs.recorder import Recorder
from realdataexp.runs.shard import Seen, Validator
from realdataexp.worlds import replay
from realdataexp.worlds.base import HeldOut

SETTING = Setting()
R, B, C = 2, 8, 5


def make_held_out() -> HeldOut:
    """Slates of several sizes; some clicks are missing, and so is an outcome without a model."""
    random = np.random.default_rng(1)
    user_B = torch.arange(B) % 10
    video_BC = torch.from_numpy(random.integers(0, 40, (B, C)))
    on_BC = torch.arange(C) < torch.from_numpy(random.integers(2, C + 1, (B, 1)))
    y = np.stack(
        [
            np.exp(random.normal(8.0, 1.5, (B, C))),
            (random.random((B, C)) < 0.4).astype(float),
            random.normal(size=(B, C)) ** 2,
        ],
        axis=-1,
    ).astype(np.float32)
    y[..., 1][random.random((B, C)) < 0.1] = np.nan
    y_BCL = torch.from_numpy(y).masked_fill(~on_BC.unsqueeze(-1), torch.nan)
    batch = make_store(SETTING.n_rows_U).batch(user_B[None], video_BC[None])
    return HeldOut(batch, y_BCL, on_BC, B)


def make_learners(n: int) -> list[Learner]:
    """Networks that all differ."""
    learners = [make_learner(SETTING, i, n) for i in range(2)]
    for i, learner in enumerate(learners):
        for j, (name, p) in enumerate(learner.params.items()):
            noise = draws.uniform(draws.key(i, f"noise {j} {name}"), p.numel()).float()
            p += 0.3 * (noise.view(p.shape) - 0.5)
    return learners


HELD_OUT = make_held_out()
SETUP: Any = SimpleNamespace(  # what a validator reads of it
    config=load_config("demo"),
    labels=[
        SimpleNamespace(config=SimpleNamespace(name=x.target, type=kind))
        for x, kind in zip(SETTING.labels, ("numerical", "binary"), strict=True)
    ],
    networks=[SimpleNamespace(labels=(i,)) for i in (0, 1)],
    arms=make_arms(SETTING.labels),
    outcomes=("play", "click", "other"),
    label_at=None,
    outcome_at=None,
    metrics={},
)
VALIDATOR = Validator(SETUP, [HELD_OUT])


def look_at(learners: list[Learner]) -> Seen:
    """A look at networks of one start."""
    return VALIDATOR.validate(learners, torch.zeros(learners[0].n_networks, dtype=torch.int64))


def predicted(learners: list[Learner]) -> Tensor:
    """S, B, C, K: each network asked on its own."""
    parts = []
    for learner in learners:
        each = [learner.predict(HELD_OUT.batch, slice(s, s + 1)) for s in range(learner.n_networks)]
        parts.append(torch.cat(each))
    return torch.cat(parts, dim=-1)


def test_predictions_and_losses_are_the_networks_own():
    learners = make_learners(3)
    look = look_at(learners)
    torch.testing.assert_close(look.prediction_SBCJ, predicted(learners), rtol=1e-5, atol=1e-6)
    assert look.loss_SJ.shape == (3, 2) and look.loss_SJ.dtype == torch.float64
    y = HELD_OUT.y_BCL[..., 1].numpy()
    known = np.isfinite(y)
    for s in range(3):
        p = look.prediction_SBCJ[s, ..., 1].double().numpy()
        assert float(look.loss_SJ[s, 1]) == pytest.approx(log_loss(y[known], p[known]), rel=1e-4)


def test_metrics_are_those_of_scikit_learn():
    learners = make_learners(3)
    look = look_at(learners)
    play, click = VALIDATOR.predictions(look)
    assert (play.label, click.label) == ("play", "click")
    for s in range(3):
        y, x = HELD_OUT.y_BCL[..., 0].numpy(), look.prediction_SBCJ[s, ..., 0].double().numpy()
        on = np.isfinite(y)
        assert int(play.count("mae")[s]) == on.sum() == int(HELD_OUT.is_candidate_BC.sum())
        expected = {
            "mae": mean_absolute_error(y[on], x[on]),
            "log_mae": mean_absolute_error(np.log1p(y[on]), np.log1p(x[on].clip(0))),
            "spearman": spearmanr(y[on], x[on]).statistic,
            "loss": float(look.loss_SJ[s, 0]),
        }
        for name, value in expected.items():
            assert float(play.values[name][s]) == pytest.approx(value, rel=1e-6), name
        y, x = HELD_OUT.y_BCL[..., 1].numpy(), look.prediction_SBCJ[s, ..., 1].double().numpy()
        on = np.isfinite(y)
        assert int(click.count("auc")[s]) == on.sum() < int(HELD_OUT.is_candidate_BC.sum())
        expected = {
            "auc": roc_auc_score(y[on], x[on]),
            "accuracy": accuracy_score(y[on], x[on] >= 0.5),
            "log_loss": log_loss(y[on], x[on]),
            "loss": float(look.loss_SJ[s, 1]),
        }
        for name, value in expected.items():
            assert float(click.values[name][s]) == pytest.approx(value, rel=1e-6), name


def by_hand(score_BC: np.ndarray, y_BC: np.ndarray) -> tuple[float, float]:
    """``picked`` and ``ndcg`` of one world, visit by visit."""
    picked, ndcg = [], []
    for score, y in zip(score_BC, y_BC, strict=True):
        on = np.isfinite(y)
        if on.any():
            picked.append(y[on][score[on].argmax()])
        if on.sum() > 1 and len(set(y[on])) > 1:
            ndcg.append(ndcg_score(y[None, on], score[None, on]))
    return float(np.mean(picked)), float(np.mean(ndcg))


@pytest.mark.parametrize(
    ("blocks", "arms"),
    [
        ((POOLING, SPLITTING), {0: (0, 1), 1: (0, 1)}),
        ((SPLITTING, GLOBAL_T, SPLITTING, GLOBAL_C), {0: (0, 1), 1: (1,), 2: (0, 1), 3: (0,)}),
        ((Block("all", SPLITTING.design, 1.0), POOLING), {0: (1,), 1: (0, 1)}),
        ((Block("none", SPLITTING.design, 0.0), POOLING), {0: (0,), 1: (0, 1)}),
    ],
)
def test_an_arm_ranks_with_its_own_network_and_alphas(
    blocks: tuple[Block, ...], arms: dict[int, tuple[int, ...]]
):
    look = look_at(make_learners(n_networks(blocks, R)))
    prediction = look.prediction_SBCJ.double().numpy()
    found = list(VALIDATOR.rankings(look, blocks))
    assert [(i, arm, f.label) for i, arm, f in found] == [
        (i, arm, name) for i in arms for arm in arms[i] for name in SETUP.outcomes
    ]
    # which network each world's arm ranks with, in the order block x model x replication
    network, first = {}, 0
    for i, block in enumerate(blocks):
        for r in range(R):
            network[i, 0, r] = first + r
            network[i, 1, r] = first + r + (R if block.design.n_models == 2 else 0)
        first += R * block.design.n_models
    for i, arm, figures in found:
        y_BC = HELD_OUT.y_BCL[..., SETUP.outcomes.index(figures.label)].numpy()
        for r in range(R):
            of = prediction[network[i, arm, r]]
            score_BC = sum(
                (x.alpha_T if arm else x.alpha_C) / x.scale.unit_sd * of[..., k]
                for k, x in enumerate(SETTING.labels)
            )
            picked, ndcg = by_hand(score_BC, y_BC)
            assert float(figures.values["picked"][r]) == pytest.approx(picked, rel=1e-5)
            assert float(figures.values["ndcg"][r]) == pytest.approx(ndcg, rel=1e-5)


def test_a_network_that_predicts_no_number_is_counted_not_averaged():
    learners = make_learners(R)
    learners[1].params[next(iter(learners[1].params))][0] = torch.nan
    look = look_at(learners)
    _, click = VALIDATOR.predictions(look)
    assert click.n_nonfinite.tolist() == [int(torch.isfinite(HELD_OUT.y_BCL[..., 1]).sum()), 0]
    assert torch.isnan(click.values["auc"]).tolist() == [True, False]
    for _, _, figures in VALIDATOR.rankings(look, (POOLING,)):
        assert figures.n_nonfinite[0] > 0 and figures.n_nonfinite[1] == 0


def test_a_look_changes_nothing():
    learners = make_learners(2)
    before = [{name: t.clone() for name, t in x.state().items()} for x in learners]
    look_at(learners)
    for learner, state in zip(learners, before, strict=True):
        assert all(torch.equal(t, state[name]) for name, t in learner.state().items())


@dataclass
class _Seen:
    held_out: set[int]
    trained: set[int]
    visited: set[int]


def test_held_out_users_are_never_trained_on_nor_visit(
    small_settings: Callable[..., dict[str, Any]], tmp_path: Any, monkeypatch: pytest.MonkeyPatch
):
    seen = _Seen(set(), set(), set())
    places = {"held_out": seen.held_out, "advance": seen.trained}
    inside: list[str] = []

    def watch(owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            inside.append(name)
            try:
                return real(*args, **kwargs)
            finally:
                inside.pop()

        monkeypatch.setattr(owner, name, call)

    real_batch, real_add = replay.FeatureStore.batch, Recorder.add

    def batch(self: Any, user: Tensor, video: Tensor, history: Any = None) -> Any:
        if inside:
            places[inside[-1]].update(user.flatten().tolist())
        return real_batch(self, user, video, history)

    def add(self: Any, step: Any) -> None:
        seen.visited.update(step.visits.user_RB[step.visits.is_visit_RB].tolist())
        real_add(self, step)

    watch(replay.ReplayEnvironment, "held_out")
    watch(Pretraining, "advance")
    monkeypatch.setattr(replay.FeatureStore, "batch", batch)
    monkeypatch.setattr(Recorder, "add", add)
    result = run(small_settings(mode="pooling"), out=tmp_path / "r")
    assert len(seen.held_out) == result.summary["dataset_stats"]["n_held_out_users"] > 10
    assert len(seen.trained) > 50 and len(seen.visited) > 50
    assert not seen.held_out & (seen.trained | seen.visited)
