"""G: classifiers of the arm that an item came from."""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load, save
from sklearn import ensemble
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.svm import SVC
from support import Setting, batch_of, diagnostics, make_context, make_visits, started
from torch import Tensor, nn

from realdataexp import draws
from realdataexp.designs.base import Context, Design, Outcome
from realdataexp.designs.weight_models import (
    WeightModel,
    WeightModelOptions,
)
from realdataexp.designs.weighting import Weighting, classifier_metrics
from realdataexp.errors import InputError
from realdataexp.models import MLP, Batch, FeatureSchema, SideSchema
from realdataexp.registry import find, names
from realdataexp.worlds.base import Slate

STACKED = ("mlp", "logistic")
REFITTED = tuple(name for name in names("weight model") if name not in STACKED)

P, SEED = 0.3, 3
SCHEMA = FeatureSchema(
    SideSchema(1, (("degree", 0, 1),), 2, ("x1 of the user",), (0,)),
    SideSchema(2, (("tag", 0, 2),), 3, ("x1", "x2"), (0,)),
)
RATE = 0.02


def context(replications=(0, 1, 2)) -> Context:
    return replace(make_context(Setting(seed=SEED), replications, p=P), schema=SCHEMA)


def items(step: int, R: int = 3, B: int = 64, noise: float = 0.0) -> tuple[Batch, Tensor, Tensor]:
    """Items that the treatment collects where x_1 > x_2 (and noise), which visits took place."""
    key = draws.key(9, "items", torch.arange(R), step)
    x_RBD = draws.uniform(key, B * 6).view(R, B, 6).float()
    tag_RB2 = torch.stack([(3 * x_RBD[..., 3]).int(), (3 * x_RBD[..., 4]).int()], dim=-1)
    has_two_RB = (tag_RB2[..., 0] != tag_RB2[..., 1]).float()
    batch = batch_of(
        x_RBD[..., :1],
        (2 * x_RBD[..., 2:3]).int(),
        torch.ones(R, B, 1),
        x_RBD[:, :, None, :2],
        tag_RB2.unsqueeze(2),
        torch.stack([torch.ones(R, B), has_two_RB], dim=-1).unsqueeze(2),
    )
    z_RB = x_RBD[..., 0] + noise * (x_RBD[..., 5] - 0.5) > x_RBD[..., 1]
    is_visit_RB = torch.arange(B).expand(R, -1) < B - 8 * (step % 5)
    return batch, z_RB, is_visit_RB


def trained(g: WeightModel, n_steps: int, R: int = 3, noise: float = 0.0) -> WeightModel:
    for step in range(n_steps):
        batch, z_RB, on_RB = items(step, R, noise=noise)
        # what is padding must teach nothing
        g.learn(batch, torch.where(on_RB, z_RB, ~z_RB), on_RB, step)
    return g


def make(name: str, replications=(0, 1, 2), **options) -> WeightModel:
    settings = {"hidden_layers": (16,), "learning_rate": RATE, "refit_every": 5} | options
    own = WeightModelOptions(model=name, **settings)
    return find("weight model", name, name)(context(replications), own)


