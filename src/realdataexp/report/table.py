"""The result table on the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from realdataexp.report.files import read_result


def print_result(run_dir: Path, console: Console | None = None) -> None:
    """Print a run's answer: the truth, what each design says, and the warnings."""
    console = console or Console()
    result = read_result(run_dir)
    if result["status"] != "complete":
        console.print(f"[yellow]partial: stopped after {result['n_steps_done']} steps")
    if result["gte_results"]:
        console.print(_truth(result))
    if result["comparison"]:
        console.print(_comparison(result["comparison"]))
    else:
        designs = [e for e in result["estimates"] if e["design"] != "global"]
        if designs:
            console.print(_estimates(designs))
    for warning in result["warnings"]:
        console.print(f"[yellow]warning[/] {warning['code']}: ", end="")
        console.print(warning["message"], markup=False, highlight=False)


def _truth(result: dict[str, Any]) -> Table:
    """Totals of the treated and the control world, and the effect per visit."""
    gte = result["gte_results"]
    per_visit = {e["label"]: e for e in result["estimates"] if e["design"] == "global"}
    n_worlds = max((e["n_worlds"] for e in per_visit.values()), default=0)
    table = Table(
        title=f"True effect of launching (GTE), {n_worlds} replications", title_justify="left"
    )
    for name in ("label", "treated world", "control world", "GTE", "GTE %", "per visit", "± SE"):
        table.add_column(name, justify="left" if name == "label" else "right")
    for label, e in per_visit.items():
        table.add_row(
            label,
            *(number(gte.get(f"{x}_{label}")) for x in ("GT", "GC", "GTE")),
            number(gte.get(f"GTE_{label}_relative")),
            number(e["value"]),
            number(e["se"]),
        )
    return table


def _comparison(entries: list[dict[str, Any]]) -> Table:
    table = Table(title="What each design would have answered, per visit", title_justify="left")
    names = ("label", "design", "truth", "estimate", "bias", "± MC SE", "SD", "RMSE", "coverage")
    for name in names:
        table.add_column(name, justify="left" if name in ("label", "design") else "right")
    labels = list(dict.fromkeys(e["label"] for e in entries))
    for label in labels:
        for e in entries:
            if e["label"] == label:
                keys = ("gte", "estimate", "bias", "bias_mc_se", "sd", "rmse")
                cells = [number(e[key]) for key in keys]
                coverage = "-" if e["coverage"] is None else f"{100 * e['coverage']:.0f} %"
                table.add_row(label, e["design"], *cells, coverage)
        table.add_section()
    return table


def _estimates(entries: list[dict[str, Any]]) -> Table:
    table = Table(title="Estimated effect per visit", title_justify="left")
    for name in ("design", "label", "estimate", "± SE", "95 % interval", "p", "worlds"):
        table.add_column(name, justify="left" if name in ("label", "design") else "right")
    for e in entries:
        interval = f"{number(e['ci_low'])} to {number(e['ci_high'])}"
        table.add_row(
            e["design"], e["label"], number(e["value"]), number(e["se"]), interval,
            number(e["p_value"]), str(e["n_worlds"]),
        )  # fmt: skip
    return table


def number(value: float | None) -> str:
    """Four significant digits with thousands separators; "-" where there is no number."""
    if value is None:
        return "-"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"
