"""Vectors of items: of what they come with in histories, of what their table says, or given.

Axes: V items, D numbers of a vector, X rows or columns of a matrix, K of its singular values.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import scipy.sparse as sp
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file

from realdataexp.data.csv_files import require_file
from realdataexp.device import own_arithmetic
from realdataexp.errors import InputError, did_you_mean
from realdataexp.sequences.formats import read_table
from realdataexp.sequences.histories import Split
from realdataexp.sequences.item_options import VectorOptions
from realdataexp.sequences.items import Items, aligned
from realdataexp.sequences.lightgcn import train_lightgcn
from realdataexp.sequences.markov import pair_counts

_WINDOW, _DECAY = 10, 0.7  # of what comes together, as in Markov's defaults
_PERMUTATIONS, _N_PAIRS = 200, 3000
_ROUNDS, _MORE = 16, 32  # of the power iteration, and vectors beyond those wanted


def make_vectors(
    split: Split,
    items: Items,
    options: VectorOptions,
    seed: int,
    at: Callable[[str], Path] = Path,
) -> np.ndarray:
    """Vectors of all items: float32 V, D, fitted on nothing but ``split.is_train_N``.

    ``at`` says where a path of the options is. Those of a kind have mean square 1 over all of
    their numbers, so that kinds that are joined count alike. The bits are the same whatever the
    number of threads.

    Raises:
        InputError: a file or column is wrong or missing, or scikit-learn is not installed.
    """
    made: dict[str, Callable[[], np.ndarray]] = {
        "svd": lambda: cooccurrence(split, options.size),
        "lightgcn": lambda: _unit(train_lightgcn(split, options.size, options.lightgcn, seed)),
        "text": lambda: _tf_idf(items, options),
        "column": lambda: items.vectors(options.column),
        "file": lambda: read_vectors(at(str(options.file)), items),
    }
    with own_arithmetic():
        parts = [scaled(made[kind](), f"vectors of kind {kind}") for kind in options.kind]
    return controlled(np.concatenate(parts, axis=1), options.control, seed)


def controlled(vector_VD: np.ndarray, control: str | None, seed: int) -> np.ndarray:
    """Zeros, the same vectors for other items, or normal numbers, in place of vectors."""
    rng = np.random.default_rng([seed, 0xC027])
    if control == "zeros":
        return np.zeros_like(vector_VD)
    if control == "shuffled":
        return vector_VD[rng.permutation(len(vector_VD))]
    if control == "noise":
        return rng.standard_normal(vector_VD.shape, dtype=np.float32)
    return vector_VD


def scaled(vector_VD: np.ndarray, name: str) -> np.ndarray:
    """Mean square 1 over all numbers: float32; InputError where all items have the same."""
    if not (vector_VD != vector_VD[0]).any():
        raise InputError(f"{name}: all items have the same; use other vectors")
    return (vector_VD / np.sqrt((vector_VD.astype(np.float64) ** 2).mean())).astype(np.float32)


def neighbours_signal(split: Split, vector_VD: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """Whether vectors tell what comes next.

    Returns:
        The mean cosine of held-out pairs in a row, which says whether what follows is alike. And z
        of how well what follows is told by the best-aligned linear map of the item before: with W
        the sum of x y' over training pairs (x, y) of centred vectors, the sum of x' W y over
        held-out ones, over the norm of W, against 200 permutations of the items that have the
        vectors. z is within a few of 0 for vectors that were drawn, though a map fitted to them
        knows pairs that come again: permutations do so as well.
    """
    item_N, user_N = split.histories.item_N, split.histories.user_N
    rng = np.random.default_rng([seed, 0x2E57])
    second = rng.permutation(np.flatnonzero(user_N[1:] == user_N[:-1]) + 1)
    is_train = split.is_train_N[second]
    x_P, y_P = (item_N[second[is_train][:_N_PAIRS] - i] for i in (1, 0))
    x_Q, y_Q = (item_N[second[~is_train][:_N_PAIRS] - i] for i in (1, 0))
    centred_VD = _unit((vector_VD - vector_VD.mean(0)).astype(np.float64))

    def aligned(item_V: np.ndarray) -> float:
        unit_VD = centred_VD[item_V]
        map_DD = unit_VD[x_P].T @ unit_VD[y_P]
        told = ((unit_VD[x_Q] @ map_DD) * unit_VD[y_Q]).sum()
        return float(told / max(float(np.linalg.norm(map_DD)), 1e-9))

    with own_arithmetic():
        chance = [aligned(rng.permutation(len(centred_VD))) for _ in range(_PERMUTATIONS)]
        spread = max(float(np.std(chance)), 1e-9)
        z = (aligned(np.arange(len(centred_VD))) - float(np.mean(chance))) / spread
    unit_VD = _unit(vector_VD.astype(np.float64))
    return float((unit_VD[x_Q] * unit_VD[y_Q]).sum(1).mean()), z


# --- computed ------------------------------------------------------------------------------------


def cooccurrence(split: Split, size: int) -> np.ndarray:
    """SVD of counts, each over the roots of both items' sums and 1: of a normalised adjacency."""
    count_VV = pair_counts(split, _WINDOW, _DECAY)
    both_VV = count_VV + count_VV.T
    scale_VV = sp.diags_array((both_VV.sum(1) + 1.0) ** -0.5)
    return _unit(svd_vectors(sp.csr_array(scale_VV @ both_VV @ scale_VV), size))


