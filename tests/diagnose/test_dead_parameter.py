"""Parameters to which no gradient comes."""

from __future__ import annotations

import torch
from diagnose.subjects import found, planted, small_subject
from torch import nn


def test_an_adapter_whose_output_is_dropped_is_named():
    subject = small_subject()

    def model() -> nn.Module:
        made = subject.model()
        made.adapter.register_forward_hook(lambda module, args, output: output.detach())
        return made

    said = found("dead_parameter", planted(subject, model=model))
    assert said.verdict == "fault"
    assert "adapter.weight, adapter.bias" in said.said


def test_a_healthy_training_has_none():
    for model in ("SASRec", "GRU4Rec"):
        subject = small_subject(model={"name": model, "width": 16}, items={})
        assert found("dead_parameter", subject).verdict == "ok"
    assert found("dead_parameter", small_subject()).value == 0


def test_what_is_not_trained_is_not_dead():
    subject = small_subject()

    def model() -> nn.Module:
        made = subject.model()
        made.adapter.requires_grad_(False)
        return made

    said = found("dead_parameter", planted(subject, model=model))
    assert said.verdict == "ok"
    assert torch.tensor(said.value) == 0
