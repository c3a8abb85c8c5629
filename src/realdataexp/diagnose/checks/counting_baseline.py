"""Whether a trained model is better than a table of counts.

The model and Markov counts, fitted on the same training interactions, rank the same validation
questions (all of them where a run has reported its ranks, else a sample); the difference in NDCG@10
has a paired bootstrap interval of 99.8 %. It is a fault where all of it is below 0: for a model as
good as counting with a probability of 0.001.
"""

from __future__ import annotations

from realdataexp.diagnose.asked import recommended_of, some
from realdataexp.diagnose.finding import Measured
from realdataexp.diagnose.subject import Subject
from realdataexp.sequences.markov import Markov
from realdataexp.sequences.ranking import compare, metrics, ranks

_N_QUESTIONS, _K, _LEVEL = 2048, 10, 0.998


def check(subject: Subject, seed: int) -> Measured:
    """Compare NDCG@10 on validation questions with that of counting."""
    recommended = recommended_of(subject, is_trained=True)
    split, model = recommended.split, subject.model().eval()
    if (own_Q := recommended.validated) is not None and len(own_Q) == len(split.validation):
        questions = split.validation
    else:
        questions = some(split.validation, _N_QUESTIONS, seed)
        own_Q = ranks(lambda past_BT: recommended.scores(model, past_BT), split, questions)
    counted_Q = ranks(Markov().fit(split).scores, split, questions)
    found = compare(own_Q, counted_Q, [_K], seed, level=_LEVEL)
    (row,) = (x for x in found if x["metric"] == "ndcg")
    own, counted = (
        next(x["value"] for x in metrics(rank_Q, [_K]) if x["metric"] == "ndcg")
        for rank_Q in (own_Q, counted_Q)
    )
    return Measured(
        row["ci_high"] < 0, row["difference"], 0.0,
        f"NDCG@{_K} on {len(questions):,} validation questions is {own:.4f}, by counting "
        f"{counted:.4f}; the difference is {row['difference']:+.4f} "
        f"({100 * _LEVEL:g} % interval {row['ci_low']:+.4f} to {row['ci_high']:+.4f})",
        "train longer or at another learning rate, or recommend by counting",
    )  # fmt: skip
