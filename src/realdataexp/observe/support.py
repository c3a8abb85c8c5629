"""What a replay of these rows cannot see: support, leakage, and the effects that are out of reach.

Axes: A arms (0 = control, 1 = treatment), U users, K videos of the pool, N rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from realdataexp.observe.pool import Pool

ARMS = ("control", "treatment")
TOP = 10
LEAKS = ("leakage", "pretrain_sees_later_rows", "pretrain_overlaps_replay")
"""Warnings of a run that tell of a leak."""

Found = dict[str, Any]


def support(
    pool: Pool,
    label_of: Mapping[str, int],
    *,
    n_candidates: int,
    n_visits: int,
    n_replayed_rows: int,
    share_differing: float,
    warnings: Sequence[Mapping[str, str]],
    pretrain_rows: str,
) -> Found:
    """How much of what the arms prefer was logged, what leaks, and which effects are not seen.

    Args:
        pool: users' rows and the arms' chances.
        label_of: the label whose network predicts an outcome.
        n_candidates: of a slate.
        n_visits: of one world of the loop.
        n_replayed_rows: rows that the loop may show.
        share_differing: how often the arms picked different videos in the loop.
        warnings: the run's.
        pretrain_rows: how pretraining rows were chosen.
    """
    n_U = np.bincount(pool.user_N, minlength=len(pool.user_U))
    logged_UK = np.zeros((len(pool.user_U), len(pool.video_K)), dtype=bool)
    logged_UK[pool.user_N, pool.action_N] = True
    arms = {
        name: {
            "chance_logged": float((pool.chance_A[arm] * logged_UK).sum(1).mean()),
            "best_logged": float(logged_UK[np.arange(len(n_U)), pool.best_A[arm]].mean()),
            "top_logged": _top_logged(pool.chance_A[arm], logged_UK),
            "seen_of_gain": {
                outcome: _seen_of_gain(pool, arm, label) for outcome, label in label_of.items()
            },
        }
        for arm, name in enumerate(ARMS)
    }
    found: Found = {
        "videos": len(pool.video_K),
        "users": len(pool.user_U),
        "rows_per_user": [float(x) for x in np.quantile(n_U, (0.1, 0.5, 0.9))],
        "share_logged": float(logged_UK.mean()),
        "users_with_short_slates": float((n_U < n_candidates).mean()),
        "users_without_choice": float((n_U < 2).mean()),
        "share_of_rows_used": min(1.0, n_visits / max(1, n_replayed_rows)),
        "arms_differ_on_slates": share_differing,
        "arms_differ_on_pool": float((pool.best_A[0] != pool.best_A[1]).mean()),
        "top": TOP,
        "arms": arms,
        "leaks": [dict(x) for x in warnings if x["code"] in LEAKS],
        "pretrain_rows": pretrain_rows,
    }
    found["unseen"] = list(_unseen(found))
    return found


def _top_logged(chance_UK: np.ndarray, logged_UK: np.ndarray) -> float:
    """Of the videos that an arm shows most, the share that was logged for the user."""
    n = min(TOP, chance_UK.shape[1])
    top_UT = np.argpartition(-chance_UK, n - 1, axis=1)[:, :n]
    return float(np.take_along_axis(logged_UK, top_UT, axis=1).mean())


def _seen_of_gain(pool: Pool, arm: int, label: int) -> float | None:
    """Of what an arm gains over a random video by its own predictions, the part on short slates.

    (Best of a slate - random) / (best of the pool - random), predicted; a slate of all would be 1.
    None where the arm gains nothing.
    """
    n_U = np.bincount(pool.user_N, minlength=len(pool.user_U)).clip(1)
    sum_U = np.bincount(pool.user_N, pool.predicted_NL[:, label], minlength=len(pool.user_U))
    random = float((sum_U / n_U).mean())
    of_slate = float(pool.value_AUL[arm, :, label].mean()) - random
    of_pool = float(pool.best_value_AUL[arm, :, label].mean()) - random
    return of_slate / of_pool if of_pool > 1e-9 * max(1.0, abs(random)) else None


def _unseen(found: Found) -> Iterator[Found]:
    """The effects that a replay of these rows cannot show, each with what was measured of it."""
    arms = found["arms"]
    never = [1 - arms[name]["best_logged"] for name in ARMS]
    yield {
        "effect": "of videos that a user was never shown",
        "why": "a slate holds logged videos only, and an answer exists for those alone",
        "measured": f"{never[1]:.1%} of users were never shown the treatment's best of "
        f"{found['videos']:,} videos, {never[0]:.1%} the control's",
    }
    gains = arms["treatment"]["seen_of_gain"] | {}
    known = {name: x for name, x in gains.items() if x is not None}
    yield {
        "effect": "of ranking the whole catalogue",
        "why": "the arms rank short slates, where differences are smaller than on the catalogue",
        "measured": "; ".join(f"{name}: {x:.0%}" for name, x in known.items())
        and "of the treatment's predicted gain over a random video, a slate shows "
        + ", ".join(f"{x:.0%} ({name})" for name, x in known.items()),
    }
    yield {
        "effect": "of a first choice, where slates have one video",
        "why": "where a user has few rows the arms cannot differ",
        "measured": f"{found['users_with_short_slates']:.0%} of users have fewer rows than "
        f"candidates, {found['users_without_choice']:.0%} have one; the arms' picks differ in "
        f"{found['arms_differ_on_slates']:.0%} of visits, and their best of the pool for "
        f"{found['arms_differ_on_pool']:.0%} of users",
    }
    yield {
        "effect": "on how often users come back, and for how long",
        "why": "visits are drawn whatever was shown before, and an answer is replayed as it was",
        "measured": "",
    }
    yield {
        "effect": "of what was shown before it: boredom, position, a session's length",
        "why": "a logged answer stays the same whatever precedes it",
        "measured": "",
    }
    if found["leaks"]:
        yield {
            "effect": "on data that no model has seen",
            "why": "something leaks: what the models know of the replayed rows favours both arms",
            "measured": ", ".join(x["code"] for x in found["leaks"]),
        }
