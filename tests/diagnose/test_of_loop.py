"""The loop's own networks: the same numbers as the learner's, and faults found by label."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from realdataexp import cli, draws
from realdataexp.config import load_config
from realdataexp.diagnose.of_loop import subjects_of
from realdataexp.diagnose.run import diagnose
from realdataexp.errors import Warnings
from realdataexp.learner import Learner
from realdataexp.pretrain import Pretraining, PretrainSettings
from realdataexp.runs.setup import set_up

SMALL = [
    "dataset.synthetic.users=200", "dataset.synthetic.videos=100", "dataset.synthetic.rows=6000",
    "experiment.replications=2", "experiment.starts=1",
]  # fmt: skip
QUICK = ("dead_parameter", "dead_input", "initial_loss", "gradient_sync")
Say = pytest.CaptureFixture[str]


class HalfDead(nn.Module):
    """Drops what its second layer finds."""

    def __init__(self, schema: Any, n_outputs: int) -> None:
        super().__init__()
        self.used = nn.Linear(schema.user.n_numerical + schema.video.n_numerical, n_outputs)
        self.unused = nn.Linear(1, 1)

    def forward(self, num_ND: Tensor, cat_NK: Tensor) -> Tensor:
        return self.used(num_ND) + self.unused(num_ND[:, :1]).detach()


def configured(*changes: str) -> Any:
    return load_config("demo", [*SMALL, *changes])


def of_models(name: str, *more: str) -> Any:
    own = [f"labels.{i}.{x}" for i in (0, 1) for x in (f"model={name}", "model_params={}")]
    return configured(*own, *more)


@pytest.mark.parametrize(
    "config",
    [
        configured(),
        of_models("MMoE", "labels.0.model_params.group=a", "labels.1.model_params.group=a"),
        of_models("SASRec", "feature.history=4"),
    ],
    ids=["MLP", "MMoE", "SASRec"],
)
def test_losses_are_those_of_pretraining(config: Any) -> None:
    """Of the same first batches: what pretraining's learner reports before each update."""
    setup = set_up(config, Warnings())
    seed = draws.start_seed(config.seed, 0)
    source, read = setup.environment.pretraining(setup.targets, 0), []

    class Recorded:
        n_rows = source.n_rows

        def read(self, place_B: np.ndarray) -> Any:
            read.append(source.read(place_B))
            return read[-1]

    learners = [
        Learner.start(
            x.model, x.heads, setup.device, x.model.init(draws.key(seed, f"init {x.draws_as}")), 1,
            x.shared,
        )
        for x in setup.networks
    ]  # fmt: skip
    settings = PretrainSettings(seed, config.pretrain.batch_size, 1, None, None, None)
    training = Pretraining(
        learners, [x.pretrain_optimizer for x in setup.networks], Recorded(), source.n_rows,
        lambda: (0.0,) * len(setup.labels), settings, [x.labels for x in setup.networks],
    )  # fmt: skip
    subjects = subjects_of(config)
    batches = [subject.batches(2) for subject in subjects]
    for i in range(2):
        training.advance()
        batch, y_L = read[i]
        for subject, own, learner, parts in zip(
            subjects, batches, learners, setup.networks, strict=True
        ):
            shown = own[i].shown.tensors
            assert all(torch.equal(x, shown[k]) for k, x in batch.tensors.items())
            y_BJ = torch.stack([y_L[k][0] for k in parts.labels], dim=-1)
            assert torch.equal(own[i].y_BJ, y_BJ)
            model = subject.model().eval()
            if i == 0:
                params = dict(model.named_parameters())
                start = parts.model.init(draws.key(seed, f"init {parts.draws_as}"))
                assert all(torch.equal(params[k], p) for k, p in start.items())
                for name, p in learner.network(0).items():  # it has learned meanwhile
                    params[name].data.copy_(p)
                wanted = learner.losses(batch, y_BJ.unsqueeze(0))[0].mean(0).sum()
                torch.testing.assert_close(subject.loss(model, own[i]).detach(), wanted)


def test_networks_of_a_sound_config_have_no_fault() -> None:
    sequences = of_models("GRU4Rec", "feature.history=4", "feature.numerical=[]")
    for config in (configured(), sequences):
        found = diagnose(subjects_of(config), QUICK)
        assert [x for x in found["checks"] if x["verdict"] == "fault"] == []
        verdicts = {(x["check"], x["subject"]): x["verdict"] for x in found["checks"]}
        assert verdicts["dead_parameter", "click"] == verdicts["dead_input", "play_time"] == "ok"
        assert verdicts["initial_loss", "click"] == "ok"  # its guess has log 2 nats
        assert verdicts["gradient_sync", "click"] == "cannot tell"


def test_features_that_a_model_of_sequences_does_not_read_are_dead_inputs() -> None:
    config = of_models("GRU4Rec", "feature.history=4")
    (of_play, _) = diagnose(subjects_of(config), ["dead_input"])["checks"]
    assert of_play["verdict"] == "fault"
    assert "video_duration: dead" in of_play["said"] and "history: arrives" in of_play["said"]


def test_a_label_s_dead_layer_is_found_and_said_of_that_label(capsys: Say) -> None:
    words = [f"--set={x}" for x in SMALL]
    own = ["labels.1.model=diagnose.test_of_loop:HalfDead", "labels.1.model_params={}"]
    command = ["diagnose", "demo", *words, *(f"--set={x}" for x in own), "--check=dead_parameter"]
    assert cli.main([*command, "--json", "--strict"]) == 1
    of_play, of_click = json.loads(capsys.readouterr().out)["checks"]
    assert (of_play["subject"], of_play["verdict"]) == ("play_time", "ok")
    assert (of_click["subject"], of_click["verdict"]) == ("click", "fault")
    assert "unused.weight, unused.bias" in of_click["said"]
    assert cli.main(command) == 0
    assert "dead_parameter of click" in " ".join(capsys.readouterr().out.split())


def test_without_rows_to_pretrain_on_it_is_one_line(capsys: Say) -> None:
    words = [f"--set={x}" for x in (*SMALL, "pretrain.enabled=false")]
    assert cli.main(["diagnose", "demo", *words]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("pretrain: there are no rows to pretrain on")
