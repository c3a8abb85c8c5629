"""The page's charts over steps, as data for Plotly: means over replications, and bands."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import Any

import polars as pl

from realdataexp.report import curves
from realdataexp.report.charts import Chart, Look, Trace, named, rounded

_WHO = {
    "T": ("treatment", "@treatment"),
    "C": ("control", "@control"),
    "shared": ("both arms", "@plain"),
}
_MARKED = 30  # points


def line(
    table: pl.DataFrame, name: str, colour: str, meta: dict[str, Any], dash: str = "solid"
) -> list[Trace]:
    """A curve and, where there is one, its band behind it."""
    group = " ".join([name, *map(str, meta.values())])
    base: Trace = {"type": "scatter", "name": name, "legendgroup": group, "meta": meta}
    known = table.drop_nulls(["low", "high"])
    traces: list[Trace] = []
    if known.height:
        x, low, high = (known[c].to_list() for c in ("step", "low", "high"))
        traces.append(
            {
                **base, "x": x + x[::-1], "y": rounded(high + low[::-1]), "fill": "toself",
                "fillcolor": f"{colour}/0.16", "line": {"width": 0}, "mode": "lines",
                "hoverinfo": "skip", "showlegend": False, "meta": {**meta, "band": True},
            }
        )  # fmt: skip
    shown = {"color": colour, "dash": dash, "width": 2}
    xy = {"x": table["step"].to_list(), "y": rounded(table["mean"].to_list())}
    mode = "lines+markers" if table.height < _MARKED else "lines"
    return [*traces, {**base, **xy, "mode": mode, "line": shown}]


def over_steps(title: str, **more: Any) -> dict[str, Any]:
    """The layout of a chart over steps."""
    y = {"title": {"text": title}, "automargin": True, **more.pop("yaxis", {})}
    return {"height": 360, "xaxis": {"title": {"text": "step"}}, "yaxis": y,
            "hovermode": "x unified", "showlegend": True, **more}  # fmt: skip


def effects(table: pl.DataFrame, look: Look, title: str, key: str) -> Chart:
    """What each design would report after each step, on average."""
    data: list[Trace] = []
    for design in ("global", *look.order):
        part = table.filter(pl.col("design") == design)
        if part.height:
            if design != "global":
                part = part.with_columns(low=None, high=None)  # many bands hide each other
            meta = {"design": design}
            data += line(part, named(design), look.colour(design), meta, look.dash(design))
    said = "Mean estimate so far, by design; band: the middle 80 % of the truth's replications"
    axis: dict[str, Any] = {}
    shown = curves.settled_range(table.filter(pl.col("design").is_in(["global", *look.order])))
    if shown is not None:
        axis["range"] = rounded(shown)
        beyond = [_beyond(trace, *shown) for trace in data if "band" not in trace["meta"]]
        marks = [trace for trace in beyond if trace["x"]]
        data += marks
        said += f". The axis fits the steps after the first {100 * curves.EARLY:.0f} %"
        said += "; triangles at its ends: means beyond it" if marks else ""
        said += "; a double-click shows all"
    return Chart(f"effect-{key}", f"{title}: the answer as the test goes on", said, data,
                 over_steps("effect per visit so far", yaxis=axis))  # fmt: skip


def _beyond(trace: Trace, low: float, high: float) -> Trace:
    """Marks at the ends of the axis where a curve's points are beyond it."""
    xy = [(x, y) for x, y in zip(trace["x"], trace["y"], strict=True) if not low <= y <= high]
    return {
        "type": "scatter", "mode": "markers", "name": trace["name"], "showlegend": False,
        "legendgroup": trace["legendgroup"], "meta": {**trace["meta"], "band": True},
        "x": [x for x, _ in xy], "y": rounded([high if y > high else low for _, y in xy]),
        "hoverinfo": "skip", "cliponaxis": False,
        "marker": {
            "color": trace["line"]["color"], "size": 8,
            "symbol": ["triangle-up" if y > high else "triangle-down" for _, y in xy],
        },
    }  # fmt: skip


