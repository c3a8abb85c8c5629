"""The law of weights where users come back: what an arm's user was shown before shapes the slate.

Frozen rankings: the control ranks a user's rows by x1, the treatment by x2 (correlated, so that
the arms often agree). Each user keeps one arm and comes 15 times on average, with 20 rows and
slates of 10; a row that was recommended is gone. Then E[W_m f(item)] over the test must be the mean
of f over the world where everybody has arm m, whether the arms pick the best or explore.
Replications are the units; a comparison falsely fails once in a million, and misses a difference of
DETECTABLE as seldom.
"""

from __future__ import annotations

from functools import cache

import pytest
import torch
from scipy.stats import t as student
from support import CPU, FALSE_FAIL_RATE, Setting, make_context, make_world, same
from torch import Tensor

from realdataexp import draws
from realdataexp.arms import Arms, Explore
from realdataexp.designs import Design
from realdataexp.designs.base import Outcome, own_arm
from realdataexp.designs.shadow import Shadow
from realdataexp.designs.splitting import Splitting

R, P, DETECTABLE = 200, 0.4, 0.02
MIX, CENTRE = 0.4, 0.65
BEST = (Explore(), Explore())
EXPLORING = (Explore("epsilon_greedy", epsilon=0.4), Explore("softmax", temperature=0.15))
SETTING = Setting(n_rows_U=(20,) * 40, batch_size=20, n_candidates=10, n_steps=30)


class ThisVisitOnly(Design):
    """The rule for users who come once: the arms agree on this visit's item, or not."""

    n_models = 2

    def weights(self, outcome: Outcome) -> Tensor:
        agree_RB = outcome.pick_RAB[:, 0] == outcome.pick_RAB[:, 1]
        return torch.where(agree_RB.unsqueeze(1), 1.0, own_arm(outcome))


@cache
def rankings() -> Tensor:
    """x1 and x2 of every row, about what an arm recommends on average: 2, N.

    Weights that scatter then hardly move the means; that they average to 1 is a law of its own.
    """
    u_2N = draws.uniform(draws.key(1, "x", torch.arange(2)), sum(SETTING.n_rows_U))
    return torch.stack([u_2N[0], MIX * u_2N[0] + (1 - MIX) * u_2N[1]]) - CENTRE


class ThisVisitsPropensities(Design):
    """The balance heuristic of this visit alone."""

    n_models = 2

    def weights(self, outcome: Outcome) -> Tensor:
        assert outcome.log_propensity_RAB is not None
        pi_RAB = outcome.log_propensity_RAB.exp()
        shares_A1 = torch.tensor([[1 - P], [P]])
        return pi_RAB / (shares_A1 * pi_RAB).sum(1, keepdim=True)


@cache
def means(design: Design, explores: tuple[Explore, ...]) -> Tensor:
    """What each model learns of x1 and x2, and what it should: 2 (got, wanted), M, 2, R."""
    world = make_world(SETTING, range(R), 3)
    kind = "pick the best" if explores == BEST else "explore"
    running = design.start(make_context(SETTING, range(R), p=P, device=CPU, arms=kind))
    arms = Arms([[1.0, 0.0], [0.0, 1.0]], explores=explores, seed=SETTING.seed)
    got, wanted = torch.zeros(2, 2, 2, R, dtype=torch.float64)
    for step in range(SETTING.n_steps):
        visits = world.draw(step)
        z_RB = visits.arm_draw_RB < P
        z_WB = torch.cat([z_RB, torch.zeros_like(z_RB), torch.ones_like(z_RB)])
        slate = world.slate(visits)
        x_2WBC = rankings()[:, slate.item_WBC]
        on_WBC, x_W1BC2 = slate.is_candidate_WBC, x_2WBC.movedim(0, -1).unsqueeze(1)
        scene = arms.scene("pick", visits.replication_R, step, slate.video_WBC, on_WBC)
        score_WABC = arms.score(x_W1BC2.expand(-1, 2, -1, -1, -1), on_WBC, scene)
        pick_WAB, log_WABC = arms.pick(score_WABC, scene)
        choice_WB = torch.where(z_WB, pick_WAB[:, 1], pick_WAB[:, 0])
        y_WBL = world.feedback(visits, slate, choice_WB)
        test, log_RAB = slice(0, R), None
        if log_WABC is not None:
            at_RAB1 = choice_WB[test, None, :, None].expand(-1, 2, -1, -1)
            log_RAB = log_WABC[test].gather(3, at_RAB1).squeeze(3)
        outcome = Outcome(
            visits, slate.part(test), z_RB, P, score_WABC[test], pick_WAB[test], y_WBL[test],
            log_RAB,
        )  # fmt: skip
        weight_RMB = running.weights(outcome).double()
        item_WB = slate.item_WBC.gather(2, choice_WB.unsqueeze(-1)).squeeze(-1)
        f_2MRB = rankings()[:, item_WB].view(2, 3, R, -1)
        got += torch.einsum("rmb,frb->mfr", weight_RMB, f_2MRB[:, 0]) / z_RB.shape[1]
        wanted += f_2MRB[:, 1:].mean(-1).transpose(0, 1)
    return torch.stack([got, wanted]) / SETTING.n_steps


