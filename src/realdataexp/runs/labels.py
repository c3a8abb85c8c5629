"""From a config's labels to their losses, scales and networks, and to how each of these learns."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch
from torch import Tensor

from realdataexp import draws
from realdataexp.config import Config, LabelConfig
from realdataexp.config.experiment import PretrainConfig, SchedulerConfig, SimulationConfig
from realdataexp.device import Device
from realdataexp.errors import InputError, Warnings, did_you_mean
from realdataexp.learner import Head
from realdataexp.loop import LabelPolicy
from realdataexp.models import (
    LabelScale,
    Loss,
    OutsideModel,
    StackedModel,
    build_loss,
    build_model,
    is_module,
    is_shared,
    outside_loss,
)
from realdataexp.models.base import FeatureSchema, Selecting, shared_of
from realdataexp.optimizers import OptimizerSettings, Schedule
from realdataexp.registry import ComponentError, calling, faults_of, find, is_outside
from realdataexp.worlds import Environment

Starts = Sequence[Sequence[Mapping[str, Tensor]]]
"""Parameters of each start's network, for each of a run's networks."""

_P = ParamSpec("_P")
_T = TypeVar("_T")
# labels that share a network must agree in these
_OF_SHARED = ("model_params", "learning_rate", "weight_decay", "features", "arms")
# what makes a label's network, apart from how it is trained
_OF_NETWORK = (
    "target", "type", "n_classes", "model", "loss_function", "model_params", "features",
)  # fmt: skip


# what a model of sequences may lack
_REMEDIES = {
    "history_mask": "set feature.history, in a world that replays rows; or use another model",
    "video_codes": "set dataset.codes",
    "video_cat": "list a categorical feature of the video",
}


class Faults(list[str]):
    """Gathers what is wrong, so that one fault does not hide the next."""

    def attempt(self, make: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T | None:
        """What is made, or None where that fails."""
        try:
            return make(*args, **kwargs)
        except (InputError, ComponentError) as error:
            self += [line for line in faults_of(error) if line not in self]
            return None

    def stop(self) -> None:
        """Raise InputError if there is a fault, with a line for each."""
        if self:
            raise InputError(*self)


@dataclass(frozen=True)
class LabelParts:
    """One label: its config, its head (loss, and scale over training rows), and its policy."""

    config: LabelConfig
    head: Head
    policy: LabelPolicy

    @property
    def unit(self) -> float:
        """Its predictions are divided by this before they enter a score."""
        return self.head.scale.unit_sd if self.config.score_unit == "standard" else 1.0

    @property
    def components(self) -> str:
        """What makes its predictions, as the config names it."""
        return f"model {self.config.model}, loss {self.config.loss_function}"


@dataclass(frozen=True)
class NetworkParts:
    """The network of one label, or of several that share it.

    Attributes:
        labels: their places among those with a model.
        shared: frozen parameters that all its copies share, on the device.
        pretrain_optimizer: for the starting model; the loop's is in the labels' policies.
        draws_as: the name that its draws go by.
        sees: the features that it sees; None: all.
    """

    name: str
    labels: tuple[int, ...]
    model: StackedModel
    shared: dict[str, Tensor]
    heads: tuple[Head, ...]
    pretrain_optimizer: OptimizerSettings
    draws_as: str
    sees: tuple[str, ...] | None


def check_names(config: Config, faults: Faults) -> None:
    """Look up what the labels with a model name."""
    for label in config.learned:
        faults.attempt(_loss, config, label)
        faults.attempt(_check_model, config, label)
    faults.attempt(network_groups, config)


def learners_of(
    config: Config, environment: Environment, device: Device, faults: Faults, warnings: Warnings
) -> tuple[tuple[LabelParts, ...], tuple[NetworkParts, ...]]:
    """The labels with a model and their networks, but for those with a fault."""
    groups = faults.attempt(network_groups, config) or []
    labels = [
        faults.attempt(_label_parts, config, label, arms, environment, warnings)
        for label, arms in zip(config.learned, _arms_of(config, groups), strict=True)
    ]
    networks = []
    for group in groups:
        members = [label for place in group if (label := labels[place]) is not None]
        if len(members) == len(group):
            made = faults.attempt(_network_parts, config, environment, device, group, members)
            networks.append(made)
    return tuple(x for x in labels if x is not None), tuple(x for x in networks if x is not None)


def network_groups(config: Config) -> list[tuple[int, ...]]:
    """Which of the labels with a model share a network, as places among them.

    Raises:
        InputError: labels of one network differ in its settings.
    """
    learned, places = config.learned, dict[Any, list[int]]()
    for place, label in enumerate(learned):
        key = (label.model, label.model_params["group"]) if is_shared(label.model) else place
        places.setdefault(key, []).append(place)
    for group in places.values():
        first, *others = (learned[place] for place in group)
        for name in _OF_SHARED:
            unlike = [x.name for x in others if getattr(x, name) != getattr(first, name)]
            if unlike:
                raise InputError(
                    f"{_where(config, first)}.{name}: {first.name} differs from "
                    f"{', '.join(unlike)}, but they share one {first.model}: make them equal, or "
                    "give another model_params.group"
                )
    return [tuple(group) for group in places.values()]


def _arms_of(
    config: Config, groups: Sequence[tuple[int, ...]]
) -> list[tuple[tuple[bool, bool], str]]:
    """For each label with a model: the arms that its network is for, and whose draws this has.

    Labels of different arms that differ in nothing that makes a network have the same draws, so
    that equal models are equal, and no luck tells the arms apart: common random numbers.
    """
    labels, found = config.learned, []
    arms = [config.arms_of(label) for label in labels]
    for group in groups:
        of_group = any(arms[i][0] for i in group), any(arms[i][1] for i in group)
        for i in group:
            arms[i] = of_group
    for i, label in enumerate(labels):
        twins = (
            other.name
            for j, other in enumerate(labels[:i])
            if all(getattr(label, x) == getattr(other, x) for x in _OF_NETWORK)
            and not any(a and b for a, b in zip(arms[i], arms[j], strict=True))
        )
        found.append((arms[i], next(twins, label.name)))
    return found


def _where(config: Config, label: LabelConfig) -> str:
    """The config path of a label."""
    return f"labels.{config.labels.index(label)}"


def _loss(config: Config, label: LabelConfig) -> Loss:
    name, where = label.loss_function, f"{_where(config, label)}.loss_function"
    assert name is not None  # the config's schema sees to it
    loss = build_loss(name, where)
    if not isinstance(loss, Loss):
        raise InputError(
            f"{where} = {name!r}: is not a realdataexp.models.Loss but a {type(loss).__name__}"
        )
    if label.type not in loss.types:
        raise InputError(
            f"{where} = {name!r}: is for labels of type {' or '.join(loss.types)}, and "
            f"{_where(config, label)}.type is {label.type}; use another loss"
        )
    return outside_loss(loss, f"{where} = {name!r}") if is_outside(name) else loss


def _check_model(config: Config, label: LabelConfig) -> None:
    where = f"{_where(config, label)}.model"
    component = find("model", label.model, where)
    if not isinstance(component, type):
        raise InputError(
            f"{where} = {label.model!r}: is not a class of models but a {type(component).__name__}"
        )


def _label_parts(
    config: Config,
    label: LabelConfig,
    arms: tuple[tuple[bool, bool], str],
    environment: Environment,
    warnings: Warnings,
) -> LabelParts:
    loss, loop = _loss(config, label), config.simulation
    values = environment.label_values(label.target)
    scale = fit_scale(label, _where(config, label), values, loss, warnings)
    rate = loop.learning_rate or label.learning_rate
    assert rate is not None  # the config's schema sees to it
    decay, schedule = _decay(loop, label), _schedule(loop.scheduler, loop.n_steps)
    optimizer = OptimizerSettings(rate, decay, loop.gradient_clip, loop.optimizer, schedule)
    head = Head(loss, scale, (label.n_classes or 2) if loss.is_class else 1)
    return LabelParts(label, head, LabelPolicy(label.name, optimizer, *arms))


def _network_parts(
    config: Config,
    environment: Environment,
    device: Device,
    group: tuple[int, ...],
    members: Sequence[LabelParts],
) -> NetworkParts:
    label, pretrain = members[0].config, config.pretrain
    _check_model(config, label)
    where = _where(config, label)
    heads = tuple(member.head for member in members)
    sizes = tuple(head.n_outputs for head in heads)
    who = f"{where}.model = {label.model!r}"
    schema, names = _seen(config, label, environment.schema)
    if lacking := [x for x in _needs(label.model) if x not in schema.inputs]:
        raise InputError(f"{who}: this run shows no {lacking[0]}: {_REMEDIES[lacking[0]]}")
    is_all = schema is environment.schema
    with calling(who, "its constructor", InputError):
        model = build_model(label.model, schema, sizes, label.model_params, f"{where}.model_params")
    if not is_all:
        model = Selecting(model, environment.schema, names)
    if is_outside(label.model):
        model = OutsideModel(model, sum(sizes), who)
    optimizer = OptimizerSettings(
        pretrain.learning_rate, _decay(pretrain, label), pretrain.gradient_clip,
        pretrain.optimizer, _schedule(pretrain.scheduler),
    )  # fmt: skip
    name = "+".join(member.config.name for member in members)
    draws_as = "+".join(member.policy.draws_as for member in members)
    shared = shared_of(model, draws.key(config.seed, f"shared {draws_as}"))
    shared = {k: p.to(device.torch) for k, p in shared.items()}
    sees = None if is_all else schema.names
    return NetworkParts(name, group, model, shared, heads, optimizer, draws_as, sees)


def features_read(config: Config, label: LabelConfig, schema: FeatureSchema) -> Sequence[str]:
    """The features that the network of a label reads: a model of sequences, videos' categories."""
    seen, needs = _seen(config, label, schema)[0], _needs(label.model)
    if not needs:
        return seen.names
    return [name for name, _, _ in seen.video.fields] if "video_cat" in needs else []


