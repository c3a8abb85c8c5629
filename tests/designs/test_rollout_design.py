"""The design rollout: the treatment's share rises in stages, and nobody loses the treatment."""

from __future__ import annotations

import pytest
import torch
from frequency import assert_share
from support import POOLING, Setting, make_visits, run, same, same_network, started

from realdataexp.designs.rollout import Rollout
from realdataexp.errors import InputError
from realdataexp.loop import Block

USERS = torch.arange(500)


def arms(design: Rollout, p: float = 0.5, n_steps: int = 12) -> torch.Tensor:
    """Who of many users is treated in each step: T, R, B."""
    running = started(design, n_steps=n_steps, p=p)
    user_RB = USERS.expand(40, -1)
    draw_RB = torch.rand(40, 500, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    steps = []
    for t in range(n_steps):
        visits = make_visits(t, range(40), user_RB)
        visits.arm_draw_RB.copy_(draw_RB)  # users keep theirs
        steps.append(running.assign(visits, p))
    return torch.stack(steps)


def test_each_stage_treats_its_share_and_who_was_treated_stays_treated():
    is_treated_TRB = arms(Rollout(shares=[0.05, 0.2, 0.5]))
    for t in range(12):
        assert_share(is_treated_TRB[t], (0.05, 0.2, 0.5)[t // 4], 0.04)
    assert bool((is_treated_TRB[1:] | ~is_treated_TRB[:-1]).all())


def test_stages_are_as_long_as_whole_steps_allow_or_begin_where_they_are_told():
    def stages(design: Rollout, n_steps: int) -> list[float]:
        return [design.treated_share(t, n_steps, 0.5) for t in range(n_steps)]

    assert stages(Rollout(), 7) == [0.05] * 2 + [0.2] * 2 + [0.5] * 3
    assert stages(Rollout(shares=[0.1, 0.3]), 4) == [0.1, 0.1, 0.3, 0.3]
    told = Rollout(shares=[0.1, 0.3, 0.3], first_steps=[0, 1, 5])
    assert stages(told, 6) == [0.1] + [0.3] * 5
    assert bool((arms(told, n_steps=6)[1] == arms(told, n_steps=6)[5]).all())


def test_a_rollout_whose_share_stays_is_pooling_to_the_bit():
    blocks = (POOLING, Block("it", Rollout(shares=[0.4, 0.4]), 0.7), Block("up", Rollout(), 0.4))
    h = run(Setting(), blocks, (0, 1))
    for r in h.replications:
        assert same(h.item_TB(h.world(1, r)), h.item_TB(h.world(0, r)))
        assert same(h.y_TBL(h.world(1, r)), h.y_TBL(h.world(0, r)))
        assert not same(h.item_TB(h.world(2, r)), h.item_TB(h.world(0, r)))
        for learner in h.learners:
            assert same_network(learner, h.network(1, r), learner, h.network(0, r))


@pytest.mark.parametrize(
    ("options", "p", "what"),
    [
        ({"first_steps": [0, 5]}, 0.5, r"first_steps = \[0, 5\]: begins 2 stages, .* 3 shares"),
        ({"first_steps": [0, 5, 12]}, 0.5, r"last stage would begin with step 12 of 12, "),
        ({"shares": [0.1] * 13}, 0.5, r"not each of its 13 stages has a step"),
        ({}, 1.0, r"experiment\.p_treatment = 1\.0: its last stage would have one arm only"),
        ({}, 0.0, r"experiment\.p_treatment = 0\.0: "),
    ],
)
def test_a_stage_without_steps_or_with_one_arm_is_refused_in_one_line(options, p, what):
    with pytest.raises(InputError, match=rf"^design a design: .*{what}") as error:
        started(Rollout(**options), n_steps=12, p=p)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"shares": [0.2, 0.1]}, "falls from 0.2 to 0.1"),
        ({"shares": [0.2]}, "shares"),
        ({"shares": [0.2, 1.0]}, "shares"),
        ({"first_steps": [1, 2, 3]}, "must rise from 0"),
        ({"first_steps": [0, 3, 3]}, "must rise from 0"),
    ],
)
def test_options_that_make_no_rollout_are_refused(options, what):
    with pytest.raises(ValueError, match=what):
        Rollout(**options)
