"""A user's last items: of the log before the test, then what each world recommended itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from support import CPU, Setting, make_data
from torch import Tensor, nn

from realdataexp import draws
from realdataexp.api import run
from realdataexp.config import load_config
from realdataexp.data.features import fit_features
from realdataexp.data.log import RowRanges, Split
from realdataexp.designs.pooling import Pooling
from realdataexp.errors import InputError, Warnings
from realdataexp.models import Batch, FeatureSchema, Input
from realdataexp.runs.experiment import resume_experiment
from realdataexp.runs.setup import set_up
from realdataexp.worlds.base import WorldSettings
from realdataexp.worlds.replay import ReplayEnvironment, ReplayWorld

T, N_BLOCKS, REPLICATIONS = 3, 2, (0, 4)
SETTING = Setting(n_steps=8)
LOG = make_data(SETTING.n_rows_U).log
HELD_OUT = (2, 7)  # users


def environment(
    numerical: tuple[str, ...] = ("video_duration",),
    categorical: tuple[str, ...] = ("user_active_degree", "tag"),
) -> ReplayEnvironment:
    """The first two rows of each user pretrain, the others are replayed; two users validate."""
    data, start_U, end_U = make_data(SETTING.n_rows_U), LOG.offset_U1[:-1], LOG.offset_U1[1:]
    is_training_U = ~np.isin(np.arange(LOG.n_users), HELD_OUT)
    features = fit_features(
        data, numerical, categorical, is_training_U,
        missing_indicator=False, warnings=Warnings(),
    )  # fmt: skip
    split = Split(
        is_training_U,
        RowRanges(start_U, np.where(is_training_U, start_U + 2, start_U)),
        RowRanges(start_U + 2, np.where(is_training_U, end_U, start_U + 2)),
        RowRanges(start_U, np.where(is_training_U, start_U, end_U)),
        "early",
    )
    return ReplayEnvironment(data, [split], features, CPU, seed=3, n_history=T)


def world() -> ReplayWorld:
    settings = WorldSettings(3, REPLICATIONS, N_BLOCKS, 4, 5, SETTING.n_steps, 1, "user")
    return environment().world(("play",), settings)


def shown(batch: Batch, s: int, b: int) -> list[int]:
    """The videos of a visit's history, told by their length and tags."""
    table = environment()._store._video
    rows = [
        [tuple(x.tolist()) for x in table[f"video_{block}"]] for block in ("num", "cat", "weight")
    ]
    videos = list(zip(*rows, strict=True))
    found = []
    for t in range(T):
        own = tuple(
            tuple(batch.sequence[f"history_{block}"][s, b, t].tolist())
            for block in ("num", "cat", "weight")
        )
        if batch.sequence["history_mask"][s, b, t]:
            found.append(videos.index(own))
        else:
            assert not any(any(part) for part in own)
            found.append(-1)
    return found


def step(own: ReplayWorld, number: int) -> tuple[Tensor, Batch, Tensor, Tensor]:
    """One step with choices at random, of which some visits of the second block do not happen."""
    visits = own.draw(number)
    slate = own.slate(visits)
    W = N_BLOCKS * len(REPLICATIONS)
    key_W = draws.key(1, "choice", torch.arange(W), number)
    choice_WB = (draws.uniform(key_W, 4) * visits.n_candidates_RB.repeat(N_BLOCKS, 1)).long()
    happens_WB = visits.is_visit_RB.repeat(N_BLOCKS, 1)
    happens_WB[len(REPLICATIONS) :, number % 4] = False
    allowed_WBC = slate.is_candidate_WBC & happens_WB.unsqueeze(-1)
    slate = replace(slate, is_candidate_WBC=allowed_WBC)
    item_WB1 = own.exposure(visits, slate, choice_WB.unsqueeze(-1))["item"]
    own.feedback(visits, slate, choice_WB)
    video_WB = slate.video_WBC.gather(2, choice_WB.unsqueeze(-1)).squeeze(-1)
    assert torch.equal(item_WB1[..., 0], video_WB.where(allowed_WBC.any(-1), -1))
    return visits.user_RB, slate.batch, video_WB, happens_WB


def test_each_world_shows_its_own_recommendations_then_the_log_before_the_test() -> None:
    own = world()
    # each user's list in each world, the latest last
    past = [
        [LOG.video_N[first : first + 2].tolist() for first in LOG.offset_U1[:-1]]
        for _ in range(N_BLOCKS * len(REPLICATIONS))
    ]
    lengths, n_apart = set(), 0
    for number in range(SETTING.n_steps):
        user_RB, batch, video_WB, happens_WB = step(own, number)
        for w, of_world in enumerate(past):
            for b, user in enumerate(user_RB[w % len(REPLICATIONS)].tolist()):
                expected = of_world[user][::-1][:T]
                if happens_WB[w % len(REPLICATIONS), b]:  # not padding
                    assert shown(batch, w, b) == expected + [-1] * (T - len(expected))
                    lengths.add(len(of_world[user]))
                    n_apart += of_world[user] != past[w % len(REPLICATIONS)][user]
        for w, b in torch.nonzero(happens_WB).tolist():
            past[w][int(user_RB[w % len(REPLICATIONS), b])].append(int(video_WB[w, b]))
    assert min(lengths) == 2 and max(lengths) > T and n_apart > 10


def test_a_world_that_goes_on_from_a_state_shows_the_same_history() -> None:
    one, other = world(), world()
    for number in range(4):
        step(one, number)
    other.load_state({name: x.clone() for name, x in one.state().items()})
    for number in range(4, 6):
        ours, theirs = step(one, number)[1], step(other, number)[1]
        assert all(torch.equal(x, theirs.sequence[name]) for name, x in ours.sequence.items())
    state = one.state() | {"shown": torch.full_like(one.state()["shown"], 2**30)}
    with pytest.raises(ValueError, match="contradict"):
        other.load_state(state)


