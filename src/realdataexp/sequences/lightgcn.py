"""LightGCN: vectors of users and items, smoothed over the graph of who had what.

He et al., arXiv 2002.02126. A vector is the mean over layers 0 to L of A^l E (equation 8), where A
is the adjacency of users and items, each entry over the root of both ends' degrees (equation 7),
and E is all that is learnt. The paper's BPR compares a pair with one negative; here a softmax
compares it with negatives that the pairs of a batch share, so that fewer batches do.

Axes: U users, V items, X both, D numbers of a vector, B pairs of a batch, S negatives.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor
from torch.nn import functional as F

from realdataexp.sequences.counting import train_matrix
from realdataexp.sequences.histories import Split
from realdataexp.sequences.item_options import LightGCN

_START = 0.1  # standard deviation of what is learnt, at first


def train_lightgcn(split: Split, size: int, options: LightGCN, seed: int) -> np.ndarray:
    """The items' vectors: float32 V, D; 0 for items that training never saw.

    The bits are the same whatever the number of threads, under `device.own_arithmetic`.
    """
    matrix_UV = train_matrix(split)
    U, V = matrix_UV.shape
    graph_XX = _graph(matrix_UV)
    rng = np.random.default_rng([seed, 0x16C7])
    learnt_XD = torch.from_numpy(rng.standard_normal((U + V, size), np.float32) * _START)
    optimizer = torch.optim.Adam([learnt_XD], lr=options.learning_rate)
    user_N, item_N = (torch.from_numpy(x.astype(np.int64)) for x in matrix_UV.nonzero())
    for _ in range(options.epochs):
        order_N = torch.from_numpy(rng.permutation(len(user_N)))
        for pair_B in order_N.split(options.batch):
            negative_S = torch.from_numpy(rng.integers(V, size=min(options.negatives, V)))
            vector_XD = _smoothed(graph_XX, learnt_XD, options.layers).requires_grad_()
            loss = _loss(vector_XD, user_N[pair_B], U + item_N[pair_B], U + negative_S, options)
            (slope_XD,) = torch.autograd.grad(loss, vector_XD)
            # smoothing is linear and symmetric, so it is its own transpose
            learnt_XD.grad = _smoothed(graph_XX, slope_XD, options.layers)
            optimizer.step()
    vector_VD = _smoothed(graph_XX, learnt_XD, options.layers)[U:].numpy()
    return vector_VD * (matrix_UV.sum(0) > 0)[:, None]


def _graph(matrix_UV: sp.csr_array) -> Tensor:
    """A: sparse, X, X."""
    both_XX = sp.block_array([[None, matrix_UV], [matrix_UV.T, None]]).tocsr()
    root_X = sp.diags_array(1 / np.sqrt(np.maximum(both_XX.sum(1), 1)))
    graph_XX = (root_X @ both_XX @ root_X).tocsr().tocoo().astype(np.float32)
    place_2N = torch.from_numpy(np.stack(graph_XX.coords).astype(np.int64))
    weight_N, shape = torch.from_numpy(graph_XX.data), graph_XX.shape
    return torch.sparse_coo_tensor(place_2N, weight_N, shape, check_invariants=False).coalesce()


def _smoothed(graph_XX: Tensor, x_XD: Tensor, n_layers: int) -> Tensor:
    """The mean of A^l x over l = 0 to the last layer."""
    total_XD = x_XD.clone()
    for _ in range(n_layers):
        x_XD = graph_XX @ x_XD
        total_XD += x_XD
    return total_XD / (n_layers + 1)


def _loss(
    vector_XD: Tensor, user_B: Tensor, item_B: Tensor, negative_S: Tensor, options: LightGCN
) -> Tensor:
    """Minus the mean log of a pair's share among itself and the negatives."""
    user_BD, item_BD, other_SD = vector_XD[user_B], vector_XD[item_B], vector_XD[negative_S]
    decay = options.weight_decay * (user_BD.square().sum(1) + item_BD.square().sum(1)).mean()
    user_BD = F.normalize(user_BD) / options.temperature
    own_B1 = (user_BD * F.normalize(item_BD)).sum(1, keepdim=True)
    other_BS = user_BD @ F.normalize(other_SD).T
    other_BS = other_BS.masked_fill(item_B.unsqueeze(1) == negative_S, -torch.inf)
    return (torch.cat([own_B1, other_BS], 1).logsumexp(1) - own_B1.squeeze(1)).mean() + decay
