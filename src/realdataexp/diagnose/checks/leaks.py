"""Whether the model is shown what it is to find.

Four ways in. (1) Items' numbers tell when they came: the larger of two in a row is the later in
more than 52 %, or less than 48 %, and z, against numbers in a random order, is beyond 5 (by chance,
less than once in a million). (2) The item read last is the one to be found; the bound is half way
from how often an item comes twice in a row to always. (3) Held-out pairs of an item and its next
one are learned: none must be. (4) Vectors that were made elsewhere know what is held out: the 20
nearest items hold the next one in held-out pairs nearly as often as in training (beyond chance,
more than 0.6 as often; 0.0 to 0.5 where fitted on training, 0.7 to 1 on all), and, with z > 3, more
often than the 20 items that came next most often in training. Vectors fitted on training, or on
texts, stay below counting; in a small dense catalogue those fitted on all do too, and are missed.
"""

from __future__ import annotations

import numpy as np

from realdataexp.diagnose.asked import recommended_of
from realdataexp.diagnose.finding import Measured
from realdataexp.diagnose.pairs import beyond, pair, pairs_of
from realdataexp.diagnose.subject import Recommended, Subject
from realdataexp.sequences.doubts import given_leak, is_order, share_ascending
from realdataexp.sequences.histories import Histories


def check(subject: Subject, seed: int) -> Measured:
    """Look for the target in what is read, and for what is held out in what is learned."""
    recommended = recommended_of(subject)
    told = [_numbers(recommended.split.histories)]
    if recommended.learned is not None:
        told += _learned(recommended, *recommended.learned())
    if recommended.vector_VD is not None and recommended.is_given:
        told.append(given_leak(recommended.split, recommended.vector_VD))
    leaks = [said for is_leak, said in told if is_leak]
    return Measured(
        bool(leaks), float(len(leaks)), 0.0, "; ".join(leaks or (said for _, said in told)),
        "make histories, items' numbers and vectors anew, of what is trained on alone",
    )  # fmt: skip


def _numbers(histories: Histories) -> tuple[bool, str]:
    share, z = share_ascending(histories, [str(v) for v in range(histories.n_items)])
    said = f"the later of two items in a row has the larger number in {share:.1%} (z = {z:+.1f})"
    return is_order(share, z), said


def _learned(
    recommended: Recommended, read_X: np.ndarray, target_X: np.ndarray
) -> list[tuple[bool, str]]:
    split = recommended.split
    pairs, V = pairs_of(split), split.histories.n_items
    again = float((pairs.pair_P % (V + 1) == 0).mean())  # v V + v
    same = float((read_X == target_X).mean())
    new_K, _ = beyond(pair(read_X, target_X, V), pairs.pair_P[pairs.is_train_P])
    n_held_out = int(np.isin(new_K, pairs.pair_P[~pairs.is_train_P]).sum())
    return [
        (same > (1 + again) / 2, f"the item to be found is read at {same:.1%} of its places"),
        (n_held_out > 0, f"{n_held_out:,} held-out pairs in a row are learned"),
    ]
