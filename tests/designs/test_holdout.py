"""The design holdout: the model learns from users who are not in the test, and from no other."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from frequency import assert_share
from support import (
    GLOBAL_C,
    Setting,
    label,
    make_outcome,
    make_visits,
    run,
    same,
    same_network,
    started,
)

from realdataexp.designs.base import Design, ones
from realdataexp.designs.holdout import Holdout
from realdataexp.designs.pooling import Pooling
from realdataexp.designs.snapshot import Snapshot
from realdataexp.loop import Block

# every outcome is known: the loss is a mean over those that are, whatever their weights
LABELS = (label("play", "logMAE", -1.0, 1.0, dropout=0.2, gradient_clip=0.1, weight_decay=0.01),)
SETTING = Setting(labels=LABELS, n_steps=15)
USERS = torch.arange(200)


def is_tested(share: float = 0.3, seed: int = 3, step: int = 0, replications=range(300)):
    """Who is in the test, of each replication's first users."""
    running = started(Holdout(share=share), seed=seed)
    return running.counts(make_visits(step, replications, USERS.expand(len(replications), -1)))


def test_a_share_of_the_users_is_in_the_test_and_stays_there():
    assert_share(is_tested(), 0.3, 0.05)
    assert torch.equal(is_tested(), is_tested(step=7))
    assert torch.equal(is_tested(replications=(7,))[0], is_tested(replications=(3, 7))[1])
    assert not torch.equal(is_tested(), is_tested(seed=4))
    assert bool((is_tested(0.6) | ~is_tested(0.2)).all())


def test_arms_are_drawn_in_the_test_and_all_others_are_control_and_teach():
    running = started(Holdout(share=0.25))
    outcome = make_outcome([[True, False, True, False]] * 50, 0.4)
    visits = outcome.visits
    is_tested_RB = running.counts(visits)
    assert 0 < int(is_tested_RB.sum()) < is_tested_RB.numel()
    assert torch.equal(running.assign(visits, 0.4), (visits.arm_draw_RB < 0.4) & is_tested_RB)
    expected = torch.where(is_tested_RB, 0.0, 4 / 3).unsqueeze(1)
    torch.testing.assert_close(running.weights(outcome), expected)


def test_padding_does_not_count():
    visits = make_visits(0, (0,), USERS.unsqueeze(0))
    is_tested_RB = started(Holdout()).counts(visits)
    visits.is_visit_RB[:] = False
    assert is_tested_RB.any() and not started(Holdout()).counts(visits).any()


def test_the_model_is_the_same_to_the_bit_whoever_is_treated():
    """Users keep an arm, so the untested users' slates, too, are those of a world of control."""
    blocks = [Block(f"{p}", Holdout(share=0.5), p) for p in (0.0, 0.6, 1.0)]
    h = run(SETTING, (*blocks, GLOBAL_C), (0, 1, 2))
    for r in h.replications:
        control, truth = h.world(0, r), h.world(3, r)
        for block in (1, 2):
            other = h.world(block, r)
            is_treated_TB = h.is_treated_TB(other)
            assert is_treated_TB.any() and not h.is_treated_TB(control).any()
            for learner in h.learners:
                own, none = h.network(block, r), h.network(0, r)
                assert int(learner.n_updates_S[own]) > 0
                assert same_network(learner, own, learner, none)
            # who is not treated is shown what they would be shown if nobody were
            users, user_TB = h.user_TB(other)[is_treated_TB].unique(), h.user_TB(other)
            is_apart_TB = ~torch.isin(user_TB, users)
            assert same(h.item_TB(other)[is_apart_TB], h.item_TB(control)[is_apart_TB])
            assert not same(h.item_TB(other), h.item_TB(control))
        for learner in h.learners:
            assert not same_network(learner, h.network(0, r), learner, h.network(3, r))
        assert same(h.slate_TBC(control)[0], h.slate_TBC(truth)[0])


class Nothing(Design):
    """Nothing is learned."""

    n_models: ClassVar[int] = 1

    def weights(self, outcome):
        return ones(outcome, 1).zero_()


class FrozenHoldout(Nothing, Holdout):
    pass


def test_where_nothing_is_learned_its_users_see_what_those_of_a_launch_see():
    """So all it misses is what is learned: it has no other error."""
    blocks = [Block("T", Snapshot(), 1.0), Block("C", Snapshot(), 0.0)]
    blocks.append(Block("it", FrozenHoldout(share=0.5), 0.4))
    h = run(SETTING, blocks, (0, 1, 2))
    for r in h.replications:
        it = h.world(2, r)
        y_TBL, is_treated_TB = h.y_TBL(it), h.is_treated_TB(it)
        is_counted_TB = torch.stack([step.is_counted_WB[it] for step in h.steps])
        assert 0 < int(is_counted_TB.sum()) < is_counted_TB.numel()
        for world, is_arm_TB in ((0, is_treated_TB), (1, ~is_treated_TB)):
            own_TB = is_arm_TB & is_counted_TB
            assert own_TB.any()
            assert same(y_TBL[own_TB], h.y_TBL(h.world(world, r))[own_TB])
        assert y_TBL[~is_counted_TB].isnan().all()


def test_the_untested_users_teach_what_they_would_alone():
    """Its model is pooling's in the control world, of which only their visits are learned from."""

    class Untested(Holdout):
        """The same lessons, in a world of control where everybody counts."""

        def assign(self, visits, p):
            return visits.arm_draw_RB < 0.0

        counts = Pooling.counts

    h = run(SETTING, (Block("it", Holdout(), 0.4), Block("alone", Untested(), 0.4)), (0, 1))
    for learner in h.learners:
        for r in h.replications:
            assert same_network(learner, h.network(0, r), learner, h.network(1, r))


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_test_of_nobody_or_of_everybody_is_refused(share: float):
    with pytest.raises(ValueError, match="share"):
        Holdout(share=share)
