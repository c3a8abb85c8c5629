"""Inputs that do not reach the loss, or are not used."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diagnose.planting import KINDS, subject_of_kind, trained, with_model
from diagnose.subjects import found, planted, small_subject


def scaled_output(factor: float) -> Any:
    """An adapter whose output is so much smaller."""
    return lambda model: model.adapter.register_forward_hook(lambda m, args, out: out * factor)


@pytest.mark.parametrize("name", KINDS)
def test_inputs_of_healthy_trainings_arrive(name: str):
    subject = subject_of_kind(name)
    assert found("dead_input", subject).verdict == "ok"
    assert found("dead_input", trained(subject)).verdict == "ok"


def test_an_input_that_is_overwritten_is_dead_before_the_first_step_as_after():
    subject = with_model(small_subject(), scaled_output(0.0))
    for x in (subject, trained(subject, 3)):
        said = found("dead_input", x)
        assert (said.verdict, said.value) == ("fault", 1)
        assert "history: arrives" in said.said and "vector: dead" in said.said


def test_an_adapter_that_begins_at_zero_is_not_dead():
    def zeroed(model: Any) -> None:
        torch.nn.init.zeros_(model.adapter.weight)
        torch.nn.init.zeros_(model.adapter.bias)

    said = found("dead_input", with_model(small_subject(), zeroed))
    assert said.verdict == "ok"
    assert "vector: arrives, the loss rises by 0 " in said.said


def test_what_is_connected_but_too_small_to_matter_is_not_used():
    said = found("dead_input", trained(with_model(small_subject(), scaled_output(1e-4))))
    assert said.verdict == "fault"
    assert "history: arrives" in said.said and "vector: not used" in said.said


def test_a_subject_of_a_single_constant_input_cannot_tell():
    batches = small_subject().batches
    subject = planted(small_subject(), changes={}, batches=batches)
    assert found("dead_input", subject).verdict == "cannot tell"


def test_a_model_that_has_hardly_learned_is_not_blamed():
    """At first a recurrent network knows which items are frequent, and no more."""
    for n in (12, 40):
        assert found("dead_input", trained(subject_of_kind("GRU4Rec"), n, 0.003)).verdict == "ok"


def test_a_loss_that_draws_items_is_compared_by_the_same():
    """With a sampled softmax a dead input must be seen in spite of the noise of the sample."""

    def constant(model: Any) -> None:
        model.encoder.register_forward_hook(lambda m, args, out: torch.zeros_like(out))

    subject = small_subject(model={"name": "SASRec", "width": 16, "negatives": 20}, items={})
    assert found("dead_input", subject).verdict == "ok"
    assert found("dead_input", with_model(subject, constant)).verdict == "fault"


def test_what_was_learned_is_known_of_the_first_state_too():
    subject = with_model(small_subject(), scaled_output(1e-4))
    known = planted(trained(subject), entropy=None, fresh=subject.model)
    assert "vector: not used" in found("dead_input", known).said
    assert found("dead_input", planted(known, fresh=None)).verdict == "ok"
