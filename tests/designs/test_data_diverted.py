"""The design data_diverted: each model's loss is the mean over its own arm's visits."""

from __future__ import annotations

from dataclasses import replace

import torch
from support import Setting, make_outcome, run, same_network, started

from realdataexp.designs.data_diverted import DataDiverted
from realdataexp.designs.splitting import Splitting
from realdataexp.loop import Block

ARMS = [[True, False, False, False], [True, True, True, True]]


def test_weights_are_visits_over_own_visits_and_zero_for_others():
    got = started(DataDiverted()).weights(make_outcome(ARMS, 0.4))
    expected = [[[0, 4 / 3, 4 / 3, 4 / 3], [4, 0, 0, 0]], [[0, 0, 0, 0], [1, 1, 1, 1]]]
    torch.testing.assert_close(got, torch.tensor(expected))


def test_they_make_the_mean_over_all_visits_the_mean_over_own_visits():
    """For any loss, and whatever p, unlike those of splitting."""
    loss_RB = torch.tensor([[3.0, 1.0, 4.0, 2.0], [5.0, 9.0, 2.0, 8.0]])
    for p in (0.1, 0.5):
        outcome = make_outcome(ARMS, p)
        mean_RM = (DataDiverted().weights(outcome) * loss_RB.unsqueeze(1)).mean(2)
        torch.testing.assert_close(mean_RM, torch.tensor([[7 / 3, 3.0], [0.0, 6.0]]))
        other_RM = (Splitting().weights(outcome) * loss_RB.unsqueeze(1)).mean(2)
        assert not torch.allclose(other_RM, mean_RM)


def test_a_visit_that_does_not_take_place_is_nobodys():
    outcome = make_outcome(ARMS, 0.4)
    is_candidate_WBC = outcome.slate.is_candidate_WBC.clone()
    is_candidate_WBC[:, 2] = False
    outcome = replace(outcome, slate=replace(outcome.slate, is_candidate_WBC=is_candidate_WBC))
    got = DataDiverted().weights(outcome)[:, :, [0, 1, 3]]
    expected = [[[0, 1.5, 1.5], [3, 0, 0]], [[0, 0, 0], [1, 1, 1]]]
    torch.testing.assert_close(got, torch.tensor(expected))


def test_a_model_without_own_visits_stays_to_the_bit_and_others_learn():
    """Law 3: everybody's arm is that of p = 1; the control's model never moves."""
    blocks = (Block("it", DataDiverted(), 1.0), Block("later", DataDiverted(), 0.4))
    short, long = run(Setting(), blocks, n_steps=3), run(Setting(), blocks, n_steps=6)
    for a, b in zip(short.learners, long.learners, strict=True):
        control, treatment = short.network(0, 0, 0), short.network(0, 0, 1)
        assert same_network(a, control, b, control)
        assert not same_network(a, treatment, b, treatment)
