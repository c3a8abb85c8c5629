"""What each label of a network makes of its outputs.

Axes: X rows of any shape, N rows in a line, O outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from realdataexp.models import LabelScale, Loss

_LANES = 64  # a multiple of the elements that any CPU's vector loop takes at once
_ROWS_BEFORE_THREADS = 32768


@dataclass(frozen=True)
class Head:
    """One label's part of a network's output.

    Attributes:
        loss: the loss function; scale: the label's location and scale.
        n_outputs: how many outputs are this head's.
    """

    loss: Loss
    scale: LabelScale
    n_outputs: int = 1

    def predict(self, raw_XO: Tensor) -> Tensor:
        """Predictions in the label's units."""
        return self.loss.predict(raw_XO, self.scale)

    def losses(self, raw_XO: Tensor, y_X: Tensor) -> Tensor:
        """Each row's loss."""
        return self.loss.elementwise(raw_XO, y_X, self.scale)


def by_rows(function: Callable[..., Tensor], raw_XO: Tensor, *others_X: Tensor) -> Tensor:
    """Apply a function of rows so that a row's result does not depend on its place, to the bit.

    PyTorch computes exp, log and their kin in SIMD lanes, but the last few elements of a tensor
    (or of a thread's share of it) one by one, with other last bits. Padded to whole lanes, in
    blocks below the size from which threads share the work, there are no last few. Accelerators
    compute each element alike.

    Args:
        function: (raw_XO, *others_X) -> result_X, each row for itself.
        raw_XO: any shape X, with a last axis O.
        others_X: of the shape X.
    """
    if not raw_XO.is_cpu:
        return function(raw_XO, *others_X)
    shape, n = raw_XO.shape[:-1], raw_XO.shape[:-1].numel()
    pad = -n % _LANES
    raw_NO = F.pad(raw_XO.reshape(n, -1), (0, 0, 0, pad))
    others_N = [F.pad(x.reshape(n), (0, pad)) for x in others_X]
    starts = range(0, n + pad, _ROWS_BEFORE_THREADS)
    parts = [
        function(*(x[i : i + _ROWS_BEFORE_THREADS] for x in (raw_NO, *others_N))) for i in starts
    ]
    return (parts[0] if len(parts) == 1 else torch.cat(parts))[:n].view(shape)
