"""The design sharing: a dial from splitting to two models that learn from everything."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from support import POOLING, SPLITTING, Setting, label, make_outcome, run, same, same_network
from torch import Tensor

from realdataexp.designs.base import Design, Outcome, ones
from realdataexp.designs.sharing import Sharing
from realdataexp.designs.splitting import Splitting
from realdataexp.loop import Block

ARMS = [[True, False, False], [True, True, False]]
LABELS = (
    label("play", "logMAE", 0.2, 1.0, dropout=0.2),
    label("click", "BCE", 1.0, 0.1, gradient_clip=0.1, weight_decay=0.01),
)
P = 0.4


class Everything(Design):
    """Two models that learn fully from everything."""

    n_models: ClassVar[int] = 2

    def weights(self, outcome: Outcome) -> Tensor:
        return ones(outcome, self.n_models)


def sharing(s: float) -> Block:
    return Block(f"sharing {s}", Sharing(s=s), P)


def test_weights_are_s_of_everything_and_the_rest_of_the_own_arm():
    got = Sharing(s=0.25).weights(make_outcome(ARMS, 0.2))
    own_T, own_C, other = 0.25 + 0.75 / 0.2, 0.25 + 0.75 / 0.8, 0.25
    expected = [
        [[other, own_C, own_C], [own_T, other, other]],
        [[other, other, own_C], [own_T, own_T, other]],
    ]
    torch.testing.assert_close(got, torch.tensor(expected))


@pytest.mark.parametrize("s", [0.0, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("p", [0.1, 0.3, 0.8])
def test_weights_average_to_one_over_arms_and_are_exact_at_the_ends(s: float, p: float):
    both = Sharing(s=s).weights(make_outcome([[True, False]], p))
    mean_M = both[0] @ torch.tensor([p, 1 - p])
    torch.testing.assert_close(mean_M, torch.ones(2))
    if s == 0.0:
        assert torch.equal(both, Splitting().weights(make_outcome([[True, False]], p)))
    if s == 1.0:
        assert torch.equal(both, torch.ones_like(both))


def test_the_dial_at_0_is_splitting_to_the_bit_and_at_1_two_models_that_learn_everything():
    """And these are the one model of pooling, twice; in between it is neither."""
    blocks = (SPLITTING, Block("everything", Everything(), P), POOLING)
    blocks += (sharing(0.0), sharing(1.0), sharing(0.5))
    h = run(Setting(labels=LABELS), blocks, (0, 1))
    for r in h.replications:
        for a, b in ((3, 0), (4, 1), (4, 2)):
            assert same(h.item_TB(h.world(a, r)), h.item_TB(h.world(b, r)))
            assert same(h.y_TBL(h.world(a, r)), h.y_TBL(h.world(b, r)))
        for learner in h.learners:
            for m in (0, 1):
                for a, b, n in ((3, 0, m), (4, 1, m), (4, 2, 0)):
                    at, of = h.network(a, r, m), h.network(b, r, n)
                    assert same_network(learner, at, learner, of)
                for other in (0, 1):
                    at, of = h.network(5, r, m), h.network(other, r, m)
                    assert not same_network(learner, at, learner, of)


@pytest.mark.parametrize("s", [-0.1, 1.5])
def test_a_share_beyond_0_and_1_is_refused(s: float):
    with pytest.raises(ValueError, match="s"):
        Sharing(s=s)
