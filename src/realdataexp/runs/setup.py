"""From a config to everything a run needs: data, features, models and designs, all checked.

Axes: U users, L labels, M models.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from realdataexp import draws
from realdataexp.arms import Arms, Explore, Scorer
from realdataexp.config import NO_MODEL, Config, LabelConfig
from realdataexp.config.experiment import SchedulerConfig
from realdataexp.designs import Context, Design, OutsideDesign, build_design
from realdataexp.device import Device, choose_device
from realdataexp.errors import InputError, Warnings, did_you_mean
from realdataexp.learner import Head
from realdataexp.loop import Block, LabelPolicy
from realdataexp.metrics import LOSS, Metric, find_metric, metric_names
from realdataexp.models import (
    LabelScale,
    Loss,
    OutsideModel,
    StackedModel,
    build_loss,
    build_model,
    is_shared,
    outside_loss,
)
from realdataexp.models.base import FeatureSchema, Selecting, shared_of
from realdataexp.optimizers import OptimizerSettings, Schedule
from realdataexp.registry import ComponentError, calling, faults_of, find, is_outside
from realdataexp.runs.policies import (
    check_drawn_networks,
    how_arms_pick,
    networks_of,
    scorers_of,
)
from realdataexp.runs.rehearsal import Rehearsal
from realdataexp.runs.sharing import processes_of, shares
from realdataexp.stats.estimates import TRUTH
from realdataexp.stats.inference import rehearse_method
from realdataexp.worlds import Environment, world_of

_T = TypeVar("_T")


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
        name: the labels'.
        labels: their places among those with a model.
        model: the architecture.
        shared: frozen parameters that all its copies share, on the device.
        heads: the labels'.
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


@dataclass(frozen=True)
class Setup:
    """Everything a run needs.

    Attributes:
        labels: those with a model.
        networks: theirs, each of one label or of several.
        started: the designs of ``blocks``, as they run in each process, by its replications.
        metrics: of predictions, from outside the package, by name.
        n_processes: over how many processes the loop's replications are spread.
        histories: each start's table U, L of users' mean outcomes before the test; None without
            returning users.
        outcomes: targets of what is measured, by name.
        scorers: what scores for each arm in place of labels; None: nothing.
    """

    config: Config
    device: Device
    environment: Environment
    labels: tuple[LabelParts, ...]
    networks: tuple[NetworkParts, ...]
    outcomes: dict[str, str]
    histories: tuple[np.ndarray, ...] | None
    blocks: tuple[Block, ...]
    context: Context
    started: dict[tuple[int, ...], tuple[Design | OutsideDesign, ...]]
    n_processes: int
    scorers: tuple[Scorer | None, ...]
    metrics: Mapping[str, Metric] = field(default_factory=dict)

    def start_designs(self, replications: tuple[int, ...]) -> tuple[Design | OutsideDesign, ...]:
        """The designs as they run in some of the replications, for one loop."""
        ready = self.started.pop(replications, None)  # what they remember is one loop's
        return ready or _start(self.blocks, self.context, replications)

    @property
    def primary_metric(self) -> str:
        """What the best checkpoint is best by, such as click.auc."""
        return self.config.validation.primary_metric or f"{self.labels[0].config.name}.{LOSS}"

    @property
    def arms(self) -> Arms:
        """The control, which is the treatment in an A/A test, and the treatment."""
        policies = self.config.policies()
        return Arms(
            [
                [(p.score or {}).get(x.config.name, 0.0) / x.unit for x in self.labels]
                for p in policies
            ],
            self.scorers,
            [Explore(**policy.explore.model_dump()) for policy in policies],
            self.config.seed,
        )

    @property
    def world_targets(self) -> tuple[str, ...]:
        """What the world answers with: the labels' targets, then what else is measured."""
        return tuple(dict.fromkeys((*self.targets, *self.outcomes.values())))

    @property
    def label_at(self) -> tuple[int, ...] | None:
        """Where among them each label with a model is; None: they are the first."""
        return _places(self.targets, self.world_targets[: len(self.targets)], self.world_targets)

    @property
    def outcome_at(self) -> tuple[int, ...] | None:
        """Where among them each outcome is; None: they are all."""
        outcomes = tuple(self.outcomes.values())
        return _places(outcomes, self.world_targets, self.world_targets)

    @property
    def targets(self) -> tuple[str, ...]:
        """Targets of the labels with a model."""
        return tuple(label.config.target for label in self.labels)


