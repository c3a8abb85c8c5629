"""Words that follow from the numbers of a result, by these rules and no others.

**The effect** (`effect`): of the truth, or of the one design of a run.

- no estimate: "no answer".
- no interval (one replication): the estimate, and that its error is unknown.
- the 95 % interval excludes 0: "raises" or "lowers". Otherwise: "no effect found".
- both ends of the interval are 0 (an A/A test): "no effect, by construction".

**Is a design's estimate biased?** (`bias`), for each label by the kind that ``bias.kind`` gives:
"overstates" where the mean estimate is on the truth's side of 0 and further out, "understates"
where it is nearer, "turns the sign" where it is on the other side; "off" where the truth is 0.
What is not decided says about how many replications would decide. More than 5 % of single tests on
the wrong side of 0 are said (`signs`).

The verdict on a design (`verdicts`) is the last of these that one of its labels has: `unbiased`,
`small` (a bias of at most 5 % of the effect), `inconclusive`, `few` (not judged), `biased`. Among
equal ones, the design with the smallest RMSE (summed over labels, each in units of the smallest) is
named first.

**Which of its intervals can be believed?** (`beliefs`), apart from that: an interval method that
was run is believed where the result calls it trustworthy (not shown to cover less, or in an A/A
test to err more often, than it claims) for some label and untrustworthy for none. With fewer than
20 intervals it is not judged.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from realdataexp.config import INTERVALS
from realdataexp.report.bias import (
    MANY,
    SMALL,
    degrees_of_freedom,
    enough,
    interval,
    kind,
    percent_of_effect,
)
from realdataexp.report.numbers import Scale, number, percent

MIN_INTERVALS, WRONG_SIGNS = 20, 0.05

Judgement = Literal["unbiased", "small", "inconclusive", "few", "biased"]
_ORDER: tuple[Judgement, ...] = ("unbiased", "small", "inconclusive", "few", "biased")
JUDGEMENTS: dict[str, Judgement] = {  # by the kind of a bias
    "none": "unbiased",
    "small": "small",
    "doubtful": "inconclusive",
    "unclear": "inconclusive",
    "few": "few",
    "unknown": "few",
    "found": "biased",
}


@dataclass(frozen=True)
class Finding:
    """What is found: a kind of the rules, and words."""

    kind: str
    words: str


@dataclass(frozen=True)
class Verdict:
    """A design, whether its estimate is biased, and why: for each label its findings.

    Attributes:
        enough: about how many replications (or starting models) would decide, where not decided.
    """

    design: str
    judgement: Judgement
    reasons: dict[str, tuple[Finding, ...]]
    enough: tuple[int, str] | None


@dataclass(frozen=True)
class Belief:
    """A design's interval methods that were run: to be believed, refuted, and not judged.

    Attributes:
        refuted: for each method, the share of each label that refutes it.
    """

    design: str
    believed: tuple[str, ...]
    refuted: dict[str, dict[str, float]]
    unjudged: tuple[str, ...]


def effect(entry: dict[str, Any], relative: float | None = None, unit: str = "") -> Finding:
    """What an entry of ``estimates`` says of the effect.

    Args:
        entry: of ``estimates``.
        relative: the effect in percent of control.
        unit: the outcome's, such as ms.
    """
    value, low, high = (entry[k] for k in ("value", "ci_low", "ci_high"))
    if value is None:
        return Finding("unknown", "no answer: no replication has outcomes in both arms")
    scale = Scale.of([value], [entry["se"]])
    share = "" if relative is None else f" ({percent(relative)})"
    of_visit = f" {unit} per visit" if unit else " per visit"
    amount = f"by {scale.text(abs(value))}{of_visit}{share}"
    if low is None or high is None:
        way = "higher" if value > 0 else "lower"
        return Finding(
            "unknown",
            f"{way} {amount}, with an unknown error: there is one replication",
        )
    if low == high == 0:
        return Finding("none", "no effect, by construction: both arms are the same")
    interval = f"95 % interval {scale.text(low)} to {scale.text(high)}"
    if low <= 0 <= high:
        return Finding("none", f"no effect found: {scale.text(value)}{of_visit}, {interval}")
    return Finding("found", f"{'raises' if value > 0 else 'lowers'} it {amount}, {interval}")


def bias(entry: dict[str, Any], n_biases: int = 1) -> Finding:
    """What an entry of ``comparison``, one of so many, says of a design's bias."""
    b, s, gte, found = entry["bias"], entry["bias_mc_se"], entry["gte"], kind(entry, n_biases)
    if b is None:
        return Finding(found, "no answer: no replication has an estimate")
    if s is None:
        return Finding(found, f"bias {number(b)}, with an unknown error: there is one replication")
    scale = Scale.of([b, gte], [s])
    size = f"bias {scale.text(b)} ± {scale.text(s)}"
    needed = enough(entry, n_biases)
    more = "" if needed is None else f"; {replications(*needed)} would decide"
    if found == "few":
        n = degrees_of_freedom(entry) + 1
        what = "replications" if n == entry["n_worlds"] else f"starting model{'s' * (n > 1)}"
        return Finding(found, f"not judged with {n} {what} ({size}){more}")
    if found == "doubtful":
        chance = f"perhaps by chance, as one of the {n_biases} biases of this run"
        return Finding(found, f"{_direction(entry)} ({size}), {chance}{more}")
    if found in ("found", "small"):
        return Finding(found, f"{_direction(entry)} ({size})")
    ends = interval(entry, n_biases) or (b, b)
    largest = max(map(abs, ends))
    share = f", {_percent(100 * largest / abs(gte))} of the effect" if gte else ""
    most = f"{scale.text(largest)}{share}"
    if found == "none":
        return Finding(found, f"no bias found; at most {most}")
    return Finding(found, f"{size}; up to {most}, is not excluded{more}")


