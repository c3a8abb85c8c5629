"""The sections of the page that answer: the effect, which designs are biased, and the tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from realdataexp.report import verdicts
from realdataexp.report.bias import (
    HIDDEN,
    MIN_REPLICATIONS,
    SMALL,
    is_significant,
    percent_of_effect,
    rule,
)
from realdataexp.report.markup import Cell, Html, fold, joined, section, table, tag
from realdataexp.report.numbers import Scale, number, percent
from realdataexp.report.plots import label_title
from realdataexp.report.table import unit_of

_WORDS = {
    "unbiased": "unbiased",
    "small": "small bias",
    "inconclusive": "inconclusive",
    "few": "not judged",
    "biased": "biased",
}
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
_LEGEND = (
    "bias: estimate minus truth on the same random numbers, ± its Monte-Carlo standard error; bold "
    "{rule}. bias, % of effect: bias / GTE; negative where the design understates the effect. SD "
    "and RMSE: of a single test. SE / SD: what a test's own "
    "standard error is of its true spread; should be 1. coverage: how often the 95 % interval of "
    "a single test holds the truth. wrong sign: single tests on the wrong side of 0. regret: mean "
    "cost per visit of launching where the interval lies above 0. A click on a header sorts."
)


def titles(result: dict[str, Any]) -> dict[str, str]:
    """What each label is called, with its unit."""
    return {x["name"]: label_title(x) for x in result["config"]["labels"]}


def is_aa(result: dict[str, Any]) -> bool:
    """Whether both arms of the run are the same."""
    return bool(result["config"]["experiment"].get("aa"))


def answer(result: dict[str, Any]) -> Html:
    """The answer first: the effect on each label, then which designs and intervals to believe."""
    parts: list[Html] = []
    if result["status"] != "complete":
        note = f"Partial: the run stopped after {result['n_steps_done']} steps."
        parts.append(tag("p", note, class_="notice"))
    told = [e for e in result["estimates"] if e["design"] == "global"] or result["estimates"]
    if not told:
        parts.append(tag("p", "The run ended before its first step: there is no answer."))
    parts.append(tag("div", *[_effect(result, e) for e in told], class_="cards"))
    if told and told[0]["design"] != "global":
        parts.append(
            tag(
                "p",
                f"This is what the design {told[0]['design']} answers, not the truth: mode compare "
                "measures how far the two are apart.",
                class_="notice",
            )
        )
    if result["comparison"]:
        parts.append(_verdicts(result))
    return section("answer", "The answer", *parts)


def _effect(result: dict[str, Any], entry: dict[str, Any]) -> Html:
    label = entry["label"]
    relative = result["gte_results"].get(f"GTE_{label}_relative")
    targets = {x["name"]: x["target"] for x in result["config"]["labels"]}
    found = verdicts.effect(entry, relative, unit_of(targets[label]))
    whose = "Treating everybody" if entry["design"] == "global" else "The treatment"
    verb = f"{whose}: " if found.kind != "found" else f"{whose} "
    totals = [result["gte_results"].get(f"{x}_{label}") for x in ("GT", "GC", "GTE")]
    lines = [tag("p", f"{verb}{found.words}.")]
    if None not in totals:
        treated, control, gte = (number(x) for x in totals)
        said = f"Total {treated} treated, {control} in control: GTE {gte}"
        n = entry["n_worlds"]
        said += f" (mean of {n} replication{'' if n == 1 else 's'})."
        lines.append(tag("p", said, class_="small"))
    return tag("div", tag("h3", titles(result)[label]), *lines, class_="card", data_label=label)


def _verdicts(result: dict[str, Any]) -> Html:
    """Apart from each other: which designs are biased, and which intervals can be believed."""
    sentences = [tag("p", x, class_="verdict") for x in verdicts.headline(result)]
    parts = [_biased(result), _believed(result)]
    return joined([*sentences, *(parts[::-1] if is_aa(result) else parts)])


def _biased(result: dict[str, Any]) -> Html:
    judged = verdicts.verdicts(result)
    names = titles(result)
    labels = [x for x in names if any(x in v.reasons for v in judged)]
    rows = [
        [
            v.design,
            Cell(_WORDS[v.judgement], kind=f"is-{v.judgement}"),
            *(_list(f.words for f in v.reasons.get(label, ())) for label in labels),
        ]
        for v in judged
    ]
    note = _BIAS_RULES.format(
        n=len(result["comparison"]), small=100 * SMALL, hidden=100 * HIDDEN, least=MIN_REPLICATIONS
    )
    header = ["design", "verdict", *(names[x] for x in labels)]
    keys = [v.design for v in judged]
    return joined(
        [
            tag("h3", "Is the estimate biased?"),
            table("What is found of each design", header, rows, keys=keys, data_kind="words"),
            fold("How biases are judged", tag("p", note)),
        ]
    )


def _believed(result: dict[str, Any]) -> Html:
    found = verdicts.beliefs(result)
    if not found:
        return Html("")
    refuted = (
        "its intervals exclude 0 in more than 5 % of tests, though both arms are the same"
        if is_aa(result)
        else "its intervals hold the truth in less than 95 % of tests"
    )
    any_unjudged = any(x.unjudged for x in found)
    rows = [
        [
            x.design,
            Cell(", ".join(x.believed) or "none", kind="" if x.believed else "is-biased"),
            *([Cell(", ".join(x.unjudged) or "-")] if any_unjudged else []),
            Cell("; ".join(_refuted(*item) for item in x.refuted.items()) or "-"),
        ]
        for x in found
    ]
    lacking = verdicts.not_run(found)
    note = f"Not run: {', '.join(lacking)} (experiment.intervals)." if lacking else ""
    how = _INTERVAL_RULES.format(refuted=refuted, least=verdicts.MIN_INTERVALS)
    what = "exclude 0 too often" if is_aa(result) else "hold the truth too rarely"
    unjudged = ["not judged"] if any_unjudged else []
    header = ["design", "to believe", *unjudged, f"refuted: {what}"]
    return joined(
        [
            tag("h3", "Which intervals can be believed?"),
            table("Interval methods of each design", header, rows, keys=[x.design for x in found],
                  data_kind="words"),
            tag("p", note, class_="small") if note else Html(""),
            fold("How intervals are judged", tag("p", how)),
        ]
    )  # fmt: skip


def _refuted(method: str, shares: dict[str, float]) -> str:
    return f"{method} ({', '.join(f'{label} {100 * x:.0f} %' for label, x in shares.items())})"


def _list(words: Iterable[str]) -> Cell:
    return Cell(tag("ul", *[tag("li", x) for x in words]))


def comparison(result: dict[str, Any]) -> Html:
    """For each label, the truth and how far each design's answers are from it."""
    names = titles(result)
    shown = [_compared(result, label, names[label]) for label in names]
    if is_aa(result):
        shown += [_type_i_errors(result["inference"], label, names[label]) for label in names]
    legend = tag("p", _LEGEND.format(rule=rule(result["comparison"])), class_="small")
    more = [_intervals(result), _detectable(result)]
    return section("comparison", "Designs compared", *shown, legend, *more)


