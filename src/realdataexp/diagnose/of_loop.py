"""The subjects of a diagnosis that are an experiment's networks, before or after pretraining.

Axes: S networks (one), B rows, C candidates (one), O outputs, L labels, J heads of a network.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from realdataexp import draws
from realdataexp.config import Config
from realdataexp.diagnose.subject import CannotTell, Change, Subject, varies
from realdataexp.errors import InputError, Warnings
from realdataexp.models import Batch
from realdataexp.models.base import Tensors, inputs_of
from realdataexp.models.batch import FeatureSchema
from realdataexp.optimizers import OptimizerSettings
from realdataexp.pretrain import order_of, rows_of
from realdataexp.runs.experiment import starting_of
from realdataexp.runs.labels import LabelParts, NetworkParts
from realdataexp.runs.networks import best_networks
from realdataexp.runs.setup import Setup, set_up
from realdataexp.worlds.base import RowSource

_OPTIMIZERS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}


@dataclass(frozen=True)
class Rows:
    """Rows to learn from: what networks are shown, and the labels of one of them."""

    shown: Batch
    y_BJ: Tensor


class Network(nn.Module):
    """One network of a label, or of several, as a module of its own."""

    def __init__(self, parts: NetworkParts, own: Tensors) -> None:
        """Take what computes it, and a network's parameters (without the axis S)."""
        super().__init__()
        self._parts, self._own = parts, tuple(own)
        self._random = nn.Dropout()  # whoever wants no noise sets this rate to 0 too
        for name, p in own.items():
            _hold(self, name, nn.Parameter(p.clone()))
        for name, p in parts.shared.items():
            _hold(self, name, nn.Parameter(p.clone(), requires_grad=False))

    def forward(self, shown: Batch) -> Tensor:
        """Raw outputs B, O."""
        params = dict(self.named_parameters())
        stacked = {k: p.unsqueeze(0) if k in self._own else p for k, p in params.items()}
        key_S = torch.randint(2**62, (1,)) if self.training and self._random.p else None
        return self._parts.model.forward(stacked, shown, key_S)[0, :, 0]


def _hold(module: nn.Module, name: str, p: nn.Parameter) -> None:
    """Register a parameter whose name has dots, which PyTorch allows of modules only."""
    *path, last = name.split(".")
    for part in path:
        if part not in dict(module.named_children()):
            module.add_module(part, nn.Module())
        module = module.get_submodule(part)
    module.register_parameter(last, p)


def subjects_of(config: Config, folder: Path | None = None) -> list[Subject]:
    """Each label's network as pretraining finds it or, in a folder, the best starting model.

    Raises:
        InputError: the config cannot run, or has no row to pretrain on.
    """
    setup = set_up(config, Warnings())
    rows = setup.environment.pretraining(setup.targets, 0)
    if not (config.pretrain.enabled and rows.n_rows):
        raise InputError("pretrain: there are no rows to pretrain on, so no batch to look at")
    if folder is not None:
        found = best_networks(folder, None).params
        own = [{k: p[0] for k, p in of.items()} for of in found]
    elif (starting := starting_of(setup, None, Warnings())) is not None:
        own = [dict(starts[0]) for starts in starting]
    else:
        seed = draws.start_seed(config.seed, 0)
        own = [x.model.init(draws.key(seed, f"init {x.draws_as}")) for x in setup.networks]
    return [
        _subject(setup, network, params, rows, folder)
        for network, params in zip(setup.networks, own, strict=True)
    ]


def _subject(
    setup: Setup, parts: NetworkParts, own: Tensors, rows: RowSource, folder: Path | None
) -> Subject:
    settings = parts.pretrain_optimizer

    def optimizer(model: nn.Module) -> torch.optim.Optimizer:
        return _optimizer(model, settings)

    def batches(n: int) -> list[Rows]:
        return _batches(setup, parts, rows, n)

    return Subject(
        name=parts.name,
        model=lambda: Network(parts, own),
        batches=batches,
        loss=partial(_loss, parts),
        optimizer=optimizer,
        rows=lambda batch, rows: Rows(batch.shown.visits(rows), batch.y_BJ[rows]),
        size=lambda batch: len(batch.y_BJ),
        changes=_changes(setup.environment.schema, parts, batches(1)[0]),
        shown=lambda batch: ({k: x[0] for k, x in batch.shown.tensors.items()}, batch.y_BJ),
        outputs=lambda model, batch: model(batch.shown),
        step=_step,
        entropy=_entropy(setup.members(parts)),
        learning_rate=settings.learning_rate,
        is_trained=folder is not None,
        frozen=tuple(parts.shared),
        folder=folder,
        data=setup.environment.identity().get("digest", ""),
    )


