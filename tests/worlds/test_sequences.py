"""The world `sequences`, and loops whose arms show lists, against plain Python and hand values."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from support import TABLES
from torch import Tensor

from realdataexp import draws
from realdataexp.api import run
from realdataexp.arms import Arms
from realdataexp.config import Config, load_config
from realdataexp.designs.base import Outcome
from realdataexp.designs.shadow import Shadow
from realdataexp.device import choose_device
from realdataexp.errors import InputError, Warnings
from realdataexp.runs.experiment import resume_experiment
from realdataexp.runs.setup import set_up
from realdataexp.worlds.base import Slate, Visits, WorldSettings
from realdataexp.worlds.sequences import SequenceEnvironment, Sequences, SequenceWorld

B, C, K, T, R, N_BLOCKS = 8, 6, 3, 4, 3, 2
SETTINGS = {
    "mode": "compare",
    "dataset": {
        "name": "sequences", "history": T, "n_shown": K, "negatives": 2,
        "synthetic": {"users": 120, "items": 60},
    },
    "labels": [
        {
            "name": name, "target": "hit", "type": "binary", "loss_function": "BCE",
            "model": "SASRec", "arms": [arm],
            "model_params": {"width": width, "n_layers": 1, "dropout": 0.0, "longest": T},
        }
        for name, width, arm in (("wide", 8, "treatment"), ("slim", 4, "control"))
    ],
    "outcomes": [{"name": x, "target": x} for x in ("hit", "reciprocal_rank", "ndcg")],
    "pretrain": {"batch_size": 64, "share": 0.5},
    "simulation": {
        "batch_size": B, "n_candidate": C, "n_steps": 6, "validate_every": 3, "save_every": 2,
        "learning_rate": 0.01, "processes": 1,
    },
    "experiment": {
        "replications": R, "starts": 2, "designs": ["pooling", "splitting", "shadow", "weighting"],
    },
    "logging": {"pictures": False},
}  # fmt: skip


def config(*overrides: str) -> Config:
    return load_config(SETTINGS, list(overrides))


def environment(*overrides: str) -> SequenceEnvironment:
    own = config(*overrides)
    assert isinstance(own.dataset, Sequences)
    return own.dataset.open(own, choose_device("cpu"), Warnings())


def world(
    own: SequenceEnvironment, replications: tuple[int, ...] = (0, 1, 2), n_steps: int = 6
) -> SequenceWorld:
    settings = WorldSettings(0, replications, N_BLOCKS, B, C, n_steps, 1, "user")
    return own.world(("hit", "reciprocal_rank", "ndcg"), settings)


def items_of(own: SequenceEnvironment, user: int) -> list[int]:
    h = own.histories
    return h.item_N[h.offset_U1[user] : h.offset_U1[user + 1]].tolist()


# --- visits and slates ---------------------------------------------------------------------------


def test_users_have_their_later_items_one_by_one_in_order_and_no_others_visit() -> None:
    own, n_steps = environment(), 200
    play = world(own, (0, 1), n_steps)
    had: dict[tuple[int, int], list[int]] = {}
    step = 0
    while play.has_visitors:
        visits = play.draw(step)
        for r, b in torch.nonzero(visits.is_visit_RB).tolist():
            user = int(visits.user_RB[r, b])
            had.setdefault((r, user), []).append(int(play._plan.next_RB[r, b]))
        step += 1
    for r in (0, 1):
        users = set(np.flatnonzero(own.starts[r]).tolist())
        assert {user for of, user in had if of == r} == users
        for user in users:
            n = len(items_of(own, user))
            assert had[r, user] == items_of(own, user)[max(1, n // 2) :]
    assert not play.draw(step).is_visit_RB.any()


def test_a_slate_holds_the_next_item_among_others_that_the_user_never_had() -> None:
    own = environment()
    play = world(own)
    places, sizes = [], set()
    for step in range(6):
        visits = play.draw(step)
        slate = play.slate(visits)
        assert torch.equal(slate.video_WBC[:R], slate.video_WBC[R:])  # the same for all designs
        for r, b in torch.nonzero(visits.is_visit_RB).tolist():
            on = slate.is_candidate_WBC[r, b]
            shown = slate.video_WBC[r, b][on].tolist()
            assert not on.int().diff().gt(0).any() and len(set(shown)) == len(shown)
            next_item = int(play._plan.next_RB[r, b])
            others = set(shown) - {next_item}
            assert not others & set(items_of(own, int(visits.user_RB[r, b])))
            places.append(shown.index(next_item))
            sizes.add(len(shown))
    assert sizes == {C}
    # drawn, so about as often in each place
    assert np.bincount(places, minlength=C).min() > len(places) / C / 2


def test_candidates_are_drawn_by_their_popularity_to_a_power() -> None:
    counts = {}
    for power in (0.0, 2.0):
        own = environment(f"dataset.candidate_power={power}")
        place_X = np.tile(own.replay_places(0), 20)
        item_XC = own.slates(draws.key(0, "x", torch.arange(len(place_X))), place_X, C)
        other = item_XC[item_XC != own.histories.item_N[place_X][:, None]]
        drawn = np.bincount(other[other >= 0], minlength=own.histories.n_items)
        counts[power] = np.corrcoef(drawn, own.popularity(0))[0, 1]
    assert counts[2.0] > 0.8 and counts[0.0] < 0.2


def test_a_user_who_had_nearly_everything_gets_a_short_slate() -> None:
    own = environment()
    own._had = np.arange(own.histories.n_users * own.histories.n_items)
    own._had = own._had[own._had % own.histories.n_items != 7]  # all but one item
    place_X = own.replay_places(0)[:20]
    item_XC = own.slates(draws.key(0, "x", torch.arange(20)), place_X, C)
    assert ((item_XC >= 0).sum(1) <= 2).all() and (item_XC[:, 2:] == -1).all()
    assert (item_XC == own.histories.item_N[place_X][:, None]).any(1).all()


def test_models_see_the_items_before_the_visit_the_latest_first() -> None:
    own = environment()
    play = world(own)
    visits = play.draw(0)
    batch = play.slate(visits).batch
    for r, b in torch.nonzero(visits.is_visit_RB).tolist():
        past = items_of(own, int(visits.user_RB[r, b]))
        past = past[: past.index(int(play._plan.next_RB[r, b]))][::-1][:T]
        on = batch.sequence["history_mask"][r, b].bool()
        assert batch.sequence["history_cat"][r, b, on, 0].tolist() == past
        assert not batch.sequence["history_cat"][r, b, ~on].any()


# --- what the user takes -------------------------------------------------------------------------


def answers(shown_BK: list[list[int]], next_place: int) -> tuple[Tensor, Tensor]:
    """What is taken of lists (places of a slate 10, 11, ...) by users who want one item."""
    own = environment(f"dataset.n_shown={len(shown_BK[0])}")
    play = world(own, (0,))
    visits = play.draw(0)
    slate = play.slate(visits)
    video_WBC = (10 + torch.arange(C)).expand(N_BLOCKS, B, C)
    slate = Slate(video_WBC, video_WBC, torch.ones_like(video_WBC, dtype=torch.bool), slate.batch)
    play._plan.next_RB.fill_(10 + next_place)
    shown_WBK = torch.tensor([shown_BK[b % len(shown_BK)] for b in range(B)]).expand(
        N_BLOCKS, -1, -1
    )
    choice_WB = play.taken(visits, slate, shown_WBK)
    return choice_WB, play.feedback(visits, slate, choice_WB)


def test_the_user_takes_the_next_item_where_the_list_holds_it_and_its_place_counts() -> None:
    choice_WB, y_WBL = answers([[2, 4, 0], [5, 3, 2], [1, 0, 3]], next_place=2)
    assert choice_WB[0, :3].tolist() == [2, 2, 1]  # the first shown where nothing is taken
    expected = [[1, 1, 1], [1, 1 / 3, 1 / math.log2(4)], [0, 0, 0]]
    torch.testing.assert_close(y_WBL[0, :3], torch.tensor(expected, dtype=torch.float32))
    assert torch.equal(y_WBL[0], y_WBL[1])


def test_without_lists_the_pick_is_what_is_answered() -> None:
    choice_WB, y_WBL = answers([[2], [3]], next_place=2)
    assert choice_WB[0, :2].tolist() == [2, 3]
    assert y_WBL[0, :2].tolist() == [[1, 1, 1], [0, 0, 0]]


def test_lists_are_the_best_in_order_of_equal_ones_the_first_and_padding_last() -> None:
    score_WABC = torch.tensor([[[[1.0, 3.0, 3.0, -torch.inf]], [[5.0, 5.0, 6.0, -torch.inf]]]])
    arms = Arms([[1.0], [1.0]])
    lists_WABK = arms.lists(score_WABC, score_WABC.argmax(-1), 4)
    assert lists_WABK[0, :, 0].tolist() == [[1, 2, 0, 3], [2, 0, 1, 3]]
    pick_WAB = torch.tensor([[[0], [2]]])
    assert torch.equal(arms.lists(score_WABC, pick_WAB, 1), pick_WAB.unsqueeze(-1))


def test_arms_agree_where_their_lists_do_not_only_their_heads() -> None:
    shown_RABK = torch.tensor([[[[0, 1], [0, 1], [2, 1]], [[0, 1], [0, 2], [1, 2]]]])
    visits = Visits(
        0, torch.arange(1), torch.arange(3)[None], torch.ones(1, 3, dtype=torch.bool),
        torch.zeros(1, 3), torch.full((1, 3), 3), torch.zeros(1),
    )  # fmt: skip
    z_RB = torch.tensor([[True, False, True]])
    outcome = Outcome(
        visits, None, z_RB, 0.25, torch.zeros(1, 2, 3, 3), shown_RABK[..., 0],  # type: ignore[arg-type]
        torch.zeros(1, 3, 1), None, shown_RABK, torch.tensor([[1, 1, 1]]),
    )  # fmt: skip
    assert outcome.agree_RB.tolist() == [[True, False, False]]
    assert outcome.choice_RB.tolist() == [[1, 1, 1]]
    third = 1 / 0.75
    torch.testing.assert_close(
        Shadow().weights(outcome), torch.tensor([[[1.0, third, 0.0], [1.0, 0.0, 4.0]]])
    )


# --- pretraining and validation ------------------------------------------------------------------


def test_pretraining_rows_are_early_items_that_came_and_others_that_did_not() -> None:
    own = environment()
    rows = own.pretraining(("hit", "ndcg"), 1)
    batch, (hit_1B, ndcg_1B) = rows.read(np.arange(rows.n_rows))
    assert hit_1B[0].tolist() == ndcg_1B[0].tolist() == [1, 0, 0] * (rows.n_rows // 3)
    expected = []
    for user in np.flatnonzero(own.starts[1]):
        items = items_of(own, int(user))
        expected += items[1 : max(1, len(items) // 2)]
    cat_B = batch.candidate["video_cat"][0, :, 0, 0].numpy()
    assert cat_B[::3].tolist() == expected
    user_B = own.histories.user_N[own.pretrain_places(1)].repeat(3)
    is_own = [c in items_of(own, u) for u, c in zip(user_B, cat_B, strict=True)]
    assert is_own == [True, False, False] * (rows.n_rows // 3)
    alone = rows.read(np.array([5]))[0].candidate["video_cat"]
    assert int(alone) == cat_B[5]  # a row depends on its place alone
    y = np.concatenate(list(own.label_values("hit")))
    assert y.mean() == pytest.approx(1 / 3) and len(y) == own.pretraining(("hit",), 0).n_rows


def test_held_out_users_neither_pretrain_nor_visit() -> None:
    own = environment()
    held_out = own.held_out(("hit",), 1000, C, 0)
    assert held_out.n_users == (~own.starts[0]).sum()
    assert (held_out.y_BCL[..., 0] == 1).sum(1).tolist() == [1] * held_out.n_users
    mine = own.histories.user_N[np.r_[own.pretrain_places(0), own.replay_places(0)]]
    assert own.starts[0][mine].all() and not np.array_equal(own.starts[0], own.starts[1])


def test_candidates_and_rivals_know_pretraining_rows_only() -> None:
    own = environment()
    counts = np.zeros(own.histories.n_items)
    for user in np.flatnonzero(own.starts[0]):
        items = items_of(own, int(user))
        counts += np.bincount(items[: max(1, len(items) // 2)], minlength=len(counts))
    assert own.popularity(0).tolist() == counts.tolist()
    popular = own.rivals()["popularity"].scores(np.zeros((1, 1), dtype=np.int64))
    assert popular[0].tolist() == counts.tolist()


# --- whole runs ----------------------------------------------------------------------------------


def files(folder: Path) -> dict[str, Any]:
    return {name: (folder / name).read_bytes() for name in TABLES}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "run"
    run(config(), out=folder)
    return folder


def test_processes_and_an_interruption_change_no_bit(whole: Path, tmp_path: Path) -> None:
    run(config("simulation.processes=1", "experiment.replications=4"), out=tmp_path / "one")
    run(config("simulation.processes=2", "experiment.replications=4"), out=tmp_path / "two")
    assert files(tmp_path / "one") == files(tmp_path / "two")
    # replications do not depend on how many there are
    few, more = (pl.read_parquet(x / "outcomes.parquet") for x in (whole, tmp_path / "one"))
    assert few.equals(more.filter(pl.col("world") < R))


def test_a_resumed_run_is_the_run(whole: Path, tmp_path: Path) -> None:
    own = set_up(config(), Warnings())
    assert own.context.n_users is None  # slates depend on nothing that was shown
    first = world(environment())
    visits = [first.draw(step) for step in range(3)]
    other = world(environment())
    other.load_state({name: x.clone() for name, x in first.state().items()})
    assert torch.equal(first.draw(3).user_RB, other.draw(3).user_RB) and visits
    with pytest.raises(ValueError, match="drew 7 of 6 steps"):
        other.load_state({"n_drawn": torch.tensor(7)})
    _interrupted(tmp_path / "run")
    resume_experiment(tmp_path / "run")
    assert files(tmp_path / "run") == files(whole)


def _interrupted(folder: Path) -> None:
    """A run that ends after four steps."""
    from realdataexp.worlds import sequences

    draw = sequences.SequenceWorld.draw

    def fails(self: SequenceWorld, step: int) -> Visits:
        if step == 4:
            raise RuntimeError("the machine is gone")
        return draw(self, step)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(RuntimeError):
        patch.setattr(sequences.SequenceWorld, "draw", fails)
        run(config(), out=folder)


def test_each_round_reports_what_the_arms_showed(whole: Path) -> None:
    shown = pl.read_parquet(whole / "metrics.parquet").filter(split="shown")
    assert set(shown["step"]) >= {3, 6} and set(shown["model"]) == {"C", "T"}
    assert set(shown["metric"]) == {
        "coverage", "entropy", "gini", "margin_markov", "margin_popularity"
    }  # fmt: skip
    # the margin is that of the hits over one number a replication: of visits, not of designs
    outcomes = pl.read_parquet(whole / "outcomes.parquet").filter(label="hit", design="global")
    hits = outcomes.group_by("world", "arm", pl.col("step") // 2).agg(pl.col("sum").sum())
    for r in range(R):
        for metric in ("margin_markov", "margin_popularity"):
            rival = set()
            for arm in "CT":
                row = shown.filter(metric=metric, step=2, world=r, design=f"global_{arm}")
                hit = hits.filter(world=r, arm=arm, step=0)["sum"].item()
                rival.add(round(hit - row["value"].item() * row["n"].item(), 3))
            assert len(rival) == 1 and 0 <= rival.pop() <= 2 * B


def test_equal_models_have_no_effect(tmp_path: Path) -> None:
    result = run(config("labels.slim.model_params.width=8", "mode=global"), out=tmp_path / "run")
    assert (
        result.outcomes.height
        and json.loads((tmp_path / "run/result.json").read_text())["gte_results"]["GTE_hit"] == 0.0
    )


# --- bad input -----------------------------------------------------------------------------------

EXPLORING = json.dumps(
    {
        "control": {"score": {"slim": 1.0}},
        "treatment": {"score": {"wide": 1.0}, "explore": {"kind": "softmax", "temperature": 1.0}},
    }
)
FAULTS = {
    "more shown": (["dataset.n_shown=7"], r"^dataset\.n_shown = 7: must be at most simulation"),
    "explore": ([f"arms={EXPLORING}"], r"^dataset\.n_shown = 3: the propensity of a"),
    "outcome": (["outcomes.0.target=click"], r"^outcomes\.0\.target = 'click': sequences has the"),
    "rows": (["pretrain.rows=early"], r"^pretrain\.rows = 'early': has no meaning in sequences"),
    "candidates": (["simulation.n_candidate=61"], r"^simulation\.n_candidate = 61: .* 60 items"),
    "no data": (["dataset.synthetic=null"], r"^dataset\.path = null: no data; pass --data DIR"),
    "both": (["dataset.path=/nowhere"], r"^dataset\.synthetic: stands next to the folder /nowhere"),
    "short": (["pretrain.share=0.01"], r"^pretrain\.share = 0\.01: leaves 0 items to pretrain on"),
    "format": (["dataset.format=inter"], r"^dataset: .*format has no effect beside synthetic"),
    "width": (["labels.wide.model_params.width=5"], r"labels\.0\.model_params: width = 5 must"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_bad_input_is_one_line(name: str) -> None:
    overrides, said = FAULTS[name]
    with pytest.raises(InputError, match=said) as caught:
        set_up(config(*overrides), Warnings())
    assert len(caught.value.faults) == 1


def test_a_model_of_sequences_needs_a_history() -> None:
    with pytest.raises(InputError, match=r"^labels\.0\.model = 'SASRec': .* no history_mask: set"):
        set_up(
            load_config("si2023", ["labels.0.model=SASRec", "labels.0.model_params={}"]), Warnings()
        )


# --- codes and vectors ---------------------------------------------------------------------------

CODED = ("dataset.codes={n_codes: 8, n_levels: 2}", "dataset.vectors={kind: svd, size: 4}")


def test_models_see_the_codes_and_vectors_of_the_items() -> None:
    own = environment(*CODED)
    play = world(own)
    visits = play.draw(0)
    slate = play.slate(visits)
    batch = slate.batch
    on = slate.is_candidate_WBC[: batch.shape[0]]
    for name, table in (("codes", own.tables["codes"]), ("vector", own.tables["vector"])):
        assert torch.equal(
            batch.candidate[f"video_{name}"][on], table[slate.video_WBC[: batch.shape[0]][on]]
        )
        is_past = batch.sequence["history_mask"] > 0
        item = batch.sequence["history_cat"][..., 0][is_past].long()
        assert is_past.any()
        assert torch.equal(batch.sequence[f"history_{name}"][is_past], table[item])
        assert own.schema.inputs[f"video_{name}"].shape == table.shape[1:]
    assert len(own.tables["codes"].unique(dim=0)) == own.n_items


def test_given_codes_tell_data_apart_and_are_doubtful(tmp_path: Path) -> None:
    path, identities = tmp_path / "codes.json", []
    names, warnings = list(environment().histories.item_names), Warnings()
    for turned in (names, names[::-1]):
        path.write_text(json.dumps({v: [i // 9, i] for i, v in enumerate(turned)}))
        own = config(f"dataset.codes={{file: {path}}}")
        assert isinstance(own.dataset, Sequences)
        identities.append(own.dataset.open(own, choose_device("cpu"), warnings).identity())
    assert identities[0] != identities[1]
    assert {x["code"] for x in warnings} == {"given_items"}


def test_a_generative_arm_is_tested_against_sasrec(tmp_path: Path) -> None:
    """Whichever processes compute it, to the bit; and the two arms differ."""
    generative = (
        *CODED, "labels.wide.model=Generative", "experiment.replications=4",
        f"labels.wide.model_params={{width: 8, n_layers: 1, dropout: 0.0, longest: {T}}}",
    )  # fmt: skip
    found = []
    for n in (1, 2):
        folder = run(config(*generative, f"simulation.processes={n}"), out=tmp_path / str(n)).folder
        found.append(pl.read_parquet(folder / "outcomes.parquet"))
    assert found[0].equals(found[1])
    designs = json.loads((tmp_path / "1" / "result.json").read_text())["comparison"]
    assert {x["design"] for x in designs} == {"pooling", "splitting", "shadow", "weighting"}
    shown = found[0].filter(pl.col("design") == "global").group_by("arm").agg(pl.col("sum").sum())
    assert shown["sum"].n_unique() == 2
