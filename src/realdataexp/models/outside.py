"""Models and losses from outside the package, held to what they promise.

Axes: S stacked networks, B visits, C candidates, N = B x C rows, D numerical features, K category
slots, O outputs, X any.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd

from realdataexp.contracts import FLOATS, INTEGERS, check_values, described, fit, unchanged
from realdataexp.errors import InputError
from realdataexp.models.base import StackedModel, Tensors, inputs_of, shared_of
from realdataexp.models.batch import Batch, FeatureSchema
from realdataexp.models.layers import to_rows
from realdataexp.models.losses import LabelScale, Loss
from realdataexp.registry import Unfit, calling, reason


class ModuleStack(StackedModel):
    """S copies of a plain module, computed with ``vmap`` over ``functional_call``.

    A parameter that does not learn (``requires_grad=False``) is shared by all copies: held once.

    The module's constructor takes ``(schema, n_outputs, **params)``; its forward takes
    ``num_ND`` (the user's then the video's numerical features) and ``cat_NK`` (the user's then
    the video's category ids, the video's shifted past the user's; an empty slot of a multi-hot
    feature is ``schema.user.n_ids + schema.video.n_ids``) and returns ``raw_NO``. A module with an
    attribute ``inputs``, names of ``schema.inputs``, takes a dict of these instead (of a visit
    B, ..., of candidates B, C, ..., of a sequence B, T, ...) and returns ``raw_BCO``.

    A module that drops out or has an embedding's ``padding_idx`` is trained network by network,
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
        self.schema, self.n_outputs = schema, n_outputs
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
        self.inputs = self._names_of_inputs(f"{where}: {name}")
        self._frozen = {name for name, p in self.module.named_parameters() if not p.requires_grad}
        # vmap would share a dropout mask, and forgets an embedding's padding_idx in the gradient
        self._learns_alone = any(
            getattr(m, "padding_idx", None) is not None or (isinstance(m, _DropoutNd) and m.p > 0)
            for m in self.module.modules()
        )

    @property
    def floats_per_row(self) -> int:
        """See StackedModel: the widths of all weights."""
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
        if unknown := [name for name in names if name not in known]:
            raise InputError(
                f"{who}.inputs: this run has no {unknown[0]!r}; it has: {', '.join(known)}"
            )
        return tuple(names)

    def init(self, key: Tensor) -> dict[str, Tensor]:
        """The module's own initialisation, under a seed made from the key."""
        return self._start(key, is_frozen=False)

    def init_shared(self, key: Tensor) -> dict[str, Tensor]:
        """Likewise, of the parameters that do not learn."""
        return self._start(key, is_frozen=True) if self._frozen else {}

    def _start(self, key: Tensor, *, is_frozen: bool) -> dict[str, Tensor]:
        with _seeded(key):
            params = self._build().named_parameters()
            return {k: p.detach().clone() for k, p in params if (k in self._frozen) == is_frozen}

    def forward(self, params: Tensors, batch: Batch, dropout_key_S: Tensor | None) -> Tensor:
        """See StackedModel."""
        S, B, C = batch.shape
        shape: tuple[int, ...] = (B, C, self.n_outputs)
        axes, is_named = "visits, candidates, outputs", self.inputs is not None
        if is_named:
            inputs = {name: batch.tensors[name] for name in self.inputs or ()}
        else:
            inputs = dict(zip(("num", "cat"), self._rows(batch), strict=True))
            shape, axes = (B * C, self.n_outputs), "rows, outputs"
        shared = {name: params[name] for name in self._frozen}
        own = {name: p for name, p in params.items() if name not in shared}
        like = batch.candidate["video_num"]
        self.module.train(dropout_key_S is not None)

        def one(network: Tensors, shown: Tensors) -> Tensor:
            arguments = (dict(shown),) if is_named else tuple(shown.values())
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
            with _seeded(dropout_key_S[s]):
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