@pytest.fixture
def few_trees(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ensembles of a fifth of scikit-learn's 100 trees: what a test asks is true of any number."""
    for name, count in (
        ("RandomForestClassifier", "n_estimators"), ("HistGradientBoostingClassifier", "max_iter")
    ):  # fmt: skip
        monkeypatch.setattr(ensemble, name, partial(getattr(ensemble, name), **{count: 20}))


@pytest.mark.usefixtures("few_trees")
@pytest.mark.parametrize("name", [*STACKED, *REFITTED])
def test_g_learns_arms_that_can_be_told_apart_in_every_world(name: str):
    g = trained(make(name), 300 if name in STACKED else 10)
    batch, z_RB, _ = items(1000)
    g_RB = g.predict(batch)
    assert g_RB.shape == z_RB.shape and g_RB.dtype == torch.float32
    for r in range(3):
        share = float(z_RB[r].float().mean())
        figures = classifier_metrics(g_RB[r].double().numpy(), z_RB[r].double().numpy(), share)
        assert figures["auc"] > 0.95
        assert figures["log_loss"] < 0.6 * figures["log_loss_of_constant"]


@pytest.mark.usefixtures("few_trees")
@pytest.mark.parametrize("arm", [True, False], ids=["treated", "control"])
@pytest.mark.parametrize("name", [*STACKED, *REFITTED])
def test_a_g_that_has_seen_one_arm_only_predicts_p(name: str, arm: bool):
    """In that world; in the others it learns. What did not take place is not seen."""
    g = make(name)
    for step in range(10):
        batch, z_RB, on_RB = items(step)
        z_RB[1] = torch.where(on_RB[1], arm, not arm)
        g.learn(batch, z_RB, on_RB, step)
    g_RB = g.predict(items(99)[0])
    assert torch.equal(g_RB[1], torch.full((64,), P))
    assert float(g_RB[0].std()) > 0.005 and float(g_RB[2].std()) > 0.005


@pytest.mark.parametrize("name", [*STACKED, *REFITTED])
def test_a_g_that_has_seen_nothing_predicts_p(name: str):
    assert torch.equal(make(name).predict(items(0)[0]), torch.full((3, 64), P))


# --- what G sees -----------------------------------------------------------------------------


def outcome(step: int, p: float, R: int = 3) -> Outcome:
    """A step whose every visit is offered one item."""
    batch, z_RB, on_RB = items(step, R)
    none_RB = torch.zeros_like(z_RB, dtype=torch.int64)
    none_RAB = none_RB.unsqueeze(1).repeat(1, 2, 1)
    slate = Slate(none_RB.unsqueeze(-1), none_RB.unsqueeze(-1), on_RB.unsqueeze(-1), batch)
    visits = make_visits(step, range(R), none_RB)
    score_RABC = none_RAB.unsqueeze(-1).float()
    return Outcome(visits, slate, z_RB, p, score_RABC, none_RAB, torch.zeros(R, z_RB.shape[1], 0))


def begun(name: str, p: float = 0.5, **options) -> Design:
    design = Weighting(model=name, hidden_layers=(16,), learning_rate=RATE, **options)
    return started(design, Setting(seed=SEED), range(3), schema=SCHEMA, p=p)


@pytest.mark.usefixtures("few_trees")
@pytest.mark.parametrize("name", [*STACKED, *REFITTED])
def test_g_learns_from_the_features_that_it_sees_and_from_no_others(name: str):
    """x1 and x2 tell the arms apart; a user's degree and a video's tags do not."""
    losses = {}
    n_steps = 300 if name in STACKED else 10
    for features in (["degree"], ["tag", "degree"], ["x2", "x1"]):
        design = begun(name, features=features, refit_every=5)
        for step in range(n_steps + 10):
            if step == n_steps:
                diagnostics(design)
            design.weights(outcome(step, 0.5))
        figures = diagnostics(design)
        losses["+".join(features)] = figures["log_loss"] / figures["log_loss_of_constant"]
    assert 0.97 < losses["degree"] < 1.03
    assert 0.97 < losses["tag+degree"] < 1.05
    assert losses["x2+x1"] < 0.6


@pytest.mark.usefixtures("few_trees")
@pytest.mark.parametrize("name", [*STACKED, *REFITTED])
def test_all_features_in_any_order_are_as_none_to_the_bit(name: str):
    names = ["tag", "x2", "degree", "x1", "x1 of the user"]
    designs = [begun(name, features=x, refit_every=3) for x in (None, names)]
    for step in range(10):
        expected, found = (design.weights(outcome(step, 0.5)) for design in designs)
        assert torch.equal(expected, found)
    assert float(expected.std()) > 0.01
    states = [design.state() for design in designs]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(x, states[1][key]) for key, x in states[0].items())


def test_a_refitted_g_of_few_features_gets_their_columns_alone():
    design = begun("svm", features=["tag", "x2"])
    design.weights(outcome(0, 0.5))
    x_ND, on_B = design.state()["replication_1.x"], items(0)[2][1]
    batch = items(0)[0]
    assert x_ND.shape[1] == 1 + 3
    assert torch.equal(x_ND[:, 0], batch.candidate["video_num"][1, on_B, 0, 1])
    assert torch.equal(x_ND[:, 1:], joined(batch, 1)[on_B, -3:])


def test_a_feature_that_models_do_not_see_is_one_clear_line():
    with pytest.raises(InputError) as error:
        begun("mlp", features=["x1", "degre"])
    assert str(error.value) == (
        'design a design: features.1 = "degre": the models see no such feature; did you mean '
        "degree?; known are x1 of the user, degree, x1, x2, tag"
    )


# --- stacked -----------------------------------------------------------------------------------


