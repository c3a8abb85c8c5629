"""Networks that hold S copies of themselves, and the losses they are trained with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from realdataexp.components import resolve
from realdataexp.models.base import Batch, FeatureSchema, SideSchema, StackedModel
from realdataexp.models.losses import LOSSES, LabelScale, Loss
from realdataexp.models.mlp import MLP
from realdataexp.models.module import ModuleStack

MODELS: dict[str, type[StackedModel]] = {"MLP": MLP}

__all__ = [
    "LOSSES",
    "MLP",
    "MODELS",
    "Batch",
    "FeatureSchema",
    "LabelScale",
    "Loss",
    "ModuleStack",
    "SideSchema",
    "StackedModel",
    "build_loss",
    "build_model",
]


def build_model(
    name: str, schema: FeatureSchema, n_outputs: int, params: Mapping[str, Any], where: str
) -> StackedModel:
    """The model called ``name``, or an outside class given as ``package.module:Name``.

    An outside class is either a StackedModel, or a plain ``torch.nn.Module`` whose constructor
    takes ``(schema, n_outputs, **params)`` and whose forward takes ``(num_ND, cat_NK)``.

    Raises:
        InputError: no such model, or it refuses its parameters; ``where`` is the config path.
    """
    component = resolve(name, MODELS, where)
    if isinstance(component, type) and issubclass(component, nn.Module):
        return ModuleStack(component, schema, n_outputs, params, where)
    return component(schema, n_outputs, params, where)


def build_loss(name: str, where: str) -> Loss:
    """The loss called ``name``, or an outside object given as ``package.module:Name``."""
    return resolve(name, LOSSES, where)