def _needs(model: str) -> tuple[str, ...]:
    """Inputs that a model of the package cannot do without."""
    return find("model", model, "model").needs if is_module(model) else ()


def _seen(
    config: Config, label: LabelConfig, schema: FeatureSchema
) -> tuple[FeatureSchema, tuple[str, ...]]:
    """What the network of a label sees of the features: a schema, and their names."""
    own = label.features or config.feature
    if own is None or set(schema.names) <= set(own.names):
        return schema, schema.names
    if label.features is not None:
        where = f"{_where(config, label)}.features"
        for kind in ("numerical", "categorical"):
            for i, name in enumerate(getattr(own, kind)):
                if name not in schema.names:
                    raise InputError(
                        f"{where}.{kind}.{i} = {name!r}: no such feature"
                        f"{did_you_mean(name, schema.names)}; there are {', '.join(schema.names)}"
                    )
        if not set(schema.video.names) & set(own.names):
            raise InputError(
                f"{where}: no video feature is listed, so a model cannot tell videos apart; add "
                f"one, such as {schema.video.names[0]}"
            )
    return schema.select(own.names), own.names


def _decay(phase: PretrainConfig | SimulationConfig, label: LabelConfig) -> float:
    """A phase's own weight decay, else the label's, else none."""
    return phase.weight_decay if phase.weight_decay is not None else label.weight_decay or 0.0


