"""S networks of one label: score candidates, learn from weighted outcomes.

Nothing here lets one network's result depend on another's: a loss is each network's own mean, the
gradient is clipped per network, Adam's step count is per network, and a network that has nothing
to learn in a step is left bit for bit as it was.

Axes: S stacked networks, B visits, C candidates, O outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from realdataexp.device import Device
from realdataexp.models import Batch, LabelScale, Loss, StackedModel
from realdataexp.models.base import restore

_LANES = 64  # a multiple of the elements that any CPU's vector loop takes at once
_ROWS_BEFORE_THREADS = 32768
_BETA_1, _BETA_2, _EPSILON = 0.9, 0.999, 1e-8


@dataclass(frozen=True)
class OptimizerSettings:
    """Adam (Kingma & Ba, arXiv 1412.6980, Algorithm 1) or SGD, with L2 weight decay as PyTorch has.

    Attributes:
        learning_rate: step size.
        weight_decay: added to the gradient, times the parameter.
        gradient_clip: largest norm of one network's gradient; None does not clip.
        kind: "adam" or "sgd".
    """

    learning_rate: float
    weight_decay: float = 0.0
    gradient_clip: float | None = None
    kind: str = "adam"


@dataclass
class Learner:
    """The networks of one label in all worlds, with their optimizer.

    Attributes:
        model: the architecture.
        loss: the loss function; scale: the label's location and scale.
        params: name -> S, ... tensors; moment_1, moment_2: Adam's, of the same shapes.
        n_updates_S: Adam's step count of each network.
        n_skipped_S: updates skipped because the loss or the gradient was not finite.
    """

    model: StackedModel
    loss: Loss
    scale: LabelScale
    device: Device
    params: dict[str, Tensor]
    moment_1: dict[str, Tensor]
    moment_2: dict[str, Tensor]
    n_updates_S: Tensor
    n_skipped_S: Tensor

    @classmethod
    def start(
        cls,
        model: StackedModel,
        loss: Loss,
        scale: LabelScale,
        device: Device,
        start: dict[str, Tensor],
        n_networks: int,
    ) -> Learner:
        """``n_networks`` copies of one network's parameters (without the axis S)."""
        params = {
            name: p.to(device.torch).unsqueeze(0).repeat(n_networks, *[1] * p.dim())
            for name, p in start.items()
        }
        count_S = torch.zeros(n_networks, dtype=torch.int64, device=device.torch)
        return cls(
            model,
            loss,
            scale,
            device,
            params,
            moment_1={name: torch.zeros_like(p) for name, p in params.items()},
            moment_2={name: torch.zeros_like(p) for name, p in params.items()},
            n_updates_S=count_S,
            n_skipped_S=count_S.clone(),
        )

    @property
    def n_networks(self) -> int:
        """S."""
        return self.n_updates_S.shape[0]

    def network(self, index: int) -> dict[str, Tensor]:
        """A copy of one network's parameters."""
        return {name: p[index].clone() for name, p in self.params.items()}

    def predict(self, batch: Batch, networks: slice) -> Tensor:
        """Predictions in the label's units, without dropout.

        Args:
            batch: inputs of the networks in ``networks``, in their order.
            networks: a contiguous range of networks.

        Returns:
            float32 of shape (networks), B, C.
        """
        predictions = []
        with torch.no_grad(), self.device.autocast():
            for chunk in self._chunks(networks, batch):
                raw = self.model.forward(self._views(chunk), batch[_shift(chunk, networks)], None)
                predictions.append(by_rows(self._predict, raw.float()))
        return torch.cat(predictions)

    def losses(self, batch: Batch, y_SB: Tensor, networks: slice) -> Tensor:
        """Each row's loss without dropout, (networks), B; NaN where the label is missing."""
        values = []
        with torch.no_grad(), self.device.autocast():
            for chunk in self._chunks(networks, batch):
                part = _shift(chunk, networks)
                raw = self.model.forward(self._views(chunk), batch[part], None).float()[:, :, 0]
                is_known = torch.isfinite(y_SB[part])
                loss = by_rows(self._elementwise, raw, torch.where(is_known, y_SB[part], 0.0))
                values.append(torch.where(is_known, loss, torch.nan))
        return torch.cat(values)

    def update(
        self,
        batch: Batch,
        y_SB: Tensor,
        weight_SB: Tensor,
        settings: OptimizerSettings,
        dropout_key_S: Tensor,
    ) -> Tensor:
        """One weighted step of every network that has a row with a positive weight.

        A network's loss is the mean over its rows with a label of weight x loss: weights that
        average to 1 keep the size of a step, smaller ones shrink it.

        Args:
            batch: the rows, C = 1, all S networks.
            y_SB: true labels; NaN = missing, the row then teaches this label nothing.
            weight_SB: how much each network learns from each row; 0 or more. A row that is
                padding has the weight NaN and does not count in the mean.
            settings: the optimizer's.
            dropout_key_S: a key per network.

        Returns:
            float32 S: the mean unweighted loss over the rows that were learned from; NaN where
            there were none.
        """
        losses = []
        for chunk in self._chunks(slice(0, self.n_networks), batch):
            losses.append(
                self._update_chunk(
                    chunk,
                    batch[chunk],
                    y_SB[chunk],
                    weight_SB[chunk],
                    settings,
                    dropout_key_S[chunk],
                )
            )
        return torch.cat(losses)

    def _update_chunk(
        self,
        chunk: slice,
        batch: Batch,
        y_SB: Tensor,
        weight_SB: Tensor,
        settings: OptimizerSettings,
        dropout_key_S: Tensor,
    ) -> Tensor:
        leaves = {name: p.detach().requires_grad_() for name, p in self._views(chunk).items()}
        counts_SB = torch.isfinite(y_SB) & torch.isfinite(weight_SB)
        learned_SB = counts_SB & (weight_SB > 0)
        weight_SB = torch.where(learned_SB, weight_SB, 0.0)
        with self.device.autocast():
            raw = self.model.forward(leaves, batch, dropout_key_S)
        # a row that teaches nothing must not overflow either: 0 times infinity is no number
        y_SB = torch.where(learned_SB, y_SB, 0.0)
        loss_SB = by_rows(self._elementwise, raw.float()[:, :, 0], y_SB)
        loss_S = (weight_SB * loss_SB).sum(1) / counts_SB.sum(1).clamp_min(1)
        grads = torch.autograd.grad(loss_S.sum(), list(leaves.values()))
        self._descend(chunk, grads, loss_S.detach(), learned_SB.any(1), settings)
        return torch.where(learned_SB, loss_SB.detach(), 0.0).sum(1) / learned_SB.sum(1)

    def _predict(self, raw_XO: Tensor) -> Tensor:
        return self.loss.predict(raw_XO, self.scale)

    def _elementwise(self, raw_XO: Tensor, y_X: Tensor) -> Tensor:
        return self.loss.elementwise(raw_XO, y_X, self.scale)

    def _descend(
        self,
        chunk: slice,
        grads: tuple[Tensor, ...],
        loss_S: Tensor,
        has_rows_S: Tensor,
        settings: OptimizerSettings,
    ) -> None:
        """One step in place; networks without rows or a finite gradient stay as they are."""
        # one after the other: a sum over a leading axis has other last bits at a tensor's end
        norm_S = sum((g.flatten(1).square().sum(1) for g in grads), loss_S.new_zeros(())).sqrt()
        finite_S = torch.isfinite(norm_S) & torch.isfinite(loss_S)
        active_S = has_rows_S & finite_S
        self.n_skipped_S[chunk] += has_rows_S & ~finite_S
        self.n_updates_S[chunk] += active_S
        t_S = self.n_updates_S[chunk].clamp_min(1).float()
        on_S = active_S.float()
        clip_S = torch.ones_like(norm_S)
        if settings.gradient_clip is not None:
            clip_S = (settings.gradient_clip / (norm_S + 1e-6)).clamp_max(1.0)
            clip_S = torch.where(active_S, clip_S, 1.0)
        step_S = on_S * settings.learning_rate / (1.0 - _BETA_1**t_S)
        root_S = (1.0 - _BETA_2**t_S).sqrt()
        for (name, p), g in zip(self._views(chunk).items(), grads, strict=True):
            along = (-1, *[1] * (p.dim() - 1))
            g = torch.where(active_S.view(along), g, 0.0)
            if settings.gradient_clip is not None:
                g.mul_(clip_S.view(along))
            if settings.weight_decay:
                g.add_(p, alpha=settings.weight_decay)
            if settings.kind == "sgd":
                p.sub_(g.mul_((settings.learning_rate * on_S).view(along)))
                continue
            m, v = self.moment_1[name][chunk], self.moment_2[name][chunk]
            m.lerp_(g, ((1.0 - _BETA_1) * on_S).view(along))
            v.lerp_(g.square_(), ((1.0 - _BETA_2) * on_S).view(along))
            denominator = v.sqrt().div_(root_S.view(along)).add_(_EPSILON)
            p.sub_(denominator.reciprocal_().mul_(m).mul_(step_S.view(along)))

    def _views(self, chunk: slice) -> dict[str, Tensor]:
        return {name: p[chunk] for name, p in self.params.items()}

    def _chunks(self, networks: slice, batch: Batch) -> Iterator[slice]:
        """Ranges of networks whose activations together fit the device's fast memory."""
        _, B, C = batch.shape
        floats = B * C * self.model.floats_per_row
        size = max(1, self.device.chunk_bytes // (4 * floats))
        starts = list(range(networks.start, networks.stop, size))
        if size > 1 and len(starts) > 1 and networks.stop - starts[-1] == 1:
            starts.pop()  # PyTorch multiplies a stack of one by another kernel, other last bits
        for start, stop in pairwise([*starts, networks.stop]):
            yield slice(start, stop)

    def state(self) -> dict[str, Tensor]:
        """Everything that changes while learning, as flat named tensors."""
        tensors = {"n_updates": self.n_updates_S, "n_skipped": self.n_skipped_S}
        for part in ("params", "moment_1", "moment_2"):
            tensors.update({f"{part}.{k}": v for k, v in getattr(self, part).items()})
        return tensors

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from a state of a learner with the same model and number of networks.

        Raises:
            ValueError: a tensor's name, shape or type is not that of this learner's state.
        """
        restore(self.state(), tensors)


def by_rows(function: Callable[..., Tensor], raw_XO: Tensor, *others_X: Tensor) -> Tensor:
    """Apply a function of rows so that a row's result does not depend on its place, to the bit.

    PyTorch computes exp, log and their kin in SIMD lanes, but the last few elements of a tensor
    (or of a thread's share of it) one by one, with other last bits. Padded to whole lanes, in
    blocks below the size from which threads share the work, there are no last few.

    Args:
        function: (raw_XO, *others_X) -> result_X, each row for itself.
        raw_XO: any shape X, with a last axis O.
        others_X: of the shape X.
    """
    shape, n = raw_XO.shape[:-1], raw_XO.shape[:-1].numel()
    pad = -n % _LANES
    raw_NO = F.pad(raw_XO.reshape(n, -1), (0, 0, 0, pad))
    others_N = [F.pad(x.reshape(n), (0, pad)) for x in others_X]
    starts = range(0, n + pad, _ROWS_BEFORE_THREADS)
    parts = [
        function(*(x[i : i + _ROWS_BEFORE_THREADS] for x in (raw_NO, *others_N))) for i in starts
    ]
    return (parts[0] if len(parts) == 1 else torch.cat(parts))[:n].view(shape)


def _shift(chunk: slice, networks: slice) -> slice:
    """The same networks, counted from the start of ``networks``."""
    return slice(chunk.start - networks.start, chunk.stop - networks.start)
