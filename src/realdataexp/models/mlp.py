"""The multilayer perceptron, S of them at once.

Axes: S stacked networks, B visits, C candidates, O outputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field
from torch import Tensor

from realdataexp.models.batch import Batch, FeatureSchema
from realdataexp.models.layers import DeepParams, SplitLayer, Tower
from realdataexp.options import Width, check


class MLPParams(DeepParams):
    """`model_params` of the model MLP."""

    embedding_dim: Width | None = Field(
        None, description="size of a category's embedding; null: one-hot"
    )


class MLP:
    """ReLU layers over a user's and a video's features, dropout behind each hidden layer.

    Categorical features are one-hot or embedded; with ``normalization: layer`` each hidden layer
    is LayerNorm, ReLU, dropout. Parameters: as of ``SplitLayer`` and ``Tower``.
    """

    Params = MLPParams

    def __init__(
        self, schema: FeatureSchema, n_outputs: int, params: Mapping[str, Any], where: str
    ) -> None:
        self.schema = schema
        self.options = check(self.Params, params, where)
        self.widths = [*self.options.hidden_layers, n_outputs]
        self.first = SplitLayer(schema, self.widths[0], self.options.embedding_dim)
        self.tower = Tower(self.widths, self.options, activates_input=True)

    @property
    def floats_per_row(self) -> int:
        """About how many activations one row needs."""
        return self.first.floats_per_row + self.tower.floats_per_row

    def init(self, key: Tensor) -> dict[str, Tensor]:
        """Weights and biases U(-1, 1) / sqrt(fan-in), as torch.nn.Linear; embeddings N(0, 1)."""
        return self.first.init(key) | self.tower.init(key)

    def forward(
        self, params: Mapping[str, Tensor], batch: Batch, dropout_key_S: Tensor | None
    ) -> Tensor:
        """Raw outputs of shape S, B, C, O."""
        h_SNH = self.first.forward(params, batch)
        return self.tower.forward(params, h_SNH, dropout_key_S).view(*batch.shape, -1)
