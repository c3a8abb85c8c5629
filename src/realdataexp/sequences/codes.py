"""Codes of items, which a generative recommender writes one after the other.

They are given, or made from vectors by residual k-means: an item's first code is its cluster, the
next the cluster of what the first one's centre leaves of the vector, and so on (Rajput et al.,
arXiv 2305.05065, with k-means in place of RQ-VAE). A last code tells apart the items that share
all others.

Axes: V items, D numbers of a vector, L levels.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from realdataexp.device import own_scikit_learn
from realdataexp.errors import InputError, Warnings, one_line
from realdataexp.files import read_json
from realdataexp.sequences.item_options import CodeOptions

_MANY = 50_000  # items above which k-means sees a sample at a time
_ITERATIONS = 50
_END = ""  # the code of a level that an item with fewer codes does not have


@dataclass(frozen=True)
class Codes:
    """The codes of a catalogue, no two items' the same.

    Attributes:
        code_VL: int64, from 0.
        names: of each level, what its codes were called.
    """

    code_VL: np.ndarray
    names: tuple[tuple[str, ...], ...]

    @property
    def n_codes(self) -> int:
        """Codes of the level that has most."""
        return max(map(len, self.names))

    def written(self, item: int) -> list[str]:
        """An item's codes, as they were given."""
        codes = zip(self.names, self.code_VL[item], strict=True)
        return [name for names, code in codes if (name := names[code]) != _END]


def residual_kmeans(vector_VD: np.ndarray, options: CodeOptions, seed: int) -> Codes:
    """Codes from vectors, to the same bits whatever the number of threads.

    Raises:
        InputError: scikit-learn is not installed, or items are to be told apart and cannot be.
    """
    try:
        from sklearn.cluster import KMeans, MiniBatchKMeans
    except ModuleNotFoundError as error:
        raise InputError(
            "items.codes by k-means need scikit-learn: pip install 'realdataexp[sklearn]'"
        ) from error
    kind = KMeans if len(vector_VD) <= _MANY else MiniBatchKMeans
    rest_VD, levels = np.array(vector_VD, dtype=np.float32), []
    with own_scikit_learn():
        for level in range(options.n_levels):
            n = min(options.n_codes, len(np.unique(rest_VD, axis=0)))
            means = kind(n, n_init=1, max_iter=_ITERATIONS, random_state=(seed + level) % 2**32)
            levels.append(means.fit(rest_VD).labels_.astype(np.int64))
            rest_VD = rest_VD - means.cluster_centers_[levels[-1]]
    code_VL = np.stack(levels, axis=1)
    names = [tuple(map(str, range(n))) for n in code_VL.max(0) + 1]
    return _told_apart(code_VL, names, options, seed, "items.codes by k-means")


def given_codes(
    lists: Sequence[Sequence[str]], options: CodeOptions, seed: int, where: str
) -> Codes:
    """Codes that were given, one list an item; lists may differ in length.

    Raises:
        InputError: an item has none, or shares all with another and is refused; ``where`` is what
            the line calls their file and column.
    """
    if empty := [v for v, row in enumerate(lists) if not row or not all(row)]:
        raise InputError(
            f"{where}: {len(empty):,} of {len(lists):,} items lack codes, the first in place "
            f"{empty[0] + 1}: {list(lists[empty[0]])}; give each item its codes, none of them empty"
        )
    longest = max(map(len, lists))
    padded_VL = np.array([[*row, *[_END] * (longest - len(row))] for row in lists])
    found = [np.unique(code_V, return_inverse=True) for code_V in padded_VL.T]
    code_VL = np.stack([code_V for _, code_V in found], axis=1).astype(np.int64)
    return _told_apart(code_VL, [tuple(x.tolist()) for x, _ in found], options, seed, where)


def read_codes(path: Path, item_names: Sequence[str], warnings: Warnings) -> list[list[str]]:
    """A JSON file's codes in the order of the items: ``{"item": ["<a_1>", "<b_7>"], ...}``.

    A file that numbers the items from 0 where they are called 1 to V (LETTER's) is understood.

    Raises:
        InputError: it is no such file, or lacks an item.
    """
    try:
        found = read_json(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: {error}; name a JSON file of codes") from error
    lists = found.values() if isinstance(found, dict) else [{"": found}]
    wrong = [x for x in lists if not isinstance(x, list) or {*map(type, x)} - {str, int}]
    if wrong:
        raise InputError(
            f"{path}: must be a JSON object of item: list of codes, which are texts or whole "
            f"numbers, not {one_line(json.dumps(wrong[0]))}"
        )
    if set(found) == {str(v) for v in range(len(item_names))} and "0" not in item_names:
        warnings.add("codes_from_zero", f"{path}: numbers items from 0; taken as item number - 1")
        found = {str(int(v) + 1): codes for v, codes in found.items()}
    return _in_order(found, item_names, path)


def _in_order(
    found: Mapping[str, list[object]], item_names: Sequence[str], path: Path
) -> list[list[str]]:
    if lacking := [name for name in item_names if name not in found]:
        raise InputError(
            f"{path}: {len(lacking):,} of {len(item_names):,} items have no codes, such as "
            f"{lacking[0]!r}; add them, or name the file that belongs to these histories"
        )
    return [[str(code) for code in found[name]] for name in item_names]


def _told_apart(
    code_VL: np.ndarray, names: list[tuple[str, ...]], options: CodeOptions, seed: int, where: str
) -> Codes:
    """Add a code that numbers the items which share all others, in an order drawn at random.

    The items' own order may tell which is newer, and must not be learned.
    """
    _, kind_V, size_K = np.unique(code_VL, axis=0, return_inverse=True, return_counts=True)
    if (most := int(size_K.max())) > 1:
        if options.doubled == "refuse":
            raise InputError(
                f"{where}: {int(size_K[size_K > 1].sum()):,} items share all their codes with "
                "another; mend them, or set items.codes.doubled: code"
            )
        drawn_V = np.random.default_rng([seed, 0xC0DE]).permutation(len(code_VL))
        order_V = drawn_V[np.argsort(kind_V[drawn_V], kind="stable")]
        last_V = np.empty(len(code_VL), dtype=np.int64)
        first_K = np.cumsum(size_K) - size_K
        last_V[order_V] = np.arange(len(code_VL)) - first_K[kind_V[order_V]]
        code_VL, names = np.c_[code_VL, last_V], [*names, tuple(map(str, range(most)))]
    return Codes(code_VL, tuple(names))
