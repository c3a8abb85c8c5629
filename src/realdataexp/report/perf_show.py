"""The answer of `realdataexp perf`: on the terminal, and drawn as perf.svg."""

from __future__ import annotations

import textwrap
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
from rich.console import Console
from rich.text import Text

from realdataexp.errors import one_line
from realdataexp.files import write_atomically
from realdataexp.report.drawing import Axes, Figure, matplotlib
from realdataexp.report.files import REMEDY
from realdataexp.report.numbers import number
from realdataexp.report.perf import Perf, gpu_answer, monitor_rows, read_perf
from realdataexp.report.perf_rules import advise

_BAR = 24
# Okabe & Ito's palette, told apart by colour-blind readers; line styles tell apart in print
_RUN, _MACHINE, _GPU = "#0072B2", "#595959", "#D55E00"
_STYLE: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "realdataexp",
}
_CURVES = (
    ("cpu_percent", "CPU of the run (100 % = a core)", _RUN, "-"),
    ("machine_percent", "all cores of the machine", _MACHINE, ":"),
    ("gpu_percent", "GPU", _GPU, "--"),
)


def print_perf(run_dir: Path, console: Console | None = None) -> None:
    """Print where a run's time went, what it used, what bounds it, and what to change.

    Raises:
        InputError: it is no run folder, or a damaged one.
    """
    console = console or Console(highlight=False)
    perf = read_perf(run_dir)

    def say(text: str = "", style: str = "", hang: str = "") -> None:
        lines = textwrap.fill(
            one_line(text), max(40, console.width - 1), subsequent_indent=hang,
            break_long_words=False, break_on_hyphens=False,
        )  # fmt: skip
        console.print(Text(lines, style=style), soft_wrap=True)

    say(f"Where {perf.total:,.1f} s went", "bold")
    width = max(map(len, perf.phases))
    for phase, seconds in perf.phases.items():
        share = perf.share(phase)
        if seconds > 0:
            bar = "█" * round(_BAR * share)
            figures = f"{phase.ljust(width)}  {seconds:>10,.1f} s  {share:>4.0%}  {bar}"
            console.print(Text(figures.rstrip()), soft_wrap=True)
    say()
    for text in figures_of(perf):
        say(text, hang="  ")
    say()
    say("Did it really run on the GPU?", "bold")
    say(gpu_answer(perf))
    say()
    say("What bounds it, and what to change", "bold")
    found = advise(perf)
    for advice in found:
        say(f"{advice.code}: {advice.seen} → {advice.change}", "yellow", "  ")
    if not found:
        say("No rule finds anything to change.")


def figures_of(perf: Perf) -> list[str]:
    """Rates and measured use, a line each; what is not known is left out."""
    timing, used = perf.timing, perf.used
    lines = []
    if rate := timing.get("arm_steps_per_second"):
        scored = number(rate * perf.candidates)
        lines.append(f"loop: {number(rate)} arm-steps/s, which score {scored} rows/s")
    if rate := timing.get("pretrain_rows_per_second"):
        lines.append(f"pretraining: {number(rate)} rows/s")
    if used["cpu_percent"] is not None and used["others_percent"] is not None:
        lines.append(
            f"CPU while learning: {used['cpu_percent']:.0f} % (100 % = a core; threads: "
            f"{perf.device['threads']}); other processes: {used['others_percent']:.0f} % of the "
            "machine"
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
    perf, rows = read_perf(run_dir), monitor_rows(run_dir)
    with matplotlib.rc_context(_STYLE):
        figure = draw_perf(perf, rows)
        svg = partial(figure.savefig, format="svg", metadata={"Date": None})
        return write_atomically(run_dir / "perf.svg", svg, REMEDY)


def draw_perf(perf: Perf, rows: pl.DataFrame | None) -> Figure:
    """The figure: bars of phases, and below them the curves of the monitor, if it has any row."""
    is_measured = rows is not None and rows.height > 0
    figure = Figure(figsize=(7.5, 5.4 if is_measured else 2.8), layout="constrained")
    axes = figure.subplots(2 if is_measured else 1, 1, squeeze=False)[:, 0]
    _bars(axes[0], perf)
    if is_measured and rows is not None:
        _curves(axes[1], rows)
    figure.suptitle(perf.device["name"], x=0.01, ha="left", weight="bold")
    return figure


def _bars(ax: Axes, perf: Perf) -> None:
    shown = {phase: s for phase, s in perf.phases.items() if s > 0}
    bars = ax.barh(list(shown), list(shown.values()), color=_RUN)
    ax.bar_label(bars, [f" {perf.share(phase):.0%}" for phase in shown])
    ax.invert_yaxis()
    ax.set_title("Where the time went")
    ax.set_xlabel("seconds")


def _curves(ax: Axes, rows: pl.DataFrame) -> None:
    for name, label, colour, line in _CURVES:
        known = rows.drop_nulls(name)
        if known.height:
            marker = "o" if known.height < 3 else None
            ax.plot(known["seconds"], known[name], line, color=colour, label=label, marker=marker)
    for start in rows.filter(pl.col("process") != pl.col("process").shift())["seconds"]:
        ax.axvline(start, color=_MACHINE, linewidth=0.6)
    changes = rows.filter(pl.col("phase").ne_missing(pl.col("phase").shift()))
    begun: set[str] = set()
    for seconds, phase in changes.select("seconds", "phase").iter_rows():
        if phase and phase not in begun:  # a phase's name where it began first
            begun.add(phase)
            ax.annotate(
                phase, (seconds, 0.03), xycoords=("data", "axes fraction"), fontsize=7,
                rotation=90, va="bottom", color=_MACHINE,
            )  # fmt: skip
    ax.set_ylim(bottom=0)
    ax.set_title("What was used (a line where the run was resumed)")
    ax.set_xlabel("seconds since the start")
    ax.set_ylabel("%")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=3)
