"""Codes and vectors of videos in a world of rows: what they are made of, and who sees them.

A code stands for one video, so what a model sees of a history tells which videos these are.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from support import CPU
from torch import Tensor

from realdataexp.api import run
from realdataexp.config import Config, load_config
from realdataexp.data.log import DataSet, Split
from realdataexp.draws import start_seed
from realdataexp.errors import InputError, Warnings
from realdataexp.runs.setup import set_up
from realdataexp.worlds.base import WorldSettings
from realdataexp.worlds.kuairand import KuaiRand
from realdataexp.worlds.logged import split_users_and_rows
from realdataexp.worlds.replay import ReplayEnvironment
from realdataexp.worlds.shown_videos import shown_videos

Settings = Callable[..., dict[str, Any]]
T, SEED = 3, start_seed(0, 0)
CODES = {"n_codes": 8, "n_levels": 2, "vectors": {"size": 4}}
SMALL = {"width": 8, "n_layers": 1, "n_heads": 2, "dropout": 0.0, "longest": T}


def config_of(small_settings: Settings, *overrides: str, **changes: Any) -> Config:
    """Generative for the treatment, SASRec for the control, on the small data."""
    settings = small_settings(
        feature={"history": T},
        experiment={"replications": 4, "starts": 2, "designs": ["pooling", "splitting", "shadow"]},
        labels=[
            {
                "name": name, "target": "is_click", "type": "binary", "loss_function": "BCE",
                "model": model, "arms": [arm], "model_params": SMALL | own,
            }
            for name, model, arm, own in (
                ("sasrec", "SASRec", "control", {}),
                ("generative", "Generative", "treatment", {"prefix": "items"}),
            )
        ],
        outcomes=[{"name": "click", "target": "is_click"}],
    )  # fmt: skip
    settings["dataset"] |= {"codes": CODES, "vectors": {"size": 4}} | changes
    return load_config(settings, list(overrides))


def opened(config: Config) -> tuple[KuaiRand, DataSet, list[Split]]:
    world = config.dataset
    assert isinstance(world, KuaiRand)
    data = world.data(config, config.cache_dir(), Warnings())
    return world, data, [split_users_and_rows(config, data, Warnings(), i) for i in range(2)]


@pytest.mark.parametrize("rows", ["early", "share"])
def test_nothing_that_is_replayed_or_validates_changes_a_code(
    small_settings: Settings, rows: str
) -> None:
    config = config_of(small_settings, f"pretrain.rows={rows}")
    world, data, splits = opened(config)
    shown = shown_videos(world, data, splits, SEED, Warnings(), Path)
    is_later_N = np.zeros(data.log.n_rows, dtype=bool)
    for split in splits:
        is_later_N[split.replay.locate(np.arange(split.replay.n_rows))[1]] = True
    validation = splits[0].validation
    is_later_N[validation.locate(np.arange(validation.n_rows))[1]] = True
    rng = np.random.default_rng(0)
    other_N = rng.integers(data.videos.height, size=data.log.n_rows).astype(np.int32)

    def shown_with(video_N: np.ndarray) -> dict[str, np.ndarray]:
        changed = replace(data, log=replace(data.log, video_N=video_N))
        return shown_videos(world, changed, splits, SEED, Warnings(), Path)

    same = shown_with(np.where(is_later_N, other_N, data.log.video_N))
    assert all(np.array_equal(x, same[name]) for name, x in shown.items())
    moved = shown_with(np.where(is_later_N, data.log.video_N, other_N))
    assert not any(np.array_equal(x, moved[name]) for name, x in shown.items())


def videos(codes: Tensor, shown: dict[str, np.ndarray]) -> np.ndarray:
    """Which videos have these codes; -1 where all are 0, as no history's end is a video."""
    known = {tuple(row): v for v, row in enumerate(shown["codes"].tolist())}
    assert len(known) == len(shown["codes"])
    rows = [tuple(row) for row in codes.flatten(0, -2).tolist()]
    return np.array([known[row] for row in rows]).reshape(codes.shape[:-1])


def test_models_see_the_codes_and_vectors_of_candidates_and_of_the_users_rows_before(
    small_settings: Settings,
) -> None:
    config = config_of(small_settings)
    world, data, splits = opened(config)
    shown = shown_videos(world, data, splits, SEED, Warnings(), Path)
    own = world.open(config, CPU, Warnings())
    held_out = own.held_out(("is_click",), 20, 5, 0)
    batch, on = held_out.batch, held_out.is_candidate_BC
    assert held_out.video_BC is not None
    video_X = held_out.video_BC[on].numpy()
    np.testing.assert_array_equal(videos(batch.candidate["video_codes"][0][on], shown), video_X)
    np.testing.assert_array_equal(
        batch.candidate["video_vector"][0][on].numpy(), shown["vector"][video_X]
    )
    rows = splits[0].pretrain
    place_B = np.arange(0, rows.n_rows, 7)
    seen = own.pretraining(("is_click",), 0).read(place_B)[0].sequence
    is_past_BT = seen["history_mask"][0] > 0
    user_B, row_B = rows.locate(place_B)
    n_before_B = row_B - rows.start_U[user_B]
    np.testing.assert_array_equal(is_past_BT.sum(1).numpy(), n_before_B.clip(max=T))
    b, t = np.nonzero(is_past_BT.numpy())
    before_X = data.log.video_N[row_B[b] - 1 - t]
    np.testing.assert_array_equal(videos(seen["history_codes"][0][is_past_BT], shown), before_X)
    np.testing.assert_array_equal(
        seen["history_vector"][0][is_past_BT].numpy(), shown["vector"][before_X]
    )


