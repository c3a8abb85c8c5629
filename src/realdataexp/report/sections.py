"""The sections of the page: the answer first, then tables, charts, diagnostics, data and config."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml

from realdataexp.report import verdicts
from realdataexp.report.advice import advice
from realdataexp.report.files import TRUTH, Effect, RunResult
from realdataexp.report.markup import Html, fold, joined, pairs, section, table, tag
from realdataexp.report.numbers import number
from realdataexp.report.panels import Panel
from realdataexp.report.table import Cell, Table, legends, quality_tables, share
from realdataexp.report.verdicts import HIDDEN, JUDGEMENTS, MIN_REPLICATIONS, SMALL

_DATA_ROWS = 60
_BIAS_RULES = (
    "These words follow from fixed rules. The truth and every design share random numbers, so a "
    "bias is the mean of paired differences. Its interval is bias ± t × MC SE, with Student's t "
    "limit for 5 % over all {n} biases of this run (Bonferroni): in 95 % of runs all {n} intervals "
    "hold their bias. A design is biased for a label where the interval excludes 0 (a small bias, "
    "where it excludes every bias over {small:g} % of the effect); unbiased where it holds 0 and "
    "excludes every bias over {hidden:g} % of the effect; else inconclusive. So a run without any "
    "bias calls a design biased in 5 % of cases at most. With fewer than {least} replications "
    "none is judged."
)
_INTERVAL_RULES = (
    "Apart from that, an interval method can be believed unless these replications refute it for "
    "one of the labels: unless {refuted}, beyond chance (the exact binomial 95 % interval of that "
    "share). With fewer than {least} intervals a method is not judged. An unbiased design may have "
    "intervals that are too narrow: then take another method. A biased design may have intervals "
    "wide enough to hold the truth."
)


# --- the answer ----------------------------------------------------------------------------------


def answer(result: RunResult) -> Html:
    """The answer first: the effect on each label, then which designs and intervals to believe."""
    parts: list[Html] = []
    if not result.is_complete:
        note = f"Partial: the run stopped after {result.n_steps_done} steps."
        parts.append(tag("p", note, class_="notice"))
    told = result.answers
    if not told:
        parts.append(tag("p", "The run ended before its first step: there is no answer."))
    parts.append(tag("div", *[_effect(result, e) for e in told], class_="cards"))
    if told and not result.truths:
        note = (
            f"This is what the design {told[0].design} answers, not the truth: mode compare "
            "measures how far the two are apart."
        )
        parts.append(tag("p", note, class_="notice"))
    if result.comparison:
        parts += [tag("p", x, class_="verdict") for x in verdicts.headline(result)]
        both = [_biased(result), _believed(result)]
        parts += both[::-1] if result.is_aa else both
    return section("answer", "The answer", *parts)


def _effect(result: RunResult, entry: Effect) -> Html:
    label = entry.label
    found = verdicts.effect(entry, result.relative(label), result.units.get(label, ""))
    whose = "Treating everybody" if entry.design == TRUTH else "The treatment"
    lines = [tag("p", f"{whose}{':' if found.kind != 'found' else ''} {found.words}.")]
    totals = [result.total(x, label) for x in ("GT", "GC", "GTE")]
    if None not in totals:
        treated, control, gte = (number(x) for x in totals)
        n = entry.n_worlds
        said = (
            f"Total {treated} treated, {control} in control: GTE {gte} (mean of {n} "
            f"replication{'' if n == 1 else 's'})."
        )
        lines.append(tag("p", said, class_="small"))
    title = result.titles.get(label, label)
    return tag("div", tag("h3", title), *lines, class_="card", data_label=label)


def _biased(result: RunResult) -> Html:
    judged = verdicts.verdicts(result)
    labels = [x for x in result.titles if any(x in v.reasons for v in judged)]
    names = [result.titles[x] for x in labels]
    own = Table.of("What is found of each design", "verdict", *names, first="design")
    for v in judged:
        reasons = [_list(f.words for f in v.reasons.get(label, ())) for label in labels]
        verdict = Cell(JUDGEMENTS[v.judgement], kind=f"is-{v.judgement}")
        own.add(v.design, verdict, *reasons, design=v.design)
    note = _BIAS_RULES.format(
        n=len(result.comparison), small=100 * SMALL, hidden=100 * HIDDEN, least=MIN_REPLICATIONS
    )
    return joined(
        [
            tag("h3", "Is the estimate biased?"),
            table(own, data_kind="words"),
            fold("How biases are judged", tag("p", note)),
        ]
    )


def _believed(result: RunResult) -> Html:
    found = verdicts.beliefs(result)
    if not found:
        return Html("")
    refuted, what = (
        ("its intervals exclude 0 in more than 5 % of tests, though both arms are the same",
         "exclude 0 too often")
        if result.is_aa
        else ("its intervals hold the truth in less than 95 % of tests",
              "hold the truth too rarely")
    )  # fmt: skip
    any_unjudged = ["not judged"] * any(x.unjudged for x in found)
    names = ["to believe", *any_unjudged, f"refuted: {what}"]
    own = Table.of("Interval methods of each design", *names, first="design")
    for x in found:
        shares = [
            f"{method} ({', '.join(f'{label} {100 * y:.0f} %' for label, y in of.items())})"
            for method, of in x.refuted.items()
        ]
        own.add(
            x.design,
            Cell(", ".join(x.believed) or "none", kind="" if x.believed else "is-biased"),
            *[", ".join(x.unjudged) or "-" for _ in any_unjudged],
            "; ".join(shares) or "-",
            design=x.design,
        )
    lacking = verdicts.not_run(found)
    note = f"Not run: {', '.join(lacking)} (experiment.intervals)." if lacking else ""
    how = _INTERVAL_RULES.format(refuted=refuted, least=verdicts.MIN_INTERVALS)
    return joined(
        [
            tag("h3", "Which intervals can be believed?"),
            table(own, data_kind="words"),
            tag("p", note, class_="small") if note else Html(""),
            fold("How intervals are judged", tag("p", how)),
        ]
    )


def _list(words: Iterable[str]) -> Cell:
    return Cell(tag("ul", *[tag("li", x) for x in words]))


# --- designs compared ----------------------------------------------------------------------------


def comparison(result: RunResult) -> Html:
    """For each label, the truth and how far each design's answers are from it."""
    if not result.comparison:
        return Html("")
    return section(
        "comparison",
        "Designs compared",
        *[table(own, sortable=True) for own in quality_tables(result)],
        *[tag("p", x, class_="small") for x in legends(result, "bold", has_more=True)],
        _intervals(result),
        _detectable(result),
    )


