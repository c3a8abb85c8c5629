"""The design codiverted: an arm's users meet their arm's videos alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from frequency import assert_share
from support import POOLING, Setting, make_outcome, make_visits, make_world, run, same, started

from realdataexp.designs.codiverted import Codiverted
from realdataexp.loop import Block

SETTING = Setting(n_steps=30)


def halves(p: float, replications, n_videos: int = 3000, **changes):
    """What a treated and a control visit may be shown of one slate of all videos: R, 2, V."""
    running = started(Codiverted(), p=p, **changes)
    world = make_world(Setting(batch_size=2), replications, 1)
    slate = world.slate(world.draw(0))
    video = torch.arange(n_videos).expand(len(replications), 2, -1)
    slate = replace(slate, video_WBC=video, is_candidate_WBC=torch.ones_like(video).bool())
    visits = make_visits(0, replications, torch.zeros(len(replications), 2, dtype=torch.int64))
    is_treated_RB = torch.tensor([[True, False]]).expand(len(replications), -1)
    return running.candidates(visits, slate, is_treated_RB)


def test_the_arms_share_out_the_corpus_and_each_video_belongs_to_one():
    may_R2V = halves(0.3, range(4))
    assert bool((may_R2V[:, 0] ^ may_R2V[:, 1]).all())


@pytest.mark.parametrize("p", [0.5, 0.2])
def test_a_video_belongs_to_the_treatment_with_probability_p(p: float):
    """Over videos, and over replications, which are shared out apart."""
    may_RV = halves(p, range(4))[:, 0]
    for r in range(4):
        assert_share(may_RV[r], p, 0.1)
    for r in range(3):
        assert_share(may_RV[r] == may_RV[r + 1], p * p + (1 - p) ** 2, 0.1)


def test_the_halves_depend_on_seed_and_replication_and_are_nested_in_p():
    assert torch.equal(halves(0.3, (5,))[0], halves(0.3, (2, 5))[1])
    assert not torch.equal(halves(0.3, (0,)), halves(0.3, (0,), seed=4))
    few, many = halves(0.3, (0,))[0, 0], halves(0.6, (0,))[0, 0]
    assert bool((many | ~few).all())
    assert bool(halves(1.0, (0,))[0, 0].all()) and bool(halves(0.0, (0,))[0, 1].all())


def test_whose_arm_a_video_has_does_not_change_while_the_test_runs():
    """In the loop a video is never recommended by both arms of a world, though users share it."""
    h = run(SETTING, (Block("it", Codiverted(), 0.5), POOLING), (0, 1, 2))
    n_both = {0: 0, 1: 0}
    for block in (0, 1):
        for r in h.replications:
            w, shown = h.world(block, r), {}
            for slate, choice, step in zip(h.slates, h.choices, h.steps, strict=True):
                video_B = slate.video_WBC[w].gather(1, choice[w].unsqueeze(-1)).squeeze(-1)
                for b in step.is_visit_WB[w].nonzero().flatten().tolist():
                    arm = bool(step.is_treated_WB[w, b])
                    n_both[block] += shown.setdefault(int(video_B[b]), arm) != arm
    assert n_both[0] == 0
    assert n_both[1] > 20, "the users' videos must overlap for this to mean something"


def test_users_keep_the_default_arm():
    h = run(SETTING, (Block("it", Codiverted(), 0.4), POOLING), (0, 1))
    for r in h.replications:
        assert same(h.is_treated_TB(h.world(0, r)), h.is_treated_TB(h.world(1, r)))


def test_a_visit_without_a_video_of_its_arm_does_not_take_place():
    h = run(SETTING, (Block("it", Codiverted(), 0.4),), (0, 1, 2), n_candidates=2)
    n_lost = 0
    for slate, step in zip(h.slates, h.steps, strict=True):
        is_lost_WB = slate.is_candidate_WBC.any(-1) & ~step.is_visit_WB
        assert bool(step.y_WBL[is_lost_WB].isnan().all())
        n_lost += int(is_lost_WB.sum())
    assert n_lost > 10


def test_padding_is_no_candidate():
    outcome = make_outcome([[True, False, True]], 0.4)
    slate = replace(
        outcome.slate, is_candidate_WBC=torch.zeros_like(outcome.slate.is_candidate_WBC)
    )
    got = started(Codiverted()).candidates(outcome.visits, slate, outcome.is_treated_RB)
    assert not bool(got.any())


def test_each_model_learns_from_its_own_arm_normalised():
    got = started(Codiverted()).weights(make_outcome([[True, False, False]], 0.25))
    torch.testing.assert_close(got, torch.tensor([[[0, 4 / 3, 4 / 3], [4, 0, 0]]]))
