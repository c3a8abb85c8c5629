"""A run's best networks are of use: from Python, as a file, as the start of another run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from safetensors.torch import load_file

import realdataexp as rx
from realdataexp import cli
from realdataexp.config import load_config
from realdataexp.errors import Warnings
from realdataexp.learner import Head, Learner
from realdataexp.metrics import for_metrics, label_metrics
from realdataexp.models import Batch, build_loss
from realdataexp.runs.experiment import resume_experiment
from realdataexp.runs.networks import Network, best_networks, read_networks
from realdataexp.runs.setup import Setup, set_up
from realdataexp.runs.shard import Validator

Settings = Callable[..., dict[str, Any]]
SIM = {"n_steps": 6, "validate_every": 3, "save_every": 6, "learning_rate": 0.05}


@pytest.fixture(scope="module")
def settings(small_settings: Settings) -> dict[str, Any]:
    return small_settings(
        simulation=SIM,
        pretrain={"batch_size": 256, "validate_every_iters": 2, "epochs": 2},
        experiment={"replications": 3, "starts": 2, "designs": ["pooling", "splitting"]},
        validation={"primary_metric": "click.auc"},
    )


@pytest.fixture(scope="module")
def folder(settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return rx.run(settings, out=tmp_path_factory.mktemp("run") / "r").folder


def rows_of(batch: Batch, n_user_ids: int, n_ids: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The inputs of a batch as a plain module takes them."""
    user, video = batch.side("user"), batch.side("video")
    n = batch.shape[2]
    num, cat, weight = (
        torch.cat([x[0].repeat_interleave(n, dim=0), y[0]], dim=-1)
        for x, y in zip(user, video._replace(cat=video.cat + n_user_ids), strict=True)
    )
    return num, torch.where(weight > 0, cat, n_ids)


def auc_of(network: Network, setup: Setup, start: int) -> float:
    """What the validation says of a network of clicks, computed through its own forward."""
    validator = Validator(setup)
    held_out, schema = validator.held_out[start], setup.environment.schema
    num, cat = rows_of(held_out.batch, schema.user.n_ids, schema.user.n_ids + schema.video.n_ids)
    predicted = network(num, cat).detach()[:, 0].unsqueeze(0)
    y = for_metrics(held_out.y_BCL.flatten(0, 1)[..., 1])
    return float(label_metrics("binary", for_metrics(predicted), y)["auc"][0])


@pytest.mark.parametrize("replication", [0, 1, 2])
def test_by_default_it_is_the_starting_model_at_its_best_check(
    replication: int, folder: Path, settings: dict[str, Any]
):
    network = rx.load_model(folder, "click.auc", replication=replication)
    assert isinstance(network, torch.nn.Module) and network.labels == ("click",)
    start = replication % 2
    checks = pl.read_parquet(folder / "metrics.parquet").filter(
        phase="pretrain", label="click", metric="auc", split="validation", world=start
    )
    setup = set_up(load_config(settings), Warnings())
    assert auc_of(network, setup, start) == pytest.approx(checks["value"].max(), abs=1e-12)
    assert network.schema == setup.environment.schema


def test_of_a_design_it_is_a_worlds_network_at_the_best_look(
    folder: Path, settings: dict[str, Any]
):
    looks = pl.read_parquet(folder / "metrics.parquet").filter(
        phase="loop", label="click", metric="auc", split="validation"
    )
    mean = looks.group_by("step", maintain_order=True).agg(pl.col("value").mean())
    step = mean.sort("value", descending=True)["step"][0]
    setup = set_up(load_config(settings), Warnings())
    for design, model, given in [
        ("splitting", "C", "C"), ("splitting", "T", None), ("global_C", "shared", None),
    ]:  # fmt: skip
        network = rx.load_model(folder, design=design, replication=1, model=given)
        own = looks.filter(step=step, design=design, model=model, world=1)["value"]
        assert auc_of(network, setup, 1) == pytest.approx(own.item(), abs=1e-12)


