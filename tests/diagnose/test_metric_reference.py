"""Metrics that are right, and those that begin at another place or take ties as won."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from diagnose.subjects import found, planted, small_subject, with_recommended
from torch import nn

from realdataexp.diagnose.checks.metric_reference import reference
from realdataexp.diagnose.subject import Subject
from realdataexp.sequences.histories import Questions


def test_the_reference_has_values_by_hand():
    score_QV = np.array([[3.0, 2.0, 1.0, 2.0], [1.0, 2.0, 3.0, 4.0]])
    past_QT = np.array([[0, -1], [0, 2]])
    found = reference(score_QV, past_QT, np.array([1, 2]))  # rank 0.5; had before: 4
    assert found["hit@10"] == 1.0
    assert found["ndcg@10"] == pytest.approx((1 / np.log2(2.5) + 1 / np.log2(6)) / 2)
    assert found["mrr"] == pytest.approx((1 / 1.5 + 1 / 5) / 2)


def test_the_package_s_own_metrics_are_right():
    for model in ("SASRec", "GRU4Rec"):
        subject = small_subject(model={"name": model, "width": 16}, items={})
        assert found("metric_reference", subject, seed=1).verdict == "ok"
    for seed in range(3):
        assert found("metric_reference", small_subject(), seed).verdict == "ok"


def _judged(subject: Subject, name: str, factor: float) -> Subject:
    """A subject whose evaluation has another value of a metric."""
    assert subject.recommended is not None
    judged = subject.recommended.judged
    assert judged is not None

    def other(model: nn.Module, questions: Questions) -> tuple[Mapping[str, float], np.ndarray]:
        values, lists = judged(model, questions)
        return {**values, name: values[name] * factor}, lists

    return with_recommended(subject, judged=other)


@pytest.mark.parametrize("name", ["hit@10", "ndcg@10", "mrr"])
def test_a_metric_that_is_wrong_by_a_thousandth_is_named(name: str):
    said = found("metric_reference", _judged(small_subject(), name, 1.001))
    assert said.verdict == "fault"
    assert said.said.startswith(name)


def test_a_metric_that_is_not_a_number_is_a_fault():
    assert found("metric_reference", _judged(small_subject(), "mrr", np.nan)).verdict == "fault"


def test_it_cannot_tell_without_an_evaluation():
    subject = small_subject()
    assert found("metric_reference", with_recommended(subject, judged=None)).verdict == (
        "cannot tell"
    )
    assert found("metric_reference", planted(subject, recommended=None)).verdict == "cannot tell"
