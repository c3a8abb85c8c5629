"""The law of weights: an arm's model learns from the distribution that its arm alone would see.

E[W_m f(X)] = E[f(i_m)] for every function f of an item (Si, arXiv 2310.17496, Lemma 1), so weights
average to 1. Held to by Monte Carlo in two worlds of independent slates. In the first, all
candidates of all slates are alike, x ~ U[0, 1]^2, the control ranks by x_1 and the treatment by
x_2, so that E[Z|x] = sigmoid(logit p + (C - 1) (ln x_2 - ln x_1)). In the second, each visitor has
another kind of candidates: there only weights that are exact for each slate hold.

A comparison falsely fails once in a million, and misses a difference of DETECTABLE as seldom;
replications are its units.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache

import pytest
import torch
from scipy.stats import t as student
from support import (
    CPU,
    FALSE_FAIL_RATE,
    POOLING,
    Setting,
    batch_of,
    label,
    make_context,
    make_visits,
    run,
    same,
    same_network,
    start_loop,
)
from torch import Tensor

from realdataexp import draws
from realdataexp.designs.base import Context, Design, Outcome
from realdataexp.designs.oracle import Oracle
from realdataexp.designs.pooling import Pooling
from realdataexp.designs.shadow import Shadow
from realdataexp.designs.splitting import Splitting
from realdataexp.designs.weighting import Weighting
from realdataexp.loop import Block
from realdataexp.models import Batch, FeatureSchema, SideSchema
from realdataexp.worlds.base import Slate

R, B, C, P = 200, 400, 6, 0.3
DETECTABLE = 0.06
QUANTILE = float(student.isf(FALSE_FAIL_RATE / 2, R - 1))

FUNCTIONS = {
    "1": lambda x: torch.ones_like(x[..., 0]),
    "x1": lambda x: x[..., 0],
    "x2": lambda x: x[..., 1],
    "x1 x2": lambda x: x[..., 0] * x[..., 1],
    "x2 > .8": lambda x: (x[..., 1] > 0.8).double(),
}


@cache
def toy(is_alike: bool) -> tuple[Outcome, Tensor, Tensor]:
    """A step of R replications, the items collected R, B, D, and each arm's picks R, A, B, D."""
    key_R = draws.key(1, "toy", torch.arange(R))
    x_RBCD = draws.uniform(key_R, B * C * 2).view(R, B, C, 2)
    if not is_alike:  # half of the visitors have candidates that both arms find poor
        is_poor_RB = draws.uniform(draws.key(2, "toy", torch.arange(R)), B) < 0.5
        x_RBCD = torch.where(is_poor_RB[..., None, None], 0.3 * x_RBCD, x_RBCD)
    z_RB = draws.uniform(draws.key(3, "toy", torch.arange(R)), B) < P
    score_RABC = torch.stack([x_RBCD[..., 0], x_RBCD[..., 1]], dim=1).float()
    pick_RAB = score_RABC.argmax(-1)
    none = torch.zeros(R, B, 0)
    batch = batch_of(none, none, none, x_RBCD.float(), *[torch.zeros(R, B, C, 0)] * 2)
    item_RBC = torch.arange(R * B * C).view(R, B, C)
    slate = Slate(item_RBC, item_RBC, torch.ones(R, B, C, dtype=torch.bool), batch)
    visits = make_visits(0, range(R), torch.zeros(R, B, dtype=torch.int64))
    outcome = Outcome(visits, slate, z_RB, P, score_RABC, pick_RAB, torch.zeros(R, B, 0))
    at_RABCD = pick_RAB[..., None, None].expand(R, 2, B, 1, 2)
    picked_RABD = x_RBCD.unsqueeze(1).expand(R, 2, B, C, 2).gather(3, at_RABCD).squeeze(3)
    collected_RBD = torch.where(z_RB.unsqueeze(-1), picked_RABD[:, 1], picked_RABD[:, 0])
    return outcome, collected_RBD, picked_RABD


