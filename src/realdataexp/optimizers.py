"""One step of Adam, AdamW or SGD of S stacked networks, each for itself.

Axes: S stacked networks, P parameters of a network.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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


def join(tensors: Iterable[Tensor]) -> Tensor:
    """Tensors S, ... of S networks as a row of numbers for each network: S, P."""
    return torch.cat([x.reshape(len(x), -1) for x in tensors], dim=1)


def cut(x_SP: Tensor, shapes: Iterable[torch.Size]) -> list[Tensor]:
    """Views of what ``join`` has joined, S, ... of each shape (whose first number is not used)."""
    own = [shape[1:] for shape in shapes]
    parts = x_SP.split([shape.numel() for shape in own], dim=1)
    return [part.view(len(part), *shape) for part, shape in zip(parts, own, strict=True)]


def descend(
    params: Mapping[str, Tensor],
    moments: tuple[Tensor, Tensor],
    grad_SP: Tensor,
    norm_S: Tensor,
    is_active_S: Tensor,
    n_updates_S: Tensor,
    rate_factor_S: Tensor,
    settings: OptimizerSettings,
) -> None:
    """One step in place; networks that are not active stay bit for bit as they are.

    Args:
        params: name -> S, ... tensors.
        moments: Adam's, S, P each.
        grad_SP: the gradients in the order of ``params``; it is overwritten.
        norm_S: norm of each network's whole gradient.
        is_active_S: which networks take a step.
        n_updates_S: their steps so far, this one included.
        rate_factor_S: the schedule's factors.
        settings: the optimizer's.
    """
    on_S = is_active_S.to(grad_SP.dtype)
    rate_S = on_S * rate_factor_S * settings.learning_rate
    factor_S = on_S
    if settings.gradient_clip is not None:
        clip_S = (settings.gradient_clip / (norm_S + 1e-6)).clamp_max(1.0)
        factor_S = torch.where(is_active_S, clip_S, 0.0)
    # a network that failed has a gradient that is no number, which 0 times it is not either
    grad_SP.nan_to_num_(0.0, 0.0, 0.0).mul_(factor_S.unsqueeze(1))
    shapes = [p.shape for p in params.values()]
    if settings.weight_decay:
        for p, g in zip(params.values(), cut(grad_SP, shapes), strict=True):
            if settings.kind == "adamw":
                p.mul_((1.0 - rate_S * settings.weight_decay).view(-1, *[1] * (p.dim() - 1)))
            else:
                g.add_(p, alpha=settings.weight_decay)
    if settings.kind == "sgd":
        step_SP = grad_SP.mul_(rate_S.unsqueeze(1))
    else:
        step_SP = _adam_step(moments, grad_SP, on_S, n_updates_S, rate_S)
    for p, step in zip(params.values(), cut(step_SP, shapes), strict=True):
        p.sub_(step)


def _adam_step(
    moments: tuple[Tensor, Tensor],
    grad_SP: Tensor,
    on_S: Tensor,
    n_updates_S: Tensor,
    rate_S: Tensor,
) -> Tensor:
    """Algorithm 1's step, in the order of the end of its section 2, which takes fewer passes.

    There epsilon-hat is a constant; here it is epsilon x sqrt(1 - beta_2^t), as Algorithm 1 has it.
    """
    first_SP, second_SP = moments
    t_S1 = n_updates_S.clamp_min(1).to(on_S.dtype).unsqueeze(1)
    power_1_S, power_2_S = (by_rows(partial(_power, b), t_S1) for b in (_BETA_1, _BETA_2))
    root_S = (1.0 - power_2_S).sqrt()
    first_SP.lerp_(grad_SP, ((1.0 - _BETA_1) * on_S).unsqueeze(1))
    second_SP.lerp_(grad_SP.square_(), ((1.0 - _BETA_2) * on_S).unsqueeze(1))
    below_SP = torch.sqrt(second_SP, out=grad_SP).add_((_EPSILON * root_S).unsqueeze(1))
    step_S = rate_S * root_S / (1.0 - power_1_S)
    return torch.div(first_SP, below_SP, out=below_SP).mul_(step_S.unsqueeze(1))


def _power(base: float, t_N1: Tensor) -> Tensor:
    return base ** t_N1[:, 0]
