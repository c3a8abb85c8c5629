"""The tables of a result and of a plan on the terminal."""

from __future__ import annotations

import json
import textwrap
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from realdataexp.errors import one_line
from realdataexp.report import verdicts
from realdataexp.report.bias import is_significant, rule
from realdataexp.report.files import read_result
from realdataexp.report.numbers import Scale, number, replications

_GAP = "  "
_LEAST_NAME = 12
_AA_LEGEND = (
    "type-I error: how often the 95 % interval of a single test excludes 0 though both arms are "
    "the same; it should be 5 %. * if it is more often, beyond chance: not to be trusted."
)
_LEGEND = (
    "bias: estimate minus truth on the same random numbers ± its Monte-Carlo standard error; * "
    "{rule}. SD, RMSE: of a single test. coverage: how often the 95 % interval (Welch's) of a "
    "single test holds the truth."
)
_PLAN_LEGEND = (
    "p: share treated. every: steps between trainings. effect: true effect of launching. bias: "
    "what the design adds, ± its Monte-Carlo standard error. power: how many tests show the "
    "effect. MDE: least effect that {power:g} % of tests show, given their true spread and bias; "
    "told: as their own standard errors say. shows: whether the effect reaches MDE."
)


def print_result(run_dir: Path, console: Console | None = None) -> None:
    """Print a run's answer: the truth, what each design says, and the warnings."""
    console = console or Console(highlight=False)
    result = read_result(run_dir)
    if result["status"] != "complete":
        _print_text(console, f"partial: stopped after {result['n_steps_done']} steps", "yellow")
    for table in answer_tables(result):
        table.show(console)
    if result["comparison"]:
        console.print()
        for text in verdicts.headline(result):
            _print_text(console, text, "bold", hang="  ")
    for text in legends(result):
        console.print()
        _print_text(console, text, "dim")
    _print_warnings(console, result["warnings"])


def answer_tables(result: dict[str, Any]) -> list[Table]:
    """The truth and what each design says of it, or a single design's answer; type-I errors."""
    units = {x["name"]: unit_of(x["target"]) for x in result["config"]["labels"]}
    truth = [e for e in result["estimates"] if e["design"] == "global"]
    worlds = _worlds(result, truth or result["estimates"])
    tables = [_truth(truth, result["gte_results"], units, worlds)] if truth else []
    for entry in truth:
        answers = [e for e in result["comparison"] if e["label"] == entry["label"]]
        if answers:
            n = len(result["comparison"])
            tables.append(_comparison(entry, answers, units, n, worlds))
    designs = [e for e in result["estimates"] if e["design"] != "global"]
    if designs and not result["comparison"]:
        tables.append(_estimates(designs, units, worlds))
    if _is_aa(result):
        found = result["inference"]
        labels = dict.fromkeys(e["label"] for e in found)
        tables += [_type_i_errors([e for e in found if e["label"] == x], worlds) for x in labels]
    return tables


def legends(result: dict[str, Any]) -> list[str]:
    """What the columns of ``answer_tables`` mean."""
    comparison = result["comparison"]
    told = [_LEGEND.format(rule=rule(comparison))] if comparison else []
    return [*told, *([_AA_LEGEND] if _is_aa(result) else [])]


def _is_aa(result: dict[str, Any]) -> bool:
    return bool(result["config"].get("experiment", {}).get("aa") and result["inference"])


def print_plan(plan_dir: Path, console: Console | None = None) -> None:
    """Print what each design could detect, a table for each label, and the warnings."""
    console = console or Console(highlight=False)
    plan = json.loads((plan_dir / "plan.json").read_text(encoding="utf-8"))
    config = plan["settings"]["config"]
    units = {x["name"]: unit_of(x["target"]) for x in config["labels"]}
    for label in units:
        rows = [row for row in plan["rows"] if row["label"] == label]
        _plan(rows, units, _worlds({"config": config}, rows)).show(console)
    console.print()
    _print_text(console, _PLAN_LEGEND.format(power=100 * plan["settings"]["power"]), "dim")
    _print_warnings(console, plan["warnings"])


def unit_of(target: str) -> str:
    """The unit that a column's name tells, such as "ms", or ""."""
    return "ms" if target.endswith("_ms") else ""