def toy_context() -> Context:
    none = SideSchema(0, (), 0)
    context = make_context(Setting(), range(R), p=P, device=CPU)
    return replace(context, schema=FeatureSchema(none, SideSchema(2, (), 0)))


class Truth:
    """A G that is told E[Z|X] of the world in which all candidates are alike."""

    def predict(self, batch: Batch) -> Tensor:
        log_x_RBD = batch.candidate["video_num"][:, :, 0].log()
        odds_RB = (C - 1) * (log_x_RBD[..., 1] - log_x_RBD[..., 0]) + math.log(P / (1 - P))
        return odds_RB.sigmoid()

    def learn(self, batch: Batch, is_treated_RB: Tensor, is_visit_RB: Tensor, step: int) -> None:
        pass

    def state(self) -> dict[str, Tensor]:
        return {}


def told() -> Design:
    return Weighting().with_g(toy_context(), Truth())


def running(design: Design) -> Design:
    return design.start(toy_context())


@dataclass
class Check:
    """E[W_m f(X)] - E[f(i_m)], and the smallest difference that is not chance."""

    difference: float
    allowed: float

    @property
    def holds(self) -> bool:
        return abs(self.difference) < self.allowed


def check(weight_RMB: Tensor, is_alike: bool, m: int, f: str) -> Check:
    """Over the same slates, so that what the two have in common does not disturb."""
    _, collected_RBD, picked_RABD = toy(is_alike)
    weighted_RB = weight_RMB[:, m].double() * FUNCTIONS[f](collected_RBD)
    d_R = (weighted_RB - FUNCTIONS[f](picked_RABD[:, m])).mean(1)
    return Check(float(d_R.mean()), QUANTILE * float(d_R.std()) / R**0.5)


EXACT = {
    "splitting": (lambda: running(Splitting()), True),
    "shadow": (lambda: running(Shadow()), True),
    "splitting, slates differ": (lambda: running(Splitting()), False),
    "shadow, slates differ": (lambda: running(Shadow()), False),
    "oracle": (lambda: running(Oracle()), True),
    "weighting with the true G": (told, True),
}
WRONG = {
    "pooling": (lambda: running(Pooling()), True, ("x1", "x2")),
    "splitting without normalize": (lambda: running(Splitting(normalize=False)), True, ("1",)),
    "oracle where slates differ": (lambda: running(Oracle()), False, ("x2",)),
}


@pytest.mark.parametrize("f", FUNCTIONS)
@pytest.mark.parametrize("m", [0, 1], ids=["control", "treatment"])
@pytest.mark.parametrize(("make", "is_alike"), EXACT.values(), ids=EXACT)
def test_weighted_items_have_the_distribution_of_the_arm_alone(make, is_alike, m: int, f: str):
    got = check(make().weights(toy(is_alike)[0]), is_alike, m, f)
    assert 2 * got.allowed < DETECTABLE, "the test has no power"
    assert got.holds, got


@pytest.mark.parametrize(("make", "is_alike", "functions"), WRONG.values(), ids=WRONG)
def test_the_same_check_rejects_weights_that_are_wrong(make, is_alike, functions):
    outcome = toy(is_alike)[0]
    weight_RMB = make().weights(outcome).expand(R, 2, B)
    for m in (0, 1):
        for f in functions:
            got = check(weight_RMB, is_alike, m, f)
            assert not got.holds
            if not isinstance(make(), Oracle):
                assert abs(got.difference) > DETECTABLE


def test_the_true_share_has_the_least_variance_and_shadow_less_than_splitting():
    """Theorem 1: of all weights that shift nothing, E[Z|X] / p varies least."""
    outcome = toy(True)[0]
    variance = {
        name: make().weights(outcome).var(correction=0, dim=(0, 2))
        for name, (make, is_alike) in EXACT.items()
        if is_alike
    }
    assert bool((variance["shadow"] < 0.95 * variance["splitting"]).all())
    assert bool((variance["oracle"] < 0.95 * variance["shadow"]).all())
    torch.testing.assert_close(
        variance["oracle"], variance["weighting with the true G"], rtol=0.03, atol=0
    )


