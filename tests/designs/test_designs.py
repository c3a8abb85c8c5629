"""Designs: what each weighs, how one from outside takes part, and the tables of names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import polars as pl
import pytest
import torch
from support import (
    POOLING,
    SPLITTING,
    History,
    Setting,
    make_data,
    make_outcome,
    run,
    same,
    started,
)
from torch import Tensor

from realdataexp import config
from realdataexp.config import load_config
from realdataexp.data.synthetic import SyntheticConfig, write_synthetic
from realdataexp.designs import Design, Outcome, build_design
from realdataexp.designs.pooling import Pooling
from realdataexp.designs.snapshot import Snapshot
from realdataexp.designs.splitting import Splitting
from realdataexp.errors import InputError
from realdataexp.loop import Block
from realdataexp.registry import names
from realdataexp.runs.experiment import run_experiment


def weights(design: Design, is_treated_RB: list[list[bool]], p: float) -> Any:
    return design.weights(make_outcome(is_treated_RB, p)).tolist()


# --- weights ---------------------------------------------------------------------------------

ARMS = [[True, False, False], [True, True, False]]


def test_pooling_learns_fully_from_every_outcome():
    assert weights(Pooling(), ARMS, 0.25) == [[[1, 1, 1]], [[1, 1, 1]]]


def test_snapshot_learns_from_nothing():
    assert weights(Snapshot(), ARMS, 0.25) == [[[0, 0, 0]], [[0, 0, 0]]]


def test_splitting_weighs_an_outcome_one_over_the_probability_of_its_arm_for_its_own_model():
    got = torch.tensor(weights(Splitting(), ARMS, 0.25))
    third = 4 / 3
    expected = [[[0, third, third], [4, 0, 0]], [[0, 0, third], [4, 4, 0]]]
    torch.testing.assert_close(got, torch.tensor(expected))


def test_splitting_without_normalize_weighs_it_one():
    got = weights(Splitting(normalize=False), ARMS, 0.25)
    assert got == [[[0, 1, 1], [1, 0, 0]], [[0, 0, 1], [1, 1, 0]]]


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.8, 1.0])
def test_normalised_splitting_weights_average_to_one_over_arms(p: float):
    """Exactly, in expectation over the arm; without normalize a model gets its arm's share."""
    chance = {True: p, False: 1 - p}
    for normalize, expected in ((True, [1.0, 1.0]), (False, [1 - p, p])):
        design = Splitting(normalize=normalize)
        mean_M = torch.zeros(2)
        for arm in (True, False):
            if chance[arm]:  # the weight of an outcome that cannot happen means nothing
                mean_M += chance[arm] * torch.tensor(weights(design, [[arm]], p))[0, :, 0]
        has_outcomes = torch.tensor([1 - p, p]) > 0
        torch.testing.assert_close(mean_M, torch.tensor(expected) * has_outcomes)


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_a_model_whose_arm_nobody_gets_has_weight_zero(p: float):
    got = torch.tensor(weights(Splitting(), [[bool(p)] * 3], p))
    assert got[0, int(p)].tolist() == [1, 1, 1]
    assert got[0, 1 - int(p)].tolist() == [0, 0, 0]


# the in-memory users are ten, of two tastes; the runs are short
DESIGNS = names("design")
OPTIONS: dict[str, dict[str, int]] = {
    "cluster": {"n_clusters": 2},
    "switchback": {"block_steps": 3, "washout_steps": 1},
}
HALF = {"interleave"}  # which take no other share
LISTS = Setting(n_shown=3)


@pytest.mark.parametrize("name", DESIGNS)
def test_every_design_says_a_finite_weight_of_zero_or_more_for_each_of_its_models(name: str):
    design = build_design(name, OPTIONS.get(name, {}), "a test")
    for p in (0.5,) if name in HALF else (0.3, 0.5):
        got = started(design, LISTS, replications=(0, 1), p=p).weights(make_outcome(ARMS, p))
        assert got.shape == (2, design.n_models, 3)
        assert got.dtype == torch.float32
        assert bool((got.isfinite() & (got >= 0)).all())


