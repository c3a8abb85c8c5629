"""Panels as data for Plotly, which the page's script draws.

A colour is "@role" or "@role/opacity", which the page turns into that of the theme. A trace's
``meta`` has what the page's filters look for: design, metric. Names go to Plotly escaped, since it
reads a few HTML tags.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from realdataexp.report.panels import MARKED, Box, Cells, Curve, Panel, shown

_ROW = 44  # pixels for each design
_SYMBOLS = {"triangle": "triangle-up", "cross": "x"}  # what Plotly calls so


def chart(panel: Panel) -> dict[str, Any]:
    """What the page's script draws of a panel."""
    if panel.rows:
        data = [*map(_box, panel.boxes), *_points(panel)]
        layout = _across(panel, any("legendgroup" in trace for trace in data))
    elif panel.dots:
        data = [trace for is_best in (False, True) for trace in _dots(panel, is_best)]
        layout = _over_steps(panel) | {"hovermode": "closest"}
    elif panel.cells:
        data, layout = [*map(_cells, panel.cells)], _grid(panel)
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
        "height": 360, "xaxis": {"title": {"text": escape(panel.over)}, "type": panel.scale},
        "yaxis": y, "hovermode": "x unified", "showlegend": True, "shapes": _level(panel),
    }  # fmt: skip


def _level(panel: Panel) -> list[dict[str, Any]]:
    """A thin green line from left to right."""
    if panel.level is None:
        return []
    ends = {"x0": 0, "x1": 1, "y0": panel.level, "y1": panel.level}
    line = {"color": "@truth", "width": 1.5}
    return [{"type": "line", "xref": "paper", **ends, "line": line, "layer": "below"}]


def _grid(panel: Panel) -> dict[str, Any]:
    """The layout of a heat map: places are texts."""
    names = {"xaxis": panel.over, "yaxis": panel.axis}
    axes = {k: {"title": {"text": escape(x)}, "type": "category"} for k, x in names.items()}
    return {"height": 160 + 30 * len(panel.cells[0].ys), "hovermode": "closest", **axes}


def _cells(cells: Cells) -> dict[str, Any]:
    """A heat map: blue below 0, orange above; a share from white to blue."""
    colours = ["@control", "@card", "@treatment"]
    ends = {"zmid": 0}
    if cells.metric.startswith("coverage"):
        colours, ends = ["@card", "@control"], {"zmin": 0, "zmax": 100}
    last = len(colours) - 1
    return {
        "type": "heatmap", "x": [escape(x) for x in cells.xs], "y": [escape(y) for y in cells.ys],
        "z": [_rounded(row) for row in cells.values], **ends, "name": cells.metric,
        "colorscale": [[i / last, colour] for i, colour in enumerate(colours)],
        "colorbar": {"thickness": 12}, "texttemplate": "%{z:.3g}", "xgap": 1, "ygap": 1,
        "hovertemplate": "%{x}, %{y}: %{z}<extra></extra>",
        "meta": {"metric": cells.metric, "design": cells.design, "where": cells.where},
    }  # fmt: skip


def _dots(panel: Panel, is_best: bool) -> list[dict[str, Any]]:
    """A trace of the dots that none beats, or of the others."""
    own = [dot for dot in panel.dots if dot.is_best == is_best]
    colour, symbol = ("@treatment", "square") if is_best else ("@plain", "circle")
    return [
        {
            "type": "scatter", "mode": "markers", "x": _rounded([dot.x for dot in own]),
            "y": _rounded([dot.y for dot in own]), "text": [escape(dot.name) for dot in own],
            "hovertemplate": "%{text}<br>%{x}, %{y}<extra></extra>",
            "name": panel.best if is_best else "others",
            "marker": {"color": colour, "symbol": symbol, "size": 10},
            "error_x": _bars([(x.x, x.x_interval) for x in own], colour),
            "error_y": _bars([(x.y, x.y_interval) for x in own], colour),
        }
    ][: len(own)]  # fmt: skip


def _bars(
    values: Sequence[tuple[float, tuple[float | None, float | None] | None]], colour: str
) -> dict[str, Any]:
    """Intervals as bars around values; none of a length where there is no interval."""
    above, below = [], []
    for value, interval in values:
        low, high = interval or (None, None)
        above.append(0.0 if high is None else high - value)
        below.append(0.0 if low is None else value - low)
    ends = {"array": _rounded(above), "arrayminus": _rounded(below)}
    return {"type": "data", "symmetric": False, **ends, "thickness": 1.2, "color": colour}


def _curve(curve: Curve, panel: Panel) -> list[dict[str, Any]]:
    """A curve, its band behind it, and marks at the ends of the axis where it is beyond them."""
    name, colour = escape(curve.name), f"@{curve.colour}"
    named = (("design", curve.design), ("metric", curve.metric), ("where", curve.where))
    meta = {k: v for k, v in named if v}
    base = {"type": "scatter", "name": name, "legendgroup": " ".join([name, *meta.values()])}
    extra = {**base, "hoverinfo": "skip", "showlegend": False, "meta": {**meta, "band": True}}
    traces: list[dict[str, Any]] = []
    if curve.band.height and not curve.has_bars:
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
    if curve.has_bars:
        rows = curve.table.select("mean", "low", "high").iter_rows()
        trace["error_y"] = _bars([(mean, (low, high)) for mean, low, high in rows], colour)
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
