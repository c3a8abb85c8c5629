"""What all phases of a run share."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import polars as pl
import torch
from pydantic import (
    BaseModel,
    ConfigDict,
    FiniteFloat,
    NonNegativeFloat,
    NonNegativeInt,
    ValidationError,
)
from safetensors import SafetensorError
from torch import Tensor

from realdataexp.config import Config
from realdataexp.device import Device
from realdataexp.errors import InputError, Warnings, is_out_of_memory
from realdataexp.models.base import restore
from realdataexp.runs.checkpoint import Checkpoint, Checkpoints, ForeignError
from realdataexp.runs.interrupts import Interrupts
from realdataexp.runs.monitor import Monitor
from realdataexp.runs.recorder import Recorder
from realdataexp.runs.setup import Setup
from realdataexp.runs.validation import Validator
from realdataexp.tracking.session import Tracking

# tensors of which a healthy run has finite numbers only, and those that are never below 0
_FINITE = re.compile(
    r"\.(params\.|moment_[12]$|rate_factor$|batch\.)|^(pretraining\.best|recorder)\."
)
_NOT_NEGATIVE = re.compile(r"\.(moment_2|rate_factor|n_\w+)$")
# settings that no number depends on; which data they are, their digest says
_MAY_DIFFER = (
    "config.logging.", "config.base_dir", "config.dataset.path", "config.dataset.cache",
    "config.simulation.processes", "config.simulation.executor",
)  # fmt: skip
# what loading a state that does not fit may raise
_UNFIT = (
    KeyError, ValueError, TypeError, AttributeError, IndexError, OverflowError, RuntimeError,
    pl.exceptions.PolarsError, SafetensorError,
)  # fmt: skip


class Clock:
    """Where a run's seconds go, over all its processes."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._since: dict[str, float] = {}  # phases that go on
        self.device: Device | None = None
        self.monitor: Monitor | None = None
        self._before, self._started = 0.0, time.perf_counter()

    @property
    def total(self) -> float:
        """Seconds so far."""
        return self._before + time.perf_counter() - self._started

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Count what happens inside to a phase."""
        self._since[phase] = time.perf_counter()
        self._tell()
        try:
            yield
        finally:
            if self.device is not None:
                self.device.synchronize()
            self.add(phase, time.perf_counter() - self._since.pop(phase))
            self._tell()

    def _tell(self) -> None:
        """Let the monitor know the innermost phase."""
        if self.monitor is not None:
            self.monitor.phase = next(reversed(self._since), "")

    def add(self, phase: str, seconds: float) -> None:
        """Count seconds to a phase."""
        self.seconds[phase] = self.seconds.get(phase, 0.0) + seconds

    def state(self) -> dict[str, Any]:
        """The seconds so far, those of phases that go on included."""
        now, phases = time.perf_counter(), dict(self.seconds)
        for phase, since in self._since.items():
            phases[phase] = phases.get(phase, 0.0) + now - since
        return {"total": self.total, "phases": phases}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from the seconds of an earlier process."""
        self._before = state["total"]
        for phase, seconds in state["phases"].items():
            self.add(phase, seconds)


class _Best(BaseModel):
    networks: str
    value: FiniteFloat


class _Clock(BaseModel):
    total: NonNegativeFloat
    phases: dict[str, NonNegativeFloat]


class _State(BaseModel):
    """What a checkpoint's state must be; see Parts.state."""

    model_config = ConfigDict(strict=True)

    phase: Literal["pretrain", "loop"]
    identity: dict[str, Any]
    rows: list[dict[str, str]]
    best: dict[str, dict[str, _Best]]
    weight_figures: dict[str, dict[str, str]]
    n_steps_done: NonNegativeInt
    n_steps_at_look: NonNegativeInt
    n_rows_pretrained: NonNegativeInt
    warnings: list[dict[Literal["code", "message"], str]]
    clock: _Clock


@contextmanager
def of_this_run(checkpoint: Checkpoint) -> Iterator[None]:
    """Say of a state that lacks something, or has another shape, that it is foreign."""
    try:
        yield
    except ValidationError as error:
        at = ".".join(map(str, error.errors()[0]["loc"]))
        text = f"{at}: {error.errors()[0]['msg']}"
        raise ForeignError(f"{checkpoint.name}: not a state of this run: {text}") from error
    except _UNFIT as error:
        if is_out_of_memory(error):
            raise
        text = " ".join(str(error).split())
        raise ForeignError(f"{checkpoint.name}: not a state of this run: {text}") from error


def differences(was: Any, now: Any, where: str = "") -> list[tuple[str, Any, Any]]:
    """Where two JSON values differ: (path, one, the other)."""
    if isinstance(was, dict) and isinstance(now, dict):
        found = []
        for key in dict.fromkeys([*was, *now]):
            path = f"{where}.{key}".lstrip(".")
            found += differences(was.get(key), now.get(key), path)
        return found
    if isinstance(was, list) and isinstance(now, list) and len(was) == len(now):
        pairs = enumerate(zip(was, now, strict=True))
        return [d for i, (a, b) in pairs for d in differences(a, b, f"{where}.{i}")]
    return [] if was == now else [(where, was, now)]


