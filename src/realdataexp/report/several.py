"""Several runs in one page: their effects and biases side by side, and settings that differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from realdataexp.files import write_text
from realdataexp.report import answers, charts, sections, verdicts
from realdataexp.report.bias import is_significant, percent_of_effect
from realdataexp.report.charts import Chart, Look
from realdataexp.report.files import REMEDY, read_result
from realdataexp.report.markup import Cell, Html, section, table, tag
from realdataexp.report.numbers import Scale, number, percent
from realdataexp.report.page import page

_NO_VALUE = "(not set)"

Runs = Mapping[str, dict[str, Any]]


def write_comparison(run_dirs: Sequence[Path], out: Path | None = None) -> Path:
    """Write one page about several run folders; returns it.

    Args:
        run_dirs: the run folders.
        out: the page; None: report-compare.html in the first folder.

    Raises:
        InputError: one of them is no run folder.
    """
    results = [read_result(run_dir) for run_dir in run_dirs]
    runs = dict(zip(run_names(run_dirs), results, strict=True))
    labels = {label: title for r in results for label, title in answers.titles(r).items()}
    shown = _charts(runs, labels)
    body = [
        section("runs", "Runs", _overview(runs)),
        section("effects", "Effects", *[_effects(runs, x, t) for x, t in labels.items()]),
        _biases(runs, labels),
        sections.charts(shown, _designs(runs), labels),
        section("settings", "Settings that differ", _settings(runs)),
    ]
    html = page(f"{len(runs)} runs compared", ", ".join(runs), body, shown)
    path = out or run_dirs[0] / "report-compare.html"
    return write_text(path, html, REMEDY)


def run_names(run_dirs: Sequence[Path]) -> list[str]:
    """What each run is called: the end of its path that tells it from the others."""
    parts = [path.resolve().parts for path in run_dirs]
    for n in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-n:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{i}: {path.name}" for i, path in enumerate(run_dirs, start=1)]  # one run, twice


def _designs(runs: Runs) -> list[str]:
    return list(dict.fromkeys(e["design"] for r in runs.values() for e in r["comparison"]))


def _overview(runs: Runs) -> Html:
    rows = []
    for name, r in runs.items():
        what = "A/A test" if answers.is_aa(r) else r["mode"]
        n = r["config"]["experiment"]["replications"]
        said = " ".join(verdicts.headline(r)) if r["comparison"] else "-"
        rows.append(
            [name, Cell(what), Cell(str(r["seed"])), Cell(number(n), n),
             Cell(number(r["n_steps_done"]), r["n_steps_done"]), Cell(r["status"]), Cell(said)]
        )  # fmt: skip
    header = ["run", "mode", "seed", "replications", "steps", "status", "designs"]
    return table("The runs", header, rows, sortable=True, data_kind="words")


def _told(result: Mapping[str, Any], label: str) -> list[dict[str, Any]]:
    """The truth's entry for a label, or what the one design of a run answers."""
    own = [e for e in result["estimates"] if e["label"] == label]
    return [e for e in own if e["design"] == "global"] or own[:1]


def _effects(runs: Runs, label: str, title: str) -> Html:
    """The effect on a label in each run."""
    found = [(name, r, e) for name, r in runs.items() for e in _told(r, label)]
    keys = ("value", "ci_low", "ci_high")
    scale = Scale.of([e[k] for _, _, e in found for k in keys], [e["se"] for _, _, e in found])
    rows = []
    for name, r, e in found:
        share = r["gte_results"].get(f"GTE_{label}_relative")
        cells = [Cell(scale.text(e[k]), e[k]) for k in keys]
        relative = Cell(percent(share), share)
        by = "truth (GTE)" if e["design"] == "global" else f"as {e['design']} answers"
        rows.append([name, by, *cells, relative])
    header = ["run", "by", "effect per visit", "95 % from", "to", "of control"]
    return table(title, header, rows, sortable=True, data_label=label)