def differences(design: Design, explores: tuple[Explore, ...] = BEST) -> list[tuple[float, float]]:
    """For each model and function: the mean difference, and the largest that chance allows."""
    quantile = float(student.isf(FALSE_FAIL_RATE / 2, R - 1))
    got, wanted = means(design, explores)
    d_XR = (got - wanted).flatten(0, 1)
    return [(float(d.mean()), quantile * float(d.std()) / R**0.5) for d in d_XR]


@pytest.mark.parametrize("explores", [BEST, EXPLORING], ids=["best", "exploring"])
@pytest.mark.parametrize("design", [Shadow(), Splitting()], ids=["shadow", "splitting"])
def test_weighted_items_have_the_distribution_of_the_arm_alone(
    design: Design, explores: tuple[Explore, ...]
):
    for difference, allowed in differences(design, explores):
        assert 2 * allowed < DETECTABLE, "the test has no power"
        assert abs(difference) < allowed


def test_agreement_in_this_visit_alone_is_not_enough():
    """Both functions come out wrong for both models, one by more than DETECTABLE."""
    found = differences(ThisVisitOnly())
    assert all(abs(difference) > 2 * allowed for difference, allowed in found)
    assert max(abs(difference) for difference, _ in found) > DETECTABLE


def test_the_propensities_of_this_visit_alone_are_not_enough():
    found = differences(ThisVisitsPropensities(), EXPLORING)
    assert max(abs(difference) - 2 * allowed for difference, allowed in found) > 0
    assert max(abs(difference) for difference, _ in found) > DETECTABLE / 2


def test_arms_that_pick_the_best_weigh_the_same_by_their_propensities():
    """Lambda is 0 until a user's first disagreement, then infinite: 1, then 1[own] / P(own)."""
    explores = (Explore("epsilon_greedy", epsilon=1e-30), Explore())
    by_agreement, by_propensity = (means(Shadow(), x)[0] for x in (BEST, explores))
    torch.testing.assert_close(by_propensity, by_agreement, rtol=1e-6, atol=1e-6)


def test_a_disagreement_is_remembered_of_its_own_user_and_replication():
    """By hand: the arms disagree on one visit of the first step, in one replication."""
    context = make_context(SETTING, range(2), p=0.25)
    design = Shadow().start(context)
    world = make_world(SETTING, range(2), 1)
    visits = world.draw(0)
    B = visits.user_RB.shape[1]
    slate, z_RB = world.slate(visits), torch.zeros(2, B, dtype=torch.bool)
    pick_RAB = torch.zeros(2, 2, B, dtype=torch.int64)
    first = pick_RAB.clone()
    first[1, 1, 3] = 2  # replication 1, the visit at place 3
    score, y = torch.zeros(2, 2, B, 1), torch.zeros(2, B, 2)
    at_first = design.weights(Outcome(visits, slate, z_RB, 0.25, score, first, y))
    again = design.weights(Outcome(visits, slate, z_RB, 0.25, score, pick_RAB, y))
    wanted = torch.ones(2, 2, B)
    wanted[1, :, 3] = torch.tensor([1 / 0.75, 0.0])
    torch.testing.assert_close(at_first, wanted)
    torch.testing.assert_close(again, wanted)
    state = {name: x.clone() for name, x in design.state().items()}
    other = Shadow().start(context)
    other.load_state(state)
    after = other.weights(Outcome(visits, slate, z_RB, 0.25, score, pick_RAB, y))
    assert same(after, again)


def test_where_every_visit_is_a_new_user_nothing_is_remembered():
    assert Shadow().start(make_context(SETTING, range(2), n_users=None)).state() == {}
