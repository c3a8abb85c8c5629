"""At a launched system's pace: Adam's steps are not shortened by the weights of a test.

Axes: S networks, P parameters, B visits.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from support import GLOBAL_T, Setting, label, make_outcome, run, same_network, start_loop, started

from realdataexp.designs.pooling import Pooling
from realdataexp.designs.shadow import Shadow
from realdataexp.designs.splitting import Splitting
from realdataexp.errors import InputError
from realdataexp.loop import Block, Lesson
from realdataexp.optimizers import OptimizerSettings, descend

B, SIGNAL, N_STEPS, LATE = 64, 0.05, 240, 120


def drift(kappa: int, kind: str, *, is_divided: bool) -> float:
    """How far a slope takes parameters, in steps of the learning rate, after a first part.

    A visit's gradient is SIGNAL plus standard normal noise, its weight kappa with probability
    1 / kappa, else 0. Of a sum of so many normal numbers only the mean and variance matter.
    """
    g = torch.Generator().manual_seed(1)
    S, P = 500, 40
    p = {"p": torch.zeros(S, P)}
    moments = torch.zeros(S, P), torch.zeros(S, P)
    on_S, ones_S = torch.ones(S, dtype=torch.bool), torch.ones(S)
    settings = OptimizerSettings(1.0, kind=kind)
    for step in range(N_STEPS):
        if step == LATE:
            p["p"].zero_()
        n_S = (torch.rand(S, B, generator=g) < 1 / kappa).sum(1).clamp_min(1)
        noise_SP = torch.randn(S, P, generator=g) * n_S.sqrt().unsqueeze(1)
        grad_SP = kappa * (n_S.unsqueeze(1) * SIGNAL + noise_SP) / B
        inflation_S = kappa**2 * n_S / B if is_divided else None
        count_S = torch.full((S,), step + 1)
        descend(p, moments, grad_SP, ones_S, on_S, count_S, ones_S, settings, inflation_S)
    return -float(p["p"].mean()) / (N_STEPS - LATE)


@pytest.mark.parametrize("kappa", [2, 4])
def test_adams_drift_falls_by_the_root_of_the_mean_squared_weight_unless_divided_by_it(kappa: int):
    """The theory: SIGNAL / sqrt(E[g^2]), with E[g^2] = SIGNAL^2 + kappa / B, or that over kappa.

    20,000 parameters: drifts of about 0.4 have a standard error of 0.001, and the seed is fixed.
    What the theory leaves out, that E[1 / sqrt(v)] is not 1 / sqrt(E[v]), is within 6 %.
    """
    launched = drift(1, "adam", is_divided=False)
    square = SIGNAL**2 + kappa / B
    slow = math.sqrt((SIGNAL**2 + 1 / B) / square)
    assert drift(kappa, "adam", is_divided=False) / launched == pytest.approx(slow, abs=0.06)
    pace = slow * math.sqrt(kappa)
    assert drift(kappa, "adam", is_divided=True) / launched == pytest.approx(pace, abs=0.06)
    assert slow < 0.8 and abs(pace - 1) < 0.1


def test_sgd_has_the_pace_anyway():
    ratio = drift(2, "sgd", is_divided=False) / drift(1, "sgd", is_divided=False)
    assert ratio == pytest.approx(1, abs=0.06)
    assert drift(2, "sgd", is_divided=True) == drift(2, "sgd", is_divided=False)


# --- what designs say ----------------------------------------------------------------------------

LAUNCHED = Shadow(steps="launched"), Splitting(steps="launched")


def test_the_inflation_is_the_mean_squared_weight_of_the_visits_that_take_place():
    outcome = make_outcome([[True, False, False, True], [True, True, True, True]], 0.5)
    is_visit_RB = outcome.visits.is_visit_RB.clone()
    is_visit_RB[0, 3] = False
    outcome = replace(outcome, visits=replace(outcome.visits, is_visit_RB=is_visit_RB))
    design = Splitting(steps="launched")
    got_RM = design.inflation(outcome, design.weights(outcome))
    # 2 x 2^2 of three visits, and 2^2; then none of four, and all
    assert got_RM.tolist() == [[pytest.approx(8 / 3), pytest.approx(4 / 3)], [1.0, 4.0]]


@pytest.mark.parametrize("kind", [Shadow, Splitting])
def test_the_share_that_models_learn_from_in_effect_is_reported_and_part_of_the_state(kind: Any):
    arms = [[True, False, False, True], [True, True, True, True]]
    design = started(kind(steps="launched"), replications=(0, 1))
    assert design.diagnostics(design.evidence(), 0.5) == {}
    outcome, squares = make_outcome(arms, 0.5), []
    for weight in (1.0, 2.0, 3.0):
        design.inflation(outcome, torch.full((2, 2, 4), weight))
        squares.append(weight**2)
    again = started(kind(steps="launched"), replications=(0, 1))
    again.load_state({name: x.clone() for name, x in design.state().items()})
    share = pytest.approx(3 / sum(squares))
    expected = {"effective_share_C": share, "effective_share_T": share}
    assert again.diagnostics(again.evidence(), 0.5) == expected
    assert started(kind(), replications=(0, 1)).evidence() == {}


@pytest.mark.parametrize("design", [Shadow(), Splitting(), Pooling()])
def test_by_default_there_is_none(design: Any):
    outcome = make_outcome([[True, False]], 0.5)
    assert design.inflation(outcome, torch.ones(1, design.n_models, 2)) is None


@pytest.mark.parametrize("design", LAUNCHED)
@pytest.mark.parametrize("p", [0.0, 1.0])
def test_weights_of_one_have_the_inflation_one_to_the_bit(design: Any, p: float):
    outcome = make_outcome([[bool(p)] * 7], p)
    running = started(design, p=p)
    assert running.inflation(outcome, running.weights(outcome)).tolist()[0][int(p)] == 1.0


def test_models_that_are_not_weighed_to_the_mean_one_have_no_launched_pace():
    with pytest.raises(InputError, match="normalize = false") as error:
        started(Splitting(steps="launched", normalize=False), label="mine")
    assert str(error.value).startswith("design mine: ") and "\n" not in str(error.value)


# --- thinned -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Shadow, Splitting])
def test_a_thinned_design_weighs_some_visits_more_and_the_others_nothing(kind: Any):
    outcome = make_outcome([[i % 2 == 0 for i in range(8)] for _ in range(200)], 0.5)
    where = {"setting": Setting(batch_size=8), "replications": range(200)}
    whole_RMB = started(kind(), **where).weights(outcome)
    thin_RMB = started(kind(keep=0.25), **where).weights(outcome)
    is_kept_RB = ((thin_RMB == 4 * whole_RMB) & (whole_RMB > 0)).any(1)
    assert torch.equal(thin_RMB, 4 * whole_RMB * is_kept_RB.unsqueeze(1))
    # 1,600 visits, kept with probability 1/4: an SD of 17
    assert abs(int(is_kept_RB.sum()) - 400) < 85
    other_RMB = started(kind(keep=0.25), **where, seed=9).weights(outcome)
    assert not torch.equal(other_RMB, thin_RMB)


def test_what_is_kept_does_not_depend_on_the_other_replications():
    whole = make_outcome([[True] * 8, [True] * 8], 0.5)
    alone = make_outcome([[True] * 8], 0.5)
    design = Splitting(keep=0.5)
    both_RMB = started(design, replications=(0, 1)).weights(whole)
    assert torch.equal(started(design).weights(alone)[0], both_RMB[0])
    assert not torch.equal(both_RMB[0], both_RMB[1])


# --- the loop ------------------------------------------------------------------------------------

ADAM = label("play", "logMAE", 0.2, 1.0), label("click", "BCE", 1.0, 0.1, weight_decay=0.01)
SGD = tuple(label(x.target, x.loss, x.alpha_C, x.alpha_T, kind="sgd") for x in ADAM)
PLAIN, PACED = Block("a", Shadow(), 0.5), Block("b", LAUNCHED[0], 0.5)


@pytest.mark.parametrize(("labels", "is_same"), [(ADAM, False), (SGD, True)])
def test_only_adam_and_only_the_design_that_asks_is_changed(labels: Any, is_same: bool):
    blocks = (GLOBAL_T, PLAIN, PACED)
    h, without = run(Setting(labels=labels), blocks), run(Setting(labels=labels), blocks[:2])
    for own, other in zip(h.learners, without.learners, strict=True):
        for s in range(3):  # the truth's network and the plain design's, to the bit
            assert same_network(own, s, other, s)
        assert [same_network(own, s, own, s + 2) for s in (1, 2)] == [is_same] * 2


def test_a_lesson_that_waits_keeps_the_inflation():
    loop, _, _ = start_loop(replace(Setting(labels=ADAM), n_steps=1), (PLAIN, PACED), (0, 1))
    loop._retrain_every = 2
    list(loop.steps(0, 1))
    state = loop.state()
    plain_S, paced_S = state["0.inflation"].split(4)
    assert plain_S.tolist() == [1.0] * 4 and (paced_S != 1.0).any()
    again = Lesson.of_state(
        {k.removeprefix("0."): x for k, x in state.items() if k.startswith("0.")},
        torch.device("cpu"),
    )
    assert torch.equal(again.inflation_S, state["0.inflation"])


def test_without_the_option_a_lesson_has_no_inflation():
    loop, _, _ = start_loop(replace(Setting(), n_steps=1), (PLAIN,), (0, 1))
    loop._retrain_every = 2
    list(loop.steps(0, 1))
    assert not [name for name in loop.state() if "inflation" in name]
