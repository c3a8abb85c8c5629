"""The multilayer perceptron, S of them at once.

Axes: S stacked networks, B visits, C candidates, N = B x C rows, D numerical features, K category
slots, H a layer's width, O outputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from realdataexp import draws
from realdataexp.config import parse_mlp_params
from realdataexp.models.base import Batch, FeatureSchema, SideSchema


class MLP:
    """ReLU layers over a user's and a video's features, dropout behind each hidden layer.

    The first layer is a sum of a user's part, computed once per visit, and a video's part: the
    same function as a layer over the joined row. A categorical feature is one-hot (its columns of
    the first layer's weight are looked up, not multiplied), or an embedding of ``embedding_dim``
    numbers; a multi-hot feature sums the embeddings of its entries.
    """

    def __init__(
        self, schema: FeatureSchema, n_outputs: int, params: Mapping[str, Any], where: str
    ) -> None:
        self.schema = schema
        self.options = parse_mlp_params(params, where)
        self.widths = [*self.options.hidden_layers, n_outputs]

    @property
    def floats_per_row(self) -> int:
        """About how many activations one row needs."""
        return sum(self.widths) + self._n_inputs(self.schema.video)

    def _n_inputs(self, side: SideSchema) -> int:
        """Columns of a side that are multiplied with the first layer's weight."""
        return side.n_numerical + len(side.fields) * (self.options.embedding_dim or 0)

    def init(self, key: Tensor) -> dict[str, Tensor]:
        """Weights and biases U(-1, 1) / sqrt(fan-in), as torch.nn.Linear; embeddings N(0, 1).

        The first layer's fan-in counts a one-hot feature's columns as one: only one is not zero.
        """
        sides = {"user": self.schema.user, "video": self.schema.video}
        one_hot = self.options.embedding_dim is None
        fan_in = sum(self._n_inputs(s) + (s.n_slots if one_hot else 0) for s in sides.values())
        shapes: dict[str, tuple[tuple[int, ...], int]] = {}
        for name, side in sides.items():
            if self._n_inputs(side):
                shapes[f"{name}_weight"] = ((self._n_inputs(side), self.widths[0]), fan_in)
            if side.fields and one_hot:
                shapes[f"{name}_one_hot"] = ((side.n_ids, self.widths[0]), fan_in)
        shapes["bias_0"] = ((self.widths[0],), fan_in)
        for i in range(1, len(self.widths)):
            shapes[f"weight_{i}"] = ((self.widths[i - 1], self.widths[i]), self.widths[i - 1])
            shapes[f"bias_{i}"] = ((self.widths[i],), self.widths[i - 1])
        params = {}
        for name, (shape, fan) in shapes.items():
            n = int(torch.Size(shape).numel())
            u = draws.uniform(draws.key(0, name, key), n).reshape(shape)
            params[name] = ((2.0 * u - 1.0) / max(fan, 1) ** 0.5).to(torch.float32)
        for name, side in sides.items():
            if side.fields and not one_hot:
                shape = (side.n_ids, self.options.embedding_dim or 0)
                n = shape[0] * shape[1]
                u = draws.uniform(draws.key(0, f"{name}_embedding", key), n).reshape(shape)
                normal = torch.special.ndtri(u.clamp(2.0**-53, 1.0 - 2.0**-53))
                params[f"{name}_embedding"] = normal.to(torch.float32)
        return params

    def forward(
        self, params: Mapping[str, Tensor], batch: Batch, dropout_key_S: Tensor | None
    ) -> Tensor:
        """Raw outputs of shape S, B, C, O."""
        S, B, C = batch.shape
        flat = (S, B * C, -1)
        h = self._first_part(
            "video",
            self.schema.video,
            params,
            batch.video_num_SBCD.reshape(flat),
            batch.video_cat_SBCK.reshape(flat),
            batch.video_weight_SBCK.reshape(flat),
        )
        user = self._first_part(
            "user",
            self.schema.user,
            params,
            batch.user_num_SBD,
            batch.user_cat_SBK,
            batch.user_weight_SBK,
        )
        bias = params["bias_0"].unsqueeze(1)
        user = bias.expand(S, B, -1) if user is None else user + bias
        h = user.unsqueeze(2).expand(S, B, C, -1) if h is None else _add(h, user, B, C)
        h = h.reshape(S, B * C, -1)
        for i in range(1, len(self.widths)):
            h = self._activate(h, i, dropout_key_S)
            h = torch.baddbmm(params[f"bias_{i}"].unsqueeze(1), h, params[f"weight_{i}"])
        return h.reshape(S, B, C, -1)

    def _first_part(
        self,
        name: str,
        side: SideSchema,
        params: Mapping[str, Tensor],
        num_SND: Tensor,
        cat_SNK: Tensor,
        weight_SNK: Tensor,
    ) -> Tensor | None:
        """One side's share of the first layer's sum, S, N, H; None where it has no features."""
        n_fields, part = len(side.fields), None
        weight = params.get(f"{name}_weight")
        inputs = [num_SND] if side.n_numerical else []
        if n_fields and self.options.embedding_dim is None:
            part = _bag(params[f"{name}_one_hot"], cat_SNK, weight_SNK)
        elif n_fields and n_fields * side.n_ids <= cat_SNK.shape[1]:
            # fewer categories than rows: multiply each category's embedding once, look up sums
            assert weight is not None
            table = _project(params[f"{name}_embedding"], weight[:, side.n_numerical :], n_fields)
            field_K = [
                f for f, (_, first, end) in enumerate(side.fields) for _ in range(first, end)
            ]
            ids_SNK = cat_SNK * n_fields + cat_SNK.new_tensor(field_K)
            part = _bag(table, ids_SNK, weight_SNK)
            weight = weight[:, : side.n_numerical]
        elif n_fields:
            inputs += [
                _bag(
                    params[f"{name}_embedding"], cat_SNK[..., first:end], weight_SNK[..., first:end]
                )
                for _, first, end in side.fields
            ]
        if inputs:
            assert weight is not None
            x_SND = inputs[0] if len(inputs) == 1 else torch.cat(inputs, dim=-1)
            if part is None:
                part = torch.bmm(x_SND, weight)
            elif torch.is_grad_enabled():
                part = part.baddbmm(x_SND, weight)
            else:
                part = part.baddbmm_(x_SND, weight)  # in place: nothing else holds it
        return part

    def _activate(self, h_SNH: Tensor, layer: int, dropout_key_S: Tensor | None) -> Tensor:
        if dropout_key_S is None:
            # nothing needs the value before the ReLU while scoring
            return h_SNH.relu_() if not torch.is_grad_enabled() else h_SNH.relu()
        h_SNH = h_SNH.relu()
        if self.options.dropout:
            keys_S = draws.key(0, f"layer_{layer}", dropout_key_S)
            shape = (h_SNH.shape[1], h_SNH.shape[2])
            h_SNH = h_SNH * draws.keep_mask(keys_S, shape, self.options.dropout)
        return h_SNH


def _add(video_SNH: Tensor, user_SBH: Tensor, B: int, C: int) -> Tensor:
    """Add each visit's user part to its C candidates' video parts."""
    h = video_SNH.view(video_SNH.shape[0], B, C, -1)
    if torch.is_grad_enabled():
        return h + user_SBH.unsqueeze(2)
    return h.add_(user_SBH.unsqueeze(2))


def _project(table_SVE: Tensor, weight_SDH: Tensor, n_fields: int) -> Tensor:
    """Each category's embedding times each field's part of the first layer: S, V x fields, H."""
    S, V, E = table_SVE.shape
    weight = weight_SDH.reshape(S, n_fields, E, -1).transpose(1, 2).reshape(S, E, -1)
    product = torch.bmm(table_SVE, weight).to(table_SVE.dtype)  # not in a mixed precision
    return product.view(S, V * n_fields, -1)


def _bag(table_SVH: Tensor, cat_SNK: Tensor, weight_SNK: Tensor) -> Tensor:
    """Weighted sums of table rows: S, N, H."""
    S, V, H = table_SVH.shape
    n_slots = cat_SNK.shape[-1]
    start_S = torch.arange(0, S * V, V, dtype=cat_SNK.dtype, device=cat_SNK.device)
    ids_XK = (cat_SNK + start_S.view(S, 1, 1)).reshape(-1, n_slots)
    rows_XH = _Bag.apply(table_SVH.reshape(S * V, H), ids_XK, weight_SNK.reshape(-1, n_slots))
    return rows_XH.view(S, -1, H)


class _Bag(torch.autograd.Function):
    """``embedding_bag`` whose gradient is summed in the rows' order.

    PyTorch's own sums them in an order that depends on what else is in the batch, so that a
    network's last bits would depend on the networks stacked beside it.
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
