"""Any torch.nn.Module as a stacked model, through torch.func.

Axes: S stacked networks, B visits, C candidates, N = B x C rows, D numerical features, K category
slots, O outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd

from realdataexp.components import Unfit, reason
from realdataexp.contracts import FLOATS, fit
from realdataexp.errors import InputError
from realdataexp.models.batch import Batch, FeatureSchema
from realdataexp.models.layers import to_rows


class ModuleStack:
    """S copies of a plain module, computed with ``vmap`` over ``functional_call``.

    The module's constructor takes ``(schema, n_outputs, **params)``; its forward takes
    ``num_ND`` (the user's then the video's numerical features) and ``cat_NK`` (the user's then
    the video's category ids, the video's shifted behind the user's; an empty slot of a multi-hot
    feature is ``schema.user.n_ids + schema.video.n_ids``) and returns ``raw_NO``.

    A module with dropout layers or an embedding's ``padding_idx`` is trained network by network,
    each under its own seed, so that its masks do not depend on the other worlds. Layers with
    statistics over the batch are refused: they would let one world's result depend on another's.
    """

    def __init__(
        self,
        module: Callable[..., nn.Module],
        schema: FeatureSchema,
        n_outputs: int,
        params: Mapping[str, Any],
        where: str,
    ) -> None:
        self.schema, self._n_outputs = schema, n_outputs
        name = getattr(module, "__name__", "the module")
        self._build = lambda: module(schema, n_outputs, **params)
        try:
            with torch.random.fork_rng(devices=[]):
                self.module = self._build().to("meta")
        except (TypeError, ValueError) as error:
            raise InputError(
                f"{where} = {dict(params)!r}: refused by {name}: {reason(error)}; its "
                f"constructor takes (schema, n_outputs, **model_params): {where}={{}} gives none"
            ) from error
        names = [name for name, _ in self.module.named_buffers()]
        names += [name for name, m in self.module.named_modules() if isinstance(m, _NormBase)]
        if names:
            raise InputError(
                f"{where}: {name} keeps buffers or batch statistics ({', '.join(names)}); "
                "worlds must not share state: use LayerNorm or parameters instead"
            )
        frozen = [name for name, p in self.module.named_parameters() if not p.requires_grad]
        if frozen:
            raise InputError(
                f"{where}: {name} has parameters without a gradient ({', '.join(frozen)}), but "
                "all of a network's parameters learn: make them constants of forward instead"
            )

        # vmap would share a dropout mask, and forgets an embedding's padding_idx in the gradient
        self._learns_alone = any(
            isinstance(m, _DropoutNd) or getattr(m, "padding_idx", None) is not None
            for m in self.module.modules()
        )

    @property
    def floats_per_row(self) -> int:
        """About how many activations one row needs: the widths of all weights."""
        return sum(p.shape[0] for p in self.module.parameters() if p.dim() > 1) + 1

    def init(self, key: Tensor) -> dict[str, Tensor]:
        """The module's own initialisation, under a seed made from the key."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(key) & (2**63 - 1))
            return {name: p.detach().clone() for name, p in self._build().named_parameters()}

    def forward(
        self, params: Mapping[str, Tensor], batch: Batch, dropout_key_S: Tensor | None
    ) -> Tensor:
        """Raw outputs of shape S, B, C, O."""
        num_SND, cat_SNK = self._rows(batch)
        S, B, C = batch.shape
        self.module.train(dropout_key_S is not None)

        def one(network: Mapping[str, Tensor], num_ND: Tensor, cat_NK: Tensor) -> Tensor:
            raw = functional_call(self.module, dict(network), (num_ND, cat_NK))
            return fit(raw, FLOATS, (len(num_ND), self._n_outputs), "rows, outputs", num_ND)

        if dropout_key_S is None or not self._learns_alone:
            try:
                return vmap(one)(dict(params), num_SND, cat_SNK).view(S, B, C, -1)
            except RuntimeError as error:
                if not str(error).startswith("vmap:"):
                    raise
                raise Unfit(
                    f"cannot compute networks together by torch.func.vmap: {reason(error)}; use "
                    "torch.where for a condition on values, nn.Dropout for what is random"
                ) from error
        raws = []
        for s in range(S):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(int(dropout_key_S[s]) & (2**63 - 1))
                raws.append(one({k: v[s] for k, v in params.items()}, num_SND[s], cat_SNK[s]))
        return torch.stack(raws).view(S, B, C, -1)

    def _rows(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Joined user and video rows: num S, N, D and cat S, N, K."""
        n_user, n_ids = self.schema.user.n_ids, self.schema.user.n_ids + self.schema.video.n_ids
        user, video = batch.side("user"), batch.side("video")
        video = video._replace(cat=video.cat + n_user)
        num, cat, weight = (
            torch.cat([to_rows(u, batch.shape[2]), v], dim=-1)
            for u, v in zip(user, video, strict=True)
        )
        return num, torch.where(weight > 0, cat, n_ids)
