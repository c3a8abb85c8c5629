"""How likely an arm shows each video of the pool, averaged over the slates that it is offered.

A slate is C videos of the pool, drawn without replacement, all alike; the arm picks the best. The
chance is exact, no slate is drawn.

Axes: U users, K videos of the pool, C candidates.
"""

from __future__ import annotations

import numpy as np


def chances_of_best(score_UK: np.ndarray, n_candidates_U: np.ndarray) -> np.ndarray:
    """The chance that each video is the best of a random slate: U, K.

    With A videos above it and E equal to it (itself among them), the best is one of these with the
    chance (C(K - A, C) - C(K - A - E, C)) / C(K, C), and each of them is as likely.

    Args:
        score_UK: an arm's scores, finite; the higher, the better.
        n_candidates_U: C of each user, from 1 to K.

    Examples:
        The best of two of three videos is the first in two slates of three, and never the last:

        >>> chances_of_best(np.array([[3.0, 2.0, 1.0]]), np.array([2])).round(3).tolist()
        [[0.667, 0.333, 0.0]]
    """
    K = score_UK.shape[1]
    chance_UK = np.empty(score_UK.shape)
    within = {C: _all_within(K, int(C)) for C in np.unique(n_candidates_U)}
    for u, C in enumerate(n_candidates_U):
        score_K, share_K1 = score_UK[u], within[C]
        in_order = np.sort(score_K)
        below_K = np.searchsorted(in_order, score_K, side="left")
        up_to_K = np.searchsorted(in_order, score_K, side="right")
        chance_UK[u] = (share_K1[up_to_K] - share_K1[below_K]) / (up_to_K - below_K)
    return chance_UK


def _all_within(K: int, C: int) -> np.ndarray:
    """The chance that all of C videos of K are among m given ones, for m = 0 .. K."""
    m = np.arange(K + 1, dtype=np.float64)
    share = np.ones(K + 1)
    for j in range(C):
        share *= np.maximum(m - j, 0.0) / (K - j)
    return share


def with_exploration(chance_UK: np.ndarray, epsilon: float) -> np.ndarray:
    """The chances of an arm that shows any candidate with the chance epsilon, else the best."""
    return (1.0 - epsilon) * chance_UK + epsilon / chance_UK.shape[1]
