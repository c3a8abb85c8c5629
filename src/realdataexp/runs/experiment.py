"""A config's whole life: set up, pretrain, loop, results; and going on where a run was stopped."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    FiniteFloat,
    NonNegativeFloat,
    NonNegativeInt,
)
from torch import Tensor

from realdataexp.config import Config, load_config
from realdataexp.device import multiplies_by_place, own_arithmetic
from realdataexp.errors import InputError, Warnings
from realdataexp.models.base import restore
from realdataexp.runs import Interrupts
from realdataexp.runs.beforehand import largest_setting
from realdataexp.runs.checkpoint import Checkpoint, Checkpoints, ForeignError, of_this_run
from realdataexp.runs.executors.work import Basis
from realdataexp.runs.folder import Folder, RunLog, check_place, placed, require_modules
from realdataexp.runs.labels import Starts
from realdataexp.runs.life import AnyRun, differences, new_run, resumed_run
from realdataexp.runs.machine import versions
from realdataexp.runs.networks import (
    STARTING,
    STARTS,
    in_order,
    read_networks,
    starting_networks,
    write_networks,
)
from realdataexp.runs.parts import Status
from realdataexp.runs.phases import LOOP, PRETRAIN, LoopPhase, PretrainingPhase
from realdataexp.runs.recorder import Recorder
from realdataexp.runs.results import write_results
from realdataexp.runs.setup import Setup, require_executor, set_up
from realdataexp.runs.shard import Validator
from realdataexp.stats.inference import needs_foretold, needs_picks
from realdataexp.tracking.session import Tracking, begin_tracking, trackers_of

logger = logging.getLogger("realdataexp")

# tensors of which a healthy run has finite numbers only, and those that are never below 0
_FINITE = re.compile(
    r"\.(params\.|moment_[12]$|rate_factor$|batch\.)|^(pretraining\.best|recorder)\."
)
_NOT_NEGATIVE = re.compile(r"\.(moment_2|rate_factor|n_\w+)$")
# settings that no number depends on; which data they are, their digest says
_MAY_DIFFER = (
    "config.logging.", "config.base_dir", "config.dataset.path", "config.dataset.cache",
    "config.simulation.processes", "config.simulation.executor", "config.cluster.",
)  # fmt: skip


@own_arithmetic()
def check_experiment(
    config: Config, out: Path | None = None, *, every_fault: bool = False
) -> list[str]:
    """Check a config against the machine and the data; describe what would run.

    ``every_fault``: import the data in any case, and check them too.

    Raises:
        InputError: with every fault found, a line each.
    """
    check_place(out, config.path(config.logging.log_dir))
    warnings = Warnings()
    trackers_of(config)
    require_executor(config)
    setup = set_up(config, warnings, every_fault=every_fault)
    starting_of(setup, None, warnings)
    loop, test, R = config.simulation, config.experiment, config.experiment.replications
    names = ", ".join(dict.fromkeys(b.label for b in setup.blocks))
    control, treatment = config.policies()
    arms = "the arms rank differently (no A/A test)"
    if control == treatment:
        arms = "an A/A test: both arms rank alike"
    return [
        f"mode {config.mode}: {names}; {R} replications, {len(setup.blocks) * R} worlds",
        f"test: p = {test.p_treatment:g} of treatment, by {test.assignment}; {arms}",
        f"device {setup.device.description}",
        *setup.environment.description(),
        f"loop: {loop.n_steps} steps of {loop.batch_size} visits x {loop.n_candidate} candidates",
        f"labels: {', '.join(label.name for label in config.labels)}",
    ]


def run_experiment(config: Config, out: Path | None = None) -> Path:
    """Run an experiment and write its folder; see ``new_run``."""
    return new_run(Run, config, out)


def resume_experiment(folder: Path, data: Path | None = None) -> Path:
    """Go on with an interrupted run to its end, as if it had never been interrupted."""
    return resumed_run(Run, load_config, folder, data)


def rebuilt(run_dir: Path) -> Basis:
    """What a shard needs, made from its run folder alone: set-up, validator, starting models."""
    require_modules(run_dir)
    setup = set_up(placed(load_config(run_dir / "config.yaml"), run_dir, None), Warnings())
    return setup, Validator(setup), starts_of(run_dir, setup)


def starts_of(run_dir: Path, setup: Setup) -> Starts:
    """The starting models that a run has written for its parts."""
    found = read_networks(run_dir / STARTS)
    starts = [
        [{name: t[k] for name, t in own.items()} for k in range(len(found.card.members))]
        for own in found.params
    ]
    return in_order(starts, setup)


def starting_of(setup: Setup, folder: Path | None, warnings: Warnings) -> Starts | None:
    """The networks that a run starts from, where the config names some; a copy, once it has one."""
    given, own = setup.config.pretrain.start_from, folder and folder / STARTING
    if given is None:
        return None
    path = own if own and own.is_file() else setup.config.path(given)
    return starting_networks(path, given, setup, warnings)


class _Best(BaseModel):
    networks: str
    value: FiniteFloat


class _Clock(BaseModel):
    total: NonNegativeFloat
    phases: dict[str, NonNegativeFloat]


class _State(BaseModel):
    """What a checkpoint's state must be; see Run.state."""

    model_config = ConfigDict(strict=True)

    phase: Literal["pretrain", "loop"]
    identity: dict[str, Any]
    rows: list[dict[str, str]]
    best: dict[str, dict[str, _Best]]
    weight_metrics: dict[str, dict[str, Annotated[float, BeforeValidator(float)]]]
    n_steps_done: NonNegativeInt
    n_steps_validated: NonNegativeInt
    n_rows_pretrained: NonNegativeInt
    warnings: list[dict[Literal["code", "message"], str]]
    clock: _Clock


