"""plot.svg: how the designs compare with the truth, and what happened over the steps."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from realdataexp.report.files import read_result, read_table
from realdataexp.report.numbers import number

# Okabe & Ito's palette, told apart by colour-blind readers; line styles tell apart in print
TREATMENT, CONTROL, TRUTH, NEUTRAL = "#D55E00", "#0072B2", "#009E73", "#595959"
_BOX = "#D9E6F2"
_MAX_COLUMNS, _ROW_INCHES = 3, 2.8
_STYLE: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E6E6E6",
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.markersize": 3.5,
    "svg.fonttype": "none",
    "svg.hashsalt": "realdataexp",
}
_ARMS = (("T", TREATMENT, "-", "treatment"), ("C", CONTROL, "--", "control"))

_Panel = partial[None]  # of a function below; takes the axes


def write_plot(run_dir: Path) -> Path:
    """Draw plot.svg of a run folder from its tables; returns the file.

    Raises:
        InputError: the folder's files are missing or damaged.
    """
    result = read_result(run_dir)
    tables = {name: read_table(run_dir, name) for name in ("outcomes", "estimates", "metrics")}
    path = run_dir / "plot.svg"
    temporary = path.with_name(f".plot.svg.{os.getpid()}.tmp")
    with matplotlib.rc_context(_STYLE):
        figure = draw(result, **tables)
        try:
            figure.savefig(temporary, format="svg", metadata={"Date": None})
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    return path


def draw(
    result: dict[str, Any], outcomes: pl.DataFrame, estimates: pl.DataFrame, metrics: pl.DataFrame
) -> Figure:
    """The figure: a row of panels for each kind, a column for each label."""
    titles = {x["name"]: _title(x["name"], x["target"]) for x in result["config"]["labels"]}
    rows = _rows(_panels(result["mode"], titles, outcomes, estimates, metrics))
    n_columns = max((len(row) for row in rows), default=1)
    n_designs = len({e["design"] for e in result["comparison"]})
    heights = [_ROW_INCHES] * len(rows)
    if n_designs:
        heights[0] = max(_ROW_INCHES, 1.2 + 0.4 * n_designs)
    figure = Figure(figsize=(4.6 * n_columns, 0.4 + (sum(heights) or 1)), layout="constrained")
    figure.get_layout_engine().set(h_pad=0.08, w_pad=0.08)  # type: ignore[union-attr, call-arg]
    if rows:
        grid = figure.add_gridspec(len(rows), n_columns, height_ratios=heights)
    for i, row in enumerate(rows):
        for j, panel in enumerate(row):
            is_alone = panel.func is _exhaustion
            panel(figure.add_subplot(grid[i, :] if is_alone else grid[i, j]))
    if not rows:
        figure.text(0.5, 0.4, "The run ended before its first step.", ha="center")
    n = result["config"]["experiment"]["replications"]
    note = "" if result["status"] == "complete" else f"; partial: {result['n_steps_done']} steps"
    title = f"{result['mode']}: seed {result['seed']}, replications {n}{note}"
    figure.suptitle(title, x=0.01, ha="left", weight="bold")
    return figure


def _panels(
    mode: str,
    titles: dict[str, str],
    outcomes: pl.DataFrame,
    estimates: pl.DataFrame,
    metrics: pl.DataFrame,
) -> list[list[_Panel]]:
    """What there is to draw: for each kind, its panels."""
    known = estimates.filter(pl.col("value").is_not_null() & (pl.col("se_method") == "welch"))
    losses = metrics.filter((pl.col("phase") == "loop") & (pl.col("metric") == "loss"))
    kinds = [(_cumulative, outcomes), (_losses, losses)]
    if mode == "compare" and known.filter(pl.col("design") != "global").height:
        kinds.insert(0, (_designs, known))
    panels: list[list[_Panel]] = []
    for kind, table in kinds:
        parts = [(table.filter(pl.col("label") == label), label) for label in titles]
        panels.append([partial(kind, table=t, title=titles[x]) for t, x in parts if t.height])
    if metrics.filter(pl.col("metric") == "users_short").height:
        panels.append([partial(_exhaustion, metrics=metrics)])
    return panels


def _rows(kinds: Iterable[list[_Panel]]) -> list[list[_Panel]]:
    """The panels in rows; each kind begins a new one."""
    rows = []
    for panels in kinds:
        n = 2 if len(panels) == 4 else _MAX_COLUMNS
        rows += [panels[i : i + n] for i in range(0, len(panels), n)]
    return rows


def _title(name: str, target: str) -> str:
    return f"{name} (ms)" if target.endswith("_ms") else name


def _short_ticks(ax: Axes, which: str) -> None:
    """A few ticks, written as in the result table: 30 M instead of 3.0 and 1e7 elsewhere."""
    axis = ax.xaxis if which == "x" else ax.yaxis
    axis.set_major_locator(MaxNLocator(5))
    axis.set_major_formatter(FuncFormatter(lambda value, _: number(round(value, 12))))


def _legend_below(ax: Axes) -> None:
    """A legend under the panel, where nothing that is drawn can lie beneath it."""
    ax.legend(loc="upper center", bbox_to_anchor=(0.45, -0.2), ncols=2)


def _steps(ax: Axes) -> None:
    ax.set_xlabel("step")
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))


def _cumulative(ax: Axes, table: pl.DataFrame, title: str) -> None:
    """Cumulative outcome of each arm; of the truth's worlds where there are some."""
    designs = table["design"].unique(maintain_order=True).to_list()
    design = "global" if "global" in designs else designs[0]
    for arm, colour, line, name in _ARMS:
        part = table.filter((pl.col("design") == design) & (pl.col("arm") == arm))
        total = part.group_by("step").agg(pl.col("sum").sum()).sort("step")
        if total.height:
            y = total["sum"].cum_sum() / part["world"].n_unique()
            name = f"everybody in {name}" if design == "global" else f"{name} arm"
            ax.plot(total["step"] + 1, y, color=colour, linestyle=line, label=name)
    whose = "" if design == "global" else f", {design}"
    ax.set(title=f"{title}: total so far{whose}", ylabel="mean over replications")
    ax.set_ylim(bottom=min(0.0, ax.get_ylim()[0]))
    _steps(ax)
    _short_ticks(ax, "y")
    ax.legend(loc="upper left")


