"""What checks of a recommender ask it: some of its questions."""

from __future__ import annotations

import numpy as np

from realdataexp.diagnose.subject import CannotTell, Recommended, Subject
from realdataexp.sequences.histories import Questions


def recommended_of(subject: Subject, *parts: str, is_trained: bool = False) -> Recommended:
    """What a subject recommends.

    Args:
        subject: of a diagnosis.
        parts: attributes of Recommended that must be known.
        is_trained: whether the parameters must be those of a training that has ended.

    Raises:
        CannotTell: one of these is missing.
    """
    if subject.recommended is None:
        raise CannotTell(
            "what is missing: recommended; pass it to the Subject if this recommends items"
        )
    if lacking := [x for x in parts if getattr(subject.recommended, x) is None]:
        raise CannotTell(f"what is missing: recommended.{lacking[0]}")
    if is_trained and not subject.is_trained:
        raise CannotTell(
            "what is missing: a training that has ended; diagnose its run folder, or pass "
            "is_trained to the Subject"
        )
    return subject.recommended


def some(questions: Questions, n: int, seed: int) -> Questions:
    """At most n questions, drawn; CannotTell where there are none."""
    if not len(questions):
        raise CannotTell("what is missing: held-out questions")
    drawn_Q = np.random.default_rng([seed, 0xA5C]).permutation(len(questions))[:n]
    return questions[np.sort(drawn_Q)]
