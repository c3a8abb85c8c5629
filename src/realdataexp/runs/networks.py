"""Networks on their own: the best ones of a run, to be used elsewhere.

A file is safetensors (each network's parameters, with an axis in front that counts the members of
the file), whose header says as JSON what computes them: the models, the labels' losses and scales,
the features. Reading one runs no code but that of the models and losses that it names.

Axes: N rows, D numerical features, K category slots, L labels of a network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from realdataexp import draws
from realdataexp.device import by_rows
from realdataexp.errors import InputError, Warnings, did_you_mean
from realdataexp.files import read_json, require_regular
from realdataexp.learner import Head
from realdataexp.metrics import LOSS
from realdataexp.models import Batch, FeatureSchema, LabelScale, build_loss, build_model
from realdataexp.registry import ComponentError, faults_of
from realdataexp.report.files import read_run
from realdataexp.runs.checkpoint import PRETRAIN
from realdataexp.runs.folder import write_tensors
from realdataexp.runs.labels import Starts
from realdataexp.runs.setup import Setup
from realdataexp.worlds.base import start_of

_HEADER = "realdataexp"
_OWN, _SHARED = "params", "shared"  # of each member, and of all
STARTS = "checkpoints/starts.safetensors"  # the starting models, for shards
STARTING = "checkpoints/start_from.safetensors"  # in a run folder that has begun from networks
START = "start"  # the model of a starting model's network; its design is empty

Member = tuple[str, int, str]
"""Design, replication (of a starting model: its number) and model of a network."""


class NetworkCard(BaseModel):
    """What computes one label's network, or that of several; None: it sees all features."""

    model_config = ConfigDict(strict=True, frozen=True)

    labels: tuple[str, ...]
    model: str
    model_params: dict[str, Any]
    losses: tuple[str, ...]
    n_outputs: tuple[int, ...]
    scales: tuple[LabelScale, ...]
    sees: tuple[str, ...] | None = None


class Card(BaseModel):
    """What a file of networks holds: whose, after how many steps, and learned from which data."""

    model_config = ConfigDict(strict=True, frozen=True)

    format: Literal[1] = 1
    phase: Literal["pretrain", "loop"]
    step: int
    members: tuple[Member, ...]
    networks: tuple[NetworkCard, ...]
    features: FeatureSchema
    data: dict[str, Any]


@dataclass(frozen=True)
class Networks:
    """A file of networks: parameters of each of the card, with an axis of members in front.

    ``shared`` are the frozen ones of all members; ``label`` is whose metric they were found by.
    """

    path: Path
    card: Card
    params: Sequence[Mapping[str, Tensor]]
    shared: Sequence[Mapping[str, Tensor]]
    label: str | None = None

    def write(self, path: Path) -> None:
        """Write the file whole."""
        tensors = {
            f"{kind}.{i}.{k}": t
            for kind, found in ((_OWN, self.params), (_SHARED, self.shared))
            for i, of in enumerate(found)
            for k, t in of.items()
        }
        write_tensors(path, tensors, {_HEADER: self.card.model_dump_json()})

    def member(self, place: int, label: str | None = None) -> Networks:
        """The networks of one member, found by a metric of a label."""
        card = self.card.model_copy(update={"members": self.card.members[place : place + 1]})
        own = [{k: t[place : place + 1] for k, t in of.items()} for of in self.params]
        return Networks(self.path, card, own, self.shared, label)

    def module(self, label: str | None) -> Network:
        """The first member's network that predicts a label; None where there is one network."""
        labels = [name for card in self.card.networks for name in card.labels]
        if label is None and len(self.card.networks) > 1:
            raise InputError(f"{self.path}: has networks for {', '.join(labels)}: pass label")
        for card, own, shared in zip(self.card.networks, self.params, self.shared, strict=True):
            if label is None or label in card.labels:
                features = self.card.features
                features = features if card.sees is None else features.select(card.sees)
                params = {name: t[0] for name, t in own.items()}
                try:
                    return Network(card, features, params, shared, str(self.path))
                except ComponentError as error:
                    raise InputError(*faults_of(error)) from error
        raise InputError(
            f"{self.path}: no network predicts {label!r}{did_you_mean(label or '', labels)}; "
            f"known are {', '.join(labels)}"
        )