def test_a_row_that_pretrains_shows_the_users_rows_before_it() -> None:
    rows = environment().pretraining(("play",), 0)
    batch, _ = rows.read(np.arange(4))  # the first two rows of users 0 and 1
    first, second = LOG.video_N[LOG.offset_U1[:2]].tolist()
    assert [shown(batch, 0, b) for b in range(4)] == [
        [-1] * T, [first, -1, -1], [-1] * T, [second, -1, -1]
    ]  # fmt: skip


def test_a_held_out_visit_shows_the_rows_before_its_earliest_candidate() -> None:
    held_out = environment().held_out(("play",), 10, 2, 0)
    for b, user in enumerate(HELD_OUT):
        own = slice(*LOG.offset_U1[user : user + 2])
        videos, plays = LOG.video_N[own].tolist(), LOG.targets["play"][own].tolist()
        earliest = min(plays.index(y) for y in held_out.y_BCL[b, :, 0].tolist())
        expected = videos[:earliest][::-1][:T]
        assert shown(held_out.batch, 0, b) == expected + [-1] * (T - len(expected))


def test_the_schema_tells_of_the_history() -> None:
    inputs = environment().schema.inputs
    assert inputs["history_mask"] == Input("sequence", (T,))
    for block in ("num", "cat", "weight"):
        video = inputs[f"video_{block}"]
        assert inputs[f"history_{block}"] == Input("sequence", (T, *video.shape), video.n_ids)


def test_a_model_that_sees_some_features_sees_no_others_of_the_history() -> None:
    own, names = environment(categorical=("user_active_degree", "video_type", "tag")), ("tag",)
    alone = environment(numerical=(), categorical=names)
    place_B = np.arange(16)
    (found, _), (expected, _) = (x.pretraining(("play",), 0).read(place_B) for x in (own, alone))
    found = found.select(own.schema, names)
    assert own.schema.select(names).inputs == alone.schema.inputs
    assert found.sequence.keys() == expected.sequence.keys()
    for name, x in expected.sequence.items():
        assert torch.equal(found.sequence[name], x), name


# --- in a run --------------------------------------------------------------------------------


class LikeTheLast(nn.Module):
    """A candidate's numbers times the mean of those of the user's last items."""

    inputs = ("video_num", "history_num", "history_mask")

    def __init__(self, schema: FeatureSchema, n_outputs: int) -> None:
        super().__init__()
        n = schema.video.n_numerical
        self.scale = nn.Parameter(torch.ones(n))
        self.out = nn.Linear(2 * n, n_outputs)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        mask_BT1 = inputs["history_mask"].unsqueeze(-1)
        mean_BD = (inputs["history_num"] * mask_BT1).sum(1) / mask_BT1.sum(1).clamp_min(1.0)
        video_BCD = inputs["video_num"]
        both = torch.cat([video_BCD, video_BCD * mean_BD.unsqueeze(1) * self.scale], dim=-1)
        return self.out(both)


def settings_of(small_settings: Callable[..., dict[str, Any]], **changes: Any) -> dict[str, Any]:
    settings = small_settings(
        experiment={"replications": 4, "starts": 1, "designs": ["pooling"]}, **changes
    )
    first, *others = settings["labels"]
    own = f"{__name__}:LikeTheLast"
    return settings | {"labels": [{**first, "model": own, "model_params": {}}, *others]}


def test_a_models_history_is_the_worlds_own_whatever_the_processes(
    small_settings: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    found = []
    for processes in (1, 2):
        settings = settings_of(
            small_settings, feature={"history": T}, simulation={"processes": processes}
        )
        found.append(run(settings, out=tmp_path / str(processes)).outcomes)
    assert found[0].equals(found[1])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"labels": None}, "feature.history = 3: no label's model reads it"),
        ({"pretrain": {"rows": "overlap"}}, "the very rows that are replayed"),
        ({"feature": {"history": 0}}, "this run has no 'history_num'"),
    ],
)
def test_a_history_without_effect_or_sense_is_one_line(
    small_settings: Callable[..., dict[str, Any]], changes: dict[str, Any], said: str
) -> None:
    blocks = {k: x for k, x in changes.items() if x is not None}
    settings = settings_of(small_settings, **({"feature": {"history": T}} | blocks))
    if "labels" in changes:
        settings["labels"] = small_settings()["labels"]
    with pytest.raises(InputError) as caught:
        set_up(load_config(settings), Warnings())
    assert [said in line for line in caught.value.faults] == [True]


def test_a_run_goes_on_with_the_histories_that_it_had(
    small_settings: Callable[..., dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Killed between two rounds of training, with lessons that wait for the next."""
    loop = {"processes": 1, "retrain_every": 4, "save_every": 3}
    settings = settings_of(small_settings, feature={"history": T}, simulation=loop)
    alone, real, n = run(settings, out=tmp_path / "alone"), Pooling.weights, 0

    def weights(self: Pooling, outcome: Any) -> Tensor:
        nonlocal n
        n += 1
        if n > 3 * 7:  # of three blocks: the truth's two, and pooling
            raise KeyboardInterrupt
        return real(self, outcome)

    with monkeypatch.context() as patch:
        patch.setattr(Pooling, "weights", weights)
        with pytest.raises(KeyboardInterrupt):
            run(settings, out=tmp_path / "stopped")
    stopped = resume_experiment(tmp_path / "stopped")
    assert pl.read_parquet(stopped / "outcomes.parquet").equals(alone.outcomes)