def _tf_idf(items: Items, options: VectorOptions) -> np.ndarray:
    """SVD of the TF-IDF of texts' words and of categories (latent semantic analysis)."""
    try:
        from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
    except ModuleNotFoundError as error:
        raise InputError(
            "vectors of kind text need scikit-learn: pip install 'realdataexp[sklearn]'"
        ) from error
    words_of = CountVectorizer().build_analyzer()
    words = [words_of(text) for text in items.texts(options.text)]
    if (column := options.categories) is not None:
        words = [[*own, *(f"{column} {x}" for x in more)]
                 for own, more in zip(words, items.lists(column), strict=True)]  # fmt: skip
    try:
        matrix_VX = TfidfVectorizer(sublinear_tf=True, analyzer=list).fit_transform(words)
    except ValueError as error:  # of an empty vocabulary
        raise InputError(f"vectors of kind text: {error}") from error
    return _unit(svd_vectors(sp.csr_array(matrix_VX), options.size, power=1.0))


def svd_vectors(matrix_VX: sp.csr_array, size: int, power: float = 0.5) -> np.ndarray:
    """Left singular vectors times a power of their values, each with its largest part positive.

    By power iteration of a fixed random start (Halko et al., arXiv 0909.4061, algorithm 4.4), for
    ARPACK's last bits hang on the number of threads.
    """
    K = min(size, *matrix_VX.shape)
    X = matrix_VX.shape[1]
    basis_XK = np.random.default_rng(0x57D).standard_normal((X, min(K + _MORE, X)))
    for _ in range(_ROUNDS):
        basis_XK = _orthonormal(matrix_VX.T @ (matrix_VX @ basis_XK))
    image_VK = torch.from_numpy(np.ascontiguousarray(matrix_VX @ basis_XK))
    left_VK, value_K, _ = torch.linalg.svd(image_VK, full_matrices=False)
    vector_VK = (left_VK * value_K**power)[:, :K].numpy()
    largest_K = np.take_along_axis(vector_VK, np.abs(vector_VK).argmax(0)[None], 0)
    return vector_VK * np.where(largest_K < 0, -1.0, 1.0)


def _orthonormal(x_XK: np.ndarray) -> np.ndarray:
    return torch.linalg.qr(torch.from_numpy(np.ascontiguousarray(x_XK)))[0].numpy()


def _unit(vector_VD: np.ndarray) -> np.ndarray:
    """Of length 1, or 0 where there is nothing of an item."""
    length_V1 = np.sqrt((vector_VD**2).sum(1, keepdims=True))
    return vector_VD / np.where(length_V1 > 1e-9, length_V1, np.inf)


# --- given ---------------------------------------------------------------------------------------


def read_vectors(path: Path, items: Items) -> np.ndarray:
    """Vectors in a file, one for each item: float32 V, D."""
    require_file(path)
    if path.suffix == ".npy":
        return _in_rows(path, items)
    if path.suffix == ".parquet":
        table = read_table(path, ("item", "vector"))
        ids, frame = table.ids("item"), table.frame
    elif path.suffix == ".safetensors":
        frame = _tensors(path)
        ids = frame["item"]
    else:
        raise InputError(f"{path}: vectors must be in a .npy, .parquet or .safetensors file")
    return aligned(items.names, ids, frame, str(path)).vectors("vector")


def _in_rows(path: Path, items: Items) -> np.ndarray:
    """Vectors without ids, in the order of the items' table."""
    if items.row_V is None:
        raise InputError(
            f"{path}: has no ids, and there is no table of items whose order it could have; use "
            "a .parquet or .safetensors file with ids"
        )
    try:
        vector_XD = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as numbers in .npy: {error}") from error
    n = items.n_rows
    if vector_XD.ndim != 2 or len(vector_XD) != n or vector_XD.dtype.kind not in "fiu":
        raise InputError(
            f"{path}: holds {vector_XD.dtype} of the shape {vector_XD.shape}; must hold numbers, "
            f"{n:,} rows of them, as {items.source} has"
        )
    rows = pl.Series(_narrowed(vector_XD), dtype=pl.Array(pl.Float32, vector_XD.shape[1]))
    at_V = pl.Series(items.row_V).set(pl.Series(items.row_V < 0), None)
    return Items(items.names, pl.DataFrame({"vector": rows[at_V]}), str(path)).vectors("vector")


def _tensors(path: Path) -> pl.DataFrame:
    """The two tensors as a table."""
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as safetensors: {error}") from error
    for name in ("item", "vector"):
        if name not in tensors:
            there = did_you_mean(name, tensors) or f"; it has {', '.join(tensors) or 'none'}"
            raise InputError(f"{path}: no tensor {name!r}{there}")
    item_X, vector_XD = tensors["item"], tensors["vector"]
    if item_X.ndim != 1 or item_X.dtype.kind not in "iu" or vector_XD.ndim != 2:
        raise InputError(
            f"{path}: item has the shape {item_X.shape} and type {item_X.dtype}, vector the shape "
            f"{vector_XD.shape}; must be whole numbers, and a row of numbers for each"
        )
    if len(item_X) != len(vector_XD):
        raise InputError(f"{path}: {len(item_X):,} items have {len(vector_XD):,} vectors; mend it")
    return pl.DataFrame({"item": item_X, "vector": _narrowed(vector_XD)})


def _narrowed(x_XD: np.ndarray) -> np.ndarray:
    """As float32; what is too large becomes infinite, which is found later."""
    with np.errstate(over="ignore"):
        return x_XD.astype(np.float32)
