"""GRU4Rec: a recurrent network over a history (Hidasi et al., arXiv 1511.06939)."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from realdataexp.models.batch import FeatureSchema
from realdataexp.models.sequence import ItemScores
from realdataexp.options import Count, Depth, Options, Width


class GRU4RecParams(Options):
    """Options of GRU4Rec."""

    width: Width = Field(64, description="numbers of an item's embedding and of a hidden state")
    n_layers: Depth = Field(1, description="recurrent layers")
    dropout: float = Field(0.3, ge=0, lt=1, description="share of activations left out in training")
    longest: Width = Field(50, description="items of a history that are seen, the latest")
    negatives: Count | None = Field(
        None,
        description="other items that a training step draws for the softmax; null: all items",
    )


class GRU4Rec(ItemScores):
    """Gated recurrent units over items' embeddings; a score is an inner product with an item's.

    Trained with the softmax over the catalogue, not with the paper's losses over a mini-batch.
    """

    Params = GRU4RecParams

    def __init__(self, schema: FeatureSchema, n_outputs: int = 1, **params: Any) -> None:
        options = GRU4RecParams(**params)
        super().__init__(schema, n_outputs, options.width, options.negatives)
        self.longest = options.longest
        self.dropout = nn.Dropout(options.dropout)
        self.layers = nn.ModuleList(_GRU(options.width) for _ in range(options.n_layers))

    def encode(self, item_BTE: Tensor) -> Tensor:
        """See SequenceModel."""
        hidden_BTE = self.dropout(item_BTE)
        for layer in self.layers:
            hidden_BTE = self.dropout(layer(hidden_BTE))
        return hidden_BTE


class _GRU(nn.Module):
    """Cho et al., arXiv 1406.1078; written out, as `torch.func.vmap` has no rule for nn.GRU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.input, self.hidden = nn.Linear(width, 3 * width), nn.Linear(width, 3 * width)

    def forward(self, x_BTE: Tensor) -> Tensor:
        state_BE, states = torch.zeros_like(x_BTE[:, 0]), []
        for reset_BE, update_BE, new_BE in (
            x.chunk(3, dim=-1) for x in self.input(x_BTE).unbind(1)
        ):
            of_reset_BE, of_update_BE, of_new_BE = self.hidden(state_BE).chunk(3, dim=-1)
            reset_BE = (reset_BE + of_reset_BE).sigmoid()
            update_BE = (update_BE + of_update_BE).sigmoid()
            new_BE = (new_BE + reset_BE * of_new_BE).tanh()
            state_BE = new_BE + update_BE * (state_BE - new_BE)  # as wide as it began
            states.append(state_BE)
        return torch.stack(states, dim=1)
