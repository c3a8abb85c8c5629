"""Words that follow from the numbers of a result, by these rules and no others.

**The effect** (`effect`): of the truth, or of the one design of a run.

- no estimate: "no answer".
- no interval (one replication): the estimate, and that its error is unknown.
- the 95 % interval excludes 0: "raises" or "lowers". Otherwise: "no effect found".
- both ends of the interval are 0 (an A/A test): "no effect, by construction".

**A design's bias for a label** (`bias`), with b its mean distance from the truth, s the Monte-Carlo
standard error of b, and the limit |b| + 2 s, which a bias hardly exceeds:

1. `unknown`: no b, or no s (one replication).
2. `found`: |b| > z s, with z the Bonferroni limit of 5 % over all looks of the run (designs
   times labels; 2.8 for ten) and at least 2, and the limit is more than 5 % of the effect:
   "overstates" where the mean estimate is on the truth's side of 0 and further out,
   "understates" where it is nearer, "turns the sign" where it is on the other side. Where the
   truth is 0, "off". `doubtful`: the same, but |b| is only between 2 s and z s, as one of so many
   looks too often is by chance.
3. `small`: |b| > 2 s, but the limit is at most 5 % of the effect.
4. `none`: |b| <= 2 s and the limit is at most 20 % of the effect, or the effect is 0 (A/A).
5. `unclear`: |b| <= 2 s, but a bias up to the limit, more than 20 % of the effect, could hide.

**Its intervals** (`intervals`), by the exact binomial interval that the replications give the
coverage of Welch's 95 % interval (in an A/A test: its type-I error), and by what the result says
of each interval method (`trustworthy`: not shown to cover less, or to err more, than it claims):

- fewer than 20 intervals: `unknown`, which the headline says; in an A/A test `unclear`.
- `bad`: no method is trustworthy.
- `good`: one is. Where Welch's is not, the words name those to use instead.

**Its sign errors**: more than 5 % of single tests on the wrong side of 0 are said.

**The verdict on a design** (`verdicts`), over its labels: `distrust` where any bias is `found` or
any interval `bad`; else `doubtful` where any bias is that; else `unclear` where any bias or
interval is `unclear` or any bias `unknown`; else `trust`. Among those to trust, the one with the
smallest RMSE (summed over labels, each in units of the smallest) is named first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from scipy.stats import norm

from realdataexp.report.numbers import Scale, number, percent

NOTABLE = 2.0  # Monte-Carlo standard errors
FALSE_FINDS = 0.05  # chance that a run without any bias shows one, over all its looks
SMALL, HIDDEN = 0.05, 0.2  # shares of the effect
MIN_INTERVALS, WRONG_SIGNS = 20, 0.05

Trust = Literal["trust", "unclear", "doubtful", "distrust"]


@dataclass(frozen=True)
class Finding:
    """What is found: a kind of the rules, words, and whether they are worth saying."""

    kind: str
    words: str
    is_news: bool = True


@dataclass(frozen=True)
class Verdict:
    """A design, whether to trust it, and why: for each label its findings."""

    design: str
    trust: Trust
    reasons: dict[str, tuple[Finding, ...]]


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
            f"{way} {amount}, with an error that one replication cannot tell",
        )
    if low == high == 0:
        return Finding("none", "no effect, by construction: both arms are the same")
    interval = f"95 % interval {scale.text(low)} to {scale.text(high)}"
    if low <= 0 <= high:
        return Finding("none", f"no effect found: {scale.text(value)}{of_visit}, {interval}")
    return Finding("found", f"{'raises' if value > 0 else 'lowers'} it {amount}, {interval}")


def bias(entry: dict[str, Any], n_looks: int = 1) -> Finding:
    """What an entry of ``comparison``, one of so many, says of a design's bias."""
    b, s, gte = entry["bias"], entry["bias_mc_se"], entry["gte"]
    if b is None:
        return Finding("unknown", "no answer: no replication has an estimate")
    if s is None:
        return Finding("unknown", f"bias {number(b)}, with an error that one replication hides")
    scale = Scale.of([b, gte], [s])
    limit = abs(b) + NOTABLE * s
    size = f"{scale.text(abs(b))} ± {scale.text(s)}{_share(abs(b), gte)}"
    if abs(b) > NOTABLE * s:
        if gte and limit <= SMALL * abs(gte):
            return Finding("small", f"a small bias: off by {size}")
        if abs(b) <= sure(n_looks) * s:
            chance = f"perhaps by chance, as the run has {n_looks} such looks"
            return Finding("doubtful", f"{_direction(entry)} by {size}, {chance}")
        return Finding("found", f"{_direction(entry)} by {size}")
    could = f"no bias found (could be up to {scale.text(limit)}{_share(limit, gte)})"
    if gte and limit > HIDDEN * abs(gte):
        return Finding("unclear", f"{could}: more replications would tell")
    return Finding("none", could)


def sure(n_looks: int) -> float:
    """Standard errors beyond which one of so many looks is hardly chance (Bonferroni)."""
    return max(NOTABLE, float(norm.isf(FALSE_FINDS / 2 / n_looks)))