def joined(batch: Batch, r: int) -> Tensor:
    """A world's rows as plain numbers, categories counted: B, D."""
    user, video = batch[r : r + 1].side("user"), batch[r : r + 1].side("video")
    degree = F.one_hot(user.cat[0].long(), 2) * user.weight[0].unsqueeze(-1)
    tag = F.one_hot(video.cat[0].long(), 3) * video.weight[0].unsqueeze(-1)
    parts = [user.num[0], video.num[0], degree.sum(1), tag.sum(1)]
    return torch.cat(parts, dim=1)


@pytest.mark.parametrize("hidden", [(16,), ()], ids=["mlp", "logistic"])
def test_updates_are_those_of_a_plain_loop_over_one_world(hidden: tuple[int, ...]):
    """torch.nn.Linear, Adam and the mean log loss; without hidden layers logistic regression."""
    n_steps, r = 30, 1
    g = trained(make("mlp", hidden_layers=hidden), n_steps)
    start = MLP(SCHEMA, 1, {"hidden_layers": hidden}, "a test").init(
        draws.key(SEED, "init G a design")
    )
    parts = [start[f"{side}_weight"] for side in ("user", "video")]
    parts += [start[f"{side}_one_hot"] for side in ("user", "video")]
    layers = []
    for i, weight in enumerate([torch.cat(parts), *([start["weight_1"]] if hidden else [])]):
        layer = nn.Linear(*weight.shape)
        layer.weight.data, layer.bias.data = weight.T.clone(), start[f"bias_{i}"].clone()
        layers += [nn.ReLU(), layer] if layers else [layer]
    network = nn.Sequential(*layers)
    adam = torch.optim.Adam(network.parameters(), lr=RATE)
    for step in range(n_steps):
        batch, z_RB, on_RB = items(step)
        logit_B = network(joined(batch, r)).squeeze(-1)[on_RB[r]]
        adam.zero_grad()
        F.binary_cross_entropy_with_logits(logit_B, z_RB[r][on_RB[r]].float()).backward()
        adam.step()
    batch = items(1000)[0]
    expected = network(joined(batch, r)).squeeze(-1).sigmoid().detach()
    torch.testing.assert_close(g.predict(batch)[r], expected, rtol=0, atol=1e-5)
    assert float(expected.std()) > 0.05
    torch.testing.assert_close(
        g.state()["params.bias_0"][r], network[0].bias.detach(), rtol=0, atol=1e-5
    )


def test_the_designs_options_choose_the_network():
    """logistic is the network without hidden layers; its own rate, and a start of its own label."""
    settings = {"schema": SCHEMA, "p": P}
    logistic = started(Weighting(model="logistic"), **settings).state()
    linear = started(Weighting(hidden_layers=()), **settings).state()
    assert logistic.keys() == linear.keys()
    assert all(torch.equal(logistic[name], linear[name]) for name in logistic)
    mlp = started(Weighting(hidden_layers=(5, 4)), **settings).state()
    assert mlp["params.bias_0"].shape == (1, 5) and mlp["params.weight_1"].shape == (1, 5, 4)
    other = started(Weighting(model="logistic"), label="other", **settings).state()
    assert not torch.equal(other["params.bias_0"], logistic["params.bias_0"])


# --- refitted ----------------------------------------------------------------------------------


def by_hand(name: str, seed: int):
    if name == "random_forest":
        return RandomForestClassifier(min_samples_leaf=20, random_state=seed)
    if name == "svm":
        return CalibratedClassifierCV(SVC(), ensemble=False)
    return HistGradientBoostingClassifier(random_state=seed)


@pytest.mark.parametrize("window", [None, 4], ids=["growing", "sliding"])
@pytest.mark.parametrize("name", REFITTED)
def test_a_refitted_g_is_scikit_learns_fitted_on_the_windows_rows(name: str, window: int | None):
    """Eight steps, a fit every third: the last is behind step 5, on steps 0 to 5 or 2 to 5."""
    replications = (0, 5)
    g = make(name, replications, refit_every=3, window_steps=window)
    trained(g, 8, R=2, noise=0.5)
    seen = [items(step, 2, noise=0.5) for step in range(0 if window is None else 2, 6)]
    for r, replication in enumerate(replications):
        x = np.concatenate([joined(b, r)[on[r]].numpy() for b, _, on in seen])
        z = np.concatenate([arm[r][on[r]].numpy() for _, arm, on in seen])
        seed = int(draws.key(SEED, "refit G", replication, 5)) & 0x7FFFFFFF
        new = items(1000, 2)[0]
        expected = by_hand(name, seed).fit(x, z).predict_proba(joined(new, r).numpy())[:, 1]
        np.testing.assert_allclose(g.predict(new)[r].numpy(), expected, rtol=0, atol=1e-6)
    assert float(g.predict(new).std()) > 0.05


