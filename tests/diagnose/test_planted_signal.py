"""Models that can learn a rule, and what keeps them from it."""

from __future__ import annotations

import pytest
import torch
from diagnose.subjects import found, planted, small_subject, with_recommended
from torch import nn

from realdataexp.diagnose.subject import Subject


@pytest.mark.parametrize("name", ["SASRec", "GRU4Rec"])
def test_a_narrow_model_learns_it(name: str):
    subject = small_subject(model={"name": name, "width": 16}, items={})
    assert found("planted_signal", subject).verdict == "ok"


def test_a_generative_model_learns_it_before_and_after_its_training(trained: Subject):
    for subject in (small_subject(), trained):
        for seed in range(2):
            assert found("planted_signal", subject, seed).verdict == "ok"


def test_a_model_that_does_not_see_its_input_is_found():
    subject = small_subject(model={"name": "SASRec", "width": 16}, items={})

    def model() -> nn.Module:
        made = subject.model()
        made.encoder.register_forward_hook(lambda module, args, output: 0 * output)
        return made

    said = found("planted_signal", planted(subject, model=model))
    assert said.verdict == "fault"
    assert said.value is not None
    assert said.value > 2.07  # log 8, of which the best guess falls short by nothing


def test_an_optimiser_of_another_model_is_found():
    subject = small_subject(model={"name": "SASRec", "width": 16}, items={})
    other = subject.model()

    def optimizer(model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.AdamW(other.parameters())

    assert found("planted_signal", planted(subject, optimizer=optimizer)).verdict == "fault"


def test_it_cannot_tell_without_batches_of_other_histories():
    subject = with_recommended(small_subject(), batch_of=None)
    assert found("planted_signal", subject).said == "what is missing: recommended.batch_of"
