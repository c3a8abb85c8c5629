"""From a config to everything a run needs: data, features, models and designs, all checked.

Axes: U users, L labels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from realdataexp.arms import Arms, Explore, MostPopular, OutsidePolicy, Policy, Random, Scorer
from realdataexp.config import ARMS, Config, DerivedConfig
from realdataexp.designs import Context, Design, OutsideDesign, build_design
from realdataexp.device import Device, can_fork, choose_device, n_gpus, usable_threads
from realdataexp.errors import InputError, Warnings, did_you_mean
from realdataexp.loop import Block
from realdataexp.metrics import LOSS, Metric, derived_names, find_metric, metric_names
from realdataexp.models import is_module
from realdataexp.models.batch import FeatureSchema
from realdataexp.options import construct
from realdataexp.registry import find, is_outside, names
from realdataexp.runs.beforehand import rehearse, require_memory
from realdataexp.runs.labels import (
    Faults,
    LabelParts,
    NetworkParts,
    check_names,
    features_read,
    learners_of,
)  # fmt: skip
from realdataexp.runs.machine import versions
from realdataexp.stats.detection import rehearse_detector
from realdataexp.stats.estimates import TRUTH
from realdataexp.stats.inference import Method, find_method, rehearse_method
from realdataexp.stats.ratios import before
from realdataexp.worlds import Environment, world_of
from realdataexp.worlds.base import WorldSettings

LOCAL = "local"  # the executor that runs processes here

Started = tuple[Design | OutsideDesign, ...]


@dataclass(frozen=True)
class Setup:
    """Everything a run needs.

    Attributes:
        labels: those with a model.
        networks: theirs, each of one label or of several.
        outcomes: targets of what is measured, by name.
        ratios: numerators and denominators of outcomes that are ratios, by name.
        histories: each start's table U, L of users' mean outcomes before the test; None without
            returning users.
        started: the designs of ``blocks``, as they run in each process here, by its replications.
        n_processes: over how many the loop's replications are spread.
        scorers: what scores for each arm in place of labels; None: nothing.
        metrics: from outside the package, and of derived columns by a label's predictions, by name.
    """

    config: Config
    device: Device
    environment: Environment
    labels: tuple[LabelParts, ...]
    networks: tuple[NetworkParts, ...]
    outcomes: dict[str, str]
    ratios: dict[str, tuple[str, str]]
    histories: tuple[np.ndarray, ...] | None
    blocks: tuple[Block, ...]
    context: Context
    started: dict[tuple[int, ...], Started]
    n_processes: int
    scorers: tuple[Scorer | None, ...]
    metrics: Mapping[str, Metric]

    def start_designs(self, replications: tuple[int, ...]) -> Started:
        """The designs as they run in some of the replications, for one loop."""
        ready = self.started.pop(replications, None)  # what they remember is one loop's
        return ready or _start(self.blocks, self.context, replications)

    def records(self, needs: Callable[[Method], bool]) -> bool:
        """Whether an interval method that is named needs something that is not recorded else."""
        named = self.config.experiment.intervals or ()
        return any(needs(find_method(name, "experiment.intervals")) for name in named)

    def members(self, network: NetworkParts) -> list[LabelParts]:
        """The labels of a network."""
        return [self.labels[place] for place in network.labels]

    def world_settings(self, replications: tuple[int, ...]) -> WorldSettings:
        """How the worlds of some of the replications draw."""
        loop, assignment = self.config.simulation, self.config.experiment.assignment
        return WorldSettings(
            self.config.seed, replications, len(self.blocks), loop.batch_size, loop.n_candidate,
            loop.n_steps, loop.min_candidates, assignment, loop.time_slices or 1,
        )  # fmt: skip

    def identity(self) -> dict[str, Any]:
        """What parts of a run must have in common: config, data, and versions of what computes."""
        own = {k: v for k, v in versions().items() if k not in ("git_revision", "platform")}
        data = self.environment.identity()
        return {"config": self.config.decisive(), "data": data, "versions": own}

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
    def targets(self) -> tuple[str, ...]:
        """Targets of the labels with a model."""
        return tuple(label.config.target for label in self.labels)

    @property
    def world_targets(self) -> tuple[str, ...]:
        """What the world answers with: the labels' targets, then what else is measured."""
        return tuple(dict.fromkeys((*self.targets, *self._recorded)))

    @property
    def held_out_targets(self) -> tuple[str, ...]:
        """These, then what predictions are judged by besides; see ``derived_of_labels``."""
        asked = (name for _, x in derived_of_labels(self.config) for name in (x.name, x.columns[1]))
        return tuple(dict.fromkeys((*self.world_targets, *asked)))

    @property
    def _recorded(self) -> tuple[str, ...]:
        """Targets of the outcomes, then numerator and denominator of each ratio."""
        return recorded(self.outcomes, self.ratios)

    @property
    def label_at(self) -> tuple[int, ...] | None:
        """Where among them each label with a model is; None: they are the first."""
        at = tuple(map(self.world_targets.index, self.targets))
        return None if at == tuple(range(len(at))) else at

    @property
    def outcome_at(self) -> tuple[int, ...] | None:
        """Where among them each outcome, and then each ratio's two, are; None: they are all."""
        at = tuple(map(self.world_targets.index, self._recorded))
        return None if at == tuple(range(len(self.world_targets))) else at