@contextmanager
def _seeded(key: Tensor) -> Iterator[None]:
    """PyTorch's own draws, under a seed made from a key."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(key) & (2**63 - 1))
        yield


class OutsideModel(StackedModel):
    """A stacked model from outside; see StackedModel."""

    def __init__(self, model: StackedModel, n_outputs: int, who: str) -> None:
        """Take what a component made; ``who`` is its config path and name.

        Raises:
            ComponentError: it lacks a method.
        """
        self._model, self.n_outputs, self.who = model, n_outputs, who
        self.inputs = inputs_of(model)
        wanted = ("floats_per_row", "init", "forward")
        with calling(who, "its object"):
            if lacking := [name for name in wanted if not hasattr(model, name)]:
                raise Unfit(
                    f"is neither a torch.nn.Module nor a StackedModel: it lacks "
                    f"{', '.join(lacking)}"
                )

    @property
    def floats_per_row(self) -> int:
        """See StackedModel."""
        with calling(self.who, "floats_per_row"):
            n = self._model.floats_per_row
            if not (isinstance(n, int) and n > 0):
                raise Unfit(f"is {n!r}; wanted a whole number, 1 or more")
            return n

    def init(self, key: Tensor) -> dict[str, Tensor]:
        """See StackedModel."""
        with calling(self.who, "init()"):
            wanted = "a float32 tensor: forward can compute in another type"
            params = _parameters(self._model.init(key), (torch.float32,), wanted)
            if not params:
                raise Unfit(
                    "returned no parameter; wanted a dict of parameters by name: a model learns at "
                    "least one (nn.Parameter)"
                )
            return params

    def init_shared(self, key: Tensor) -> dict[str, Tensor]:
        """See StackedModel."""
        with calling(self.who, "init_shared()"):
            kinds = (*FLOATS, *INTEGERS)
            shared = _parameters(shared_of(self._model, key), kinds, "a tensor of numbers")
            if learning := [name for name, p in shared.items() if p.requires_grad]:
                raise Unfit(
                    f"returned {', '.join(learning)} with requires_grad: what networks share is "
                    "frozen, or what one world learns would reach the others; detach it, or return "
                    "it from init() so that each network has its own"
                )
            if both := sorted(shared.keys() & self._model.init(key).keys()):
                raise Unfit(f"returned {', '.join(both)}, which init() returns too")
            return shared

    def forward(self, params: Tensors, batch: Batch, dropout_key_S: Tensor | None) -> Tensor:
        """See StackedModel."""
        with calling(self.who, "forward()"), unchanged({**batch.tensors, **params}):
            raw = self._model.forward(params, batch, dropout_key_S)
            shape, like = (*batch.shape, self.n_outputs), batch.candidate["video_num"]
            raw_SBCO = fit(raw, FLOATS, shape, "networks, visits, candidates, outputs", like)
            _check_learnable(raw_SBCO, params.values(), "the parameters")
            return raw_SBCO


def _parameters(found: Any, kinds: tuple[torch.dtype, ...], wanted: str) -> dict[str, Tensor]:
    if not isinstance(found, dict):
        raise Unfit(f"returned {described(found)}; wanted a dict of parameters by name")
    for name, p in found.items():
        if not isinstance(p, Tensor) or p.dtype not in kinds:
            raise Unfit(f"returned {described(p)} as parameter {name}; wanted {wanted}")
        check_values(p, f"parameter {name}")
    return found


def _check_learnable(found: Tensor, of: Iterable[Tensor], what: str) -> None:
    if not found.requires_grad and any(x.requires_grad for x in of):
        raise Unfit(
            f"returned {described(found)} that does not depend on {what}, so that nothing can be "
            "learned: remove detach() or no_grad()"
        )


def outside_loss(loss: Loss, who: str) -> Loss:
    """A loss from outside, as one that is held to what a Loss promises.

    Args:
        loss: the component.
        who: the config path and the name of the component.
    """

    def elementwise(raw_XO: Tensor, y_X: Tensor, scale: LabelScale) -> Tensor:
        with calling(who, "elementwise()"), unchanged({"raw": raw_XO, "y": y_X}):
            loss_X = fit(loss.elementwise(raw_XO, y_X, scale), FLOATS, y_X.shape, "rows", y_X)
            _check_learnable(loss_X, (raw_XO,), "the network's output")
            return loss_X.float()

    def predict(raw_XO: Tensor, scale: LabelScale) -> Tensor:
        with calling(who, "predict()"), unchanged({"raw": raw_XO}):
            shape = raw_XO.shape[:-1]
            return fit(loss.predict(raw_XO, scale), FLOATS, shape, "rows", raw_XO).float()

    def transform(y_X: Tensor) -> Tensor:
        with calling(who, "transform()"), unchanged({"y": y_X}):
            found_X = fit(loss.transform(y_X), FLOATS, y_X.shape, "rows", y_X)
            check_values(found_X, "rows")
            return found_X

    with calling(who, "its functions"):
        for name in ("elementwise", "predict", "transform"):
            if not callable(getattr(loss, name)):
                raise Unfit(f"hold {described(getattr(loss, name))} as {name}; wanted a function")
    return replace(loss, elementwise=elementwise, predict=predict, transform=transform)
