"""Full ranking: where the item that came stands among all items, and what that comes to.

Axes: B questions at once, Q questions, V items, T items of a history, K places of a list, M
metrics, R resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from realdataexp.errors import RunError
from realdataexp.sequences.histories import Questions, Split

ScoresOf = Callable[[np.ndarray], np.ndarray]
"""Scores B, V of all items after histories: int64 B, T, oldest first, -1 after the last."""

_N_RESAMPLES = 1000
_AT_ONCE = 50
_N_SPREADS = 100
_LEVEL = 0.95


@dataclass(frozen=True)
class Ranked:
    """What a model answered.

    Attributes:
        rank_Q: float64, 0 = best: items in front of the one that came, and half of those that tie
            with it. A user's own history is removed; one who comes back to an item gets V.
        top_QK: int64, the best items; of those that tie, the first.
    """

    rank_Q: np.ndarray
    top_QK: np.ndarray


def ranks(
    scores_of: ScoresOf,
    split: Split,
    questions: Questions,
    batch: int = 1024,
    *,
    name: str = "the model",
) -> np.ndarray:
    """`Ranked.rank_Q` alone."""
    return rank_all(scores_of, split, questions, 0, batch, name=name).rank_Q


def rank_all(
    scores_of: ScoresOf,
    split: Split,
    questions: Questions,
    k: int,
    batch: int = 1024,
    *,
    name: str = "the model",
) -> Ranked:
    """Rank all items for each question.

    Args:
        scores_of: the model.
        split: what it was fitted on.
        questions: of this split.
        k: how many of the best items to list.
        batch: questions at once.
        name: what a message calls the model.

    Raises:
        RunError: a score is NaN, or there are too few or too many.
    """
    V = split.histories.n_items
    rank_Q, top_QK = np.empty(len(questions)), np.empty((len(questions), min(k, V)), np.int64)
    for start in range(0, len(questions), batch):
        some = slice(start, start + batch)
        past_BT = split.past_BT(questions[some])
        score_BV = np.array(scores_of(past_BT), dtype=np.float32)
        if score_BV.shape != (len(past_BT), V):
            raise RunError(
                f"{name}: scores of the shape {score_BV.shape}; must be a row for each of "
                f"{len(past_BT):,} histories, a number for each of {V:,} items"
            )
        if np.isnan(score_BV).any():
            raise RunError(f"{name}: a score of an item is NaN; lower its learning rate or mend it")
        rows, places = np.nonzero(past_BT >= 0)
        score_BV[rows, past_BT[rows, places]] = np.nan  # neither above, nor equal
        rank_Q[some] = _rank(score_BV, split.target_Q(questions[some]))
        if k:
            top_QK[some] = _top(score_BV, top_QK.shape[1])
    return Ranked(rank_Q, top_QK)


def _rank(score_BV: np.ndarray, target_B: np.ndarray) -> np.ndarray:
    own_B1 = np.take_along_axis(score_BV, target_B[:, None].astype(np.int64), 1)
    n_better_B = (score_BV > own_B1).sum(1)
    n_equal_B = (score_BV == own_B1).sum(1) - 1
    return np.where(np.isnan(own_B1[:, 0]), score_BV.shape[1], n_better_B + n_equal_B / 2)


def _top(score_BV: np.ndarray, k: int) -> np.ndarray:
    """The best items; scores and numbers are one whole number, so that no two are equal."""
    V = score_BV.shape[1]
    bits = (np.where(np.isnan(score_BV), -np.inf, score_BV) + np.float32(0)).view(np.int32)
    ascending = np.where(bits < 0, bits ^ 0x7FFFFFFF, bits).astype(np.int64)  # as the floats are
    key_BV = (ascending << 32) + np.arange(V - 1, -1, -1)
    best_BK = -np.sort(-np.partition(key_BV, V - k, axis=1)[:, V - k :], axis=1)
    return V - 1 - (best_BK & 0xFFFFFFFF)


# --- metrics -------------------------------------------------------------------------------------


def _gains(rank_Q: np.ndarray, ks: Sequence[int]) -> tuple[list[tuple[str, int | None]], Any]:
    """What each question counts in each metric: their names, and float64 M, Q."""
    discount_Q = 1 / np.log2(rank_Q + 2)
    columns: dict[tuple[str, int | None], np.ndarray] = {}
    for k in ks:
        columns["hit", k] = (rank_Q < k).astype(float)
        columns["ndcg", k] = np.where(rank_Q < k, discount_Q, 0.0)
    columns["mrr", None] = 1 / (rank_Q + 1)
    return list(columns), np.stack(list(columns.values()))


def metrics(rank_Q: np.ndarray, ks: Sequence[int]) -> list[dict[str, Any]]:
    """Hit rate (with one item to find also recall) and NDCG at each k, and MRR over all places.

    Each with the standard error over questions, which are one a user.

    Examples:
        >>> rows = metrics(np.array([0.0, 1.0, 30.0]), [10])
        >>> [(row["metric"], row["k"], round(row["value"], 4)) for row in rows]
        [('hit', 10, 0.6667), ('ndcg', 10, 0.5436), ('mrr', None, 0.5108)]
    """
    names, gain_MQ = _gains(rank_Q, ks)
    n = len(rank_Q)
    se_M = gain_MQ.std(1, ddof=1) / n**0.5 if n > 1 else np.full(len(names), np.nan)
    return [
        {"metric": metric, "k": k, "value": float(value), "se": _finite(se), "n": n}
        for (metric, k), value, se in zip(names, gain_MQ.mean(1), se_M, strict=True)
    ]


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def compare(
    rank_a_Q: np.ndarray, rank_b_Q: np.ndarray, ks: Sequence[int], seed: int, level: float = _LEVEL
) -> list[dict[str, Any]]:
    """How much more a has than b in each metric, with paired bootstrap intervals of a level.

    Questions are drawn anew 1,000 times, the same ones for both models and all metrics.

    Raises:
        RunError: the models were asked different questions.
    """
    if len(rank_a_Q) != len(rank_b_Q):
        raise RunError(
            f"{len(rank_a_Q):,} and {len(rank_b_Q):,} ranks cannot be paired: ask both models the "
            "questions of one split"
        )
    names, gain_MQ = _gains(rank_a_Q, ks)
    gain_MQ = gain_MQ - _gains(rank_b_Q, ks)[1]
    mean_RM = _resampled(gain_MQ, np.random.default_rng([seed, 0xB007]))
    low_M, high_M = np.quantile(mean_RM, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return [
        {"metric": metric, "k": k, "difference": d, "ci_low": low, "ci_high": high}
        for (metric, k), d, low, high in zip(
            names, gain_MQ.mean(1).tolist(), low_M.tolist(), high_M.tolist(), strict=True
        )
    ]


def _resampled(gain_MQ: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Means over questions that are drawn with replacement: R, M."""
    Q = gain_MQ.shape[1]
    means = []
    for _ in range(0, _N_RESAMPLES, _AT_ONCE):
        drawn_RQ = rng.integers(0, Q, (_AT_ONCE, Q))
        drawn_RQ += Q * np.arange(_AT_ONCE)[:, None]
        n_RQ = np.bincount(drawn_RQ.ravel(), minlength=_AT_ONCE * Q).reshape(_AT_ONCE, Q)
        # not a matrix product, whose threads share the sums out
        means.append(np.einsum("rq,mq->rm", n_RQ.astype(float), gain_MQ) / Q)
    return np.concatenate(means)


