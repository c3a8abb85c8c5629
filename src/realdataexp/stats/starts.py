"""Worlds of several starting models: what they share makes them alike.

All replications of a starting model share its parameters and its split of users, so a mean over
replications is as sure as the number of starting models makes it, not that of replications.

Axes: W worlds.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np


class Mean(NamedTuple):
    """A mean over worlds.

    Attributes:
        value: the mean; None without a world.
        se: its standard error; None where there is only one world, or starting model.
        df: the error's degrees of freedom; None without a world.
    """

    value: float | None
    se: float | None
    df: int | None


def mean_over_worlds(value_W: np.ndarray, world_W: np.ndarray, n_starts: int = 1) -> Mean:
    """The mean of worlds' values, with a standard error clustered by starting model.

    With one starting model, sd / sqrt(W) with W - 1 degrees of freedom: the error is given that
    model. With K of them, of n_k worlds and mean m_k each, around the mean m of all worlds,

        se^2 = K / (K - 1) sum_k (n_k (m_k - m) / W)^2

    with K - 1 degrees of freedom (the cluster-robust variance of a mean, Liang & Zeger 1986), which
    is the standard deviation of the m_k over sqrt(K) where the n_k are equal.

    Args:
        value_W: finite.
        world_W: the worlds' numbers; world w begins from starting model w mod n_starts.
        n_starts: how many starting models the run has.

    Examples:
        Two starting models, with means 1 and 3; the sd of these over sqrt(2) is 1:

        >>> mean_over_worlds(np.array([0.0, 2.0, 2.0, 4.0]), np.arange(4), n_starts=2)
        Mean(value=2.0, se=1.0, df=1)
    """
    n = len(value_W)
    if n == 0:
        return Mean(None, None, None)
    mean = float(value_W.mean())
    if n_starts == 1:
        se = float(value_W.std(ddof=1)) / math.sqrt(n) if n > 1 else None
        return Mean(mean, se, n - 1)
    starts, start_W = np.unique(world_W % n_starts, return_inverse=True)
    rest_K, K = np.bincount(start_W, value_W - mean), len(starts)
    se = math.sqrt(K / (K - 1) * float((rest_K**2).sum())) / n if K > 1 else None
    return Mean(mean, se, K - 1)


def sd_within_starts(value_W: np.ndarray, world_W: np.ndarray, n_starts: int = 1) -> float | None:
    """The standard deviation of a single test's values, given its starting model.

    Pooled over the starting models; None where no starting model has two worlds.
    """
    if n_starts == 1:
        return float(value_W.std(ddof=1)) if len(value_W) > 1 else None
    _, start_W, n_K = np.unique(world_W % n_starts, return_inverse=True, return_counts=True)
    mean_K = np.bincount(start_W, value_W) / n_K
    df = len(value_W) - len(n_K)
    return math.sqrt(float(((value_W - mean_K[start_W]) ** 2).sum()) / df) if df > 0 else None
