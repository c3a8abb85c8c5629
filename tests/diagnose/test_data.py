"""Pairs that are learned once, and those that batches lose or have twice."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from diagnose.subjects import found, small_subject, with_recommended

from realdataexp.diagnose.finding import Finding
from realdataexp.diagnose.pairs import beyond
from realdataexp.diagnose.subject import Subject


def _learning(subject: Subject, places: slice | np.ndarray) -> Finding:
    """Of an epoch that learns from some of its places."""
    assert subject.recommended is not None
    learned = subject.recommended.learned
    assert learned is not None
    read_X, target_X = learned()
    planted = with_recommended(subject, learned=lambda: (read_X[places], target_X[places]))
    return found("data", planted)


def test_an_epoch_learns_each_pair_once(trained: Subject):
    for subject in (trained, small_subject(), small_subject(model={"name": "SASRec"}, items={})):
        said = found("data", subject)
        assert (said.verdict, said.value) == ("ok", 0.0)
    assert "100.0% of 909 pairs are learned" in said.said


def test_a_model_that_reads_few_items_is_no_fault():
    model = {"name": "SASRec", "width": 16, "longest": 2}
    said = found("data", small_subject(model=model, items={}))
    assert said.verdict == "ok"
    assert said.said.startswith("33.0% of 909")  # two of each of 150 users


def test_a_batch_that_is_dropped_or_comes_twice_is_found():
    subject = small_subject(model={"name": "SASRec"}, items={})
    assert _learning(subject, slice(0, -200)).verdict == "fault"
    said = _learning(subject, np.r_[0:909, 0:10])
    assert said.verdict == "fault"
    assert said.value == 10


def test_questions_whose_item_the_user_had_are_found():
    subject = small_subject()
    assert subject.recommended is not None
    split = subject.recommended.split
    item_N = split.histories.item_N.copy()
    item_N[split.test.place_Q[:15]] = item_N[split.test.place_Q[:15] - 2]
    other = replace(split, histories=replace(split.histories, item_N=item_N))
    said = found("data", with_recommended(subject, split=other))
    assert said.verdict == "fault"
    assert "10.0% of the test's items are in the history" in said.said


def test_what_goes_beyond_is_counted_by_kind():
    kind_K, n = beyond(np.array([5, 5, 5, 2, 9]), np.array([5, 9, 9, 1]))
    assert (kind_K.tolist(), n) == ([2, 5], 3)


def test_it_cannot_tell_without_what_is_learned():
    assert found("data", with_recommended(small_subject(), learned=None)).verdict == "cannot tell"