def _intervals(result: RunResult) -> Html:
    """Every interval method of every design, folded."""
    own = Table.of(
        "Every interval method", "label", "method", "coverage", "(95 % interval)", "excludes 0",
        "(95 % interval)", "trustworthy", first="design",
    )  # fmt: skip
    for e in result.inference:
        trusted = {True: "yes", False: "no", None: "too few to judge"}[e.trustworthy]
        own.add(
            e.design, result.titles.get(e.label, e.label), e.se_method,
            share(e.coverage), _range(e.coverage_low, e.coverage_high),
            share(e.reject_share), _range(e.reject_low, e.reject_high),
            Cell(trusted, kind="notable" if e.trustworthy is False else ""), design=e.design,
        )  # fmt: skip
    title = "Can the intervals be believed? Every method"
    return fold(title, table(own, sortable=True)) if own.rows else Html("")


def _range(low: float | None, high: float | None) -> str:
    return "-" if low is None or high is None else f"{100 * low:.0f} to {100 * high:.0f} %"


def _detectable(result: RunResult) -> Html:
    """What effect each design could detect, folded."""
    own = Table.of(
        "Least effect that 80 % of tests detect", "label", "true effect", "MDE reported",
        "MDE with true spread and bias", "power", first="design",
    )  # fmt: skip
    for e in result.plan:
        numbers = [Cell(number(x), x) for x in (e.effect, e.mde_reported, e.mde_honest)]
        label = result.titles.get(e.label, e.label)
        own.add(e.design, label, *numbers, share(e.power_at_effect), design=e.design)
    title = "What each design could detect"
    return fold(title, table(own, sortable=True)) if own.rows else Html("")


# --- charts --------------------------------------------------------------------------------------


def charts(panels: Sequence[Panel], designs: Sequence[str], labels: Mapping[str, str]) -> Html:
    """The charts behind their filters; the page's script draws them."""
    if not panels:
        return Html("")
    script = "Charts need JavaScript; the tables on this page do not."
    hint = "Drag to zoom, double-click to zoom out; a click on the legend hides a line."
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
        tag("p", hint, class_="small"),
        tag("div", *[_figure(panel) for panel in panels], class_="figures"),
    )


def _filter(title: str, what: str, options: Sequence[tuple[str, str]]) -> Html:
    """Check boxes that show and hide, where there is something to choose."""
    if len(options) < 2:
        return Html("")
    boxes = [
        tag("label", tag("input", type="checkbox", checked=True, data_filter=what, value=value),
            tag("span", name))
        for value, name in options
    ]  # fmt: skip
    return tag("fieldset", tag("legend", f"Show {title}"), *boxes)


