"""Whether lists hold different items, none of which the user had.

A list that is filled up with copies, or with what the user already has, has fewer chances than it
counts places. There is no noise: no place may be lost, where there are enough items.
"""

from __future__ import annotations

import numpy as np

from realdataexp.diagnose.asked import recommended_of, some
from realdataexp.diagnose.finding import Measured
from realdataexp.diagnose.subject import CannotTell, Subject

_N_QUESTIONS = 256


def check(subject: Subject, seed: int) -> Measured:
    """Count the places of lists with an item that stands before, or in the history."""
    recommended = recommended_of(subject, "judged")
    assert recommended.judged is not None
    split, model = recommended.split, subject.model().eval()
    questions = some(split.test, _N_QUESTIONS, seed)
    past_QT = split.past_BT(questions)
    _, list_QK = recommended.judged(model, questions)
    if split.histories.n_items < past_QT.shape[1] + list_QK.shape[1]:
        raise CannotTell("what is missing: items, as a history and a list hold more than all")
    lists = {"judged": list_QK}
    if recommended.search is not None:
        lists["searched"] = recommended.search(model, past_QT, list_QK.shape[1])
    n_copies = {name: _copies(x_QK) for name, x_QK in lists.items()}
    n_had = int((list_QK[:, :, None] == past_QT[:, None, :]).any(2).sum())
    n = sum(n_copies.values()) + n_had
    copies = " and ".join(f"{x:,} in lists that are {name}" for name, x in n_copies.items())
    return Measured(
        n > 0, float(n), 0.0,
        f"places of {len(questions)} lists that repeat an item: {copies}; that have one of the "
        f"user's own history: {n_had:,}",
        "leave out what the list or the history has, and go further down the ranking",
    )  # fmt: skip


def _copies(list_QK: np.ndarray) -> int:
    return int((np.diff(np.sort(list_QK, axis=1), axis=1) == 0).sum())