def networks_of(
    setup: Setup,
    phase: Literal["pretrain", "loop"],
    step: int,
    members: Sequence[Member],
    params: Sequence[Mapping[str, Tensor]],
) -> Networks:
    """A run's networks; see Networks and Card."""
    networks = []
    for network in setup.networks:
        labels = [label.config for label in setup.members(network)]
        networks.append(
            NetworkCard(
                labels=tuple(label.name for label in labels),
                model=labels[0].model,
                model_params=dict(labels[0].model_params),
                losses=tuple(label.loss_function or "" for label in labels),
                n_outputs=tuple(head.n_outputs for head in network.heads),
                scales=tuple(head.scale for head in network.heads),
                sees=network.sees,
            )
        )
    card = Card(
        phase=phase,
        step=step,
        members=tuple(members),
        networks=tuple(networks),
        features=setup.environment.schema,
        # of a simulated platform the config says all
        data=setup.environment.identity() or setup.config.dataset.model_dump(mode="json"),
    )
    return Networks(Path(), card, params, [network.shared for network in setup.networks])


def write_networks(path: Path, setup: Setup, starts: Starts) -> None:
    """Write the parameters of each start's network, for each of a run's networks."""
    members = [("", k, START) for k in range(len(starts[0]))]
    params = [{k: torch.stack([p[k] for p in of]) for k in of[0]} for of in starts]
    networks_of(setup, PRETRAIN, 0, members, params).write(path)


def read_networks(path: Path) -> Networks:
    """The networks of a file; InputError where it is not what ``Networks.write`` writes."""
    refusal = InputError(f"{path}: holds no networks of a run; export them again")
    try:
        require_regular(path)
        with safe_open(path, "pt") as file:
            header = (file.metadata() or {})[_HEADER]
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        card = Card.model_validate_json(header)
    except FileNotFoundError as error:
        raise InputError(
            f"{path}: not there; pass a run folder or a file made by export"
        ) from error
    except (OSError, SafetensorError, KeyError, ValidationError) as error:
        raise refusal from error
    found: dict[str, list[dict[str, Tensor]]] = {
        kind: [{} for _ in card.networks] for kind in (_OWN, _SHARED)
    }
    for name, tensor in tensors.items():
        kind, i, own = (*name.split(".", 2), "", "")[:3]
        is_known = kind in found and i.isdecimal() and int(i) < len(card.networks)
        if not is_known or (kind == _OWN and tensor.shape[:1] != (len(card.members),)):
            raise refusal
        if not bool(torch.isfinite(tensor).all()):
            raise InputError(f"{path}: {own} holds numbers that are not finite; export them again")
        found[kind][int(i)][own] = tensor
    return Networks(path, card, found[_OWN], found[_SHARED])


