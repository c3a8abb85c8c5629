"""What is shown of run folders as HTML: report.html, several runs compared, a view in a notebook.

A page opens without a network. Its words are in the templates beside this file, its numbers in
``tables``; whatever is put into a template is text, and is escaped.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from pydantic_core import to_json

from realdataexp.errors import InputError
from realdataexp.files import write_text
from realdataexp.report import charts, panels, tables, verdicts
from realdataexp.report.files import REMEDY, RunResult, odd_files_named, read_run
from realdataexp.report.numbers import number, percent
from realdataexp.report.panels import Panel, Panels

_HERE = Path(__file__).parent
_FILES = (
    "report.html", "plot.svg", "result.json", "estimates.parquet", "outcomes.parquet",
    "metrics.parquet", "units.parquet", "config.yaml", "run.log",
)  # fmt: skip
_REPLICATIONS = "Raise experiment.replications (to 20 or more) for the missing numbers."
_ADVICE = {
    "arms_hardly_differ": "Set alpha_T and alpha_C further apart, or add candidates to a slate.",
    "cache_damaged": "Nothing to do: the cache was made again from the files.",
    "constant_feature": "Leave the feature out of the config: it carries no information.",
    "constant_label": "Choose another target: one that never varies cannot be learned.",
    "damaged_checkpoint": "Nothing to do: an older checkpoint was used. Check the disk.",
    "data_exhausted": "Lower simulation.n_steps or batch_size, or add logs.",
    "data_running_out": "Trust the early steps more; lower n_steps, batch_size or n_candidate.",
    "duplicate_rows": "Usually nothing: repeats were dropped. Many of them hint at a wrong export.",
    "empty_values": "Usually nothing: rows without a value do not count for their label.",
    "extreme_feature": "Correct or cut the extreme values: next to them all others look alike.",
    "feature_without_values": "Leave the feature out, or add the file that has its values.",
    "interval_method_failed": "Mend the method, then run again; the other methods are not touched.",
    "intervals_not_trustworthy": "Run more methods (experiment.intervals); else go by bias and SD.",
    "intervals_without_units": "Leave these methods out of experiment.intervals for this data.",
    "label_decay_unused": "Delete the labels' weight_decay, or that of pretrain and simulation.",
    "label_rate_unused": "Delete the labels' learning_rate, or that of pretrain and simulation.",
    "leakage": "Leave these features out: they reveal what a label is about to be.",
    "no_number": _REPLICATIONS,
    "no_pretraining_rows": "Add logs, or set pretrain.rows; models start untrained otherwise.",
    "no_steps": "Resume the run, or run it again.",
    "not_finite": "Lower learning rates or set gradient_clip, and look at the losses.",
    "one_arm_only": "More visits a step, a p_treatment nearer to 0.5, or fewer, larger units.",
    "other_totals": "Run realdataexp download: it checks the archive and fetches what is missing.",
    "other_version": "Set dataset.name to the version whose files these are, or pass its folder.",
    "out_of_range_values": "Usually nothing. Many of them hint at another unit or a wrong column.",
    "pretrain_overlaps_replay": "Choose pretrain.rows early or share to keep the two apart.",
    "pretrain_sees_later_rows": "Set dataset.tables.early_before, or replay an early log too.",
    "products_by_place": "Set MKL_CBWR=AUTO,STRICT, or import realdataexp before you multiply "
    "matrices.",
    "sample_ratio_mismatch": "Mend what assigns the arms (assign), or name what is randomised as "
    "one (unit).",
    "started_from_other_data": "Export networks of a run on the same data, or pretrain new ones.",
    "unended_file": "Compare the file with its source; download it again if it was cut.",
    "updates_skipped": "Lower the learning rate or set gradient_clip.",
    "users_without_features": "Add the file with their features, or live with missing values.",
    "values_below_zero": "Use the loss MSE for negative values, or make them missing.",
    "videos_without_features": "Add the file with their features, or live with missing values.",
    "visits_lost": "Raise simulation.n_candidate or min_candidates.",
    "weight_model_learned_nothing": "Use shadow, another weighting.model, or more steps.",
    "weights_off": "Do not trust this design's bias here; use shadow or another weighting.model.",
    "worlds_in_groups": "Look at the worlds one by one: their mean may be that of no state.",
}


def advice(code: str) -> str:
    """What to do about a warning."""
    return _ADVICE.get(code, "Read the message: it names the setting to change.")


# --- pages ---------------------------------------------------------------------------------------


def write_report(run_dir: Path, out: Path | None = None) -> Path:
    """Write the page about a run folder; returns it.

    Charts whose table is not there are left out.

    Args:
        run_dir: the run folder.
        out: the page; None: report.html in the folder.

    Raises:
        InputError: result.json is missing, or a file is damaged.
    """
    result = read_run(run_dir)
    drawn = list(Panels.read(run_dir, result, is_lenient=True).all())
    body = _render(
        "run.html",
        result=result,
        config=yaml.safe_dump(result.raw["config"], sort_keys=False, allow_unicode=True),
        **_shown(drawn, [result]),
    )
    kind = "A/A test" if result.is_aa else f"mode {result.mode}"
    worlds = result.config.replications()
    about = f"{kind}, seed {result.seed}, {worlds}, {result.n_steps_done} steps"
    html = _page(f"{_question(result)}: {run_dir.resolve().name}", about, body, drawn)
    return write_text(out or run_dir / "report.html", html, REMEDY)


def _question(result: RunResult) -> str:
    if result.is_aa:
        return "Which intervals can be believed"
    if result.comparison:
        return "Which design is biased"
    return "The true effect" if result.mode == "global" else f"What {result.mode} answers"


def write_comparison(run_dirs: Sequence[Path], out: Path | None = None) -> Path:
    """Write one page about several run folders: effects and biases, and settings that differ.

    Args:
        run_dirs: the run folders.
        out: the page; None: report-compare.html in the first folder.

    Returns:
        The page.

    Raises:
        InputError: one of them is no run folder.
    """
    results = [read_run(run_dir) for run_dir in run_dirs]
    runs = dict(zip(run_names(run_dirs), results, strict=True))
    shown = _shown(drawn := [], results)
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
    html = _page(f"{len(runs)} runs compared", ", ".join(runs), body, drawn)
    return write_text(out or run_dirs[0] / "report-compare.html", html, REMEDY)


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
    scripts = _scripts() if drawn else _scripts()[1:]
    allowed = " ".join(f"'sha256-{digest}'" for _, digest in scripts)
    return _render(
        "page.html",
        title=title,
        about=about,
        content=content,
        links=re.findall(r'<section id="(\w+)"[^>]*><h2[^>]*>(.*?)</h2>', content),
        policy="default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; "
        f"script-src {allowed}",
        style=_file("page.css"),
        charts=script_json([charts.chart(panel) for panel in drawn]),
        scripts=scripts,
    )


def script_json(value: Any) -> Markup:
    """JSON that can stand in a script element, whatever texts are in it; null for no number."""
    packed = to_json(value, inf_nan_mode="null").decode()
    return Markup(packed.translate({ord(x): f"\\u{ord(x):04x}" for x in "<>&"}))


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


@cache
def _templates() -> Environment:
    found = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    found.filters["number"] = number
    found.globals.update(
        advice=advice, tables=tables, verdicts=verdicts, version=version("realdataexp")
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