def _compared(result: dict[str, Any], label: str, title: str) -> Html:
    entries = [e for e in result["comparison"] if e["label"] == label]
    if not entries:
        return Html("")
    scale = Scale.of(
        [e[k] for e in entries for k in ("gte", "estimate", "bias", "sd", "rmse")],
        [e["bias_mc_se"] for e in entries],
    )
    gte = entries[0]["gte"]
    dashes = [Cell("") for _ in range(8)]
    rows: list[list[Any]] = [["truth (GTE)", Cell(scale.text(gte), gte), *dashes]]
    rows += [_design_row(e, scale, len(result["comparison"])) for e in entries]
    header = [
        "design", "estimate", "bias", "± MC SE", "bias, % of effect", "SD", "RMSE", "SE / SD",
        "coverage", "wrong sign", "regret",
    ]  # fmt: skip
    rows[0] = [*rows[0], Cell("")]
    return table(
        f"{title}: effect per visit", header, rows, sortable=True, data_label=label,
        keys=["global", *(e["design"] for e in entries)],
    )  # fmt: skip


def _design_row(e: dict[str, Any], scale: Scale, n_biases: int) -> list[Any]:
    b, s, share = e["bias"], e["bias_mc_se"], percent_of_effect(e)
    return [
        e["design"],
        Cell(scale.text(e["estimate"]), e["estimate"]),
        Cell(scale.text(b), b, "notable" if is_significant(e, n_biases) else ""),
        Cell(scale.text(s), s),
        Cell(percent(share), share),
        Cell(scale.text(e["sd"]), e["sd"]),
        Cell(scale.text(e["rmse"]), e["rmse"]),
        Cell(number(e.get("se_ratio")), e.get("se_ratio")),
        _percent(e["coverage"]),
        _percent(e["sign_error_rate"]) if e["gte"] else Cell("-"),
        Cell(number(e.get("regret")), e.get("regret")),
    ]


