"""Whether the parameters that a run keeps are those that its results are of.

The kept parameters rank some of the test's questions again. On the same machine the ranks are those
reported; other processors' rounding moves a rank by a place or two among items that nearly tie, so
that a rank counts as another if it differs by more than 2 and 2 %. Other parameters (the last, say,
in place of the best) change most ranks by more; the bound is 1 question in 20.
"""

from __future__ import annotations

import numpy as np

from realdataexp.diagnose.asked import recommended_of, some
from realdataexp.diagnose.finding import Measured
from realdataexp.diagnose.subject import CannotTell, Subject
from realdataexp.sequences.ranking import ranks

_N_QUESTIONS = 256
_BOUND = 0.05


def check(subject: Subject, seed: int) -> Measured:
    """Rank questions of the test again, and compare with the reported ranks."""
    recommended = recommended_of(subject, "reported", is_trained=True)
    assert recommended.reported is not None
    split, model = recommended.split, subject.model().eval()
    if len(recommended.reported) != len(split.test):
        raise CannotTell(
            f"what is missing: ranks of the test's questions; {len(recommended.reported):,} are "
            f"reported of {len(split.test):,}"
        )
    questions = some(split.test, _N_QUESTIONS, seed)
    reported_Q = recommended.reported[np.isin(split.test.place_Q, questions.place_Q)]
    rank_Q = ranks(lambda past_BT: recommended.scores(model, past_BT), split, questions)
    share = float((np.abs(rank_Q - reported_Q) > 2 + 0.02 * reported_Q).mean())
    return Measured(
        share > _BOUND, share, _BOUND,
        f"{share:.1%} of {len(questions)} questions have another rank than the run reports",
        "evaluate after the best parameters are loaded, and keep those that were evaluated",
    )  # fmt: skip