def _places(
    wanted: tuple[str, ...], usual: tuple[str, ...], among: tuple[str, ...]
) -> tuple[int, ...] | None:
    return None if wanted == usual else tuple(among.index(name) for name in wanted)


class _Faults:
    """Gathers what is wrong, so that one fault does not hide the next."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def attempt(self, make: Callable[[], _T]) -> _T | None:
        """What is made, or None where that fails."""
        try:
            return make()
        except (InputError, ComponentError) as error:
            self.lines += [line for line in faults_of(error) if line not in self.lines]
            return None

    def stop(self) -> None:
        """Raise InputError if there is a fault, with a line for each."""
        if self.lines:
            raise InputError(*self.lines)


@dataclass(frozen=True)
class _Named:
    """What the labels with a model name; None where a name is wrong.

    Attributes:
        places: the labels, as places in the config.
        losses, models: theirs.
        groups: which share a network, as places among them.
    """

    places: list[int]
    losses: list[Loss | None]
    models: list[type | None]
    groups: list[tuple[int, ...]]

    @classmethod
    def of(cls, config: Config, faults: _Faults) -> _Named:
        """Look the names up."""
        places = [i for i, label in enumerate(config.labels) if label.model != NO_MODEL]
        losses = [faults.attempt(partial(_loss, config, i)) for i in places]
        models = [faults.attempt(partial(_check_model, config, i)) for i in places]
        groups = faults.attempt(lambda: _groups(config, places)) or []
        return cls(places, losses, models, groups)


def set_up(config: Config, warnings: Warnings, *, every_fault: bool = False) -> Setup:
    """Check a config against the machine and the data, and build what a run needs.

    Args:
        config: what to check and build.
        warnings: takes what is doubtful.
        every_fault: import the data, to check them too, when it is clear already that the config
            cannot run.

    Raises:
        InputError: with every fault found, a line each.
    """
    faults = _Faults()
    device = faults.attempt(lambda: choose_device(config.device, config.use_amp))
    blocks = faults.attempt(lambda: make_blocks(config))
    named = _Named.of(config, faults)
    world = world_of(config)
    doubts = faults.attempt(lambda: world.doubts(config)) or []
    metrics = faults.attempt(lambda: _own_metrics(config)) or {}
    faults.attempt(lambda: _check_primary_metric(config, metrics))
    faults.attempt(lambda: _check_intervals(config))
    faults.attempt(lambda: _check_history(config))
    in_files = faults.attempt(lambda: world.faults(config))
    faults.lines += in_files or []
    can_open = in_files == [] and (every_fault or not faults.lines)
    if device is not None and blocks is not None:
        can_open &= faults.attempt(partial(_fits, config, device)) is not None
    if not can_open:
        faults.stop()
    for code, message in doubts:
        warnings.add(code, message)
    place = device or choose_device("cpu")  # where the data are checked all the same
    environment = faults.attempt(lambda: world.open(config, place, warnings))
    if environment is None:
        raise InputError(*faults.lines)
    labels, networks = _learners(config, named, environment, place, faults, warnings)
    outcomes = config.measured
    targets = tuple(outcomes.values())
    histories = faults.attempt(lambda: _histories(config, environment, targets))
    n_users = None if histories is None else len(histories[0])
    scorers = faults.attempt(lambda: scorers_of(config, environment, place))
    faults.attempt(lambda: check_drawn_networks(config))
    context = _context(config, environment, place, n_users)
    n_processes = faults.attempt(lambda: processes_of(config, place))
    own = shares(config.experiment.replications, n_processes or 1)
    started = {r: faults.attempt(partial(_start, blocks or (), context, r)) or () for r in own}
    faults.stop()
    assert blocks is not None and n_processes is not None
    setup = Setup(
        config,
        place,
        environment,
        labels,
        networks,
        outcomes,
        histories,
        blocks,
        context,
        started,
        n_processes,
        tuple(scorers or ()),
        metrics,
    )
    _rehearse(setup)
    _warn_unused_rates(config, warnings)
    return setup


def _learners(
    config: Config,
    named: _Named,
    environment: Environment,
    device: Device,
    faults: _Faults,
    warnings: Warnings,
) -> tuple[tuple[LabelParts, ...], tuple[NetworkParts, ...]]:
    """The labels with a model and their networks, but for those with a fault."""
    labels = [
        faults.attempt(partial(_label_parts, config, i, loss, environment, warnings))
        if loss is not None
        else None
        for i, loss in zip(named.places, named.losses, strict=True)
    ]
    labels = [
        None
        if label is None
        else replace(label, policy=replace(label.policy, arms_A=arms, draws_as=name))
        for label, (arms, name) in zip(labels, networks_of(config, named.groups), strict=True)
    ]
    networks = []
    for group in named.groups:
        members = [label for place in group if (label := labels[place]) is not None]
        if len(members) == len(group) and all(named.models[x] is not None for x in group):
            make = partial(_network_parts, config, environment, device, group, members)
            networks.append(faults.attempt(make))
    return tuple(x for x in labels if x is not None), tuple(x for x in networks if x is not None)


def _rehearse(setup: Setup) -> None:
    """A step with made-up visits for all components from outside.

    Raises:
        InputError: with their faults, a line each.
    """
    config, loop, targets = setup.config, setup.config.simulation, setup.world_targets
    rehearsal = Rehearsal(
        setup.environment,
        targets,
        setup.context,
        loop.n_candidate,
        loop.min_candidates,
        config.experiment.assignment,
    )
    checks: list[Callable[[], None]] = [rehearsal.world]
    checks += [partial(rehearsal.design, block) for block in setup.blocks]
    for network in setup.networks:
        members = [setup.labels[place] for place in network.labels]
        losses = [
            f"labels.{config.labels.index(x.config)}.loss_function = {x.config.loss_function!r}"
            if is_outside(x.config.loss_function or "")
            else None
            for x in members
        ]
        optimizer = members[0].policy.optimizer
        places = [targets.index(x.config.target) for x in members]
        known = network.model, network.shared, network.heads, losses, places, optimizer
        checks.append(partial(rehearsal.network, *known))
    faults = _Faults()
    for check in checks:
        faults.attempt(check)
    faults.stop()


def _fits(config: Config, device: Device) -> bool:
    from realdataexp.runs.memory_need import require_memory  # which makes blocks too

    require_memory(config, device)
    return True


def _start(
    blocks: Sequence[Block], context: Context, replications: tuple[int, ...]
) -> tuple[Design | OutsideDesign, ...]:
    """The designs as they run in some of the replications.

    Raises:
        InputError: some cannot, a line each.
        ComponentError: one from outside fails.
    """
    context = replace(context, replication_R=torch.tensor(replications))
    found: list[Design | OutsideDesign] = []
    faults: list[str] = []
    for block in blocks:
        try:
            found.append(block.design.start(replace(context, label=block.label, p=block.p)))
        except (InputError, ComponentError) as error:
            faults += faults_of(error)
    if faults:
        raise InputError(*faults)
    return tuple(found)


def _context(
    config: Config, environment: Environment, device: Device, n_users: int | None
) -> Context:
    """What designs may know at their start."""
    return Context(
        label="",
        seed=config.seed,
        p=config.experiment.p_treatment,
        replication_R=torch.arange(config.experiment.replications),
        n_steps=config.simulation.n_steps,
        device=device,
        schema=environment.schema,
        n_starts=config.experiment.n_starts,
        tastes=cache(environment.tastes),  # a pass over the log, for each shard that asks
        has_exchangeable_candidates=environment.has_exchangeable_candidates,
        n_users=n_users,
        arms=how_arms_pick(config),
        assignment=config.experiment.assignment,
    )


def _histories(
    config: Config, environment: Environment, targets: tuple[str, ...]
) -> tuple[np.ndarray, ...] | None:
    """Each start's history; None where every visit is a new user."""
    found = [environment.history(targets, k) for k in range(config.experiment.n_starts)]
    known = tuple(history for history in found if history is not None)
    return known or None


