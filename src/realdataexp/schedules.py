"""How a phase's learning rate changes: not, by a cosine, or when validation stops improving.

Axes: S stacked networks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


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
        patience: looks without improvement that are borne; the next one lowers the rate (plateau).
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

    def look(self, value_S: Tensor, best_S: Tensor, n_bad_S: Tensor, rate_factor_S: Tensor) -> None:
        """Take in a validation value of each network, in place; plateau alone heeds it.

        Args:
            value_S: lower is better; what is no number is no better.
            best_S: the lowest so far.
            n_bad_S: looks since it, or since the last reduction.
            rate_factor_S: the factors.
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
