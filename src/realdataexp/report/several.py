"""Several runs in one page: their effects and biases side by side, and settings that differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from realdataexp.files import write_text
from realdataexp.report import panels, sections, verdicts
from realdataexp.report.files import REMEDY, TRUTH, Effect, RunResult, read_run
from realdataexp.report.markup import Html, section, table, tag
from realdataexp.report.numbers import Scale, number, percent
from realdataexp.report.page import page
from realdataexp.report.panels import Panel
from realdataexp.report.table import Cell, Table, bias_cell

_NO_VALUE = "(not set)"

Runs = Mapping[str, RunResult]


def write_comparison(run_dirs: Sequence[Path], out: Path | None = None) -> Path:
    """Write one page about several run folders; returns it.

    Args:
        run_dirs: the run folders.
        out: the page; None: report-compare.html in the first folder.

    Raises:
        InputError: one of them is no run folder.
    """
    results = [read_run(run_dir) for run_dir in run_dirs]
    runs = dict(zip(run_names(run_dirs), results, strict=True))
    labels = {label: title for r in results for label, title in r.titles.items()}
    drawn = _panels(runs, labels)
    designs = list(dict.fromkeys(e.design for r in results for e in r.comparison))
    body = [
        section("runs", "Runs", _overview(runs)),
        section("effects", "Effects", *[_effects(runs, x, t) for x, t in labels.items()]),
        _biases(runs, labels),
        sections.charts(drawn, designs, labels),
        section("settings", "Settings that differ", _settings(runs)),
    ]
    html = page(f"{len(runs)} runs compared", ", ".join(runs), body, drawn)
    return write_text(out or run_dirs[0] / "report-compare.html", html, REMEDY)


def run_names(run_dirs: Sequence[Path]) -> list[str]:
    """What each run is called: the end of its path that tells it from the others."""
    parts = [path.resolve().parts for path in run_dirs]
    for n in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-n:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{i}: {path.name}" for i, path in enumerate(run_dirs, start=1)]  # one run, twice


def _overview(runs: Runs) -> Html:
    own = Table.of(
        "The runs", "mode", "seed", "replications", "steps", "status", "designs", first="run"
    )
    for name, r in runs.items():
        n = r.config.experiment.replications
        own.add(
            name, "A/A test" if r.is_aa else r.mode, str(r.seed), Cell(number(n), n),
            Cell(number(r.n_steps_done), r.n_steps_done), r.status,
            " ".join(verdicts.headline(r)) if r.comparison else "-",
        )  # fmt: skip
    return table(own, sortable=True, data_kind="words")


def _told(runs: Runs, label: str) -> list[tuple[str, Effect]]:
    """Of each run the truth's entry for a label, or what its one design answers."""
    return [(name, e) for name, r in runs.items() for e in r.answers if e.label == label]


def _effects(runs: Runs, label: str, title: str) -> Html:
    """The effect on a label in each run."""
    found = _told(runs, label)
    scale = Scale.of(
        [x for _, e in found for x in (e.value, e.ci_low, e.ci_high)], [e.se for _, e in found]
    )
    names = ("by", "effect per visit", "95 % from", "to", "of control")
    own = Table.of(title, *names, first="run", label=label)
    for name, e in found:
        by = "truth (GTE)" if e.design == TRUTH else f"as {e.design} answers"
        cells = [Cell(scale.text(x), x) for x in (e.value, e.ci_low, e.ci_high)]
        relative = runs[name].relative(label)
        own.add(name, by, *cells, Cell(percent(relative), relative))
    return table(own, sortable=True)


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
        (name, x.entry.design): x
        for name, r in runs.items()
        for x in verdicts.biases(r, label)
        if x.entry.bias is not None
    }
    if not found:
        return Html("")
    entries = [x.entry for x in found.values()]
    scale = Scale.of([e.bias for e in entries], [e.bias_mc_se for e in entries])
    names = list(dict.fromkeys(run for run, _ in found))
    own = Table.of(f"{title}: bias of each design", *names, first="design", label=label)
    for design in dict.fromkeys(design for _, design in found):
        cells = [bias_cell(found.get((name, design)), scale) for name in names]
        own.add(design, *cells, design=design)
    return table(own, sortable=True)


def _panels(runs: Runs, labels: Mapping[str, str]) -> list[Panel]:
    """The effect in each run, and each design's bias in it."""
    said = "Mean effect of each run with its 95 % interval, by the spread of replications"
    drawn = []
    for i, (label, title) in enumerate(labels.items()):
        told = _told(runs, label)
        rows = [(name, e.value, e.interval) for name, e in told if e.value is not None]
        own = [panels.points(rows, f"effect-{i}", f"{title}: effect", said)]
        own += [
            panels.bias(verdicts.biases(r, label), f"{i}-{j}", f"{title}, {name}")
            for j, (name, r) in enumerate(runs.items())
        ]
        drawn += [replace(panel, label=label) for panel in own if panel.rows]
    return drawn


def _settings(runs: Runs) -> Html:
    """Settings that are not the same in all runs."""
    flat = {name: dict(_flat(r.raw["config"])) for name, r in runs.items()}
    own = Table.of("Settings", *runs, first="setting")
    for key in dict.fromkeys(key for settings in flat.values() for key in settings):
        values = [settings.get(key, _NO_VALUE) for settings in flat.values()]
        if len(set(values)) > 1:
            own.add(key, *values)
    if not own.rows:
        return tag("p", "All runs have the same settings.")
    return table(own, data_kind="words")


def _flat(value: Any, name: str = "") -> list[tuple[str, str]]:
    """Nested settings as names and texts; what has a name is called by it, else by its place."""
    if isinstance(value, Mapping):
        inner = list(value.items())
    elif isinstance(value, list) and any(isinstance(x, Mapping | list) for x in value):
        inner = [
            (x.get("name", i) if isinstance(x, Mapping) else i, x) for i, x in enumerate(value)
        ]
    else:
        return [(name, "null" if value is None else str(value))]
    return [pair for key, x in inner for pair in _flat(x, f"{name}.{key}" if name else str(key))]
