"""Deep & Cross Network V2 (Wang et al. 2020, arXiv 2008.13535), S of them at once.

Axes: S stacked networks, N = visits x candidates, D a row's numbers and embeddings, O outputs.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from realdataexp.models.base import StackedModel, Tensors
from realdataexp.models.batch import Batch, FeatureSchema
from realdataexp.models.layers import (
    DeepParams,
    FieldEmbeddings,
    Tower,
    dense,
    start_uniform,
    to_rows,
)
from realdataexp.options import Depth, Width


class DCNv2Params(DeepParams):
    """`model_params` of the model DCNv2."""

    embedding_dim: Width = Field(8, description="size of a category's embedding")
    n_cross_layers: Depth = Field(2, description="cross layers; each raises the degree by one")
    rank: Width | None = Field(None, description="rank of a cross layer's matrix; null: full")
    structure: Literal["stacked", "parallel"] = Field(
        "stacked",
        description="whether the hidden layers follow the cross layers or are parallel to them",
    )


class DCNv2(StackedModel):
    """Layers that multiply a row's features with each other, and fully connected ones.

    x_0 is the row: the user's and the video's numbers, then each field's embedding. A cross layer
    is x_{l+1} = x_0 * (x_l W_l + b_l) + x_l, so that x_l holds products of up to l + 1 features;
    with ``rank`` r, W_l = U_l V_l has the factors D, r and r, D. With ``structure: stacked`` the
    fully connected layers follow the cross layers, raw = deep(x_L); with ``parallel`` both
    see the row, raw = deep(x_0) + x_L W, which is the paper's linear layer over both outputs.

    Parameters: ``user_embedding`` and ``video_embedding``; of each cross layer ``cross_weight_l``
    D, D, or ``cross_in_l`` D, r and ``cross_out_l`` r, D, and ``cross_bias_l`` D; those of
    ``Tower``; with ``parallel`` also ``cross_head`` D, O.
    """

    Params = DCNv2Params
    options: DCNv2Params

    def build(self, schema: FeatureSchema, n_outputs: int, where: str) -> None:
        """See StackedModel."""
        self.embeddings = FieldEmbeddings(schema, self.options.embedding_dim)
        self.n_numbers = schema.user.n_numerical + schema.video.n_numerical
        self.n_inputs = self.n_numbers + self.embeddings.floats_per_row
        widths = [self.n_inputs, *self.options.hidden_layers, n_outputs]
        self.tower = Tower(widths, self.options, activates_input=False)
        self.parts = [("", self.embeddings), ("", self.tower)]

    @property
    def floats_per_row(self) -> int:
        """See StackedModel; of a cross layer its factor and its result."""
        inner = 2 * self.n_inputs + (self.options.rank or 0)
        return super().floats_per_row + self.n_numbers + self.options.n_cross_layers * inner

    def init(self, key: Tensor) -> dict[str, Tensor]:
        """See StackedModel; of the cross layers as the tower's."""
        D, rank = self.n_inputs, self.options.rank
        shapes: dict[str, tuple[int, ...]] = {}
        for i in range(self.options.n_cross_layers):
            if rank is None:
                shapes[f"cross_weight_{i}"] = (D, D)
            else:
                shapes |= {f"cross_in_{i}": (D, rank), f"cross_out_{i}": (rank, D)}
            shapes[f"cross_bias_{i}"] = (D,)
        if self.options.structure == "parallel":
            shapes["cross_head"] = (D, self.n_outputs)
        cross = {name: start_uniform(key, name, shape, shape[0]) for name, shape in shapes.items()}
        return self.embeddings.init(key) | cross | self.tower.init(key)

    def forward(self, params: Tensors, batch: Batch, dropout_key_S: Tensor | None) -> Tensor:
        """See StackedModel."""
        numbers = [to_rows(batch.side("user").num, batch.shape[2]), batch.side("video").num]
        start_SND = torch.cat([*numbers, *self.embeddings.forward(params, batch)], dim=-1)
        x_SND = start_SND
        for i in range(self.options.n_cross_layers):
            x_SND = start_SND * self._factor(params, x_SND, i) + x_SND
        if self.options.structure == "stacked":
            raw_SNO = self.tower.forward(params, x_SND, dropout_key_S)
        else:
            deep_SNO = self.tower.forward(params, start_SND, dropout_key_S)
            raw_SNO = deep_SNO + torch.bmm(x_SND, params["cross_head"])
        return raw_SNO.view(*batch.shape, -1)

    def _factor(self, params: Tensors, x_SND: Tensor, i: int) -> Tensor:
        """What a cross layer multiplies the row with: S, N, D."""
        bias = params[f"cross_bias_{i}"]
        if self.options.rank is None:
            return dense(x_SND, params[f"cross_weight_{i}"], bias)
        return dense(torch.bmm(x_SND, params[f"cross_in_{i}"]), params[f"cross_out_{i}"], bias)
