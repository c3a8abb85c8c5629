"""Models as good as counting, and those that are not."""

from __future__ import annotations

from dataclasses import replace

from diagnose.subjects import found, small_subject

from realdataexp.diagnose.subject import Subject
from realdataexp.sequences.markov import Markov


def test_a_model_as_good_as_counting_is_not_blamed(trained: Subject):
    for seed in range(3):
        assert found("counting_baseline", trained, seed).verdict == "ok"


def test_a_model_that_counts_differs_by_nothing(trained: Subject):
    assert trained.recommended is not None
    counted = Markov().fit(trained.recommended.split)
    recommended = replace(
        trained.recommended,
        scores=lambda model, past_BT: counted.scores(past_BT),
        validated=None,
    )
    said = found("counting_baseline", replace(trained, recommended=recommended))
    assert (said.verdict, said.value) == ("ok", 0.0)


def test_a_model_below_counting_is_found():
    subject = small_subject(dataset={"name": "sequences", "synthetic": {"users": 600, "items": 80}})
    said = found("counting_baseline", replace(subject, is_trained=True))
    assert said.verdict == "fault"
    assert said.value is not None
    assert said.value < -0.1
    assert "has ended" in found("counting_baseline", subject).said
