"""Where a learning rate is on a grid."""

from __future__ import annotations

import pytest
import torch
from diagnose.planting import KINDS, subject_of_kind
from diagnose.subjects import found, planted


@pytest.mark.parametrize("name", KINDS)
def test_a_rate_of_the_right_order_is_not_blamed(name: str):
    for rate in (1e-3, 3e-3):
        said = found("learning_rate", planted(subject_of_kind(name), learning_rate=rate))
        assert said.verdict == "ok", said


@pytest.mark.parametrize("name", KINDS)
def test_a_rate_ten_times_too_low_is_found_and_ten_times_as_high_named(name: str):
    said = found("learning_rate", planted(subject_of_kind(name), learning_rate=1e-4))
    assert said.verdict == "fault" and said.value is not None
    assert said.value > said.bound == pytest.approx(10**0.5)
    assert "near 0.001" in said.advice


def test_a_rate_so_low_that_it_learns_nothing_is_found():
    subject = planted(subject_of_kind("SASRec"), learning_rate=1e-6)
    assert "near 1e-05" in found("learning_rate", subject).advice


def test_a_rate_that_learns_nothing_as_it_is_too_high_is_found():
    subject = planted(subject_of_kind("SASRec"), learning_rate=3.0)
    said = found("learning_rate", subject)
    assert said.verdict == "fault"
    assert "near 0.3" in said.advice


def test_what_must_be_known_is_asked_for():
    subject = subject_of_kind("SASRec")
    for missing in ({"learning_rate": None}, {"optimizer": None}, {"is_trained": True}):
        assert found("learning_rate", planted(subject, **missing)).verdict == "cannot tell"


def test_it_says_the_same_again_and_leaves_the_model_as_it_is():
    subject = subject_of_kind("SASRec")
    before = {k: x.clone() for k, x in subject.model().state_dict().items()}
    first, again = (found("learning_rate", subject) for _ in range(2))
    assert first.value == again.value
    assert all(torch.equal(x, before[k]) for k, x in subject.model().state_dict().items())