@dataclass
class Table:
    """Lines of cells: the first column of names, on the left, the others on the right.

    Nothing is ever cut: a name too long for the room that the numbers leave stands on a line of its
    own, and where a terminal is narrower than the numbers their lines run on.
    """

    title: str
    header: list[str]
    rows: list[tuple[list[str], str]] = field(default_factory=list)

    def add(self, cells: list[str], style: str = "") -> None:
        """Add a line of cells."""
        self.rows.append(([one_line(cell) for cell in cells], style))

    def show(self, console: Console) -> None:
        """Print the table."""
        columns = list(zip(self.header, *(cells for cells, _ in self.rows), strict=True))
        widths = [max(map(len, column)) for column in columns[1:]]
        taken = sum(widths) + len(_GAP) * len(widths)
        room = max(_LEAST_NAME, console.width - taken - 1)
        first = max((len(name) for name in columns[0] if len(name) <= room), default=0)

        def line(cells: list[str], style: str) -> None:
            name, *values = cells
            if len(name) > room:
                console.print(Text(name, style=style), soft_wrap=True)
                name = ""
            right = [value.rjust(width) for value, width in zip(values, widths, strict=True)]
            text = _GAP.join([name.ljust(first), *right]).rstrip()
            console.print(Text(text, style=style), soft_wrap=True)

        console.print()
        _print_text(console, self.title, "bold")
        line(self.header, "")
        console.print(Text("─" * (first + taken), style="dim"), soft_wrap=True)
        for cells, style in self.rows:
            line(cells, style)


