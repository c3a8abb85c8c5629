"""plot.svg: what happened over the steps, and how the designs compare with the truth."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from realdataexp.report.files import read_result, read_table

# Okabe & Ito's palette, told apart by colour-blind readers and in print
TREATMENT, CONTROL, TRUTH, NEUTRAL = "#D55E00", "#0072B2", "#009E73", "#595959"
_STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "realdataexp",
}


def write_plot(run_dir: Path) -> Path:
    """Draw plot.svg of a run folder from its tables; returns the file.

    Raises:
        InputError: the folder's files are missing or damaged.
    """
    result = read_result(run_dir)
    outcomes, estimates, metrics = (
        read_table(run_dir, name) for name in ("outcomes", "estimates", "metrics")
    )
    labels = [label["name"] for label in result["config"]["labels"]]
    panels: list[Callable[[Axes], None]] = []
    for label in labels:
        of_label = outcomes.filter(pl.col("label") == label)
        if of_label.height:
            panels.append(lambda ax, x=of_label, name=label: _cumulative(ax, x, name))
    for label in labels:
        of_label = estimates.filter((pl.col("label") == label) & pl.col("value").is_not_null())
        if result["mode"] == "compare" and of_label.height:
            panels.append(lambda ax, x=of_label, name=label: _designs(ax, x, name))
    for label in labels:
        losses = metrics.filter(
            (pl.col("phase") == "loop") & (pl.col("label") == label) & (pl.col("metric") == "loss")
        )
        if losses.height:
            panels.append(lambda ax, x=losses, name=label: _losses(ax, x, name))
    short = metrics.filter(pl.col("metric") == "users_short")
    if short.height:
        panels.append(lambda ax: _exhaustion(ax, metrics))
    path = run_dir / "plot.svg"
    with matplotlib.rc_context(_STYLE):
        n_columns = 2 if len(panels) > 1 else 1
        n_rows = max(1, -(-len(panels) // n_columns))
        figure = Figure(figsize=(4.6 * n_columns, 3.0 * n_rows), layout="constrained")
        for i, draw in enumerate(panels):
            draw(figure.add_subplot(n_rows, n_columns, i + 1))
        note = "" if result["status"] == "complete" else "  (partial)"
        figure.suptitle(f"{result['mode']}, seed {result['seed']}{note}", x=0.01, ha="left")
        temporary = path.with_name(".plot.svg.tmp")
        figure.savefig(temporary, format="svg", metadata={"Date": None})
        temporary.rename(path)
    return path


def _cumulative(ax: Axes, outcomes: pl.DataFrame, label: str) -> None:
    """Cumulative mean outcome per visit of each arm; the truth's worlds where there are some."""
    designs = outcomes["design"].unique(maintain_order=True).to_list()
    shown = ["global"] if "global" in designs else designs[:1]
    for design in shown:
        for arm, colour, name in (("T", TREATMENT, "treatment"), ("C", CONTROL, "control")):
            part = outcomes.filter((pl.col("design") == design) & (pl.col("arm") == arm))
            total = part.group_by("step").agg(pl.col("sum").sum()).sort("step")
            if total.height:
                n_worlds = max(1, part["world"].n_unique())
                y = total["sum"].cum_sum() / n_worlds
                ax.plot(total["step"] + 1, y, color=colour, label=name,
                        linestyle="-" if arm == "T" else "--")  # fmt: skip
    whose = "everybody in one arm" if shown == ["global"] else shown[0]
    ax.set(title=f"{label}: cumulative ({whose})", xlabel="step", ylabel="total, mean over worlds")
    ax.ticklabel_format(axis="y", scilimits=(-3, 5))
    ax.legend()


def _designs(ax: Axes, estimates: pl.DataFrame, label: str) -> None:
    """Box plot of each design's estimates, the mean truth as a line and its worlds as a band."""
    truth = estimates.filter(pl.col("design") == "global")["value"].to_numpy()
    names = [d for d in estimates["design"].unique(maintain_order=True) if d != "global"]
    values = [estimates.filter(pl.col("design") == d)["value"].to_numpy() for d in names]
    boxes = ax.boxplot(
        values, orientation="horizontal", tick_labels=names, widths=0.6, patch_artist=True,
        medianprops={"color": "black"}, flierprops={"markersize": 3},
    )  # fmt: skip
    for box in boxes["boxes"]:
        box.set_facecolor("#D9E6F2")
    for i, v in enumerate(values, start=1):
        ax.plot(v.mean(), i, "D", color="black", markersize=4)
    if len(truth):
        ax.axvline(truth.mean(), color=TRUTH, label="true effect (GTE)")
        if len(truth) > 1:
            half = 1.96 * truth.std(ddof=1) / np.sqrt(len(truth))
            ax.axvspan(truth.mean() - half, truth.mean() + half, color=TRUTH, alpha=0.15)
        ax.legend(loc="upper right", bbox_to_anchor=(1.0, 1.14))
    ax.invert_yaxis()
    ax.set(title=f"{label}: estimates", xlabel="effect per visit (diamond: mean over worlds)")


def _losses(ax: Axes, losses: pl.DataFrame, label: str) -> None:
    """Mean loss over worlds: training and validation, and the truth's two worlds apart."""
    shown = [
        ("global_T", TREATMENT, "treated world"),
        ("global_C", CONTROL, "control world"),
    ]
    if losses.filter(pl.col("design").is_in(["global_T", "global_C"])).height == 0:
        models = losses["model"].unique(maintain_order=True).to_list()
        losses = losses.with_columns(design=pl.col("model"))
        colours = {"T": TREATMENT, "C": CONTROL, "shared": NEUTRAL}
        shown = [(m, colours.get(m, NEUTRAL), f"model {m}") for m in models]
    for design, colour, name in shown:
        for split, style in (("train", ":"), ("validation", "-")):
            part = losses.filter((pl.col("design") == design) & (pl.col("split") == split))
            mean = part.group_by("step").agg(pl.col("value").mean()).sort("step")
            if mean.height:
                ax.plot(mean["step"], mean["value"], style, color=colour, label=f"{name}, {split}")
    ax.set(title=f"{label}: loss", xlabel="step")
    ax.legend(fontsize=7)


def _exhaustion(ax: Axes, metrics: pl.DataFrame) -> None:
    """How the data run out."""
    for metric, style, name in (
        ("users_short", "-", "training users"),
        ("slates_short", ":", "slates shown"),
    ):
        part = metrics.filter(pl.col("metric") == metric).sort("step")
        ax.plot(part["step"], 100 * part["value"], style, color=NEUTRAL, label=name)
    ax.set(title="Short of candidates for a full slate", xlabel="step", ylabel="%", ylim=(0, 100))
    ax.legend()
