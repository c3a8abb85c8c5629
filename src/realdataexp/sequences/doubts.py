"""What is doubtful in histories and in what is known of their items, as warnings.

Axes: N interactions, U users, V items, Q questions, P pairs of neighbours in a history, K nearest
items, D numbers of a vector, B items at once.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
import scipy.sparse as sp
import torch

from realdataexp.device import own_arithmetic
from realdataexp.errors import Warnings
from realdataexp.sequences.histories import Histories, Split
from realdataexp.sequences.items import Items
from realdataexp.sequences.markov import Markov

_LEAST_EXCESS, _LEAST_Z = 0.02, 5.0
_NEAREST = 20
# What a table knows beyond chance: of training, where it is more than a text tells (0.04 on Amazon
# Beauty), and of what is held out, over that (0.3 to 0.5 if fitted on training, 0.7 to 1 on all).
_KNOWS, _LEAK = 0.05, 0.6
_LEAST_LEAK_Z, _N_PAIRS = 3.0, 2000
_AT_ONCE = 512


def doubts(
    split: Split, items: Items, warnings: Warnings, given_VD: np.ndarray | None = None
) -> None:
    """Warn of what would mislead who reads a recommender's results.

    Args:
        split: the histories.
        items: their table.
        warnings: where to.
        given_VD: vectors of items that were made elsewhere, from whatever interactions.
    """
    _order_doubts(split.histories, items, warnings)
    _question_doubts(split, warnings)
    _history_doubts(split.histories, warnings)
    if given_VD is not None:
        is_leak, said = given_leak(split, given_VD)
        if is_leak:
            warnings.add("neighbours_know_held_out", said)


# --- names that tell the time --------------------------------------------------------------------


def _order_doubts(histories: Histories, items: Items, warnings: Warnings) -> None:
    for called, names in (("items' names", histories.item_names), *_id_columns(items)):
        share, z = share_ascending(histories, names)
        if is_order(share, z):
            warnings.add(
                "order_predicts_time",
                f"{items.source}: {called}: the larger of two in a row is the later in "
                f"{share:.1%} (z = {z:+.0f} against 50 %), so their order predicts what comes "
                "next; no model here sees it, but do not compare with those that do",
            )


def is_order(share: float, z: float) -> bool:
    """Whether so many names that ascend are beyond chance, and enough to matter."""
    return abs(share - 0.5) >= _LEAST_EXCESS and abs(z) >= _LEAST_Z


def _id_columns(items: Items) -> list[tuple[str, Sequence[str]]]:
    """Columns of plain values that differ for all items, and are not the names."""
    plain = [x for x in items.table if not x.dtype.is_nested() and not x.null_count()]
    ids = {x.name: x.cast(pl.String).to_list() for x in plain if x.n_unique() == len(x)}
    return [(f"column {key!r}", x) for key, x in ids.items() if x != list(items.names)]


def share_ascending(histories: Histories, names: Sequence[str]) -> tuple[float, float]:
    """How often the second of two items in a row has the larger name, and z against one half.

    Names are compared as numbers where all are. z is against names in a random order, where the
    signs of a < b and a < c have the correlation 1/3. So with net_VV, how much more often b follows
    a than a follows b, and its sums net_V, the sum of all signs has the variance
    (|net_V|^2 + |net_VV|^2 / 2) / 3.
    """
    column = pl.Series(names, dtype=pl.String)
    numbers = column.cast(pl.Int64, strict=False)
    rank_V = (column if numbers.null_count() else numbers).rank("dense").to_numpy()
    first, second = _adjacent(histories)
    from_P, to_P = histories.item_N[first], histories.item_N[second]
    sign_P = np.sign(rank_V[to_P].astype(float) - rank_V[from_P])
    count_VV = sp.csr_array((abs(sign_P), (from_P, to_P)), shape=(len(rank_V), len(rank_V)))
    net_VV = count_VV - count_VV.T
    variance = ((net_VV.sum(1) ** 2).sum() + (net_VV.data**2).sum() / 2) / 3
    share = float((sign_P > 0).sum() / abs(sign_P).sum()) if sign_P.any() else 0.5
    return share, float(sign_P.sum() / max(variance, 1.0) ** 0.5)


def _adjacent(histories: Histories) -> tuple[np.ndarray, np.ndarray]:
    """Places of interactions that follow each other in a history."""
    second = np.flatnonzero(histories.user_N[1:] == histories.user_N[:-1]) + 1
    return second - 1, second


# --- histories and questions ---------------------------------------------------------------------


def _question_doubts(split: Split, warnings: Warnings) -> None:
    h, is_train_N = split.histories, split.is_train_N
    is_known_V = np.bincount(h.item_N[is_train_N], minlength=h.n_items) > 0
    for name, questions in (("validation", split.validation), ("test", split.test)):
        n_new = int((~is_known_V[split.target_Q(questions)]).sum())
        if n_new:
            warnings.add(
                "target_never_trained",
                f"{name}: {n_new:,} of {len(questions):,} items that came are never in training, "
                "so that only texts or other vectors could find them",
            )
    n_asked = len(np.union1d(split.validation.user_Q, split.test.user_Q))
    n_silent = h.n_users - n_asked
    if n_asked and n_silent:
        warnings.add(
            "users_not_asked",
            f"{n_silent:,} of {h.n_users:,} users are asked nothing: too short a history, or none "
            "in the period",
        )


def _history_doubts(histories: Histories, warnings: Warnings) -> None:
    n_single = int((np.diff(histories.offset_U1) == 1).sum())
    if n_single:
        warnings.add(
            "single_item_histories",
            f"{n_single:,} of {histories.n_users:,} histories have one item: nothing follows it",
        )
    key_N = histories.user_N.astype(np.int64) * histories.n_items + histories.item_N
    n_again = len(key_N) - len(np.unique(key_N))
    if n_again:
        warnings.add(
            "items_twice",
            f"{n_again:,} of {len(key_N):,} interactions are with an item that the user had "
            "before; a ranking leaves these out, so such a target counts as missed",
        )
    if histories.time_N is not None:
        first, second = _adjacent(histories)
        n_tied = int((histories.time_N[first] == histories.time_N[second]).sum())
        if n_tied:
            warnings.add(
                "tied_times",
                f"{n_tied:,} of {len(second):,} interactions have the time of the user's one "
                "before; their order is that of the file's rows",
            )


# --- tables that know what was held out ----------------------------------------------------------


def given_leak(split: Split, given_VD: np.ndarray) -> tuple[bool, str]:
    """Whether vectors that were made elsewhere know what is held out, and how well.

    They do if they know it nearly as well as training, and better than counting on training does,
    which vectors of texts do not.
    """
    near_VK = nearest(given_VD, _NEAREST)
    train, held_out, chance = known_shares(split, near_VK)
    counted, z = _over_counting(split, near_VK)
    is_alike = train - chance >= _KNOWS and held_out - chance >= _LEAK * (train - chance)
    return (
        is_alike and z > _LEAST_LEAK_Z,
        f"given vectors: the {near_VK.shape[1]} nearest items hold the next one in "
        f"{held_out:.1%} of held-out pairs, {train:.1%} of those in training and {chance:.1%} "
        f"by chance; those that most often came next in training, {counted:.1%} of held-out ones",
    )


def _over_counting(split: Split, near_VK: np.ndarray) -> tuple[float, float]:
    """How often counts of what comes next hold the next item, and z of how much more near ones do.

    In a sample of held-out pairs; the items of the largest counts are as many as the near ones.
    """
    h = split.histories
    first, second = _adjacent(h)
    held_out = np.flatnonzero(~split.is_train_N[second])
    some = np.random.default_rng(0xC0).permutation(held_out)[:_N_PAIRS]
    first_P, then_P1 = h.item_N[first[some]], h.item_N[second[some]][:, None]
    count_PV = Markov().fit(split).weight_VV[first_P].toarray()
    own_P1 = np.take_along_axis(count_PV, then_P1.astype(np.int64), 1)
    rank_P = (count_PV > own_P1).sum(1) + ((count_PV == own_P1).sum(1) - 1) / 2
    counted_P = rank_P < near_VK.shape[1]
    more_P = (near_VK[first_P] == then_P1).any(1).astype(float) - counted_P
    error = max(float(more_P.std()), 1e-9) / max(1, len(more_P)) ** 0.5
    return float(counted_P.mean()), float(more_P.mean()) / error


def known_shares(split: Split, near_VK: np.ndarray) -> tuple[float, float, float]:
    """How often a table of neighbours holds the item that came next.

    Args:
        split: the histories.
        near_VK: items near each item; -1: none.

    Returns:
        The share of pairs in a row within training, of those with a held-out second item, and of
        the latter with the second items permuted.
    """
    h = split.histories
    first, second = _adjacent(h)
    is_train_P = split.is_train_N[second]
    held_out = h.item_N[second[~is_train_P]]
    shuffled = np.random.default_rng(0x5EED).permutation(held_out)

    def share(is_wanted_P: np.ndarray, then_P: np.ndarray) -> float:
        hits = (near_VK[h.item_N[first[is_wanted_P]]] == then_P[:, None]).any(1)
        return float(hits.mean()) if len(hits) else 0.0

    train = share(is_train_P, h.item_N[second[is_train_P]])
    return train, share(~is_train_P, held_out), share(~is_train_P, shuffled)


def nearest(vector_VD: np.ndarray, k: int) -> np.ndarray:
    """The items with the largest cosines to each item: int64 V, K, in whatever order."""
    vector_VD = vector_VD.astype(np.float32)
    length_V1 = np.sqrt((vector_VD**2).sum(1, keepdims=True))
    unit_VD = torch.from_numpy(vector_VD / np.where(length_V1 > 0, length_V1, np.inf))
    V, near = len(unit_VD), []
    with own_arithmetic():
        for start in range(0, V, _AT_ONCE):
            cosine_BV = unit_VD[start : start + _AT_ONCE] @ unit_VD.T
            cosine_BV.diagonal(start).fill_(-torch.inf)
            near.append(cosine_BV.topk(min(k, V - 1), sorted=False).indices)
    return torch.cat(near).numpy()
