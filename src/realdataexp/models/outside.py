"""Models and losses from outside the package, held to what they promise.

Axes: S stacked networks, B visits, C candidates, O outputs, X any.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from realdataexp.contracts import FLOATS, INTEGERS, check_values, described, fit, unchanged
from realdataexp.models.base import StackedModel, shared_of
from realdataexp.models.batch import Batch
from realdataexp.models.losses import LabelScale, Loss
from realdataexp.registry import Unfit, calling

_METHODS = ("floats_per_row", "init", "forward")


class OutsideModel:
    """A stacked model from outside; see StackedModel."""

    def __init__(self, model: StackedModel, n_outputs: int, who: str) -> None:
        """Take a model.

        Args:
            model: what the component made.
            n_outputs: O.
            who: the config path and the name of the component.

        Raises:
            ComponentError: it lacks a method.
        """
        self._model, self._n_outputs, self.who = model, n_outputs, who
        with calling(who, "its object"):
            if lacking := [name for name in _METHODS if not hasattr(model, name)]:
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
            params = self._model.init(key)
            if not isinstance(params, dict) or not params:
                raise Unfit(
                    f"returned {'no parameter' if params == {} else described(params)}; wanted a "
                    "dict of parameters by name: a model learns at least one (nn.Parameter)"
                )
            _check_parameters(
                params, (torch.float32,), "a float32 tensor: forward can compute in another type"
            )
            return params

    def init_shared(self, key: Tensor) -> dict[str, Tensor]:
        """See StackedModel."""
        with calling(self.who, "init_shared()"):
            shared = shared_of(self._model, key)
            if not isinstance(shared, dict):
                raise Unfit(f"returned {described(shared)}; wanted a dict of parameters by name")
            _check_parameters(shared, (*FLOATS, *INTEGERS), "a tensor of numbers")
            if learning := [name for name, p in shared.items() if p.requires_grad]:
                raise Unfit(
                    f"returned {', '.join(learning)} with requires_grad: what networks share is "
                    "frozen, or what one world learns would reach the others; detach it, or return "
                    "it from init() so that each network has its own"
                )
            if both := sorted(shared.keys() & self._model.init(key).keys()):
                raise Unfit(f"returned {', '.join(both)}, which init() returns too")
            return shared

    def forward(
        self, params: Mapping[str, Tensor], batch: Batch, dropout_key_S: Tensor | None
    ) -> Tensor:
        """See StackedModel."""
        with calling(self.who, "forward()"), unchanged({**batch.tensors, **params}):
            raw = self._model.forward(params, batch, dropout_key_S)
            shape = (*batch.shape, self._n_outputs)
            axes = "networks, visits, candidates, outputs"
            raw_SBCO = fit(raw, FLOATS, shape, axes, batch.candidate["video_num"])
            if not raw_SBCO.requires_grad and any(p.requires_grad for p in params.values()):
                raise Unfit(
                    f"returned {described(raw_SBCO)} that does not depend on the parameters, so "
                    "that nothing can be learned: remove detach() or no_grad()"
                )
            return raw_SBCO


def _check_parameters(
    params: Mapping[str, Tensor], kinds: tuple[torch.dtype, ...], wanted: str
) -> None:
    for name, p in params.items():
        if not isinstance(p, Tensor) or p.dtype not in kinds:
            raise Unfit(f"returned {described(p)} as parameter {name}; wanted {wanted}")
        check_values(p, f"parameter {name}")


def outside_loss(loss: Loss, who: str) -> Loss:
    """A loss from outside, as one that is held to what a Loss promises.

    Args:
        loss: the component.
        who: the config path and the name of the component.
    """

    def elementwise(raw_XO: Tensor, y_X: Tensor, scale: LabelScale) -> Tensor:
        with calling(who, "elementwise()"), unchanged({"raw": raw_XO, "y": y_X}):
            loss_X = fit(loss.elementwise(raw_XO, y_X, scale), FLOATS, y_X.shape, "rows", y_X)
            if raw_XO.requires_grad and not loss_X.requires_grad:
                raise Unfit(
                    f"returned {described(loss_X)} that does not depend on the network's output, "
                    "so that nothing can be learned: remove detach() or no_grad()"
                )
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

    functions: dict[str, Any] = {
        "elementwise": elementwise,
        "predict": predict,
        "transform": transform,
    }
    with calling(who, "its functions"):
        for name in functions:
            if not callable(getattr(loss, name)):
                raise Unfit(f"hold {described(getattr(loss, name))} as {name}; wanted a function")
    return replace(loss, **functions)
