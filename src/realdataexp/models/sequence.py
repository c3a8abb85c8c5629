"""What models of a visitor's history share: a causal encoder, and how a history becomes a score.

A sequence model is a plain module. In the loop it is stacked like any other (see
`outside.ModuleStack`) and judges a slate; by itself it is trained on whole histories, all
positions in one pass, and ranks a whole catalogue.

Axes: B visits or histories, T items of a history (oldest first unless it says otherwise), C
candidates, V items of a catalogue, X any, E width, H heads, O outputs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from realdataexp.models.batch import FeatureSchema
from realdataexp.options import Options

Items = Mapping[str, Tensor]
"""Tensors that describe items, by the names of a schema's inputs after the first underscore:
``num`` X, D; ``cat`` X, K; ``weight`` X, K; ``codes`` X, L; ``vector`` X, D."""


class CausalEncoder(nn.Module):
    """A pre-norm transformer whose every position sees itself and those before.

    Kang & McAuley, arXiv 1808.09781; norms in front as in arXiv 2002.04745. Written out, as
    ``nn.TransformerEncoderLayer`` leaves its parameters out in its fast path, and `torch.func.vmap`
    has no rule for fused attention on CPUs.
    """

    def __init__(
        self, width: int, n_layers: int, n_heads: int, dropout: float, longest: int
    ) -> None:
        super().__init__()
        self.longest = longest
        self.position = nn.Parameter(0.02 * torch.randn(longest, width))
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(_Layer(width, n_heads, dropout) for _ in range(n_layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, item_BTE: Tensor) -> Tensor:
        """Hidden states B, T, E; items after a position change nothing of it."""
        T = item_BTE.shape[1]
        hidden_BTE = self.dropout(item_BTE + self.position[:T])
        is_future_TT = torch.ones(T, T, dtype=torch.bool, device=item_BTE.device).triu(1)
        for layer in self.layers:
            hidden_BTE = layer(hidden_BTE, is_future_TT)
        return self.norm(hidden_BTE)


class _Layer(nn.Module):
    def __init__(self, width: int, n_heads: int, dropout: float) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BTE: Tensor, is_future_TT: Tensor) -> Tensor:
        q, k, v = (
            x.unflatten(-1, (self.n_heads, -1)).transpose(1, 2)
            for x in self.qkv(self.norm_1(x_BTE)).chunk(3, dim=-1)
        )
        weight_BHTT = (q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5
        weight_BHTT = weight_BHTT.masked_fill(is_future_TT, -torch.inf).softmax(-1)
        mixed_BTE = (self.dropout(weight_BHTT) @ v).transpose(1, 2).flatten(2)
        x_BTE = x_BTE + self.dropout(self.out(mixed_BTE))
        up = F.gelu(self.up(self.norm_2(x_BTE)))
        return x_BTE + self.dropout(self.down(up))


class SequenceModel(nn.Module):
    """A model that encodes a history and scores items against what comes next.

    A subclass defines ``embed``, ``encode`` and ``score``, or what replaces them; its constructor
    takes ``(schema, n_outputs, **params)``, whose options are ``Params``. ``inputs`` are the
    tensors that it wants in the loop, ``needs`` those it cannot do without.
    """

    Params: ClassVar[type[Options]]
    is_shared: ClassVar[bool] = False
    needs: ClassVar[tuple[str, ...]] = ("history_mask", "video_cat")
    inputs: tuple[str, ...]
    longest: int

    def __init__(self, schema: FeatureSchema, n_outputs: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(n_outputs))
        self.bias = nn.Parameter(torch.zeros(n_outputs))
        of_history = [x for x in schema.inputs if x.startswith("history_")]
        of_video = [x for x in schema.inputs if x.startswith("video_")]
        self.inputs = (*of_history, *of_video)

    def embed(self, items: Items) -> Tensor:
        """What the encoder sees of items: X, E."""
        raise NotImplementedError

    def encode(self, item_BTE: Tensor) -> Tensor:
        """Hidden states of all positions, each of the items up to it: B, T, E."""
        raise NotImplementedError

    def score(self, hidden_BE: Tensor, items: Items) -> Tensor:
        """How likely each of some items of each history is next, as logits: B, C."""
        raise NotImplementedError

    def score_all(self, hidden_BE: Tensor, catalogue: Items) -> Tensor:
        """The same of all items of a catalogue: B, V."""
        raise NotImplementedError

    def losses(self, hidden_XE: Tensor, target_X: Tensor, catalogue: Items) -> Tensor:
        """The negative log-likelihood of the items that came: X."""
        return F.cross_entropy(self.score_all(hidden_XE, catalogue), target_X, reduction="none")

    def forward(self, shown: Mapping[str, Tensor]) -> Tensor:
        """Raw outputs B, C, O for a slate, in the loop; the history's latest item comes first."""
        mask_BT = shown["history_mask"] > 0
        n_B1 = mask_BT.sum(1, keepdim=True)
        place_T = torch.arange(mask_BT.shape[1], device=mask_BT.device)
        # oldest first, then padding, which is never looked at
        order_BT = torch.where(place_T < n_B1, n_B1 - 1 - place_T, place_T)
        history = {
            name.partition("_")[2]: x.gather(
                1, order_BT.view(*order_BT.shape, *[1] * (x.dim() - 2)).expand_as(x)
            )
            for name, x in shown.items()
            if name.startswith("history_") and name != "history_mask"
        }
        hidden_BTE = self.encode(self.embed(history))
        last_B11 = (n_B1 - 1).clamp_min(0).unsqueeze(-1).expand(-1, -1, hidden_BTE.shape[-1])
        hidden_BE = hidden_BTE.gather(1, last_B11).squeeze(1) * (n_B1 > 0)
        video = {k.partition("_")[2]: x for k, x in shown.items() if k.startswith("video_")}
        return self.score(hidden_BE, video).unsqueeze(-1) * self.scale + self.bias


