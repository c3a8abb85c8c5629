"""Counting recommenders against plain loops, and against known figures of Amazon Beauty."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from realdataexp.errors import InputError
from realdataexp.registry import find
from realdataexp.sequences.formats import SequenceData, open_split
from realdataexp.sequences.histories import Histories, Split, leave_one_out
from realdataexp.sequences.ranking import metrics, ranks
from realdataexp.sequences.synthetic import SyntheticSequences

BEAUTY = Path(__file__).parents[3] / "shared/data/Beauty"


def _split(**options: object) -> Split:
    synthetic = SyntheticSequences(**{"users": 300, "items": 60, **options})
    return open_split(SequenceData(synthetic=synthetic))[0]


def _training(split: Split) -> list[list[int]]:
    h = split.histories
    ends = split.train_end_U
    return [h.item_N[h.offset_U1[u] : ends[u]].tolist() for u in range(h.n_users)]


def test_popularity_counts_what_is_fitted_on() -> None:
    split = _split()
    wanted_V = np.bincount(np.concatenate(_training(split)), minlength=split.histories.n_items)
    found_BV = find("recommender", "Popularity", "")().fit(split).scores(np.array([[0, -1]]))
    np.testing.assert_array_equal(found_BV[0], wanted_V)


def test_item_knn_is_the_cosine_of_the_users_who_had_both() -> None:
    split = _split()
    has_UV = np.zeros((split.histories.n_users, split.histories.n_items))
    for u, items in enumerate(_training(split)):
        has_UV[u, items] = 1
    norm_V = np.maximum(np.sqrt(has_UV.sum(0)), 1)
    cosine_VV = has_UV.T @ has_UV / norm_V / norm_V[:, None]
    np.fill_diagonal(cosine_VV, 0)
    found_BV = find("recommender", "ItemKNN", "")().fit(split).scores(np.array([[3, 7, -1]]))
    np.testing.assert_allclose(found_BV[0], cosine_VV[3] + cosine_VV[7], rtol=1e-5, atol=1e-7)


def test_markov_equals_a_plain_loop() -> None:
    split = _split()
    V = split.histories.n_items
    count_VV, n_V = np.zeros((V, V)), np.zeros(V)
    for items in _training(split):
        for i, a in enumerate(items):
            n_V[a] += 1
            for j in range(i + 1, min(len(items), i + 4)):
                count_VV[a, items[j]] += 0.5 ** (j - i - 1)
    weight_VV = count_VV / np.maximum(count_VV.sum(1, keepdims=True), 1e-9) ** 0.5
    weight_VV /= np.maximum(n_V, 1) ** 0.25
    past = [5, 9, 2, 11]
    wanted_V = sum(0.5**age * weight_VV[item] for age, item in enumerate(past[::-1]) if age < 3)
    model = find("recommender", "Markov", "")(window=3, decay=0.5).fit(split)
    np.testing.assert_allclose(model.scores(np.array([past]))[0], wanted_V, rtol=1e-5, atol=1e-7)


def test_ease_is_the_ridge_regression_of_each_item_on_all_others() -> None:
    split = _split()
    has_UV = np.zeros((split.histories.n_users, split.histories.n_items))
    for u, items in enumerate(_training(split)):
        has_UV[u, items] = 1
    model = find("recommender", "EASE", "")(regularisation=20.0).fit(split)
    for item in (0, 7):
        others = np.delete(has_UV, item, axis=1)
        ridge = np.vstack([others, 20.0**0.5 * np.eye(others.shape[1])])
        target = np.concatenate([has_UV[:, item], np.zeros(others.shape[1])])
        weight = np.insert(np.linalg.lstsq(ridge, target)[0], item, 0.0)
        found = [model.scores(np.array([[v]]))[0, item] for v in range(has_UV.shape[1])]
        np.testing.assert_allclose(found, weight, atol=1e-5)


def test_ease_refuses_more_items_than_a_matrix_of_pairs_can_have() -> None:
    names = [str(v) for v in range(20_001)]
    split = leave_one_out(Histories(np.arange(9, dtype=np.int32), np.array([0, 9]), ["u"], names))
    with pytest.raises(InputError, match="EASE: 20,001 items, must be at most 20,000"):
        find("recommender", "EASE", "")().fit(split)


def test_what_padding_follows_changes_no_score() -> None:
    split = _split()
    for name in ("Popularity", "ItemKNN", "Markov", "EASE"):
        model = find("recommender", name, "")().fit(split)
        short, long = model.scores(np.array([[4, 6]])), model.scores(np.array([[4, 6, -1, -1]]))
        np.testing.assert_array_equal(short, long)


def test_held_out_items_are_fitted_by_nobody() -> None:
    """Other items in the held-out places change no score."""
    split = _split()
    h = split.histories
    other = h.item_N.copy()
    other[~split.is_train_N] = other[~split.is_train_N][::-1]
    moved = Split(
        type(h)(other, h.offset_U1, h.user_names, h.item_names),
        split.train_end_U, split.validation, split.test,
    )  # fmt: skip
    for name in ("Popularity", "ItemKNN", "Markov", "EASE"):
        past = np.array([[1, 2, 3]])
        a, b = (find("recommender", name, "")().fit(x).scores(past) for x in (split, moved))
        np.testing.assert_array_equal(a, b)


def test_the_order_of_made_histories_tells_what_comes_next() -> None:
    split = _split(users=1000, items=300)
    hit = {}
    for name in ("Popularity", "ItemKNN", "Markov"):
        model = find("recommender", name, "")().fit(split)
        hit[name] = metrics(ranks(model.scores, split, split.test), [10])[0]
    for better, worse in (("Markov", "ItemKNN"), ("Markov", "Popularity")):
        a, b = hit[better], hit[worse]
        assert a["value"] - b["value"] > 3 * (a["se"] ** 2 + b["se"] ** 2) ** 0.5


@pytest.mark.skipif(not BEAUTY.is_dir(), reason=f"{BEAUTY} is not here")
def test_known_figures_of_beauty() -> None:
    """Hit@10 and NDCG@10 of validation and test, as two other programs computed them."""
    split, _ = open_split(SequenceData(path=str(BEAUTY)))
    known = {
        "Popularity": (0.0169, 0.0081, 0.0120, 0.0056),
        "ItemKNN": (0.0703, 0.0406, 0.0569, 0.0326),
        "Markov": (0.1024, 0.0652, 0.0846, 0.0537),
    }
    for name, wanted in known.items():
        model, found = find("recommender", name, "")().fit(split), []
        for questions in (split.validation, split.test):
            rows = metrics(ranks(model.scores, split, questions), [10])
            found += [row["value"] for row in rows if row["k"] == 10]
        assert found == pytest.approx(wanted, abs=0.0005), name
