"""How much memory a run will need, roughly, from its config alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from realdataexp import draws
from realdataexp.config import NO_MODEL, Config, LabelConfig
from realdataexp.device import Device
from realdataexp.errors import InputError
from realdataexp.loop import n_networks
from realdataexp.models import FeatureSchema, SideSchema, StackedModel, build_model, is_shared
from realdataexp.models.base import shared_of
from realdataexp.registry import ComponentError, calling
from realdataexp.runs.machine import memory_limit, size
from realdataexp.runs.setup import make_blocks
from realdataexp.worlds import world_of

_BASE = 500 << 20  # Python with all packages, and the tables of a result
_FLOAT = 4
_COPIES = 5  # a parameter, its gradient and that in its row, its two moments
_SAVED = 3  # of these in a checkpoint, on their way through the host's memory
_ACTIVATIONS = 3  # forward, backward, and what an operation needs meanwhile
_INPUT_COPIES = 2


@dataclass(frozen=True)
class Need:
    """What a run needs, roughly.

    Attributes:
        networks: how many networks there are, all labels together.
        parameters: numbers of one network, on average.
        host: bytes of the machine's memory.
        device: bytes of an accelerator's memory; 0 on the CPU.
    """

    networks: int
    parameters: int
    host: int
    device: int


def memory_need(config: Config, device: Device) -> Need:
    """Estimate a run's memory; within a factor of two for the models of the package.

    - learning: networks x parameters x 4 bytes x 5 (value, gradient twice, two moments), and once
      what networks share;
    - inputs of a step: networks x visits x (candidates x features, and the history), twice;
    - activations: 3 times the device's chunk, or one network's where that is more, or those of a
      batch of pretraining;
    - simulated or synthetic data while they are made, and the visits of a validation;
    - 500 MiB for the program; on an accelerator the host needs that and a checkpoint's copy of
      parameters and moments.

    The log is memory-mapped and not counted. Categories are not known before the import: a
    feature has a known number, or a thousand, or one for each video.

    Raises:
        InputError: the config's models or designs are refused.
    """
    world, loop = world_of(config), config.simulation
    features = world.inputs(config)
    groups = label_groups(config)
    S = n_networks(make_blocks(config), config.experiment.replications)
    models = [_model(group, features) for group in groups]
    sizes = [_parameters(group, features) for group in groups]
    shared = _FLOAT * sum(_parameters(group, features, of_all=True) for group in groups)
    P, widest = sum(sizes), max(model.floats_per_row for model in models)
    rows = loop.batch_size * loop.n_candidate
    pretrained = config.pretrain.batch_size if config.pretrain.enabled else 0
    one = max(rows, pretrained) * widest * _FLOAT
    activations = _ACTIVATIONS * max(min(device.chunk_bytes, S * one), one)
    of_history = loop.batch_size * _history_of(config, features)
    inputs = _INPUT_COPIES * S * (rows * _inputs_of(features) + of_history) * _FLOAT
    learning = _COPIES * S * P * _FLOAT
    computing = learning + inputs + activations + shared
    n, host = S * len(groups), _BASE + world.made_bytes(config, _inputs_of(features))
    if device.torch.type == "cpu":
        return Need(n, P // len(groups), host + computing, 0)
    return Need(n, P // len(groups), host + _SAVED * S * P * _FLOAT, computing)


def require_memory(config: Config, device: Device) -> None:
    """Refuse a config whose run cannot fit this machine, before anything of it is made.

    Raises:
        InputError: It needs more memory than the process can ever have.
    """
    try:
        with calling("the config", "its models"):
            need = memory_need(config, device)
    except (InputError, ComponentError):
        return  # the set-up says what is wrong with the config, or with a part from outside
    limit = memory_limit()
    if need.host > limit:
        key, value = largest_setting(config)
        remedy = f"lower {key}" if need.host > 2 * _BASE else "give it more, see ulimit -v"
        raise InputError(
            f"{key} = {value:,}: the run needs about {size(need.host)} of memory, for "
            f"{need.networks:,} networks of {need.parameters:,} numbers, and there are "
            f"{size(limit)}: {remedy}"
        )


def largest_setting(config: Config) -> tuple[str, int]:
    """Of the settings that memory grows with, the one furthest above what is usual; its value."""
    loop, R = config.simulation, config.experiment.replications
    sizes = [
        ("experiment.replications", R, 20),
        ("simulation.batch_size", loop.batch_size, 64),
        ("simulation.n_candidate", loop.n_candidate, 10),
        ("validation.validation_batches", config.validation.validation_batches, 6),
        ("pretrain.batch_size", config.pretrain.batch_size if config.pretrain.enabled else 0, 1024),
    ]
    for i, label in enumerate(config.labels):
        if label.model != NO_MODEL:
            for name, value in label.model_params.items():
                numbers = [x for x in _listed(value) if isinstance(x, int)]
                usual = 1_000 if name == "cross_buckets" else 64
                sizes.append((f"labels.{i}.model_params.{name}", max(numbers, default=0), usual))
    sizes += world_of(config).sizes()
    key, value, _ = max(sizes, key=lambda entry: entry[1] / entry[2])
    return key, value


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def label_groups(config: Config) -> list[list[LabelConfig]]:
    """The labels of each network."""
    groups: dict[Any, list[LabelConfig]] = {}
    for label in config.labels:
        if label.model != NO_MODEL:
            is_alone = not is_shared(label.model)
            key = label.name if is_alone else (label.model, label.model_params["group"])
            groups.setdefault(key, []).append(label)
    return list(groups.values())


def _history_of(config: Config, features: FeatureSchema) -> int:
    """Numbers of a visit's history."""
    n = 0 if config.feature is None else config.feature.history
    return n * (1 + features.video.n_numerical + 3 * features.video.n_slots)