def make_blocks(config: Config) -> tuple[Block, ...]:
    """The designs that the mode runs; the truth is two worlds of pooling, p = 1 and p = 0.

    Raises:
        InputError: with every fault of the designs, a line each.
    """
    blocks: list[Block] = []
    faults: list[str] = []
    if config.mode in ("global", "compare"):
        pooling = build_design("pooling", {}, "mode")
        blocks += [Block(TRUTH, pooling, 1.0), Block(TRUTH, pooling, 0.0)]
    for i, d in enumerate(config.designs()):
        where = f"experiment.designs.{i}" if config.mode == "compare" else "mode"
        try:
            design = build_design(d.name, d.options, where)
        except (InputError, ComponentError) as error:
            faults += faults_of(error)
        else:
            blocks.append(Block(d.label, design, config.experiment.p_treatment))
    if faults:
        raise InputError(*faults)
    return tuple(blocks)


def _loss(config: Config, index: int) -> Loss:
    name, where = config.labels[index].loss_function, f"labels.{index}.loss_function"
    assert name is not None  # the config's schema sees to it
    loss = build_loss(name, where)
    if not isinstance(loss, Loss):
        raise InputError(
            f"{where} = {name!r}: is not a realdataexp.models.Loss but a {type(loss).__name__}"
        )
    kind = config.labels[index].type
    if kind not in loss.types:
        raise InputError(
            f"{where} = {name!r}: is for labels of type {' or '.join(loss.types)}, and "
            f"labels.{index}.type is {kind}; use another loss"
        )
    return outside_loss(loss, f"{where} = {name!r}") if is_outside(name) else loss


