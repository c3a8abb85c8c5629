"""Loss scaling for float16: each network of a stack finds a scale of its own.

float16 knows nothing below 6e-8, so small gradients would vanish. So a loss is multiplied by a
scale before the backward pass, and the gradients are divided by it afterwards. The scale is found
by the rule of torch.amp.GradScaler (Micikevicius et al., arXiv 1710.03740): halved when a gradient
overflows, doubled after 2,000 steps without. GradScaler has one scale for everything, so that one
network's overflow would cost all of them a step. Nothing here waits for the device.

Axes: S stacked networks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from realdataexp.models.base import restore

_START, _GROWTH, _BACKOFF, _GROW_AFTER = 2.0**16, 2.0, 0.5, 2000


@dataclass
class LossScale:
    """The scales of S networks.

    An update with scaled losses, for a contiguous range of networks::

        grads = torch.autograd.grad(scale.scale(loss_S, networks).sum(), leaves)
        grad_SP = scale.unscale(join(grads), networks)
        ...  # norm_S of the gradients, as without scaling
        is_due_S = has_rows_S & torch.isfinite(loss_S)
        is_search_S = scale.update(is_due_S, is_due_S & ~torch.isfinite(norm_S), networks)

    The network skips its update where its gradient overflows, but this is no failure while its
    scale is being found: the learner counts skipped updates but for those of ``is_search_S``.

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
            is_due_S: which networks had something to learn, and a finite loss; the others' scales
                stay.
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
        """Go on from a state of as many networks.

        Raises:
            ValueError: a tensor's name, shape or type is not that of this state.
        """
        restore(self.state(), tensors)
