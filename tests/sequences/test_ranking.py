"""Full ranking, against plain loops and hand values."""

from __future__ import annotations

import numpy as np
import pytest

from realdataexp.errors import RunError
from realdataexp.sequences.histories import Histories, leave_one_out
from realdataexp.sequences.ranking import (
    compare,
    concentration,
    metrics,
    rank_all,
    ranks,
    spread_errors,
)


def _split(rng: np.random.Generator, n_users: int = 40, n_items: int = 30):
    n_U = rng.integers(3, 9, n_users)
    items = np.concatenate([rng.permutation(n_items)[:n] for n in n_U]).astype(np.int32)
    names = [str(v) for v in range(n_items)]
    offset_U1 = np.concatenate([[0], n_U.cumsum()])
    return leave_one_out(Histories(items, offset_U1, [str(u) for u in range(n_users)], names))


def test_ranks_and_lists_equal_a_plain_loop_with_ties() -> None:
    rng = np.random.default_rng(0)
    split = _split(rng)
    score_QV = rng.integers(0, 6, (len(split.test), 30)).astype(np.float32)
    places = iter(range(0, len(split.test), 7))

    def scores_of(past_BT: np.ndarray) -> np.ndarray:
        start = next(places)
        return score_QV[start : start + len(past_BT)]

    found = rank_all(scores_of, split, split.test, 5, batch=7)
    h = split.histories
    for q in range(len(split.test)):
        user, place = int(split.test.user_Q[q]), int(split.test.place_Q[q])
        past = set(h.item_N[h.offset_U1[user] : place].tolist())
        target = int(h.item_N[place])
        rivals = [v for v in range(30) if v not in past and v != target]
        better = sum(score_QV[q, v] > score_QV[q, target] for v in rivals)
        ties = sum(score_QV[q, v] == score_QV[q, target] for v in rivals)
        assert found.rank_Q[q] == better + ties / 2
        wanted = sorted((v for v in range(30) if v not in past), key=lambda v: (-score_QV[q, v], v))
        assert found.top_QK[q].tolist() == wanted[:5]


def test_equal_scores_rank_in_the_middle_of_what_is_left() -> None:
    split = _split(np.random.default_rng(1))
    rank_Q = ranks(lambda past_BT: np.zeros((len(past_BT), 30)), split, split.test)
    n_past_Q = split.test.place_Q - split.histories.offset_U1[split.test.user_Q]
    np.testing.assert_array_equal(rank_Q, (30 - n_past_Q - 1) / 2)


def test_a_score_that_is_no_number_names_the_model() -> None:
    split = _split(np.random.default_rng(2))
    with pytest.raises(RunError, match="Ours: a score of an item is NaN"):
        ranks(lambda x: np.full((len(x), 30), np.nan), split, split.test, name="Ours")


def test_one_score_that_is_no_number_is_enough_and_infinite_ones_have_ranks() -> None:
    split = _split(np.random.default_rng(2))

    def scores_of(past_BT: np.ndarray, odd: float) -> np.ndarray:
        score_BV = np.tile(np.arange(30.0), (len(past_BT), 1))
        score_BV[-1, 29] = odd
        return score_BV

    with pytest.raises(RunError, match=r"^Ours: a score of an item is NaN; lower"):
        ranks(lambda x: scores_of(x, np.nan), split, split.test, name="Ours")
    for odd in (np.inf, -np.inf):
        found = rank_all(lambda x, odd=odd: scores_of(x, odd), split, split.test, 30)
        assert np.isfinite(found.rank_Q).all()
        past = split.past_BT(split.test[-1:])[0]
        wanted = [v for v in (range(29, -1, -1) if odd > 0 else [*range(28, -1, -1), 29])]
        n = 30 - len(past)
        assert found.top_QK[-1].tolist()[:n] == [v for v in wanted if v not in past]


@pytest.mark.parametrize("shape", [(0, 30), (0, 29), (1, 30), (0,)])
def test_scores_of_another_shape_name_the_model(shape: tuple[int, ...]) -> None:
    split = _split(np.random.default_rng(2))

    def scores_of(past_BT: np.ndarray) -> np.ndarray:
        return np.zeros((len(past_BT) + shape[0], *shape[1:]))

    if shape == (0, 30):
        ranks(scores_of, split, split.test)
        return
    with pytest.raises(RunError, match=r"^Ours: scores of the shape \(4\d,.* each of 30 items$"):
        ranks(scores_of, split, split.test, name="Ours")


def test_metrics_of_hand_values() -> None:
    rows = {(r["metric"], r["k"]): r for r in metrics(np.array([0.0, 4.0, 5.0, 100.0]), [5])}
    assert rows["hit", 5]["value"] == 0.5
    assert rows["ndcg", 5]["value"] == pytest.approx((1 + 1 / np.log2(6)) / 4)
    assert rows["mrr", None]["value"] == pytest.approx((1 + 1 / 5 + 1 / 6 + 1 / 101) / 4)
    assert rows["hit", 5]["se"] == pytest.approx(np.std([1, 1, 0, 0], ddof=1) / 2)


def test_paired_intervals_cover_the_difference_and_are_narrower_than_unpaired() -> None:
    """Of 200 pairs of models that differ by nothing, 95 % intervals miss 0 in 2 to 9 %."""
    rng, n_missed = np.random.default_rng(3), 0
    for seed in range(200):
        shared_Q = rng.integers(0, 40, 300)
        a, b = (np.where(rng.random(300) < 0.2, rng.integers(0, 40, 300), shared_Q) for _ in "ab")
        hit = compare(a.astype(float), b.astype(float), [10], seed)[0]
        n_missed += not hit["ci_low"] <= 0 <= hit["ci_high"]
        if seed == 0:
            se = metrics(a.astype(float), [10])[0]["se"]
            assert hit["ci_high"] - hit["ci_low"] < 0.8 * 2 * 1.96 * se * 2**0.5
    assert 3 <= n_missed <= 20  # binomial(200, .05) falls outside in 0.3 %


def test_models_that_were_asked_differently_are_not_compared() -> None:
    with pytest.raises(RunError, match="3 and 2 ranks cannot be paired"):
        compare(np.zeros(3), np.zeros(2), [10], 0)


def test_concentration_of_hand_values() -> None:
    even = concentration(np.arange(8).reshape(4, 2), 8)
    assert even == {"coverage": 1.0, "gini": 0.0, "entropy": 3.0}
    one = concentration(np.zeros((4, 1), dtype=int), 8)
    assert one == {"coverage": 1 / 8, "gini": pytest.approx(7 / 8), "entropy": 0.0}


def test_errors_of_a_spread_are_those_of_new_questions() -> None:
    """Against the scatter over 200 samples of questions, whose own error is 5 %."""
    rng = np.random.default_rng(0)
    p_V = rng.dirichlet(np.full(60, 0.5))

    def lists() -> np.ndarray:
        return rng.choice(60, (300, 3), p=p_V)

    found = [concentration(lists(), 60) for _ in range(200)]
    told = [spread_errors(lists(), 60, seed) for seed in range(20)]
    for name in ("gini", "entropy"):
        wanted = np.std([x[name] for x in found])
        assert np.mean([x[name] for x in told]) == pytest.approx(wanted, rel=0.2)
    assert 0 < np.mean([x["coverage"] for x in told]) < 2 * np.std([x["coverage"] for x in found])
