"""S networks of one or several labels: score candidates, learn from weighted outcomes.

Nothing here lets one network's result depend on another's: a loss is each network's own mean, the
gradient is clipped per network, Adam's step count is per network, and a network that has nothing
to learn in a step is left bit for bit as it was.

Axes: S stacked networks, B visits, C candidates, O outputs, J heads (labels of a network),
P parameters of a network.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor

from realdataexp.device import Device, Graphs, by_rows
from realdataexp.models import LOSSES, Batch, LabelScale, Loss, Selecting, StackedModel
from realdataexp.models.base import restore
from realdataexp.optimizers import LossScale, OptimizerSettings, Schedule, descend, join
from realdataexp.registry import is_registered


@dataclass(frozen=True)
class Head:
    """One label's part of a network's output: its loss, its location and scale."""

    loss: Loss
    scale: LabelScale
    n_outputs: int = 1

    def predict(self, raw_XO: Tensor) -> Tensor:
        """Predictions in the label's units."""
        return self.loss.predict(raw_XO, self.scale)

    def losses(self, raw_XO: Tensor, y_X: Tensor) -> Tensor:
        """Each row's loss."""
        return self.loss.elementwise(raw_XO, y_X, self.scale)


@dataclass
class Learner:
    """The networks of one label, or of several that share them, in all worlds.

    Attributes:
        model: the architecture; its outputs are the heads', one after the other.
        heads: J labels.
        params: name -> S, ... tensors.
        moment_1_SP, moment_2_SP: Adam's, each network's P parameters in a row.
        n_updates_S: Adam's step count.
        n_skipped_S: updates skipped because the loss or the gradient was not finite.
        rate_factor_S: what the schedule multiplies the learning rate with.
        best_S: the lowest validation value that ``observe`` has heard of; n_bad_S: how often it has
            heard of no better one since. Both are on the host.
        loss_scale: what keeps small gradients alive in float16; None in other types.
        shared: name -> parameters of all networks, without the axis S. They do not learn, or what
            one network learned would reach the others; so they are no part of the state.
    """

    model: StackedModel
    heads: tuple[Head, ...]
    device: Device
    params: dict[str, Tensor]
    moment_1_SP: Tensor
    moment_2_SP: Tensor
    n_updates_S: Tensor
    n_skipped_S: Tensor
    rate_factor_S: Tensor
    best_S: Tensor
    n_bad_S: Tensor
    loss_scale: LossScale | None
    shared: Mapping[str, Tensor]
    _graphs: Graphs = field(init=False)

    def __post_init__(self) -> None:
        self._graphs = Graphs(self.device, can_record=self.has_fixed_operations)

    @classmethod
    def start(
        cls,
        model: StackedModel,
        heads: tuple[Head, ...],
        device: Device,
        start: dict[str, Tensor],
        n_networks: int,
        shared: Mapping[str, Tensor] | None = None,
    ) -> Learner:
        """``n_networks`` copies of one network's parameters (without the axis S)."""
        nothing_S = torch.zeros(n_networks, dtype=torch.int64)
        return cls.of_starts(model, heads, device, [start], nothing_S, shared)

    @classmethod
    def of_starts(
        cls,
        model: StackedModel,
        heads: tuple[Head, ...],
        device: Device,
        starts: Sequence[Mapping[str, Tensor]],
        start_S: Tensor,
        shared: Mapping[str, Tensor] | None = None,
    ) -> Learner:
        """S networks, each a copy of one of ``starts`` (without the axis S), as ``start_S`` says.

        ``shared`` are the frozen parameters of all networks, on the device.
        """
        n_networks, to = len(start_S), device.torch
        at_S = start_S.to(to)
        params = {
            name: torch.stack([start[name].to(to) for start in starts])[at_S] for name in starts[0]
        }
        count_S = torch.zeros(n_networks, dtype=torch.int64, device=to)
        zeros_SP = torch.zeros_like(join(params.values()))
        return cls(
            model,
            heads,
            device,
            params,
            moment_1_SP=zeros_SP,
            moment_2_SP=zeros_SP.clone(),
            n_updates_S=count_S,
            n_skipped_S=count_S.clone(),
            rate_factor_S=torch.ones(n_networks, device=to),
            best_S=torch.full((n_networks,), torch.inf, dtype=torch.float64),
            n_bad_S=torch.zeros(n_networks, dtype=torch.int64),
            loss_scale=LossScale.start(n_networks, to) if device.needs_scaling else None,
            shared=shared or {},
        )

    @property
    def n_networks(self) -> int:
        """S."""
        return self.n_updates_S.shape[0]

    @property
    def has_fixed_operations(self) -> bool:
        """Whether scoring and learning are the same operations each time: of this package's."""
        has_own_losses = all(head.loss in LOSSES.values() for head in self.heads)
        model = self.model.model if isinstance(self.model, Selecting) else self.model
        return is_registered("model", type(model)) and has_own_losses

    def network(self, index: int) -> dict[str, Tensor]:
        """A copy of one network's parameters."""
        return {name: p[index].clone() for name, p in self.params.items()}

    def forward(
        self, params: Mapping[str, Tensor], batch: Batch, dropout_key_S: Tensor | None
    ) -> Tensor:
        """The model's raw outputs S, B, C, O, from some networks' own parameters."""
        params = {**params, **self.shared} if self.shared else params
        return self.model.forward(params, batch, dropout_key_S)

    def predict(
        self, batch: Batch, networks: slice, dropout_key_SB: Tensor | None = None
    ) -> Tensor:
        """Predictions in the labels' units, float32 (networks), B, C, J.

        ``networks`` is a contiguous range; the batch holds their inputs. There is no dropout but
        what their keys draw for each visit.
        """
        predictions = []
        for _, raw_SBCO in self._score(batch, networks, dropout_key_SB=dropout_key_SB):
            per_head = [by_rows(head.predict, part) for head, part in self._parts(raw_SBCO)]
            predictions.append(_heads(per_head))
        return predictions[0] if len(predictions) == 1 else torch.cat(predictions)

    def evaluate(
        self,
        batch: Batch,
        y_SBCJ: Tensor,
        networks: slice | None = None,
        place_S: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Predictions and losses of the same videos, in one pass without dropout.

        Args:
            batch: inputs of the networks in ``networks`` (None = all), in their order.
            y_SBCJ: their true labels; NaN = missing.
            networks: a contiguous range.
            place_S: where each of these networks' inputs and labels stand in ``batch`` and
                ``y_SBCJ``; None = each in its own place.

        Returns:
            What ``predict`` gives, and each label's loss, NaN where the label is missing.
        """
        networks = slice(0, self.n_networks) if networks is None else networks
        predictions, losses = [], []
        for rows, raw_SBCO in self._score(batch, networks, place_S):
            predicted, lost = [], []
            own = rows if place_S is None else place_S[rows]
            for k, (head, part) in enumerate(self._parts(raw_SBCO)):
                y_SBC = y_SBCJ[own][..., k]
                is_known = torch.isfinite(y_SBC)
                loss_SBC = by_rows(head.losses, part, torch.where(is_known, y_SBC, 0.0))
                lost.append(torch.where(is_known, loss_SBC, torch.nan))
                predicted.append(by_rows(head.predict, part))
            predictions.append(torch.stack(predicted, dim=-1))
            losses.append(torch.stack(lost, dim=-1))
        return torch.cat(predictions), torch.cat(losses)

    def losses(self, batch: Batch, y_SBJ: Tensor, networks: slice | None = None) -> Tensor:
        """The losses of ``evaluate`` for each visit's first candidate: (networks), B, J."""
        y_SBCJ = y_SBJ.unsqueeze(2).expand(-1, -1, batch.shape[2], -1)
        return self.evaluate(batch, y_SBCJ, networks)[1][:, :, 0]

    def _score(
        self,
        batch: Batch,
        networks: slice,
        place_S: Tensor | None = None,
        dropout_key_SB: Tensor | None = None,
    ) -> Iterator[tuple[slice, Tensor]]:
        """Each chunk's place in ``networks``, and its raw outputs: S, B, C, O."""
        for chunk in self._chunks(networks, batch):
            rows = slice(chunk.start - networks.start, chunk.stop - networks.start)
            with torch.no_grad(), self.device.autocast():
                own = batch[rows if place_S is None else place_S[rows]]
                key_SB = None if dropout_key_SB is None else dropout_key_SB[rows]
                raw_SBCO = self.forward(self._views(chunk), own, key_SB)
            yield rows, raw_SBCO

    def update(
        self,
        batch: Batch,
        y_SBJ: Tensor,
        weight_SB: Tensor,
        settings: OptimizerSettings,
        dropout_key_S: Tensor,
        n_done: int = 0,
        inflation_S: Tensor | None = None,
    ) -> Tensor:
        """One weighted step of every network that has a row with a positive weight.

        A head's loss is the mean over the network's rows with its label of weight x loss: weights
        that average to 1 keep the size of a step, smaller ones shrink it. A network's loss is the
        sum over its heads.

        Args:
            batch: the rows, C = 1, all S networks.
            y_SBJ: true labels; NaN = missing, the row then teaches this head nothing.
            weight_SB: how much each network learns from each row; 0 or more. A row that is
                padding has the weight NaN and does not count in the mean.
            settings: the optimizer's.
            dropout_key_S: a key per network.
            n_done: updates of the phase before this one, by which a cosine schedule goes.
            inflation_S: by how much the weights raise the mean square of each network's gradient,
                which Adam then divides it by; None: by nothing.

        Returns:
            float32 S, J: the mean unweighted loss over the rows that a head learned from; NaN
            where there were none.
        """
        if settings.schedule.kind == "cosine":
            self.rate_factor_S.fill_(settings.schedule.cosine(n_done))
        rows = (batch, y_SBJ, weight_SB, dropout_key_S)
        return self._graphs.run(self._update, *rows, settings, inflation_S)[0]

    def _update(
        self,
        batch: Batch,
        y_SBJ: Tensor,
        weight_SB: Tensor,
        dropout_key_S: Tensor,
        settings: OptimizerSettings,
        inflation_S: Tensor | None = None,
    ) -> tuple[Tensor]:
        rows: tuple[Tensor, ...] = (y_SBJ, weight_SB, dropout_key_S)
        if inflation_S is not None:
            rows = (*rows, inflation_S)
        losses = [
            self._update_chunk(chunk, settings, batch[chunk], *(x[chunk] for x in rows))
            for chunk in self._chunks(slice(0, self.n_networks), batch)
        ]
        return (torch.cat(losses),)

    def _update_chunk(
        self,
        chunk: slice,
        settings: OptimizerSettings,
        batch: Batch,
        y_SBJ: Tensor,
        weight_SB: Tensor,
        dropout_key_S: Tensor,
        inflation_S: Tensor | None = None,
    ) -> Tensor:
        leaves = {name: p.detach().requires_grad_() for name, p in self._views(chunk).items()}
        with self.device.autocast():
            raw = self.forward(leaves, batch, dropout_key_S)
        totals, means, has_rows = [], [], []
        for k, (head, part) in enumerate(self._parts(raw[:, :, 0])):
            counts_SB = torch.isfinite(y_SBJ[..., k]) & torch.isfinite(weight_SB)
            learned_SB = counts_SB & (weight_SB > 0)
            # a row that teaches nothing must not overflow either: 0 times infinity is no number
            y_SB = torch.where(learned_SB, y_SBJ[..., k], 0.0).to(part.dtype)
            loss_SB = by_rows(head.losses, part, y_SB)
            total_SB = torch.where(learned_SB, weight_SB, 0.0) * loss_SB
            totals.append(total_SB.sum(1) / counts_SB.sum(1).clamp_min(1))
            loss_SB = torch.where(learned_SB, loss_SB.detach(), 0.0)
            means.append(loss_SB.sum(1) / learned_SB.sum(1))
            has_rows.append(learned_SB.any(1))
        loss_S = sum(totals[1:], totals[0])
        scale = self.loss_scale
        scaled_S = loss_S if scale is None else scale.scale(loss_S, chunk)
        # a parameter that a model does not use gets a gradient of zeros
        leaf_list = list(leaves.values())
        grad_SP = join(torch.autograd.grad(scaled_S.sum(), leaf_list, materialize_grads=True))
        if scale is not None:
            grad_SP = scale.unscale(grad_SP, chunk)
        has_rows_S = has_rows[0] if len(has_rows) == 1 else torch.stack(has_rows).any(0)
        self._descend(chunk, grad_SP, loss_S.detach(), has_rows_S, settings, inflation_S)
        return torch.stack(means, dim=-1)

    def _descend(
        self,
        chunk: slice,
        grad_SP: Tensor,
        loss_S: Tensor,
        has_rows_S: Tensor,
        settings: OptimizerSettings,
        inflation_S: Tensor | None,
    ) -> None:
        """One step in place; networks without rows or a finite gradient stay as they are."""
        norm_S = torch.linalg.vector_norm(grad_SP, dim=1)
        finite_S = torch.isfinite(norm_S) & torch.isfinite(loss_S)
        is_active_S, is_failed_S = has_rows_S & finite_S, has_rows_S & ~finite_S
        if self.loss_scale is not None:
            is_due_S = has_rows_S & torch.isfinite(loss_S)
            overflows_S = is_due_S & ~torch.isfinite(norm_S)
            # an update that is lost to finding the scale is no failure
            is_failed_S &= ~self.loss_scale.update(is_due_S, overflows_S, chunk)
        self.n_skipped_S[chunk] += is_failed_S
        self.n_updates_S[chunk] += is_active_S
        descend(
            self._views(chunk),
            (self.moment_1_SP[chunk], self.moment_2_SP[chunk]),
            grad_SP,
            norm_S,
            is_active_S,
            self.n_updates_S[chunk],
            self.rate_factor_S[chunk],
            settings,
            inflation_S,
        )

    def observe(self, value_S: Tensor, schedule: Schedule) -> None:
        """Hear each network's validation value, lower = better; a plateau lowers its rate."""
        schedule.observe(value_S, self.best_S, self.n_bad_S, self.rate_factor_S)

    def _parts(self, raw_XO: Tensor) -> Iterator[tuple[Head, Tensor]]:
        """Each head with its outputs, in the type of the parameters."""
        sizes = [head.n_outputs for head in self.heads]
        raw_XO = raw_XO.to(self.moment_1_SP.dtype)
        return zip(self.heads, raw_XO.split(sizes, dim=-1), strict=True)

    def _views(self, chunk: slice) -> dict[str, Tensor]:
        if chunk == slice(0, self.n_networks):
            return self.params
        return {name: p[chunk] for name, p in self.params.items()}

    def _chunks(self, networks: slice, batch: Batch) -> Iterator[slice]:
        """Ranges of networks whose activations together fit the device's fast memory."""
        _, B, C = batch.shape
        floats = B * C * self.model.floats_per_row
        size = max(1, self.device.chunk_bytes // (4 * floats))
        n = networks.stop - networks.start
        # PyTorch multiplies a stack of one by another kernel, with other last bits
        n_chunks = max(1, min(-(-n // size), n // 2)) if size > 1 else n
        bounds = [networks.start + n * i // n_chunks for i in range(n_chunks + 1)]
        for start, stop in pairwise(bounds):
            yield slice(start, stop)

    def state(self) -> dict[str, Tensor]:
        """Everything that changes while learning, as flat named tensors."""
        names = ("n_updates", "n_skipped", "rate_factor", "best", "n_bad")
        tensors = {name: getattr(self, f"{name}_S") for name in names}
        tensors |= {"moment_1": self.moment_1_SP, "moment_2": self.moment_2_SP}
        tensors.update({f"params.{name}": p for name, p in self.params.items()})
        return tensors if self.loss_scale is None else tensors | self.loss_scale.state()

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from a state of the same names, shapes and types; raises ValueError for another."""
        restore(self.state(), tensors)


def _heads(per_head_X: list[Tensor]) -> Tensor:
    """What each head gives, as a last axis J; without a copy where there is one."""
    return per_head_X[0].unsqueeze(-1) if len(per_head_X) == 1 else torch.stack(per_head_X, dim=-1)


def skipped_share(n_updates_S: Tensor, n_skipped_S: Tensor, least_due: int = 20) -> Tensor:
    """Share of its due updates that each network skipped; 0 while fewer were due: S."""
    due_S = n_updates_S + n_skipped_S
    return torch.where(due_S >= least_due, n_skipped_S / due_S.clamp_min(1), 0.0)