def totals(table: pl.DataFrame, title: str, key: str) -> Chart:
    """Cumulative outcome of each arm."""
    design = table["design"][0]
    data: list[Trace] = []
    for arm, dash in (("T", "solid"), ("C", "dash")):
        name, colour = _WHO[arm]
        name = f"everybody in {name}" if design == "global" else f"{name} arm"
        data += line(table.filter(pl.col("arm") == arm), name, colour, {}, dash)
    whose = "" if design == "global" else f", {design}"
    said = "Mean over replications; band: the middle 80 % of them"
    return Chart(f"total-{key}", f"{title}: total so far{whose}", said, data,
                 over_steps("per replication"))  # fmt: skip


def looks(table: pl.DataFrame, title: str, key: str) -> Chart:
    """Every metric of every design, one of each at a time."""
    main = curves.main_metric(table["metric"].unique().to_list())
    metrics = table["metric"].unique(maintain_order=True).to_list()
    first = [m for m in (main, "loss") if m in metrics]
    metrics = [*first, *(m for m in metrics if m not in first)]
    designs = table["design"].unique(maintain_order=True).to_list()
    data: list[Trace] = []
    for (design, metric, split, who), part in _groups(table):
        name, colour = _WHO.get(who, (who, "@plain"))
        dash = "dot" if split == "train" else "solid"
        meta = {"design": design, "metric": metric}
        data += line(part, f"{escape(name)}, {split}", colour, meta, dash)
    chosen = {"metric": metrics, "design": designs}
    said = "Mean over replications, dotted on training data; band: the middle 80 % of them"
    return Chart(f"quality-{key}", f"{title}: how good networks and rankings are", said, data,
                 over_steps(""), selects=chosen)  # fmt: skip


def _groups(table: pl.DataFrame) -> Iterator[tuple[tuple[str, ...], pl.DataFrame]]:
    keys = ["design", "metric", "split", "who"]
    for names, part in table.group_by(keys, maintain_order=True):
        yield tuple(str(name) for name in names), part


def weights(table: pl.DataFrame, look: Look) -> list[Chart]:
    """How good the weight models are."""
    kinds = (
        ("auc", "AUC and accuracy", ("auc", "accuracy"), "higher is better"),
        ("loss", "log loss", ("log_loss", "log_loss_of_constant"), "lower is better"),
        ("mean", "mean weights", ("mean_weight_T", "mean_weight_C"), "should be 1"),
    )
    charts = []
    for key, title, metrics, note in kinds:
        data: list[Trace] = []
        for design in table["design"].unique(maintain_order=True):
            for metric, dash in zip(metrics, ("solid", "dash"), strict=True):
                part = table.filter((pl.col("design") == design) & (pl.col("metric") == metric))
                if part.height:
                    name = f"{escape(design)}: {metric.replace('_', ' ')}"
                    meta = {"design": design}
                    data += line(part, name, look.colour(design), meta, dash)
        if data:
            charts.append(
                Chart(f"weights-{key}", f"Weight model: {title}", note, data, over_steps(note))
            )
    return charts


def data_left(table: pl.DataFrame) -> Chart:
    """How the data run out."""
    names = {"users_short": ("training users", "@control", "solid"),
             "slates_short": ("slates of the visits", "@treatment", "dot")}  # fmt: skip
    data: list[Trace] = []
    for metric, (name, colour, dash) in names.items():
        part = table.filter(pl.col("metric") == metric).with_columns(
            pl.col("mean") * 100, low=None, high=None
        )
        data += line(part, name, colour, {}, dash)
    said = "Share with fewer candidates left than a full slate has"
    return Chart("data-left", "Users and slates short of data", said, data,
                 over_steps("%", yaxis={"range": [0, 102]}))  # fmt: skip
