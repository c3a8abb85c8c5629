"""The sections of the page that answer: the effect, which design to trust, and the tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from realdataexp.report import verdicts
from realdataexp.report.markup import Cell, Html, fold, joined, section, table, tag
from realdataexp.report.numbers import Scale, number, percent
from realdataexp.report.plots import label_title
from realdataexp.report.table import unit_of

_WORDS = {
    "trust": "trust",
    "unclear": "cannot be told",
    "doubtful": "doubtful",
    "distrust": "do not trust",
}
_LEGEND = (
    "bias: estimate minus truth on the same random numbers, ± its Monte-Carlo standard error; bold "
    "if more than 2 of these from 0. SD and RMSE: of a single test. SE / SD: what a test's own "
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
    """The answer first: the effect on each label, then which designs to trust."""
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
    judged = verdicts.verdicts(result)
    sentences = [tag("p", x, class_="verdict") for x in verdicts.headline(judged)]
    names = titles(result)
    labels = [x for x in names if any(x in v.reasons for v in judged)]
    rows, keys = [], []
    for v in judged:
        cells = [
            Cell(tag("ul", *[tag("li", f.words) for f in v.reasons.get(label, ()) if f.is_news]))
            for label in labels
        ]
        rows.append([v.design, Cell(_WORDS[v.trust], kind=f"is-{v.trust}"), *cells])
        keys.append(v.design)
    n = len(result["comparison"])
    note = (
        f"These words follow from fixed rules. A bias counts as found beyond "
        f"{verdicts.sure(n):.1f} Monte-Carlo standard errors: then {n} looks at designs without "
        "any bias show one in 5 % of runs at most. Beyond 2, which one such look shows in 5 %, it "
        "is doubtful. An unfound bias of over 20 % of the effect is said to be unclear, a found "
        "one of at most 5 % to be small. Intervals are bad where no method keeps its word; with "
        "fewer than 20 replications they are not judged."
    )
    header = ["design", "verdict", *(names[x] for x in labels)]
    heading = "Can the designs' intervals be trusted?" if is_aa(result) else "Which design to trust"
    return joined(
        [
            tag("h3", heading),
            *sentences,
            table("Why: what is found of each design", header, rows, keys=keys, data_kind="words"),
            fold("How these words come about", tag("p", note)),
        ]
    )


def comparison(result: dict[str, Any]) -> Html:
    """For each label, the truth and how far each design's answers are from it."""
    names = titles(result)
    shown = [_compared(result, label, names[label]) for label in names]
    if is_aa(result):
        shown += [_type_i_errors(result["inference"], label, names[label]) for label in names]
    legend = tag("p", _LEGEND, class_="small")
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
    rows += [_design_row(e, scale) for e in entries]
    header = [
        "design", "estimate", "bias", "± MC SE", "bias, % of effect", "SD", "RMSE", "SE / SD",
        "coverage", "wrong sign", "regret",
    ]  # fmt: skip
    rows[0] = [*rows[0], Cell("")]
    return table(
        f"{title}: effect per visit", header, rows, sortable=True, data_label=label,
        keys=["global", *(e["design"] for e in entries)],
    )  # fmt: skip


def _design_row(e: dict[str, Any], scale: Scale) -> list[Any]:
    b, s, gte = e["bias"], e["bias_mc_se"], e["gte"]
    is_notable = b is not None and s is not None and abs(b) > verdicts.NOTABLE * s
    share = 100 * b / abs(gte) if b is not None and gte else None
    return [
        e["design"],
        Cell(scale.text(e["estimate"]), e["estimate"]),
        Cell(scale.text(b), b, "notable" if is_notable else ""),
        Cell(scale.text(s), s),
        Cell(percent(share), share),
        Cell(scale.text(e["sd"]), e["sd"]),
        Cell(scale.text(e["rmse"]), e["rmse"]),
        Cell(number(e.get("se_ratio")), e.get("se_ratio")),
        _percent(e["coverage"]),
        _percent(e["sign_error_rate"]) if gte else Cell("-"),
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
        trusted = {True: "yes", False: "no", None: "too few to tell"}[e["trustworthy"]]
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
    header = ["design", "label", "true effect", "MDE told", "MDE with true spread and bias",
              "power"]  # fmt: skip
    shown = table("Least effect that 80 % of tests detect", header, rows, keys=keys, sortable=True)
    return fold("What each design could detect", shown)
