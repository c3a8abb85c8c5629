"""The page's charts of what designs answer, as data for Plotly: few points, colours by name.

A colour is "@name" or "@name/opacity", which the page turns into that of the theme. A trace's
``meta`` has what the page's filters look for: design, metric. Names go to Plotly escaped, since it
reads a few HTML tags.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from html import escape
from typing import Any

import numpy as np
import polars as pl

from realdataexp.report.bias import INTERVAL_OF_BIAS, MIN_REPLICATIONS, interval

_DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "star")
_N_COLOURS = 6
_ROW = 44  # pixels for each design

Trace = dict[str, Any]


@dataclass(frozen=True)
class Chart:
    """A chart of the page.

    Attributes:
        key: of its element. title: what it is. summary: what a reader who cannot see it is told.
        data: traces. layout: Plotly's. label: the outcome it is about, or "".
        selects: for each name in the traces' ``meta`` that the reader chooses by, its values.
    """

    key: str
    title: str
    summary: str
    data: list[Trace]
    layout: dict[str, Any] = field(default_factory=dict)
    label: str = ""
    selects: dict[str, list[str]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """What the page's script needs of it."""
        return {
            "key": self.key,
            "data": self.data,
            "layout": self.layout,
            "selects": list(self.selects),
        }


@dataclass(frozen=True)
class Look:
    """How designs are told apart: by colour, line and symbol, in the order of a result."""

    order: tuple[str, ...]

    def colour(self, design: str) -> str:
        """A name of a colour."""
        return "@truth" if design == "global" else f"@d{self._at(design) % _N_COLOURS}"

    def dash(self, design: str) -> str:
        """A line style."""
        return "solid" if design == "global" else _DASHES[self._at(design) % len(_DASHES)]

    def symbol(self, design: str) -> str:
        """A marker."""
        return _SYMBOLS[self._at(design) % len(_SYMBOLS)]

    def _at(self, design: str) -> int:
        return self.order.index(design) if design in self.order else 0


def named(design: str) -> str:
    """A design's name as Plotly shows it."""
    return "truth (GTE)" if design == "global" else escape(design)


def rounded(values: Sequence[float | None]) -> list[float | None]:
    """Seven digits: more than a chart shows, in little room."""
    return [None if v is None else float(f"{v:.7g}") for v in values]


def _truth_shapes(truth: dict[str, Any] | None) -> list[dict[str, Any]]:
    """The truth as an upright line, and its 95 % interval as a band behind it."""
    if truth is None or truth["value"] is None:
        return []
    shapes = [_upright(truth["value"])]
    if truth["ci_low"] is not None:
        band = {"type": "rect", "x0": truth["ci_low"], "x1": truth["ci_high"], "layer": "below"}
        place = {"xref": "x", "yref": "paper", "y0": 0, "y1": 1}
        shapes.append({**place, **band, "fillcolor": "@truth/0.18", "line": {"width": 0}})
    return shapes


def _across(n_rows: int, title: str, **more: Any) -> dict[str, Any]:
    """The layout of a chart with designs from top to bottom."""
    return {
        "height": 130 + _ROW * n_rows,
        "xaxis": {"title": {"text": title}, **more.pop("xaxis", {})},
        # a name like 1 or 2024-01-01 is no number and no date
        "yaxis": {
            "type": "category", "autorange": "reversed", "automargin": True,
            **more.pop("yaxis", {}),
        },
        "hovermode": "closest",
        "showlegend": False,
        **more,
    }  # fmt: skip


def estimates(
    table: pl.DataFrame, truth: dict[str, Any] | None, look: Look, title: str, key: str
) -> Chart:
    """Each design's estimates over replications as a box, beside the truth."""
    data: list[Trace] = []
    for design in [d for d in look.order if d in table["design"]]:
        value = table.filter(pl.col("design") == design)["value"].to_numpy()
        low, q1, median, q3, high = np.quantile(value, (0.0, 0.25, 0.5, 0.75, 1.0))
        cuts = {"lowerfence": low, "q1": q1, "median": median, "q3": q3, "upperfence": high}
        cuts["mean"] = value.mean()
        data.append(
            {
                "type": "box", "orientation": "h", "y": [named(design)], "name": named(design),
                **{name: rounded([cut]) for name, cut in cuts.items()},
                "line": {"color": look.colour(design)}, "meta": {"design": design},
            }
        )  # fmt: skip
    layout = _across(len(data), "effect per visit", shapes=_truth_shapes(truth))
    said = "Box: the middle half, whiskers: least and largest, dashed: mean. Green: the true effect"
    return Chart(f"estimates-{key}", f"{title}: estimates of single tests", said, data, layout)