def _check_model(config: Config, index: int) -> type:
    """The class that a label's model names."""
    name, where = config.labels[index].model, f"labels.{index}.model"
    component = find("model", name, where)
    if not isinstance(component, type):
        raise InputError(
            f"{where} = {name!r}: is not a class of models but a {type(component).__name__}"
        )
    return component


def _check_intervals(config: Config) -> None:
    faults: list[str] = []
    for i, name in enumerate(config.experiment.intervals or ()):
        try:
            rehearse_method(name, f"experiment.intervals.{i}")
        except InputError as error:
            faults += error.faults
    if faults:
        raise InputError(*faults)


def _own_metrics(config: Config) -> dict[str, Metric]:
    """The metrics from outside the package, by name."""
    where = "validation.metrics"
    asked = enumerate(config.validation.metrics)
    return {name: find_metric(name, f"{where}.{i}") for i, name in asked}


def _check_primary_metric(config: Config, own: Mapping[str, Metric]) -> None:
    name = config.validation.primary_metric
    kinds = {x.name: x.type for x in config.learned}
    known = [
        f"{label}.{metric}"
        for label in dict.fromkeys((*kinds, *config.measured))
        for metric in metric_names(kinds.get(label), own, is_measured=label in config.measured)
    ]
    if name is not None and name not in known:
        raise InputError(
            f"validation.primary_metric = {name!r}: no such metric{did_you_mean(name, known)}; "
            f"known are {', '.join(known)}"
        )


def _check_history(config: Config) -> None:
    n = 0 if config.feature is None else config.feature.history
    if n and not any(is_outside(label.model) for label in config.labels):
        raise InputError(
            f"feature.history = {n}: no label's model reads it, as the package's models see "
            "features only; name a model of your own that does, or remove it"
        )
    if n and config.pretrain.enabled and config.pretrain.rows == "overlap":
        raise InputError(
            f"feature.history = {n}: with pretrain.rows = 'overlap' a user's history would hold "
            "the very rows that are replayed; use rows: early or share"
        )


def _label_parts(
    config: Config,
    index: int,
    loss: Loss,
    environment: Environment,
    warnings: Warnings,
) -> LabelParts:
    label, where = config.labels[index], f"labels.{index}"
    n_outputs = 1
    if loss.is_class:
        n_outputs = label.n_classes or 2
    scale = fit_scale(label, where, environment.label_values(label.target), loss, warnings)
    loop = config.simulation
    rate = loop.learning_rate or label.learning_rate
    assert rate is not None  # the config's schema sees to it
    decay = _first(loop.weight_decay, label.weight_decay)
    policy = LabelPolicy(
        label.name,
        OptimizerSettings(
            rate,
            decay,
            loop.gradient_clip,
            loop.optimizer,
            _schedule(loop.scheduler, loop.n_steps),
        ),
    )
    return LabelParts(label, Head(loss, scale, n_outputs), policy)


