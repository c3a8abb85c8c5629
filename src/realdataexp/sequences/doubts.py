"""What is doubtful in histories and in what is known of their items, as warnings.

Axes: N interactions, U users, V items, Q questions, P pairs of neighbours in a history, D
numbers of a vector.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import scipy.sparse as sp

from realdataexp.errors import Warnings
from realdataexp.sequences.histories import Histories, Split
from realdataexp.sequences.items import Items
from realdataexp.sequences.markov import pair_counts
from realdataexp.sequences.vectors import cooccurrence

_LEAST_EXCESS, _LEAST_Z = 0.02, 5.0
_BY_HEART, _LEAST_LEAK_Z, _N_PAIRS, _PERMUTATIONS = 0.36, 4.0, 4000, 100
_WINDOW, _WIDEST = 10, 64  # near each other in a history; of an SVD to compare with
_MANY, _LEAST = 10**6, 1e-9


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


@dataclass(frozen=True)
class _Memory:
    """What vectors remember of pairs in a row, in standard deviations of an item's cosines.

    Attributes:
        learned, held_out: how much nearer pairs are than by chance, of those that come once in
            training, and of those that are held out and not in training.
        error: standard deviation of the latter by chance.
    """

    learned: float
    held_out: float
    error: float

    @property
    def share(self) -> float:
        """Of what is known of training, how much is known of what is held out."""
        return self.held_out / self.learned if self.learned > 0 else 0.0


def given_leak(split: Split, given_VD: np.ndarray) -> tuple[bool | None, str]:
    """Whether vectors that were made elsewhere know what is held out; None: it cannot be told.

    Pairs in a row that are held out, and never near each other in training, are compared with those
    that come once in training, both with pairs whose second items are permuted. Vectors that were
    fitted on both remember both alike (0.6 to 1 as much), those fitted on training know of what is
    held out what carries over (0 to 0.7 as much), which is measured by an SVD of training: the
    bound is half way from its share to 1. Texts know both alike as well, but not by heart (on
    Amazon Beauty 0.2 to 0.32 times as well as the SVD knows training), so vectors must know 0.36 as
    much of training as the SVD. By chance what is held out is remembered beyond 4 standard
    errors in fewer than 1 of 10,000. Where no leak is found it cannot be told whether there is one,
    if one at the bound would not be beyond that.
    """
    own = _memory(split, given_VD)
    fitted = _memory(split, cooccurrence(split, min(_WIDEST, len(given_VD) // 4)))
    bound = (1 + max(0.0, fitted.share)) / 2
    said = (
        f"given vectors remember held-out pairs {own.share:.2f} times as well as those that come "
        f"once in training (z = {own.held_out / own.error:.1f}), and the latter "
        f"{own.learned / max(fitted.learned, _LEAST):.2f} times as well as an SVD of training, "
        f"which remembers held-out pairs {fitted.share:.2f} times as well"
    )
    is_known_by_heart = own.learned > _BY_HEART * fitted.learned
    if is_known_by_heart and own.share > bound and own.held_out > _LEAST_LEAK_Z * own.error:
        return True, said
    decisive = own if is_known_by_heart else fitted
    if bound * decisive.learned < _LEAST_LEAK_Z * decisive.error:
        return None, f"{said}: too few held-out pairs that training lacks, to tell"
    return False, said


def _memory(split: Split, vector_VD: np.ndarray) -> _Memory:
    """What vectors remember of a sample of pairs."""
    h, rng = split.histories, np.random.default_rng(0xC0)
    near_VV = pair_counts(split, _WINDOW, 1.0)
    near_VV = near_VV + near_VV.T
    first, second = _adjacent(h)
    from_P, to_P, is_train_P = h.item_N[first], h.item_N[second], split.is_train_N[second]
    cosine = _standard_cosines(vector_VD)

    def some(wanted_P: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        drawn = rng.permutation(np.flatnonzero(wanted_P))[:_N_PAIRS]
        return from_P[drawn], to_P[drawn]

    def seen(a_P: np.ndarray, b_P: np.ndarray) -> np.ndarray:
        return np.asarray(near_VV[a_P, b_P]).ravel() + _MANY * (a_P == b_P)

    def mean(a_P: np.ndarray, b_P: np.ndarray) -> float:
        return float(cosine(a_P, b_P).mean()) if len(a_P) else 0.0

    n_seen_P = seen(from_P, to_P)
    learned = some(is_train_P & (n_seen_P <= 1))
    a_P, b_P = some(~is_train_P & (n_seen_P == 0))
    chance = []
    for _ in range(_PERMUTATIONS):
        other_P = rng.permutation(b_P)
        is_new_P = seen(a_P, other_P) == 0
        chance.append(mean(a_P[is_new_P], other_P[is_new_P]))
    expected, error = float(np.mean(chance)), max(float(np.std(chance)), _LEAST)
    return _Memory(mean(*learned) - expected, mean(a_P, b_P) - expected, error)


def _standard_cosines(vector_VD: np.ndarray) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Of pairs of items: their cosine, less the mean of each one's with all, over its spread."""
    vector_VD = vector_VD.astype(np.float64) - vector_VD.mean(0)
    length_V1 = np.sqrt((vector_VD**2).sum(1, keepdims=True))
    unit_VD = vector_VD / np.where(length_V1 > _LEAST, length_V1, np.inf)
    mean_V = unit_VD @ unit_VD.mean(0)
    square_V = ((unit_VD @ (unit_VD.T @ unit_VD / len(unit_VD))) * unit_VD).sum(1)
    spread_V = np.sqrt(np.maximum(square_V - mean_V**2, _LEAST))

    def cosine(a_P: np.ndarray, b_P: np.ndarray) -> np.ndarray:
        cosine_P = (unit_VD[a_P] * unit_VD[b_P]).sum(1)
        standard = ((cosine_P - mean_V[x]) / spread_V[x] for x in (a_P, b_P))
        return sum(standard) / 2

    return cosine
