"""Whether all that histories tell is learned, once, and can be asked.

Pairs of an item and its next one in training are compared with those of one epoch. None may be
learned more often than it comes, and each user's last one must be learned: none of these is left
to chance. Earlier ones may be cut off, where a model reads the latest items alone; their share is
reported. Questions whose item the user had before are lost to every ranking that leaves the history
out: the bound is 5 % of them. So are, in part, pairs whose order the data do not know, as both have
one time; their share is reported as well.
"""

from __future__ import annotations

import numpy as np

from realdataexp.diagnose.asked import recommended_of
from realdataexp.diagnose.finding import Measured
from realdataexp.diagnose.pairs import beyond, pair, pairs_of
from realdataexp.diagnose.subject import Subject
from realdataexp.sequences.histories import Histories

_LOST = 0.05


def check(subject: Subject, seed: int) -> Measured:
    """Compare the pairs in training with those that an epoch learns."""
    recommended = recommended_of(subject, "learned")
    assert recommended.learned is not None
    split, pairs = recommended.split, pairs_of(recommended.split)
    learned_X = pair(*recommended.learned(), split.histories.n_items)
    train_P = pairs.pair_P[pairs.is_train_P]
    n_more = beyond(learned_X, train_P)[1]
    n_unseen = beyond(pairs.pair_P[pairs.is_last_P], learned_X)[1]
    used = 1 - beyond(train_P, learned_X)[1] / max(1, len(train_P))
    past_QT, target_Q = split.past_BT(split.test), split.target_Q(split.test)
    lost = float((past_QT == target_Q[:, None]).any(1).mean()) if len(target_Q) else 0.0
    return Measured(
        bool(n_more or n_unseen or lost > _LOST), float(n_more + n_unseen), 0.0,
        f"{used:.1%} of {len(train_P):,} pairs are learned; {n_more:,} more often than they come, "
        f"or not in training; {n_unseen:,} of users' last ones never; {lost:.1%} of the test's "
        f"items are in the history{_tied(split.histories)}",
        "look at how batches are made (what is dropped, drawn again or cut off), and leave "
        "repeated rows out",
    )  # fmt: skip


def _tied(histories: Histories) -> str:
    if histories.time_N is None:
        return ""
    is_pair_N = histories.user_N[1:] == histories.user_N[:-1]
    tied = (np.diff(histories.time_N) == 0)[is_pair_N]
    return f"; {tied.mean() if len(tied) else 0.0:.1%} of pairs have one time, so no known order"
