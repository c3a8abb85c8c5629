"""Off-policy estimators: laws, hand values, and what they make of logs whose truth is known.

Axes: U users, K videos, N rows, T logs.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest

from realdataexp.errors import InputError
from realdataexp.observe import CannotTell, Estimated, Estimator, Exposures, estimated
from realdataexp.observe.base import effective_size
from realdataexp.observe.dr import DR
from realdataexp.observe.ips import IPS
from realdataexp.observe.mips import MIPS
from realdataexp.observe.policies import chances_of_best, with_exploration
from realdataexp.observe.snips import SNIPS
from realdataexp.observe.switch_dr import SwitchDR

Z = 4.9  # a normal variable is farther out with a chance of 1e-6


def hand_log(**changes: object) -> Exposures:
    """Two users, three rows, three videos; weights 1.8, 0.6 and 1.0."""
    own = {
        "user_N": np.array([0, 0, 1]),
        "action_N": np.array([0, 1, 2]),
        "reward_N": np.array([1.0, 4.0, 2.0]),
        "propensity_N": np.array([1 / 3, 1 / 3, 0.5]),
        "chance_UK": np.array([[0.6, 0.2, 0.2], [0.25, 0.25, 0.5]]),
        "predicted_N": np.array([0.5, 3.0, 2.5]),
        "value_U": np.array([1.1, 2.0]),
    }
    return Exposures(**(own | changes))


def value(estimator: Estimator, seen: Exposures) -> Estimated:
    return estimated(seen, estimator.terms(seen))


# --- hand values and identities ------------------------------------------------------------------


def test_hand_values():
    seen = hand_log()
    # user means of w r: (1.8 + 2.4) / 2 and 2; of w: 1.2 and 1
    assert value(IPS(), seen).value == pytest.approx(2.05)
    assert value(SNIPS(), seen).value == pytest.approx(2.05 / 1.1)
    # of w (r - q): (1.8 x .5 + .6 x 1) / 2 and -.5; of values: 1.1 and 2
    assert value(DR(), seen).value == pytest.approx((1.1 + 0.75 + 2.0 - 0.5) / 2)
    # a threshold of 1 leaves the row of weight 1.8 to the model
    assert value(SwitchDR(threshold=1.0), seen).value == pytest.approx((1.1 + 0.3 + 2.0 - 0.5) / 2)


def test_hand_value_of_mips():
    """Videos 0 and 1 are one category, whose share of the pool is 2/3."""
    seen = hand_log(propensity_N=np.full(3, 1 / 3), categories={"tag": np.array([4, 4, 7])})
    # weights .8 / (2/3) twice, and .5 / (1/3)
    expected = ((1.2 * 1.0 + 1.2 * 4.0) / 2 + 1.5 * 2.0) / 2
    assert value(MIPS(feature="tag"), seen).value == pytest.approx(expected)
    assert value(MIPS(), seen).value == pytest.approx(expected)


def test_standard_error_of_two_users_by_hand():
    found = value(IPS(), hand_log())
    assert found.influence_U == pytest.approx([0.025, -0.025])
    assert found.se == pytest.approx(abs(2.1 - 2.0) / 2)
    assert np.isnan(value(IPS(), _part(hand_log(), [2], 1)).se)


def _part(seen: Exposures, rows: Sequence[int], user: int) -> Exposures:
    n = len(rows)
    return Exposures(
        np.zeros(n, dtype=int), seen.action_N[rows], seen.reward_N[rows], seen.propensity_N[rows],
        seen.chance_UK[[user]],
    )  # fmt: skip


def random_log(rng: np.random.Generator, n_rows: int = 60, K: int = 9) -> Exposures:
    U = 7
    score_UK = rng.normal(size=(U, K))
    return Exposures(
        rng.integers(0, U, n_rows), rng.integers(0, K, n_rows), rng.normal(3, 2, n_rows),
        rng.uniform(0.05, 1.0, n_rows), chances_of_best(score_UK, rng.integers(1, K + 1, U)),
        rng.normal(size=n_rows), rng.normal(size=U), {"id": rng.permutation(K)},
    )  # fmt: skip


def test_limits_and_identities_on_random_logs():
    for seed in range(20):
        rng = np.random.default_rng(seed)
        seen = random_log(rng)
        ips, snips, dr = (value(x, seen) for x in (IPS(), SNIPS(), DR()))
        assert seen.reward_N.min() <= snips.value <= seen.reward_N.max()
        unlimited = value(SwitchDR(threshold=1e9), seen)
        assert unlimited.value == pytest.approx(dr.value, rel=1e-12)
        assert unlimited.se == pytest.approx(dr.se, rel=1e-9)
        # with nothing predicted the model adds nothing
        no_model = {"predicted_N": 0 * seen.reward_N, "value_U": np.zeros(7)}
        blind = Exposures(**{**vars_of(seen), **no_model})
        assert value(DR(), blind).value == pytest.approx(ips.value, rel=1e-12)
        # rows without weight add nothing to the correction, so threshold 0 is the model's value
        assert value(SwitchDR(threshold=0.0), seen).value == pytest.approx(
            float((seen.share_N * seen.value_U[seen.user_N]).sum()), rel=1e-12
        )
        # a category for each video: uniform exposure makes MIPS IPS
        fair = Exposures(**{**vars_of(seen), "propensity_N": np.full(60, 1 / 9)})
        for estimator in (MIPS(feature="id"), MIPS()):
            assert value(estimator, fair).value == pytest.approx(value(IPS(), fair).value)
        # a constant moves SNIPS by itself
        moved = Exposures(**{**vars_of(seen), "reward_N": seen.reward_N + 10})
        assert value(SNIPS(), moved).value == pytest.approx(snips.value + 10)


def vars_of(seen: Exposures) -> dict[str, object]:
    return {name: getattr(seen, name) for name in Exposures.__dataclass_fields__}


def test_what_lacks_is_named():
    without = hand_log(predicted_N=None)
    for estimator in (DR(), SwitchDR(), SwitchDR(threshold=2.0)):
        with pytest.raises(CannotTell, match="no network predicts"):
            estimator.terms(without)
    with pytest.raises(CannotTell, match="propensities differ"):
        MIPS().terms(hand_log())
    fair = hand_log(propensity_N=np.full(3, 1 / 3))
    with pytest.raises(CannotTell, match="no categorical feature"):
        MIPS().terms(fair)
    tagged = hand_log(propensity_N=np.full(3, 1 / 3), categories={"tag": np.arange(3)})
    with pytest.raises(InputError, match=r"feature = 'tagg': .*did you mean tag\?"):
        MIPS(feature="tagg").terms(tagged)
    nothing = hand_log(chance_UK=np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]))
    with pytest.raises(CannotTell, match="all weights are 0"):
        value(SNIPS(), nothing)


def test_effective_size_of_hand_weights():
    assert effective_size(np.array([2.0, 2.0])) == pytest.approx(2.0)
    assert effective_size(np.array([3.0, 1.0])) == pytest.approx(16 / 10)
    assert effective_size(np.zeros(3)) == 0.0


# --- the policy's chances ------------------------------------------------------------------------


def test_chances_are_those_of_all_slates():
    """Every slate is written down; of equal scores each is as likely."""
    for scores in ([3.0, 1.0, 2.0, 5.0, 4.0], [1.0, 1.0, 2.0, 2.0, 2.0], [0.0] * 5):
        for C in range(1, 6):
            expected = np.zeros(5)
            slates = list(itertools.combinations(range(5), C))
            for slate in slates:
                best = max(scores[k] for k in slate)
                picked = [k for k in slate if scores[k] == best]
                expected[picked] += 1 / len(picked) / len(slates)
            found = chances_of_best(np.array([scores]), np.array([C]))[0]
            assert found == pytest.approx(expected, abs=1e-12)
    explored = with_exploration(np.array([[0.8, 0.2]]), 0.5)
    assert explored == pytest.approx(np.array([[0.65, 0.35]]))


# --- logs whose truth is known -------------------------------------------------------------------

U, K, N, T = 50, 12, 600, 2000


class KnownLogs:
    """Logs of a world with a known mean reward of each user and video.

    The policy shows the best of 4 by a score that resembles the mean; the log shows by unequal
    propensities that prefer what pays less. ``is_uniform``: all videos alike.
    """

    def __init__(self, seed: int, *, is_uniform: bool = False, by_category: bool = False) -> None:
        self.rng = rng = np.random.default_rng(seed)
        self.category_K = np.arange(K) % 4
        own_K = rng.normal(0, 1, K)
        own_K = own_K[self.category_K] if by_category else own_K
        self.mean_UK = 3 + own_K + rng.normal(0, 0.5, (U, 1))
        score_UK = self.mean_UK + rng.normal(0, 0.5, (U, K))
        self.chance_UK = chances_of_best(score_UK, np.full(U, 4))
        odds_K = np.ones(K) if is_uniform else np.exp(-0.5 * own_K)
        self.logged_K = odds_K / odds_K.sum()
        self.truth = float((self.chance_UK * self.mean_UK).sum(1).mean())
        # a model that is wrong, and learned elsewhere
        self.model_UK = 0.6 * self.mean_UK + rng.normal(0, 0.7, (U, K))

    def log(self) -> Exposures:
        user_N = np.repeat(np.arange(U), N // U)
        action_N = self.rng.choice(K, N, p=self.logged_K)
        reward_N = self.mean_UK[user_N, action_N] + self.rng.normal(0, 1, N)
        return Exposures(
            user_N, action_N, reward_N, self.logged_K[action_N], self.chance_UK,
            self.model_UK[user_N, action_N], (self.chance_UK * self.model_UK).sum(1),
            {"group": self.category_K},
        )  # fmt: skip


def errors(world: KnownLogs, estimators: Sequence[Estimator], n: int = T) -> np.ndarray:
    """Each estimator's error in n logs, and its standard error: 2, T, estimators."""
    found = np.empty((2, n, len(estimators)))
    for t in range(n):
        seen = world.log()
        for i, estimator in enumerate(estimators):
            one = value(estimator, seen)
            found[:, t, i] = one.value - world.truth, one.se
    return found


