"""What estimators of an off-policy value are given, what they give, and its standard error.

Axes: N logged rows, U users, K videos of the pool.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from scipy import stats

from realdataexp.options import Options

_COVERED = 0.95


class CannotTell(Exception):
    """An estimator lacks what it needs; the message says what."""


@dataclass(frozen=True)
class Exposures:
    """Logged rows with known propensities, and how likely one policy is to show each video.

    Attributes:
        user_N, action_N: each row's user, 0 .. U - 1, and video, 0 .. K - 1.
        reward_N: its outcome, finite.
        propensity_N: the chance with which the log showed this video to this user, in (0, 1].
        chance_UK: the policy's; a user's sum to 1.
        predicted_N: an outcome model's mean of each row's reward; learned from other rows. None:
            there is no model.
        value_U: the mean of its predictions under the policy.
        categories: by feature, the number of each video's category: K, from 0.
    """

    user_N: np.ndarray
    action_N: np.ndarray
    reward_N: np.ndarray
    propensity_N: np.ndarray
    chance_UK: np.ndarray
    predicted_N: np.ndarray | None = None
    value_U: np.ndarray | None = None
    categories: Mapping[str, np.ndarray] = field(default_factory=lambda: MappingProxyType({}))

    @cached_property
    def weight_N(self) -> np.ndarray:
        """How much more likely the policy shows each row's video than the log did."""
        return self.chance_UK[self.user_N, self.action_N] / self.propensity_N

    @cached_property
    def share_N(self) -> np.ndarray:
        """What each row counts, so that every user with a row counts the same; sums to 1."""
        n_U = np.bincount(self.user_N, minlength=len(self.chance_UK))
        return 1.0 / n_U[self.user_N] / max(1, (n_U > 0).sum())

    @property
    def is_uniform(self) -> bool:
        """Whether all rows have the same propensity."""
        return bool(np.ptp(self.propensity_N) <= 1e-6 * self.propensity_N.max(initial=0.0))

    def model(self) -> tuple[np.ndarray, np.ndarray]:
        """Each row's prediction, and the policy's value of its user; CannotTell without a model."""
        if self.predicted_N is None or self.value_U is None:
            raise CannotTell("no network predicts this outcome")
        return self.predicted_N, self.value_U[self.user_N]


class Terms(NamedTuple):
    """Rows' parts of an estimate, the ratio of their means; a denominator of 1 makes it a mean."""

    numerator_N: np.ndarray
    denominator_N: np.ndarray


class Estimator(Options):
    """An estimator of the value of a policy. Its fields are its options."""

    def check(self, features: Collection[str]) -> None:
        """Raise an InputError where an option does not fit videos' categorical features."""

    def terms(self, seen: Exposures) -> Terms:
        """What each row adds.

        Raises:
            CannotTell: the log lacks what is needed.
        """
        raise NotImplementedError(f"{type(self).__name__} does not say what a row adds")


@dataclass(frozen=True)
class Estimated:
    """A value per exposure, users counting the same, and its standard error by users.

    Attributes:
        influence_U: what each user moves it; sums to 0. The difference of two estimates of the same
            users has the difference of their influences.
    """

    value: float
    influence_U: np.ndarray

    @property
    def se(self) -> float:
        """The standard error, users as clusters; NaN with one user."""
        n = len(self.influence_U)
        return float(np.sqrt((self.influence_U**2).sum() * n / (n - 1))) if n > 1 else float("nan")

    @property
    def interval(self) -> tuple[float, float]:
        """Of 95 %, by Student's t with a degree of freedom for each user but one."""
        half = stats.t.ppf((1 + _COVERED) / 2, max(1, len(self.influence_U) - 1)) * self.se
        return self.value - half, self.value + half

    def __sub__(self, other: Estimated) -> Estimated:
        """The difference of two estimates of the same users."""
        return Estimated(self.value - other.value, self.influence_U - other.influence_U)


def estimated(seen: Exposures, terms: Terms) -> Estimated:
    """The ratio of the terms' means, with the delta method's influence of each user.

    Raises:
        CannotTell: the denominators sum to 0.
    """
    sum_U, size_U = (
        np.bincount(seen.user_N, seen.share_N * x_N, minlength=len(seen.chance_UK)) for x_N in terms
    )
    size = size_U.sum()
    if not size > 0:
        raise CannotTell("the policy shows nothing that was logged: all weights are 0")
    value = sum_U.sum() / size
    influence_U = (sum_U - value * size_U) / size
    has_rows_U = np.bincount(seen.user_N, minlength=len(seen.chance_UK)) > 0
    return Estimated(float(value), np.where(has_rows_U, influence_U, 0.0))


def effective_size(weight_N: np.ndarray) -> float:
    """How many rows of equal weight tell as much: (sum w)^2 / sum w^2 (Kish 1965); 0 if all are 0.

    Examples:
        >>> effective_size(np.array([1.0, 1.0, 1.0, 0.0]))
        3.0
    """
    square = float((weight_N**2).sum())
    return float(weight_N.sum() ** 2 / square) if square > 0 else 0.0
