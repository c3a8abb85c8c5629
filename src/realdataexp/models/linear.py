"""Linear regression, and logistic regression under the loss BCE, S of them at once.

Axes: S stacked networks, B visits, C candidates, O outputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from realdataexp.models.batch import Batch, FeatureSchema
from realdataexp.models.layers import SplitLayer
from realdataexp.options import Options, check


class LinearParams(Options):
    """`model_params` of the model Linear: there are none."""


class Linear:
    """One linear layer: raw = x W + b, with x the numbers and the one-hot categories of a row.

    A multi-hot feature has a one in the column of each of its entries. It has no settings of its
    own; ridge regression is the label's ``weight_decay``. Parameters: as of ``SplitLayer``.
    """

    Params = LinearParams

    def __init__(
        self, schema: FeatureSchema, n_outputs: int, params: Mapping[str, Any], where: str
    ) -> None:
        check(self.Params, params, where)
        self.layer = SplitLayer(schema, n_outputs, embedding_dim=None)

    @property
    def floats_per_row(self) -> int:
        """About how many activations one row needs."""
        return self.layer.floats_per_row

    def init(self, key: Tensor) -> dict[str, Tensor]:
        """Weights and bias U(-1, 1) / sqrt(fan-in), as torch.nn.Linear."""
        return self.layer.init(key)

    def forward(
        self, params: Mapping[str, Tensor], batch: Batch, dropout_key_S: Tensor | None
    ) -> Tensor:
        """Raw outputs of shape S, B, C, O; nothing is dropped."""
        return self.layer.forward(params, batch).view(*batch.shape, -1)