def z_of_mean(error_T: np.ndarray) -> float:
    return float(error_T.mean() / error_T.std(ddof=1) * np.sqrt(len(error_T)))


def test_ips_and_dr_are_unbiased_and_their_intervals_cover():
    """False-fail rate 2e-6 each; a bias of a twentieth of what shows by chance would be seen.

    The mean of 2,000 errors has a standard error of less than .01, so wrong propensities (the log
    taken for uniform, an error of more than .2) are found with certainty.
    """
    world = KnownLogs(1)
    error_TE, se_TE = errors(world, [IPS(), DR(), SNIPS()])
    for i in (0, 1):
        assert abs(z_of_mean(error_TE[:, i])) < Z
        assert error_TE[:, i].std() / np.sqrt(T) < 0.01
        # the standard error that is reported is the spread; 2,000 logs tell within 15 %. Users are
        # fixed here, and the reported error counts their differences too, so it may be larger
        assert 0.85 < se_TE[:, i].mean() / error_TE[:, i].std() < 1.6
        covered = np.abs(error_TE[:, i]) < 2.01 * se_TE[:, i]
        assert covered.mean() > 0.95 - Z * np.sqrt(0.95 * 0.05 / T)
    assert abs(error_TE[:, 2].mean()) < 0.05  # SNIPS's bias is of the order of 1 / effective rows
    wrong = [vars_of(world.log()) | {"propensity_N": np.full(N, 1 / K)} for _ in range(50)]
    found = np.array([value(IPS(), Exposures(**x)).value for x in wrong]) - world.truth
    assert abs(z_of_mean(found)) > 2 * Z


