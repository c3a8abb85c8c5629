"""The loss before the first step."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from diagnose.planting import KINDS, subject_of_kind, with_model
from diagnose.subjects import found, planted


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("seed", range(3))
def test_our_models_begin_at_the_loss_of_a_guess(name: str, seed: int):
    said = found("initial_loss", subject_of_kind(name, seed=seed))
    assert said.verdict == "ok" and said.value is not None
    assert said.value == pytest.approx(1, abs=0.05)


def test_a_model_of_equal_scores_has_the_loss_of_a_guess():
    def silent(model: Any) -> None:
        with torch.no_grad():
            model.embedding.weight.zero_()

    said = found("initial_loss", with_model(subject_of_kind("SASRec"), silent))
    assert said.value == pytest.approx(1, abs=1e-6)
    assert f"{math.log(80):.4g} of a guess" in said.said


@pytest.mark.parametrize(
    ("name", "table", "factor"), [("SASRec", "embedding", 30), ("Generative", "written", 300)]
)
def test_outputs_of_too_large_a_scale_are_found(name: str, table: str, factor: float):
    def louder(model: Any) -> None:
        with torch.no_grad():
            getattr(model, table).weight.mul_(factor)

    said = found("initial_loss", with_model(subject_of_kind(name), louder))
    assert said.verdict == "fault" and "too large" in said.advice


def test_a_loss_that_knows_the_answer_is_found():
    subject = subject_of_kind("SASRec")
    leaking = planted(subject, loss=lambda model, batch: 0.8 * subject.loss(model, batch))
    said = found("initial_loss", leaking)
    assert said.verdict == "fault" and "leaks" in said.advice


def test_a_trained_model_is_asked_for_its_first_state():
    subject = planted(subject_of_kind("SASRec"), is_trained=True)
    assert found("initial_loss", subject).verdict == "cannot tell"
    assert found("initial_loss", planted(subject, fresh=subject.model)).verdict == "ok"
    assert found("initial_loss", planted(subject, entropy=None)).verdict == "cannot tell"