def test_its_forward_is_the_learners_to_the_bit(folder: Path, settings: dict[str, Any]):
    networks = best_networks(folder, "play_time.loss", "pooling")
    setup = set_up(load_config(settings), Warnings())
    card, params = networks.card.networks[0], networks.params[0]
    head = Head(build_loss(card.losses[0], "x"), card.scales[0], card.n_outputs[0])
    start = {name: t[0] for name, t in params.items()}
    learner = Learner.start(setup.networks[0].model, (head,), setup.device, start, 1)
    batch = setup.environment.held_out(("play_time_ms",), 9, 4, 0).batch
    schema = setup.environment.schema
    num, cat = rows_of(batch, schema.user.n_ids, schema.user.n_ids + schema.video.n_ids)
    wanted = learner.predict(batch, slice(0, 1)).flatten()
    assert torch.equal(networks.module("play_time")(num, cat).flatten(), wanted)


def test_a_file_of_networks_is_safetensors_alone_with_its_card(folder: Path):
    index = json.loads((folder / "checkpoints/index.json").read_text())
    path = folder / "checkpoints" / index["best"]["click.auc"]["networks"]
    tensors, card = load_file(path), read_networks(path).card
    assert all(t.shape[0] == len(card.members) == 15 for t in tensors.values())
    state = path.parents[1] / index["latest"] / "state.safetensors"
    assert path.stat().st_size < state.stat().st_size / 2
    assert {c.model for c in card.networks} == {"MLP"} and card.phase == "loop"


def export(*words: Any) -> int:
    return cli.main(["export", *map(str, words)])


def test_an_exported_file_is_the_network(folder: Path, tmp_path: Path):
    file = tmp_path / "mine.safetensors"
    assert export(folder, "--best", "click.auc", file, "--design", "splitting") == 0
    given = rx.load_model(file, label="click")
    wanted = rx.load_model(folder, "click.auc", design="splitting").state_dict()
    assert all(torch.equal(t, wanted[name]) for name, t in given.state_dict().items())


