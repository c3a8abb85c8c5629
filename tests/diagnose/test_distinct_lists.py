"""Lists without copies, and lists that were filled up."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from diagnose.subjects import found, small_subject, with_recommended
from torch import nn

from realdataexp.diagnose.subject import Subject
from realdataexp.sequences.histories import Questions


def test_the_package_s_own_lists_are_distinct():
    for seed in range(3):
        assert found("distinct_lists", small_subject(), seed).verdict == "ok"
    subject = small_subject(model={"name": "GRU4Rec", "width": 16}, items={})
    assert found("distinct_lists", subject).verdict == "ok"


def _with_last(subject: Subject, last: str) -> Subject:
    """A subject whose lists end with their first item, or with the user's last one."""
    assert subject.recommended is not None
    judged, split = subject.recommended.judged, subject.recommended.split
    assert judged is not None

    def other(model: nn.Module, questions: Questions) -> tuple[Mapping[str, float], np.ndarray]:
        values, list_QK = judged(model, questions)
        before = split.histories.item_N[questions.place_Q - 1]
        list_QK[:, -1] = list_QK[:, 0] if last == "first" else before
        return values, list_QK

    return with_recommended(subject, judged=other)


def test_copies_and_what_the_user_had_are_counted():
    for last in ("first", "had"):
        said = found("distinct_lists", _with_last(small_subject(), last))
        assert said.verdict == "fault"
        assert said.value == 150


def test_copies_that_a_search_returns_are_counted():
    def search(model: nn.Module, past_BT: np.ndarray, k: int) -> np.ndarray:
        return np.zeros((len(past_BT), k), dtype=np.int64)

    said = found("distinct_lists", with_recommended(small_subject(), search=search))
    assert said.verdict == "fault"
    assert said.value == 150 * 9


def test_a_catalogue_that_is_too_small_cannot_tell():
    def judged(model: nn.Module, questions: Questions) -> tuple[Mapping[str, float], np.ndarray]:
        return {}, np.zeros((len(questions), 75), dtype=np.int64)

    subject = with_recommended(small_subject(), judged=judged)
    assert found("distinct_lists", subject).verdict == "cannot tell"
