"""Vectors of items: their algebra, what they are fitted on, and files that are wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import scipy.sparse as sp
import torch
from pydantic import ValidationError
from safetensors.numpy import save_file

from realdataexp.errors import InputError
from realdataexp.sequences.counting import train_matrix
from realdataexp.sequences.formats import SequenceData, open_split
from realdataexp.sequences.histories import Split
from realdataexp.sequences.item_options import LightGCN, VectorOptions
from realdataexp.sequences.items import Items, aligned
from realdataexp.sequences.lightgcn import train_lightgcn
from realdataexp.sequences.synthetic import SyntheticSequences
from realdataexp.sequences.vectors import (
    controlled,
    make_vectors,
    neighbours_signal,
    read_vectors,
    svd_vectors,
)


@pytest.fixture(scope="module")
def made() -> tuple[Split, Items]:
    return open_split(SequenceData(synthetic=SyntheticSequences(users=400, items=120)))


def test_svd_vectors_are_those_of_a_dense_svd() -> None:
    rng = np.random.default_rng(0)
    spectrum_K = 0.7 ** np.arange(40)
    left_VK, right_KX = (np.linalg.qr(rng.standard_normal((60, 40)))[0] for _ in "ab")
    matrix_VX = (left_VK * spectrum_K) @ right_KX.T
    found_VK = svd_vectors(sp.csr_array(matrix_VX), 6)
    sign_K = np.sign(np.take_along_axis(left_VK, np.abs(left_VK).argmax(0)[None], 0))
    np.testing.assert_allclose(found_VK, (left_VK * sign_K * spectrum_K**0.5)[:, :6], atol=1e-8)
    assert svd_vectors(sp.csr_array(matrix_VX[:3]), 6).shape == (3, 3)


def test_each_kind_has_mean_square_1(made: tuple[Split, Items]) -> None:
    pytest.importorskip("sklearn")
    split, items = made
    kinds = ("svd", "text", "column")
    parts = [make_vectors(split, items, VectorOptions(kind=k, size=5), 0) for k in kinds]
    for vector_VD in parts:
        assert vector_VD.dtype == np.float32
        assert (vector_VD**2).mean() == pytest.approx(1, abs=1e-6)
    joined = make_vectors(split, items, VectorOptions(kind=kinds, size=5), 0)
    np.testing.assert_array_equal(joined, np.concatenate(parts, axis=1))


def test_a_category_is_a_word_beside_those_of_the_text(made: tuple[Split, Items]) -> None:
    text = pytest.importorskip("sklearn.feature_extraction.text")
    rng = np.random.default_rng(0)
    texts = [" ".join(f"w{x}" for x in rng.integers(0, 9, 4)) for _ in range(40)]
    lists = [[f"w{x}" for x in rng.integers(0, 5, 2)] for _ in texts]
    names = [str(v) for v in range(40)]
    items = Items(names, pl.DataFrame({"text": texts, "tags": lists}), "items.csv")
    options = VectorOptions(kind=("text",), size=30, categories="tags")
    found_VD = make_vectors(made[0], items, options, 0)
    documents = [f"{a} {' '.join(f'tag{x}' for x in b)}" for a, b in zip(texts, lists, strict=True)]
    # of so few words that the SVD drops none, cosines are those of TF-IDF
    matrix_VX = text.TfidfVectorizer(sublinear_tf=True).fit_transform(documents).toarray()
    wanted_VV, found_VV = matrix_VX @ matrix_VX.T, found_VD.astype(float) @ found_VD.T
    np.testing.assert_allclose(found_VV / found_VV[0, 0], wanted_VV / wanted_VV[0, 0], atol=1e-5)


def test_nothing_held_out_and_no_number_of_threads_changes_a_bit(made: tuple[Split, Items]) -> None:
    split, items = made
    h = split.histories
    other = h.item_N.copy()
    other[~split.is_train_N] = other[~split.is_train_N][::-1]
    moved = Split(
        type(h)(other, h.offset_U1, h.user_names, h.item_names),
        split.train_end_U, split.validation, split.test,
    )  # fmt: skip
    first = make_vectors(split, items, VectorOptions(), 0)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        np.testing.assert_array_equal(first, make_vectors(moved, items, VectorOptions(), 0))
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("suffix", [".npy", ".parquet", ".safetensors"])
def test_a_file_s_vectors_stand_at_their_items(tmp_path: Path, suffix: str) -> None:
    names = ["7", "3", "11"]
    ids, rows = pl.Series(["3", "5", "7", "11"]), np.arange(8, dtype=np.float32).reshape(4, 2)
    items = aligned(names, ids, pl.DataFrame({"text": ["a", "b", "c", "d"]}), "items.csv")
    path = _written(tmp_path / f"vectors{suffix}", ids, rows)
    np.testing.assert_array_equal(read_vectors(path, items), rows[[2, 0, 3]])


def _written(path: Path, ids: pl.Series, rows: np.ndarray) -> Path:
    if path.suffix == ".npy":
        np.save(path, rows)
    elif path.suffix == ".parquet":
        pl.DataFrame({"item": ids, "vector": rows}).write_parquet(path)
    else:
        save_file({"item": ids.cast(pl.Int64).to_numpy(), "vector": rows}, path)
    return path


_ITEMS = aligned(["1", "2"], pl.Series(["1", "2"]), pl.DataFrame({"text": ["a", "b"]}), "items.csv")
_NAN = np.array([[1.0, 2.0], [np.nan, 0.0]], dtype=np.float32)


@pytest.mark.parametrize("suffix", [".npy", ".parquet", ".safetensors"])
@pytest.mark.parametrize(
    ("ids", "rows", "by_id", "by_row"),
    [
        (["1", "2"], _NAN, "item '2' (one of 1) has a number that is not finite", None),
        (["1"], _NAN[:1], "item '2' (one of 1) has no vector", "shape (1, 2); must hold numbers"),
        (["8", "9"], _NAN[[0, 0]], "has none of the histories' items", "all items have the same"),
        (["1", "1"], _NAN[[0, 0]], "item '1' (one of 1) has two rows", "all items have the same"),
    ],
)
def test_wrong_vectors_are_one_line(
    made: tuple[Split, Items], tmp_path: Path, suffix: str, ids: list[str], rows: np.ndarray,
    by_id: str, by_row: str | None,
) -> None:  # fmt: skip
    path = _written(tmp_path / f"v{suffix}", pl.Series(ids), rows)
    with pytest.raises(InputError) as error:
        make_vectors(made[0], _ITEMS, VectorOptions(kind="file", file=str(path)), 0)
    assert "\n" not in str(error.value)
    assert ((suffix == ".npy" and by_row) or by_id) in str(error.value)


@pytest.mark.parametrize("suffix", [".npy", ".parquet", ".safetensors"])
@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([[1.0, -np.inf], [0.0, 1.0]], "item '1' (one of 1) has a number that is not finite"),
        ([[1.0, 2.0], [0.0, 1e300]], "item '2' (one of 1) has a number that is not finite"),
        ([[], []], "all items have the same; use other vectors"),
        ([[3.0, 1.0], [3.0, 1.0]], "all items have the same; use other vectors"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_vectors_that_tell_nothing_or_are_no_float32_are_one_line(
    made: tuple[Split, Items], tmp_path: Path, suffix: str, rows: list[list[float]], said: str
) -> None:
    path = _written(tmp_path / f"v{suffix}", pl.Series(["1", "2"]), np.array(rows))
    with pytest.raises(InputError) as error:
        make_vectors(made[0], _ITEMS, VectorOptions(kind="file", file=str(path)), 0)
    assert "\n" not in str(error.value)
    assert said in str(error.value)


def test_options_without_effect_and_missing_files_are_one_line(tmp_path: Path) -> None:
    for options, said in (
        ({"kind": "svd", "text": "title"}, "text has no effect without kind text"),
        ({"kind": "file"}, "kind file needs file"),
        ({"kind": "word2vec"}, "Input should be"),
        ({"kind": ()}, "at least 1"),
    ):
        with pytest.raises(ValidationError, match=said):
            VectorOptions(**options)
    path = tmp_path / "v.npy"
    with pytest.raises(InputError, match="no such file"):
        read_vectors(path, _ITEMS)
    path.write_bytes(b"\x80\x04no numbers")
    with pytest.raises(InputError, match="cannot be read as numbers"):
        read_vectors(path, _ITEMS)
    with pytest.raises(InputError, match=r"must be in a \.npy"):
        read_vectors(Path(__file__), _ITEMS)


def test_lightgcn_descends_its_loss_as_a_dense_graph_does(made: tuple[Split, Items]) -> None:
    """One step of one batch equals Adam's on the gradient through dense matrices."""
    split = made[0]
    options = LightGCN(layers=2, epochs=1, batch=10**6, negatives=16)
    matrix_UV = train_matrix(split).toarray()
    U, V = matrix_UV.shape
    graph_XX = np.zeros((U + V, U + V))
    graph_XX[:U, U:], graph_XX[U:, :U] = matrix_UV, matrix_UV.T
    root_X = graph_XX.sum(1).clip(1) ** -0.5
    graph_XX = torch.from_numpy(graph_XX * root_X * root_X[:, None])
    rng = np.random.default_rng([3, 0x16C7])
    learnt_XD = torch.from_numpy(0.1 * rng.standard_normal((U + V, 4), np.float32)).double()
    learnt_XD.requires_grad_()
    user_N, item_N = (torch.from_numpy(x) for x in matrix_UV.nonzero())
    rng.permutation(len(user_N))
    drawn_S = torch.from_numpy(rng.integers(V, size=16))

    def smoothed() -> torch.Tensor:
        return (learnt_XD + graph_XX @ learnt_XD + graph_XX @ graph_XX @ learnt_XD) / 3

    optimizer = torch.optim.Adam([learnt_XD], lr=options.learning_rate)
    user_VD, item_VD = smoothed().split([U, V])
    unit_U, unit_V = (torch.nn.functional.normalize(x) for x in (user_VD, item_VD))
    score_NV = unit_U[user_N] @ unit_V.T / options.temperature
    own_N1 = score_NV.gather(1, item_N[:, None])
    is_own_NS = item_N[:, None] == drawn_S
    all_N = torch.cat([own_N1, score_NV[:, drawn_S].masked_fill(is_own_NS, -torch.inf)], 1)
    squares_N = (user_VD[user_N] ** 2).sum(1) + (item_VD[item_N] ** 2).sum(1)
    loss = (all_N.logsumexp(1) - own_N1[:, 0]).mean() + options.weight_decay * squares_N.mean()
    loss.backward()
    optimizer.step()
    wanted_VD = smoothed()[U:].detach().numpy() * (matrix_UV.sum(0) > 0)[:, None]
    np.testing.assert_allclose(train_lightgcn(split, 4, options, 3), wanted_VD, atol=2e-4)


