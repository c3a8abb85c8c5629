"""plot.svg: how the designs compare with the truth, and what happened over the steps."""

from __future__ import annotations

import warnings
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import polars as pl

from realdataexp.files import write_atomically
from realdataexp.report import curves, panels
from realdataexp.report.bias import INTERVAL_OF_BIAS
from realdataexp.report.drawing import Figure, matplotlib
from realdataexp.report.files import REMEDY, read_result, read_table
from realdataexp.report.numbers import replications
from realdataexp.report.table import unit_of

STYLE = Path(__file__).with_name("style.mplstyle")
_COLUMNS, _WIDTH, _ROW_INCHES = 3, 11.5, 2.75

_NOTE = "Lines: means over replications. Bands: the middle 80 % of the replications."
_Panel = partial[None]  # of a function of panels; takes the axes


def write_plot(run_dir: Path, *, png: bool = False) -> Path:
    """Draw plot.svg of a run folder from its tables, and plot.png where asked; returns the SVG.

    Raises:
        InputError: the folder's files are missing or damaged.
    """
    result = read_result(run_dir)
    tables = {name: read_table(run_dir, name) for name in ("outcomes", "estimates", "metrics")}
    with matplotlib.rc_context(fname=STYLE), warnings.catch_warnings():
        # an SVG's texts are drawn by its viewer, who may have the signs that no font here has
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
        figure = draw(result, **tables)
        said = {"Date": None, "Title": f"realdataexp: {_title(result)}"}
        svg = partial(figure.savefig, format="svg", metadata=said)
        path = write_atomically(run_dir / "plot.svg", svg, REMEDY)
        if png:
            write_atomically(run_dir / "plot.png", partial(figure.savefig, format="png"), REMEDY)
    return path


def draw(
    result: dict[str, Any], outcomes: pl.DataFrame, estimates: pl.DataFrame, metrics: pl.DataFrame
) -> Figure:
    """The figure: for each label a row of answers and a row of curves, and what all share."""
    names = {x["name"]: label_title(x) for x in result["config"]["labels"]}
    answers = _answers(result, names, estimates)
    rows = [*answers, *_filled([*_curves(names, outcomes, metrics), _shared(metrics)])]
    n_designs = len({e["design"] for e in result["comparison"]})
    heights = [max(2.4, 1.2 + 0.28 * n_designs)] * len(answers)
    heights += [_ROW_INCHES] * (len(rows) - len(answers))
    figure = Figure(figsize=(_WIDTH, 0.5 + (sum(heights) or 1)), layout="constrained")
    if rows:
        grid = figure.add_gridspec(len(rows), 1, height_ratios=heights)
    for i, row in enumerate(rows):
        columns = grid[i].subgridspec(1, len(row))
        for j, panel in enumerate(row):
            panel(figure.add_subplot(columns[j]))
    if not rows:
        figure.text(0.5, 0.4, "The run ended before its first step.", ha="center")
    figure.suptitle(_title(result), x=0.01, ha="left")
    n_biases = len(result["comparison"])
    note = f"{_NOTE} {INTERVAL_OF_BIAS.format(n=n_biases)}." if n_biases else _NOTE
    figure.supxlabel(note, x=0.01, ha="left", fontsize=8)
    return figure


def _filled(rows: list[list[_Panel]]) -> list[list[_Panel]]:
    """Full rows as they are; the panels of the others together, shared out evenly."""
    loose = [panel for row in rows if len(row) < _COLUMNS for panel in row]
    n_rows = -(-len(loose) // _COLUMNS)
    cuts = [round(i * len(loose) / max(1, n_rows)) for i in range(n_rows + 1)]
    full = [row for row in rows if len(row) == _COLUMNS]
    return full + [loose[a:b] for a, b in pairwise(cuts)]


def _title(result: dict[str, Any]) -> str:
    note = "" if result["status"] == "complete" else f"; partial: {result['n_steps_done']} steps"
    kind = "A/A test, " if result["config"]["experiment"].get("aa") else ""
    return f"{kind}mode {result['mode']}: seed {result['seed']}, {replications(result)}{note}"


def label_title(label: dict[str, Any]) -> str:
    """A label's name with its unit, such as "play_time (ms)"."""
    unit = unit_of(label["target"])
    return f"{label['name']} ({unit})" if unit else label["name"]


def _answers(
    result: dict[str, Any], names: dict[str, str], estimates: pl.DataFrame
) -> list[list[_Panel]]:
    """A row for each label: estimates, bias and coverage of each design."""
    known = estimates.filter(pl.col("value").is_not_null() & (pl.col("se_method") == "welch"))
    truths = [e for e in result["estimates"] if e["design"] == "global" and e["value"] is not None]
    n_biases = len(result["comparison"])
    rows = []
    for name, title in names.items():
        table = known.filter(pl.col("label") == name)
        entries = [e for e in result["comparison"] if e["label"] == name and e["bias"] is not None]
        if not entries or not table.filter(pl.col("design") != "global").height:
            continue
        order = [e["design"] for e in entries]
        truth = next((e for e in truths if e["label"] == name), None)
        covers = {
            e["design"]: e
            for e in result.get("inference", ())
            if e["label"] == name and e["se_method"] == "welch" and e["coverage"] is not None
        }
        row = [
            partial(panels.estimates, table=table, truth=truth, order=order, title=title),
            partial(panels.biases, entries=entries, n_biases=n_biases, title=title),
        ]
        if covers:
            row.append(partial(panels.coverage, covers=covers, order=order, title=title))
        rows.append(row)
    return rows


def _curves(
    names: dict[str, str], outcomes: pl.DataFrame, metrics: pl.DataFrame
) -> list[list[_Panel]]:
    """A row for each label: total outcome, quality of the predictions, loss."""
    totals, looks = curves.totals(outcomes), curves.looks(metrics)
    rows = []
    for name, title in names.items():
        row = []
        total = totals.filter(pl.col("label") == name)
        if total.height:
            row.append(partial(panels.totals, table=total, title=title))
        own = looks.filter(pl.col("label") == name)
        if "global" in own["design"]:
            own = own.filter(pl.col("design") == "global")
        main = curves.main_metric(own["metric"].unique().to_list())
        for shown in ([main] if main else []) + ["loss"]:
            table = own.filter(pl.col("metric") == shown)
            if table.height:
                row.append(partial(panels.looks, table=table, metric=shown, title=title))
        rows += [row] if row else []
    return rows


def _shared(metrics: pl.DataFrame) -> list[_Panel]:
    """The weight model, and how the data run out where they do."""
    weights, left = curves.weight_figures(metrics), curves.data_left(metrics)
    row = []
    if weights.height:
        row += [
            partial(panels.weights, table=weights, metrics=metrics, best=best)
            for metrics, best in (
                (("auc", "accuracy"), "higher"),
                (("log_loss", "log_loss_of_constant"), "lower"),
            )
        ]
    if left["mean"].sum() > 0:
        row.append(partial(panels.data_left, table=left))
    return row
