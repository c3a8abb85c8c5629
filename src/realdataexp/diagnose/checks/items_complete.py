"""Whether codes name each item, and probabilities are of items alone.

No two items may share their codes, and each must have a probability; where scores are
log-probabilities of the items, these add up to 1. In float32 each is right to some 1e-6, so that
sums over items differ from 1 by about 1e-5; the bound is 1e-4. A softmax over all codes, whether an
item has them or not, spends part of it on items that do not exist.
"""

from __future__ import annotations

import numpy as np

from realdataexp.diagnose.asked import recommended_of, some
from realdataexp.diagnose.finding import Measured
from realdataexp.diagnose.subject import CannotTell, Subject

_N_QUESTIONS = 32
_BOUND = 1e-4


def check(subject: Subject, seed: int) -> Measured:
    """Count items whose codes are another's, and add up probabilities over all items."""
    recommended = recommended_of(subject)
    codes_VL, split = recommended.codes_VL, recommended.split
    if codes_VL is None and not recommended.is_likelihood:
        raise CannotTell("what is missing: items' codes, or scores that are log-probabilities")
    n_shared = 0 if codes_VL is None else len(codes_VL) - len(np.unique(codes_VL, axis=0))
    said, n_lost, error = f"{n_shared:,} items have the codes of another", 0, 0.0
    if recommended.is_likelihood and not n_shared:
        past_BT = split.past_BT(some(split.test, _N_QUESTIONS, seed))
        log_p_BV = recommended.scores(subject.model().eval(), past_BT).astype(np.float64)
        n_lost = int((~np.isfinite(log_p_BV)).any(0).sum())
        total_B = np.exp(log_p_BV).sum(1)
        error = float(np.nan_to_num(np.abs(total_B - 1), nan=np.inf).max())
        said += (
            f"; {n_lost:,} have no probability; probabilities of all items add up to "
            f"{total_B.min():.4f} to {total_B.max():.4f}"
        )
    return Measured(
        bool(n_shared or n_lost or error > _BOUND), error, _BOUND, said,
        "give each item codes of its own, and mask what leads to no item before the softmax",
    )  # fmt: skip
