"""Linear regression, and logistic regression under the loss BCE, S of them at once.

Axes: S stacked networks, B visits, C candidates, O outputs.
"""

from __future__ import annotations

from torch import Tensor

from realdataexp.models.base import StackedModel, Tensors
from realdataexp.models.batch import Batch, FeatureSchema
from realdataexp.models.layers import SplitLayer
from realdataexp.options import Options


class LinearParams(Options):
    """`model_params` of the model Linear: there are none."""


class Linear(StackedModel):
    """One linear layer: raw = x W + b, with x the numbers and the one-hot categories of a row.

    A multi-hot feature has a one in the column of each of its entries. It has no settings of its
    own; ridge regression is the label's ``weight_decay``. Parameters: as of ``SplitLayer``.
    """

    Params = LinearParams

    def build(self, schema: FeatureSchema, n_outputs: int, where: str) -> None:
        """See StackedModel."""
        self.layer = SplitLayer(schema, n_outputs, embedding_dim=None)
        self.parts = [("", self.layer)]

    def forward(self, params: Tensors, batch: Batch, dropout_key_S: Tensor | None) -> Tensor:
        """See StackedModel; nothing is dropped."""
        return self.layer.forward(params, batch).view(*batch.shape, -1)
