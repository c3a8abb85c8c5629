"""Arms: what they score, what they pick and how likely, and whom their networks learn for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from scipy.special import softmax
from scipy.stats import chi2
from support import (
    CLICK,
    FALSE_FAIL_RATE,
    PLAY,
    Setting,
    make_arms,
    make_learner,
    make_policy,
    make_store,
    make_world,
    result_of,
    same,
    same_network,
)
from torch import Tensor

import realdataexp as rx
from realdataexp import draws
from realdataexp.arms import Arms, Explore, MostPopular, OutsidePolicy, Policy, Random, Scene
from realdataexp.config import load_config
from realdataexp.designs.splitting import Splitting
from realdataexp.errors import InputError
from realdataexp.loop import Block, Loop, n_networks
from realdataexp.models import MLP, Selecting
from realdataexp.registry import ComponentError

SCORE_C = torch.tensor([0.3, -0.2, 0.5, 0.1, -torch.inf])
ON_C = torch.isfinite(SCORE_C)
N_VISITS = 40_000


def picks(explore: Explore, scorer: Any = None, seed: int = 0) -> tuple[Tensor, Tensor]:
    """What an arm picks from one slate in many visits, and the propensities it says: B and C."""
    arms = Arms([[1.0], [1.0]], [scorer, scorer], [explore, explore], seed)
    on_WBC = ON_C.expand(1, N_VISITS, -1)
    scene = arms.scene("a test", torch.tensor([3]), 7, torch.zeros_like(on_WBC).long(), on_WBC)
    prediction_WABCL = (
        SCORE_C.nan_to_num(neginf=9.0).view(1, 1, 1, -1, 1).repeat(1, 2, N_VISITS, 1, 1)
    )
    score_WABC = arms.score(prediction_WABCL, on_WBC, scene)
    pick_WAB, log_WABC = arms.pick(score_WABC, scene)
    assert log_WABC is not None
    assert torch.equal(pick_WAB[:, 0], pick_WAB[:, 1]), "arms that do the same pick the same"
    assert same(log_WABC[:, 0], log_WABC[:, 1])
    return pick_WAB[0, 0], log_WABC[0, 0, 0].exp()


def wanted(explore: Explore, scorer: Any) -> np.ndarray:
    """The propensities by their definition."""
    n, best = int(ON_C.sum()), int(SCORE_C.argmax())
    if isinstance(scorer, Random):
        return np.where(ON_C, 1 / n, 0.0)
    if explore.kind == "softmax":
        return np.asarray(softmax(SCORE_C.numpy() / explore.temperature))
    return np.where(ON_C, explore.epsilon / n, 0) + (1 - explore.epsilon) * (np.arange(5) == best)


@pytest.mark.parametrize(
    ("explore", "scorer"),
    [
        (Explore("softmax", temperature=0.25), None),
        (Explore("epsilon_greedy", epsilon=0.3), None),
        (Explore("epsilon_greedy", epsilon=1.0), None),
        (Explore(), Random()),
    ],
    ids=["softmax", "epsilon", "always", "random"],
)
def test_a_candidate_is_picked_as_often_as_its_propensity_says(explore: Explore, scorer: Any):
    pick_B, propensity_C = picks(explore, scorer)
    expected_C = wanted(explore, scorer)
    np.testing.assert_allclose(propensity_C, expected_C, rtol=1e-5, atol=1e-7)
    n_C = np.bincount(pick_B, minlength=5)
    assert n_C[~ON_C.numpy()].sum() == 0
    on = expected_C > 0
    gap = (n_C - N_VISITS * expected_C)[on]
    statistic = (gap**2 / (N_VISITS * expected_C[on])).sum()
    assert statistic < chi2.isf(FALSE_FAIL_RATE, on.sum() - 1)
    least = N_VISITS * (0.02 / 2) ** 2 / expected_C[on].max()  # of a propensity that is 0.02 off
    assert least > 1, "the test has no power"


def test_an_arm_that_does_not_explore_picks_the_best_and_says_so_beside_one_that_does():
    arms = Arms([[1.0], [1.0]], explores=[Explore(), Explore("softmax", temperature=1.0)])
    on_WBC = ON_C.expand(2, 3, -1)
    scene = arms.scene("a test", torch.arange(2), 0, torch.zeros_like(on_WBC).long(), on_WBC)
    score_WABC = SCORE_C.expand(2, 2, 3, -1)
    pick_WAB, log_WABC = arms.pick(score_WABC, scene)
    assert log_WABC is not None
    assert (pick_WAB[:, 0] == 2).all()
    assert torch.equal(log_WABC[:, 0].exp(), torch.tensor([0.0, 0, 1, 0, 0]).expand(2, 3, -1))


def test_the_most_popular_rule_picks_the_video_with_the_most_rows_of_the_worlds_start():
    rule = MostPopular(torch.tensor([[5.0, 1.0, 3.0], [0.0, 9.0, 2.0]]))
    arms = Arms([[1.0], [1.0]], [rule, None])
    video_WBC = torch.tensor([[[1, 0, 2]], [[0, 2, 1]]])
    on_WBC = torch.ones_like(video_WBC, dtype=torch.bool)
    scene = arms.scene("a test", torch.tensor([4, 7]), 0, video_WBC, on_WBC)  # starts 0 and 1
    score_WABC = arms.score(torch.zeros(2, 2, 1, 3, 1), on_WBC, scene)
    assert arms.pick(score_WABC, scene)[0][:, 0].tolist() == [[1], [2]]


# --- labels with features, and arms, of their own ------------------------------------------------


def test_a_network_sees_the_features_of_its_label_alone():
    store, names = make_store(Setting().n_rows_U), ("video_duration", "tag")
    schema = store.schema.select(names)
    inner = MLP(schema, 1, {"hidden_layers": (4,), "embedding_dim": 2}, "a label")
    model = Selecting(inner, store.schema, names)
    batch = store.batch(torch.arange(6).view(1, 6), torch.arange(18).view(1, 6, 3))
    params = {k: x.unsqueeze(0) for k, x in model.init(draws.key(0, "x")).items()}
    got = model.forward(params, batch, None)
    other_users = store.batch(torch.arange(6).flip(0).view(1, 6), torch.arange(18).view(1, 6, 3))
    assert same(got, model.forward(params, other_users, None))
    assert same(got, inner.forward(params, batch.select(store.schema, names), None))
    other_videos = store.batch(torch.arange(6).view(1, 6), torch.arange(18).flip(0).view(1, 6, 3))
    assert not same(got, model.forward(params, other_videos, None))


def test_a_network_of_an_arm_that_does_not_use_it_stays_as_it_was():
    setting = Setting()
    blocks = (Block("splitting", Splitting(), 0.4),)
    n = n_networks(blocks, 2)
    learners = [make_learner(setting, i, n) for i in range(2)]
    start = [make_learner(setting, i, n) for i in range(2)]
    policies = [
        replace(make_policy(PLAY), arms_A=(False, True)),
        replace(make_policy(CLICK), arms_A=(True, False)),
    ]
    world = make_world(setting, (0, 1), 1)
    loop = Loop(world, blocks, policies, make_arms(setting.labels), learners, setting.seed)
    steps = list(loop.steps(0, 6))
    assert loop.is_idle_SL is not None
    assert loop.is_idle_SL.tolist() == [[True, False]] * 2 + [[False, True]] * 2
    for label, (now, before) in enumerate(zip(learners, start, strict=True)):
        for s in range(n):
            is_idle = bool(loop.is_idle_SL[s, label])
            assert same_network(now, s, before, s) == is_idle
            learned = torch.stack([x.target_SBL[s, :, label] for x in steps])
            assert bool(learned.isfinite().any()) != is_idle


# --- whole runs ----------------------------------------------------------------------------------


def click(name: str, **changes: Any) -> dict[str, Any]:
    own = {"target": "is_click", "type": "binary", "loss_function": "BCE", "model": "MLP"}
    return {"name": name, **own, "model_params": {"hidden_layers": [4], "dropout": 0.2}, **changes}


NEW_OLD = {
    "labels": [
        click("old"),
        click("new"),
        {"name": "seconds", "target": "play_time_ms", "type": "numerical", "model": "none"},
    ],
    "arms": {"control": {"score": {"old": 1.0}}, "treatment": {"score": {"new": 1.0}}},
}
LOOP = {"n_steps": 6, "batch_size": 8, "n_candidate": 5, "processes": 1, "validate_every": 3}
TEST = {"replications": 2, "designs": ["pooling", "splitting", "shadow"]}


@pytest.fixture
def new_old(small_config: Callable[..., Path]) -> Callable[..., Path]:
    """Writes the config of a new model against an old one."""

    def write(**changes: Any) -> Path:
        return small_config(**{**NEW_OLD, "simulation": LOOP, "experiment": TEST, **changes})

    return write


def test_equal_models_in_both_arms_have_an_effect_of_exactly_zero(
    new_old: Callable[..., Path], tmp_path: Path
):
    result = rx.run(load_config(new_old()), out=tmp_path / "run")
    truth = result.comparison.filter(design="pooling")
    assert truth["label"].to_list() == ["old", "seconds"], "an outcome counts once"
    assert truth["gte"].to_list() == [0.0, 0.0]
    both = result.outcomes.filter(design="global").sort("label", "world", "step")
    t, c = (both.filter(arm=arm)["sum"] for arm in "TC")
    assert t.equals(c)


def test_a_network_is_reported_for_the_arms_that_use_it(
    new_old: Callable[..., Path], tmp_path: Path
):
    rx.run(load_config(new_old()), out=tmp_path / "run")
    metrics = pl.read_parquet(tmp_path / "run" / "metrics.parquet")
    of_networks = metrics.filter(pl.col("metric").is_in(["auc", "loss"]), phase="loop")
    rows = of_networks.filter(design="splitting").select("label", "model").unique().rows()
    assert sorted(rows) == [("new", "T"), ("old", "C")]


def test_outcomes_are_measured_with_names_and_units_of_their_own(
    new_old: Callable[..., Path], tmp_path: Path
):
    outcomes = ["old", {"name": "watched", "target": "play_time_ms", "unit": "milliseconds"}]
    config = load_config(new_old(outcomes=outcomes, logging={"pictures": True}))
    result = rx.run(config, out=tmp_path / "run")
    assert result.comparison["label"].unique(maintain_order=True).to_list() == ["old", "watched"]
    assert "watched (milliseconds)" in (tmp_path / "run" / "report.html").read_text()
    again = load_config(tmp_path / "run" / "config.yaml")
    assert again.resolved() == config.resolved()


def test_a_label_may_have_features_that_the_others_do_not_see(
    new_old: Callable[..., Path], tmp_path: Path
):
    """The old model, which sees what it saw, is the same to the bit whatever the new one sees."""
    own = {"numerical": ["video_duration", "fans_user_num"], "categorical": ["video_type"]}
    folders = []
    for name, labels in (
        ("without", NEW_OLD["labels"]),
        ("with", [click("old"), click("new", features=own), NEW_OLD["labels"][2]]),
    ):
        feature = {"numerical": ["video_duration"], "categorical": ["tag"]}
        config = load_config(new_old(labels=labels, feature=feature, mode="splitting"))
        rx.run(config, out=tmp_path / name)
        metrics = pl.read_parquet(tmp_path / name / "metrics.parquet")
        folders.append(metrics.filter(phase="pretrain"))
    old = [x.filter(label="old") for x in folders]
    new = [x.filter(label="new") for x in folders]
    assert old[0].equals(old[1])
    assert not new[0].equals(new[1])


EXPLORING = {
    "control": {"score": {"old": 1.0}, "explore": {"kind": "epsilon_greedy", "epsilon": 0.4}},
    "treatment": {"score": {"new": 1.0}, "explore": {"kind": "softmax", "temperature": 0.1}},
}


def test_propensities_of_what_an_exploring_arm_shows_are_recorded(
    new_old: Callable[..., Path], tmp_path: Path
):
    rx.run(load_config(new_old(arms=EXPLORING)), out=tmp_path / "run")
    metrics = pl.read_parquet(tmp_path / "run" / "metrics.parquet").filter(split="picks")
    assert set(metrics["metric"]) == {"propensity_mean", "propensity_least"}
    assert set(metrics["model"]) == {"C", "T"}
    wide = metrics.pivot("metric", index=["design", "world", "step", "model"], values="value")
    assert (wide["propensity_least"] <= wide["propensity_mean"] + 1e-12).all()
    control = wide.filter(model="C")["propensity_least"]
    assert control.min() >= 0.4 / 5 - 1e-6  # epsilon over the candidates


def test_an_a_a_test_of_arms_that_explore_has_no_effect(
    new_old: Callable[..., Path], tmp_path: Path
):
    config = load_config(new_old(arms=EXPLORING, experiment={**TEST, "aa": True}))
    result = rx.run(config, out=tmp_path / "run")
    assert set(result.comparison["gte"]) == {0.0}


def test_thompson_sampling_departs_from_the_best_and_repeats_itself(
    new_old: Callable[..., Path], tmp_path: Path
):
    """The arms' networks are equal: they differ in nothing but the draws of one."""
    drawn = {"score": {"new": 1.0}, "explore": {"kind": "thompson"}}
    arms = {"control": {"score": {"old": 1.0}}, "treatment": drawn}
    config = load_config(new_old(arms=arms, mode="global"))
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        rx.run(config, out=folder)
    shares = result_of(folders[0])["diagnostics"]["share_of_visits_where_arms_differ"]
    assert shares["global_T"] > 0
    tables = [pl.read_parquet(folder / "outcomes.parquet") for folder in folders]
    assert tables[0].equals(tables[1])