def biases(
    entries: Sequence[dict[str, Any]], n_biases: int, look: Look, title: str, key: str
) -> Chart:
    """Each design's bias, one of so many, with the interval that decides whether it is one."""
    rows = [(e["design"], e["bias"], interval(e, n_biases)) for e in entries]
    said = f"Intervals take {MIN_REPLICATIONS} replications"
    if any(ends for _, _, ends in rows):
        said = INTERVAL_OF_BIAS.format(n=n_biases)
    said = f"Mean distance from the truth. {said}. Green: no bias"
    chart = points(rows, look, f"bias-{key}", "estimate − truth, per visit")
    return replace(chart, title=f"{title}: bias", summary=said)


def points(
    rows: Sequence[tuple[str, float, tuple[float, float] | None]], look: Look, key: str, axis: str
) -> Chart:
    """A point with an interval, where it has one, for each name, and a line at 0."""
    data, ends = [], [0.0]
    for name, value, known in rows:
        low, high = known or (value, value)
        error = {"type": "data", "symmetric": False, "array": rounded([high - value]),
                 "arrayminus": rounded([value - low]), "thickness": 2}  # fmt: skip
        data.append(_point(name, value, name, error, look))
        ends += [low, high]
    room = 0.06 * (max(ends) - min(ends)) or 1.0
    layout = _across(
        len(data),
        axis,
        shapes=[_upright(0)],
        xaxis={"range": [min(ends) - room, max(ends) + room]},
    )
    return Chart(key, axis, axis, data, layout)


def _upright(at: float) -> dict[str, Any]:
    """A green line from top to bottom."""
    line = {"color": "@truth", "width": 2.5}
    ends = {"x0": at, "x1": at, "y0": 0, "y1": 1}
    return {"type": "line", "xref": "x", "yref": "paper", **ends, "line": line}


def _point(design: str, x: float, y: Any, error: dict[str, Any], look: Look) -> Trace:
    """A design's point with an interval."""
    colour = look.colour(design)
    return {
        "type": "scatter", "mode": "markers", "x": rounded([x]),
        "y": [named(y) if isinstance(y, str) else y], "name": named(design),
        "error_x": {**error, "color": colour}, "meta": {"design": design},
        "marker": {"color": colour, "symbol": look.symbol(design), "size": 11},
    }  # fmt: skip


def coverage(
    inference: Sequence[dict[str, Any]], is_aa: bool, look: Look, title: str, key: str
) -> Chart:
    """How often each interval method holds the truth, or, in an A/A test, errs."""
    share, low, high = ("reject_share", "reject_low", "reject_high") if is_aa else (
        "coverage", "coverage_low", "coverage_high")  # fmt: skip
    known = [e for e in inference if e[share] is not None]
    designs = [d for d in look.order if d in {e["design"] for e in known}]
    methods = list(dict.fromkeys(e["se_method"] for e in known))
    data: list[Trace] = []
    for m, method in enumerate(methods):
        for e in [e for e in known if e["se_method"] == method]:
            x = 100 * e[share]
            error = {"type": "data", "symmetric": False, "array": [100 * e[high] - x],
                     "arrayminus": [x - 100 * e[low]], "thickness": 2}  # fmt: skip
            y = designs.index(e["design"]) + 0.7 * ((m + 0.5) / len(methods) - 0.5)
            trace = _point(e["design"], x, y, error, Look(tuple(methods)))
            is_first = not any(t["legendgroup"] == method for t in data)
            colour = f"@d{m % _N_COLOURS}"
            trace["marker"] = {**trace["marker"], "color": colour, "symbol": _SYMBOLS[m % 6]}
            trace["error_x"]["color"] = colour
            trace |= {"name": escape(method), "legendgroup": method, "showlegend": is_first,
                      "text": [named(e["design"])], "hovertemplate": "%{text}: %{x:.1f} %",
                      "visible": True if m < 2 else "legendonly"}  # fmt: skip
            data.append(trace)
    layout = _across(
        len(designs) + 1, "% of tests",
        shapes=[_upright(5 if is_aa else 95)],
        xaxis={"range": [-2, 102]}, showlegend=True,
        yaxis={
            "type": "linear",
            "tickvals": list(range(len(designs))), "ticktext": [named(d) for d in designs],
            "autorange": False, "range": [len(designs) - 0.5, -0.5],
        },
    )  # fmt: skip
    what = "type-I error" if is_aa else "coverage of the truth"
    said = (
        f"Each interval method's {what}, with its exact binomial interval. Green: what is claimed"
    )
    return Chart(f"coverage-{key}", f"{title}: {what} by 95 % intervals", said, data, layout)