def _figure(panel: Panel) -> Html:
    """A chart's place: its heading, choices, drawing, and its numbers as a table."""
    choices = [
        tag(
            "label",
            f"{name} ",
            tag(
                "select",
                *[tag("option", "truth" if v == TRUTH else v, value=v) for v in values],
                data_select=name,
            ),
        )
        for name, values in panel.choices.items()
    ]
    about = f"{panel.title}. {panel.summary}. The table below has the numbers."
    return tag(
        "figure",
        tag("h3", panel.title, id=f"{panel.key}-title"),
        tag("p", *choices, class_="choices") if choices else Html(""),
        tag("div", id=panel.key, class_="chart", role="img", aria_label=about),
        tag("figcaption", f"{panel.summary}."),
        tag("details", tag("summary", "Numbers"), class_="numbers", data_of=panel.key),
        data_label=panel.label or None,
        class_="chart-box",
    )


# --- diagnostics ---------------------------------------------------------------------------------


def diagnostics(result: RunResult) -> Html:
    """Warnings with what to do about each, and whether the test could show anything."""
    items = [
        tag(
            "li",
            tag("strong", w.code.replace("_", " ")), ": ", w.message,
            tag("p", tag("strong", "What to do: "), advice(w.code)),
        )
        for w in result.warnings
    ]  # fmt: skip
    warnings = tag("ul", *items, class_="warnings") if items else tag("p", "No warnings.")
    parts = [tag("h3", "Warnings"), warnings, tag("h3", "What the arms did"), _visits(result)]
    parts += [_score_shares(result), _weights(result), _metrics(result)]
    return section("diagnostics", "Diagnostics and warnings", *parts)


def _visits(result: RunResult) -> Html:
    found = result.diagnostics
    lost, units = found.get("share_of_visits_lost", {}), found.get("units_by_arm", {})
    own = Table.of(
        "Visits and units of all replications", "arms would pick different items", "visits lost",
        "units treated", "units in control", first="world",
    )  # fmt: skip
    for name, differ in found.get("share_of_visits_where_arms_differ", {}).items():
        n = [units.get(name, {}).get(arm) for arm in "TC"]
        shares = [share(differ, digits=1), share(lost.get(name), digits=1)]
        own.add(name, *shares, *(Cell("-" if x is None else f"{x:,}", x) for x in n))
    return table(own, sortable=True) if own.rows else Html("")


def _score_shares(result: RunResult) -> Html:
    shares = result.diagnostics.get("label_share_of_score_variance", {})
    labels = list(
        dict.fromkeys(x for arms in shares.values() for own in arms.values() for x in own)
    )
    title = "Each label's share of the scores' variance within slates"
    own = Table.of(title, *labels, first="world and arm")
    for name, arms in shares.items():
        for arm, of in arms.items():
            own.add(f"{name}, arm {arm}", *(share(of.get(x), digits=1) for x in labels))
    return fold(title, table(own)) if own.rows else Html("")


def _weights(result: RunResult) -> Html:
    names = list(dict.fromkeys(name for of in result.weights.values() for name in of))
    title = "Weight model: log loss should be below a constant's, mean weights near 1"
    own = Table.of(title, *(name.replace("_", " ") for name in names), first="design")
    for design, of in result.weights.items():
        own.add(design, *(Cell(number(of.get(name)), of.get(name)) for name in names))
    return table(own, sortable=True) if own.rows else Html("")


def _metrics(result: RunResult) -> Html:
    title = "Last value of every metric, averaged over worlds"
    own = Table.of(title, "model", "label", "split", "metric", "step", "value", first="design")
    for e in result.metrics_summary:
        if e.phase == "loop" and e.metric != "n_nonfinite":
            step, value = Cell(f"{e.step}", e.step), Cell(number(e.value), e.value)
            own.add(e.design, e.model, e.label, e.split, e.metric, step, value)
    return fold(title, table(own, sortable=True)) if own.rows else Html("")


# --- data, config, versions ----------------------------------------------------------------------


def data(result: RunResult) -> Html:
    """What the data set has in it."""
    rows = list(_flat(result.dataset_stats))
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
        text = f"{value:,}" if isinstance(value, int) else number(value)
        yield _plain(name), Cell(text, value)
    else:
        yield _plain(name), yaml.safe_dump(value, default_flow_style=True).strip()


def _plain(path: str) -> str:
    """A name as words; what has a dot is the name of a file."""
    parts = path.split(" / ")
    return " / ".join(x if "." in x else x.replace("_", " ") for x in parts)


def config(result: RunResult) -> Html:
    """The resolved config, folded."""
    text = yaml.safe_dump(result.raw["config"], sort_keys=False, allow_unicode=True)
    code = tag("pre", tag("code", text), tabindex="0")
    return section("config", "Config", fold("The resolved config (YAML)", code))


def about(result: RunResult) -> Html:
    """Versions, the device, and where the time went."""
    timing = [
        (name.replace("_", " "), "-" if value is None else Cell(number(value), value))
        for name, value in result.timing.items()
    ]
    device = [(f"device {name}", x) for name, x in result.raw.get("device", {}).items()]
    return section(
        "about",
        "Versions and timing",
        pairs("Timing", timing) if timing else Html(""),
        pairs("Versions and device", [*result.versions.items(), *device]),
    )
