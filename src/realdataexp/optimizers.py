"""How S stacked networks step, each for itself: Adam, AdamW or SGD, learning rates, loss scales.

Axes: S stacked networks, P parameters of a network.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from realdataexp.device import by_rows
from realdataexp.models.base import restore

_BETA_1, _BETA_2, _EPSILON = 0.9, 0.999, 1e-8
_START, _GROWTH, _BACKOFF, _GROW_AFTER = 2.0**16, 2.0, 0.5, 2000  # of loss scales


@dataclass(frozen=True)
class Schedule:
    """The factor that a phase's learning rate is multiplied with; it starts at 1.

    Attributes:
        kind: "none"; "cosine" (Loshchilov & Hutter 2017, arXiv 1608.03983, equation 5, without
            restarts): the factor falls from 1 to min_factor over the phase's updates, of all
            networks alike; or "plateau", as torch.optim.lr_scheduler.ReduceLROnPlateau with
            threshold 0: a network's factor is lowered when its validation value has not improved.
        min_factor: the factor falls no further than this.
        factor: what one reduction multiplies the factor with (plateau).
        patience: validations without improvement that are borne; the next lowers the rate
            (plateau).
        n_updates: updates of the phase (cosine).
    """

    kind: str = "none"
    min_factor: float = 0.0
    factor: float = 0.5
    patience: int = 3
    n_updates: int = 1

    def cosine(self, n_done: int) -> float:
        """The factor of the update that comes after ``n_done`` others."""
        share = min(1.0, n_done / self.n_updates)
        return self.min_factor + (1.0 - self.min_factor) * (1.0 + math.cos(math.pi * share)) / 2.0

    def observe(
        self, value_S: Tensor, best_S: Tensor, n_bad_S: Tensor, rate_factor_S: Tensor
    ) -> None:
        """Take in a validation value of each network, in place; plateau alone heeds it.

        Lower is better, what is no number is no better. ``n_bad_S`` counts the validations since
        the best, or since the last reduction of the factors.
        """
        if self.kind != "plateau":
            return
        value_S = value_S.to(best_S)
        is_better_S = value_S < best_S
        best_S.copy_(torch.where(is_better_S, value_S, best_S))
        n_bad_S.copy_(torch.where(is_better_S, 0, n_bad_S + 1))
        is_lowered_S = n_bad_S > self.patience
        n_bad_S.masked_fill_(is_lowered_S, 0)
        lowered_S = (rate_factor_S * self.factor).clamp_min(self.min_factor)
        is_lowered_S = is_lowered_S.to(rate_factor_S.device)
        rate_factor_S.copy_(torch.where(is_lowered_S, lowered_S, rate_factor_S))


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
    inflation_S: Tensor | None = None,
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
        inflation_S: what the squares of the gradients are divided by in Adam's second moment; sgd
            has none.
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
        step_SP = _adam_step(moments, grad_SP, on_S, n_updates_S, rate_S, inflation_S)
    for p, step in zip(params.values(), cut(step_SP, shapes), strict=True):
        p.sub_(step)


def _adam_step(
    moments: tuple[Tensor, Tensor],
    grad_SP: Tensor,
    on_S: Tensor,
    n_updates_S: Tensor,
    rate_S: Tensor,
    inflation_S: Tensor | None,
) -> Tensor:
    """Algorithm 1's step, in the order of the end of its section 2, which takes fewer passes.

    There epsilon-hat is a constant; here it is epsilon x sqrt(1 - beta_2^t), as Algorithm 1 has it.
    """
    first_SP, second_SP = moments
    t_S1 = n_updates_S.clamp_min(1).to(on_S.dtype).unsqueeze(1)
    power_1_S, power_2_S = (by_rows(partial(_power, b), t_S1) for b in (_BETA_1, _BETA_2))
    root_S = (1.0 - power_2_S).sqrt()
    first_SP.lerp_(grad_SP, ((1.0 - _BETA_1) * on_S).unsqueeze(1))
    square_SP = grad_SP.square_()
    if inflation_S is not None:
        square_SP.div_(inflation_S.unsqueeze(1))
    second_SP.lerp_(square_SP, ((1.0 - _BETA_2) * on_S).unsqueeze(1))
    below_SP = torch.sqrt(second_SP, out=grad_SP).add_((_EPSILON * root_S).unsqueeze(1))
    step_S = rate_S * root_S / (1.0 - power_1_S)
    return torch.div(first_SP, below_SP, out=below_SP).mul_(step_S.unsqueeze(1))


def _power(base: float, t_N1: Tensor) -> Tensor:
    return base ** t_N1[:, 0]


@dataclass
class LossScale:
    """Loss scaling for float16: each of S networks finds a scale of its own.

    float16 knows nothing below 6e-8, so small gradients would vanish. So a loss is multiplied by a
    scale before the backward pass, and the gradients are divided by it afterwards. The scale is
    found by the rule of torch.amp.GradScaler (Micikevicius et al., arXiv 1710.03740): halved when
    a gradient overflows, doubled after 2,000 steps without. GradScaler has one scale for
    everything, so that one network's overflow would cost all of them a step. An overflow skips the
    network's update, but is no failure while its scale is being found. Nothing here waits for the
    device. Methods take a contiguous range of networks.

    Attributes:
        scale_S: what a loss is multiplied by, powers of two.
        n_good_S: updates without an overflow since the scale last changed.
    """

    scale_S: Tensor
    n_good_S: Tensor

    @classmethod
    def start(cls, n_networks: int, device: torch.device) -> LossScale:
        """Every network begins at 2**16."""
        return cls(
            torch.full((n_networks,), _START, device=device),
            torch.zeros(n_networks, dtype=torch.int32, device=device),
        )

    def scale(self, loss_S: Tensor, networks: slice) -> Tensor:
        """The losses to take gradients of."""
        return loss_S * self.scale_S[networks]

    def unscale(self, grad_SP: Tensor, networks: slice) -> Tensor:
        """The gradients of the losses themselves, a row of numbers for each network."""
        return grad_SP / self.scale_S[networks].unsqueeze(1)

    def update(self, is_due_S: Tensor, overflows_S: Tensor, networks: slice) -> Tensor:
        """Adapt the scales after a step.

        Args:
            is_due_S: which networks had something to learn, and a finite loss; others' stay.
            overflows_S: which of those had no finite gradient.
            networks: which ones these are.

        Returns:
            bool S: overflows that belong to the search, as a smaller scale may do; at a scale of
            1 and below it is the gradient itself that is too large.
        """
        scale_S, n_good_S = self.scale_S[networks], self.n_good_S[networks]
        is_search_S = overflows_S & (scale_S > 1.0)
        n_S = torch.where(overflows_S, 0, n_good_S + is_due_S)
        grows_S, grown_S = n_S == _GROW_AFTER, scale_S * _GROWTH
        next_S = torch.where(grows_S & torch.isfinite(grown_S), grown_S, scale_S)
        scale_S.copy_(torch.where(overflows_S, scale_S * _BACKOFF, next_S))
        n_good_S.copy_(torch.where(grows_S, 0, n_S))
        return is_search_S

    def state(self) -> dict[str, Tensor]:
        """Everything that changes, by name."""
        return {"loss_scale": self.scale_S, "loss_scale_n_good": self.n_good_S}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from a state of as many networks; raises ValueError for another."""
        restore(self.state(), tensors)