class FewestPixels(Policy):
    """A policy from outside: it likes low predictions, and draws a little."""

    noise: float = 0.0

    def score(self, prediction_WBCL: Tensor, scene: Scene) -> Tensor:
        return -prediction_WBCL[..., 0] + self.noise * scene.uniform_WBC


class Shapeless(Policy):
    """A policy whose scores lack an axis."""

    def score(self, prediction_WBCL: Tensor, scene: Scene) -> Tensor:
        return prediction_WBCL[:, :, 0, 0]


def test_a_policy_from_outside_scores_for_its_arm(new_old: Callable[..., Path], tmp_path: Path):
    policy = {"policy": "test_arms:FewestPixels", "options": {"noise": 1e-9}}
    arms = {"control": {"score": {"old": 1.0}}, "treatment": policy}
    config = load_config(new_old(arms=arms, labels=[click("old"), *NEW_OLD["labels"][2:]]))
    rx.run(config, out=tmp_path / "run")
    shares = result_of(tmp_path / "run")["diagnostics"]["share_of_visits_where_arms_differ"]
    assert shares["global_T"] > 0.5


def test_a_policy_that_returns_another_shape_is_named():
    on_WBC = torch.ones(1, 2, 3, dtype=torch.bool)
    scene = Scene(torch.zeros(1), on_WBC.long(), on_WBC, on_WBC.float(), torch.zeros(1, 2))
    policy = OutsidePolicy(Shapeless(), "arms.control.policy = 'x:Shapeless'")
    with pytest.raises(ComponentError, match=r"x:Shapeless.*\(1, 2\).*wanted.*\(1, 2, 3\)"):
        policy.score(torch.zeros(1, 2, 3, 1), scene)