def set_up(config: Config, warnings: Warnings, *, every_fault: bool = False) -> Setup:
    """Check a config against the machine and the data, and build what a run needs.

    ``every_fault``: import the data, to check them too, when it is clear already that the config
    cannot run.

    Raises:
        InputError: with every fault found, a line each.
    """
    faults = Faults()
    attempt, world = faults.attempt, world_of(config)
    device = attempt(choose_device, config.device, config.use_amp)
    blocks = attempt(make_blocks, config)
    check_names(config, faults)
    doubts = attempt(world.doubts, config) or []
    metrics = attempt(_own_metrics, config) or {}
    for _, x in derived_of_labels(config):
        metrics |= derived_names(x.name, x.rule)
    attempt(_check_primary_metric, config, metrics)
    for i, name in enumerate(config.experiment.intervals or ()):
        attempt(rehearse_method, name, f"experiment.intervals.{i}")
    for i, name in enumerate(config.experiment.detectors or ()):
        attempt(rehearse_detector, name, f"experiment.detectors.{i}")
    attempt(_check_sequences, config)
    in_files = attempt(world.faults, config)
    faults += in_files or []
    can_open = in_files == [] and (every_fault or not faults)
    if can_open and device is not None and blocks is not None:
        n = len(faults)
        attempt(require_memory, config, device, blocks)
        can_open = len(faults) == n
    if not can_open:
        faults.stop()
    for code, message in doubts:
        warnings.add(code, message)
    place = device or choose_device("cpu")  # where the data are checked all the same
    environment = attempt(world.open, config, place, warnings)
    if environment is None:
        raise InputError(*faults)
    labels, networks = learners_of(config, environment, place, faults, warnings)
    outcomes, ratios = config.measured, config.ratios
    starts, targets = range(config.experiment.n_starts), recorded(outcomes, ratios)
    found = [attempt(environment.history, targets, start) for start in starts]
    histories = tuple(before(x, len(ratios)) for x in found if x is not None) or None
    attempt(check_denominators, config, environment)
    scorers = attempt(_scorers, config, environment, place) or ()
    attempt(_check_drawn_networks, config)
    context = _context(config, environment, place, histories)
    n_processes = attempt(processes_of, config, place)
    all_shares = shares(config.experiment.replications, n_processes or 1)
    # parts that run elsewhere start their own; the first one's are started to see that they can be
    own_shares = all_shares if config.simulation.executor == LOCAL else all_shares[:1]
    started = {own: attempt(_start, blocks or (), context, own) or () for own in own_shares}
    faults.stop()
    assert blocks is not None and n_processes is not None
    setup = Setup(
        config, place, environment, labels, networks, outcomes, ratios, histories, blocks, context,
        started, n_processes, scorers, metrics,
    )  # fmt: skip
    rehearse(setup)
    _warn_unused_rates(config, warnings)
    _warn_unread_features(config, environment.schema, warnings)
    return setup


def recorded(outcomes: Mapping[str, str], ratios: Mapping[str, tuple[str, str]]) -> tuple[str, ...]:
    """The targets that are recorded: of each outcome, then the two of each ratio."""
    return (*outcomes.values(), *chain(*ratios.values()))


def check_denominators(config: Config, environment: Environment) -> None:
    """Raise an InputError where a ratio's denominator is below 0 in a training row."""
    for name, (_, column) in config.ratios.items():
        least = min((y.min() for y in environment.label_values(column) if y.size), default=0.0)
        if least < 0:
            raise InputError(
                f"{config.targets.get(column, 'derived')}: {column!r} is the denominator of the "
                f"ratio {name}, but has values below 0, the least {least:g}; a denominator must be "
                "0 or more: choose another, or make such values missing"
            )


