"""A model that sees some of the features only.

Axes: S stacked networks, B visits, C candidates, O outputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from realdataexp.models.base import Batch, FeatureSchema, StackedModel, shared_of


class Selecting:
    """A model of ``schema.select(names)``, asked with inputs of the whole schema."""

    def __init__(self, model: StackedModel, schema: FeatureSchema, names: Sequence[str]) -> None:
        self.model = model
        self._schema, self._names = schema, tuple(names)

    @property
    def floats_per_row(self) -> int:
        """See StackedModel."""
        return self.model.floats_per_row

    def init(self, key: Tensor) -> dict[str, Tensor]:
        """See StackedModel."""
        return self.model.init(key)

    def init_shared(self, key: Tensor) -> dict[str, Tensor]:
        """See models.base.shared_of."""
        return shared_of(self.model, key)

    def forward(
        self, params: Mapping[str, Tensor], batch: Batch, dropout_key_S: Tensor | None
    ) -> Tensor:
        """See StackedModel."""
        return self.model.forward(params, batch.select(self._schema, self._names), dropout_key_S)