def _share(size: float, gte: float | None) -> str:
    if not gte:
        return ""
    share = 100 * size / abs(gte)
    return f", {share:,.0f} % of the effect" if share >= 10 else f", {share:.2g} % of the effect"


def _direction(entry: dict[str, Any]) -> str:
    gte, estimate = entry["gte"], entry["estimate"]
    if not gte:
        return "off, where there is no effect,"
    if estimate * gte < 0:
        return "turns the sign: off"
    return "overstates the effect" if abs(estimate) > abs(gte) else "understates the effect"


def intervals(entries: Sequence[dict[str, Any]], is_aa: bool) -> Finding:
    """What the entries of ``inference`` of a design and label, one for each method, say."""
    key, share = ("reject", "reject_share") if is_aa else ("coverage", "coverage")
    welch = next((e for e in entries if e["se_method"] == "welch"), None)
    n = welch["n_intervals"] if welch else 0
    if welch is None or n < MIN_INTERVALS or welch[share] is None:
        words = f"too few intervals ({n}) to judge them"
        return Finding("unclear" if is_aa else "unknown", words, is_news=is_aa)
    low, high = welch[f"{key}_low"], welch[f"{key}_high"]
    found = f"{100 * welch[share]:.0f} % ({100 * low:.0f} to {100 * high:.0f} %)"
    what = "exclude 0" if is_aa else "hold the truth"
    words = f"its 95 % intervals (Welch's) {what} in {found} of tests"
    if welch["trustworthy"] is not False:
        return Finding("good", words)
    words += ": too often" if is_aa else ": too rarely"
    better = [e["se_method"] for e in entries if e["trustworthy"]]
    if better:
        return Finding("good", f"{words}; better {_listed(better, 'or')}")
    return Finding("bad", f"{words}, and no other method does better")


def signs(entry: dict[str, Any]) -> Finding | None:
    """Single tests on the wrong side of 0, where there are many."""
    rate = entry["sign_error_rate"]
    if not entry["gte"] or rate is None or rate <= WRONG_SIGNS:
        return None
    return Finding("signs", f"{100 * rate:.0f} % of tests point the wrong way")


def verdicts(result: dict[str, Any]) -> list[Verdict]:
    """The verdict on each design of a result of mode compare, the best first."""
    is_aa = bool(result["config"]["experiment"].get("aa"))
    methods: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for e in result.get("inference", ()):
        methods.setdefault((e["design"], e["label"]), []).append(e)
    reasons: dict[str, dict[str, tuple[Finding, ...]]] = {}
    for e in result["comparison"]:
        n = len(result["comparison"])
        found = [bias(e, n), intervals(methods.get((e["design"], e["label"]), ()), is_aa), signs(e)]
        told = tuple(x for x in found if x is not None)
        reasons.setdefault(e["design"], {})[e["label"]] = told
    judged = [Verdict(design, _trust(by_label), by_label) for design, by_label in reasons.items()]
    errors = _errors(result["comparison"])
    order = ("trust", "unclear", "doubtful", "distrust")
    return sorted(judged, key=lambda v: (order.index(v.trust), errors.get(v.design, 0.0)))


def _trust(by_label: dict[str, tuple[Finding, ...]]) -> Trust:
    kinds = [(label[0].kind, label[1].kind) for label in by_label.values()]
    if any(of_bias == "found" or of_interval == "bad" for of_bias, of_interval in kinds):
        return "distrust"
    if any(of_bias == "doubtful" for of_bias, _ in kinds):
        return "doubtful"
    doubts = [x in ("unknown", "unclear") or y == "unclear" for x, y in kinds]
    return "unclear" if any(doubts) else "trust"


def _errors(comparison: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Each design's RMSE, summed over labels in units of the smallest."""
    out: dict[str, float] = {}
    for label in dict.fromkeys(e["label"] for e in comparison):
        own = {e["design"]: e["rmse"] for e in comparison if e["label"] == label and e["rmse"]}
        for design, rmse in own.items():
            out[design] = out.get(design, 0.0) + rmse / min(own.values())
    return out


def headline(judged: Sequence[Verdict]) -> list[str]:
    """Sentences that say which designs to trust and which not."""
    named = {
        trust: [v.design for v in judged if v.trust == trust]
        for trust in ("trust", "unclear", "doubtful", "distrust")
    }
    out = []
    if named["trust"]:
        first, others = named["trust"][0], named["trust"][1:]
        also = f"; {_listed(others)} too" if others else ""
        out.append(f"Trust {first}{also}.")
    if named["distrust"]:
        out.append(f"Do not trust {_listed(named['distrust'])}.")
    if named["doubtful"]:
        out.append(f"Doubtful: {_listed(named['doubtful'])}, whose bias may be chance.")
    if named["unclear"]:
        out.append(f"These replications cannot tell about {_listed(named['unclear'])}.")
    if any(found[1].kind == "unknown" for v in judged for found in v.reasons.values()):
        out.append(f"Intervals are not judged: that takes {MIN_INTERVALS} replications.")
    return out


def _listed(names: Sequence[str], last: str = "and") -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} {last} {names[-1]}"