# --- designs and arms ----------------------------------------------------------------------------


def make_blocks(config: Config) -> tuple[Block, ...]:
    """The designs that the mode runs; the truth is two worlds of pooling, p = 1 and p = 0.

    Raises:
        InputError: with every fault of the designs, a line each.
    """
    blocks: list[Block] = []
    faults = Faults()
    if config.mode in ("global", "compare"):
        pooling = build_design("pooling", {}, "mode")
        blocks += [Block(TRUTH, pooling, 1.0), Block(TRUTH, pooling, 0.0)]
    for i, d in enumerate(config.designs()):
        where = f"experiment.designs.{i}" if config.mode == "compare" else "mode"
        design = faults.attempt(build_design, d.name, d.options, where)
        if design is not None:
            blocks.append(Block(d.label, design, config.experiment.p_treatment))
    faults.stop()
    return tuple(blocks)


def _start(blocks: Sequence[Block], context: Context, replications: tuple[int, ...]) -> Started:
    """The designs as they run in some of the replications; InputError where some cannot."""
    context = replace(context, replication_R=torch.tensor(replications))
    found: list[Design | OutsideDesign | None] = []
    faults = Faults()
    for block in blocks:
        own = replace(context, label=block.label, p=block.p)
        start: Callable[[Context], Design | OutsideDesign] = block.design.start
        found.append(faults.attempt(start, own))
    faults.stop()
    return tuple(x for x in found if x is not None)


def _context(
    config: Config,
    environment: Environment,
    device: Device,
    histories: tuple[np.ndarray, ...] | None,
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
        n_users=len(histories[0]) if histories is not None and environment.has_memory else None,
        arms=_how_arms_pick(config),
        assignment=config.experiment.assignment,
        n_shown=environment.n_shown,
    )


def _how_arms_pick(config: Config) -> Literal["pick the best", "explore", "unknown"]:
    """How random a pick is, given slate and networks; see designs.Context."""
    policies = config.policies()
    kinds = {policy.explore.kind for policy in policies}
    if "thompson" in kinds:
        return "unknown"
    is_random = any(policy.rule == "random" for policy in policies)
    return "explore" if is_random or kinds != {"none"} else "pick the best"


def _scorers(config: Config, environment: Environment, device: Device) -> tuple[Scorer | None, ...]:
    """What scores for each arm in place of labels: a rule, or a policy from outside."""
    found: list[Scorer | None] = []
    arms = (ARMS[1], ARMS[1]) if config.experiment.aa else ARMS
    for arm, policy in zip(arms, config.policies(), strict=True):
        where = f"arms.{arm}"
        if policy.rule == "random":
            found.append(Random())
        elif policy.rule == "most_popular":
            count = [environment.popularity(k) for k in range(config.experiment.n_starts)]
            known = [x for x in count if x is not None]
            if not known:
                raise InputError(
                    f"{where}.rule = 'most_popular': every item of this world is new, so none is "
                    "popular; use rule: random, or a score"
                )
            found.append(MostPopular(device.tensor(np.stack(known).astype(np.float32))))
        elif policy.policy is not None:
            who = f"{where}.policy = {policy.policy!r}"
            component = find("policy", policy.policy, f"{where}.policy")
            if not (isinstance(component, type) and issubclass(component, Policy)):
                raise InputError(f"{who}: is not a class of realdataexp.arms.Policy")
            made = construct(component, policy.policy, policy.options, f"{where}.policy")
            found.append(OutsidePolicy(made, who))
        else:
            found.append(None)
    return tuple(found)


def _check_drawn_networks(config: Config) -> None:
    """Thompson sampling draws networks by dropout; InputError where no network has any."""
    for arm, policy in zip(ARMS, config.policies(), strict=True):
        asked = [x for x in config.learned if x.name in (policy.score or {})]
        if policy.explore.kind != "thompson" or not asked:
            continue
        where = f"arms.{arm}.explore.kind = 'thompson'"
        if modules := [x.name for x in asked if is_outside(x.model) or is_module(x.model)]:
            raise InputError(
                f"{where}: {', '.join(modules)} has a model from outside the package, or one of "
                "sequences, whose networks cannot be drawn; explore otherwise"
            )
        if not any(x.model_params.get("dropout") for x in asked):
            raise InputError(
                f"{where}: no network that the arm scores with has dropout, so there is nothing to "
                f"draw; set model_params.dropout of {asked[0].name}, or explore otherwise"
            )


# --- validation, intervals, histories ------------------------------------------------------------


