"""Whether the training's own evaluation computes hit rate, NDCG and MRR.

Its figures on some questions are compared with those of a plain loop in float64: the user's own
history is left out, and ties count one half. Both see the same scores, so they differ by rounding
alone (the bound is 1e-6); a metric that starts at another place, or takes ties as won, differs by
more than a thousandth.
"""

from __future__ import annotations

import math

import numpy as np

from realdataexp.diagnose.asked import recommended_of, some
from realdataexp.diagnose.finding import Measured
from realdataexp.diagnose.subject import Subject

_N_QUESTIONS, _K = 200, 10
_BOUND = 1e-6


def check(subject: Subject, seed: int) -> Measured:
    """Compare metrics with those of a loop."""
    recommended = recommended_of(subject, "judged")
    assert recommended.judged is not None
    split, model = recommended.split, subject.model().eval()
    questions = some(split.test, _N_QUESTIONS, seed)
    past_BT = split.past_BT(questions)
    wanted = reference(recommended.scores(model, past_BT), past_BT, split.target_Q(questions))
    found, _ = recommended.judged(model, questions)
    off = {x: _apart(found[x], wanted[x]) for x in wanted if x in found}
    worst = max(off, key=off.__getitem__)
    return Measured(
        off[worst] > _BOUND, off[worst], _BOUND,
        f"{worst} of {len(questions)} questions is {found[worst]:.6f}, by a plain loop "
        f"{wanted[worst]:.6f}",
        "compare rank by rank with a loop: where ranks start, what ties count, what is left out",
    )  # fmt: skip


def reference(score_QV: np.ndarray, past_QT: np.ndarray, target_Q: np.ndarray) -> dict[str, float]:
    """The metrics of scores, by a loop over questions and items."""
    total = {"hit@10": 0.0, "ndcg@10": 0.0, "mrr": 0.0}
    for scores, past, target in zip(score_QV.tolist(), past_QT.tolist(), target_Q, strict=True):
        own, rank, left_out = scores[target], 0.0, {*past, int(target)}
        for item, score in enumerate(scores):
            if item not in left_out:
                rank += 1.0 if score > own else 0.5 * (score == own)
        rank = len(scores) if target in past else rank
        total["hit@10"] += rank < _K
        total["ndcg@10"] += 1 / math.log2(rank + 2) if rank < _K else 0.0
        total["mrr"] += 1 / (rank + 1)
    return {name: x / len(target_Q) for name, x in total.items()}


def _apart(found: float, wanted: float) -> float:
    return math.inf if math.isnan(found) else abs(found - wanted)