@pytest.mark.parametrize("name", DESIGNS)
def test_every_design_runs_through_the_loop_and_is_itself_unchanged(name: str):
    design = build_design(name, OPTIONS.get(name, {}), "a test")
    before = design.model_dump()
    block = Block("it", design, 0.5 if name in HALF else 0.4)
    h = run(LISTS, (block, POOLING), (0, 1, 2), n_steps=20)
    arms = torch.stack([s.is_treated_WB[:3][s.is_visit_WB[:3]].float().mean() for s in h.steps])
    assert 0.05 < float(arms.nanmean()) < 0.95
    y_TWBL = torch.stack([s.y_WBL[:3] for s in h.steps])
    assert bool(y_TWBL.isfinite().any((0, 2, 3)).all())
    for learner in h.learners:
        n_updates = learner.n_updates_S[: 3 * design.n_models]
        assert bool((n_updates == 0).all() if name == "snapshot" else (n_updates > 0).all())
        assert int(learner.n_skipped_S.sum()) == 0
    assert design.model_dump() == before
    assert design == build_design(name, OPTIONS.get(name, {}), "a test")
    alone = run(LISTS, (POOLING,), (0, 1, 2), n_steps=20)
    for r in h.replications:
        assert same(h.item_TB(h.world(1, r)), alone.item_TB(alone.world(0, r)))


@pytest.mark.parametrize("name", DESIGNS)
def test_a_design_treats_a_replication_alike_whichever_others_run_beside_it(name: str):
    design = build_design(name, OPTIONS.get(name, {}), "a test")
    blocks = (Block("it", design, 0.5 if name in HALF else 0.4),)
    one, many = run(LISTS, blocks, (2,)), run(LISTS, blocks, (0, 1, 2))
    assert same(one.is_treated_TB(0), many.is_treated_TB(2))
    assert same(one.item_TB(0), many.item_TB(2))
    assert same(one.y_TBL(0), many.y_TBL(2))


def test_an_option_that_a_design_does_not_have_is_named():
    with pytest.raises(InputError, match=r"mode\.normalise"):
        build_design("splitting", {"normalise": True}, "mode")


def test_what_is_no_design_is_refused():
    with pytest.raises(InputError, match="is not a realdataexp"):
        build_design("realdataexp.models:MLP", {}, "mode")


# --- names -----------------------------------------------------------------------------------


def test_every_design_is_a_mode():
    assert ("global", "compare", *DESIGNS) == config.MODES


def test_a_config_has_each_designs_own_options_and_defaults(small_settings):
    loaded = load_config(small_settings())
    for name, design in config.design_sections().items():
        assert getattr(loaded, name) == design().model_dump(mode="json")
    options = {"splitting": {"normalize": False}, "switchback": {"block_steps": 3}}
    loaded = load_config(small_settings(**options, experiment={"designs": [*options]}))
    assert [design.options["normalize"] for design in loaded.designs()[:1]] == [False]
    assert loaded.designs()[1].options == {"block_steps": 3, "washout_steps": 0}


# --- a design that restricts the slate -------------------------------------------------------


class EvenRows(Design):
    """The treatment may show even rows only, the control odd ones; by the user's number."""

    n_models: ClassVar[int] = 2

    def assign(self, visits, p: float) -> Tensor:
        return visits.user_RB % 2 == 1

    def candidates(self, visits, slate, is_treated_RB: Tensor) -> Tensor:
        is_even_RBC = slate.item_WBC % 2 == 0
        return slate.is_candidate_WBC & (is_even_RBC == is_treated_RB.unsqueeze(-1))

    def weights(self, outcome: Outcome) -> Tensor:
        return torch.stack([~outcome.is_treated_RB, outcome.is_treated_RB], dim=1).float()


EVEN = Block("even", EvenRows(), 0.5)


@pytest.fixture(scope="module")
def restricted() -> tuple[Setting, History]:
    setting = Setting(n_candidates=3, n_steps=30)
    return setting, run(setting, (POOLING, EVEN), (0, 1, 2))


def allowed_rows(h: History, r: int) -> tuple[Tensor, Tensor]:
    """What a restricted world showed, T, B, C (-1 where not allowed), and whether anything."""
    slate_TBC, is_treated_TB = h.slate_TBC(h.world(1, r)), h.is_treated_TB(h.world(1, r))
    is_allowed = (slate_TBC >= 0) & ((slate_TBC % 2 == 0) == is_treated_TB.unsqueeze(-1))
    return slate_TBC.where(is_allowed, -1), is_allowed.any(-1)


def test_an_arm_recommends_only_what_its_design_allows(restricted):
    _, h = restricted
    n_not_first = 0
    for r in h.replications:
        rows_TBC, is_visit_TB = allowed_rows(h, r)
        item_TB = h.item_TB(h.world(1, r))
        is_shown_TB = (rows_TBC == item_TB.unsqueeze(-1)).any(-1)
        assert bool(is_shown_TB[is_visit_TB].all())
        n_not_first += int((rows_TBC[..., 0] < 0)[is_visit_TB].sum())
        assert same(torch.stack([s.is_visit_WB[h.world(1, r)] for s in h.steps]), is_visit_TB)
        assert not bool(is_visit_TB[h.user_TB(h.world(1, r)) >= 0].all())
    assert n_not_first > 20


