"""The design switchback: an arm for a block of steps."""

from __future__ import annotations

import pytest
import torch
from frequency import assert_share
from support import Setting, make_outcome, make_visits, run, same, started
from torch import Tensor

from realdataexp.designs.switchback import Switchback
from realdataexp.errors import InputError
from realdataexp.loop import Block


def arms(p: float = 0.4, replications=range(2000), n_steps: int = 12, seed: int = 3) -> Tensor:
    """The arm of each of three visits, for blocks of four steps: R, T, B."""
    running = started(Switchback(block_steps=4), n_steps=n_steps, seed=seed, p=p)
    user_RB = torch.arange(3).expand(len(replications), -1)
    return torch.stack(
        [running.assign(make_visits(t, replications, user_RB), p) for t in range(n_steps)], dim=1
    )


def test_everybody_has_one_arm_for_a_block_and_blocks_have_their_own():
    is_treated_RTB = arms()
    assert bool((is_treated_RTB == is_treated_RTB[..., :1]).all())
    is_treated_RKX = is_treated_RTB[..., 0].view(-1, 3, 4)
    assert bool((is_treated_RKX == is_treated_RKX[..., :1]).all())
    for a, b in ((0, 1), (1, 2), (0, 2)):
        agree_R = is_treated_RKX[:, a, 0] == is_treated_RKX[:, b, 0]
        assert_share(agree_R, 0.4**2 + 0.6**2, 0.15)


@pytest.mark.parametrize("p", [0.4, 0.2])
def test_a_block_is_treated_with_probability_p(p: float):
    for first in (0, 4, 8):
        assert_share(arms(p)[:, first, 0], p, 0.15)


def test_arms_depend_on_seed_and_replication_alone():
    assert torch.equal(arms(replications=(7,))[0], arms(replications=(3, 7))[1])
    assert not torch.equal(arms(), arms(seed=4))


def test_what_a_smaller_p_treats_a_larger_one_treats_too():
    few, many = arms(0.3), arms(0.6)
    assert bool((many | ~few).all()) and int(many.sum()) > int(few.sum())
    assert not bool(arms(0.0).any()) and bool(arms(1.0).all())


def test_the_first_steps_of_a_block_do_not_count_but_teach():
    design = Switchback(block_steps=4, washout_steps=3)
    h = run(Setting(), (Block("it", design, 0.4), Block("all", Switchback(block_steps=4), 0.4)))
    assert len(h.steps) == 12
    for t, step in enumerate(h.steps):
        y_BL, all_BL = step.y_WBL[0], step.y_WBL[1]
        if t % 4 == 3:
            assert same(y_BL, all_BL)
        else:
            assert bool(y_BL.isnan().all())
            assert bool(all_BL.isfinite().any())
        assert same(step.loss_SL[0], step.loss_SL[1])
    assert all(int(x.n_updates_S[0]) == 12 for x in h.learners)


def test_padding_does_not_count():
    running = started(Switchback(block_steps=4, washout_steps=1))
    visits = make_visits(1, (0,), torch.arange(3).unsqueeze(0))
    visits.is_visit_RB[0, 1] = False
    assert running.counts(visits).tolist() == [[True, False, True]]


def test_its_one_model_learns_from_all():
    running = started(Switchback(block_steps=4))
    assert running.weights(make_outcome([[True, True]], 0.4)).tolist() == [[[1, 1]]]


@pytest.mark.parametrize(
    ("block", "washout", "what"),
    [
        (13, 0, r"block_steps = 13, .* run of 12 steps"),
        (12, 0, r"block_steps = 12, .* or more than 12 steps"),
        (8, 4, r"block_steps = 8, washout_steps = 4: no second block counts"),
        (4, 4, r"washout_steps = 4: .* less than block_steps, which is 4"),
        (4, 9, r"washout_steps = 9: "),
    ],
)
def test_a_run_without_two_blocks_that_count_is_refused_in_one_line(block, washout, what):
    with pytest.raises(InputError, match=rf"^design a design: {what}") as error:
        started(Switchback(block_steps=block, washout_steps=washout), n_steps=12)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("block", "washout"), [(11, 0), (8, 3), (1, 0)])
def test_a_second_block_of_one_step_is_enough(block: int, washout: int):
    running = started(Switchback(block_steps=block, washout_steps=washout), n_steps=12)
    user_RB = torch.zeros(1, 1, dtype=torch.int64)
    counts = [bool(running.counts(make_visits(t, (0,), user_RB))) for t in range(12)]
    assert any(counts[block:])