# --- interruptions ---------------------------------------------------------------------------


def lopsided(step: int) -> Outcome:
    """From step 4 on the last world has one arm only: a refitted G keeps its fit of before."""
    made = outcome(step, P)
    if step >= 4:
        made.is_treated_RB[2] = True
    return made


@pytest.mark.usefixtures("few_trees")
@pytest.mark.parametrize("n_done", [0, 2, 7, 10])
@pytest.mark.parametrize(
    ("name", "window"),
    [*((name, None) for name in STACKED), *((name, w) for name in REFITTED for w in (None, 2))],
)
def test_weighting_goes_on_from_its_state_to_the_bit(name: str, window: int | None, n_done: int):
    """Fits are behind steps 2, 5, 8 and 11; figures are told behind steps 4 and 9."""

    def go_on(design: Design, steps: range) -> list:
        found = []
        for step in steps:
            found += design.weights(lopsided(step)).flatten().tolist()
            if step % 5 == 4:
                found += diagnostics(design).items()
        return [*found, *diagnostics(design).items()]

    options = {"refit_every": 3, "window_steps": window, "max_weight": 1.5}
    design, fresh = (begun(name, P, **options) for _ in range(2))
    for step in range(n_done):
        design.weights(lopsided(step))
        if step % 5 == 4:
            diagnostics(design)
    saved = save(design.state())
    for step in range(3):  # what a fresh one has seen is forgotten
        fresh.weights(lopsided(step))
    fresh.load_state(load(saved))
    assert save(fresh.state()) == saved
    rest = range(n_done, 14)
    expected = go_on(design, rest)
    assert go_on(fresh, rest) == expected
    assert np.std([x for x in expected if isinstance(x, float)]) > 0.01
    ends = [x.state() for x in (design, fresh)]
    assert ends[0].keys() == ends[1].keys()
    assert all(torch.equal(x, ends[1][key]) for key, x in ends[0].items())


def test_a_window_keeps_what_the_fit_in_use_was_made_from():
    """Two steps: the fit behind step 2 needs steps 1 and 2, the next one the two last."""
    design = begun("svm", P, refit_every=3, window_steps=2)
    kept = {0: [0], 1: [0, 1], 2: [1, 2], 3: [1, 2, 3], 4: [1, 2, 3, 4], 5: [4, 5], 6: [4, 5, 6]}
    for step, steps in kept.items():
        design.weights(lopsided(step))
        state = design.state()
        x = [joined(items(s)[0], 0)[items(s)[2][0]] for s in steps]
        assert torch.equal(state["replication_0.x"], torch.cat(x))
        expected = [s for s, rows in zip(steps, x, strict=True) for _ in rows]
        assert state["replication_0.step"].tolist() == expected
        assert state["replication_0.fit_step"].tolist() == [
            -1 if step < 2 else 2 if step < 5 else 5
        ]
    # in the last world the fit behind step 2 is still in use
    assert state["replication_2.fit_step"].tolist() == [2]
    x = [joined(items(s)[0], 2)[items(s)[2][2]] for s in (1, 2, 5, 6)]
    assert torch.equal(state["replication_2.x"], torch.cat(x))


@pytest.mark.parametrize("name", ["mlp", "svm"])
def test_a_state_of_another_weighting_is_refused_and_named(name: str):
    design = begun(name)
    design.weights(outcome(0, 0.5))
    state = design.state()
    some = "seen_arms" if name == "mlp" else "replication_1.z"
    for change, said in (
        ({"since": state["since"][:, :, :2]}, "since is"),
        ({"since": None}, "since is missing"),
        ({"other": torch.zeros(1)}, "other is unknown"),
        ({some: None}, f"{some} is missing"),
        ({some: state[some].double()}, f"{some} is torch.float64"),
    ):
        changed = {key: x for key, x in (state | change).items() if x is not None}
        with pytest.raises(ValueError, match=said):
            begun(name).load_state(changed)
    with pytest.raises(ValueError, match=r"state: tensor .* is (missing|unknown)"):
        begun("svm" if name == "mlp" else "mlp").load_state(state)


@pytest.mark.parametrize("name", REFITTED)
def test_without_scikit_learn_it_says_what_to_install(name, monkeypatch: pytest.MonkeyPatch):
    for module in ("sklearn.ensemble", "sklearn.svm"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError, match=r"pip install 'realdataexp\[sklearn\]'") as error:
        started(Weighting(model=name), p=P)
    assert "\n" not in str(error.value)
