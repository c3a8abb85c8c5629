"""The deep learning recommendation model (Naumov et al. 2019, arXiv 1906.00091), S at once.

Axes: S stacked networks, B visits, C candidates, N = B x C rows, F vectors of a row, E their size,
P pairs of them, X = S x N rows of all networks, O outputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from realdataexp import draws
from realdataexp.models.batch import Batch, FeatureSchema
from realdataexp.models.layers import DeepParams, FieldEmbeddings, SplitLayer, Tower, nest, within
from realdataexp.options import Width, Widths, check


class DLRMParams(DeepParams):
    """`model_params` of the model DLRM."""

    embedding_dim: Width = Field(8, description="size of a category's embedding")
    bottom_layers: Widths = Field(
        (32,), description="units of each hidden layer over the numbers; empty: none"
    )

    def idle(self) -> dict[str, str]:
        """The settings that act on nothing here, and what they would act on."""
        return {} if self.bottom_layers else super().idle()


class DLRM:
    """Dot products between the embeddings of all fields and a vector of the numbers.

    v_0 = bottom(numbers) has the size ``embedding_dim`` of the fields' embeddings v_1, v_2, ...;
    raw = top([v_0, all v_i . v_j with i < j]). Both are MLPs, linear at the end; ``bottom_layers``
    are the bottom's hidden layers, ``hidden_layers`` the top's, and dropout and normalization are
    for both. Without numerical features v_0 is a learned vector: its dots are linear terms.

    Parameters: ``user_embedding`` and ``video_embedding`` V, E; ``bottom.`` as of ``SplitLayer``
    and ``Tower``; ``top.`` as of ``Tower``.
    """

    Params = DLRMParams

    def __init__(
        self, schema: FeatureSchema, n_outputs: int, params: Mapping[str, Any], where: str
    ) -> None:
        self.options = check(self.Params, params, where)
        dim = self.options.embedding_dim
        # so that the dot of two embeddings starts with the variance 1
        self.embeddings = FieldEmbeddings(schema, dim, sd=dim**-0.25)
        user, video = (
            replace(side, fields=(), n_ids=0, first_ids=()) for side in (schema.user, schema.video)
        )
        numbers = FeatureSchema(user, video)
        widths = [*self.options.bottom_layers, dim]
        self.first = SplitLayer(numbers, widths[0], embedding_dim=None)
        self.bottom = Tower(widths, self.options, activates_input=True)
        self.n_vectors = 1 + self.embeddings.n_fields
        n_pairs = self.n_vectors * (self.n_vectors - 1) // 2
        widths = [dim + n_pairs, *self.options.hidden_layers, n_outputs]
        self.top = Tower(widths, self.options, activates_input=False)

    @property
    def floats_per_row(self) -> int:
        """About how many activations one row needs."""
        vectors = self.n_vectors * (self.options.embedding_dim + self.n_vectors)
        parts = (self.first, self.bottom, self.top)
        return vectors + self.top.widths[0] + sum(part.floats_per_row for part in parts)

    def init(self, key: Tensor) -> dict[str, Tensor]:
        """As ``SplitLayer`` and ``Tower`` start; embeddings N(0, 1 / sqrt(embedding_dim))."""
        bottom_key = draws.key(0, "bottom", key)
        bottom = self.first.init(bottom_key) | self.bottom.init(bottom_key)
        top = self.top.init(draws.key(0, "top", key))
        return self.embeddings.init(key) | nest("bottom", bottom) | nest("top", top)

    def forward(
        self, params: Mapping[str, Tensor], batch: Batch, dropout_key_S: Tensor | None
    ) -> Tensor:
        """Raw outputs of shape S, B, C, O."""
        bottom = within("bottom", params)
        # masks of its own: the top's layers have the same numbers
        key_S = None if dropout_key_S is None else draws.key(0, "bottom", dropout_key_S)
        dense_SNE = self.bottom.forward(bottom, self.first.forward(bottom, batch), key_S)
        vectors = [dense_SNE, *self.embeddings.forward(params, batch)]
        x_XFE = torch.stack(vectors, dim=2).flatten(0, 1)
        dots_XFF = torch.bmm(x_XFE, x_XFE.transpose(1, 2))
        i_P, j_P = torch.triu_indices(len(vectors), len(vectors), 1, device=dots_XFF.device)
        dots_XP = dots_XFF.flatten(1).index_select(1, i_P * len(vectors) + j_P)
        dots_SNP = dots_XP.view(*dense_SNE.shape[:2], -1)
        x_SNH = torch.cat([dense_SNE, dots_SNP], dim=-1)
        raw_SNO = self.top.forward(within("top", params), x_SNH, dropout_key_S)
        return raw_SNO.view(*batch.shape, -1)
