"""Whether items that are compared as text are found as often as by their numbers.

Exact match is too strict only if it misses an item that was found, and too lax if two items are
written alike. Where each item has a text of its own, text and number agree in every place of every
list: the bound is 0.
"""

from __future__ import annotations

import numpy as np

from realdataexp.diagnose.asked import recommended_of, some
from realdataexp.diagnose.finding import Measured
from realdataexp.diagnose.subject import Subject

_N_QUESTIONS = 512


def check(subject: Subject, seed: int) -> Measured:
    """Compare matches of text with matches of numbers, in all places of lists."""
    recommended = recommended_of(subject, "judged", "written")
    assert recommended.judged is not None
    assert recommended.written is not None
    split = recommended.split
    questions = some(split.test, _N_QUESTIONS, seed)
    _, list_QK = recommended.judged(subject.model().eval(), questions)
    target_Q1, text_V = split.target_Q(questions)[:, None], np.array(recommended.written)
    differ_QK = (text_V[list_QK] == text_V[target_Q1]) != (list_QK == target_Q1)
    n_differ, n_alike = int(differ_QK.sum()), len(text_V) - len(set(recommended.written))
    return Measured(
        n_differ + n_alike > 0, float(n_differ + n_alike), 0.0,
        f"text and number differ in {n_differ:,} of {differ_QK.size:,} comparisons; {n_alike:,} "
        "items are written as another",
        "write each item as a text of its own, or compare numbers",
    )  # fmt: skip
