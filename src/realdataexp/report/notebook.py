"""How a result shows itself in a notebook: the answer in words, the tables, warnings, links.

No scripts and no colours of its own: text is in the notebook's colour, so that it can be read on a
light and on a dark page.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from realdataexp.errors import InputError
from realdataexp.report import sections
from realdataexp.report.files import Doubt, RunResult, odd_files_named, read_run
from realdataexp.report.markup import Html, fold, table, tag
from realdataexp.report.numbers import number, percent
from realdataexp.report.table import answer_tables, legends

_FILES = (
    "report.html", "plot.svg", "result.json", "estimates.parquet", "outcomes.parquet",
    "metrics.parquet", "units.parquet", "config.yaml", "run.log",
)  # fmt: skip
_STYLE = """
.realdataexp { color: inherit; background: none; max-width: 70rem; line-height: 1.45; }
.realdataexp h2 { font-size: 1.15em; margin: 0.6em 0 0.3em; }
.realdataexp h3 { font-size: 1em; margin: 0.6em 0 0.2em; }
.realdataexp p { margin: 0.3em 0; }
.realdataexp .small { font-size: 0.88em; }
.realdataexp .cards { display: flex; flex-wrap: wrap; gap: 0.7em; }
.realdataexp .card { border: 1px solid; border-radius: 0.4em; padding: 0.2em 0.8em 0.5em; flex: 1 1 18em; }
.realdataexp .notice { border-left: 4px solid; padding-left: 0.7em; }
.realdataexp .verdict, .realdataexp .notable { font-weight: 700; }
.realdataexp .wide { overflow-x: auto; margin: 0.6em 0; }
.realdataexp table { border-collapse: collapse; color: inherit; background: none; font-variant-numeric: tabular-nums; }
.realdataexp caption { text-align: left; font-weight: 600; color: inherit; }
.realdataexp tr { background: none !important; }
.realdataexp th, .realdataexp td { padding: 0.2em 0.6em; text-align: right; vertical-align: top; border-bottom: 1px solid; }
.realdataexp th[scope="row"], .realdataexp th:first-child, .realdataexp [data-kind="words"] td { text-align: left; }
.realdataexp td ul { margin: 0; padding-left: 1.1em; }
.realdataexp summary { cursor: pointer; }
"""  # noqa: E501


def notebook_view(run_dir: Path) -> Html:
    """A run folder's answer as a piece of HTML; of one that is damaged, what is wrong with it."""
    try:
        with odd_files_named(run_dir):
            result = read_run(run_dir)
            heading = tag("p", tag("strong", "realdataexp"), f" {_about(result)}")
            tables = [table(own.brief()) for own in answer_tables(result)]
            words = [tag("p", text, class_="small") for text in legends(result, "bold")]
            parts = [heading, sections.answer(result), *tables, *words]
            parts += [_warnings(result.warnings), _links(run_dir)]
    except InputError as error:
        parts = [tag("p", str(error), class_="notice")]
    return tag("div", tag("style", Html(_STYLE)), *parts, class_="realdataexp")


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
    worlds = result.config.replications()
    done = f"{result.n_steps_done} steps"
    return f"mode {result.mode}, {result.status}, {done}, {worlds}, seed {result.seed}"


def _effects(result: RunResult) -> list[str]:
    """The effect on each label: the truth in percent, where it is known."""
    told = []
    for label in result.titles:
        own = [e.value for e in result.estimates if e.label == label]
        if (relative := result.relative(label)) is not None:
            told.append(f"{label} {percent(relative)}")
        elif own and own[0] is not None:
            told.append(f"{label} {number(own[0])} per visit")
    return told


def _warnings(warnings: Sequence[Doubt]) -> Html:
    if not warnings:
        return tag("p", "No warnings.", class_="small")
    items = [tag("li", tag("strong", w.code), f": {w.message}") for w in warnings]
    return fold(f"{len(items)} warning{'' if len(items) == 1 else 's'}", tag("ul", *items))


def _links(run_dir: Path) -> Html:
    """Links to the files of the folder: as seen from the notebook, where they are below it."""
    links = [tag("a", name, href=_address(run_dir / name))
             for name in _FILES if (run_dir / name).exists()]  # fmt: skip
    apart = [piece for link in links for piece in (" · ", link)][1:]
    return tag("p", tag("code", run_dir), ": ", *apart, class_="small")


def _address(path: Path) -> str:
    whole, here = path.absolute(), Path.cwd()
    if whole.is_relative_to(here):
        return quote(whole.relative_to(here).as_posix())
    return whole.as_uri()
