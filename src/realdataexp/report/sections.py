"""The sections of the page below the answer: charts, diagnostics, data, config, versions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml

from realdataexp.report.advice import advice
from realdataexp.report.charts import Chart
from realdataexp.report.markup import Cell, Html, fold, joined, pairs, section, table, tag
from realdataexp.report.numbers import number

_DATA_ROWS = 60


def charts(shown: Sequence[Chart], designs: Sequence[str], labels: Mapping[str, str]) -> Html:
    """The charts behind their filters; the page's script draws them."""
    if not shown:
        return Html("")
    script = "Charts need JavaScript; the tables on this page do not."
    return section(
        "charts",
        "Charts",
        tag("noscript", tag("p", script, class_="notice")),
        tag(
            "div",
            _filter("designs", "design", [(d, d) for d in designs]),
            _filter("labels", "label", list(labels.items())),
            class_="filters",
        ),
        tag("p", "Drag to zoom, double-click to zoom out; a click on the legend hides a line.",
            class_="small"),
        tag("div", *[figure(chart) for chart in shown], class_="figures"),
    )  # fmt: skip


def _filter(title: str, what: str, options: Sequence[tuple[str, str]]) -> Html:
    """Check boxes that show and hide, where there is something to choose."""
    if len(options) < 2:
        return Html("")
    boxes = [
        tag("label", tag("input", type="checkbox", checked=True, data_filter=what, value=value),
            tag("span", shown))
        for value, shown in options
    ]  # fmt: skip
    return tag("fieldset", tag("legend", f"Show {title}"), *boxes)


def figure(chart: Chart) -> Html:
    """A chart's place: its heading, choices, drawing, and its numbers as a table."""
    choices = [
        tag(
            "label",
            f"{name} ",
            tag(
                "select",
                *[tag("option", "truth" if v == "global" else v, value=v) for v in values],
                data_select=name,
            ),
        )
        for name, values in chart.selects.items()
    ]
    return tag(
        "figure",
        tag("h3", chart.title, id=f"{chart.key}-title"),
        tag("p", *choices, class_="choices") if choices else Html(""),
        tag("div", id=chart.key, class_="chart", role="img",
            aria_label=f"{chart.title}. {chart.summary}. The table below has the numbers."),
        tag("figcaption", f"{chart.summary}."),
        tag("details", tag("summary", "Numbers"), class_="numbers", data_of=chart.key),
        data_label=chart.label or None,
        class_="chart-box",
    )  # fmt: skip


def diagnostics(result: Mapping[str, Any]) -> Html:
    """Warnings with what to do about each, and what tells whether the test could show anything."""
    items = [
        tag(
            "li",
            tag("strong", w["code"].replace("_", " ")), ": ", w["message"],
            tag("p", tag("strong", "What to do: "), advice(w["code"])),
        )
        for w in result["warnings"]
    ]  # fmt: skip
    warnings = tag("ul", *items, class_="warnings") if items else tag("p", "No warnings.")
    found = result.get("diagnostics", {})
    differ = found.get("share_of_visits_where_arms_differ", {})
    lost = found.get("share_of_visits_lost", {})
    units = found.get("units_by_arm", {})
    rows = [
        [name, _percent(share), _percent(lost.get(name)), *_units(units.get(name, {}))]
        for name, share in differ.items()
    ]
    header = ["world", "arms would pick different items", "visits lost"]
    header += ["units treated", "units in control"]
    parts = [tag("h3", "Warnings"), warnings, tag("h3", "What the arms did")]
    if rows:
        parts.append(table("Visits and units of all replications", header, rows, sortable=True))
    parts += [_score_shares(found.get("label_share_of_score_variance", {}))]
    parts += [_weights(result.get("weights", {})), _metrics(result.get("metrics_summary", ()))]
    return section("diagnostics", "Diagnostics and warnings", *parts)


def _units(n: Mapping[str, int]) -> list[Cell]:
    return [Cell(f"{n[arm]:,}" if arm in n else "-", n.get(arm)) for arm in "TC"]


def _percent(share: float | None) -> Cell:
    return Cell("-" if share is None else f"{100 * share:.1f} %", share)


def _score_shares(shares: Mapping[str, Mapping[str, Mapping[str, float | None]]]) -> Html:
    labels = list(
        dict.fromkeys(x for arms in shares.values() for own in arms.values() for x in own)
    )
    rows = [
        [f"{name}, arm {arm}", *(_percent(own.get(label)) for label in labels)]
        for name, arms in shares.items()
        for arm, own in arms.items()
    ]
    if not rows:
        return Html("")
    title = "Each label's share of the scores' variance within slates"
    return fold(title, table(title, ["world and arm", *labels], rows))


def _weights(weights: Mapping[str, Mapping[str, float]]) -> Html:
    names = list(dict.fromkeys(name for own in weights.values() for name in own))
    rows = [
        [design, *(Cell(number(own.get(name)), own.get(name)) for name in names)]
        for design, own in weights.items()
    ]
    if not rows:
        return Html("")
    header = ["design", *(name.replace("_", " ") for name in names)]
    title = "Weight model: log loss should be below a constant's, mean weights near 1"
    return table(title, header, rows, sortable=True)


def _metrics(summary: Iterable[Mapping[str, Any]]) -> Html:
    keys = ("design", "model", "label", "split", "metric", "step")
    rows = [
        [*(e[k] for k in keys), Cell(number(e["value"]), e["value"])]
        for e in summary
        if e["phase"] == "loop" and e["metric"] != "n_nonfinite"
    ]
    if not rows:
        return Html("")
    title = "Last value of every metric, averaged over worlds"
    return fold(title, table(title, [*keys, "value"], rows, sortable=True))


def data(result: Mapping[str, Any]) -> Html:
    """What the data set has in it."""
    rows = list(_flat(result.get("dataset_stats", {})))
    shown, more = rows[:_DATA_ROWS], rows[_DATA_ROWS:]
    parts = [pairs("Counts and means of the data", shown)] if shown else [tag("p", "None known.")]
    if more:
        parts.append(fold("The rest", pairs("The rest", more)))
    return section("data", "Data", *parts)


def _flat(value: Any, name: str = "") -> Iterable[tuple[str, object]]:
    """Nested values as names and values."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(inner, f"{name} / {key}" if name else str(key))
    elif isinstance(value, bool | str | None):
        yield _plain(name), "-" if value is None else value
    elif isinstance(value, int | float):
        shown = f"{value:,}" if isinstance(value, int) else number(value)
        yield _plain(name), Cell(shown, value)
    else:
        yield _plain(name), yaml.safe_dump(value, default_flow_style=True).strip()


def _plain(path: str) -> str:
    """A name as words; what has a dot is the name of a file."""
    parts = path.split(" / ")
    return " / ".join(x if "." in x else x.replace("_", " ") for x in parts)


def config(result: Mapping[str, Any]) -> Html:
    """The resolved config, folded."""
    text = yaml.safe_dump(result["config"], sort_keys=False, allow_unicode=True)
    shown = tag("pre", tag("code", text), tabindex="0")
    return section("config", "Config", fold("The resolved config (YAML)", shown))


def about(result: Mapping[str, Any]) -> Html:
    """Versions, the device, and where the time went."""
    timing = [
        (name.replace("_", " "), "-" if value is None else Cell(number(value), value))
        for name, value in result.get("timing", {}).items()
    ]
    device = [(f"device {name}", value) for name, value in result.get("device", {}).items()]
    return section(
        "about",
        "Versions and timing",
        joined([pairs("Timing", timing)] if timing else []),
        pairs("Versions and device", [*result.get("versions", {}).items(), *device]),
    )
