"""What is known before a run: its memory, roughly, and what a step with made-up visits shows.

Axes: R replications, B visits, C candidates, M models, L labels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from realdataexp import draws
from realdataexp.config import Config, LabelConfig
from realdataexp.contracts import check_values, described
from realdataexp.designs import OutsideDesign
from realdataexp.designs.base import Outcome
from realdataexp.device import Device
from realdataexp.errors import InputError
from realdataexp.learner import Head, Learner
from realdataexp.loop import Block, n_networks
from realdataexp.models import FeatureSchema, ModuleStack, OutsideModel, SideSchema, build_model
from realdataexp.models.base import shared_of
from realdataexp.models.layers import only_shapes
from realdataexp.registry import ComponentError, Unfit, calling, is_outside
from realdataexp.runs.labels import Faults, NetworkParts, network_groups
from realdataexp.runs.machine import memory_limit, size
from realdataexp.worlds import world_of
from realdataexp.worlds.base import Slate, Visits
from realdataexp.worlds.outside import OutsideEnvironment

if TYPE_CHECKING:
    from realdataexp.runs.setup import Setup

_BASE = 500 << 20  # Python with all packages, and the tables of a result
_FLOAT = 4
_COPIES = 5  # a parameter, its gradient and that in its row, its two moments
_SAVED = 3  # of these in a checkpoint, on their way through the host's memory
_ACTIVATIONS = 3  # forward, backward, and what an operation needs meanwhile
_INPUT_COPIES = 2
_REPLICATIONS, _VISITS = 2, 8
_OTHERWISE = (
    "returned other numbers for the same rows when other rows stood next to them, or at the second "
    "time: each row's result must depend on that row alone"
)

# --- memory --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Need:
    """What a run needs, roughly: networks, numbers of one, and bytes here and on a device."""

    networks: int
    parameters: int
    host: int
    device: int


def memory_need(config: Config, device: Device, blocks: Sequence[Block]) -> Need:
    """Estimate a run's memory; within a factor of two for the models of the package.

    What is counted: docs/operations.md. Activations are those of the device's chunk, or of one
    network where that is more, or of a batch of pretraining. The log is memory-mapped. Categories
    are not known before the import: a feature has a known number, or a thousand, or one a video.

    Raises:
        InputError: the config's models are refused.
    """
    world, loop, groups = world_of(config), config.simulation, network_groups(config)
    features = world.inputs(config)
    S = n_networks(blocks, config.experiment.replications)
    sizes = [_network([config.learned[i] for i in group], features) for group in groups]
    P, n_shared = sum(n for n, _, _ in sizes), sum(n for _, n, _ in sizes)
    rows = loop.batch_size * loop.n_candidate
    pretrained = config.pretrain.batch_size if config.pretrain.enabled else 0
    one = max(rows, pretrained) * max(width for _, _, width in sizes) * _FLOAT
    activations = _ACTIVATIONS * max(min(device.chunk_bytes, S * one), one)
    extra = {"visit": 0, "candidate": 0, "sequence": 0}
    for x in features.extra.values():
        extra[x.axis] += math.prod(x.shape)
    n_inputs = _n_inputs(features.user) + _n_inputs(features.video) + extra["candidate"]
    of_visits = loop.batch_size * (extra["visit"] + extra["sequence"])
    inputs = _INPUT_COPIES * S * (rows * n_inputs + of_visits) * _FLOAT
    computing = (_COPIES * S * P + n_shared) * _FLOAT + inputs + activations
    n, host = S * len(groups), _BASE + world.made_bytes(config, n_inputs)
    if device.torch.type == "cpu":
        return Need(n, P // len(groups), host + computing, 0)
    return Need(n, P // len(groups), host + _SAVED * S * P * _FLOAT, computing)


def _network(group: Sequence[LabelConfig], features: FeatureSchema) -> tuple[int, int, int]:
    """Numbers of a network, of what all its copies share, and of a row's activations."""
    first, is_own = group[0], not is_outside(group[0].model)
    if not is_own:  # makes its parameters, so for few categories
        features = FeatureSchema(_few(features.user), _few(features.video))
    outputs = [{"binary": 2, "categorical": x.n_classes or 2}.get(x.type, 1) for x in group]
    path = f"labels.{first.name}.model_params"
    model = build_model(first.model, features, outputs, first.model_params, path)
    if isinstance(model, ModuleStack) and is_own:
        return sum(p.numel() for p in model.module.parameters()), 0, model.floats_per_row
    key = draws.key(0, "size")
    with only_shapes() if is_own else nullcontext():
        made = model.init(key), shared_of(model, key)
    own, shared = (sum(x.numel() for x in found.values()) for found in made)
    return own, shared, model.floats_per_row


def _few(side: SideSchema) -> SideSchema:
    """The same features with three categories each."""
    n = 3 * len(side.fields)
    return replace(side, n_ids=n, first_ids=tuple(range(0, n, 3)))