def _percent(share: float | None, kind: str = "") -> Cell:
    return Cell("-" if share is None else f"{100 * share:.0f} %", share, kind)


def _type_i_errors(inference: Sequence[dict[str, Any]], label: str, title: str) -> Html:
    """An A/A test: how often each design's intervals exclude 0, by method."""
    own = [e for e in inference if e["label"] == label]
    methods = list(dict.fromkeys(e["se_method"] for e in own))
    designs = list(dict.fromkeys(e["design"] for e in own))
    at = {(e["design"], e["se_method"]): e for e in own}
    rows: list[list[Any]] = []
    for design in designs:
        found = [at.get((design, method)) for method in methods]
        cells = [
            _percent(e["reject_share"], "notable" if e["trustworthy"] is False else "")
            if e
            else Cell("-")
            for e in found
        ]
        rows.append([design, *cells])
    return table(
        f"{title}: type-I error by interval method; bold if more than 5 %, beyond chance",
        ["design", *methods], rows, keys=designs, sortable=True, data_label=label,
    )  # fmt: skip


def _intervals(result: dict[str, Any]) -> Html:
    """Every interval method of every design, folded."""
    rows, keys = [], []
    names = titles(result)
    for e in result.get("inference", ()):
        trusted = {True: "yes", False: "no", None: "too few to judge"}[e["trustworthy"]]
        rows.append(
            [
                e["design"], names.get(e["label"], e["label"]), e["se_method"],
                _percent(e["coverage"]), _range(e, "coverage"), _percent(e["reject_share"]),
                _range(e, "reject"),
                Cell(trusted, kind="notable" if e["trustworthy"] is False else ""),
            ]
        )  # fmt: skip
        keys.append(e["design"])
    if not rows:
        return Html("")
    header = ["design", "label", "method", "coverage", "(95 % interval)", "excludes 0",
              "(95 % interval)", "trustworthy"]  # fmt: skip
    shown = table("Every interval method", header, rows, keys=keys, sortable=True)
    return fold("Can the intervals be believed? Every method", shown)


def _range(e: dict[str, Any], key: str) -> str:
    low, high = e[f"{key}_low"], e[f"{key}_high"]
    return "-" if low is None else f"{100 * low:.0f} to {100 * high:.0f} %"


def _detectable(result: dict[str, Any]) -> Html:
    """What effect each design could detect, folded."""
    rows, keys = [], []
    names = titles(result)
    for e in result.get("plan", ()):
        numbers = [Cell(number(e[k]), e[k]) for k in ("effect", "mde_reported", "mde_honest")]
        power = _percent(e["power_at_effect"])
        rows.append([e["design"], names.get(e["label"], e["label"]), *numbers, power])
        keys.append(e["design"])
    if not rows:
        return Html("")
    header = ["design", "label", "true effect", "MDE reported", "MDE with true spread and bias",
              "power"]  # fmt: skip
    shown = table("Least effect that 80 % of tests detect", header, rows, keys=keys, sortable=True)
    return fold("What each design could detect", shown)
