"""Synthetic histories whose next item follows from the last ones, for tests and the demo.

Items have a place on a sphere, in clusters, and a popularity with a long tail. What comes after an
item is likely near the place that a rotation takes it to, so that order matters (a rotation is no
symmetric relation, as co-occurrence is) and carries over between items that are alike. A user's
next item follows the last one, or now and then the one before it; or is drawn by popularity alone.
Texts, categories and vectors of the item table carry the places, with noise.

Axes: U users, V items, T items of a history, D dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
from pydantic import Field, model_validator

from realdataexp.options import Count, Options
from realdataexp.sequences.histories import Histories, histories_of
from realdataexp.sequences.items import Items

_N_DIMENSIONS = 8
_SPREAD = 0.35  # of places within a cluster, of the radius
_SHARPNESS = 9.0  # how near to the rotated place the next item is
_DAY_S = 86_400.0
_FEWEST = 5


class SyntheticSequences(Options):
    """Histories made from a seed."""

    users: Count = Field(1000, description="users, each with 5 items or more")
    items: int = Field(300, ge=50, le=5000, description="items; some may never occur")
    clusters: int = Field(12, ge=1, le=1000, description="clusters of items that are alike")
    mean_length: int = Field(9, ge=6, le=50, description="mean number of a user's items")
    surprise: float = Field(
        0.2, ge=0, le=1, description="share of items that follow from nothing but popularity"
    )
    seed: int = Field(0, ge=0, le=2**63 - 1, description="draws all of it, apart from a run's seed")

    @model_validator(mode="after")
    def _fits(self) -> SyntheticSequences:
        if self.clusters > self.items:
            raise ValueError("clusters must be at most items")
        return self


def make_sequences(options: SyntheticSequences) -> tuple[Histories, Items]:
    """The histories, with times in seconds, and a table of text, categories and vector."""
    rng = np.random.default_rng([options.seed, 0x5E9])
    V = options.items
    cluster_V = rng.integers(options.clusters, size=V)
    centre_KD = _on_sphere(rng.standard_normal((options.clusters, _N_DIMENSIONS)))
    noise_VD = rng.standard_normal((V, _N_DIMENSIONS)) * _SPREAD / _N_DIMENSIONS**0.5
    place_VD = _on_sphere(centre_KD[cluster_V] + noise_VD)
    popularity_V = (1.0 + rng.permutation(V)) ** -0.7
    n_U = _FEWEST + rng.poisson(options.mean_length - _FEWEST, options.users)
    n_U = np.minimum(n_U, V // 2)
    next_VV = _transitions(rng, place_VD, popularity_V)
    item_UT = _walk(rng, next_VV, popularity_V, n_U, options.surprise)
    gap_UT = rng.exponential(7 * _DAY_S, item_UT.shape).round()
    gap_UT[:, 0] = rng.integers(int(365 * _DAY_S), size=options.users)
    is_item_UT = np.arange(item_UT.shape[1]) < n_U[:, None]
    rows = pl.DataFrame(
        {
            "user": np.repeat(np.arange(options.users), n_U),
            "item": item_UT[is_item_UT],
            "time": 1.6e9 + gap_UT.cumsum(1)[is_item_UT],
        }
    )
    histories = histories_of(rows.with_columns(pl.col("user", "item").cast(pl.String)))
    item_V = np.array(histories.item_names, dtype=np.int64)
    return histories, _describe(rng, histories.item_names, place_VD[item_V], cluster_V[item_V])


def _on_sphere(x_VD: np.ndarray) -> np.ndarray:
    return x_VD / np.linalg.norm(x_VD, axis=1, keepdims=True)


def _transitions(
    rng: np.random.Generator, place_VD: np.ndarray, popularity_V: np.ndarray
) -> np.ndarray:
    """What follows each item: rows of cumulative probabilities, V, V."""
    rotation_DD = np.linalg.qr(rng.standard_normal((_N_DIMENSIONS, _N_DIMENSIONS)))[0]
    weight_VV = np.exp(_SHARPNESS * (place_VD @ rotation_DD @ place_VD.T - 1)) * popularity_V
    return np.cumsum(weight_VV / weight_VV.sum(1, keepdims=True), axis=1)


def _walk(
    rng: np.random.Generator,
    next_VV: np.ndarray,
    popularity_V: np.ndarray,
    n_U: np.ndarray,
    surprise: float,
) -> np.ndarray:
    """Histories as long as the longest; nobody has an item twice."""
    U, T, V = len(n_U), int(n_U.max()), len(popularity_V)
    flat_X = (next_VV + np.arange(V)[:, None]).ravel()  # ascending: one search for all users
    popular_V = np.cumsum(popularity_V / popularity_V.sum())
    item_UT = np.full((U, T), -1)
    for t in range(T):
        waiting_U = np.arange(U)
        while len(waiting_U):
            u = rng.random((3, len(waiting_U)))
            before = item_UT[waiting_U, np.maximum(t - 1 - (u[0] < 0.3), 0)]
            after = np.searchsorted(flat_X, before + u[1], side="right") - before * V
            drawn = np.searchsorted(popular_V, u[1], side="right")
            drawn = np.where((u[2] < surprise) | (t == 0), drawn, after).clip(0, V - 1)
            is_new = (item_UT[waiting_U] != drawn[:, None]).all(1)
            item_UT[waiting_U[is_new], t] = drawn[is_new]
            waiting_U = waiting_U[~is_new]
    return item_UT


def _describe(
    rng: np.random.Generator, names: Sequence[str], place_VD: np.ndarray, cluster_V: np.ndarray
) -> Items:
    """Two words of an item's cluster out of four, one of its own; its cluster; its place."""
    noise_VD = 0.1 * rng.standard_normal(place_VD.shape)
    word_V2 = rng.permuted(np.tile(np.arange(4), (len(names), 1)), axis=1)[:, :2]
    text_V = [
        f"c{c}w{a} c{c}w{b} own{name}"
        for c, (a, b), name in zip(cluster_V, word_V2, names, strict=True)
    ]
    columns = {
        "text": text_V,
        "categories": [f"c{c}" for c in cluster_V],
        "vector": pl.Series(
            (place_VD + noise_VD).astype(np.float32).tolist(), dtype=pl.List(pl.Float32)
        ),
    }
    return Items(names, pl.DataFrame(columns), "dataset.synthetic")
