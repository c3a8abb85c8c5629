"""The panels of plot.svg, each a function of its axes and of a small table."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import polars as pl

from realdataexp.report.bias import interval, kind
from realdataexp.report.drawing import Axes, FuncFormatter, MaxNLocator
from realdataexp.report.numbers import number
from realdataexp.report.verdicts import JUDGEMENTS

TREATMENT, CONTROL, TRUTH, NEUTRAL = "#D55E00", "#0072B2", "#009E73", "#595959"
_BOX = "#D9E6F2"
_BAND = 0.16  # opacity
_WHO = {
    "T": ("treatment", TREATMENT, "o"),
    "C": ("control", CONTROL, "s"),
    "shared": ("both arms", NEUTRAL, "o"),
}
_JUDGED = {
    "unbiased": (CONTROL, "o"),
    "small": (CONTROL, "s"),
    "inconclusive": (NEUTRAL, "D"),
    "few": (NEUTRAL, "x"),
    "biased": (TREATMENT, "s"),
}
_METRICS = {
    "auc": "AUC (0.5 is guessing)",
    "relative_error": "relative error",
    "mae": "mean absolute error",
    "loss": "loss",
}


def estimates(
    ax: Axes, table: pl.DataFrame, truth: dict[str, Any] | None, order: Sequence[str], title: str
) -> None:
    """Box plot of each design's estimates, the mean truth as a line and its interval as a band."""
    values = [table.filter(pl.col("design") == d)["value"].to_numpy() for d in order]
    if truth is not None:
        if truth["ci_low"] is not None:
            band = (truth["ci_low"], truth["ci_high"])
            ax.axvspan(*band, color=TRUTH, alpha=0.2, linewidth=0)
        ax.axvline(truth["value"], color=TRUTH, linewidth=2, label="true effect (GTE)")
    boxes = ax.boxplot(
        values, orientation="horizontal", widths=0.55, patch_artist=True,
        medianprops={"color": "black"}, flierprops={"markersize": 3},
    )  # fmt: skip
    for box in boxes["boxes"]:
        box.set_facecolor(_BOX)
    means = [v.mean() for v in values]
    ax.plot(
        means, range(1, len(order) + 1), "D", color="black", markersize=4, linestyle="",
        label="mean of estimates",
    )  # fmt: skip
    _designs(ax, order)
    ax.set(title=f"{title}: estimates", xlabel="effect per visit")
    _short_ticks(ax, "x")
    _legend_below(ax)


def biases(ax: Axes, entries: Sequence[dict[str, Any]], n_biases: int, title: str) -> None:
    """Each design's bias, one of so many, with the interval that decides whether it is one."""
    shown: dict[str, Any] = {}
    for i, e in enumerate(entries, start=1):
        judgement = JUDGEMENTS[kind(e, n_biases)]
        colour, marker = _JUDGED[judgement]
        low, high = interval(e, n_biases) or (e["bias"], e["bias"])
        shown[judgement] = ax.errorbar(
            e["bias"], i, xerr=[[e["bias"] - low], [high - e["bias"]]], color=colour,
            marker=marker, markersize=5, capsize=3, linestyle="",
        )[0]  # fmt: skip
    shown["no bias"] = ax.axvline(0, color=TRUTH, linewidth=2)
    _designs(ax, [""] * len(entries))
    ax.set(title=f"{title}: bias", xlabel="estimate − truth, per visit")
    _short_ticks(ax, "x")
    names = {"few": "not judged", "small": "small bias"}
    order = [x for x in ("no bias", *_JUDGED) if x in shown]
    handles = [shown[x] for x in order]
    _legend_below(ax, 3, handles=handles, labels=[names.get(x, x) for x in order])


def coverage(ax: Axes, covers: dict[str, dict[str, Any]], order: Sequence[str], title: str) -> None:
    """How often each design's 95 % interval (Welch's) holds the truth."""
    for i, name in enumerate(order, start=1):
        if name in covers:
            e = covers[name]
            share, low, high = (100 * e[k] for k in ("coverage", "coverage_low", "coverage_high"))
            is_off = e["trustworthy"] is False
            ax.errorbar(
                share, i, xerr=[[share - low], [high - share]], capsize=3, markersize=5,
                color=TREATMENT if is_off else CONTROL, marker="s" if is_off else "o",
            )  # fmt: skip
    ax.axvline(95, color=TRUTH, linewidth=2, label="what it claims")
    for name, colour, marker in (("too low", TREATMENT, "s"), ("not refuted", CONTROL, "o")):
        ax.plot([], [], color=colour, marker=marker, markersize=5, label=name)
    _designs(ax, [""] * len(order))
    ax.set(
        title=f"{title}: coverage",
        xlabel="% of 95 % intervals that hold the truth",
        xlim=(-2, 102),
    )
    _legend_below(ax, n_columns=3)


