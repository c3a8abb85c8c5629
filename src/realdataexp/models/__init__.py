"""Networks that hold S copies of themselves, and the losses they are trained with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from realdataexp.models.base import Selecting, StackedModel
from realdataexp.models.batch import Batch, FeatureSchema, Input, SideSchema
from realdataexp.models.losses import LabelScale, Loss
from realdataexp.models.mlp import MLP
from realdataexp.models.outside import ModuleStack, OutsideModel, outside_loss
from realdataexp.models.sequence import SequenceModel
from realdataexp.options import check
from realdataexp.registry import find, is_outside, names

LOSSES: dict[str, Loss] = {name: find("loss", name, name) for name in names("loss")}

__all__ = [
    "LOSSES", "MLP", "Batch", "FeatureSchema", "Input", "LabelScale", "Loss", "ModuleStack",
    "OutsideModel", "Selecting", "SideSchema", "StackedModel", "build_loss", "build_model",
    "is_module", "is_shared", "outside_loss",
]  # fmt: skip


def is_shared(name: str) -> bool:
    """Whether labels that name this model share a network."""
    return not is_outside(name) and find("model", name, "model").is_shared


def is_module(name: str) -> bool:
    """Whether a registered model is a plain module, which is stacked as one from outside is."""
    return not is_outside(name) and issubclass(find("model", name, "model"), nn.Module)


def build_model(
    name: str,
    schema: FeatureSchema,
    n_outputs: int | Sequence[int],
    params: Mapping[str, Any],
    where: str,
) -> StackedModel:
    """The model called ``name``, or an outside class given as ``package.module:Name``.

    An outside class is either a StackedModel, or a plain ``torch.nn.Module`` whose constructor
    takes ``(schema, n_outputs, **params)`` and whose forward takes ``(num_ND, cat_NK)``. One that
    labels share takes the outputs of several.

    Raises:
        InputError: no such model, or it refuses its parameters; ``where`` is the config path.
    """
    component = find("model", name, where)
    if not is_shared(name) and not isinstance(n_outputs, int):
        (n_outputs,) = n_outputs
    if isinstance(component, type) and issubclass(component, nn.Module):
        assert isinstance(n_outputs, int)
        if issubclass(component, SequenceModel):
            params = check(component.Params, params, where).model_dump()
        return ModuleStack(component, schema, n_outputs, params, where)
    return component(schema, n_outputs, params, where)


def build_loss(name: str, where: str) -> Loss:
    """The loss called ``name``, or an outside object given as ``package.module:Name``."""
    return find("loss", name, where)
