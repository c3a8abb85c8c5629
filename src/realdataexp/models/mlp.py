"""The multilayer perceptron, S of them at once.

Axes: S stacked networks, N = visits x candidates, H a layer's width.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from realdataexp.models.base import StackedModel, Tensors
from realdataexp.models.batch import Batch, FeatureSchema
from realdataexp.models.layers import DeepParams, SplitLayer, Tower
from realdataexp.options import Width


class MLPParams(DeepParams):
    """`model_params` of the model MLP."""

    embedding_dim: Width | None = Field(
        None, description="size of a category's embedding; null: one-hot"
    )


class MLP(StackedModel):
    """ReLU layers over a user's and a video's features, dropout after each hidden layer.

    Categorical features are one-hot or embedded; with ``normalization: layer`` each hidden layer
    is LayerNorm, ReLU, dropout. Parameters: as of ``SplitLayer`` and ``Tower``.
    """

    Params = MLPParams
    options: MLPParams

    def build(self, schema: FeatureSchema, n_outputs: int, where: str) -> None:
        """See StackedModel."""
        widths = [*self.options.hidden_layers, n_outputs]
        self.first = SplitLayer(schema, widths[0], self.options.embedding_dim)
        self.tower = Tower(widths, self.options, activates_input=True)
        self.parts = [("", self.first), ("", self.tower)]

    def forward(self, params: Tensors, batch: Batch, dropout_key_S: Tensor | None) -> Tensor:
        """See StackedModel."""
        h_SNH = self.first.forward(params, batch)
        return self.tower.forward(params, h_SNH, dropout_key_S).view(*batch.shape, -1)