def _n_inputs(side: SideSchema) -> int:
    """Numbers of a row: those of a feature, and an id and a weight for each slot."""
    return side.n_numerical + 3 * side.n_slots


def require_memory(config: Config, device: Device, blocks: Sequence[Block]) -> None:
    """InputError for a run that needs more memory than this process can ever have."""
    try:
        with calling("the config", "its models"):
            need = memory_need(config, device, blocks)
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
    loop, pretrain = config.simulation, config.pretrain
    sizes = [
        ("experiment.replications", config.experiment.replications, 20),
        ("simulation.batch_size", loop.batch_size, 64),
        ("simulation.n_candidate", loop.n_candidate, 10),
        ("validation.validation_batches", config.validation.validation_batches, 6),
        ("pretrain.batch_size", pretrain.batch_size if pretrain.enabled else 0, 1024),
        *world_of(config).sizes(),
    ]
    for label in config.learned:
        for name, value in label.model_params.items():
            listed = value if isinstance(value, list | tuple) else [value]
            most = max((x for x in listed if isinstance(x, int)), default=0)
            key = f"labels.{config.labels.index(label)}.model_params.{name}"
            sizes.append((key, most, 1_000 if name == "cross_buckets" else 64))
    key, value, _ = max(sizes, key=lambda entry: entry[1] / entry[2])
    return key, value


# --- a rehearsal ---------------------------------------------------------------------------------


def rehearse(setup: Setup) -> None:
    """Have all components from outside go through a step with made-up visits.

    Raises:
        InputError: some fail or return what they must not, a line each.
    """
    faults, rehearsal = Faults(), _Rehearsal(setup)
    faults.attempt(rehearsal.world)
    for block in setup.blocks:
        faults.attempt(rehearsal.design, block)
    for network in setup.networks:
        faults.attempt(rehearsal.network, network)
    faults.stop()