def derived_of_labels(config: Config) -> list[tuple[int, DerivedConfig]]:
    """The derived columns that follow from a label's predictions, with its place; see metrics."""
    labels = [(i, x.target) for i, x in enumerate(config.learned) if x.type == "numerical"]
    return [(i, x) for i, target in labels for x in config.derived if x.columns[0] == target]


def _own_metrics(config: Config) -> dict[str, Metric]:
    """The metrics from outside the package, by name."""
    asked = enumerate(config.validation.metrics)
    return {name: find_metric(name, f"validation.metrics.{i}") for i, name in asked}


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


def _check_sequences(config: Config) -> None:
    n = 0 if config.feature is None else config.feature.history
    own = [x for x in ("codes", "vectors") if getattr(config.dataset, x, None) is not None]
    shown = [f"feature.history = {n}"] * bool(n) + [f"dataset.{name}" for name in own]
    if shown and not any(is_outside(x.model) or is_module(x.model) for x in config.learned):
        raise InputError(
            f"{shown[0]}: no label's model reads it, as {config.learned[0].model} sees features "
            "only; name one that does, such as SASRec, or remove it"
        )
    if n and config.pretrain.enabled and config.pretrain.rows == "overlap":
        raise InputError(
            f"feature.history = {n}: with pretrain.rows = 'overlap' a user's history would hold "
            "the very rows that are replayed; use rows: early or share"
        )


def _warn_unused_rates(config: Config, warnings: Warnings) -> None:
    """A label's own rates act only in a phase that gives none."""
    loop, pretrain = config.simulation, config.pretrain
    names = [x.name for x in config.labels if x.learning_rate is not None]
    if loop.learning_rate is not None and names:
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


def _warn_unread_features(config: Config, schema: FeatureSchema, warnings: Warnings) -> None:
    """Features that are listed, and neither a label's model nor that of weights reads."""
    if config.features is None or any(x.name == "weighting" for x in config.designs()):
        return
    read = {name for x in config.learned for name in features_read(config, x, schema)}
    unread = [name for name in schema.names if name not in read]
    if unread:
        models = ", ".join(dict.fromkeys(x.model for x in config.learned))
        warnings.add(
            "features_not_read",
            f"no label's model reads {', '.join(unread)}: {models} "
            f"{'read' if ',' in models else 'reads'} histories, and of videos what histories show "
            "of them",
        )


# --- processes -----------------------------------------------------------------------------------


def shares(n_replications: int, n_processes: int) -> list[tuple[int, ...]]:
    """Each process's replications: all in their order, as even as can be."""
    ends = [n_replications * i // n_processes for i in range(n_processes + 1)]
    return [tuple(range(ends[i], ends[i + 1])) for i in range(n_processes)]


def processes_of(config: Config, device: Device) -> int:
    """Over how many processes the loop's replications are spread.

    At least two replications each: PyTorch multiplies a stack of one network by another kernel,
    with other last bits.

    Raises:
        InputError: so many processes cannot share them here, or there is no such executor.
    """
    asked, R = config.simulation.processes, config.experiment.replications
    name, most = config.simulation.executor, max(1, R // 2)
    executor_of(config)
    if asked == "auto":
        if name != LOCAL and name in names("executor"):
            raise InputError(
                f"simulation.executor = {name!r}: say over how many parts the run is spread: pass "
                "--shards N, or set simulation.processes"
            )
        # where PyTorch sees a GPU, autograd does not fork
        n = usable_threads() if can_fork(device) else 1 if device.is_cpu else n_gpus()
        return max(1, min(n, most))
    if asked > most:
        raise InputError(
            f"simulation.processes = {asked}: each needs two replications or more, and "
            f"experiment.replications = {R}; use at most {most}, or auto"
        )
    return asked


def require_executor(config: Config) -> None:
    """InputError where an engine is missing, or would not take the run's parts as asked for."""
    make = executor_of(config)
    if config.simulation.executor in names("executor") and hasattr(make, "check"):
        make(Path(), config.cluster).check()


def executor_of(config: Config) -> Callable[..., Any]:
    """What makes the executor that a config names; InputError where there is none."""
    name, where = config.simulation.executor, "simulation.executor"
    found = find("executor", name, where)
    if name in names("executor"):
        return found
    lacking = [x for x in ("start", "watch", "cancel") if not callable(getattr(found, x, None))]
    if lacking or not callable(found):
        raise InputError(f"{where} = {name!r}: is no executor: it lacks {', '.join(lacking)}")
    return found
