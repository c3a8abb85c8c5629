"""What all phases of a run share."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from realdataexp.config import Config
from realdataexp.device import Device
from realdataexp.errors import InputError, Warnings
from realdataexp.runs.checkpoint import Checkpoint, Checkpoints
from realdataexp.runs.interrupts import Interrupts
from realdataexp.runs.recorder import Recorder
from realdataexp.runs.setup import Setup
from realdataexp.runs.validation import Validator


class Clock:
    """Where a run's seconds go, over all its processes."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.device: Device | None = None
        self._before, self._started = 0.0, time.perf_counter()

    @property
    def total(self) -> float:
        """Seconds so far."""
        return self._before + time.perf_counter() - self._started

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Count what happens inside to a phase."""
        start = time.perf_counter()
        try:
            yield
        finally:
            if self.device is not None:
                self.device.synchronize()
            self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - start

    def state(self) -> dict[str, Any]:
        """The seconds so far."""
        return {"total": self.total, "phases": dict(self.seconds)}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from the seconds of an earlier process."""
        self._before = state["total"]
        for phase, seconds in state["phases"].items():
            self.seconds[phase] = self.seconds.get(phase, 0.0) + seconds


class ForeignError(Exception):
    """A checkpoint is intact, but not this run's; the message is one line."""


@contextmanager
def of_this_run(checkpoint: Checkpoint) -> Iterator[None]:
    """Say of a state that lacks something, or has another shape, that it is foreign."""
    try:
        yield
    except (KeyError, ValueError, TypeError, AttributeError, IndexError) as error:
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
    n_rows_pretrained: int = 0

    def identity(self) -> dict[str, Any]:
        """What must be the same for a run to go on."""
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
            "weight_figures": self.weight_figures,
            "n_steps_done": self.n_steps_done,
            "n_rows_pretrained": self.n_rows_pretrained,
            "warnings": self.warnings.items,
            "clock": self.clock.state(),
        }

    def load(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint; the phase loads its own tensors.

        Raises:
            InputError: it is of another config or of other data: a line for each difference.
            ForeignError: it is not this run's in another way.
        """
        state = checkpoint.state
        with of_this_run(checkpoint):
            changes = differences(state["identity"], self.identity())
        if changes:
            raise InputError(
                "\n".join(
                    f"{self.folder}: {where} was {show(was)} when {checkpoint.name} was made and "
                    f"is {show(now)}: put it back, or run the config anew"
                    for where, was, now in changes
                )
            )
        for name, tensor in checkpoint.tensors.items():
            if ".params." in name and not bool(torch.isfinite(tensor).all()):
                raise ForeignError(f"{checkpoint.name}: {name} holds numbers that are not finite")
        with of_this_run(checkpoint):
            self._load(checkpoint, state)

    def _load(self, checkpoint: Checkpoint, state: dict[str, Any]) -> None:
        self.recorder.load_rows(self.checkpoints.root / "rows", state["rows"])
        self.recorder.load_state(checkpoint.part("recorder"))
        self.checkpoints.best = state["best"]
        self.weight_figures = state["weight_figures"]
        self.n_steps_done = state["n_steps_done"]
        self.n_rows_pretrained = state["n_rows_pretrained"]
        for warning in state["warnings"]:
            if warning not in self.warnings.items:
                self.warnings.items.append(warning)
        self.clock.load_state(state["clock"])