class _Rehearsal:
    """Some visits of the first replications, as the first step of a run would have them.

    Its methods raise a ComponentError for a component from outside that fails or returns what it
    must not, and ask none of the package's own.
    """

    def __init__(self, setup: Setup) -> None:
        self._setup, self._context = setup, setup.context
        self._environment, self._targets = setup.environment, setup.world_targets
        n = min(_REPLICATIONS, setup.config.experiment.replications)
        settings = setup.world_settings(tuple(range(n)))
        self._settings = replace(settings, n_blocks=1, batch_size=_VISITS, n_steps=1)
        self._made: tuple[Visits, Slate, Tensor, Tensor] | None = None

    def _step(self) -> tuple[Visits, Slate, Tensor, Tensor]:
        """Visits, slates, each arm's scores, and outcomes; made when first asked for."""
        if self._made is None:
            world = self._environment.world(self._targets, self._settings)
            visits = world.draw(0)
            slate = world.slate(visits)
            R, B, C = slate.is_candidate_WBC.shape
            key_RA = draws.key(self._context.seed, "rehearsal", torch.arange(2 * R).view(R, 2))
            score_RABC = draws.uniform(key_RA, B * C).view(R, 2, B, C).float()
            score_RABC = score_RABC.to(slate.is_candidate_WBC.device)
            score_RABC = score_RABC.masked_fill(~slate.is_candidate_WBC.unsqueeze(1), -torch.inf)
            y_RBL = world.feedback(visits, slate, score_RABC[:, 0].argmax(-1))
            self._made = visits, slate, score_RABC, y_RBL
        return self._made

    def world(self) -> None:
        """Ask a world what a run would."""
        if isinstance(self._environment, OutsideEnvironment):
            self._environment.rehearse(self._targets, self._settings)

    def design(self, block: Block) -> None:
        """Ask a design what a run would."""
        design, p = block.design, block.p
        if not isinstance(design, OutsideDesign):
            return
        visits, slate, score_RABC, y_RBL = self._step()
        context = replace(
            self._context, label=block.label, p=p, replication_R=visits.replication_R.cpu()
        )
        running, again = design.start(context), design.start(context)
        running.treated_share(visits.step, context.n_steps, p)
        is_treated_RB = running.assign(visits, p)
        with calling(design.who, "assign()"):
            if not torch.equal(is_treated_RB, again.assign(visits, p)):
                raise Unfit(
                    "gave the same visits other arms the second time: draw with "
                    "realdataexp.draws, whose numbers are a function of a key"
                )
        allowed_RBC = running.candidates(visits, slate, is_treated_RB)
        slate = replace(slate, is_candidate_WBC=allowed_RBC & slate.is_candidate_WBC)
        pick_RAB = score_RABC.argmax(-1)
        if (n_shown := context.n_shown) > 1:
            order_RABC = score_RABC.argsort(dim=-1, descending=True, stable=True)
            running.shown(visits, order_RABC[..., :n_shown], is_treated_RB)
        outcome = Outcome(visits, slate, is_treated_RB, p, score_RABC, pick_RAB, y_RBL)
        weight_RMB = running.weights(outcome)
        is_visit_R1B = slate.is_candidate_WBC.any(-1).unsqueeze(1)
        with calling(design.who, "weights()"):
            of_visits = weight_RMB.masked_fill(~is_visit_R1B, 0.0)
            check_values(of_visits, "replications, models, visits", is_weight=True)
        inflation_RM = running.inflation(outcome, weight_RMB)
        with calling(design.who, "inflation()"):
            if inflation_RM is not None and not bool((inflation_RM > 0).all()):
                raise Unfit(f"returned {described(inflation_RM)}, some not above 0; wanted all so")
        running.counts(visits)
        unit_RB = running.unit(visits)
        with calling(design.who, "unit()"):
            if unit_RB is not None and bool((unit_RB < 0).any()):
                raise Unfit(f"returned {described(unit_RB)}, some of them negative; count from 0")
        # a run that is resumed loads the state of the one before into a design just started
        state = {name: tensor.clone() for name, tensor in running.state().items()}
        with calling(design.who, "load_state()"):
            again.load_state(state)
            for name, tensor in again.state().items():
                if name not in state or not torch.equal(tensor.cpu(), state[name].cpu()):
                    raise Unfit(f"left {name} of its state() as it was: a resumed run would differ")
        design.diagnostics(running.evidence(), p)

    def network(self, network: NetworkParts) -> None:
        """Score with copies of a network, and train them on outcomes."""
        members = self._setup.members(network)
        losses = [
            f"labels.{self._setup.config.labels.index(x.config)}.loss_function = "
            f"{x.config.loss_function!r}"
            if is_outside(x.config.loss_function or "")
            else None
            for x in members
        ]
        model, heads = network.model, network.heads
        blamed = [model.who] if isinstance(model, OutsideModel) else [x for x in losses if x]
        if not blamed:
            return
        visits, slate, score_RABC, y_RBL = self._step()
        start = model.init(draws.key(self._context.seed, "rehearsal"))
        R, device = len(visits.replication_R), self._context.device
        learner = Learner.start(model, heads, device, start, R, network.shared)
        y_RBK = y_RBL[..., [self._targets.index(x.config.target) for x in members]]
        is_shown_RBC = slate.is_candidate_WBC
        raw_RBCO = self._score(learner, slate)
        parts = raw_RBCO.split([head.n_outputs for head in heads], dim=-1)
        for k, (head, who, part) in enumerate(zip(heads, losses, parts, strict=True)):
            y_N = y_RBK[..., k].unsqueeze(-1).expand(is_shown_RBC.shape)[is_shown_RBC]
            is_known_N = y_N.isfinite()
            if who and bool(is_known_N.any()):
                _check_loss(head, who, part[is_shown_RBC][is_known_N], y_N[is_known_N])
        chosen = slate.batch.chosen(score_RABC[:, 0].argmax(-1))
        weight_RB, key_R = torch.ones_like(y_RBK[..., 0]), draws.key(0, "x", visits.replication_R)
        optimizer = members[0].policy.optimizer
        with calling(blamed[0], "its gradient"):
            learner.update(chosen, y_RBK, weight_RB, optimizer, key_R)
            if int(learner.n_skipped_S.sum()):
                raise Unfit("is not finite at the start: look for a division, root or logarithm")

    def _score(self, learner: Learner, slate: Slate) -> Tensor:
        """The networks' raw outputs in float32: R, B, C, O; a model's from outside are checked."""
        model, batch = learner.model, slate.batch
        n_first = max(1, batch.shape[1] // 2)
        first = batch.visits(slice(n_first))
        with torch.no_grad(), self._context.device.autocast():
            raw_RBCO = learner.forward(learner.params, batch, None).float()
            alone_RBCO = learner.forward(learner.params, first, None).float()
        if isinstance(model, OutsideModel):
            with calling(model.who, "forward()"):
                hidden_RBC1 = ~slate.is_candidate_WBC.unsqueeze(-1)
                shown = raw_RBCO.masked_fill(hidden_RBC1, 0.0)
                check_values(shown, "networks, visits, candidates, outputs")
                _check_rows(raw_RBCO[:, :n_first], alone_RBCO)
        return raw_RBCO


def _check_loss(head: Head, who: str, raw_NO: Tensor, y_N: Tensor) -> None:
    """Look at what a loss from outside makes of known outcomes."""
    half = slice(0, max(1, len(y_N) // 2))
    predicted = head.predict(raw_NO), head.predict(raw_NO[half])
    lost = head.losses(raw_NO, y_N), head.losses(raw_NO[half], y_N[half])
    for call, (found_N, alone_N) in (("predict()", predicted), ("elementwise()", lost)):
        with calling(who, call):
            check_values(found_N, "rows")
            _check_rows(found_N[half], alone_N)


def _check_rows(among_others: Tensor, alone: Tensor) -> None:
    """Rows must get what they get without the rows beside them; Unfit where they do not."""
    at_most = float(alone.abs().max())
    if not torch.allclose(among_others, alone, rtol=1e-2, atol=1e-3 * at_most):
        raise Unfit(_OTHERWISE)