def _biases(runs: Runs, labels: Mapping[str, str]) -> Html:
    """Each design's bias in each run."""
    parts = [x for label, title in labels.items() if (x := _bias_table(runs, label, title))]
    if not parts:
        return Html("")
    note = (
        "Bias per visit ± its Monte-Carlo standard error (in % of the effect: negative where the "
        "design understates it); bold if statistically significant, by Student's t limit for 5 % "
        "over all biases of its run."
    )
    return section("biases", "Biases", *parts, tag("p", note, class_="small"))


def _bias_table(runs: Runs, label: str, title: str) -> Html:
    found = {
        (name, e["design"]): (e, len(r["comparison"]))
        for name, r in runs.items()
        for e in r["comparison"]
        if e["label"] == label and e["bias"] is not None
    }
    if not found:
        return Html("")
    entries = [e for e, _ in found.values()]
    scale = Scale.of([e["bias"] for e in entries], [e["bias_mc_se"] for e in entries])
    designs = list(dict.fromkeys(design for _, design in found))
    names = [name for name in runs if any(run == name for run, _ in found)]
    rows = [[d, *(_bias_cell(found.get((name, d)), scale) for name in names)] for d in designs]
    return table(
        f"{title}: bias of each design", ["design", *names], rows, keys=designs, sortable=True,
        data_label=label,
    )  # fmt: skip


def _bias_cell(found: tuple[dict[str, Any], int] | None, scale: Scale) -> Cell:
    """An entry, one of so many of its run."""
    if found is None:
        return Cell("-")
    e, n_biases = found
    b, s = e["bias"], e["bias_mc_se"]
    shown = scale.text(b) if s is None else f"{scale.text(b)} ± {scale.text(s)}"
    if (share := percent_of_effect(e)) is not None:
        shown += f" ({percent(share)})"
    return Cell(shown, b, "notable" if is_significant(e, n_biases) else "")


def _charts(runs: Runs, labels: Mapping[str, str]) -> list[Chart]:
    """The effect in each run, and each design's bias in it."""
    look = Look(tuple(runs))
    shown = []
    for i, (label, title) in enumerate(labels.items()):
        rows = [
            (name, e["value"], _ends(e))
            for name, r in runs.items()
            for e in _told(r, label)
            if e["value"] is not None
        ]
        said = "Mean effect of each run with its 95 % interval, by the spread of replications"
        chart = charts.points(rows, look, f"effect-{i}", "effect per visit")
        shown.append(replace(chart, title=f"{title}: effect", summary=said, label=label))
        for j, (name, r) in enumerate(runs.items()):
            entries = [e for e in r["comparison"] if e["label"] == label and e["bias"] is not None]
            if entries:
                own = Look(tuple(_designs(runs)))
                chart = charts.biases(
                    entries, len(r["comparison"]), own, f"{title}, {name}", f"{i}-{j}"
                )
                shown.append(replace(chart, label=label))
    return [chart for chart in shown if chart.data]


def _ends(e: dict[str, Any]) -> tuple[float, float] | None:
    return None if e["ci_low"] is None else (e["ci_low"], e["ci_high"])


def _settings(runs: Runs) -> Html:
    """Settings that are not the same in all runs."""
    flat = {name: dict(_flat(r["config"])) for name, r in runs.items()}
    keys = dict.fromkeys(key for own in flat.values() for key in own)
    rows = []
    for key in keys:
        values = [own.get(key, _NO_VALUE) for own in flat.values()]
        if len(set(values)) > 1:
            rows.append([key, *(Cell(value) for value in values)])
    if not rows:
        return tag("p", "All runs have the same settings.")
    return table("Settings", ["setting", *runs], rows, data_kind="words")


def _flat(value: Any, name: str = "") -> list[tuple[str, str]]:
    """Nested settings as names and texts; what has a name is told by it, else by its place."""
    if isinstance(value, Mapping):
        inner = list(value.items())
    elif isinstance(value, list) and any(isinstance(x, Mapping | list) for x in value):
        inner = [
            (x.get("name", i) if isinstance(x, Mapping) else i, x) for i, x in enumerate(value)
        ]
    else:
        return [(name, "null" if value is None else str(value))]
    return [pair for key, x in inner for pair in _flat(x, f"{name}.{key}" if name else str(key))]
