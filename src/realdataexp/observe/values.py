"""The arms' off-policy values beside replay's own truth: of each outcome, by each estimator.

The estimand is the same for both: the mean over users of what a frozen arm gets where it picks the
best of C videos that are drawn from the pool as the log's random exposures were. An estimator knows
the arm's chance of each video over all such slates and weighs the logged rows with it; replay makes
its slates of the user's own rows, which are such draws.

Axes: A arms (0 = control, 1 = treatment), N rows, U users, L labels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from realdataexp.observe.base import (
    CannotTell,
    Estimated,
    Estimator,
    Exposures,
    Terms,
    effective_size,
    estimated,
)
from realdataexp.observe.pool import Pool

ARMS = ("control", "treatment")
NOT_COMPARABLE = (
    "propensities differ between rows, so replay's slates are drawn otherwise than the estimand's"
)
_SIGNIFICANT = 0.05
Found = dict[str, Any]


def off_policy(
    pool: Pool,
    estimators: Mapping[str, Estimator],
    rewards: Mapping[str, np.ndarray],
    label_of: Mapping[str, int],
) -> Found:
    """Every outcome's values, graded; and what they rest on; JSON-able.

    Args:
        pool: users' rows and the arms' chances.
        estimators: by the names that they are shown by.
        rewards: of each outcome, its values of the rows; NaN where missing.
        label_of: the label whose network predicts an outcome, of those that have one.
    """
    propensity_N, asked = pool.propensity_N, estimators
    if propensity_N is None:  # replay needs none
        propensity_N, asked = np.ones(len(pool.row_N)), {}
    outcomes = {}
    for name, reward_N in rewards.items():
        seen_A = [_seen(pool, propensity_N, reward_N, label_of.get(name), arm) for arm in (0, 1)]
        outcomes[name] = list(_graded(pool, seen_A, np.isfinite(reward_N), asked))
    if pool.propensity_N is None:
        return {"cannot_tell": pool.unknown, "outcomes": outcomes}
    first = [_seen(pool, propensity_N, np.zeros(len(propensity_N)), None, a) for a in (0, 1)]
    return {
        "exposure": _exposure(pool, first[0]),
        "weights": {name: _weights(seen) for name, seen in zip(ARMS, first, strict=True)},
        "outcomes": outcomes,
    }


def _seen(
    pool: Pool, propensity_N: np.ndarray, reward_N: np.ndarray, label: int | None, arm: int
) -> Exposures:
    """The rows whose reward is known, as an arm's estimators see them."""
    known = np.isfinite(reward_N)
    model: Mapping[str, np.ndarray] = {}
    if label is not None:
        model = {
            "predicted_N": pool.predicted_NL[known, label],
            "value_U": pool.value_AUL[arm, :, label],
        }
    return Exposures(
        pool.user_N[known], pool.action_N[known], reward_N[known], propensity_N[known],
        pool.chance_A[arm], categories=pool.categories, **model,
    )  # fmt: skip


def _graded(
    pool: Pool,
    seen_A: Sequence[Exposures],
    known_N: np.ndarray,
    estimators: Mapping[str, Estimator],
) -> Iterator[Found]:
    """Replay's truth, then each estimator: the arms' values, their difference, and the errors."""
    truth_A = [of_replay(seen, pool.own_chance_A[arm][known_N]) for arm, seen in enumerate(seen_A)]
    random = estimated(seen_A[0], Terms(seen_A[0].reward_N, np.ones(len(seen_A[0].reward_N))))
    yield {"name": "random pick", "control": told(random), "treatment": told(random)}
    yield {"name": "replay", **_both(truth_A)}
    is_comparable = seen_A[0].is_uniform
    for name, estimator in estimators.items():
        try:
            found_A = [estimated(seen, estimator.terms(seen)) for seen in seen_A]
        except CannotTell as error:
            yield {"name": name, "cannot_tell": str(error)}
            continue
        error_A = [found - truth for found, truth in zip(found_A, truth_A, strict=True)]
        graded = _both(error_A, tested=True) if is_comparable else {"cannot_tell": NOT_COMPARABLE}
        yield {"name": name, **_both(found_A), "error": graded}


def of_replay(seen: Exposures, own_chance_N: np.ndarray) -> Estimated:
    """What an arm gets at a user's first visit in replay, over all slates of the user's rows.

    No slate is drawn: each row counts as it is the best of a random slate of them.
    """
    n_U = np.bincount(seen.user_N, minlength=len(seen.chance_UK))
    weight_N = own_chance_N * n_U[seen.user_N]
    return estimated(seen, Terms(weight_N * seen.reward_N, weight_N))


def _both(found_A: Sequence[Estimated], tested: bool = False) -> Found:
    control, treatment = found_A
    effect = treatment - control
    found = {"control": told(control), "treatment": told(treatment), "effect": told(effect)}
    if tested:
        for name, one in zip((*ARMS, "effect"), (control, treatment, effect), strict=True):
            found[name]["p_value"] = p_value(one)
    return found


def told(found: Estimated) -> Found:
    """A value with its standard error and interval; null where one user has no spread."""
    if not np.isfinite(found.se):
        return {"value": found.value, "se": None, "ci_low": None, "ci_high": None}
    low, high = found.interval
    return {"value": found.value, "se": found.se, "ci_low": low, "ci_high": high}


def p_value(found: Estimated) -> float | None:
    """Of a mean of 0, by Student's t with users as clusters; None without a spread."""
    if not (np.isfinite(found.se) and found.se > 0):
        return None
    return float(2 * stats.t.sf(abs(found.value) / found.se, len(found.influence_U) - 1))


# --- what they rest on ---------------------------------------------------------------------------


def _weights(seen: Exposures) -> Found:
    """How much of the log an arm's estimates rest on, and whether weights are 1 on average."""
    mean = estimated(seen, Terms(seen.weight_N, np.ones_like(seen.weight_N)))
    effective = effective_size(seen.share_N * seen.weight_N)
    return {
        "mean": told(mean),
        "p_value_of_mean_1": p_value(Estimated(mean.value - 1.0, mean.influence_U)),
        "largest": float(seen.weight_N.max()),
        "effective_rows": effective,
        "effective_share": effective / len(seen.weight_N),
        "rows_without_weight": float((seen.weight_N == 0).mean()),
    }


def _exposure(pool: Pool, seen: Exposures) -> Found:
    """The log's own exposure: rows, pool, and whether videos were shown as evenly as it says."""
    n, K = len(seen.action_N), len(pool.video_K)
    found: Found = {
        "rows": n, "users": len(pool.user_U), "eligible_users": pool.n_eligible, "videos": K,
        "is_uniform": seen.is_uniform,
        "least_propensity": float(seen.propensity_N.min()),
        "largest_propensity": float(seen.propensity_N.max()),
    }  # fmt: skip
    if seen.is_uniform and K > 1:
        count_K = np.bincount(seen.action_N, minlength=K)
        found["dispersion"] = float(((count_K - n / K) ** 2).sum() / (n / K) / (K - 1))
        found["dispersion_p_value"] = float(stats.chi2.sf(found["dispersion"] * (K - 1), K - 1))
    return found
