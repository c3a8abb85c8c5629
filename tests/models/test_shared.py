"""What all networks share is frozen, held once, and changes nothing of how they learn."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from model_support import MIXED_USER, MIXED_VIDEO, in_float32, random_batch
from safetensors.torch import load_file
from support import CPU
from torch import Tensor, nn

from realdataexp import draws
from realdataexp.api import run
from realdataexp.config import load_config
from realdataexp.designs.pooling import Pooling
from realdataexp.errors import InputError
from realdataexp.learner import Head, Learner
from realdataexp.models import LOSSES, Batch, FeatureSchema, LabelScale
from realdataexp.models.layers import bag, start_uniform
from realdataexp.optimizers import OptimizerSettings
from realdataexp.runs.beforehand import memory_need
from realdataexp.runs.experiment import resume_experiment
from realdataexp.runs.setup import make_blocks

SCHEMA = FeatureSchema(MIXED_USER, MIXED_VIDEO)
S, B, E = 3, 6, 4
TABLE_VE = draws.uniform(draws.key(5, "a table from elsewhere"), MIXED_VIDEO.n_ids * E)
TABLE_VE = TABLE_VE.view(MIXED_VIDEO.n_ids, E).float()


class OwnTable:
    """A linear head over the sum of the videos' vectors; each network has the table for itself."""

    floats_per_row = 10

    def init(self, key: Tensor) -> dict[str, Tensor]:
        return self.head(key) | {"table": TABLE_VE.clone()}

    def head(self, key: Tensor) -> dict[str, Tensor]:
        return {"head": start_uniform(key, "head", (E, 1), E)}

    def forward(
        self, params: Mapping[str, Tensor], batch: Batch, dropout_key_S: Tensor | None
    ) -> Tensor:
        table_SVE = params["table"].expand(batch.shape[0], *TABLE_VE.shape).detach()
        _, cat, weight = batch.side("video")
        return torch.bmm(bag(table_SVE, cat, weight), params["head"]).view(*batch.shape, -1)


class OneTable(OwnTable):
    """The same with one table for all."""

    def init(self, key: Tensor) -> dict[str, Tensor]:
        return self.head(key)

    def init_shared(self, key: Tensor) -> dict[str, Tensor]:
        return {"table": TABLE_VE.clone()}


def learned(model: OwnTable, shared: Mapping[str, Tensor]) -> Learner:
    """Networks that differ, after a few steps."""
    starts = [model.init(draws.key(s, "init")) for s in range(S)]
    head = (Head(LOSSES["MSE"], LabelScale()),)
    learner = Learner.of_starts(model, head, CPU, starts, torch.arange(S), shared)
    for step in range(5):
        batch = in_float32(random_batch(SCHEMA, (S, B, 1), seed=step))
        y_SBJ = torch.linspace(-1, 1, S * B).view(S, B, 1)
        keys_S = draws.key(0, "dropout", torch.arange(S), step)
        settings = OptimizerSettings(0.05, gradient_clip=0.5)
        learner.update(batch, y_SBJ, torch.ones(S, B), settings, keys_S)
    return learner


def test_networks_that_share_a_frozen_table_learn_as_those_with_a_frozen_table_each() -> None:
    own, one = learned(OwnTable(), {}), learned(OneTable(), {"table": TABLE_VE})
    assert torch.equal(one.params["head"], own.params["head"])
    assert not torch.equal(one.params["head"][0], one.params["head"][1])
    batch = in_float32(random_batch(SCHEMA, (S, B, 3), seed=9))
    networks = slice(0, S)
    assert torch.equal(one.predict(batch, networks), own.predict(batch, networks))


def test_what_is_shared_is_held_once_without_gradient_moments_or_state() -> None:
    table = TABLE_VE.clone()
    learner = learned(OneTable(), {"table": table})
    assert learner.shared["table"] is table and torch.equal(table, TABLE_VE)
    assert learner.moment_1_SP.shape == (S, E)
    assert not [name for name in learner.state() if "table" in name]
    assert learner.network(0).keys() == {"head"}


# --- in a run --------------------------------------------------------------------------------


class FrozenVectors(nn.Module):
    """Vectors of the categories that stay as they are, and a head for each world."""

    first: ClassVar[float] = 0.5
    n_more: ClassVar[int] = 0

    def __init__(self, schema: FeatureSchema, n_outputs: int) -> None:
        super().__init__()
        n_ids = schema.user.n_ids + schema.video.n_ids + 1 + self.n_more
        vectors = torch.linspace(self.first, 1.0, n_ids * E).view(n_ids, E).sin()
        self.vectors = nn.Embedding(n_ids, E, _weight=vectors)
        self.vectors.weight.requires_grad_(requires_grad=False)
        self.head = nn.Linear(E, n_outputs)

    def forward(self, num_ND: Tensor, cat_NK: Tensor) -> Tensor:
        return self.head(self.vectors(cat_NK).sum(1))


def settings_of(small_settings: Callable[..., dict[str, Any]], replications: int) -> dict[str, Any]:
    settings = small_settings(
        mode="pooling",
        simulation={"processes": 1},
        experiment={"replications": replications, "starts": 2},
    )
    first, *others = settings["labels"]
    own = f"{__name__}:FrozenVectors"
    return settings | {"labels": [{**first, "model": own, "model_params": {}}, *others]}


@pytest.fixture
def stopped(
    small_settings: Callable[..., dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """A run that was killed in its loop, after a checkpoint."""
    real, n = Pooling.weights, 0

    def weights(self: Pooling, outcome: Any) -> Tensor:
        nonlocal n
        n += 1
        if n == 8:
            raise KeyboardInterrupt
        return real(self, outcome)

    with monkeypatch.context() as patch:
        patch.setattr(Pooling, "weights", weights)
        with pytest.raises(KeyboardInterrupt):
            run(settings_of(small_settings, 3), out=tmp_path / "run")
    return tmp_path / "run"


def test_a_checkpoint_holds_what_is_shared_once(stopped: Path) -> None:
    paths = [*stopped.glob("checkpoints/step_*/*.safetensors")]
    assert paths
    for path in paths:
        tensors = {k: t for k, t in load_file(path).items() if "vectors" in k}
        assert tensors.keys() == {"shared.play_time.vectors.weight"}
        assert tensors.popitem()[1].shape[1:] == (E,)


def test_a_run_does_not_go_on_with_other_frozen_parameters(
    stopped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = sys.modules[__name__]
    with monkeypatch.context() as patch:
        patch.setattr(module.FrozenVectors, "first", 0.25)
        with pytest.raises(InputError) as caught:
            resume_experiment(stopped)
    (line,) = caught.value.faults
    assert "frozen parameters" in line and "vectors.weight" in line
    resume_experiment(stopped)
    assert (stopped / "result.json").exists()


def test_memory_counts_what_is_shared_once(
    small_settings: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for replications in (2, 200):
        config = load_config(settings_of(small_settings, replications))
        needs = []
        for n_more in (0, 1_000_000):
            monkeypatch.setattr(sys.modules[__name__].FrozenVectors, "n_more", n_more)
            needs.append(memory_need(config, CPU, make_blocks(config)))
        assert needs[0].parameters == needs[1].parameters
        assert needs[1].host - needs[0].host == 4 * E * 1_000_000
