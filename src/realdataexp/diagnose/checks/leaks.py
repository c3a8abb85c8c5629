"""Whether the model is shown what it is to find.

Five ways in. (1) A feature is the target, or rises and falls with it: the rank correlation over
the examples of a batch is beyond 0.99, where 50 are known and 20 of them differ from the commonest
target. By chance that has a probability below 1e-30, and features that were known in time stay
below it. (2) Items' numbers tell when they came: the larger of two in a row is the later in more
than 52 %, or less than 48 %, and z, against numbers in a random order, is beyond 5 (by chance, less
than once in a million). (3) The item read last is the one to be found; the bound is half way from
how often an item comes twice in a row to always. (4) Held-out pairs of an item and its next one are
learned: none must be. (5) Vectors that were made elsewhere remember held-out pairs that training
lacks nearly as well as those that come once in training, and the latter by heart; how, against
which vectors and which permutations, is in `sequences.doubts.given_leak`. Where a small dense
catalogue leaves too few such pairs, it cannot tell.

Axes: B examples, D numbers of a feature, J targets, X places that are learned, K kinds of pairs.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor

from realdataexp.diagnose.finding import Measured
from realdataexp.diagnose.pairs import beyond, pair, pairs_of
from realdataexp.diagnose.subject import CannotTell, Recommended, Subject
from realdataexp.sequences.doubts import given_leak, is_order, share_ascending
from realdataexp.sequences.histories import Histories

_SAME, _LEAST_KNOWN, _LEAST_OTHER = 0.99, 50, 20
_Told = tuple[bool | None, str]
"""Whether something is a leak (None: it cannot be told), and what was measured."""


def check(subject: Subject, seed: int) -> Measured:
    """Look for the target in what is read, and for what is held out in what is learned."""
    told: list[_Told] = (
        [] if subject.shown is None else _features(*subject.shown(subject.batches(1)[0]))
    )
    if subject.recommended is not None:
        told += _recommended(subject.recommended)
    if not told:
        raise CannotTell(
            "what is missing: recommended, or shown with 50 known targets, 20 of them uncommon"
        )
    leaks = [said for is_leak, said in told if is_leak]
    if not leaks and (unknown := [said for is_leak, said in told if is_leak is None]):
        raise CannotTell("; ".join(unknown))
    return Measured(
        bool(leaks), float(len(leaks)), 0.0, "; ".join(leaks or (said for _, said in told)),
        "make features, histories, items' numbers and vectors anew, of what is known in time",
    )  # fmt: skip


def _features(shown: Mapping[str, Tensor], target: Tensor) -> list[_Told]:
    """The feature that goes most with a target; none where too few targets are known."""
    best, name = -1.0, ""
    for y_B in target.detach().double().reshape(len(target), -1).T:
        is_known_B = torch.isfinite(y_B)
        y_K = y_B[is_known_B].numpy()
        most = np.unique(y_K, return_counts=True)[1].max(initial=0)
        if len(y_K) < _LEAST_KNOWN or len(y_K) - most < _LEAST_OTHER:
            continue
        for own, x in shown.items():
            x_KD = x.detach().double().reshape(len(x), -1)[is_known_B].numpy()
            if (found := _rank_correlation(x_KD, y_K)) > best:
                best, name = found, own
    said = f"the feature that goes most with a target ({name}) has a rank correlation of {best:.2f}"
    return [(best > _SAME, said)] if best >= 0 else []


def _rank_correlation(x_KD: np.ndarray, y_K: np.ndarray) -> float:
    """The largest over D, without its sign."""
    x_KD, y_K = (rankdata(z, axis=0) - (len(z) + 1) / 2 for z in (x_KD, y_K))
    scale_D = np.sqrt((x_KD**2).sum(0) * (y_K**2).sum())
    return float((np.abs(y_K @ x_KD) / np.maximum(scale_D, 1e-9)).max(initial=0.0))


def _recommended(recommended: Recommended) -> list[_Told]:
    told: list[_Told] = [_numbers(recommended.split.histories)]
    if recommended.learned is not None:
        told += _learned(recommended, *recommended.learned())
    if recommended.vector_VD is not None and recommended.is_given:
        told.append(given_leak(recommended.split, recommended.vector_VD))
    return told


def _numbers(histories: Histories) -> tuple[bool, str]:
    share, z = share_ascending(histories, [str(v) for v in range(histories.n_items)])
    said = f"the later of two items in a row has the larger number in {share:.1%} (z = {z:+.1f})"
    return is_order(share, z), said


def _learned(recommended: Recommended, read_X: np.ndarray, target_X: np.ndarray) -> list[_Told]:
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
