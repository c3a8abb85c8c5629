"""Learning a few examples by heart."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from diagnose.planting import KINDS, subject_of_kind, with_model
from diagnose.subjects import found, planted
from torch import nn

from realdataexp.config import load_config
from realdataexp.diagnose.of_loop import Rows, subjects_of
from realdataexp.diagnose.of_training import Shown


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("seed", range(2))
def test_our_models_learn_eight_examples(name: str, seed: int):
    said = found("overfits_one_batch", subject_of_kind(name, seed=seed), seed)
    assert said.verdict == "ok" and said.value is not None
    assert said.value < 1 / 3


@pytest.mark.parametrize("name", ["SASRec", "Generative"])
def test_labels_of_other_examples_at_each_step_are_not_learned(name: str):
    subject = subject_of_kind(name)

    def shuffled(model: nn.Module, batch: Shown) -> torch.Tensor:
        target_X = batch.passage.target_X
        other_X = target_X[torch.randperm(len(target_X))]
        return subject.loss(model, replace(batch, passage=replace(batch.passage, target_X=other_X)))

    assert found("overfits_one_batch", planted(subject, loss=shuffled)).verdict == "fault"


@pytest.mark.parametrize("seed", range(3))
def test_linear_models_that_sgd_teaches_learn_eight_examples(seed: int):
    """And do not learn labels that are shuffled among them at each update."""
    for subject in subjects_of(load_config("si2023", ["dataset.si2023.pretrain_rows=500"])):
        said = found("overfits_one_batch", subject, seed)
        assert said.verdict == "ok", said

    def shuffled(model: nn.Module, batch: Rows) -> torch.Tensor:
        y_BJ = batch.y_BJ[torch.randperm(len(batch.y_BJ))]
        return subject.loss(model, replace(batch, y_BJ=y_BJ))

    assert found("overfits_one_batch", planted(subject, loss=shuffled), seed).verdict == "fault"


def test_an_encoder_that_gets_no_gradient_is_found():
    def detached(model: Any) -> None:
        model.encoder.register_forward_hook(lambda m, args, out: out.detach())

    subject = with_model(subject_of_kind("SASRec"), detached)
    assert found("overfits_one_batch", subject).verdict == "fault"


def test_without_an_optimiser_it_cannot_tell():
    subject = planted(subject_of_kind("SASRec"), optimizer=None)
    assert found("overfits_one_batch", subject).verdict == "cannot tell"