def test_the_log_answers_every_visit_that_takes_place_and_no_other(restricted):
    """Also where the first row of the slate is not allowed."""
    setting, h = restricted
    play_N = torch.from_numpy(make_data(setting.n_rows_U).log.targets["play"])
    for r in h.replications:
        _, is_visit_TB = allowed_rows(h, r)
        y_TB = h.y_TBL(h.world(1, r))[..., 0]
        assert same(y_TB[~is_visit_TB], torch.full_like(y_TB[~is_visit_TB], torch.nan))
        assert same(y_TB[is_visit_TB], play_N[h.item_TB(h.world(1, r))[is_visit_TB]])


def test_a_restricted_design_changes_nothing_for_the_others(restricted):
    setting, h = restricted
    alone = run(setting, (POOLING,), (0, 1, 2))
    for r in h.replications:
        assert same(h.item_TB(h.world(0, r)), alone.item_TB(alone.world(0, r)))
        assert same(h.y_TBL(h.world(0, r)), alone.y_TBL(alone.world(0, r)))


def test_the_restricted_slate_is_what_weights_and_steps_see():
    seen = []

    class Looks(EvenRows):
        def weights(self, outcome: Outcome) -> Tensor:
            seen.append(outcome)
            return super().weights(outcome)

    h = run(Setting(), (SPLITTING, Block("looks", Looks(), 0.5)), (0, 1))
    assert len(seen) == len(h.steps)
    for outcome_, step in zip(seen, h.steps, strict=True):
        slate = outcome_.slate
        n_RB = slate.is_candidate_WBC.sum(-1)
        assert same(step.n_candidates_WB[2:], n_RB)
        is_even = slate.item_WBC % 2 == 0
        assert not bool(
            (slate.is_candidate_WBC & (is_even != step.is_treated_WB[2:, :, None])).any()
        )
        padding = ~slate.is_candidate_WBC.unsqueeze(1).expand_as(outcome_.score_RABC)
        assert bool((outcome_.score_RABC[padding] == -torch.inf).all())


# --- a newcomer's design, in one file --------------------------------------------------------

NEWCOMER = '''
"""Treated visits may be shown rows with an even number only."""
import torch
from pydantic import Field
from realdataexp.designs import Design

class EvenForTreated(Design):
    """Every third user is treated; both arms train the one model, the treated ones less."""

    treated_weight: float = Field(1.0, ge=0)

    def assign(self, visits, p):
        return visits.user_RB % 3 == 0

    def candidates(self, visits, slate, is_treated_RB):
        is_even_RBC = slate.item_WBC % 2 == 0
        return slate.is_candidate_WBC & (is_even_RBC | ~is_treated_RB.unsqueeze(-1))

    def weights(self, outcome):
        weight_RB = torch.where(outcome.is_treated_RB, self.treated_weight, 1.0)
        return weight_RB.unsqueeze(1)
'''


@pytest.fixture(scope="session")
def synthetic_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small data set in KuaiRand's files."""
    folder = tmp_path_factory.mktemp("synthetic") / "KuaiRand-Pure"
    write_synthetic(folder, SyntheticConfig(users=60, videos=80, rows=2400, seed=1))
    return folder


def test_a_newcomer_can_add_a_design_in_one_file(
    synthetic_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "newcomer.py").write_text(NEWCOMER)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("REALDATAEXP_CACHE", str(tmp_path / "cache"))
    mlp = {"hidden_layers": [8], "embedding_dim": 2}
    newcomer = {"name": "newcomer:EvenForTreated", "label": "even", "treated_weight": 0.5}
    settings = {
        "mode": "compare",
        "device": "cpu",
        "dataset": {"name": "KuaiRand-Pure", "path": str(synthetic_folder)},
        "feature": {"numerical": ["video_duration"], "categorical": ["tag"]},
        "labels": [
            {
                "name": "play",
                "target": "play_time_ms",
                "type": "numerical",
                "loss_function": "logMAE",
                "model_params": mlp,
                "alpha_C": -1.0,
            }
        ],
        "simulation": {"batch_size": 8, "n_candidate": 4, "n_steps": 10},
        "experiment": {"replications": 2, "designs": ["pooling", newcomer]},
    }
    folder = run_experiment(load_config(settings), tmp_path / "run")
    estimates = pl.read_parquet(folder / "estimates.parquet")
    estimates = estimates.filter(pl.col("se_method") == "welch")
    even = estimates.filter(pl.col("design") == "even")
    assert set(even["world"]) == {0, 1}
    assert even["value"].is_finite().all()
    assert (even["n_T"] > 0).all()
    assert (even["n_T"] < even["n_C"]).all()
    assert {d["design"] for d in load_json(folder)["comparison"]} == {"pooling", "even"}


def load_json(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "result.json").read_text())