def test_the_model_makes_dr_more_exact_and_the_switch_more_still_or_no_worse():
    world = KnownLogs(2)
    error_TE, _ = errors(world, [IPS(), DR(), SwitchDR()], 400)
    rmse = np.sqrt((error_TE**2).mean(0))
    assert rmse[1] < 0.8 * rmse[0]
    assert rmse[2] < 1.3 * rmse[1]


def test_mips_is_unbiased_where_categories_say_all_and_more_exact():
    """False-fail rate 1e-6; where they do not say all its bias is seen."""
    world = KnownLogs(3, is_uniform=True, by_category=True)
    error_TE, _ = errors(world, [IPS(), MIPS(feature="group")])
    assert abs(z_of_mean(error_TE[:, 1])) < Z
    assert error_TE[:, 1].std() < error_TE[:, 0].std()
    other = KnownLogs(3, is_uniform=True)
    error_TE, _ = errors(other, [IPS(), MIPS(feature="group")])
    assert abs(z_of_mean(error_TE[:, 0])) < Z
    assert abs(z_of_mean(error_TE[:, 1])) > 2 * Z


def test_standard_error_counts_users_not_rows():
    """A user's rows twice are no more evidence: the error stays, where rows would halve it."""
    seen = random_log(np.random.default_rng(5))
    doubled = Exposures(**vars_of(seen) | {
        name: np.tile(getattr(seen, name), 2)
        for name in ("user_N", "action_N", "reward_N", "propensity_N", "predicted_N")
    })  # fmt: skip
    for estimator in (IPS(), SNIPS(), DR()):
        assert value(estimator, doubled).se == pytest.approx(value(estimator, seen).se)


def test_standard_error_of_a_ratio_is_the_jackknife_s():
    """The delta method against leaving out one user after the other."""
    world = KnownLogs(6)
    seen = world.log()
    full = value(SNIPS(), seen)
    left = []
    for u in range(U):
        keep = seen.user_N != u
        kept = vars_of(seen) | {
            name: getattr(seen, name)[keep]
            for name in ("user_N", "action_N", "reward_N", "propensity_N", "predicted_N")
        }
        left.append(value(SNIPS(), Exposures(**kept)).value)
    jackknife = np.sqrt((U - 1) / U * ((np.array(left) - np.mean(left)) ** 2).sum())
    assert full.se == pytest.approx(jackknife, rel=0.05)
