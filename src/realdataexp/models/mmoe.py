"""Multi-gate Mixture-of-Experts (Ma et al. 2018, KDD, doi 10.1145/3219819.3220007), S at once.

Axes: S stacked networks, B visits, C candidates, N = B x C rows, E experts, Z = S x E experts of
all networks, J labels, H a layer's width, O outputs of all labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from realdataexp import draws
from realdataexp.models.base import StackedModel, Tensors, nest, within
from realdataexp.models.batch import Batch, FeatureSchema
from realdataexp.models.layers import DeepParams, SplitLayer, Tower, dropout_mask
from realdataexp.options import Depth, Options, Text, Width, Widths


class MMoEParams(Options):
    """`model_params` of the model MMoE, which labels share; equal for all labels of a group."""

    n_experts: Depth = Field(4, description="experts that the labels share")
    expert_layers: Annotated[Widths, Field(min_length=1)] = Field(
        (32,), description="units of each layer of an expert"
    )
    tower_layers: Widths = Field((16,), description="units of a label's own hidden layers")
    dropout: float = Field(0.0, ge=0, lt=1, description="share of units dropped in training")
    embedding_dim: Width | None = Field(
        None, description="size of a category's embedding; null: one-hot"
    )
    group: Text = Field("all", description="labels of the same group share one network")


class MMoE(StackedModel):
    """Experts that all labels share; each label mixes them by a gate and has a tower of its own.

    Of a row x, label k gets raw_k = tower_k(sum over experts e of g_ke f_e(x)), with the gate
    g_k = softmax(W_k x + b_k) over the experts (section 4.2; the paper's gates have no b_k).
    An expert f_e is ``expert_layers`` with a ReLU after each, a tower ``tower_layers`` with a
    ReLU after each and a linear layer; dropout follows each ReLU in training.

    Parameters: those of ``SplitLayer`` over x, with the columns of the experts' first layers,
    then of the gates; ``expert.`` as of ``Tower``, each with a leading axis E; ``tower_k.`` as of
    ``Tower``.
    """

    Params = MMoEParams
    is_shared = True
    options: MMoEParams

    def build(self, schema: FeatureSchema, n_outputs: int | Sequence[int], where: str) -> None:
        """See StackedModel; ``n_outputs`` may name the outputs of each of several labels."""
        sizes = [n_outputs] if isinstance(n_outputs, int) else list(n_outputs)
        widths, deep = list(self.options.expert_layers), DeepParams(dropout=self.options.dropout)
        self.n_expert_units = self.options.n_experts * widths[0]
        n_gates = len(sizes) * self.options.n_experts
        self.first = SplitLayer(schema, self.n_expert_units + n_gates, self.options.embedding_dim)
        self.expert = Tower(widths, deep, activates_input=True)
        self.towers = [
            Tower([widths[-1], *self.options.tower_layers, n], deep, activates_input=False)
            for n in sizes
        ]

    @property
    def floats_per_row(self) -> int:
        """See StackedModel; of an expert its output a label, too."""
        E, towers = self.options.n_experts, sum(tower.floats_per_row for tower in self.towers)
        mixed = (1 + len(self.towers)) * self.options.expert_layers[-1]
        return self.first.floats_per_row + E * (self.expert.floats_per_row + mixed) + towers

    def init(self, key: Tensor) -> dict[str, Tensor]:
        """See StackedModel."""
        experts = [
            self.expert.init(draws.key(0, "expert", key, e)) for e in range(self.options.n_experts)
        ]
        params = self.first.init(key)
        params |= nest("expert", {k: torch.stack([x[k] for x in experts]) for k in experts[0]})
        for k, tower in enumerate(self.towers):
            params |= nest(f"tower_{k}", tower.init(draws.key(0, "tower", key, k)))
        return params

    def forward(self, params: Tensors, batch: Batch, dropout_key_S: Tensor | None) -> Tensor:
        """See StackedModel; the outputs of the labels are one after the other."""
        h_SNH = self.first.forward(params, batch)
        S, N, _ = h_SNH.shape
        E, J = self.options.n_experts, len(self.towers)
        logit_SNJE = h_SNH[..., self.n_expert_units :].reshape(S, N, J, E)
        gate_SNJE = torch.softmax(logit_SNJE, dim=-1)
        experts = self._experts(params, h_SNH[..., : self.n_expert_units], dropout_key_S)
        raws = []
        for k, tower in enumerate(self.towers):
            # one after the other: a sum over an inner axis has other last bits at a tensor's end
            mixed_SNH = gate_SNJE[:, :, k, :1] * experts[0]
            for e in range(1, E):
                mixed_SNH = mixed_SNH + gate_SNJE[:, :, k, e : e + 1] * experts[e]
            key_S = None if dropout_key_S is None else draws.key(0, f"tower_{k}", dropout_key_S)
            raws.append(tower.forward(within(f"tower_{k}", params), mixed_SNH, key_S))
        return torch.cat(raws, dim=-1).view(*batch.shape, -1)

    def _experts(
        self, params: Tensors, sums_SNH: Tensor, dropout_key_S: Tensor | None
    ) -> tuple[Tensor, ...]:
        """Each expert's output S, N, H, from the sums of the experts' first layers."""
        S, N, _ = sums_SNH.shape
        E = self.options.n_experts
        h_ZNH = sums_SNH.view(S, N, E, -1).transpose(1, 2).flatten(0, 1)
        key_Z = None
        if dropout_key_S is not None:
            place_E = torch.arange(E, device=h_ZNH.device).view(E, *[1] * (dropout_key_S.dim() - 1))
            key_Z = draws.key(0, "expert", dropout_key_S.unsqueeze(1), place_E).flatten(0, 1)
        stacked = {name: p.flatten(0, 1) for name, p in within("expert", params).items()}
        h_ZNH = self.expert.forward(stacked, h_ZNH, key_Z).relu()
        if key_Z is not None and self.options.dropout:
            key_Z = draws.key(0, "output", key_Z)
            h_ZNH = h_ZNH * dropout_mask(key_Z, h_ZNH, self.options.dropout)
        return h_ZNH.view(S, E, N, -1).unbind(1)