def _print_text(console: Console, text: str, style: str, hang: str = "") -> None:
    lines = textwrap.fill(
        one_line(text), max(40, console.width - 1), subsequent_indent=hang,
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip
    console.print(Text(lines, style=style), soft_wrap=True)


def _print_warnings(console: Console, warnings: list[dict[str, str]]) -> None:
    if warnings:
        console.print()
    for warning in warnings:
        _print_text(console, f"! {warning['code']}: {warning['message']}", "yellow", hang="  ")


def _truth(
    entries: list[dict[str, Any]],
    gte: dict[str, float | None],
    units: dict[str, str],
    worlds: str,
) -> Table:
    """Totals of the treated and the control world, and the effect per visit."""
    title = f"The truth: everybody treated minus everybody in control (GTE), {worlds}"
    header = ["", "treated", "control", "GTE", "GTE %", "GTE per visit ± SE"]
    table = Table(title, header)
    for e in entries:
        label = e["label"]
        scale = Scale.of([e["value"]], [e["se"]])
        relative = gte.get(f"GTE_{label}_relative")
        table.add(
            [
                _with_unit(label, units),
                *(number(gte.get(f"{x}_{label}")) for x in ("GT", "GC", "GTE")),
                "-" if relative is None else f"{relative:.3g} %",
                _plus_minus([scale.text(e["value"])], [scale.text(e["se"])])[0],
            ]
        )
    return table


def _comparison(
    truth: dict[str, Any],
    entries: list[dict[str, Any]],
    units: dict[str, str],
    n_biases: int,
    worlds: str,
) -> Table:
    """One label: the truth, and how far each design's answers are from it."""
    values = [truth["value"], *(e[k] for e in entries for k in ("estimate", "bias", "sd", "rmse"))]
    scale = Scale.of(values, [e["bias_mc_se"] for e in entries])
    table = Table(
        f"{_with_unit(truth['label'], units)}: effect per visit, {worlds}",
        ["", "estimate", "bias ± MC SE  ", "SD", "RMSE", "coverage"],
    )
    table.add(["truth (GTE)", scale.text(truth["value"]), "", "", "", ""], "bold")
    biases = _plus_minus(
        [scale.text(e["bias"]) for e in entries],
        [scale.text(e["bias_mc_se"]) for e in entries],
    )
    for e, bias in zip(entries, biases, strict=True):
        is_notable = is_significant(e, n_biases)
        table.add(
            [
                e["design"],
                scale.text(e["estimate"]),
                bias + (" *" if is_notable else "  "),
                scale.text(e["sd"]),
                scale.text(e["rmse"]),
                "-" if e["coverage"] is None else f"{100 * e['coverage']:.0f} %",
            ],
            "red" if is_notable else "",
        )
    return table


def _type_i_errors(entries: list[dict[str, Any]], worlds: str) -> Table:
    """One label of an A/A test: how often each design's intervals reject, by method."""
    cells: dict[str, dict[str, tuple[str, bool]]] = {}
    for e in entries:
        share = "-" if e["reject_share"] is None else f"{100 * e['reject_share']:.0f} %"
        is_doubted = e["trustworthy"] is False
        cell = share + (" *" if is_doubted else "  ")
        cells.setdefault(e["design"], {})[e["se_method"]] = (cell, is_doubted)
    methods = list(dict.fromkeys(e["se_method"] for e in entries))
    table = Table(
        f"{entries[0]['label']}: type-I error by interval method, {worlds}",
        ["", *methods],
    )
    for design, by_method in cells.items():
        row = [by_method.get(method, ("-  ", False)) for method in methods]
        told = [is_doubted for (text, is_doubted) in by_method.values() if text != "-  "]
        style = "red" if told and all(told) else ""
        table.add([design, *(text for text, _ in row)], style)
    return table


def _estimates(entries: list[dict[str, Any]], units: dict[str, str], worlds: str) -> Table:
    """One design's own estimates."""
    table = Table(
        f"Effect per visit, as the design {entries[0]['design']} answers, {worlds}",
        ["", "estimate ± SE", "95 % interval", "p"],
    )
    for e in entries:
        scale = Scale.of([e["value"], e["ci_low"], e["ci_high"]], [e["se"]])
        interval = "-"
        if e["ci_low"] is not None:
            interval = f"{scale.text(e['ci_low'])} to {scale.text(e['ci_high'])}"
        table.add(
            [
                _with_unit(e["label"], units),
                _plus_minus([scale.text(e["value"])], [scale.text(e["se"])])[0],
                interval,
                "-" if e["p_value"] is None else f"{e['p_value']:.2g}",
            ]
        )
    return table


def _plan(rows: list[dict[str, Any]], units: dict[str, str], worlds: str) -> Table:
    """One label: what each design could detect, in percent of what a visit of control yields.

    In the label's own unit where that is nothing.
    """
    title = f"{_with_unit(rows[0]['label'], units)}: effects"
    controls = [r["control_mean"] for r in rows]
    factors = [1.0] * len(rows)
    if all(controls):
        factors = [100.0 / abs(c) for c in controls]
        low, high = (number(c) for c in (min(controls), max(controls)))
        title += f" in % of control's mean per visit ({low if low == high else f'{low} to {high}'})"
    else:
        title += " per visit"
    title += f"; {worlds}"

    def column(key: str) -> list[float | None]:
        return [None if r[key] is None else f * r[key] for r, f in zip(rows, factors, strict=True)]

    keys = ("effect", "bias", "bias_mc_se", "mde_reported", "mde_honest")
    values = {key: column(key) for key in keys}
    scale = Scale.of([x for column in values.values() for x in column], [])
    text = {key: [scale.text(x) for x in column] for key, column in values.items()}
    width = max(len(r["design"]) for r in rows)
    biases = _plus_minus(text["bias"], text["bias_mc_se"])
    table = Table(
        title,
        [
            "p",
            "every",
            "steps",
            "design".ljust(width),
            "effect",
            "bias ± SE",
            "power",
            "told",
            "MDE",
            "shows",
        ],
    )
    for i, r in enumerate(rows):
        power, shows = r["power_at_effect"], r["detects"]
        table.add(
            [
                f"{r['p']:g}",
                f"{r['retrain_every']}",
                f"{r['steps']}",
                r["design"].ljust(width),
                text["effect"][i],
                biases[i],
                "-" if power is None else f"{100 * power:.0f} %",
                text["mde_reported"][i],
                text["mde_honest"][i],
                "-" if shows is None else "yes" if shows else "no",
            ],
            "bold" if shows else "",
        )
    return table


def _plus_minus(values: list[str], errors: list[str]) -> list[str]:
    """``value ± error`` each, the signs in one column; values alone where there are no errors."""
    if set(errors) == {"-"}:
        return values
    width = max(map(len, errors))
    return [f"{v} ± {e.rjust(width)}" for v, e in zip(values, errors, strict=True)]


def _with_unit(label: str, units: dict[str, str]) -> str:
    unit = units.get(label)
    return f"{label} ({unit})" if unit else label


def _worlds(result: dict[str, Any], entries: list[dict[str, Any]]) -> str:
    return replications(result, max((e["n_worlds"] for e in entries), default=0))