def test_shadow_weights_by_hand():
    """Four visits: the arms agree or not, the arm is the treatment's or not."""
    outcome, _, _ = toy(True)
    pick_RAB = torch.tensor([[[2, 2, 0, 0], [2, 2, 1, 1]]])
    z_RB = torch.tensor([[True, False, True, False]])
    got = Shadow().weights(replace(outcome, pick_RAB=pick_RAB, is_treated_RB=z_RB, p=0.2))
    torch.testing.assert_close(got, torch.tensor([[[1, 1, 0, 1.25], [1, 1, 5, 0]]]))


# --- equal arms --------------------------------------------------------------------------------

EQUAL = Setting(
    labels=(
        label("play", "logMAE", 0.7, 0.7, dropout=0.3),
        label("click", "BCE", 1.0, 1.0, gradient_clip=0.1),
    )
)


class Heard:
    """A design that runs, and the weights that it said."""

    def __init__(self, inner: Design) -> None:
        self.inner, self.weights_of_step = inner, []

    def __getattr__(self, name: str):
        return getattr(self.inner, name)

    def weights(self, outcome: Outcome) -> Tensor:
        self.weights_of_step.append(self.inner.weights(outcome))
        return self.weights_of_step[-1]


@pytest.mark.parametrize("assignment", ["user", "visit"])
def test_with_equal_arms_shadow_is_pooling_to_the_bit(assignment: str):
    setting = replace(EQUAL, assignment=assignment)
    loop, _, h = start_loop(setting, (POOLING, Block("shadow", Shadow(), 0.4)), (0, 1, 2))
    loop.designs[1] = heard = Heard(loop.designs[1])
    h.steps += loop.steps(0, setting.n_steps)
    assert len(heard.weights_of_step) == len(h.steps) > 5
    assert all(bool((w == 1).all()) for w in heard.weights_of_step)
    for r in h.replications:
        pooling, shadow = h.world(0, r), h.world(1, r)
        assert same(h.item_TB(shadow), h.item_TB(pooling))
        assert same(h.y_TBL(shadow), h.y_TBL(pooling))
        assert bool(h.is_treated_TB(shadow).any()) and not bool(h.is_treated_TB(shadow).all())
        for learner in h.learners:
            for m in (0, 1):
                s = h.network(1, r, m)
                assert same_network(learner, s, learner, h.network(0, r))
                assert int(learner.n_updates_S[s]) > 5


def test_with_unequal_arms_it_is_not():
    h = run(Setting(), (POOLING, Block("shadow", Shadow(), 0.4)), (0,))
    assert not same(h.item_TB(0), h.item_TB(1))


# --- law 4: worlds apart -----------------------------------------------------------------------

G_NAMES = ("mlp", "logistic", "gradient_boosting")


@pytest.mark.parametrize("model", G_NAMES)
def test_adding_worlds_changes_no_worlds_weights(model: str):
    """Picks and outcomes exactly, weights within rounding (see law 4)."""
    design = Weighting(model=model, learning_rate=0.02, refit_every=2, calibration="mean")
    block = Block("weighting", design, 0.4)
    setting = Setting(n_rows_U=(40,) * 10, n_steps=15, batch_size=8)
    runs = []
    for blocks, replications in (
        ((block,), (2,)),
        ((POOLING, block, replace(block, label="other")), (0, 2, 1)),
    ):
        loop, _, h = start_loop(setting, blocks, replications)
        loop.designs = [Heard(x) for x in loop.designs]
        h.steps += loop.steps(0, setting.n_steps)
        i = blocks.index(block)
        r = replications.index(2)
        weights = torch.stack([w[r] for w in loop.designs[i].weights_of_step])
        runs.append((h.item_TB(h.world(i, 2)), h.y_TBL(h.world(i, 2)), weights))
    (items, y, weights), (items_, y_, weights_) = runs
    assert same(items, items_) and same(y, y_)
    torch.testing.assert_close(weights, weights_, rtol=0, atol=1e-5)
    assert float(weights[10:].std()) > 0.02, "G must have learned something"