class Run(AnyRun):
    """One run of an experiment: what was set up, and what it has come to.

    ``starting`` are the networks that training begins from (None: new ones), ``weight_metrics``
    the newest metrics of each design's weights, ``n_skipped`` the updates of each network's copies
    that were skipped in the loop, ``n_processes`` those of the loop.
    """

    config: Config
    # from begin on
    recorder: Recorder
    validator: Validator

    def __init__(
        self, config: Config, log: RunLog, interrupts: Interrupts, folder: Path | None = None
    ) -> None:
        """Set the run up; the folder is that of a run that is resumed."""
        super().__init__(config, log, interrupts)
        self.tracking = Tracking()
        self._trackers = trackers_of(config)
        require_executor(config)
        with self.clock.timed("setup"):
            self.setup = set_up(config, self.warnings)
            self.starting = starting_of(self.setup, folder, self.warnings)
        self.device = self.clock.device = self.setup.device
        if self.setup.device.is_cpu and multiplies_by_place():
            self.warnings.add(
                "products_by_place",
                "matrices were multiplied before realdataexp was imported, so that MKL does not "
                "know MKL_CBWR: last bits depend on where in memory a network lies; set "
                "MKL_CBWR=AUTO,STRICT for the program, or import realdataexp first",
            )
        self.weight_metrics: dict[str, dict[str, float]] = {}
        self.n_skipped: dict[str, int] = {}
        self.n_steps_done = self.n_steps_validated = self.n_rows_pretrained = 0
        self.n_processes = 1

    def begin(self, made: Folder) -> None:
        """Get what the phases share; the run folder is there."""
        super().begin(made)
        setup = self.setup
        if self.starting is not None and not (self.folder / STARTING).exists():
            # their own folder may be gone one day
            (self.folder / STARTING).parent.mkdir(exist_ok=True)
            write_networks(self.folder / STARTING, setup, self.starting)
        self.validator = Validator(setup)
        self.recorder = Recorder(
            setup.blocks,
            tuple(range(self.config.experiment.replications)),
            tuple(setup.outcomes),
            tuple(label.config.name for label in setup.labels),
            tuple(label.config.type for label in setup.labels),
            self.config.simulation.n_candidate,
            has_users=setup.histories is not None,
            n_items=setup.environment.n_items,
            keeps_picks=setup.records(needs_picks),
            keeps_foretold=setup.records(needs_foretold),
            ratios=tuple(setup.ratios),
        )
        self.checkpoints = Checkpoints(
            made.path, self.config.simulation.keep_last, setup.primary_metric, setup.metrics
        )

    def start(self) -> None:
        """Open the trackers, if there are any."""
        if self._trackers:
            with self.clock.timed("setup"):
                self.tracking = begin_tracking(self._trackers, self.config, self.folder, versions())

    def track(self, clock: str = "tracking") -> None:
        """Send the trackers what the tables got; the seconds count to ``clock``."""
        if self.tracking.is_on:
            with self.clock.timed(clock):
                self.tracking.send(self.recorder.metrics(), self.recorder.outcomes())

    def work(self, checkpoint: Checkpoint | None) -> None:
        """Pretraining, then the loop; what a checkpoint has done is not done again."""
        phase = checkpoint.state["phase"] if checkpoint else PRETRAIN
        first = PretrainingPhase(self)
        starts = first.untrained
        if phase == PRETRAIN:
            with self.clock.timed("pretrain"):
                starts = first.run(checkpoint)
            self.has_pretrained(starts)
        with self.clock.timed("loop"), LoopPhase(self, starts, self.setup.n_processes) as second:
            second.run(checkpoint if phase == LOOP else None)

    def has_pretrained(self, starts: Starts) -> None:
        """The starting models are there; a kind of run that needs them later keeps them."""

    def write(self, status: str) -> None:
        """Write every file of the run folder."""
        write_results(self, status)

    def note(self, state: str, reason: str = "") -> None:
        """See AnyRun: in status.json."""
        if not hasattr(self, "_status"):
            self._status = Status(self.folder, self.n_steps_done, self.config.simulation.n_steps)
        if self.folder.is_dir():
            self._status.note(self.n_steps_done, state, reason)

    def close(self) -> None:
        """Close the trackers."""
        self.tracking.close()

    @property
    def done(self) -> str:
        """How far the loop came."""
        return f"after {self.n_steps_done} of {self.config.simulation.n_steps} steps"

    @property
    def to_lower(self) -> str:
        """What takes the most memory."""
        key, value = largest_setting(self.config)
        return f"{key}, which is {value:,}, or the number of designs"

    # --- checkpoints -------------------------------------------------------------------------

    def identity(self) -> dict[str, Any]:
        """What must be the same for a run to go on, but for places and who is told of it."""
        return {"config": self.config.resolved(), "data": self.setup.environment.identity()}

    def save(self, name: str, phase: str, tensors: dict[str, Tensor]) -> None:
        """Write a checkpoint of a phase, whose tensors these are; the tables' new rows with it."""
        state = self.state(phase)  # flushes the recorder first
        tensors |= {f"recorder.{k}": t for k, t in self.recorder.state().items()}
        self.checkpoints.save(name, tensors | self._shared(), state)

    def state(self, phase: str) -> dict[str, Any]:
        """All but the tensors that a checkpoint needs; the recorder's new rows get written."""
        return {
            "phase": phase,
            "identity": self.identity(),
            "rows": self.recorder.write_rows(self.checkpoints.root / "rows"),
            # texts, as JSON has no number that is not finite
            "weight_metrics": {
                design: {name: str(x) for name, x in values.items()}
                for design, values in self.weight_metrics.items()
            },
            "n_steps_done": self.n_steps_done,
            "n_steps_validated": self.n_steps_validated,
            "n_rows_pretrained": self.n_rows_pretrained,
            "warnings": self.warnings.items,
            "clock": self.clock.state(),
        }

    def _shared(self) -> dict[str, Tensor]:
        """Frozen parameters, once."""
        return {
            f"shared.{network.name}.{name}": p
            for network in self.setup.networks
            for name, p in network.shared.items()
        }

    def load(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint; the phase loads its own tensors.

        Raises:
            InputError: it is of another config or other data: a line for each difference.
            ForeignError: it is not this run's in another way.
        """
        name = checkpoint.name
        with of_this_run(checkpoint):
            state = _State.model_validate(checkpoint.state)
            found = differences(state.identity, self.identity())
        self.require_same(checkpoint.name, found, _MAY_DIFFER)
        done, last = state.n_steps_done, self.config.simulation.n_steps
        is_named = name == f"step_{done}" if state.phase == LOOP else done == 0
        if not is_named or done > last or state.n_steps_validated > done:
            raise ForeignError(f"{name}: is of step {done} of {last}")
        for key, tensor in checkpoint.tensors.items():
            if _FINITE.search(key) and not bool(torch.isfinite(tensor).all()):
                raise ForeignError(f"{name}: {key} holds numbers that are not finite")
            if _NOT_NEGATIVE.search(key) and bool((tensor < 0).any()):
                raise ForeignError(f"{name}: {key} holds numbers below 0")
        shared = self._shared()
        saved = {key: torch.empty_like(p) for key, p in shared.items()}
        with of_this_run(checkpoint):
            restore(saved, {f"shared.{k}": p for k, p in checkpoint.part("shared").items()})
        if others := [key for key, p in shared.items() if not torch.equal(p, saved[key])]:
            raise InputError(
                f"{self.folder}: the frozen parameters {others[0].removeprefix('shared.')} are "
                f"others than when {name} was made: put back what they come from, or run the "
                "config anew"
            )
        with of_this_run(checkpoint):
            self.recorder.load_rows(self.checkpoints.root / "rows", state.rows)
            self.recorder.load_state(checkpoint.part("recorder"))
            self.recorder.check(done)
        self.checkpoints.best = checkpoint.state["best"]
        self.weight_metrics = state.weight_metrics
        self.n_steps_done, self.n_steps_validated = done, state.n_steps_validated
        self.n_rows_pretrained = state.n_rows_pretrained
        new = [x for x in checkpoint.state["warnings"] if x not in self.warnings.items]
        self.warnings.items += new
        self.clock.load_state(checkpoint.state["clock"])
