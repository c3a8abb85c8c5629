"""What is shown of run folders as HTML: report.html, several runs compared, a view in a notebook.

A page opens without a network. Its words are in the templates next to this file, its numbers in
``tables``; whatever is put into a template is text, and is escaped.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from pydantic_core import to_json

from realdataexp.errors import InputError
from realdataexp.files import write_text
from realdataexp.report import charts, diagnosis, panels, tables, verdicts
from realdataexp.report.files import REMEDY, RunResult, odd_files_named, read_plan, read_run
from realdataexp.report.numbers import number, percent
from realdataexp.report.panels import Panel, Panels

_HERE = Path(__file__).parent
_FILES = (
    "report.html", "plot.svg", "result.json", "estimates.parquet", "outcomes.parquet",
    "metrics.parquet", "units.parquet", "ledger.parquet", "detections.parquet",
    "ranks.parquet", "config.yaml", "run.log",
)  # fmt: skip


@cache
def all_advice() -> dict[str, str]:
    """What to do about each warning that a run can report, by its code."""
    known: dict[str, str] = yaml.safe_load(_file("advice.yaml"))
    return known


def advice(code: str) -> str:
    """What to do about a warning."""
    return all_advice().get(code, "Read the message: it names the setting to change.")


# --- pages ---------------------------------------------------------------------------------------


def write_report(run_dir: Path, out: Path | None = None) -> Path:
    """Write the page about a run folder, ``out`` or report.html in the folder; returns it.

    Charts whose table is not there are left out.

    Raises:
        InputError: result.json is missing, or a file is damaged.
    """
    result = read_run(run_dir)
    if result.trained:
        from realdataexp.report import trained

        drawn = trained.panels(run_dir, result, is_lenient=True)
    else:
        drawn = list(Panels.read(run_dir, result, is_lenient=True).all())
    body = _render(
        "trained.html" if result.trained else "run.html",
        result=result,
        config=yaml.safe_dump(result.raw["config"], sort_keys=False, allow_unicode=True),
        **_shown(drawn, [result]),
    )
    title = f"{_question(result)}: {run_dir.resolve().name}"
    html = _page(title, _subtitle(result), body, drawn)
    return write_text(out or run_dir / "report.html", html, REMEDY)


def _question(result: RunResult) -> str:
    if result.trained:
        return f"How well {result.trained} ranks"
    if result.is_aa:
        return "Which intervals can be believed"
    if result.comparison:
        return "Which design is biased"
    return "The true effect" if result.mode == "global" else f"What {result.mode} answers"


def _subtitle(result: RunResult) -> str:
    if result.trained:
        return _about(result)
    kind = "A/A test" if result.is_aa else f"mode {result.mode}"
    worlds = result.config.replications()
    return f"{kind}, seed {result.seed}, {worlds}, {result.n_steps_done} steps"


def write_comparison(run_dirs: Sequence[Path], out: Path | None = None) -> Path:
    """Write one page about several run folders: what they answer, and settings that differ.

    It is ``out``, or report-compare.html in the first folder; returns it.

    Raises:
        InputError: one of them is no run folder, or some are trainings and some are not.
    """
    results = [read_run(run_dir) for run_dir in run_dirs]
    kinds = ["a training" if x.trained else "no training" for x in results]
    for run_dir, kind in zip(run_dirs, kinds, strict=True):
        if kind != kinds[0]:
            raise InputError(f"{run_dir}: is {kind}, and {run_dirs[0]} is {kinds[0]}: leave it out")
    names = run_names(run_dirs)
    runs = dict(zip(names, results, strict=True))
    if results[0].trained:
        body, drawn = _trainings(runs, dict(zip(names, run_dirs, strict=True)))
    else:
        body, drawn = _experiments(runs)
    html = _page(f"{len(runs)} runs compared", ", ".join(runs), body, drawn)
    return write_text(out or run_dirs[0] / "report-compare.html", html, REMEDY)


def write_sweep(folder: Path, out: Path | None = None) -> Path:
    """Write the page about a sweep, ``out`` or sweep.html in its folder; returns it.

    Raises:
        InputError: a file of the folder is missing or damaged.
    """
    from realdataexp.report import sweeps

    sweep = sweeps.Sweep.read(folder)
    with odd_files_named(folder):
        drawn = list(sweeps.panels(sweep))
        body = _render(
            "sweep.html",
            sweep=sweep,
            sweeps=sweeps,
            asked=yaml.safe_dump(sweep.asked, sort_keys=False, allow_unicode=True),
            panels=drawn,
            designs={design: panels.shown(design) for design in sweep.designs},
            labels=sweep.titles,
        )
    title = f"{', '.join(sweep.keys)}: {folder.resolve().name}"
    html = _page(title, sweeps.headline(sweep)[0], body, drawn)
    return write_text(out or folder / sweeps.PAGE, html, REMEDY)


def write_plan_page(folder: Path) -> Path:
    """Write plan.html of a plan's folder; returns it."""
    from realdataexp.report import plans

    plan = read_plan(folder)
    drawn = plans.panels(plan)
    body = _render(
        "plan.html",
        plan=plan,
        plans=plans,
        legend=tables.plan_legend(plan),
        config=(folder / "points" / "0" / "config.yaml").read_text(encoding="utf-8"),
        panels=drawn,
        designs={row.design: row.design for row in plan.rows},
        labels=plans.titles(plan),
    )
    power = f"power {100 * plan.settings.power:g} %"
    html = _page(f"Which test shows the effect: {folder.resolve().name}", power, body, drawn)
    return write_text(folder / plans.PAGE, html, REMEDY)