def _schedule(scheduler: SchedulerConfig, n_updates: int = 1) -> Schedule:
    return Schedule(**scheduler.model_dump(exclude_none=True), n_updates=n_updates)


def fit_scale(
    label: LabelConfig, where: str, values: Iterable[np.ndarray], loss: Loss, warnings: Warnings
) -> LabelScale:
    """Mean and spread of a label over training rows, from blocks of its known values.

    Raises:
        InputError: there is no value, or one that the label's type does not allow.
    """
    n, low, high, is_whole = 0, np.inf, -np.inf, True
    moments = np.zeros((2, 2))
    for y in values:
        if y.size:
            n += y.size
            low, high = min(low, y.min()), max(high, y.max())
            is_whole &= bool((y == np.round(y)).all())
            transformed = loss.transform(torch.from_numpy(y)).numpy()
            moments += [[v.sum(), (v * v).sum()] for v in (y, transformed)]
    target = f"{where}.target = {label.target!r}"
    if n == 0:
        raise InputError(f"{target}: no training row has a value; choose another target or log")
    n_classes = {"binary": 2, "categorical": label.n_classes}.get(label.type)
    if n_classes and not (is_whole and low >= 0 and high < n_classes):
        raise InputError(
            f"{target}: values from {low:g} to {high:g}{'' if is_whole else ', not whole'}; type "
            f"{label.type} needs whole numbers from 0 to {n_classes - 1}"
        )
    mean, square = moments[:, 0] / n, moments[:, 1] / n
    sd = np.sqrt(np.maximum(square - mean**2, 0.0))
    if sd[0] <= 1e-9 * max(1.0, abs(mean[0])):
        warnings.add(
            "constant_label",
            f"label {label.name}: {label.target} is {mean[0]:g} in every training row; it can "
            "show no effect",
        )
        sd = np.ones(2)
    return LabelScale(float(mean[1]), float(sd[1]), float(sd[0]))
