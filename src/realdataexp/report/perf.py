"""Where a run's time and its device went: from the files of its folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from realdataexp.report.files import read_result, read_table
from realdataexp.report.numbers import number

TRAINING, STEPPING, RESULTS = "pretrain: training", "loop: steps", "results"
_INNER = ("validation", "checkpoint")
_LEARNING = ("loop", "pretrain")  # of the monitor; validation and checkpoints have their own


@dataclass(frozen=True)
class Perf:
    """What a run folder tells of its speed.

    Attributes:
        phases: seconds of each phase, in order; they add up to the total.
        total: seconds in all.
        device: name, reason and threads, as of result.json.
        timing: the other figures of result.json.
        used: means of what was measured while networks learned: cpu_percent, machine_percent,
            others_percent (of all cores, by other processes), gpu_percent, gpu_memory_mb,
            gpu_watts; None where it was not. Of all phases where none of these was met.
        n_samples: rows behind these means.
        candidates: rows that an arm-step scores.
    """

    phases: dict[str, float]
    total: float
    device: dict[str, Any]
    timing: dict[str, Any]
    used: dict[str, float | None]
    n_samples: int
    candidates: int

    @property
    def is_cpu(self) -> bool:
        """Whether the run computed on the CPU."""
        return self.device["name"].startswith("cpu")

    def share(self, *phases: str) -> float:
        """What part of the run these phases took."""
        return sum(self.phases.get(p, 0.0) for p in phases) / self.total if self.total > 0 else 0.0


def read_perf(run_dir: Path) -> Perf:
    """Gather what a run folder tells of its speed.

    Raises:
        InputError: it is no run folder, or a damaged one.
    """
    result = read_result(run_dir)
    timing, loop = result["timing"], result["config"]["simulation"]
    used, n = _used(monitor_rows(run_dir))
    rows = loop["batch_size"] * loop["n_candidate"]
    phases = phase_seconds(timing)
    return Perf(phases, sum(phases.values()), result["device"], timing, used, n, rows)


def monitor_rows(run_dir: Path) -> pl.DataFrame | None:
    """monitor.parquet; None where the run has none."""
    return read_table(run_dir, "monitor") if (run_dir / "monitor.parquet").is_file() else None


def phase_seconds(timing: dict[str, Any]) -> dict[str, float]:
    """Seconds of each phase; what is in no other went into results."""

    def seconds(phase: str) -> float:
        return timing.get(f"{phase}_seconds") or 0.0

    pretrain, loop = seconds("pretrain"), seconds("loop")
    inner = [seconds(f"{phase}{x}") for phase in ("pretrain_", "") for x in _INNER]
    phases = {
        "setup": seconds("setup"),
        TRAINING: pretrain - inner[0] - inner[1],
        "pretrain: validation": inner[0],
        "pretrain: checkpoints": inner[1],
        STEPPING: loop - inner[2] - inner[3],
        "loop: validation": inner[2],
        "loop: checkpoints": inner[3],
        RESULTS: seconds("total") - seconds("setup") - pretrain - loop,
    }
    return {phase: max(0.0, s) for phase, s in phases.items()}


def _used(rows: pl.DataFrame | None) -> tuple[dict[str, float | None], int]:
    names = ("cpu_percent", "machine_percent", "gpu_percent", "gpu_memory_mb", "gpu_watts")
    if rows is None or not rows.height:
        return dict.fromkeys((*names, "others_percent")), 0
    stepping = rows.filter(pl.col("phase").is_in(_LEARNING))
    rows = stepping if stepping.height else rows
    own = pl.col("cpu_percent") / pl.col("cores")
    others = (pl.col("machine_percent") - own).clip(lower_bound=0.0).alias("others_percent")
    means = rows.with_columns(others).select(*names, "others_percent").mean()
    return means.row(0, named=True), rows.height


def gpu_answer(perf: Perf) -> str:
    """Did it really run on the GPU?

    No, where result.json names the CPU. Yes, where it names another device and the monitor saw
    that one at work; doubtful, where the monitor never saw it above 0 %; and where there is no
    monitor, or it could not look, what result.json says, with the memory that tensors took there.
    """
    name, utilisation = perf.device["name"], perf.used["gpu_percent"]
    if perf.is_cpu:
        return f"No: it ran on {name} ({perf.device['reason']})."
    peak = perf.timing.get("device_peak_memory_mb")
    held = f"; its tensors took up to {number(peak)} MiB there" if peak else ""
    if utilisation is None:
        why = "its use was not measured: pip install 'realdataexp[gpu]' for an NVIDIA GPU"
        return f"Yes, as result.json says: {name}{held}; {why}."
    if utilisation <= 0.0 and not peak:
        return f"Doubtful: {name}, but in {perf.n_samples} samples it was never at work."
    watts = perf.used["gpu_watts"]
    power = f", at {number(watts)} W" if watts is not None else ""
    return f"Yes: {name}, at work {utilisation:.0f} % of the time while learning{power}{held}."
