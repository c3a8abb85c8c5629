"""Whether a model's own search finds the best items.

Of the ten items with the largest exact scores, the share that the search finds, over questions. It
misses some where its beam is too narrow. The bound is 0.95, and it is a fault where the mean is
below that by more than three standard errors over the questions, which chance does in 1 of 1,000
for a search that finds 0.95. An untrained model has no best items, so it cannot tell.
"""

from __future__ import annotations

import numpy as np

from realdataexp.diagnose.asked import recommended_of, some
from realdataexp.diagnose.finding import Measured
from realdataexp.diagnose.subject import Subject

_N_QUESTIONS, _K = 128, 10
_BOUND, _ROUNDING = 0.95, 1e-4


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
    recall, error = float(share_B.mean()), float(share_B.std() / len(share_B) ** 0.5)
    return Measured(
        recall + 3 * error < _BOUND, recall, _BOUND,
        f"the search finds {recall:.3f} (standard error {error:.3f}) of the {k} best items of "
        f"{len(past_BT)} questions",
        "search with a wider beam, or score all items",
    )  # fmt: skip