def write_score(folder: Path, out: Path | None = None) -> Path:
    """Write score.svg of a score card's folder, and its page, ``out`` or score.html; returns it.

    Raises:
        InputError: score.json is missing or damaged.
    """
    from realdataexp.report import plots, scores

    card = scores.Card.read(folder)
    drawn = list(scores.panels(card))
    body = _render(
        "score.html",
        card=card,
        scores=scores,
        panels=drawn,
        designs={design: design for design in card.designs},
    )
    title = f"Score card of {card.design}"
    plots.write_panel(folder / scores.PLOT, drawn[0], title)
    html = _page(title, scores.headline(card)[-1], body, drawn)
    return write_text(out or folder / scores.PAGE, html, REMEDY)


def write_diagnosis(path: Path, found: Mapping[str, Any]) -> Path:
    """Write the page about a diagnosis, from what its diagnosis.json holds."""
    config = found["config"]
    body = _render(
        "diagnosis.html",
        found=found,
        diagnosis=diagnosis,
        config=config and yaml.safe_dump(config, sort_keys=False, allow_unicode=True),
    )
    name = ", ".join(found["subjects"])
    html = _page(f"Diagnosis of {name}", f"seed {found['seed']}", body, [])
    return write_text(path, html, REMEDY)


def _trainings(runs: tables.Runs, run_dirs: Mapping[str, Path]) -> tuple[Markup, list[Panel]]:
    from realdataexp.report import trained, trainings

    compared = trainings.paired(runs, run_dirs)
    drawn = trainings.panels(run_dirs, compared)
    given = {"runs": runs, "compared": compared, "trained": trained, "trainings": trainings}
    return _render("trainings.html", **given, **_shown(drawn, [])), drawn


def _experiments(runs: tables.Runs) -> tuple[Markup, list[Panel]]:
    shown = _shown(drawn := [], [*runs.values()])
    for i, (label, title) in enumerate(shown["labels"].items()):
        found = tables.answers_of(runs, label)
        own = [panels.run_effects(found, f"effect-{i}", f"{title}: effect")]
        own += [
            panels.bias(verdicts.biases(r, label), f"{i}-{j}", f"{title}, {name}")
            for j, (name, r) in enumerate(runs.items())
        ]
        drawn += [replace(panel, label=label) for panel in own if panel.rows]
    biases = [tables.biases(runs, *x) for x in shown["labels"].items()]
    body = _render("several.html", runs=runs, biases=[x for x in biases if x.rows], **shown)
    return body, drawn


def run_names(run_dirs: Sequence[Path]) -> list[str]:
    """What each run is called: the end of its path that tells it from the others."""
    parts = [path.resolve().parts for path in run_dirs]
    for n in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-n:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{i}: {path.name}" for i, path in enumerate(run_dirs, start=1)]  # one run, twice


def _shown(drawn: list[Panel], results: Sequence[RunResult]) -> dict[str, Any]:
    """What charts and their filters take."""
    return {
        "panels": drawn,
        "designs": {e.design: e.design for r in results for e in r.comparison},
        "labels": {label: title for r in results for label, title in r.titles.items()},
    }