def _designs(ax: Axes, table: pl.DataFrame, title: str) -> None:
    """Box plot of each design's estimates, the mean truth as a line and its interval as a band."""
    truth = table.filter(pl.col("design") == "global")["value"].to_numpy()
    names = [d for d in table["design"].unique(maintain_order=True) if d != "global"]
    values = [table.filter(pl.col("design") == d)["value"].to_numpy() for d in names]
    if len(truth):
        if len(truth) > 1:
            half = 1.96 * truth.std(ddof=1) / np.sqrt(len(truth))
            low, high = truth.mean() - half, truth.mean() + half
            ax.axvspan(low, high, color=TRUTH, alpha=0.2, linewidth=0)
        ax.axvline(truth.mean(), color=TRUTH, linewidth=2, label="true effect (GTE)")
    if names:
        boxes = ax.boxplot(
            values, orientation="horizontal", widths=0.55, patch_artist=True,
            tick_labels=["\n".join(textwrap.wrap(name, 18)) for name in names],
            medianprops={"color": "black"}, flierprops={"markersize": 3},
        )  # fmt: skip
        for box in boxes["boxes"]:
            box.set_facecolor(_BOX)
    for i, v in enumerate(values, start=1):
        label = "mean of a design's estimates" if i == 1 else None
        ax.plot(v.mean(), i, "D", color="black", markersize=4, linestyle="", label=label)
    ax.invert_yaxis()
    ax.set(title=f"{title}: estimates of the effect", xlabel="effect per visit")
    _short_ticks(ax, "x")
    ax.grid(visible=False, axis="y")
    _legend_below(ax)


def _losses(ax: Axes, table: pl.DataFrame, title: str) -> None:
    """Mean loss over worlds, in training and validation; the truth's two worlds apart."""
    shown = [
        ("global_T", TREATMENT, "o", "all treated"),
        ("global_C", CONTROL, "s", "all control"),
    ]
    if table.filter(pl.col("design").is_in(["global_T", "global_C"])).height == 0:
        table = table.with_columns(design=pl.col("model"))
        shown = [
            ("T", TREATMENT, "o", "treatment"),
            ("C", CONTROL, "s", "control"),
            ("shared", NEUTRAL, "o", "both arms"),
        ]
    for design, colour, marker, name in shown:
        for split, line in (("train", ":"), ("validation", "-")):
            part = table.filter((pl.col("design") == design) & (pl.col("split") == split))
            mean = part.group_by("step").agg(pl.col("value").mean()).sort("step")
            if mean.height:
                ax.plot(mean["step"], mean["value"], linestyle=line, marker=marker, color=colour,
                        label=f"{name}, {split}")  # fmt: skip
    ax.set(title=f"{title}: loss", ylabel="mean loss")
    _steps(ax)
    _legend_below(ax)


def _exhaustion(ax: Axes, metrics: pl.DataFrame) -> None:
    """How the data run out."""
    for metric, line, name in (
        ("users_short", "-", "training users"),
        ("slates_short", ":", "slates of the visits"),
    ):
        part = metrics.filter(pl.col("metric") == metric).sort("step")
        ax.plot(part["step"], 100 * part["value"], line, color=NEUTRAL, label=name)
    ax.set(title="Fewer candidates left than a full slate has", ylabel="%", ylim=(0, 100))
    _steps(ax)
    ax.legend(loc="best")
