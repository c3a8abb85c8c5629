"""Panels as data for Plotly, which the page's script draws.

A colour is "@role" or "@role/opacity", which the page turns into that of the theme. A trace's
``meta`` has what the page's filters look for: design, metric. Names go to Plotly escaped, since it
reads a few HTML tags.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from realdataexp.report.panels import MARKED, Box, Curve, Panel, shown

_ROW = 44  # pixels for each design
_SYMBOLS = {"triangle": "triangle-up", "cross": "x"}  # what Plotly calls so


def chart(panel: Panel) -> dict[str, Any]:
    """What the page's script draws of a panel."""
    if panel.rows:
        data = [*map(_box, panel.boxes), *_points(panel)]
        layout = _across(panel, any("legendgroup" in trace for trace in data))
    else:
        data = [trace for curve in panel.curves for trace in _curve(curve, panel)]
        data.sort(key=lambda trace: trace["mode"] == "markers")
        layout = _over_steps(panel)
    return {"key": panel.key, "data": data, "layout": layout, "selects": list(panel.choices)}


def _across(panel: Panel, has_legend: bool) -> dict[str, Any]:
    """The layout of designs from top to bottom, with the truth upright."""
    names = [escape(shown(row)) for row in panel.rows]
    if any(point.above for point in panel.points):
        n = len(names)
        rows = {"type": "linear", "tickvals": list(range(n)), "ticktext": names,
                "autorange": False, "range": [n - 0.5, -0.5]}  # fmt: skip
    else:  # a name like 1 or 2024-01-01 is no number and no date
        rows = {"type": "category", "categoryarray": names, "autorange": "reversed",
                "automargin": True}  # fmt: skip
    return {
        "height": 130 + _ROW * (len(names) + has_legend),
        "xaxis": {"title": {"text": panel.axis}, **_range(panel)},
        "yaxis": rows, "hovermode": "closest", "showlegend": has_legend, "shapes": _truth(panel),
    }  # fmt: skip


def _range(panel: Panel) -> dict[str, Any]:
    """The ends of the axis of values, which shapes alone do not widen."""
    if panel.limits is None and panel.points:
        ends = [x for p in panel.points for x in (p.value, *(p.interval or ()), panel.line or 0.0)]
        room = 0.06 * (max(ends) - min(ends)) or 1.0
        return {"range": _rounded([min(ends) - room, max(ends) + room])}
    return {"range": _rounded(panel.limits)} if panel.limits else {}


def _truth(panel: Panel) -> list[dict[str, Any]]:
    """A green line from top to bottom, and the interval as a band behind it."""
    if panel.line is None:
        return []
    place = {"xref": "x", "yref": "paper", "y0": 0, "y1": 1}
    line = {"color": "@truth", "width": 2.5}
    shapes = [{**place, "type": "line", "x0": panel.line, "x1": panel.line, "line": line}]
    if panel.band is not None:
        low, high = panel.band
        shapes.append(
            {**place, "type": "rect", "x0": low, "x1": high, "layer": "below",
             "fillcolor": "@truth/0.18", "line": {"width": 0}}
        )  # fmt: skip
    return shapes


def _box(box: Box) -> dict[str, Any]:
    name = escape(shown(box.row))
    cuts = zip(("lowerfence", "q1", "median", "q3", "upperfence"), box.cuts, strict=True)
    return {
        "type": "box", "orientation": "h", "y": [name], "name": name,
        **{key: _rounded([cut]) for key, cut in cuts}, "mean": _rounded([box.mean]),
        "line": {"color": f"@{box.colour}"}, "meta": {"design": box.row},
    }  # fmt: skip


def _points(panel: Panel) -> list[dict[str, Any]]:
    traces = []
    seen: set[str] = set()
    is_lined_up = not any(point.above for point in panel.points)
    for p in panel.points:
        colour, row = f"@{p.colour}", escape(shown(p.row))
        low, high = p.interval or (p.value, p.value)
        y = row if is_lined_up else panel.rows.index(p.row) + p.above
        trace: dict[str, Any] = {
            "type": "scatter", "mode": "markers", "x": _rounded([p.value]), "y": [y],
            "name": escape(p.name) or row, "text": [row], "hovertemplate": "%{text}: %{x}",
            "meta": {"design": p.row},
            "marker": {"color": colour, "symbol": _SYMBOLS.get(p.symbol, p.symbol), "size": 11},
            "error_x": {
                "type": "data", "symmetric": False, "array": _rounded([high - p.value]),
                "arrayminus": _rounded([p.value - low]), "thickness": 2, "color": colour,
            },
        }  # fmt: skip
        if p.name:
            trace |= {"legendgroup": p.name, "showlegend": p.name not in seen,
                      "visible": "legendonly" if p.is_extra else True}  # fmt: skip
            seen.add(p.name)
        traces.append(trace)
    return traces


def _over_steps(panel: Panel) -> dict[str, Any]:
    y = {"title": {"text": panel.axis}, "automargin": True, **_range(panel)}
    if panel.from_zero:
        y["rangemode"] = "tozero"
    return {
        "height": 360, "xaxis": {"title": {"text": panel.over}}, "yaxis": y,
        "hovermode": "x unified", "showlegend": True,
    }  # fmt: skip


def _curve(curve: Curve, panel: Panel) -> list[dict[str, Any]]:
    """A curve, its band behind it, and marks at the ends of the axis where it is beyond them."""
    name, colour = escape(curve.name), f"@{curve.colour}"
    meta = {k: v for k, v in (("design", curve.design), ("metric", curve.metric)) if v}
    base = {"type": "scatter", "name": name, "legendgroup": " ".join([name, *meta.values()])}
    extra = {**base, "hoverinfo": "skip", "showlegend": False, "meta": {**meta, "band": True}}
    traces: list[dict[str, Any]] = []
    if curve.band.height:
        x, low, high = (curve.band[c].to_list() for c in ("step", "low", "high"))
        traces.append(
            {**extra, "x": x + x[::-1], "y": _rounded(high + low[::-1]), "fill": "toself",
             "fillcolor": f"{colour}/0.16", "line": {"width": 0}, "mode": "lines"}
        )  # fmt: skip
    steps = curve.table["step"].to_list()
    line = {"color": colour, "dash": curve.dash, "width": 2}
    has_marks = curve.symbol != "none" and len(steps) < MARKED
    trace = {**base, "meta": meta, "x": steps, "y": _rounded(curve.table["mean"].to_list()),
             "mode": "lines+markers" if has_marks else "lines", "line": line}  # fmt: skip
    if has_marks:
        trace["marker"] = {"symbol": _SYMBOLS.get(curve.symbol, curve.symbol)}
    traces.append(trace)
    if panel.limits is not None and (beyond := curve.beyond(panel.limits)):
        symbols = ["triangle-up" if above else "triangle-down" for _, above in beyond]
        traces.append(
            {**extra, "mode": "markers", "x": [step for step, _ in beyond],
             "y": _rounded([panel.limits[above] for _, above in beyond]), "cliponaxis": False,
             "marker": {"color": colour, "size": 8, "symbol": symbols}}
        )  # fmt: skip
    return traces


def _rounded(values: Sequence[float | None]) -> list[float | None]:
    """Seven digits: more than a chart shows, in little room."""
    return [None if v is None else float(f"{v:.7g}") for v in values]
