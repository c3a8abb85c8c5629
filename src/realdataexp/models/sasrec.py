"""SASRec: self-attentive sequential recommendation (Kang & McAuley, arXiv 1808.09781)."""

from __future__ import annotations

from torch import Tensor, nn

from realdataexp.models.batch import FeatureSchema
from realdataexp.models.sequence import CausalEncoder, Items, SequenceModel


class SASRec(SequenceModel):
    """A causal transformer over items' embeddings; a score is an inner product with an item's.

    Trained with the full softmax over the catalogue, which makes it stronger than with the paper's
    sampled binary loss (Klenitskiy & Vasilev, arXiv 2309.07602).
    """

    def __init__(
        self,
        schema: FeatureSchema,
        n_outputs: int = 1,
        *,
        width: int = 64,
        n_layers: int = 2,
        n_heads: int = 2,
        dropout: float = 0.3,
        longest: int = 50,
    ) -> None:
        super().__init__(schema, n_outputs)
        self.longest = longest
        self.embedding = nn.Embedding(schema.video.n_ids, width)
        nn.init.normal_(self.embedding.weight, std=0.02)
        self.encoder = CausalEncoder(width, n_layers, n_heads, dropout, longest)

    def embed(self, items: Items) -> Tensor:
        """The sum of the embeddings of an item's categories."""
        return (self.embedding(items["cat"]) * items["weight"].unsqueeze(-1)).sum(-2)

    def encode(self, item_BTE: Tensor) -> Tensor:
        """See SequenceModel."""
        return self.encoder(item_BTE)

    def score(self, hidden_BE: Tensor, items: Items) -> Tensor:
        """See SequenceModel."""
        return (self.embed(items) * hidden_BE.unsqueeze(1)).sum(-1)

    def score_all(self, hidden_BE: Tensor, catalogue: Items) -> Tensor:
        """See SequenceModel."""
        return hidden_BE @ self.embed(catalogue).T