def concentration(top_QK: np.ndarray, n_items: int) -> dict[str, float]:
    """How the places of lists are spread over all items.

    Returns:
        ``coverage``: share of items on any list; ``gini``: 0 where all items have as many places,
        1 - 1/V where one has all; ``entropy``: of a place's item, in bits, at most log2 V.
    """
    return _spread(np.bincount(top_QK.ravel(), minlength=n_items))


def _spread(n_V: np.ndarray) -> dict[str, float]:
    n_V, V = np.sort(n_V).astype(float), len(n_V)
    share_V = n_V / max(n_V.sum(), 1)
    known = share_V[share_V > 0]
    return {
        "coverage": float((n_V > 0).mean()),
        "gini": float(((2 * np.arange(1, V + 1) - V - 1) * share_V).sum() / V),
        "entropy": float(-(known * np.log2(known)).sum() + 0.0),
    }


def spread_errors(top_QK: np.ndarray, n_items: int, seed: int) -> dict[str, float]:
    """Standard errors of `concentration`, by a bootstrap over questions.

    A resample holds fewer different lists and so covers less; its spread is used, not its mean.
    """
    rng, (Q, K) = np.random.default_rng([seed, 0x5EA]), top_QK.shape
    found = []
    for _ in range(_N_SPREADS):
        n_Q = np.bincount(rng.integers(0, Q, Q), minlength=Q)
        found.append(_spread(np.bincount(top_QK.ravel(), n_Q.repeat(K), n_items)))
    return {name: float(np.std([x[name] for x in found], ddof=1)) for name in found[0]}
