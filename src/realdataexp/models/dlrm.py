"""The deep learning recommendation model (Naumov et al. 2019, arXiv 1906.00091), S at once.

Axes: S stacked networks, N = visits x candidates, F vectors of a row, E their size, P pairs of
them, X = S x N rows of all networks, O outputs.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from pydantic import Field
from torch import Tensor

from realdataexp import draws
from realdataexp.models.base import StackedModel, Tensors, within
from realdataexp.models.batch import Batch, FeatureSchema
from realdataexp.models.layers import DeepParams, FieldEmbeddings, SplitLayer, Tower
from realdataexp.options import Width, Widths


class DLRMParams(DeepParams):
    """`model_params` of the model DLRM."""

    embedding_dim: Width = Field(8, description="size of a category's embedding")
    bottom_layers: Widths = Field(
        (32,), description="units of each hidden layer over the numbers; empty: none"
    )

    def idle(self) -> dict[str, str]:
        """The settings that act on nothing here, and what they would act on."""
        return {} if self.bottom_layers else super().idle()


class DLRM(StackedModel):
    """Dot products between the embeddings of all fields and a vector of the numbers.

    v_0 = bottom(numbers) has the size ``embedding_dim`` of the fields' embeddings v_1, v_2, ...;
    raw = top([v_0, all v_i . v_j with i < j]). Both are MLPs, linear at the end; ``bottom_layers``
    are the bottom's hidden layers, ``hidden_layers`` the top's, and dropout and normalization are
    for both. Without numerical features v_0 is a learned vector: its dots are linear terms.

    Parameters: ``user_embedding`` and ``video_embedding`` V, E ~ N(0, 1 / sqrt(E)); ``bottom.`` as
    of ``SplitLayer`` and ``Tower``; ``top.`` as of ``Tower``.
    """

    Params = DLRMParams
    options: DLRMParams

    def build(self, schema: FeatureSchema, n_outputs: int, where: str) -> None:
        """See StackedModel."""
        dim = self.options.embedding_dim
        # so that the dot of two embeddings starts with the variance 1
        self.embeddings = FieldEmbeddings(schema, dim, sd=dim**-0.25)
        user, video = (
            replace(side, fields=(), n_ids=0, first_ids=()) for side in (schema.user, schema.video)
        )
        widths = [*self.options.bottom_layers, dim]
        self.first = SplitLayer(FeatureSchema(user, video), widths[0], embedding_dim=None)
        self.bottom = Tower(widths, self.options, activates_input=True)
        self.n_vectors = 1 + self.embeddings.n_fields
        n_pairs = self.n_vectors * (self.n_vectors - 1) // 2
        widths = [dim + n_pairs, *self.options.hidden_layers, n_outputs]
        self.top = Tower(widths, self.options, activates_input=False)
        self.parts = [
            ("", self.embeddings), ("bottom", self.first), ("bottom", self.bottom),
            ("top", self.top),
        ]  # fmt: skip

    @property
    def floats_per_row(self) -> int:
        """See StackedModel; of the vectors also their dots."""
        dots = self.n_vectors**2 + self.top.widths[0]
        return super().floats_per_row + self.options.embedding_dim + dots

    def forward(self, params: Tensors, batch: Batch, dropout_key_S: Tensor | None) -> Tensor:
        """See StackedModel."""
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