# --- what is refused -----------------------------------------------------------------------------


def arms_of(control: Any = None, treatment: Any = None) -> dict[str, Any]:
    known = {"score": {"old": 1.0}}, {"score": {"new": 1.0}}
    return {"control": control or known[0], "treatment": treatment or known[1]}


def exploring(kind: str, **options: float) -> dict[str, Any]:
    return {"score": {"old": 1}, "explore": {"kind": kind, **options}}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"arms": arms_of({"explore": {"kind": "none"}})}, "arms.control: has neither score"),
        ({"arms": arms_of({"score": {}})}, "arms.control.score: is empty"),
        ({"arms": arms_of({"rule": "random", "score": {"old": 1.0}})}, "score and rule: keep one"),
        ({"arms": arms_of({"score": {"odl": 1.0}})}, "control.score.odl: no such label"),
        ({"arms": arms_of({"score": {"seconds": 1.0}})}, "control.score.seconds: the label has no"),
        ({"arms": arms_of(treatment={"score": {"old": 1.0}})}, "no arm's score has the label new"),
        (
            {"arms": arms_of(exploring("softmax", temperature=0))},
            "arms.control.explore.temperature = 0: must be more than 0",
        ),
        (
            {"arms": arms_of(exploring("epsilon_greedy", epsilon=0))},
            "arms.control.explore.epsilon = 0: must be more than 0",
        ),
        (
            {"arms": arms_of(exploring("softmax", temperature=1, epsilon=0.1))},
            "arms.control.explore.epsilon = 0.1: has no effect with kind softmax",
        ),
        ({"arms": arms_of(exploring("softmax"))}, "temperature.*kind softmax needs it"),
        (
            {"arms": arms_of({"rule": "random", "explore": {"kind": "softmax", "temperature": 1}})},
            "softmax has no effect on rule: random",
        ),
        ({"labels": [click("old", alpha_T=1.0), click("new")]}, "arms: stand next to alpha_T"),
        ({"arms": {"control": {"score": {"old": 1.0}}}}, "arms.treatment: missing"),
        (
            {"arms": None, "labels": [click("old", arms=["control"], alpha_T=0.5), click("new")]},
            "labels.0.arms: lacks treatment, but alpha_T is not 0",
        ),
        ({"outcomes": ["new", "old"]}, "outcomes.*the target is_click stands more than once"),
        ({"outcomes": ["lod"]}, "lod: no such label"),
        ({"outcomes": [{"name": "old", "target": "is_like"}]}, "the label old has the target"),
    ],
)
def test_arms_and_outcomes_that_cannot_be_are_one_line(
    new_old: Callable[..., Path], changes: dict[str, Any], words: str
):
    with pytest.raises(InputError, match=words) as raised:
        load_config(new_old(**changes))
    assert len(raised.value.faults) == 1