class Network(nn.Module):
    """A trained network: predictions in the labels' units, without dropout.

    Attributes:
        schema: the features, in the order of their columns.
        labels: L names, in the order of the predictions.
    """

    def __init__(
        self,
        card: NetworkCard,
        schema: FeatureSchema,
        params: Mapping[str, Tensor],
        shared: Mapping[str, Tensor],
        where: str,
    ) -> None:
        """Build the network; InputError, of ``where``, for other than its model's parameters."""
        super().__init__()
        self.schema, self.labels = schema, card.labels
        self._model = build_model(card.model, schema, card.n_outputs, card.model_params, where)
        self._heads = [
            Head(build_loss(loss, where), scale, n)
            for loss, scale, n in zip(card.losses, card.scales, card.n_outputs, strict=True)
        ]
        wanted = {k: t.shape for k, t in self._model.init(draws.key(0, "shapes")).items()}
        if wanted != {k: t.shape for k, t in params.items()}:
            raise InputError(
                f"{where}: its parameters are not those of {card.model} with its sizes"
            )
        self._names = {name: f"p_{name.replace('.', '_')}" for name in (*params, *shared)}
        self._shared = tuple(shared)
        for name, p in {**params, **shared}.items():
            own = nn.Parameter(p.clone(), requires_grad=name in params)
            self.register_parameter(self._names[name], own)

    def forward(self, num_ND: Tensor, cat_NK: Tensor, **extra: Tensor) -> Tensor:
        """Predictions N, L.

        Args:
            num_ND: the user's then the video's numerical features, as in ``schema``.
            cat_NK: the user's then the video's category ids, the video's shifted behind the
                user's; an empty slot of a multi-hot feature is the number of all ids.
            extra: what ``schema.extra`` names: N, ... each.
        """
        batch = self._batch(num_ND, cat_NK, extra)
        own = {name: getattr(self, of) for name, of in self._names.items()}
        params = {k: p if k in self._shared else p.unsqueeze(0) for k, p in own.items()}
        raw_NO = self._model.forward(params, batch, None)[0, :, 0].float()
        parts = raw_NO.split([head.n_outputs for head in self._heads], dim=-1)
        return torch.stack(
            [by_rows(head.predict, part) for head, part in zip(self._heads, parts, strict=True)],
            dim=-1,
        )

    def _batch(self, num_ND: Tensor, cat_NK: Tensor, extra: Mapping[str, Tensor]) -> Batch:
        """A visit with one candidate for each row."""
        user, n_ids = self.schema.user, self.schema.user.n_ids + self.schema.video.n_ids
        is_filled_NK = cat_NK < n_ids
        shift_1K = torch.zeros_like(cat_NK[:1])
        shift_1K[:, user.n_slots :] = user.n_ids
        blocks = {
            "num": (num_ND, user.n_numerical),
            "cat": (torch.where(is_filled_NK, cat_NK - shift_1K, 0).int(), user.n_slots),
            "weight": (is_filled_NK.to(num_ND.dtype), user.n_slots),
        }
        tensors = {f"user_{name}": x[:, :n] for name, (x, n) in blocks.items()}
        tensors |= {f"video_{name}": x[:, n:] for name, (x, n) in blocks.items()} | dict(extra)
        by_axis: dict[str, dict[str, Tensor]] = {"visit": {}, "candidate": {}, "sequence": {}}
        for name, wanted in self.schema.inputs.items():
            x = tensors[name].unsqueeze(0)
            by_axis[wanted.axis][name] = x.unsqueeze(2) if wanted.axis == "candidate" else x
        return Batch(**by_axis)


# --- in a run folder -----------------------------------------------------------------------------


def best_networks(
    run_dir: Path,
    metric: str | None,
    design: str | None = None,
    replication: int = 0,
    model: str | None = None,
) -> Networks:
    """The networks of a run that are best by a metric; see ``rx.load_model``.

    Raises:
        InputError: there are no such networks.
    """
    of_loop, starts, primary = _index(run_dir)
    name = primary if metric is None else metric
    if design is None and not starts:
        if (run_dir / "result.json").exists() and read_run(run_dir).trained:
            files = ", ".join(f"checkpoints/{x['networks']}" for x in of_loop.values())
            raise InputError(f"{run_dir}: is a training: its best parameters are in {files}")
        raise InputError(
            f"{run_dir}: nothing was pretrained; name the design whose network is meant"
        )
    best = of_loop if design else starts[start_of(replication, len(starts))]
    if name not in best:
        ranked = [x for x in of_loop if x not in best]
        more = f"; with a design also {', '.join(ranked)}" if ranked else ""
        raise InputError(
            f"{run_dir}: no best network by {name!r}{did_you_mean(name, best)}; known are "
            f"{', '.join(best)}{more}"
        )
    found = read_networks(run_dir / "checkpoints" / best[name]["networks"])
    label = name.partition(".")[0]
    if design is None:
        return found.member(0, label)
    members = found.card.members
    models = [m for d, r, m in members if (d, r) == (design, replication)]
    wanted = design, replication, model or ("T" if "T" in models else "shared")
    if wanted in members:
        return found.member(members.index(wanted), label)
    designs = list(dict.fromkeys(d for d, _, _ in members))
    fault = f"design {design} has no model {model!r}; known are {', '.join(models)}"
    if design not in designs:
        near = did_you_mean(design, designs)
        fault = f"no design {design!r}{near}; known are {', '.join(designs)}"
    elif not models:
        last = max(r for _, r, _ in members)
        fault = f"replication {replication}: must be from 0 to {last}"
    raise InputError(f"{run_dir}: {fault}")