class ItemScores(SequenceModel):
    """A sequence model with an embedding of every item; a score is an inner product with it."""

    def __init__(
        self, schema: FeatureSchema, n_outputs: int, width: int, negatives: int | None
    ) -> None:
        super().__init__(schema, n_outputs)
        self.negatives = negatives
        self.embedding = nn.Embedding(schema.video.n_ids, width)
        nn.init.normal_(self.embedding.weight, std=0.02)

    def embed(self, items: Items) -> Tensor:
        """The sum of the embeddings of an item's categories."""
        return (self.embedding(items["cat"]) * items["weight"].unsqueeze(-1)).sum(-2)

    def score(self, hidden_BE: Tensor, items: Items) -> Tensor:
        """See SequenceModel."""
        return (self.embed(items) * hidden_BE.unsqueeze(1)).sum(-1)

    def score_all(self, hidden_BE: Tensor, catalogue: Items) -> Tensor:
        """See SequenceModel."""
        return hidden_BE @ self.embed(catalogue).T

    def losses(self, hidden_XE: Tensor, target_X: Tensor, catalogue: Items) -> Tensor:
        """See SequenceModel; by a sample of items, the sum over all others is scaled up from it.

        So it is the sampled softmax with the logQ correction of uniform draws (Bengio & Senecal,
        2008; Yi et al., RecSys 2019).
        """
        n_items = len(catalogue["cat"])
        if self.negatives is None or self.negatives >= n_items - 1:
            return super().losses(hidden_XE, target_X, catalogue)
        drawn_M = torch.randperm(n_items, device=target_X.device)[: self.negatives]
        logit_XM = self.score_all(hidden_XE, {k: x[drawn_M] for k, x in catalogue.items()})
        is_target_XM = drawn_M == target_X.unsqueeze(1)
        logit_XM = logit_XM.masked_fill(is_target_XM, -torch.inf)
        n_X = (self.negatives - is_target_XM.sum(1)).clamp_min(1)
        rest_X = logit_XM.logsumexp(1) + (math.log(n_items - 1) - n_X.log())
        own_X = (self.embed({k: x[target_X] for k, x in catalogue.items()}) * hidden_XE).sum(-1)
        return torch.logaddexp(rest_X, own_X) - own_X
