"""`realdataexp perf`: where a run's time and its device went, what bounds it, and what to change.

Everything comes from the files of the run folder; the advice follows explicit rules.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import polars as pl
from rich.console import Console
from rich.text import Text

from realdataexp.files import write_atomically
from realdataexp.report.files import REMEDY, RunResult, read_run, read_table_if_there
from realdataexp.report.numbers import number
from realdataexp.report.plots import COLOURS, Axes, Figure, style
from realdataexp.report.table import say

TRAINING, STEPPING, RESULTS = "pretrain: training", "loop: steps", "results"
_LEARNING = (
    "loop",
    "pretrain",
    "training",
)  # of the monitor; validation and checkpoints have their own
_MEASURED = ("cpu_percent", "machine_percent", "gpu_percent", "gpu_memory_mb", "gpu_watts")
_BAR = 24
_CURVES = (  # line styles tell apart in print
    ("cpu_percent", "CPU of the run (100 % = a core)", "control", "-"),
    ("machine_percent", "all cores of the machine", "plain", ":"),
    ("gpu_percent", "GPU", "treatment", "--"),
)

# the bounds of the rules: seconds, shares of the time, percent in use
_SHORT = 10.0
_LONGEST = (  # code, phase, share, what to change
    ("setup", "setup", 0.3,
     "import the data once with realdataexp prepare: later runs find them in the cache"),
    ("pretraining", TRAINING, 0.5,
     "raise pretrain.batch_size, or lower pretrain.epochs or pretrain.max_rows"),
    ("results", RESULTS, 0.2, "name fewer methods in experiment.intervals"),
)  # fmt: skip
_PARTS = (  # code, of which phase, share of it, what to change
    ("validation", "loop", 0.2,
     "raise simulation.validate_every, or lower validation.validation_batches"),
    ("checkpoints", "loop", 0.1, "raise simulation.save_every"),
    ("validation", "pretrain", 0.2, "raise pretrain.validate_every_iters"),
    ("checkpoints", "pretrain", 0.1, "raise pretrain.save_every_iters"),
    ("validation", "training", 0.2, "lower evaluation.validation_users"),
)  # fmt: skip
_OF_TRAINING = {  # what to change there instead
    "gpu_idle": "raise training.users_per_batch; a small training is faster with --device cpu",
    "gpu_busy": "set use_amp: true, or take a smaller network",
    "crowded": "wait until they are done",
    "threads_wait": "lower training.processes",
    "cpu_bound": "raise training.processes, or use a GPU",
    "cpu_full": "take a smaller network, or use a GPU",
}
_GPU_IDLE, _GPU_BUSY, _THREADS_BUSY, _MACHINE_FULL, _OTHERS = 30.0, 80.0, 70.0, 60.0, 25.0


@dataclass(frozen=True)
class Perf:
    """What a run folder tells of its speed."""

    result: RunResult
    phases: dict[str, float]  # seconds of each, in order; they add up to the total
    rows: pl.DataFrame | None  # monitor.parquet, where the run has one
    # means while networks learned (of all phases where they never did), None where not measured;
    # others_percent: of all cores, by other processes
    used: dict[str, float | None]

    @property
    def total(self) -> float:
        """Seconds in all."""
        return sum(self.phases.values())

    def share(self, *phases: str) -> float:
        """What part of the run these phases took."""
        return sum(self.phases.get(p, 0.0) for p in phases) / self.total if self.total > 0 else 0.0


def read_perf(run_dir: Path) -> Perf:
    """Gather what a run folder tells of its speed.

    Raises:
        InputError: it is no run folder, or a damaged one.
    """
    result, rows = read_run(run_dir), read_table_if_there(run_dir, "monitor")
    return Perf(result, phase_seconds(result.timing), rows, _used(rows))


def phase_seconds(timing: Mapping[str, float | None]) -> dict[str, float]:
    """Seconds of each phase; what is in no other went into results."""

    def seconds(phase: str) -> float:
        return timing.get(f"{phase}_seconds") or 0.0

    pretrain, loop, training = seconds("pretrain"), seconds("loop"), seconds("training")
    of_training = {
        "data and models": seconds("setup"),
        "baselines": seconds("baselines"),
        "training: updates": training - seconds("validation"),
        "training: validation": seconds("validation"),
        "ranking and results": seconds("total")
        - seconds("setup")
        - seconds("baselines")
        - training,
    }
    of_experiment = {
        "setup": seconds("setup"),
        TRAINING: pretrain - seconds("pretrain_validation") - seconds("pretrain_checkpoint"),
        "pretrain: validation": seconds("pretrain_validation"),
        "pretrain: checkpoints": seconds("pretrain_checkpoint"),
        STEPPING: loop - seconds("validation") - seconds("checkpoint"),
        "loop: validation": seconds("validation"),
        "loop: checkpoints": seconds("checkpoint"),
        RESULTS: seconds("total") - seconds("setup") - pretrain - loop,
    }
    phases = of_training if training else of_experiment
    return {phase: max(0.0, s) for phase, s in phases.items()}


def _used(rows: pl.DataFrame | None) -> dict[str, float | None]:
    if rows is None or not rows.height:
        return dict.fromkeys((*_MEASURED, "others_percent"))
    learning = rows.filter(pl.col("phase").is_in(_LEARNING))
    rows = learning if learning.height else rows
    own = pl.col("cpu_percent") / pl.col("cores")
    others = (pl.col("machine_percent") - own).clip(lower_bound=0.0).alias("others_percent")
    return rows.with_columns(others).select(*_MEASURED, "others_percent").mean().row(0, named=True)


def gpu_answer(perf: Perf) -> str:
    """Did it really run on the GPU? By what result.json names, and the monitor saw."""
    device, utilisation = perf.result.device, perf.used["gpu_percent"]
    if device.is_cpu:
        return f"No: it ran on {device.name} ({device.reason})."
    peak = perf.result.timing.get("device_peak_memory_mb")
    held = f"; its tensors took up to {number(peak)} MiB there" if peak else ""
    if utilisation is None:
        why = "its use was not measured: pip install 'realdataexp[gpu]' for an NVIDIA GPU"
        return f"Yes, as result.json says: {device.name}{held}; {why}."
    if utilisation <= 0.0 and not peak:
        return f"Doubtful: {device.name}, but the monitor never saw it at work."
    watts = perf.used["gpu_watts"]
    power = f", at {number(watts)} W" if watts is not None else ""
    at_work = f"at work {utilisation:.0f} % of the time while learning{power}"
    return f"Yes: {device.name}, {at_work}{held}."


# --- what bounds it -----------------------------------------------------------------------------


class Advice(NamedTuple):
    """A rule that holds: its code, what was seen, and what to change."""

    code: str
    seen: str
    change: str


def advise(perf: Perf) -> list[Advice]:
    """The rules that hold for a run, of those that docs/operations.md lists."""
    instead = _OF_TRAINING if perf.result.trained else {}
    found = [*_by_time(perf), *_by_gpu(perf), *_by_cpu(perf)]
    return [x._replace(change=instead.get(x.code, x.change)) for x in found]


def _by_time(perf: Perf) -> Iterator[Advice]:
    if perf.total < _SHORT:
        seen = f"the whole run took {perf.total:.1f} s, mostly starting"
        yield Advice("short", seen, "judge its speed by a longer one")
    for code, phase, most, change in _LONGEST:
        if (share := perf.share(phase)) > most:
            yield Advice(code, f"{code} took {share:.0%} of the time", change)
    for code, phase, most, change in _PARTS:
        whole = perf.share(*(p for p in perf.phases if p.startswith(phase)))
        share = perf.share(f"{phase}: {code}")
        if share > most * whole:
            seen = f"{code} took {share / whole:.0%} of the {phase}"
            yield Advice(code, seen, change)


def _by_gpu(perf: Perf) -> Iterator[Advice]:
    utilisation = perf.used["gpu_percent"]
    if perf.result.device.is_cpu or utilisation is None:
        return
    seen = f"the GPU was at work {utilisation:.0f} % of the time"
    if utilisation < _GPU_IDLE:
        change = (
            "do more at once: raise experiment.replications, simulation.batch_size or "
            "pretrain.batch_size; a small experiment is faster with --device cpu"
        )
        yield Advice("gpu_idle", f"{seen}: steps are too small to fill it", change)
    if utilisation > _GPU_BUSY:
        change = "set use_amp: true, or take smaller networks, fewer designs or replications"
        yield Advice("gpu_busy", f"{seen}: it is the bound", change)


def _by_cpu(perf: Perf) -> Iterator[Advice]:
    threads = perf.result.device.threads
    busy, machine, others = (perf.used[f"{name}_percent"] for name in ("cpu", "machine", "others"))
    if busy is None or machine is None or others is None:
        change = "run again with this version, for more than a second"
        yield Advice("not_measured", "monitor.parquet holds no measurement", change)
        return
    if others > _OTHERS:
        seen = f"other processes took {others:.0f} % of the machine"
        change = "wait until they are done" if threads == 1 else "set OMP_NUM_THREADS=1"
        yield Advice("crowded", seen, change)
    if not perf.result.device.is_cpu:
        return
    per_thread = busy / threads
    if per_thread < _THREADS_BUSY and threads > 1:
        seen = f"{threads} threads were busy {per_thread:.0f} % of the time"
        change = (
            f"set OMP_NUM_THREADS={max(1, round(busy / 100))}, and run several experiments side "
            "by side; or raise experiment.replications or simulation.batch_size"
        )
        yield Advice("threads_wait", f"{seen}: they waited for each other", change)
    elif per_thread >= _THREADS_BUSY and machine < _MACHINE_FULL:
        seen = f"its CPU threads ({threads}) are the bound, and the machine has cores to spare"
        change = "raise OMP_NUM_THREADS, run several experiments side by side, or use a GPU"
        yield Advice("cpu_bound", seen, change)
    elif per_thread >= _THREADS_BUSY:
        change = "take fewer replications or designs or smaller networks, or use a GPU"
        yield Advice("cpu_full", "the CPU is the bound, and the machine's cores are taken", change)


# --- the answer ---------------------------------------------------------------------------------


def print_perf(run_dir: Path, console: Console | None = None) -> None:
    """Print where a run's time went, what it used, what bounds it, and what to change.

    Raises:
        InputError: it is no run folder, or a damaged one.
    """
    console = console or Console(highlight=False)
    perf = read_perf(run_dir)
    say(console, f"Where {perf.total:,.1f} s went", "bold")
    width = max(map(len, perf.phases))
    for phase, seconds in perf.phases.items():
        share = perf.share(phase)
        if seconds > 0:
            bar = "█" * round(_BAR * share)
            line = f"{phase.ljust(width)}  {seconds:>10,.1f} s  {share:>4.0%}  {bar}"
            console.print(Text(line.rstrip()), soft_wrap=True)
    console.print()
    for text in lines_of(perf):
        say(console, text, hang="  ")
    console.print()
    say(console, "Did it really run on the GPU?", "bold")
    say(console, gpu_answer(perf))
    console.print()
    say(console, "What bounds it, and what to change", "bold")
    found = advise(perf)
    for code, seen, change in found:
        say(console, f"{code}: {seen} → {change}", "yellow", "  ")
    if not found:
        say(console, "No rule finds anything to change.")


def lines_of(perf: Perf) -> list[str]:
    """Rates and measured use, a line each; what is not known is left out."""
    timing, used = perf.result.timing, perf.used
    lines = []
    if rate := timing.get("arm_steps_per_second"):
        loop = perf.result.config.simulation
        scored = number(rate * loop.batch_size * loop.n_candidate)
        lines.append(f"loop: {number(rate)} arm-steps/s, which score {scored} rows/s")
    if rate := timing.get("pretrain_rows_per_second"):
        lines.append(f"pretraining: {number(rate)} rows/s")
    if rate := timing.get("positions_per_second"):
        lines.append(f"training: {number(rate)} positions/s")
    if used["cpu_percent"] is not None and used["others_percent"] is not None:
        lines.append(
            f"CPU while learning: {used['cpu_percent']:.0f} % (100 % = a core; threads: "
            f"{perf.result.device.threads}); other processes: {used['others_percent']:.0f} % of "
            "the machine"
        )
    lines.append(f"memory: up to {number(timing.get('peak_memory_mb'))} MiB")
    if (utilisation := used["gpu_percent"]) is not None:
        held = number(used["gpu_memory_mb"])
        lines.append(f"GPU while learning: {utilisation:.0f} %, {held} MiB in use by all programs")
    return lines


def write_perf_plot(run_dir: Path) -> Path:
    """Draw perf.svg: seconds of each phase, and use over time where it was measured.

    Raises:
        InputError: it is no run folder, or a damaged one.
    """
    with style():
        figure = draw_perf(read_perf(run_dir))
        svg = partial(figure.savefig, format="svg", metadata={"Date": None})
        return write_atomically(run_dir / "perf.svg", svg, REMEDY)


def draw_perf(perf: Perf) -> Figure:
    """The figure: bars of phases, and below them the curves of the monitor, if it has any row."""
    rows = perf.rows if perf.rows is not None and perf.rows.height else None
    figure = Figure(figsize=(7.5, 2.8 if rows is None else 5.4), layout="constrained")
    axes = figure.subplots(1 if rows is None else 2, 1, squeeze=False)[:, 0]
    _bars(axes[0], perf)
    if rows is not None:
        _curves(axes[1], rows)
    figure.suptitle(perf.result.device.name, x=0.01, ha="left")
    return figure


def _bars(ax: Axes, perf: Perf) -> None:
    shown = {phase: s for phase, s in perf.phases.items() if s > 0}
    bars = ax.barh(list(shown), list(shown.values()), color=COLOURS["control"])
    ax.bar_label(bars, [f" {perf.share(phase):.0%}" for phase in shown])
    ax.invert_yaxis()
    ax.set(title="Where the time went", xlabel="seconds")


def _curves(ax: Axes, rows: pl.DataFrame) -> None:
    for name, label, colour, line in _CURVES:
        known = rows.drop_nulls(name)
        if known.height:
            ax.plot(
                known["seconds"], known[name], line, color=COLOURS[colour], label=label,
                marker="o" if known.height < 3 else None,
            )  # fmt: skip
    for start in rows.filter(pl.col("process") != pl.col("process").shift())["seconds"]:
        ax.axvline(start, color=COLOURS["plain"], linewidth=0.6)
    changes = rows.filter(pl.col("phase").ne_missing(pl.col("phase").shift()))
    begun: set[str] = set()
    for seconds, phase in changes.select("seconds", "phase").iter_rows():
        if phase and phase not in begun:  # a phase's name where it began first
            begun.add(phase)
            ax.annotate(
                phase, (seconds, 0.03), xycoords=("data", "axes fraction"), fontsize=7,
                rotation=90, va="bottom", color=COLOURS["plain"],
            )  # fmt: skip
    ax.set_ylim(bottom=0)
    title = "What was used (a line where the run was resumed)"
    ax.set(title=title, xlabel="seconds since the start", ylabel="%")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=3)
