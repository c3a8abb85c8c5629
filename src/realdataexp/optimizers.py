"""One step of Adam, AdamW or SGD of S stacked networks, each for itself.

Axes: S stacked networks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from realdataexp.heads import by_rows
from realdataexp.schedules import Schedule

_BETA_1, _BETA_2, _EPSILON = 0.9, 0.999, 1e-8


@dataclass(frozen=True)
class OptimizerSettings:
    """How the networks step, as in torch.optim.

    Attributes:
        learning_rate: step size.
        weight_decay: times the parameter, added to the gradient (adam, sgd: an L2 penalty) or,
            times the learning rate, taken from the parameter (adamw).
        gradient_clip: largest norm of one network's gradient; None does not clip.
        kind: "adam" (Kingma & Ba, arXiv 1412.6980, Algorithm 1), "adamw" (Loshchilov & Hutter,
            arXiv 1711.05101, Algorithm 2: weight decay decoupled from the gradient) or "sgd".
        schedule: how the learning rate changes.
    """

    learning_rate: float
    weight_decay: float = 0.0
    gradient_clip: float | None = None
    kind: str = "adam"
    schedule: Schedule = field(default_factory=Schedule)


def descend(
    params: Mapping[str, Tensor],
    moments: Sequence[Mapping[str, Tensor]],
    grads: Sequence[Tensor],
    norm_S: Tensor,
    is_active_S: Tensor,
    n_updates_S: Tensor,
    rate_factor_S: Tensor,
    settings: OptimizerSettings,
) -> None:
    """One step in place; networks that are not active stay bit for bit as they are.

    Args:
        params: name -> S, ... tensors.
        moments: Adam's first and second moments, of the same names and shapes.
        grads: in the order of ``params``.
        norm_S: norm of each network's whole gradient.
        is_active_S: which networks take a step.
        n_updates_S: their steps so far, this one included.
        rate_factor_S: the schedule's factors.
        settings: the optimizer's.
    """
    on_S = is_active_S.float()
    rate_S = on_S * rate_factor_S * settings.learning_rate
    clip_S = None
    if settings.gradient_clip is not None:
        clip_S = (settings.gradient_clip / (norm_S + 1e-6)).clamp_max(1.0)
        clip_S = torch.where(is_active_S, clip_S, 1.0)
    t_S = n_updates_S.clamp_min(1).float()
    power_1_S, power_2_S = (
        by_rows(partial(_power, b), t_S.unsqueeze(-1)) for b in (_BETA_1, _BETA_2)
    )
    step_S, root_S = rate_S / (1.0 - power_1_S), (1.0 - power_2_S).sqrt()
    share_1_S, share_2_S = (1.0 - _BETA_1) * on_S, (1.0 - _BETA_2) * on_S
    for (name, p), g in zip(params.items(), grads, strict=True):
        along = (-1, *[1] * (p.dim() - 1))
        g = torch.where(is_active_S.view(along), g, 0.0)
        if clip_S is not None:
            g.mul_(clip_S.view(along))
        if settings.weight_decay and settings.kind == "adamw":
            p.mul_((1.0 - rate_S * settings.weight_decay).view(along))
        elif settings.weight_decay:
            g.add_(p, alpha=settings.weight_decay)
        if settings.kind == "sgd":
            p.sub_(g.mul_(rate_S.view(along)))
            continue
        m, v = moments[0][name], moments[1][name]
        m.lerp_(g, share_1_S.view(along))
        v.lerp_(g.square_(), share_2_S.view(along))
        denominator = v.sqrt().div_(root_S.view(along)).add_(_EPSILON)
        p.sub_(denominator.reciprocal_().mul_(m).mul_(step_S.view(along)))


def _power(base: float, t_N1: Tensor) -> Tensor:
    return base ** t_N1[:, 0]