def replications(n: int, unit: str) -> str:
    """How many of them, about."""
    return f"{'over' if n >= MANY else 'about'} {n:,} {unit}"


def _percent(share: float) -> str:
    return f"{share:,.0f} %" if share >= 10 else f"{share:.2g} %"


def _direction(entry: dict[str, Any]) -> str:
    share = percent_of_effect(entry)
    if share is None:
        return "off, where there is no effect"
    if share < -100:
        return f"turns the sign, at {percent(share)} of the effect"
    return f"{'overstates' if share > 0 else 'understates'} the effect by {_percent(abs(share))}"


def signs(entry: dict[str, Any]) -> Finding | None:
    """Single tests on the wrong side of 0, where there are many."""
    rate = entry["sign_error_rate"]
    if not entry["gte"] or rate is None or rate <= WRONG_SIGNS:
        return None
    return Finding("signs", f"{100 * rate:.0f} % of single tests have the wrong sign")


def verdicts(result: dict[str, Any]) -> list[Verdict]:
    """Whether each design of a result of mode compare is biased, the best first."""
    comparison = result["comparison"]
    n = len(comparison)
    judged = []
    for design in dict.fromkeys(e["design"] for e in comparison):
        own = [e for e in comparison if e["design"] == design]
        worst = max((JUDGEMENTS[kind(e, n)] for e in own), key=_ORDER.index)
        found = {e["label"]: (bias(e, n), signs(e)) for e in own}
        reasons = {label: tuple(x for x in said if x) for label, said in found.items()}
        needed = [x for e in own if (x := enough(e, n))]
        judged.append(Verdict(design, worst, reasons, max(needed, default=None)))
    errors = _errors(comparison)
    return sorted(judged, key=lambda v: (_ORDER.index(v.judgement), errors.get(v.design, 0.0)))


def _errors(comparison: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Each design's RMSE, summed over labels in units of the smallest."""
    out: dict[str, float] = {}
    for label in dict.fromkeys(e["label"] for e in comparison):
        own = {e["design"]: e["rmse"] for e in comparison if e["label"] == label and e["rmse"]}
        for design, rmse in own.items():
            out[design] = out.get(design, 0.0) + rmse / min(own.values())
    return out


def beliefs(result: dict[str, Any]) -> list[Belief]:
    """Which of each design's interval methods can be believed, in the order of the result."""
    share = "reject_share" if result["config"]["experiment"].get("aa") else "coverage"
    entries = result.get("inference", ())
    out = []
    for design in dict.fromkeys(e["design"] for e in entries):
        own = [e for e in entries if e["design"] == design]
        judged = {
            method: [e for e in own if e["se_method"] == method and e["trustworthy"] is not None]
            for method in dict.fromkeys(e["se_method"] for e in own)
        }
        refuted = {
            method: {e["label"]: e[share] for e in found if not e["trustworthy"]}
            for method, found in judged.items()
        }
        out.append(
            Belief(
                design,
                tuple(x for x, found in judged.items() if found and not refuted[x]),
                {method: shares for method, shares in refuted.items() if shares},
                tuple(method for method, found in judged.items() if not found),
            )
        )
    return out


def not_run(found: Iterable[Belief]) -> list[str]:
    """Interval methods that no design has."""
    run = {method for x in found for method in (*x.believed, *x.refuted, *x.unjudged)}
    return [method for method in INTERVALS if method not in run]


def headline(result: dict[str, Any]) -> list[str]:
    """Sentences that say which designs are biased, and which intervals can be believed."""
    return [*_of_biases(verdicts(result)), *_of_intervals(beliefs(result))]


def _of_biases(judged: Sequence[Verdict]) -> list[str]:
    starts: dict[Judgement, str] = {
        "unbiased": "Unbiased as far as these replications can tell",
        "small": f"Biased by at most {100 * SMALL:g} % of the effect",
        "biased": "Biased",
        "inconclusive": "Inconclusive",
        "few": "Too few replications to judge",
    }
    out = []
    for judgement, start in starts.items():
        own = [v for v in judged if v.judgement == judgement]
        if own:
            needed = max((v.enough for v in own if v.enough), default=None)
            is_open = judgement in ("inconclusive", "few") and needed
            more = f"; {replications(*needed)} would decide" if is_open and needed else ""
            out.append(f"{start}: {', '.join(v.design for v in own)}{more}.")
    return out


def _of_intervals(found: Sequence[Belief]) -> list[str]:
    groups: dict[str, list[str]] = {}
    for x in found:
        n = len(x.believed) + len(x.refuted)
        if not n:
            continue
        if n > 1 and len(x.believed) in (0, n):
            said = f"{'all' if x.believed else 'none of the'} {n} run"
        else:
            said = ", ".join(x.believed) or f"not {min(x.refuted)}, the only one run"
        groups.setdefault(said, []).append(x.design)
    if not groups:
        return [f"Intervals are not judged: that takes {MIN_INTERVALS} replications."]
    told = "; ".join(f"{', '.join(designs)}: {said}" for said, designs in groups.items())
    lacking = not_run(found)
    return [
        f"Intervals to believe: {told}.",
        *([f"Interval methods not run: {', '.join(lacking)}."] if lacking else []),
    ]
