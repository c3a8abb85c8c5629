"""What the stacked networks are built of: embeddings, a first layer over features, a tower.

A part holds no parameters: ``init`` makes one network's starting parameters, and ``forward`` takes
those of all S networks under the same names.

Axes: S stacked networks, B visits, C candidates, N = B x C rows, D numerical features (or inputs),
K category slots, V ids of a side's vocabulary, E an embedding's size, H a layer's width, X looked
up rows of all networks, Y rows of all networks' tables.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import pairwise
from typing import Any, Literal, NamedTuple, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor

from realdataexp import draws
from realdataexp.models.base import Tensors
from realdataexp.models.batch import Batch, FeatureSchema, Side, SideSchema
from realdataexp.options import NestedFaults, Options, Widths, of_value

_MOST_ONE_HOT = 64  # categories; with 4,096 rows and 128 units 400 take four times a look-up's time
_only_shapes = ContextVar("only_shapes", default=False)


class DeepParams(Options):
    """Fully connected hidden layers, as several models have them."""

    hidden_layers: Widths = Field((64, 32), description="units of each hidden layer; empty: none")
    dropout: float = Field(0.0, ge=0, lt=1, description="share of units dropped in training")
    normalization: Literal["none", "layer"] = Field(
        "none", description="layer: a LayerNorm in front of each hidden layer's ReLU"
    )

    def idle(self) -> dict[str, str]:
        """The settings that act on nothing here, and what they would act on."""
        of_layers = ("dropout", "normalization")
        return {} if self.hidden_layers else dict.fromkeys(of_layers, "hidden layers")

    @model_validator(mode="after")
    def _refuse_idle(self) -> Self:
        """Idle settings must be as where none are given: a resolved config lists them all."""
        fields = type(self).model_fields
        faults = [
            ((name,), of_value(getattr(self, name), f"has no effect without {what}: leave it out"))
            for name, what in self.idle().items()
            if getattr(self, name) != fields[name].default
        ]
        if faults:
            raise NestedFaults(faults)
        return self


class SplitLayer:
    """A linear layer over a user's and a video's features.

    It is the sum of a user's part, computed once per visit, and a video's part: the same function
    as a layer over the joined row. A categorical feature is one-hot (its columns of the weight
    are looked up, not multiplied), or an embedding of ``embedding_dim`` numbers; a multi-hot
    feature sums the embeddings of its entries. Without any feature it is its bias.

    Parameters of a side, ``user_`` or ``video_``: ``weight`` D, H (numerical columns, then each
    field's embedding), ``one_hot`` V, H or ``embedding`` V, E. Of both: ``bias_0`` H.
    """

    def __init__(self, schema: FeatureSchema, width: int, embedding_dim: int | None) -> None:
        self.sides = {"user": schema.user, "video": schema.video}
        self.width, self.embedding_dim = width, embedding_dim

    @property
    def floats_per_row(self) -> int:
        """About how many activations one row needs."""
        return self.width + self._n_inputs(self.sides["video"])

    def _n_inputs(self, side: SideSchema) -> int:
        """Columns of a side that are multiplied with the weight."""
        return side.n_numerical + len(side.fields) * (self.embedding_dim or 0)

    def init(self, key: Tensor) -> dict[str, Tensor]:
        """Weights and bias U(-1, 1) / sqrt(fan-in); embeddings N(0, 1).

        The fan-in counts a one-hot feature's columns as one: only one is not zero.
        """
        one_hot, shapes = self.embedding_dim is None, {}
        fan_in = sum(
            self._n_inputs(side) + (side.n_slots if one_hot else 0) for side in self.sides.values()
        )
        for name, side in self.sides.items():
            if n := self._n_inputs(side):
                shapes[f"{name}_weight"] = (n, self.width)
            if side.fields and one_hot:
                shapes[f"{name}_one_hot"] = (side.n_ids, self.width)
        params = {
            name: start_uniform(key, name, shape, fan_in)
            for name, shape in {**shapes, "bias_0": (self.width,)}.items()
        }
        if self.embedding_dim is not None:
            params |= start_embeddings(key, self.sides, self.embedding_dim)
        return params

    def forward(self, params: Tensors, batch: Batch) -> Tensor:
        """The layer's sums S, N, H; while scoring in memory of their own."""
        _, B, C = batch.shape
        user, video = (self._terms(name, params, batch.side(name)) for name in self.sides)
        bias_S1H = params["bias_0"].unsqueeze(1)
        if C == 1 and torch.is_grad_enabled():
            both = _Terms(*(a + b for a, b in zip(user, video, strict=True)))
            return _sum(both, bias_S1H).expand(-1, B, -1)
        user_SBH = _sum(user, bias_S1H).expand(-1, B, -1)
        if not any(video):
            return user_SBH.unsqueeze(2).repeat(1, 1, C, 1).flatten(1, 2)
        video_SBCH = _sum(video).unflatten(1, (B, C))
        user_SB1H, in_place = user_SBH.unsqueeze(2), not torch.is_grad_enabled()
        h_SBCH = video_SBCH.add_(user_SB1H) if in_place else video_SBCH + user_SB1H
        return h_SBCH.flatten(1, 2)

    def _terms(self, name: str, params: Tensors, rows: Side) -> _Terms:
        """One side's share of the sum.

        With no more categories than rows, each category's embedding is multiplied with the layer
        once, and the products are looked up; but where learning has few categories, it multiplies
        them with the rows' one-hot columns, whose gradient costs less than that of a look-up.
        """
        side, cat_SNK, weight_SNK = self.sides[name], rows.cat, rows.weight
        terms, weight_SDH = _Terms([], [], []), params.get(f"{name}_weight")
        if weight_SDH is not None:
            numbers_SDH, embedded_SDH = weight_SDH.tensor_split([side.n_numerical], dim=1)
        is_one_hot, is_small = self.embedding_dim is None, side.n_ids <= cat_SNK.shape[1]
        if side.n_numerical:
            terms.add(rows.num, numbers_SDH)
        if side.fields and (is_one_hot or is_small):
            table_SVH = (
                params[f"{name}_one_hot"]
                if is_one_hot
                else _project(params[f"{name}_embedding"], embedded_SDH, side)
            )
            if is_small and torch.is_grad_enabled() and side.n_ids <= _MOST_ONE_HOT:
                terms.add(one_hot(cat_SNK, weight_SNK, side.n_ids), table_SVH)
            else:
                terms.looked_up.append(bag(table_SVH, cat_SNK, weight_SNK))
        elif side.fields:
            embedded = embed(params[f"{name}_embedding"], side, rows)
            terms.add(torch.cat(embedded, dim=-1), embedded_SDH)
        return terms


class _Terms(NamedTuple):
    """Terms of a sum S, N, H: inputs S, N, D times weights S, D, H, and what was looked up."""

    inputs: list[Tensor]
    weights: list[Tensor]
    looked_up: list[Tensor]

    def add(self, input_SND: Tensor, weight_SDH: Tensor) -> None:
        """One more product."""
        self.inputs.append(input_SND)
        self.weights.append(weight_SDH)


def _sum(terms: _Terms, start: Tensor | None = None) -> Tensor:
    """All terms, added to ``start`` (S, 1, H); without terms it is ``start``."""
    for looked_up in terms.looked_up:
        start = looked_up if start is None else start + looked_up
    if not terms.inputs:
        assert start is not None, "neither terms nor a start"
        return start
    x, weight = (
        parts[0] if len(parts) == 1 else torch.cat(parts, dim=dim)
        for parts, dim in ((terms.inputs, -1), (terms.weights, 1))
    )
    if start is None or not terms.looked_up or torch.is_grad_enabled() or weight.shape[2] == 1:
        return product(x, weight, start)
    return start.baddbmm_(x, weight)  # nothing else holds it


def dropout_mask(key_S: Tensor, h_SNH: Tensor, drop: float) -> Tensor:
    """What units are multiplied with, S, N, H; see draws.keep_mask.

    Args:
        key_S: a key per network; or S, B: per visit, all of whose rows then have the same mask.
        h_SNH: the units, the rows of a visit one after the other.
        drop: probability in [0, 1).
    """
    if key_S.dim() == 1:
        return draws.keep_mask(key_S, h_SNH.shape[1:], drop)
    mask_SBH = draws.keep_mask(key_S, h_SNH.shape[2:], drop)
    return mask_SBH.repeat_interleave(h_SNH.shape[1] // mask_SBH.shape[1], dim=1)


class Tower:
    """Fully connected layers; in front of each: LayerNorm (an option), ReLU, dropout.

    ``widths`` are those of the input and of each layer. The input is the sums of a layer before,
    or, where ``activates_input`` is false, goes into the first layer as it is. Nothing follows
    the last layer. LayerNorm (arXiv 1607.06450) is over a row's units, then scaled and shifted:
    no statistics over rows or networks.

    Parameters of layer i = 1, 2, ...: ``weight_i`` H, H', ``bias_i`` H', and, where its input is
    normalised, ``norm_scale_i`` H and ``norm_shift_i`` H.
    """

    def __init__(
        self, widths: Sequence[int], options: DeepParams, *, activates_input: bool
    ) -> None:
        self.widths, self.options, self.activates_input = list(widths), options, activates_input

    @property
    def floats_per_row(self) -> int:
        """About how many activations one row needs, without the input's."""
        return sum(self.widths[1:])

    def init(self, key: Tensor) -> dict[str, Tensor]:
        """Weights and biases U(-1, 1) / sqrt(fan-in); LayerNorm's scales 1, its shifts 0."""
        params = {}
        for i, (n, width) in enumerate(pairwise(self.widths), 1):
            if self.options.normalization == "layer" and self._is_activated(i):
                params[f"norm_scale_{i}"] = torch.ones(n)
                params[f"norm_shift_{i}"] = torch.zeros(n)
            params[f"weight_{i}"] = start_uniform(key, f"weight_{i}", (n, width), n)
            params[f"bias_{i}"] = start_uniform(key, f"bias_{i}", (width,), n)
        return params

    def forward(self, params: Tensors, h_SNH: Tensor, dropout_key_S: Tensor | None) -> Tensor:
        """The last layer's sums. While scoring, an activated input is overwritten."""
        for i in range(1, len(self.widths)):
            if self._is_activated(i):
                h_SNH = self._activate(params, h_SNH, i, dropout_key_S)
            h_SNH = dense(h_SNH, params[f"weight_{i}"], params[f"bias_{i}"])
        return h_SNH

    def _is_activated(self, layer: int) -> bool:
        return layer > 1 or self.activates_input

    def _activate(
        self, params: Tensors, h_SNH: Tensor, layer: int, dropout_key_S: Tensor | None
    ) -> Tensor:
        if self.options.normalization == "layer":
            scale, shift = params[f"norm_scale_{layer}"], params[f"norm_shift_{layer}"]
            # not addcmul, which rounds a tensor's last elements in another way
            h_SNH = F.layer_norm(h_SNH, h_SNH.shape[-1:]) * scale.unsqueeze(1) + shift.unsqueeze(1)
        if dropout_key_S is None:
            # nothing needs the value before the ReLU while scoring
            return h_SNH.relu_() if not torch.is_grad_enabled() else h_SNH.relu()
        h_SNH = h_SNH.relu()
        if self.options.dropout:
            key_S = draws.key(0, f"layer_{layer}", dropout_key_S)
            h_SNH = h_SNH * dropout_mask(key_S, h_SNH, self.options.dropout)
        return h_SNH


class FieldEmbeddings:
    """A vector for each categorical feature of a row; a multi-hot feature sums its entries'.

    Parameters: ``user_embedding`` and ``video_embedding`` V, E of sides with such features.
    """

    def __init__(self, schema: FeatureSchema, dim: int, sd: float = 1.0) -> None:
        self.sides = {"user": schema.user, "video": schema.video}
        self.dim, self.sd = dim, sd
        self.n_fields = len(schema.user.fields) + len(schema.video.fields)
        self.floats_per_row = self.n_fields * dim

    def init(self, key: Tensor) -> dict[str, Tensor]:
        """Embeddings N(0, sd²)."""
        tables = start_embeddings(key, self.sides, self.dim)
        return {name: table * self.sd for name, table in tables.items()}

    def forward(self, params: Tensors, batch: Batch) -> list[Tensor]:
        """S, N, E for each field of the user, then of the video."""
        vectors = []
        for name, side in self.sides.items():
            if side.fields:
                own = embed(params[f"{name}_embedding"], side, batch.side(name))
                vectors += own if name == "video" else [to_rows(x, batch.shape[2]) for x in own]
        return vectors


def dense(x_SND: Tensor, weight_SDH: Tensor, bias_SH: Tensor) -> Tensor:
    """A linear layer of each network: S, N, H."""
    return product(x_SND, weight_SDH, bias_SH.unsqueeze(1))


def product(x_SND: Tensor, weight_SDH: Tensor, start: Tensor | None) -> Tensor:
    """Each network's inputs times its weights, added to ``start``, which broadcasts: S, N, H."""
    if weight_SDH.shape[2] == 1:
        # a product with one column is three times as slow as with one row
        sums_SN1 = torch.bmm(weight_SDH.mT, x_SND.mT).mT
        return sums_SN1 if start is None else start + sums_SN1
    if start is None:
        return torch.bmm(x_SND, weight_SDH)
    return torch.baddbmm(start, x_SND, weight_SDH)


def to_rows(x_SBX: Tensor, C: int) -> Tensor:
    """What belongs to a visit for each of its C candidates: S, N, X."""
    return x_SBX.unsqueeze(2).expand(-1, -1, C, -1).flatten(1, 2)


@contextmanager
def only_shapes() -> Iterator[None]:
    """While this is open, starting parameters have no numbers: they take no memory and no time.

    Drawing on PyTorch's meta device would do, too, but its arithmetic needs packages whose import
    takes more than a second.
    """
    token = _only_shapes.set(True)
    try:
        yield
    finally:
        _only_shapes.reset(token)


def start_uniform(key: Tensor, name: str, shape: tuple[int, ...], fan_in: int) -> Tensor:
    """U(-1, 1) / sqrt(fan-in), as torch.nn.Linear starts; its own draws for each name."""
    if _only_shapes.get():
        return torch.empty(shape, device="meta")
    u = draws.uniform(draws.key(0, name, key), torch.Size(shape).numel()).reshape(shape)
    return ((2.0 * u - 1.0) / max(fan_in, 1) ** 0.5).to(torch.float32)


def start_embeddings(key: Tensor, sides: Mapping[str, SideSchema], dim: int) -> dict[str, Tensor]:
    """``<side>_embedding`` V, E ~ N(0, 1) of each side with categorical features."""
    params = {}
    for name, side in sides.items():
        if side.fields and _only_shapes.get():
            params[f"{name}_embedding"] = torch.empty((side.n_ids, dim), device="meta")
        elif side.fields:
            u = draws.uniform(draws.key(0, f"{name}_embedding", key), side.n_ids * dim)
            normal = torch.special.ndtri(u.clamp(2.0**-53, 1.0 - 2.0**-53))
            params[f"{name}_embedding"] = normal.reshape(side.n_ids, dim).to(torch.float32)
    return params


def embed(table_SVE: Tensor, side: SideSchema, rows: Side) -> list[Tensor]:
    """Each field's embedding: S, N, E."""
    return [
        bag(table_SVE, rows.cat[..., first:end], rows.weight[..., first:end])
        for _, first, end in side.fields
    ]


def bag(table_SVH: Tensor, cat_SNK: Tensor, weight_SNK: Tensor) -> Tensor:
    """Weighted sums of table rows: S, N, H."""
    S, V, H = table_SVH.shape
    n_slots = cat_SNK.shape[-1]
    start_S = torch.arange(0, S * V, V, dtype=cat_SNK.dtype, device=cat_SNK.device)
    ids_XK = (cat_SNK + start_S.view(S, 1, 1)).reshape(-1, n_slots)
    rows_XH = _Bag.apply(table_SVH.reshape(S * V, H), ids_XK, weight_SNK.reshape(-1, n_slots))
    return rows_XH.view(S, -1, H)


def one_hot(cat_SNK: Tensor, weight_SNK: Tensor, n_ids: int) -> Tensor:
    """One-hot columns of each row, summed over its slots: S, N, V."""
    columns = weight_SNK.new_zeros(*cat_SNK.shape[:2], n_ids)
    return columns.scatter_add_(2, cat_SNK.long(), weight_SNK)


def _project(table_SVE: Tensor, weight_SDH: Tensor, side: SideSchema) -> Tensor:
    """Each category's embedding times its field's part of the first layer: S, V, H."""
    ids, E = pairwise((*side.first_ids, side.n_ids)), table_SVE.shape[2]
    parts = [
        torch.bmm(table_SVE[:, first:end], weight_SDH[:, f * E : (f + 1) * E])
        for f, (first, end) in enumerate(ids)
    ]
    return torch.cat(parts, dim=1).to(table_SVE.dtype)  # not in a mixed precision


class _Bag(torch.autograd.Function):
    """``embedding_bag`` whose gradient is summed in the rows' order.

    PyTorch's own sums them in an order that depends on what else is in the batch, so that a
    network's last bits would depend on the networks stacked with it.
    """

    @staticmethod
    def forward(ctx: Any, table_YH: Tensor, ids_XK: Tensor, weight_XK: Tensor) -> Tensor:
        ctx.save_for_backward(ids_XK, weight_XK)
        ctx.n_rows = table_YH.shape[0]
        return F.embedding_bag(ids_XK, table_YH, mode="sum", per_sample_weights=weight_XK)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        ids_XK, weight_XK = ctx.saved_tensors
        rows_XKH = grads[0].unsqueeze(1) * weight_XK.unsqueeze(2)
        table = torch.ops.aten.embedding_dense_backward(rows_XKH, ids_XK, ctx.n_rows, -1, False)
        return table, None, None
