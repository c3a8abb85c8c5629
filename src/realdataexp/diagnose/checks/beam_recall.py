"""Whether a model's own search finds the best items.

Of the ten items with the largest exact scores, the share that the search finds, over questions. It
misses some where its beam is too narrow. What it misses cannot be hit: where the item that came is
as likely to be any of the ten, hit@10 falls by the share that is missed, so the bound, 0.99, is one
hit in a hundred, a third of the standard error of a hit@10 of 0.1 over 10,000 questions.

It is a fault where the mean is below that by more than three standard errors over the questions,
which chance does in at most 1 of 1,000 searches that find 0.99: misses are rare, so that where by
chance there are more of them the standard error is larger too. Of 256 questions a search that finds
0.95 has a standard error of about 0.006, so that it is found. An untrained model has no best items,
so the check cannot tell.
"""

from __future__ import annotations

import numpy as np

from realdataexp.diagnose.asked import recommended_of, some
from realdataexp.diagnose.finding import Measured
from realdataexp.diagnose.subject import Subject

_N_QUESTIONS, _K = 256, 10
_BOUND, _ERRORS, _ROUNDING = 0.99, 3, 1e-4


def check(subject: Subject, seed: int) -> Measured:
    """Compare the items that the search finds with those of the largest scores."""
    recommended = recommended_of(subject, "search", is_trained=True)
    assert recommended.search is not None
    split, model = recommended.split, subject.model().eval()
    past_BT = split.past_BT(some(split.test, _N_QUESTIONS, seed))
    score_BV = recommended.scores(model, past_BT)
    k = min(_K, score_BV.shape[1])
    least_B1 = -np.partition(-score_BV, k - 1, axis=1)[:, k - 1 : k] - _ROUNDING
    found_BK = np.sort(recommended.search(model, past_BT, k), axis=1)
    is_new_BK = np.diff(found_BK, axis=1, prepend=-1) != 0
    share_B = (is_new_BK & (np.take_along_axis(score_BV, found_BK, 1) >= least_B1)).mean(1)
    recall = float(share_B.mean())
    return Measured(
        is_below(share_B), recall, _BOUND,
        f"the search finds {recall:.3f} (standard error {_error(share_B):.3f}) of the {k} best "
        f"items of {len(past_BT)} questions",
        "search with a wider beam, or score all items",
    )  # fmt: skip


def is_below(share_B: np.ndarray) -> bool:
    """Whether the mean share over questions is below the bound by more than chance."""
    return bool(share_B.mean() + _ERRORS * _error(share_B) < _BOUND)


def _error(share_B: np.ndarray) -> float:
    return float(share_B.std() / len(share_B) ** 0.5)
