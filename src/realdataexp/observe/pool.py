"""What the frozen arms would show of the whole pool to some of a log's users, and what was logged.

Axes: A arms (0 = control, 1 = treatment), U users, K videos of the pool, N rows of these users,
L labels with a model, B users at once, C candidates (here all of the pool).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from realdataexp import draws
from realdataexp.arms import MostPopular, Random
from realdataexp.errors import InputError
from realdataexp.learner import Learner
from realdataexp.loop import by_label
from realdataexp.observe.policies import chances_of_best, with_exploration
from realdataexp.runs.labels import Starts
from realdataexp.runs.setup import Setup
from realdataexp.worlds import world_of
from realdataexp.worlds.logged import LoggedWorld, UnknownPropensity
from realdataexp.worlds.replay import ReplayEnvironment

MOST_CHANCES = 20_000_000
"""Users times videos of the pool at most; there are fewer users where the pool is large."""

_AT_ONCE = 1 << 17  # candidates scored at a time


@dataclass(frozen=True)
class Pool:
    """Some users' logged rows that are replayed, and each arm's chances of showing the pool.

    Attributes:
        video_K: the pool, as rows of the video table.
        user_U: the users, as rows of the user table.
        n_eligible: users from whom these were drawn.
        user_N, action_N, row_N: each row's user and video, as places in the two, and its log row.
        propensity_N: None where it is not known, for the reason ``unknown``.
        n_candidates_U: how many candidates a user's slate has.
        chance_A: each arm's chances U, K, over slates drawn from the pool.
        own_chance_A: each arm's chances N of its pick, over slates drawn from the user's own rows.
        best_A: the place of each arm's best video of the pool: U.
        predicted_NL, value_AUL: the networks' predictions of the rows, and their mean under an arm.
        best_value_AUL: and of an arm's best of the pool.
        categories: of the pool's videos, by feature.
    """

    video_K: np.ndarray
    user_U: np.ndarray
    n_eligible: int
    user_N: np.ndarray
    action_N: np.ndarray
    row_N: np.ndarray
    propensity_N: np.ndarray | None
    unknown: str
    n_candidates_U: np.ndarray
    chance_A: Sequence[np.ndarray]
    own_chance_A: Sequence[np.ndarray]
    best_A: Sequence[np.ndarray]
    predicted_NL: np.ndarray
    value_AUL: np.ndarray
    best_value_AUL: np.ndarray
    categories: dict[str, np.ndarray]


def pool_of(setup: Setup, starts: Starts, n_users: int) -> Pool:
    """Score the pool with the first start's models for at most ``n_users`` of the replayed users.

    Where propensities are known, the pool is all that was logged with one, and the rows are those
    replayed with one; else it is all that is replayed.

    Raises:
        InputError: the pool is too large, or there are too few users.
    """
    environment, world = setup.environment, world_of(setup.config)
    assert isinstance(environment, ReplayEnvironment) and isinstance(world, LoggedWorld)
    log, split = environment.logged(0)
    propensity_X, unknown = None, ""
    is_usable_X = np.ones(log.n_rows, dtype=bool)
    try:
        propensity_X = world.propensities(log, split)
        is_usable_X = np.isfinite(propensity_X)
    except UnknownPropensity as error:
        unknown = str(error)
    row_X = split.replay.locate(np.arange(split.replay.n_rows))[1]
    row_X = row_X[is_usable_X[row_X]]
    of_pool_X = row_X if propensity_X is None else np.flatnonzero(is_usable_X)
    video_K = np.unique(log.video_N[of_pool_X]).astype(np.int64)
    user_X = np.searchsorted(log.offset_U1, row_X, side="right") - 1
    n_rows_U = np.bincount(user_X, minlength=log.n_users)
    loop = setup.config.simulation
    eligible = np.flatnonzero(n_rows_U >= loop.min_candidates)
    most = MOST_CHANCES // max(1, len(video_K))
    if min(most, len(eligible)) < 2:
        raise InputError(
            f"dataset: {len(video_K):,} videos in the pool and {len(eligible):,} users who can be "
            f"asked: it takes two users, and at most {MOST_CHANCES // 2:,} videos; choose other "
            "logs, or KuaiRand-Pure or -1K"
        )
    seed = draws.start_seed(setup.config.seed, 0)
    n = min(n_users, most)
    user_U = eligible[draws.subset(draws.key(seed, "observed users"), len(eligible), n).numpy()]
    is_ours_X = np.isin(user_X, user_U)
    row_N = row_X[is_ours_X]
    user_N = np.searchsorted(user_U, user_X[is_ours_X])
    action_N = np.searchsorted(video_K, log.video_N[row_N])
    scorer = _Scorer(setup, starts, video_K)
    n_candidates_U = np.minimum(n_rows_U[user_U], min(loop.n_candidate, len(video_K)))
    return Pool(
        video_K=video_K,
        user_U=user_U,
        n_eligible=len(eligible),
        user_N=user_N,
        action_N=action_N,
        row_N=row_N,
        propensity_N=None if propensity_X is None else propensity_X[row_N],
        unknown=unknown,
        n_candidates_U=n_candidates_U,
        categories={k: x[video_K] for k, x in environment.video_categories().items()},
        **_scored(scorer, user_U, user_N, action_N, n_candidates_U),
    )


def refuse_unknown_chances(setup: Setup) -> None:
    """Raise an InputError where an arm explores by chances that have no closed form."""
    for arm, policy in zip(("control", "treatment"), setup.config.policies(), strict=True):
        kind, where = policy.explore.kind, f"arms.{arm}"
        if kind not in ("none", "epsilon"):
            raise InputError(
                f"{where}.explore.kind = {kind!r}: its chance over all slates of the pool is not "
                "known in closed form; use epsilon, or no exploration"
            )
        if policy.policy is not None:
            raise InputError(
                f"{where}.policy = {policy.policy!r}: may score a slate as a whole, so its chances "
                "over all slates are not known; use a score or a rule"
            )


class _Scorer:
    """Predictions of a pool, and both arms' scores, for some users at a time."""

    def __init__(self, setup: Setup, starts: Starts, video_K: np.ndarray) -> None:
        self._setup, self.video_K = setup, video_K
        self.arms = setup.arms.to(setup.device.torch)
        self._learners = [
            Learner.start(x.model, x.heads, setup.device, dict(own[0]), 1, x.shared)
            for x, own in zip(setup.networks, starts, strict=True)
        ]

    def __call__(self, user_B: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
        """Predictions B, K, L, and each arm's scores B, K."""
        environment = self._setup.environment
        assert isinstance(environment, ReplayEnvironment)
        batch = environment.first_shown(user_B, self.video_K, 0)
        labels_of = [x.labels for x in self._setup.networks]
        per_learner = [x.predict(batch, slice(0, 1)) for x in self._learners]
        prediction_1BKL = by_label(per_learner, labels_of)
        shape = (1, len(user_B), len(self.video_K))
        scores = [self._score(arm, prediction_1BKL, shape) for arm in (0, 1)]
        return prediction_1BKL[0].double().cpu().numpy(), scores

    def _score(self, arm: int, prediction_1BKL: Tensor, shape: tuple[int, ...]) -> np.ndarray:
        scene, scorer = None, self.arms.scorers[arm]
        if isinstance(scorer, Random):  # any video, each as likely: all are equal
            return np.zeros(shape[1:])
        if isinstance(scorer, MostPopular):
            to = prediction_1BKL.device
            video_1BK = torch.as_tensor(self.video_K, device=to).expand(shape)
            on_1BK = torch.ones(shape, dtype=torch.bool, device=to)
            one = torch.zeros(1, dtype=torch.int64, device=to)
            scene = self.arms.scene("observe", one, 0, video_1BK, on_1BK)
        score_1BK = self.arms.score_of(arm, prediction_1BKL, scene)
        return score_1BK[0].double().cpu().numpy()


def _scored(
    scorer: _Scorer,
    user_U: np.ndarray,
    user_N: np.ndarray,
    action_N: np.ndarray,
    n_candidates_U: np.ndarray,
) -> dict[str, Any]:
    """What `Pool` holds from ``chance_A`` to ``best_value_AUL``."""
    U, K, L = len(user_U), len(scorer.video_K), len(scorer._setup.labels)
    chance_A = [np.empty((U, K)) for _ in (0, 1)]
    own_A = [np.empty(len(user_N)) for _ in (0, 1)]
    best_A = [np.empty(U, dtype=np.int64) for _ in (0, 1)]
    predicted_NL = np.empty((len(user_N), L))
    value_AUL, best_value_AUL = np.empty((2, 2, U, L))
    first_U1 = np.searchsorted(user_N, np.arange(U + 1))
    step = max(1, _AT_ONCE // K)
    for first in range(0, U, step):
        part = slice(first, min(first + step, U))
        prediction_BKL, score_A = scorer(user_U[part])
        rows = slice(first_U1[part.start], first_U1[part.stop])
        at, action = user_N[rows] - first, action_N[rows]
        predicted_NL[rows] = prediction_BKL[at, action]
        B = np.arange(part.stop - part.start)
        for arm, score_BK in enumerate(score_A):
            explore = scorer.arms.explores[arm].epsilon or 0.0
            chance_BK = chances_of_best(score_BK, n_candidates_U[part])
            chance_A[arm][part] = with_exploration(chance_BK, explore)
            best_A[arm][part] = score_BK.argmax(1)
            value_AUL[arm, part] = np.einsum("bk,bkl->bl", chance_A[arm][part], prediction_BKL)
            best_value_AUL[arm, part] = prediction_BKL[B, best_A[arm][part]]
            for u in range(part.start, part.stop):
                own = slice(first_U1[u], first_U1[u + 1])
                score_1N = score_BK[None, u - first, action_N[own]]
                own_1N = chances_of_best(score_1N, n_candidates_U[[u]])
                own_A[arm][own] = with_exploration(own_1N, explore)[0]
    return {
        "chance_A": chance_A, "own_chance_A": own_A, "best_A": best_A,
        "predicted_NL": predicted_NL, "value_AUL": value_AUL, "best_value_AUL": best_value_AUL,
    }  # fmt: skip