WRONG: dict[str, tuple[list[str], str]] = {
    "metric": (["--best", "click.acu"], "did you mean click.auc?"),
    "ranking": (["--best", "click.ndcg"], "with a design also"),
    "design": (["--design", "shadow"], "no design 'shadow'; known are global_T, global_C,"),
    "model": (["--design", "splitting", "--model", "shared"], "no model 'shared'; known are C, T"),
    "replication": (["--design", "pooling", "--replication", "3"], "must be from 0 to 2"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_not_there_is_a_line(
    kind: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    words, said = WRONG[kind]
    assert export(folder, tmp_path / "f", *words) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and said in err and not [*tmp_path.iterdir()]


def test_a_file_that_is_there_is_not_written_over(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "f").write_text("mine")
    assert export(folder, tmp_path / "f") == 2 and export(tmp_path, tmp_path / "g") == 2
    assert capsys.readouterr().err.count("\n") == 2
    assert (tmp_path / "f").read_text() == "mine"


@pytest.mark.parametrize("text", [b"", b"{}", b"\x80\x04."])
def test_what_is_no_file_of_networks_is_refused(text: bytes, tmp_path: Path):
    (tmp_path / "f").write_bytes(text)
    with pytest.raises(rx.InputError, match="holds no networks of a run"):
        rx.load_model(tmp_path / "f")


# --- as the start of another run -----------------------------------------------------------------


def started(settings: dict[str, Any], start_from: Path, **pretrain: Any) -> dict[str, Any]:
    own = settings["pretrain"] | {"start_from": str(start_from)} | pretrain
    return settings | {"pretrain": own, "mode": "pooling"}


def first_networks(folder: Path) -> dict[str, torch.Tensor]:
    tensors = load_file(folder / "checkpoints/step_0/state.safetensors")
    return {k: t for k, t in tensors.items() if k.startswith("network.") and ".params." in k}


def test_another_run_begins_from_the_best_starting_models(
    folder: Path, settings: dict[str, Any], tmp_path: Path
):
    other = rx.run(started(settings, folder, enabled=False), out=tmp_path / "r").folder
    tensors = first_networks(other)
    for replication in range(3):
        for i in range(2):
            found = best_networks(folder, "click.auc", replication=replication).params[i]
            for name, t in found.items():
                assert torch.equal(tensors[f"network.{i}.params.{name}"][replication], t[0])
    codes = {w["code"] for w in rx.Result(other).summary["warnings"]}
    assert "started_from_other_data" not in codes


def test_pretraining_goes_on_from_them(folder: Path, settings: dict[str, Any], tmp_path: Path):
    cold = pl.read_parquet(folder / "metrics.parquet")
    warm = rx.run(started(settings, folder), out=tmp_path / "r").metrics
    first = {"phase": "pretrain", "label": "click", "metric": "loss", "step": 2, "world": 0}
    losses = [x.filter(split="validation", **first)["value"].item() for x in (cold, warm)]
    assert losses[1] < losses[0]


def test_a_run_that_began_so_is_resumed_without_the_other_run(
    folder: Path, settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    copy = Path(shutil.copytree(folder, tmp_path / "other"))
    own = started(settings, copy)
    whole = rx.run(own, out=tmp_path / "whole").folder
    with monkeypatch.context() as stopped:
        from realdataexp.pretrain import Pretraining

        def stop(self: Pretraining) -> None:
            raise KeyboardInterrupt

        stopped.setattr(Pretraining, "finish", stop)
        with pytest.raises(KeyboardInterrupt):
            rx.run(own, out=tmp_path / "r")
    shutil.rmtree(copy)
    resume_experiment(tmp_path / "r")
    for name in ("outcomes", "metrics", "estimates"):
        a, b = (pl.read_parquet(x / f"{name}.parquet") for x in (whole, tmp_path / "r"))
        assert a.equals(b)


def narrower(settings: dict[str, Any]) -> dict[str, Any]:
    feature = {"numerical": ["video_duration"], "categorical": ["user_active_degree", "tag"]}
    return settings | {"feature": feature}


def change(settings: dict[str, Any], **label: Any) -> dict[str, Any]:
    return settings | {"labels": [settings["labels"][0], settings["labels"][1] | label]}


UNFIT: dict[str, tuple[Callable[[dict[str, Any]], dict[str, Any]], str]] = {
    "features": (narrower, "its networks see the features"),
    "sizes": (lambda s: change(s, model_params={"hidden_layers": [9]}), "has model_params"),
    "model": (lambda s: change(s, model="DCNv2", model_params={}), "has model 'MLP'"),
    "labels": (lambda s: change(s, name="tap"), "no network for tap, but for play_time, click"),
}


@pytest.mark.parametrize("kind", UNFIT)
def test_networks_of_another_kind_are_a_line_and_nothing_is_left(
    kind: str, folder: Path, settings: dict[str, Any], tmp_path: Path
):
    make, said = UNFIT[kind]
    other = make(started(settings, folder)) | {"validation": {}}
    with pytest.raises(rx.InputError, match=r"pretrain\.start_from") as caught:
        rx.run(other, out=tmp_path / "r")
    assert len(caught.value.faults) == 1 and said in str(caught.value)
    assert not (tmp_path / "r").exists()


def test_networks_of_several_worlds_are_no_start(
    folder: Path, settings: dict[str, Any], tmp_path: Path
):
    path = best_networks(folder, None, "pooling").path
    with pytest.raises(rx.InputError, match="has networks of several worlds"):
        rx.run(started(settings, path), out=tmp_path / "r")
    export(folder, file := tmp_path / "one", "--design", "pooling")
    rx.run(started(settings, file, enabled=False), out=tmp_path / "r")
    wanted = read_networks(file).params[1]
    for name, t in first_networks(tmp_path / "r").items():
        if name.startswith("network.1."):
            own = wanted[name.removeprefix("network.1.params.")]
            assert torch.equal(t, own.expand_as(t))


def test_other_data_are_a_warning(tmp_path: Path):
    small = [
        "mode=pooling", "simulation.n_steps=2", "experiment.replications=2",
        "experiment.starts=1", "dataset.si2023.pretrain_rows=500", "logging.pictures=false",
    ]  # fmt: skip
    first = rx.run("si2023", small, out=tmp_path / "a").folder
    small.append(f"pretrain.start_from={first}")
    codes = [
        {w["code"] for w in rx.run("si2023", own, out=tmp_path / f"r{i}").summary["warnings"]}
        for i, own in enumerate((small, [*small, "dataset.si2023.world_seed=5"]))
    ]
    assert ["started_from_other_data" in found for found in codes] == [False, True]
