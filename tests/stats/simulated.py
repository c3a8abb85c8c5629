"""Experiments with known truths, as the tables that a run writes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from scipy import stats

from realdataexp.stats.aggregates import arm_sums, outcome_table, unit_table

FALSE_FAIL = 1e-6


def bounds(share: float, n: int) -> tuple[float, float]:
    """Where a share of n is found but for one time in a million, if ``share`` is the truth."""
    low, high = stats.binom.interval(1 - FALSE_FAIL, n, share)
    return low / n, high / n


@dataclass
class Experiment:
    """Users with their own levels, a constant effect; axes W, X, U.

    Arms are kept per user, or per cluster of users where ``cluster_U`` says whose is which.
    """

    user_WX: np.ndarray
    is_treated_WX: np.ndarray
    y_WX: np.ndarray
    covariate_U: np.ndarray
    design: str = "pooling"
    cluster_U: np.ndarray | None = None

    def tables(self, n_visits: int | None = None, n_steps: int = 20) -> tuple[pl.DataFrame, ...]:
        """Outcomes and units of the first visits."""
        n = n_visits or self.user_WX.shape[1]
        worlds = [(self.design, w) for w in range(len(self.user_WX))]
        parts = [slice(*ends) for ends in zip_edges(n, n_steps)]
        sums = [arm_sums(self.is_treated_WX[:, x], self.y_WX[:, x, None]) for x in parts]
        outcomes = outcome_table(np.stack(sums), list(range(n_steps)), worlds, ["click"])
        user_WX = self.user_WX[:, :n]
        unit_WX = user_WX if self.cluster_U is None else self.cluster_U[user_WX]
        seen = (unit_WX, user_WX, self.is_treated_WX[:, :n], self.y_WX[:, :n, None])
        return outcomes, unit_table(
            *seen, [self.covariate_U[:, None]] * len(worlds), worlds, ["click"]
        )


def zip_edges(n: int, n_parts: int) -> list[tuple[int, int]]:
    edges = np.linspace(0, n, n_parts + 1).astype(int)
    return list(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True))


def experiment(
    seed: int,
    n_worlds: int,
    n_users: int = 100,
    n_visits: int = 400,
    effect: float = 0.0,
    user_sd: float = 1.0,
    p: float = 0.5,
    rho: float = 0.7,
    is_heavy: bool = False,
) -> Experiment:
    """Worlds in which all but the users' covariates is drawn apart.

    A covariate's correlation with its user's level is rho. Heavy: levels are log-normal.
    """
    g = np.random.default_rng(seed)
    covariate_U = g.normal(size=n_users)
    shock_WU = g.normal(size=(n_worlds, n_users))
    user_WX = g.integers(0, n_users, (n_worlds, n_visits))
    level_WU = user_sd * (rho * covariate_U + np.sqrt(1 - rho**2) * shock_WU)
    if is_heavy:
        level_WU = np.exp(2 * level_WU)
    is_treated_WU = g.random((n_worlds, n_users)) < p
    is_treated_WX = np.take_along_axis(is_treated_WU, user_WX, 1)
    y_WX = np.take_along_axis(level_WU, user_WX, 1) + g.normal(size=(n_worlds, n_visits))
    return Experiment(user_WX, is_treated_WX, y_WX + effect * is_treated_WX, covariate_U)


def clusters(
    seed: int, n_worlds: int, n_clusters: int = 20, n_users: int = 100, n_visits: int = 400
) -> Experiment:
    """An A/A test by clusters of as many users each, who share half of their levels' variance."""
    g = np.random.default_rng(seed)
    data = experiment(seed, n_worlds, n_users, n_visits)
    data.cluster_U = np.arange(n_users) % n_clusters
    of_visit_WX = data.cluster_U[data.user_WX]
    data.is_treated_WX = np.take_along_axis(
        g.random((n_worlds, n_clusters)) < 0.5, of_visit_WX, axis=1
    )
    level_WK = g.normal(size=(n_worlds, n_clusters))
    data.y_WX = data.y_WX + np.take_along_axis(level_WK, of_visit_WX, axis=1)
    return data


def coverage(table: pl.DataFrame, effect: float, shrink: float = 1.0) -> float:
    """The share of intervals, shrunk around their middle, that hold the effect."""
    low, high = table["ci_low"], table["ci_high"]
    assert low.null_count() == 0
    half = shrink * (high - low) / 2
    return float((((low + high) / 2 - effect).abs() <= half).mean())