def test_thompson_sampling_needs_dropout_and_shadow_needs_propensities(
    new_old: Callable[..., Path], tmp_path: Path
):
    drawn = {"score": {"new": 1.0}, "explore": {"kind": "thompson"}}
    plain = [click("old"), click("new", model_params={"hidden_layers": [4]})]
    with pytest.raises(InputError, match=r"arms.treatment.explore.kind.*no network.*dropout"):
        rx.run(
            load_config(new_old(arms=arms_of(treatment=drawn), labels=plain)), out=tmp_path / "a"
        )
    with pytest.raises(InputError, match=r"design shadow: explore.kind = thompson"):
        rx.run(load_config(new_old(arms=arms_of(treatment=drawn))), out=tmp_path / "b")


def test_nothing_is_popular_where_every_item_is_new(tmp_path: Path):
    config = load_config("si2023").resolved()
    for label in config["labels"]:
        label |= {"alpha_T": None, "alpha_C": None}
    score = {label["name"]: 1.0 for label in config["labels"] if label["model"] != "none"}
    config["arms"] = {"control": {"rule": "most_popular"}, "treatment": {"score": score}}
    with pytest.raises(InputError, match=r"arms.control.rule = 'most_popular': every item"):
        rx.run(load_config(config), out=tmp_path / "run")
