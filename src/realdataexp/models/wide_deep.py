"""Wide & Deep (Cheng et al. 2016, arXiv 1606.07792), S of them at once.

Axes: S stacked networks, N = visits x candidates, K category slots, P
crossed pairs, O outputs.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field, field_validator
from torch import Tensor

from realdataexp import draws
from realdataexp.errors import InputError
from realdataexp.models.base import StackedModel, Tensors, nest, within
from realdataexp.models.batch import Batch, FeatureSchema
from realdataexp.models.layers import DeepParams, SplitLayer, Tower, bag, start_uniform, to_rows
from realdataexp.options import Count, Names, Width, repeated


class WideDeepParams(DeepParams):
    """`model_params` of the model WideDeep."""

    embedding_dim: Width = Field(8, description="size of a category's embedding, deep part")
    crosses: Annotated[tuple[Names, ...], Field(strict=False)] = Field(
        (), description="pairs of categorical features whose combinations the wide part has"
    )
    cross_buckets: Count = Field(
        1000, description="columns that the combinations of one pair are hashed into"
    )

    @field_validator("crosses")
    @classmethod
    def _pairs(cls, crosses: tuple[tuple[str, ...], ...]) -> tuple[tuple[str, ...], ...]:
        for pair in crosses:
            if len(pair) != 2 or pair[0] == pair[1]:
                raise ValueError(f"[{', '.join(pair)}] must be two different features")
        if twice := repeated([" and ".join(sorted(pair)) for pair in crosses]):
            raise ValueError(f"each pair once: remove the second {', '.join(twice)}")
        return crosses

    def idle(self) -> dict[str, str]:
        """The settings that act on nothing here, and what they would act on."""
        return super().idle() | ({} if self.crosses else {"cross_buckets": "crosses"})


class WideDeep(StackedModel):
    """The sum of a linear model that memorises and a network that generalises.

    raw = [x, phi(x)] W_wide + b_wide + MLP(x). The wide part is linear in the numbers, the one-hot
    categories, and the cross-products phi(x): one-hot columns of each pair of categories of the
    features in ``crosses``. A pair is hashed into one of ``cross_buckets`` columns; of multi-hot
    features each entry is paired with each. The deep part is an MLP over the numbers and
    embeddings of ``embedding_dim``. Both are trained together, by one optimizer.

    Parameters: ``wide.`` as of ``SplitLayer``; ``wide.cross`` P x buckets, O; ``deep.`` as of
    ``SplitLayer`` and ``Tower``.
    """

    Params = WideDeepParams
    options: WideDeepParams

    def build(self, schema: FeatureSchema, n_outputs: int, where: str) -> None:
        """See StackedModel.

        Raises:
            InputError: a crossed feature is no categorical feature of the run.
        """
        widths = [*self.options.hidden_layers, n_outputs]
        self.wide = SplitLayer(schema, n_outputs, embedding_dim=None)
        self.first = SplitLayer(schema, widths[0], self.options.embedding_dim)
        self.tower = Tower(widths, self.options, activates_input=True)
        self.parts = [("wide", self.wide), ("deep", self.first), ("deep", self.tower)]
        # a field's slots in the joined row: the user's, then the video's
        n, slots = schema.user.n_slots, {x: slice(a, b) for x, a, b in schema.user.fields}
        slots |= {x: slice(a + n, b + n) for x, a, b in schema.video.fields}
        for name in [name for pair in self.options.crosses for name in pair]:
            if name not in slots:
                raise InputError(
                    f"{where}.crosses: {name!r} is no categorical feature of this run; "
                    f"there is: {', '.join(slots) or 'none'}"
                )
        self.crossed_slots = [(slots[a], slots[b]) for a, b in self.options.crosses]

    @property
    def floats_per_row(self) -> int:
        """See StackedModel; an id counts as two."""
        n_crossed = sum((a.stop - a.start) * (b.stop - b.start) for a, b in self.crossed_slots)
        return super().floats_per_row + 3 * n_crossed

    def init(self, key: Tensor) -> dict[str, Tensor]:
        """See StackedModel; of the cross-products U(-1, 1) / sqrt(pairs)."""
        wide = self.wide.init(draws.key(0, "wide", key))
        if n := len(self.options.crosses):
            shape = (n * self.options.cross_buckets, self.n_outputs)
            wide["cross"] = start_uniform(key, "cross", shape, n)
        deep_key = draws.key(0, "deep", key)
        deep = self.first.init(deep_key) | self.tower.init(deep_key)
        return nest("wide", wide) | nest("deep", deep)

    def forward(self, params: Tensors, batch: Batch, dropout_key_S: Tensor | None) -> Tensor:
        """See StackedModel."""
        wide, deep = within("wide", params), within("deep", params)
        h_SNH = self.first.forward(deep, batch)
        raw_SNO = self.wide.forward(wide, batch) + self.tower.forward(deep, h_SNH, dropout_key_S)
        if self.options.crosses:
            raw_SNO = raw_SNO + bag(wide["cross"], *self._crossed(batch))
        return raw_SNO.view(*batch.shape, -1)

    def _crossed(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Ids and weights of each row's crossed slots: two of S, N, K."""
        user, video, C = batch.side("user"), batch.side("video"), batch.shape[2]
        cat_SNK = torch.cat([to_rows(user.cat, C), video.cat], dim=-1)
        weight_SNK = torch.cat([to_rows(user.weight, C), video.weight], dim=-1)
        ids, weights, n = [], [], self.options.cross_buckets
        for pair, slots in enumerate(self.crossed_slots):
            hash_SNKK = draws.key(0, "cross", *_each_with_each(cat_SNK, *slots))
            ids.append((hash_SNKK % n + pair * n).flatten(2))
            left_SNK1, right_SN1K = _each_with_each(weight_SNK, *slots)
            weights.append((left_SNK1 * right_SN1K).flatten(2))
        return torch.cat(ids, dim=-1), torch.cat(weights, dim=-1)


def _each_with_each(x_SNK: Tensor, left: slice, right: slice) -> tuple[Tensor, Tensor]:
    """Two features' slots, which broadcast to all pairs: S, N, K, 1 and S, N, 1, K."""
    return x_SNK[..., left].unsqueeze(-1), x_SNK[..., right].unsqueeze(-2)