def _schedule(scheduler: SchedulerConfig, n_updates: int = 1) -> Schedule:
    given = scheduler.model_dump(exclude_none=True)
    return Schedule(**given, n_updates=n_updates)


def _groups(config: Config, learned: list[int]) -> list[tuple[int, ...]]:
    """Which of the labels with a model share a network, as places among them.

    Raises:
        InputError: labels of one network differ in its settings.
    """
    places: dict[Any, list[int]] = {}
    for place, i in enumerate(learned):
        label = config.labels[i]
        key = (label.model, label.model_params["group"]) if is_shared(label.model) else place
        places.setdefault(key, []).append(place)
    for group in places.values():
        first, *others = (config.labels[learned[place]] for place in group)
        for name in ("model_params", "learning_rate", "weight_decay", "features", "arms"):
            unlike = [x.name for x in others if getattr(x, name) != getattr(first, name)]
            if unlike:
                raise InputError(
                    f"labels.{learned[group[0]]}.{name}: {first.name} differs from "
                    f"{', '.join(unlike)}, but they share one {first.model}: make them equal, or "
                    "give another model_params.group"
                )
    return [tuple(group) for group in places.values()]


def _seen(
    config: Config, label: LabelConfig, schema: FeatureSchema
) -> tuple[FeatureSchema, tuple[str, ...]]:
    """What the network of a label sees of the features: a schema, and their names.

    Raises:
        InputError: the label's own features are none of the world's, or none of a video's.
    """
    own = label.features or config.feature
    if own is None or set(schema.names) <= set(own.names):
        return schema, schema.names
    if label.features is not None:
        where = f"labels.{config.labels.index(label)}.features"
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


def _network_parts(
    config: Config,
    environment: Environment,
    device: Device,
    group: tuple[int, ...],
    members: Sequence[LabelParts],
) -> NetworkParts:
    label, pretrain = members[0].config, config.pretrain
    where = f"labels.{config.labels.index(label)}"
    sizes = tuple(member.head.n_outputs for member in members)
    who = f"{where}.model = {label.model!r}"
    schema, names = _seen(config, label, environment.schema)
    with calling(who, "its constructor", InputError):
        model = build_model(label.model, schema, sizes, label.model_params, f"{where}.model_params")
    if schema is not environment.schema:
        model = Selecting(model, environment.schema, names)
    if is_outside(label.model):
        model = OutsideModel(model, sum(sizes), who)
    optimizer = OptimizerSettings(
        pretrain.learning_rate,
        _first(pretrain.weight_decay, label.weight_decay),
        pretrain.gradient_clip,
        pretrain.optimizer,
        _schedule(pretrain.scheduler),
    )
    heads = tuple(member.head for member in members)
    name = "+".join(member.config.name for member in members)
    draws_as = "+".join(member.policy.draws_as for member in members)
    shared = shared_of(model, draws.key(config.seed, f"shared {draws_as}"))
    shared = {k: p.to(device.torch) for k, p in shared.items()}
    sees = None if schema is environment.schema else schema.names
    return NetworkParts(name, group, model, shared, heads, optimizer, draws_as, sees)


def _first(phase: float | None, label: float | None) -> float:
    """A phase's own setting, else the label's, else none."""
    return phase if phase is not None else label or 0.0


def fit_scale(
    label: LabelConfig,
    where: str,
    values: Iterable[np.ndarray],
    loss: Loss,
    warnings: Warnings,
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


def _warn_unused_rates(config: Config, warnings: Warnings) -> None:
    """A label's own rates act only in a phase that gives none."""
    loop, pretrain = config.simulation, config.pretrain
    if loop.learning_rate is not None:
        names = [x.name for x in config.labels if x.learning_rate is not None]
        if names:
            warnings.add(
                "label_rate_unused",
                f"learning_rate of {', '.join(names)} has no effect: pretrain.learning_rate and "
                "simulation.learning_rate give their own (null lets the labels' act in the loop)",
            )
    is_decay_given = loop.weight_decay is not None and (
        pretrain.weight_decay is not None or not pretrain.enabled
    )
    if is_decay_given and any(x.weight_decay is not None for x in config.labels):
        warnings.add(
            "label_decay_unused",
            "weight_decay of the labels has no effect: pretrain and simulation give their own",
        )
