"""Networks that hold S copies of themselves, and the losses they are trained with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from realdataexp.models.base import Batch, FeatureSchema, SideSchema, StackedModel
from realdataexp.models.dcn_v2 import DCNv2
from realdataexp.models.dlrm import DLRM
from realdataexp.models.linear import Linear
from realdataexp.models.losses import LOSSES, LabelScale, Loss
from realdataexp.models.mlp import MLP
from realdataexp.models.mmoe import MMoE
from realdataexp.models.module import ModuleStack
from realdataexp.models.outside import OutsideModel, outside_loss
from realdataexp.models.wide_deep import WideDeep
from realdataexp.registry import find

MODELS: dict[str, type[StackedModel]] = {
    "MLP": MLP,
    "Linear": Linear,
    "WideDeep": WideDeep,
    "DCNv2": DCNv2,
    "DLRM": DLRM,
    "MMoE": MMoE,
}
SHARED_MODELS = ("MMoE",)  # labels that name one of these share a network

__all__ = [
    "DLRM",
    "LOSSES",
    "MLP",
    "MODELS",
    "SHARED_MODELS",
    "Batch",
    "DCNv2",
    "FeatureSchema",
    "LabelScale",
    "Linear",
    "Loss",
    "MMoE",
    "ModuleStack",
    "OutsideModel",
    "SideSchema",
    "StackedModel",
    "WideDeep",
    "build_loss",
    "build_model",
    "outside_loss",
]


def build_model(
    name: str,
    schema: FeatureSchema,
    n_outputs: int | Sequence[int],
    params: Mapping[str, Any],
    where: str,
) -> StackedModel:
    """The model called ``name``, or an outside class given as ``package.module:Name``.

    An outside class is either a StackedModel, or a plain ``torch.nn.Module`` whose constructor
    takes ``(schema, n_outputs, **params)`` and whose forward takes ``(num_ND, cat_NK)``. One of
    ``SHARED_MODELS`` takes the outputs of several labels.

    Raises:
        InputError: no such model, or it refuses its parameters; ``where`` is the config path.
    """
    component = find("model", name, where)
    if name not in SHARED_MODELS and not isinstance(n_outputs, int):
        (n_outputs,) = n_outputs
    if isinstance(component, type) and issubclass(component, nn.Module):
        assert isinstance(n_outputs, int)
        return ModuleStack(component, schema, n_outputs, params, where)
    return component(schema, n_outputs, params, where)


def build_loss(name: str, where: str) -> Loss:
    """The loss called ``name``, or an outside object given as ``package.module:Name``."""
    return find("loss", name, where)
