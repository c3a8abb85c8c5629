"""Labels that share a network: the loop keeps their order, and a run of MMoE is a run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from safetensors.torch import load_file
from support import (
    BLOCKS,
    Setting,
    label,
    make_arms,
    make_learner,
    make_model,
    make_policy,
    make_start,
    make_store,
    make_world,
    same,
)

from realdataexp import cli
from realdataexp.api import run
from realdataexp.errors import RunError
from realdataexp.learner import Head, Learner
from realdataexp.loop import Loop, n_networks
from realdataexp.models import LOSSES, MLP

Settings = dict[str, Any]
LINEAR: Settings = {"hidden_layers": (), "embedding_dim": None}
# not Adam, which makes whole steps of a gradient that is 0 but for rounding
SGD: Settings = {"kind": "sgd", "learning_rate": 0.03}
SETTING = Setting(
    labels=(
        label("play", "logMAE", 0.1, 1.0, **LINEAR, **SGD),
        label("click", "CE", 1.0, -0.3, **LINEAR, **SGD),
        label("play", "MAE", 0.5, -0.7, **LINEAR, **SGD),
    ),
    n_steps=15,
)
MMOE: Settings = {"n_experts": 3, "expert_layers": [6], "tower_layers": [4], "embedding_dim": 3}


# --- the loop --------------------------------------------------------------------------------


def shared(places: tuple[int, ...], n: int) -> Learner:
    """One network whose heads share nothing, as it has no hidden layers."""
    starts = [make_start(SETTING, i) for i in places]
    start = {name: torch.cat([x[name] for x in starts], dim=-1) for name in starts[0]}
    heads = tuple(
        Head(LOSSES[x.loss], x.scale, x.n_outputs) for x in (SETTING.labels[i] for i in places)
    )
    n_outputs = sum(head.n_outputs for head in heads)
    model = MLP(make_store(SETTING.n_rows_U).schema, n_outputs, LINEAR, "shared")
    return Learner.start(model, heads, SETTING.device, start, n)


@pytest.mark.parametrize("groups", [((2, 0), (1,)), ((1,), (0, 2)), ((1, 2, 0),)], ids=str)
def test_labels_keep_their_order_whoever_predicts_them(groups: tuple[tuple[int, ...], ...]) -> None:
    n = n_networks(BLOCKS, 2)
    runs = []
    for labels_of in (((0,), (1,), (2,)), groups):
        learners = [
            shared(places, n) if len(places) > 1 else make_learner(SETTING, places[0], n)
            for places in labels_of
        ]
        world = make_world(SETTING, (0, 5), len(BLOCKS))
        policies = [make_policy(x) for x in SETTING.labels]
        arms = make_arms(SETTING.labels)
        loop = Loop(world, BLOCKS, policies, arms, learners, SETTING.seed, labels_of=labels_of)
        runs.append((list(loop.steps(0, SETTING.n_steps)), learners))
    (apart, networks), (together, joined) = runs
    for a, b in zip(apart, together, strict=True):
        assert same(a.y_WBL, b.y_WBL) and same(a.differs_WB, b.differs_WB)
        close = {"rtol": 1e-4, "atol": 1e-4, "equal_nan": True}
        torch.testing.assert_close(a.loss_SL, b.loss_SL, **close)
        torch.testing.assert_close(a.score_share_WAL, b.score_share_WAL, **close)
    for learner, places in zip(joined, groups, strict=True):
        first = 0
        for i in places:
            n_outputs = SETTING.labels[i].n_outputs
            for name, p in networks[i].params.items():
                ours = learner.params[name][..., first : first + n_outputs]
                torch.testing.assert_close(ours, p, rtol=1e-4, atol=1e-4)
            first += n_outputs
    assert make_model(SETTING, 1).tower.widths == [2]


# --- runs ------------------------------------------------------------------------------------


def three_labels(settings: Settings, **changes: Any) -> list[Settings]:
    """play_time and like share an MMoE; click, between them, has a network of its own."""
    play, click = settings["labels"]
    shared = {"model": "MMoE", "model_params": MMOE} | changes
    like = {**click, **shared, "name": "like", "target": "is_like", "loss_function": "CE"}
    return [{**play, **shared}, click, like]


@pytest.fixture
def mmoe_settings(small_settings: Callable[..., Settings]) -> Callable[..., Settings]:
    def make(label: Settings | None = None, **changes: Any) -> Settings:
        settings = small_settings(**changes)
        return settings | {"labels": three_labels(settings, **(label or {}))}

    return make


def test_a_run_of_labels_that_share_experts(
    mmoe_settings: Callable[..., Settings], tmp_path: Path
) -> None:
    settings = mmoe_settings({"alpha_C": 0.3})
    run(settings, out=tmp_path / "a")
    run(settings, out=tmp_path / "b")
    outcomes = [pl.read_parquet(tmp_path / x / "outcomes.parquet") for x in "ab"]
    assert outcomes[0].equals(outcomes[1])
    names = outcomes[0]["label"].cast(pl.String).unique(maintain_order=True).to_list()
    assert names == ["play_time", "click", "like"]
    result = json.loads((tmp_path / "a" / "result.json").read_text())
    assert result["status"] == "complete"
    metrics = pl.read_parquet(tmp_path / "a" / "metrics.parquet").filter(metric="loss")
    for phase in ("pretrain", "loop"):
        for split in ("train", "validation"):
            found = metrics.filter(phase=phase, split=split)["label"].unique(maintain_order=True)
            assert found.to_list() == names
    (path,) = (tmp_path / "a" / "checkpoints" / "step_10").glob("*.safetensors")
    parts = {name.partition(".params.")[0] for name in load_file(path) if ".params." in name}
    # play_time and like in one network, click in another
    assert {name for name in parts if name.startswith("network.")} == {"network.0", "network.1"}


def test_with_equal_alphas_the_effect_is_exactly_zero(
    mmoe_settings: Callable[..., Settings], tmp_path: Path
) -> None:
    settings = mmoe_settings({"model_params": MMOE | {"dropout": 0.3}})
    settings["labels"] = [x | {"alpha_T": 1.0, "alpha_C": 1.0} for x in settings["labels"]]
    run(settings, out=tmp_path / "r")
    outcomes = pl.read_parquet(tmp_path / "r" / "outcomes.parquet").filter(design="global")
    columns = ["world", "step", "label", "n", "sum", "sum_sq"]
    treated, control = (
        outcomes.filter(pl.col("arm") == arm).select(columns).sort(columns[:3]) for arm in "TC"
    )
    assert treated.equals(control) and treated["n"].sum() > 0


def test_groups_are_networks_of_their_own(
    mmoe_settings: Callable[..., Settings], tmp_path: Path
) -> None:
    settings = mmoe_settings(mode="global")
    settings["labels"][2] = settings["labels"][2] | {"model_params": MMOE | {"group": "other"}}
    run(settings, out=tmp_path / "r")
    (path,) = (tmp_path / "r" / "checkpoints" / "step_10").glob("*.safetensors")
    parts = {name.partition(".params.")[0] for name in load_file(path) if ".params." in name}
    assert {name for name in parts if name.startswith("network.")} == {
        "network.0", "network.1", "network.2",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"model_params": MMOE | {"n_experts": 2}}, "labels.0.model_params"),
        ({"learning_rate": 1e-3}, "labels.0.learning_rate"),
        ({"weight_decay": 0.1}, "labels.0.weight_decay"),
    ],
    ids=str,
)
def test_labels_of_one_network_must_agree(
    change: Settings,
    path: str,
    mmoe_settings: Callable[..., Settings],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings = mmoe_settings()
    settings["labels"][2] = settings["labels"][2] | change
    config = tmp_path / "c.yaml"
    config.write_text(json.dumps(settings))
    assert cli.main(["run", str(config), "--out", str(tmp_path / "r")]) == 2
    lines = [x for x in capsys.readouterr().err.splitlines() if not x.startswith("[")]
    assert len(lines) == 1
    assert f"{path}: play_time differs from like, but they share one MMoE" in lines[0]


# --- updates that are not finite -------------------------------------------------------------


@pytest.mark.parametrize("block", ["pretrain", "simulation"])
def test_a_run_whose_networks_skip_their_updates_fails(
    block: str,
    small_settings: Callable[..., Settings],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    loop = {"n_steps": 60, "validate_every": 30, "batch_size": 4, "n_candidate": 2}
    phases = {"simulation": loop, "pretrain": {"batch_size": 64}}
    phases[block] |= {"learning_rate": 1e30, "optimizer": "sgd"}
    settings = small_settings(mode="pooling", **phases)
    settings["experiment"] = {"replications": 2}
    config, out = tmp_path / "c.yaml", tmp_path / "r"
    config.write_text(json.dumps(settings))
    assert cli.main(["run", str(config), "--out", str(out)]) == 1
    (line,) = [x for x in capsys.readouterr().err.splitlines() if not x.startswith("[")]
    network = {"pretrain": "network starting model", "simulation": "network pooling "}
    assert f"label play_time, {network[block]}" in line
    said = {
        "pretrain": ["pretrain.max_skipped_share = 0.1", "pretrain.gradient_clip"],
        "simulation": ["predicted values from nan", "lower the learning rate"],
    }
    assert all(text in line for text in said[block])
    assert json.loads((out / "result.json").read_text())["status"] == "partial"
    for phase in ("pretrain", "simulation"):
        settings[phase]["max_skipped_share"] = 1.0
    with pytest.raises(RunError, match="lower the learning rate"):
        run(settings, out=tmp_path / "again")


def test_mixed_precision_is_named_as_a_cause_where_it_is_on(
    small_settings: Callable[..., Settings], tmp_path: Path
) -> None:
    from realdataexp.errors import RunError

    settings = small_settings(mode="pooling", use_amp=True)
    settings["pretrain"] = {"batch_size": 64, "learning_rate": 1e30, "optimizer": "sgd"}
    with pytest.raises(RunError, match="or set use_amp: false"):
        run(settings, out=tmp_path / "r")


# --- optimizers and schedules ----------------------------------------------------------------


@pytest.mark.parametrize(
    "scheduler", [{"kind": "cosine", "min_factor": 0.1}, {"kind": "plateau", "patience": 0}]
)
def test_schedules_and_optimizers_run_in_both_phases(
    scheduler: Settings, small_settings: Callable[..., Settings], tmp_path: Path
) -> None:
    changes = {"optimizer": "adamw", "gradient_clip": 1.0, "learning_rate": 0.3}
    ends = []
    for name, block in (("r", changes | {"scheduler": scheduler}), ("plain", changes)):
        loop = block | {"validate_every": 1}
        settings = small_settings(mode="pooling", pretrain=block, simulation=loop)
        run(settings, out=tmp_path / name)
        (path,) = (tmp_path / name / "checkpoints" / "step_10").glob("*.safetensors")
        ends.append(load_file(path))
    assert not torch.equal(ends[0]["network.1.params.bias_0"], ends[1]["network.1.params.bias_0"])
    factor_S = ends[0]["network.1.rate_factor"]
    assert bool((factor_S < 1.0).any()) and bool((factor_S >= 0.0).all())
    assert bool((ends[1]["network.1.rate_factor"] == 1.0).all())