@pytest.mark.parametrize(
    "options",
    [VectorOptions(size=8), VectorOptions(kind="lightgcn", size=8)],
    ids=lambda x: x.kind[0],
)
def test_what_follows_is_near_in_held_out_pairs_and_a_permutation_is_not(
    made: tuple[Split, Items], options: VectorOptions
) -> None:
    split, items = made
    assert neighbours_signal(split, make_vectors(split, items, options, 0))[1] > 5


def test_vectors_that_were_drawn_tell_nothing_of_what_follows(made: tuple[Split, Items]) -> None:
    V = made[0].histories.n_items
    drawn = (np.random.default_rng(seed).standard_normal((V, 8)) for seed in range(60))
    z = [neighbours_signal(made[0], drawn_VD)[1] for drawn_VD in drawn]
    assert np.std(z) == pytest.approx(1, abs=4 / 120**0.5)
    assert abs(np.mean(z)) < 4 / 60**0.5


def test_controls_keep_nothing_but_the_shape_or_the_values() -> None:
    vector_VD = np.random.default_rng(0).standard_normal((300, 8)).astype(np.float32)
    assert controlled(vector_VD, None, 0) is vector_VD
    assert not controlled(vector_VD, "zeros", 0).any()
    shuffled_VD, noise_VD = (controlled(vector_VD, x, 0) for x in ("shuffled", "noise"))
    assert sorted(map(tuple, shuffled_VD)) == sorted(map(tuple, vector_VD))
    assert (shuffled_VD == vector_VD).all(1).sum() < 10  # 1 expected by chance
    for other_VD in (shuffled_VD, noise_VD):
        assert abs((other_VD * vector_VD).mean()) < 5 / vector_VD.size**0.5
    assert (controlled(vector_VD, "noise", 1) != noise_VD).all()
