"""SASRec: self-attentive sequential recommendation (Kang & McAuley, arXiv 1808.09781)."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator
from torch import Tensor

from realdataexp.models.batch import FeatureSchema
from realdataexp.models.sequence import CausalEncoder, ItemScores
from realdataexp.options import Count, Depth, Options, Width


class SASRecParams(Options):
    """Options of SASRec."""

    width: Width = Field(64, description="numbers of an item's embedding and of a hidden state")
    n_layers: Depth = Field(2, description="layers of the transformer")
    n_heads: Width = Field(2, description="heads of each layer; they share the width out")
    dropout: float = Field(0.3, ge=0, lt=1, description="share of activations left out in training")
    longest: Width = Field(50, description="items of a history that are seen, the latest")
    negatives: Count | None = Field(
        None,
        description="other items that a training step draws for the softmax; null: all items",
    )

    @model_validator(mode="after")
    def _heads_share_width(self) -> SASRecParams:
        if self.width % self.n_heads:
            raise ValueError(f"width = {self.width} must be a multiple of n_heads = {self.n_heads}")
        return self


class SASRec(ItemScores):
    """A causal transformer over items' embeddings; a score is an inner product with an item's.

    Trained with the softmax over the catalogue, which makes it stronger than with the paper's
    sampled binary loss (Klenitskiy & Vasilev, arXiv 2309.07602).
    """

    Params = SASRecParams

    def __init__(self, schema: FeatureSchema, n_outputs: int = 1, **params: Any) -> None:
        options = SASRecParams(**params)
        super().__init__(schema, n_outputs, options.width, options.negatives)
        self.longest = options.longest
        self.encoder = CausalEncoder(
            options.width, options.n_layers, options.n_heads, options.dropout, options.longest
        )

    def encode(self, item_BTE: Tensor) -> Tensor:
        """See SequenceModel."""
        return self.encoder(item_BTE)