def show(value: Any) -> str:
    """A value of a config, cut where it is long."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


@dataclass
class Parts:
    """One run: what was set up, and what it has come to.

    Attributes:
        folder: the run folder.
        weight_figures: each design's last look at its weights.
        n_steps_done, n_rows_pretrained: how far it got.
        n_steps_at_look: how far it was when the networks were last looked at.
        n_processes: over how many the loop's replications are spread; 1 before.
        n_skipped: updates of each network's copies that were skipped in the loop, at that look.
        tracking: the trackers, open.
        starting: parameters of each start's network that training begins from, for each of the
            run's networks; None: new ones.
    """

    config: Config
    setup: Setup
    recorder: Recorder
    validator: Validator
    warnings: Warnings
    interrupts: Interrupts
    clock: Clock
    folder: Path
    checkpoints: Checkpoints
    weight_figures: dict[str, dict[str, float]] = field(default_factory=dict)
    n_steps_done: int = 0
    n_steps_at_look: int = 0
    n_rows_pretrained: int = 0
    n_processes: int = 1
    n_skipped: dict[str, int] = field(default_factory=dict)
    tracking: Tracking = field(default_factory=Tracking)
    starting: list[list[dict[str, Tensor]]] | None = None

    def identity(self) -> dict[str, Any]:
        """What must be the same for a run to go on, but for places and who is told of it."""
        return {
            "config": self.config.resolved(),
            "data": self.setup.environment.identity(),
        }

    def state(self, phase: str) -> dict[str, Any]:
        """All but the tensors that a checkpoint needs; the recorder's new rows get written."""
        return {
            "phase": phase,
            "identity": self.identity(),
            "rows": self.recorder.write_rows(self.checkpoints.root / "rows"),
            # texts, as JSON has no number that is not finite
            "weight_figures": {
                design: {name: str(x) for name, x in figures.items()}
                for design, figures in self.weight_figures.items()
            },
            "n_steps_done": self.n_steps_done,
            "n_steps_at_look": self.n_steps_at_look,
            "n_rows_pretrained": self.n_rows_pretrained,
            "warnings": self.warnings.items,
            "clock": self.clock.state(),
        }

    def tensors(self) -> dict[str, Tensor]:
        """What any phase's checkpoint holds: the recorder's state, and frozen parameters once."""
        tensors = {f"recorder.{k}": t for k, t in self.recorder.state().items()}
        return tensors | self._shared()

    def _shared(self) -> dict[str, Tensor]:
        return {
            f"shared.{network.name}.{name}": p
            for network in self.setup.networks
            for name, p in network.shared.items()
        }

    def track(self, clock: str = "tracking") -> None:
        """Send the trackers what the tables got; the seconds count to ``clock``."""
        if self.tracking.is_on:
            with self.clock.timed(clock):
                self.tracking.send(self.recorder.metrics(), self.recorder.outcomes())

    def load(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint; the phase loads its own tensors.

        Raises:
            InputError: it is of another config or of other data: a line for each difference.
            ForeignError: it is not this run's in another way.
        """
        state = checkpoint.state
        with of_this_run(checkpoint):
            _State.model_validate(state)
            found = differences(state["identity"], self.identity())
            changes = [x for x in found if not x[0].startswith(_MAY_DIFFER)]
        if changes:
            raise InputError(
                *(
                    f"{self.folder}: {where} was {show(was)} when {checkpoint.name} was made and "
                    f"is {show(now)}: put it back, or run the config anew"
                    for where, was, now in changes
                )
            )
        done, last = state["n_steps_done"], self.config.simulation.n_steps
        is_loop = state["phase"] == "loop"
        is_named = checkpoint.name == f"step_{done}" if is_loop else done == 0
        if not is_named or done > last or state["n_steps_at_look"] > done:
            raise ForeignError(f"{checkpoint.name}: is of step {done} of {last}")
        for name, tensor in checkpoint.tensors.items():
            if _FINITE.search(name) and not bool(torch.isfinite(tensor).all()):
                raise ForeignError(f"{checkpoint.name}: {name} holds numbers that are not finite")
            if _NOT_NEGATIVE.search(name) and bool((tensor < 0).any()):
                raise ForeignError(f"{checkpoint.name}: {name} holds numbers below 0")
        with of_this_run(checkpoint):
            saved = {name: torch.empty_like(p) for name, p in self._shared().items()}
            restore(saved, {f"shared.{k}": p for k, p in checkpoint.part("shared").items()})
        for name, p in self._shared().items():
            if not torch.equal(p, saved[name]):
                raise InputError(
                    f"{self.folder}: the frozen parameters {name.removeprefix('shared.')} are "
                    f"others than when {checkpoint.name} was made: put back what they come from, "
                    "or run the config anew"
                )
        with of_this_run(checkpoint):
            self._load(checkpoint, state)

    def _load(self, checkpoint: Checkpoint, state: dict[str, Any]) -> None:
        self.recorder.load_rows(self.checkpoints.root / "rows", state["rows"])
        self.recorder.load_state(checkpoint.part("recorder"))
        self.recorder.check(state["n_steps_done"])
        self.checkpoints.best = state["best"]
        self.weight_figures = {
            design: {name: float(x) for name, x in figures.items()}
            for design, figures in state["weight_figures"].items()
        }
        self.n_steps_done = state["n_steps_done"]
        self.n_steps_at_look = state["n_steps_at_look"]
        self.n_rows_pretrained = state["n_rows_pretrained"]
        for warning in state["warnings"]:
            if warning not in self.warnings.items:
                self.warnings.items.append(warning)
        self.clock.load_state(state["clock"])