def test_a_generative_arm_is_tested_against_sasrec(
    small_settings: Settings, tmp_path: Path
) -> None:
    """Whichever processes compute it, to the bit; and the two arms differ."""
    found = []
    for n in (1, 2):
        config = config_of(small_settings, f"simulation.processes={n}")
        folder = run(config, out=tmp_path / str(n)).folder
        found.append(pl.read_parquet(folder / "outcomes.parquet"))
    assert found[0].equals(found[1])
    designs = json.loads((tmp_path / "1" / "result.json").read_text())["comparison"]
    assert {x["design"] for x in designs} == {"pooling", "splitting", "shadow"}
    shown = found[0].filter(pl.col("design") == "global").group_by("arm").agg(pl.col("sum").sum())
    assert shown["sum"].n_unique() == 2
    metrics = pl.read_parquet(tmp_path / "1" / "metrics.parquet").filter(pl.col("split") == "shown")
    narrowing = {"coverage", "gini", "entropy", "margin_popularity"}
    assert set(metrics["metric"]) == narrowing, "whether what is shown narrows"


def test_the_margin_over_counting_equals_a_plain_loop(small_settings: Settings) -> None:
    config = config_of(small_settings)
    own = config.dataset.open(config, CPU, Warnings())
    assert isinstance(own, ReplayEnvironment)
    settings = WorldSettings(3, (0, 1, 2), 2, 8, 6, 3, 1, "user")  # 3 replications, 2 designs
    world, n_apart = own.world(("is_click",), settings), 0
    for step in range(3):
        visits = world.draw(step)
        slate = world.slate(visits)
        place_WB = step % slate.is_candidate_WBC.sum(-1).clamp_min(1)
        found_WB = world.exposure(visits, slate, place_WB.unsqueeze(-1))["margin_popularity"]
        best_WB = torch.zeros_like(place_WB)
        for w, b in np.ndindex(best_WB.shape):
            count_V = own.popularity(settings.replications[w % 3] % 2)  # of its start
            videos = slate.video_WBC[w, b][slate.is_candidate_WBC[w, b]]
            best_WB[w, b] = int(np.argmax(count_V[videos])) if len(videos) else 0
        best_WBL, shown_WBL = (world.feedback(visits, slate, x) for x in (best_WB, place_WB))
        wanted_WB = (shown_WBL - best_WBL)[..., 0]
        is_visit_WB = ~wanted_WB.isnan()
        torch.testing.assert_close(found_WB[is_visit_WB], wanted_WB[is_visit_WB])
        n_apart += int((wanted_WB[is_visit_WB] != 0).sum())
    assert n_apart > 10


def test_given_codes_are_shown_and_tell_data_apart(
    small_settings: Settings, tmp_path: Path
) -> None:
    _, data, _ = opened(config_of(small_settings))
    assert not isinstance(data.videos, pl.DataFrame)
    ids = pl.concat(data.videos.blocks())["video_id"].to_list()
    path, identities = tmp_path / "codes.json", []
    for turned in (ids, ids[::-1]):
        path.write_text(json.dumps({str(v): [str(i // 20), str(i)] for i, v in enumerate(turned)}))
        config = config_of(small_settings, codes={"file": str(path)})
        own = config.dataset
        assert isinstance(own, KuaiRand)
        warnings = Warnings()
        environment = own.open(config, CPU, warnings)
        assert isinstance(environment, ReplayEnvironment)
        assert "given_items" in [x["code"] for x in warnings]
        assert environment.schema.inputs["history_codes"].shape == (T, 2)
        identities.append(environment.identity())
    assert identities[0] != identities[1]


@pytest.mark.parametrize(
    ("changes", "overrides", "said"),
    [
        ({"codes": None}, (), "labels.1.model = 'Generative': this run shows no video_codes: set "),
        ({"vectors": None}, (), "prefix = items: items have no vectors: set items."),
        ({"codes": {"column": "ids"}}, (), "the videos' features: no column 'ids'; it has"),
        ({"codes": {"file": "codes.json"}}, (), "codes.json"),
        ({"vectors": {"kind": "text"}}, (), "the videos' features: no column 'text'"),
        ({}, ("pretrain.enabled=false",), "vectors of kind svd: all items have the same"),
    ],
)
def test_what_cannot_be_shown_is_one_line(
    small_settings: Settings, changes: dict[str, Any], overrides: tuple[str, ...], said: str
) -> None:
    with pytest.raises(InputError) as caught:
        set_up(config_of(small_settings, *overrides, **changes), Warnings())
    assert [said in line for line in caught.value.faults] == [True]


def test_codes_that_no_model_reads_are_one_line(small_settings: Settings) -> None:
    settings = small_settings()
    settings["dataset"]["codes"] = CODES
    with pytest.raises(InputError, match=r"^dataset\.codes: no label's model reads it, as MLP"):
        set_up(load_config(settings), Warnings())


def test_features_that_no_model_of_sequences_reads_are_counted_in_a_warning(
    small_settings: Settings,
) -> None:
    """SASRec reads videos' categories; numbers and users' features none of both read."""
    listed = {"numerical": ["video_duration"], "categorical": ["user_active_degree", "tag"]}

    def said(*overrides: str, **feature: Any) -> list[str]:
        warnings = Warnings()
        changed = [f"feature.{k}={v}" for k, v in {**listed, **feature}.items()]
        set_up(config_of(small_settings, *changed, *overrides), warnings)
        return [x["message"] for x in warnings if x["code"] == "features_not_read"]

    (message,) = said()
    assert message.startswith("no label's model reads user_active_degree, video_duration: ")
    assert said(numerical=[], categorical=["tag"]) == []
    assert said("labels.0.model=MLP", "labels.0.model_params={}") == []
