"""Items that are compared as text: the claim that this is too strict, and what would be wrong."""

from __future__ import annotations

from diagnose.subjects import found, small_subject, with_recommended


def test_exact_match_is_as_good_as_numbers_where_texts_are_unique():
    for seed in range(3):
        said = found("text_match", small_subject(), seed)
        assert said.verdict == "ok"
        assert said.said.startswith("text and number differ in 0 of 1,500 comparisons")


def test_items_that_are_written_alike_are_found():
    subject = small_subject()
    assert subject.recommended is not None
    written = subject.recommended.written
    assert written is not None
    shortened = [text.rpartition("<")[0] for text in written]  # without the last code
    said = found("text_match", with_recommended(subject, written=shortened))
    assert said.verdict == "fault"
    assert "33 items are written as another" in said.said


def test_without_texts_it_cannot_tell():
    subject = small_subject(model={"name": "SASRec", "width": 16}, items={})
    assert found("text_match", subject).said == "what is missing: recommended.written"