def _batches(setup: Setup, parts: NetworkParts, rows: RowSource, n: int) -> list[Rows]:
    """The first batches of pretraining."""
    config = setup.config.pretrain
    seed = draws.start_seed(setup.config.seed, 0)
    row_N = rows_of(seed, rows.n_rows, config.max_rows)
    row_N = row_N[order_of(seed, len(row_N), 0)]
    found = []
    for start in range(0, len(row_N), config.batch_size)[:n]:
        shown, y_L = rows.read(row_N[start : start + config.batch_size])
        found.append(Rows(shown, torch.stack([y_L[k][0] for k in parts.labels], dim=-1)))
    return found


def _loss(parts: NetworkParts, model: nn.Module, batch: Rows) -> Tensor:
    """The sum over heads of the mean loss over the rows with a label, as the learner has it."""
    raw_BO, total = model(batch.shown), torch.zeros(())
    sizes = [head.n_outputs for head in parts.heads]
    labels = zip(parts.heads, raw_BO.split(sizes, dim=-1), batch.y_BJ.unbind(-1), strict=True)
    for head, part, y_B in labels:
        is_known_B = torch.isfinite(y_B)
        loss_B = head.losses(part, torch.where(is_known_B, y_B, 0.0))
        total = total + torch.where(is_known_B, loss_B, 0.0).sum() / is_known_B.sum().clamp_min(1)
    return total


def _optimizer(model: nn.Module, settings: OptimizerSettings) -> torch.optim.Optimizer:
    learned = [p for p in model.parameters() if p.requires_grad]
    make: Callable[..., torch.optim.Optimizer] = _OPTIMIZERS[settings.kind]
    return make(learned, lr=settings.learning_rate, weight_decay=settings.weight_decay)


def _step(model: nn.Module, batch: Rows, rank: int, n: int) -> None:
    raise CannotTell("no batch is shared: each process of the loop has whole replications")


def _entropy(labels: Sequence[LabelParts]) -> float | None:
    """Nats of a guess; None unless all labels are classes."""
    n_classes = [
        {"BCE": 2, "CE": x.config.n_classes or 2}.get(x.config.loss_function or "") for x in labels
    ]
    return sum(math.log(n) for n in n_classes if n) if all(n_classes) else None


# --- inputs, permuted ----------------------------------------------------------------------------


def _changes(schema: FeatureSchema, parts: NetworkParts, batch: Rows) -> dict[str, Change]:
    """Of each feature that the network sees and that varies: the rows with it permuted."""
    columns: dict[str, dict[str, list[slice]]] = {}
    for own, _, side in schema.sides():
        for name in side.names:
            if parts.sees is None or name in parts.sees:
                found = side.columns([name])
                columns[name] = {f"{own}_{k}": [i for i, _ in x] for k, x in found.items() if x}
    for name in schema.extra:
        kind = "history" if name.startswith("history") else name
        columns.setdefault(kind, {})[name] = [slice(None)]
    asked = inputs_of(parts.model) or tuple(schema.inputs)
    columns = {name: {k: x for k, x in of.items() if k in asked} for name, of in columns.items()}
    changes = {name: partial(_permuted, of) for name, of in columns.items()}
    tensors = batch.shown.tensors
    return {
        name: changes[name]
        for name, of in columns.items()
        if any(varies(tensors[k][0][..., i]) for k, slices in of.items() for i in slices)
    }


def _permuted(columns: Mapping[str, list[slice]], batch: Rows, generator: torch.Generator) -> Rows:
    order_B = torch.randperm(len(batch.y_BJ), generator=generator)
    changed = batch.shown.map(torch.clone)
    for own in (changed.visit, changed.candidate, changed.sequence):
        for name in own.keys() & columns.keys():
            for i in columns[name]:
                own[name][..., i] = own[name][:, order_B][..., i]
    return replace(batch, shown=changed)
