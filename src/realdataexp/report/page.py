"""report.html: one page that opens without a network, made from the files of a run folder."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from html import escape
from importlib.metadata import version
from pathlib import Path
from string import Template
from typing import Any

import polars as pl

from realdataexp.files import write_text
from realdataexp.report import answers, charts, curves, sections, step_charts
from realdataexp.report.charts import Chart, Look
from realdataexp.report.files import REMEDY, read_result, read_table
from realdataexp.report.markup import Html, joined, script_json, tag
from realdataexp.report.numbers import replications

_HERE = Path(__file__).parent
_LINKS = {
    "answer": "Answer",
    "comparison": "Designs compared",
    "charts": "Charts",
    "diagnostics": "Diagnostics",
    "data": "Data",
    "config": "Config",
    "about": "Versions and timing",
    "runs": "Runs",
    "effects": "Effects",
    "biases": "Biases",
    "settings": "Settings",
}


def write_report(run_dir: Path, out: Path | None = None) -> Path:
    """Write the page about a run folder; returns it.

    Charts whose table is not there are left out.

    Args:
        run_dir: the run folder.
        out: the page; None: report.html in the folder.

    Raises:
        InputError: result.json is missing, or a file is damaged.
    """
    result = read_result(run_dir)
    shown = _charts(result, run_dir)
    body = [
        answers.answer(result),
        answers.comparison(result) if result["comparison"] else Html(""),
        sections.charts(shown, _designs(result), answers.titles(result)),
        sections.diagnostics(result),
        sections.data(result),
        sections.config(result),
        sections.about(result),
    ]
    kind = "A/A test" if answers.is_aa(result) else f"mode {result['mode']}"
    about = f"{kind}, seed {result['seed']}, {replications(result)}, {result['n_steps_done']} steps"
    html = page(f"{_question(result)}: {run_dir.resolve().name}", about, body, shown)
    path = out or run_dir / "report.html"
    return write_text(path, html, REMEDY)


def _question(result: dict[str, Any]) -> str:
    if answers.is_aa(result):
        return "Which intervals can be believed"
    if result["comparison"]:
        return "Which design is biased"
    return "The true effect" if result["mode"] == "global" else f"What {result['mode']} answers"


def _designs(result: dict[str, Any]) -> list[str]:
    """The designs that are compared, in the order of the result."""
    return list(dict.fromkeys(e["design"] for e in result["comparison"]))


def _charts(result: dict[str, Any], run_dir: Path) -> list[Chart]:
    """All there is to draw: of each label, then of what labels share."""
    tables = {name: _table(run_dir, name) for name in ("outcomes", "estimates", "metrics")}
    outcomes, metrics = tables["outcomes"], tables["metrics"]
    look = Look(tuple(_designs(result)) or tuple({e["design"] for e in result["estimates"]}))
    over_steps = {
        "totals": None if outcomes is None else curves.totals(outcomes),
        "effects": None if outcomes is None else curves.effects(outcomes),
        "looks": None if metrics is None else curves.looks(metrics),
    }
    shown = []
    for i, (label, title) in enumerate(answers.titles(result).items()):
        own = [
            *_answers(result, label, title, look, tables["estimates"], str(i)),
            *_curves(over_steps, label, title, look, str(i)),
        ]
        shown += [replace(chart, label=label) for chart in own]
    if metrics is not None:
        shown += step_charts.weights(curves.weight_figures(metrics), look)
        left = curves.data_left(metrics)
        shown += [step_charts.data_left(left)] if left["mean"].sum() > 0 else []
    return shown


def _table(run_dir: Path, name: str) -> pl.DataFrame | None:
    """A table of the run folder, or None where there is no such file."""
    return read_table(run_dir, name) if (run_dir / f"{name}.parquet").exists() else None


def _answers(
    result: dict[str, Any],
    label: str,
    title: str,
    look: Look,
    estimates: pl.DataFrame | None,
    key: str,
) -> list[Chart]:
    """What designs answer for a label, where they are compared."""
    entries = [e for e in result["comparison"] if e["label"] == label and e["bias"] is not None]
    if not entries:
        return []
    shown = []
    if estimates is not None:
        is_own = (pl.col("label") == label) & (pl.col("se_method") == "welch")
        known = estimates.filter(is_own & pl.col("value").is_not_null())
        of_truth = [
            e for e in result["estimates"] if e["label"] == label and e["design"] == "global"
        ]
        truth = of_truth[0] if of_truth else None
        shown.append(charts.estimates(known, truth, look, title, key))
    shown.append(charts.biases(entries, len(result["comparison"]), look, title, key))
    inference = [e for e in result.get("inference", ()) if e["label"] == label]
    if inference:
        is_aa = answers.is_aa(result)
        shown.append(charts.coverage(inference, is_aa, look, title, key))
    return shown


def _curves(
    tables: dict[str, pl.DataFrame | None], label: str, title: str, look: Look, key: str
) -> list[Chart]:
    """What happened to a label over the steps."""
    own = {
        name: pl.DataFrame() if table is None else table.filter(pl.col("label") == label)
        for name, table in tables.items()
    }
    shown = []
    if own["effects"].height:
        shown.append(step_charts.effects(own["effects"], look, title, key))
    if own["totals"].height:
        shown.append(step_charts.totals(own["totals"], title, key))
    if own["looks"].height:
        shown.append(step_charts.looks(own["looks"], title, key))
    return shown


def page(title: str, about: str, body: Sequence[Html], shown: Sequence[Chart]) -> str:
    """The whole page. Only its own two scripts may run: the browser knows their digests."""
    scripts = _scripts() if shown else _scripts()[1:]
    digests = " ".join(f"'sha256-{digest}'" for _, digest in scripts)
    content = joined(body)
    keys = re.findall(r'<section id="(\w+)"', content)
    links = [tag("li", tag("a", _LINKS[key], href=f"#{key}")) for key in keys]
    return Template(_file("page.html")).substitute(
        title=escape(title),
        about=escape(about),
        version=escape(version("realdataexp")),
        policy=f"default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; "
        f"script-src {digests}",
        style=_file("page.css"),
        links=joined(links),
        body=content,
        charts=script_json([chart.to_json() for chart in shown]),
        scripts="\n".join(f"<script>{code}</script>" for code, _ in scripts),
    )


@cache
def _file(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")


@cache
def _scripts() -> list[tuple[str, str]]:
    """Plotly's and the page's own script, each with its SHA-256 in Base64."""
    from plotly.offline import get_plotlyjs

    codes = (get_plotlyjs().replace("\r\n", "\n"), _file("page.js"))
    return [
        (code, base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()) for code in codes
    ]