def _inputs_of(features: FeatureSchema) -> int:
    """Numbers of an input row: those of a feature, and an id and a weight for each slot."""
    sides = (features.user, features.video)
    return sum(side.n_numerical + 3 * side.n_slots for side in sides)


def _model(group: list[LabelConfig], features: FeatureSchema) -> StackedModel:
    first = group[0]
    outputs = [_n_outputs(label) for label in group]
    where = f"labels.{first.name}.model_params"
    return build_model(first.model, features, outputs, first.model_params, where)


def _n_outputs(label: LabelConfig) -> int:
    return {"binary": 2, "categorical": label.n_classes or 2}.get(label.type, 1)


def _parameters(group: list[LabelConfig], features: FeatureSchema, *, of_all: bool = False) -> int:
    """Numbers of a network, or of what all share.

    They are linear in the number of categories, so small ones tell of large ones, and nothing as
    large as the real tables is made.
    """
    small, n_small = _with_levels(features, 1)
    larger, n_larger = _with_levels(features, 2)
    # parameters without memory, unless an outside model makes its own
    where = "cpu" if ":" in group[0].model else "meta"
    key = draws.key(0, "size", torch.zeros((), dtype=torch.int64, device=where))
    models = [_model(group, f) for f in (small, larger)]
    at_small, at_larger = (
        sum(x.numel() for x in (shared_of(m, key) if of_all else m.init(key)).values())
        for m in models
    )
    if n_larger == n_small:
        return at_small
    n = features.user.n_ids + features.video.n_ids
    return at_small + (n - n_small) * (at_larger - at_small) // (n_larger - n_small)


def _with_levels(features: FeatureSchema, n: int) -> tuple[FeatureSchema, int]:
    """The same features with ``n`` categories each, and how many ids these have in all."""
    sides = []
    for side in (features.user, features.video):
        first_ids = tuple((2 + n) * i for i in range(len(side.fields)))
        n_ids = (2 + n) * len(side.fields)
        sides.append(SideSchema(side.n_numerical, side.fields, n_ids, side.numerical, first_ids))
    user, video = sides
    return FeatureSchema(user, video), user.n_ids + video.n_ids
