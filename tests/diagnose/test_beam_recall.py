"""A search that is wide enough, and one that is not."""

from __future__ import annotations

import numpy as np
import pytest
from diagnose import planting
from diagnose.subjects import found, small_subject, with_recommended
from torch import nn

from realdataexp.diagnose.checks.beam_recall import is_below
from realdataexp.diagnose.subject import Subject


def searching(subject: Subject, width: int) -> Subject:
    """With a beam so wide."""
    assert subject.recommended is not None
    search = subject.recommended.search
    assert search is not None

    def narrow(model: nn.Module, past_BT: np.ndarray, k: int) -> np.ndarray:
        return search(model, past_BT, k, width=width)  # type: ignore[call-arg]

    return with_recommended(subject, search=narrow)


def test_a_wide_beam_finds_the_best_items_and_a_beam_of_10_does_not(trained: Subject):
    for seed in range(3):
        assert found("beam_recall", trained, seed).verdict == "ok"
        said = found("beam_recall", searching(trained, 10), seed)
        assert said.verdict == "fault"
        assert said.value is not None
        assert said.value < 0.9


@pytest.mark.parametrize("size", planting.SIZES)
def test_a_beam_of_10_that_finds_nearly_all_is_found_at_each_size(size: str):
    """After a few updates it finds 0.9 to 0.95 of the ten best."""
    subject = planting.trained(small_subject(dataset=planting.SIZES[size]), 40)
    assert found("beam_recall", subject).verdict == "ok"
    said = found("beam_recall", searching(subject, 10))
    assert said.verdict == "fault"
    assert said.value is not None and said.value < 0.97, said


def test_false_alarms_are_at_most_1_in_1_000_and_a_recall_of_95_percent_is_found():
    """Of searches that miss items one by one, or all of a question; 15 of 5,000: p below 1e-4."""
    rng, shape = np.random.default_rng(0), (5000, 256)
    one_by_one, all_of_one = rng.binomial(10, 0.99, shape) / 10, rng.random(shape) < 0.99
    assert sum(is_below(x) for x in one_by_one) < 15
    assert sum(is_below(x) for x in all_of_one.astype(float)) < 15
    assert all(is_below(x) for x in rng.binomial(10, 0.95, shape) / 10)


def test_copies_of_a_best_item_count_once(trained: Subject):
    assert trained.recommended is not None
    scores = trained.recommended.scores

    def search(model: nn.Module, past_BT: np.ndarray, k: int) -> np.ndarray:
        return scores(model, past_BT).argmax(1)[:, None].repeat(k, 1)

    said = found("beam_recall", with_recommended(trained, search=search))
    assert said.verdict == "fault"
    assert said.value is not None
    assert abs(said.value - 0.1) < 1e-6


def test_what_is_not_trained_or_does_not_search_cannot_tell():
    assert "has ended" in found("beam_recall", small_subject()).said
    subject = small_subject(model={"name": "SASRec", "width": 16}, items={})
    assert "recommended.search" in found("beam_recall", subject).said
