"""Losses: elementwise functions of a network's raw output and the true label.

A loss also says how a raw output becomes a prediction in the label's own units. The caller
weighs and averages.

Axes: X any, O a network's outputs (1, or the number of classes).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class LabelScale:
    """Location and scale of a label over the training users' rows.

    Attributes:
        mean: mean of the label as the loss sees it (see ``Loss.transform``).
        sd: standard deviation of the same, positive.
        unit_sd: standard deviation in the label's own units, positive; the fused score counts
            in it.
    """

    mean: float = 0.0
    sd: float = 1.0
    unit_sd: float = 1.0


def _identity(y: Tensor) -> Tensor:
    return y


@dataclass(frozen=True)
class Loss:
    """One loss function.

    Attributes:
        elementwise: (raw_XO, y_X, scale) -> loss_X.
        predict: (raw_XO, scale) -> prediction_X in the label's units.
        transform: the space in which ``LabelScale.mean`` and ``sd`` are taken.
        is_class: whether the network has an output for each class of the label.
        types: of the labels that it fits.
    """

    elementwise: Callable[[Tensor, Tensor, LabelScale], Tensor]
    predict: Callable[[Tensor, LabelScale], Tensor]
    transform: Callable[[Tensor], Tensor] = _identity
    is_class: bool = False
    types: tuple[str, ...] = ("numerical", "binary", "categorical")


def _unscaled(raw_XO: Tensor, scale: LabelScale) -> Tensor:
    return raw_XO[..., 0] * scale.sd + scale.mean


def _mse(raw_XO: Tensor, y_X: Tensor, scale: LabelScale) -> Tensor:
    return (raw_XO[..., 0] - (y_X - scale.mean) / scale.sd).square()


def _mae(raw_XO: Tensor, y_X: Tensor, scale: LabelScale) -> Tensor:
    return (raw_XO[..., 0] - (y_X - scale.mean) / scale.sd).abs()


def _log_mse(raw_XO: Tensor, y_X: Tensor, scale: LabelScale) -> Tensor:
    return _mse(raw_XO, torch.log1p(y_X), scale)


def _log_mae(raw_XO: Tensor, y_X: Tensor, scale: LabelScale) -> Tensor:
    return (_unscaled(raw_XO, scale) - torch.log1p(y_X)).abs()


def _expm1(raw_XO: Tensor, scale: LabelScale) -> Tensor:
    # exp overflows float32 past 88; no label of these data is near e**60
    return torch.expm1(_unscaled(raw_XO, scale).clamp(0.0, 60.0))


def _bce(raw_XO: Tensor, y_X: Tensor, scale: LabelScale) -> Tensor:
    return F.binary_cross_entropy_with_logits(raw_XO[..., 0], y_X, reduction="none")


def _probability(raw_XO: Tensor, scale: LabelScale) -> Tensor:
    return torch.sigmoid(raw_XO[..., 0])


def _cross_entropy(raw_XO: Tensor, y_X: Tensor, scale: LabelScale) -> Tensor:
    log_p_XO = torch.log_softmax(raw_XO, dim=-1)
    return -log_p_XO.gather(-1, y_X.long().unsqueeze(-1)).squeeze(-1)


def _expected_class(raw_XO: Tensor, scale: LabelScale) -> Tensor:
    classes_O = torch.arange(raw_XO.shape[-1], dtype=raw_XO.dtype, device=raw_XO.device)
    return (torch.softmax(raw_XO, dim=-1) * classes_O).sum(-1)


# |log1p(prediction) - log1p(y)|: finite, with a gradient, for every y >= 0
LOG_MAE = Loss(_log_mae, _expm1, torch.log1p, types=("numerical",))
# squared error of log1p, in units of its standard deviation
LOG_MSE = Loss(_log_mse, _expm1, torch.log1p, types=("numerical",))
# squared and absolute error in units of the label's standard deviation
MSE = Loss(_mse, _unscaled, types=("numerical",))
MAE = Loss(_mae, _unscaled, types=("numerical",))
# binary cross-entropy; predicts P(y = 1)
BCE = Loss(_bce, _probability, types=("binary",))
# cross-entropy over classes 0..K-1; predicts the expected class (for two: P(y = 1))
CE = Loss(_cross_entropy, _expected_class, is_class=True, types=("binary", "categorical"))