def _page(title: str, about: str, content: Markup, drawn: Sequence[Panel]) -> str:
    """The whole page. Only its own two scripts may run: the browser knows their digests."""
    plotly = _plotly() if drawn else None
    own = [_file("page.js"), *([plotly.code] if plotly else [])]
    allowed = " ".join(
        f"'sha256-{_base64(hashlib.sha256(code.encode()).digest())}'" for code in own
    )
    return _render(
        "page.html",
        title=title,
        about=about,
        content=content,
        links=re.findall(r'<section id="(\w+)"[^>]*><h2[^>]*>(.*?)</h2>', content),
        policy="default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; "
        f"script-src {allowed}",
        style=_file("page.css"),
        charts=packed_json([charts.chart(panel) for panel in drawn]) if drawn else None,
        plotly=plotly and plotly.packed,
        script=own[0],
    )


def packed_json(value: Any) -> str:
    """JSON with null for no number, compressed, as text that the page's script unpacks."""
    return _packed(to_json(value, inf_nan_mode="null"))


def _packed(content: bytes) -> str:
    """Gzip in Base64, which can stand in a script element whatever is in it."""
    return _base64(gzip.compress(content, mtime=0))


@cache
def _file(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")


class _Code(NamedTuple):
    """A script, and the same compressed and as text, which the page's own script unpacks."""

    code: str
    packed: str


@cache
def _plotly() -> _Code | None:
    """The script that draws charts; None where this installation has none.

    A wheel brings the part of plotly.js that is needed, the Python package plotly all of it.
    """
    if (own := _HERE / "plotly.min.js").is_file():
        code = own.read_text(encoding="utf-8")
    else:
        try:
            from plotly.offline import get_plotlyjs
        except ImportError:
            return None
        code = get_plotlyjs()
    code = code.replace("\r\n", "\n")
    return _Code(code, _packed(code.encode()))


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


@cache
def _templates() -> Environment:
    found = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    found.filters["number"] = number
    found.globals.update(
        advice=advice,
        can_draw=lambda: _plotly() is not None,
        tables=tables,
        verdicts=verdicts,
        version=version("realdataexp"),
    )
    found.globals["parts"] = found.get_template("parts.html").module
    return found


def _render(name: str, **values: Any) -> Markup:
    return Markup(_templates().get_template(name).render(values))


# --- a result in Python --------------------------------------------------------------------------


def notebook_view(run_dir: Path) -> str:
    """A run folder's answer as a piece of HTML; of one that is damaged, what is wrong with it."""
    try:
        with odd_files_named(run_dir):
            result = read_run(run_dir)
            return _render(
                "notebook.html",
                fault="",
                about=_about(result),
                result=result,
                folder=run_dir,
                links=[(x, _address(run_dir / x)) for x in _FILES if (run_dir / x).exists()],
            )
    except InputError as error:
        return _render("notebook.html", fault=error)


def _address(path: Path) -> str:
    """Of a file, as seen from the notebook where it is below it."""
    whole, here = path.absolute(), Path.cwd()
    if whole.is_relative_to(here):
        return quote(whole.relative_to(here).as_posix())
    return whole.as_uri()


def one_line(run_dir: Path) -> str:
    """A run folder in one line: what was run, how far it came, and the effect on each label."""
    try:
        with odd_files_named(run_dir):
            result = read_run(run_dir)
            text = f"{run_dir}: {'; '.join([_about(result), *_effects(result)])}"
    except InputError as error:
        text = str(error)
    return " ".join(text.split())


def _about(result: RunResult) -> str:
    if result.trained:
        done = f", {result.n_steps_done:,} updates" if result.n_steps_done else ""
        return f"mode train, {result.trained}, {result.status}{done}, seed {result.seed}"
    worlds = result.config.replications()
    done = f"{result.n_steps_done} steps"
    return f"mode {result.mode}, {result.status}, {done}, {worlds}, seed {result.seed}"


def _effects(result: RunResult) -> list[str]:
    """The effect on each label: the truth in percent, where it is known."""
    told = tables.headline(result) if result.trained else []
    for label in result.titles:
        own = [e.value for e in result.estimates if e.label == label]
        if (relative := result.relative(label)) is not None:
            told.append(f"{label} {percent(relative)}")
        elif own and own[0] is not None:
            told.append(f"{label} {number(own[0])} per visit")
    return told