def _index(run_dir: Path) -> tuple[dict[str, Any], list[dict[str, Any]], str]:
    """The best networks of the loop and of each start, by metric, and the primary metric."""
    path = run_dir / "checkpoints" / "index.json"
    try:
        index = read_json(path)
        starts = [{**x} for x in index["best_starts"]]
        return {**index["best"]}, starts, str(index["primary_metric"])
    except FileNotFoundError as error:
        raise InputError(
            f"{run_dir}: holds no checkpoints, so no networks; pass a run folder"
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: damaged, or of an older version; run the config again"
        ) from error


def starting_networks(path: Path, given: str, setup: Setup, warnings: Warnings) -> Starts:
    """The networks that a run starts from: parameters of each start's, for each of its networks.

    Of a run folder the starting models best by its primary metric are taken (or by its first
    label's loss, where pretraining has no value of that), start k from start k modulo their number;
    of a file of networks likewise. The config names it as ``given``.

    Raises:
        InputError: no such networks, or of other features or models.
    """
    where = f"pretrain.start_from = {given!r}"
    try:
        found = _of_starts(path)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    card, wanted = found[0].card, networks_of(setup, PRETRAIN, 0, (), ()).card
    if fault := _difference(card, wanted):
        raise InputError(f"{where}: {fault}; choose a run with the same features and labels")
    if card.data != wanted.data:
        warnings.add(
            "started_from_other_data",
            f"{where}: its networks learned from other data: categories, and the scales of "
            "numbers, may mean something else here",
        )
    has = [own.labels for own in card.networks]
    places = [has.index(own.labels) for own in wanted.networks]
    for network, place in zip(setup.networks, places, strict=True):
        shared = found[0].shared[place]
        if any(not torch.equal(p.cpu(), shared[k]) for k, p in network.shared.items()):
            raise InputError(
                f"{where}: the frozen parameters of its network for {network.name} are others; "
                "choose a run of the same seed"
            )
    starts = [found[k % len(found)].params for k in range(setup.config.experiment.n_starts)]
    found_starts = [
        [{name: t[0] for name, t in params[place].items()} for params in starts] for place in places
    ]
    return in_order(found_starts, setup)


def in_order(starts: Starts, setup: Setup) -> Starts:
    """Parameters of each start, for each of a run's networks, in the order that its model has.

    In a file they are in that of their names; an optimiser's moments, and a norm, have the model's.
    """
    orders = [[*x.model.init(draws.key(setup.config.seed, x.name))] for x in setup.networks]
    return [
        [{name: params[name] for name in order} for params in of_network]
        for order, of_network in zip(orders, starts, strict=True)
    ]


def _of_starts(path: Path) -> list[Networks]:
    """The networks of each start, in a run folder or a file."""
    if not path.is_dir():
        networks = read_networks(path)
        members = networks.card.members
        if len(members) > 1 and any(design for design, _, _ in members):
            raise InputError(f"{path}: has networks of several worlds; export those of one")
        return [networks.member(i) for i in range(len(members))]
    _, starts, name = _index(path)
    if not starts:
        raise InputError(
            f"{path}: nothing was pretrained; export a design's networks and pass their file"
        )
    if name not in starts[0]:
        name = next(metric for metric in starts[0] if metric.endswith(f".{LOSS}"))
    return [best_networks(path, name, replication=k) for k in range(len(starts))]


def _difference(has: Card, wants: Card) -> str | None:
    """What of these networks is other than wanted, in words."""
    if has.features.names != wants.features.names:
        return (
            f"its networks see the features {', '.join(has.features.names)}, and this config's "
            f"{', '.join(wants.features.names)}"
        )
    if has.features != wants.features:
        return "its features have other numbers of categories or columns"
    known = {card.labels: card for card in has.networks}
    for own in wants.networks:
        labels, other = "+".join(own.labels), known.get(own.labels)
        if other is None:
            return f"it has no network for {labels}, but for {', '.join(map('+'.join, known))}"
        for name in ("model", "model_params", "losses", "n_outputs", "sees"):
            was, now = getattr(other, name), getattr(own, name)
            if was != now:
                return f"its network for {labels} has {name} {was!r}, and this config's {now!r}"
    return None
