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

from realdataexp.contracts import FLOATS, fit
from realdataexp.errors import InputError
from realdataexp.models.batch import Batch, FeatureSchema
from realdataexp.models.layers import to_rows
from realdataexp.registry import Unfit, reason


class ModuleStack:
    """S copies of a plain module, computed with ``vmap`` over ``functional_call``.

    A parameter that does not learn (``requires_grad=False``) is shared by all copies: held once.

    The module's constructor takes ``(schema, n_outputs, **params)``; its forward takes
    ``num_ND`` (the user's then the video's numerical features) and ``cat_NK`` (the user's then
    the video's category ids, the video's shifted behind the user's; an empty slot of a multi-hot
    feature is ``schema.user.n_ids + schema.video.n_ids``) and returns ``raw_NO``. A module with an
    attribute ``inputs``, names of ``schema.inputs``, takes a dict of these instead (of a visit
    B, ..., of candidates B, C, ..., of a sequence B, T, ...) and returns ``raw_BCO``.

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
        self._inputs = self._names_of_inputs(f"{where}: {name}")
        self._frozen = {name for name, p in self.module.named_parameters() if not p.requires_grad}
        # vmap would share a dropout mask, and forgets an embedding's padding_idx in the gradient
        self._learns_alone = any(
            isinstance(m, _DropoutNd) or getattr(m, "padding_idx", None) is not None
            for m in self.module.modules()
        )

    @property
    def floats_per_row(self) -> int:
        """About how many activations one row needs: the widths of all weights."""
        tables = [m.weight for m in self.module.modules() if isinstance(m, nn.Embedding)]
        is_table = {id(p) for p in tables}  # as many rows as categories, of which a row takes one
        weights = [p for p in self.module.parameters() if p.dim() > 1]
        return sum(p.shape[1 if id(p) in is_table else 0] for p in weights) + 1

    def _names_of_inputs(self, who: str) -> tuple[str, ...] | None:
        """Names of the tensors that the module asks for; None: joined rows."""
        names = getattr(self.module, "inputs", None)
        if names is None or isinstance(names, nn.Module | Tensor):  # a layer that is called so
            return None
        known = self.schema.inputs
        if not isinstance(names, tuple | list) or not names:
            raise InputError(f"{who}.inputs = {names!r}: name some of: {', '.join(known)}")
        for name in names:
            if name not in known:
                raise InputError(
                    f"{who}.inputs: this run has no {name!r}; it has: {', '.join(known)}"
                )
        return tuple(names)

    def init(self, key: Tensor) -> dict[str, Tensor]:
        """The module's own initialisation, under a seed made from the key."""
        params = self._start(key)
        return {name: p for name, p in params.items() if name not in self._frozen}

    def init_shared(self, key: Tensor) -> dict[str, Tensor]:
        """Likewise, of the parameters that do not learn."""
        if not self._frozen:
            return {}
        return {name: p for name, p in self._start(key).items() if name in self._frozen}

    def _start(self, key: Tensor) -> dict[str, Tensor]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(key) & (2**63 - 1))
            return {name: p.detach().clone() for name, p in self._build().named_parameters()}

    def forward(
        self, params: Mapping[str, Tensor], batch: Batch, dropout_key_S: Tensor | None
    ) -> Tensor:
        """Raw outputs of shape S, B, C, O."""
        S, B, C = batch.shape
        shape: tuple[int, ...]
        if self._inputs is None:
            num_SND, cat_SNK = self._rows(batch)
            inputs = {"num": num_SND, "cat": cat_SNK}
            shape, axes = (B * C, self._n_outputs), "rows, outputs"
        else:
            inputs = {name: batch.tensors[name] for name in self._inputs}
            shape, axes = (B, C, self._n_outputs), "visits, candidates, outputs"
        shared = {name: params[name] for name in self._frozen}
        own = {name: p for name, p in params.items() if name not in shared}
        like = batch.candidate["video_num"]
        self.module.train(dropout_key_S is not None)

        def one(network: Mapping[str, Tensor], shown: Mapping[str, Tensor]) -> Tensor:
            arguments = tuple(shown.values()) if self._inputs is None else (dict(shown),)
            raw = functional_call(self.module, {**network, **shared}, arguments)
            return fit(raw, FLOATS, shape, axes, like)

        if dropout_key_S is None or not self._learns_alone:
            try:
                return vmap(one)(own, inputs).reshape(S, B, C, -1)
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
                raws.append(one(*({k: x[s] for k, x in of.items()} for of in (own, inputs))))
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
