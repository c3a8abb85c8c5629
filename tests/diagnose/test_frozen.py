"""Parameters that must not change."""

from __future__ import annotations

import pytest
import torch
from diagnose.outside import mlp
from diagnose.planting import KINDS, subject_of_kind, with_model
from diagnose.subjects import found, planted, small_subject


@pytest.mark.parametrize("name", KINDS)
def test_what_our_trainings_freeze_stays(name: str):
    said = found("frozen", subject_of_kind(name))
    assert (said.verdict, said.value) == ("ok", 0)
    assert "of 2 frozen parameters" in said.said


def test_a_frozen_module_that_learns_is_named():
    said = found("frozen", planted(small_subject(), frozen=("adapter",)))
    assert (said.verdict, said.value) == ("fault", 2)
    assert "two steps change 2, and the optimiser holds 2: adapter.weight" in said.said


def test_what_requires_no_gradient_must_not_be_in_the_optimiser():
    subject = with_model(small_subject(), lambda model: model.read.requires_grad_(False))
    assert found("frozen", subject).verdict == "ok"
    all_of_them = planted(subject, optimizer=lambda m: torch.optim.AdamW(m.parameters()))
    said = found("frozen", all_of_them)
    assert said.verdict == "fault"
    assert "two steps change 0" in said.said and "read.weight" in said.said


def test_a_name_of_nothing_and_nothing_frozen_cannot_tell():
    said = found("frozen", planted(small_subject(), frozen=("adaptor",)))
    assert said.verdict == "cannot tell" and "'adaptor'" in said.said
    said = found("frozen", mlp())
    assert said.verdict == "cannot tell" and "nothing is frozen" in said.said
    assert found("frozen", planted(small_subject(), optimizer=None)).verdict == "cannot tell"