def totals(ax: Axes, table: pl.DataFrame, title: str) -> None:
    """Cumulative outcome of each arm; of the truth's worlds where there are some."""
    is_truth = table["design"][0] == "global"
    for arm in "TC":
        name, colour, _ = _WHO[arm]
        part = table.filter(pl.col("arm") == arm)
        if part.height:
            name = f"everybody in {name}" if is_truth else f"{name} arm"
            ax.plot(
                part["step"], part["mean"], color=colour, label=name,
                linestyle="-" if arm == "T" else "--",
            )  # fmt: skip
            _band(ax, part, colour)
    whose = "" if is_truth else f", {table['design'][0]}"
    ax.set(title=f"{title}: total so far{whose}", ylabel="per replication")
    ax.set_ylim(bottom=min(0.0, ax.get_ylim()[0]))
    _steps(ax)
    _short_ticks(ax, "y")
    _legend_below(ax)


def looks(ax: Axes, table: pl.DataFrame, metric: str, title: str) -> None:
    """A metric of the networks, in training (dotted) and on held-out users."""
    for who, (name, colour, marker) in _WHO.items():
        for split, line in (("train", ":"), ("validation", "-")):
            part = table.filter((pl.col("who") == who) & (pl.col("split") == split))
            if part.height:
                ax.plot(
                    part["step"], part["mean"], linestyle=line, marker=marker, color=colour,
                    markerfacecolor="white" if split == "train" else colour,
                    label=f"{name}, {split}",
                )  # fmt: skip
                _band(ax, part, colour)
    named = _METRICS.get(metric, metric)
    ax.set(title=f"{title}: {named.partition(' (')[0]}", ylabel=named)
    _steps(ax)
    _short_ticks(ax, "y")
    _legend_below(ax)


def weights(ax: Axes, table: pl.DataFrame, metrics: Sequence[str], best: str) -> None:
    """Figures of the weight model G of each design that has one."""
    designs = table["design"].unique(maintain_order=True).to_list()
    styles = ((CONTROL, "-", "o"), (NEUTRAL, "--", "s"))
    for i, design in enumerate(designs):
        for metric, (colour, line, marker) in zip(metrics, styles, strict=True):
            part = table.filter((pl.col("design") == design) & (pl.col("metric") == metric))
            if part.height:
                name = metric.replace("_", " ").replace("auc", "AUC")
                ax.plot(
                    part["step"], part["mean"], color=colour, linestyle=line,
                    marker=marker if i == 0 else "^",
                    label=name if len(designs) == 1 else f"{design}: {name}",
                )  # fmt: skip
    shown = "log loss" if metrics[0] == "log_loss" else "AUC and accuracy"
    ax.set(title=f"weight model: {shown}", ylabel=f"{best} is better")
    ax.set_xlim(left=0)
    _steps(ax)
    _short_ticks(ax, "y")
    _legend_below(ax)


def data_left(ax: Axes, table: pl.DataFrame) -> None:
    """How the data run out."""
    shown = (("users_short", CONTROL, "-", "training users"), ("slates_short", TREATMENT, ":",
             "slates of the visits"))  # fmt: skip
    for metric, colour, line, name in shown:
        part = table.filter(pl.col("metric") == metric)
        ax.plot(part["step"], 100 * part["mean"], linestyle=line, color=colour, label=name)
    ax.set(title="data left: too little for a full slate", ylabel="%", ylim=(0, 102))
    _steps(ax)
    _legend_below(ax)


def _band(ax: Axes, part: pl.DataFrame, colour: str) -> None:
    """The range of the middle 80 % of the worlds."""
    known = part.drop_nulls(["low", "high"])
    if known.height:
        ax.fill_between(
            known["step"], known["low"], known["high"], color=colour, alpha=_BAND, linewidth=0
        )


def _designs(ax: Axes, names: Sequence[str]) -> None:
    """The designs from top to bottom, each in one place."""
    ax.set_yticks(range(1, len(names) + 1), ["\n".join(textwrap.wrap(name, 18)) for name in names])
    ax.set_ylim(len(names) + 0.6, 0.4)
    ax.grid(visible=False, axis="y")


def _short_ticks(ax: Axes, which: str) -> None:
    """A few ticks, written as in the result table: 30 M instead of 3.0 and 1e7 elsewhere."""
    axis = ax.xaxis if which == "x" else ax.yaxis
    axis.set_major_locator(MaxNLocator(5))
    axis.set_major_formatter(FuncFormatter(lambda value, _: number(round(value, 12))))


def _legend_below(ax: Axes, n_columns: int = 2, **what: Any) -> None:
    """A legend under the panel, where nothing that is drawn can lie beneath it."""
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.22), ncols=n_columns, **what)


def _steps(ax: Axes) -> None:
    ax.set_xlabel("step")
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
