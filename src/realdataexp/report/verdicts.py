"""Judgements and words that follow from the numbers of a result by fixed rules.

The effect (`effect`) is found where its 95 % interval excludes 0. Whether a design's estimate is
biased (`Bias`, `verdicts`) is one rule for words, stars, bold figures and charts: docs/designs.md
states it. A run looks at n biases, designs times labels. Without a bias, ``bias`` over
``bias_mc_se`` is Student's t with ``bias_df`` degrees of freedom; so a bias is statistically
significant where its interval bias ± t s excludes 0, with t the limit of 5 % / n (Bonferroni): at
most 5 % of runs without any bias show one, whatever n, the number of replications and the
correlation of the designs. Apart from that, an interval method can be believed (`beliefs`) where
the result calls it trustworthy for some label and untrustworthy for none.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

from scipy import stats

from realdataexp.registry import names
from realdataexp.report.files import Compared, Effect, IntervalQuality, RunResult
from realdataexp.report.numbers import Scale, number, percent

FALSE_FINDS = 0.05  # chance that a run without any bias shows one, over all its biases
SMALL, HIDDEN = 0.05, 0.2  # shares of the effect
MIN_REPLICATIONS, MANY = 5, 100_000
MIN_INTERVALS, WRONG_SIGNS = 20, 0.05
INTERVAL_OF_BIAS = (
    "An interval that excludes 0 is a bias found: the {n} of this run all hold their bias in 95 % "
    "of runs"
)
_SURE = float(stats.norm.ppf(0.9))  # so that a bias of 0 is then excluded in 80 % of runs

Judgement = Literal["unbiased", "small", "inconclusive", "few", "biased"]
# what each is called, the best first
JUDGEMENTS: dict[Judgement, str] = {
    "unbiased": "unbiased",
    "small": "small bias",
    "inconclusive": "inconclusive",
    "few": "not judged",
    "biased": "biased",
}
_ORDER = list(JUDGEMENTS)
_HEADLINES: dict[Judgement, str] = {
    "unbiased": "Unbiased as far as these replications can tell",
    "small": f"Biased by at most {100 * SMALL:g} % of the effect",
    "biased": "Biased",
    "inconclusive": "Inconclusive",
    "few": "Too few replications to judge",
}
Kind = Literal["unknown", "few", "found", "small", "doubtful", "none", "unclear"]
_JUDGEMENT_OF: dict[Kind, Judgement] = {
    "none": "unbiased", "small": "small", "doubtful": "inconclusive", "unclear": "inconclusive",
    "few": "few", "unknown": "few", "found": "biased",
}  # fmt: skip


def limit(df: float, n_biases: int = 1) -> float:
    """Standard errors beyond which one of so many biases is statistically significant.

    Examples:
        >>> round(limit(39), 2), round(limit(39, n_biases=10), 2)
        (2.02, 2.98)
    """
    return float(stats.t.isf(FALSE_FINDS / 2 / n_biases, df))


@dataclass(frozen=True)
class Bias:
    """What is known of one of the ``n_biases`` biases of a run: an entry of ``comparison``."""

    entry: Compared
    n_biases: int = 1

    @property
    def df(self) -> int:
        """Degrees of freedom of ``bias_mc_se``; earlier versions have replications - 1."""
        df = self.entry.bias_df
        return self.entry.n_worlds - 1 if df is None else df

    @cached_property
    def interval(self) -> tuple[float, float] | None:
        """The interval that decides; None where there are too few replications."""
        b, s = self.entry.bias, self.entry.bias_mc_se
        if b is None or s is None or self.df + 1 < MIN_REPLICATIONS:
            return None
        half = limit(self.df, self.n_biases) * s
        return b - half, b + half

    @cached_property
    def kind(self) -> Kind:
        """What its interval and the truth decide.

        ``unknown``: no bias, or no standard error. ``few``: too few replications. ``found``: the
        interval excludes 0. ``small``: so it does, but it holds no bias of more than 5 % of the
        effect. ``none``: it holds 0, and no bias of more than 20 % of the effect. ``unclear``: it
        holds both. ``doubtful``: it holds 0, but would not if this had been the run's only bias
        (and none of 5 % is excluded).
        """
        b, s, gte = self.entry.bias, self.entry.bias_mc_se, self.entry.gte
        if b is None or s is None:
            return "unknown"
        if self.interval is None:
            return "few"
        largest, effect = max(map(abs, self.interval)), abs(gte or 0.0)
        is_small = effect > 0 and largest <= SMALL * effect
        if self.interval[0] > 0 or self.interval[1] < 0:
            return "small" if is_small else "found"
        if is_small:
            return "none"
        if abs(b) > limit(self.df) * s:
            return "doubtful"
        return "unclear" if effect and largest > HIDDEN * effect else "none"

    @property
    def judgement(self) -> Judgement:
        """The verdict on the design, were this its only label."""
        return _JUDGEMENT_OF[self.kind]

    @property
    def is_significant(self) -> bool:
        """Whether it is statistically significant: gets a star, is bold."""
        return self.kind in ("found", "small")

    @property
    def percent_of_effect(self) -> float | None:
        """100 bias / GTE: below 0 the design understates the effect, below -100 turns its sign."""
        b, gte = self.entry.bias, self.entry.gte
        return 100.0 * b / gte if b is not None and gte else None

    @cached_property
    def enough(self) -> tuple[int, str] | None:
        """About how many replications would decide, where it is not decided, and what they are.

        So many that a bias of 20 % of the effect is then found, or excluded where there is none, in
        80 % of runs or more, as the standard error falls with the root of their number; where that
        many have not decided it, or for a ``doubtful`` bias: so many that decide if it is what it
        now seems. Rounded to two digits. Where the degrees of freedom are those of starting models,
        it is these that are too few. None where it is decided, or where nothing tells; at most
        ``MANY``.
        """
        b, s = self.entry.bias, self.entry.bias_mc_se
        if b is None or s is None or self.kind not in ("few", "doubtful", "unclear"):
            return None
        b, n, hidden = abs(b), self.df + 1, HIDDEN * abs(self.entry.gte or 0.0)
        aims = {"doubtful": [b], "unclear": [hidden, max(b, hidden - b)], "few": [hidden]}
        halves = [half for half in aims[self.kind] if half > 0]
        needed = [_needed(s * math.sqrt(n), half, self.n_biases) for half in halves]
        most = next((x for x in needed if x > n), None)
        if self.kind == "few":
            most = max(MIN_REPLICATIONS, most or 0)
        unit = "replications" if n == self.entry.n_worlds else "starting models"
        return None if most is None else (_rounded(most), unit)

    @property
    def words(self) -> str:
        """What is found."""
        b, s, gte = self.entry.bias, self.entry.bias_mc_se, self.entry.gte
        if b is None:
            return "no answer: no replication has an estimate"
        if s is None:
            return f"bias {number(b)}, with an unknown error: there is one replication"
        scale = Scale.of([b, gte], [s])
        size = f"bias {scale.text(b)} ± {scale.text(s)}"
        more = "" if self.enough is None else f"; {_about(*self.enough)} would decide"
        if self.kind == "few":
            n = self.df + 1
            what = "replications" if n == self.entry.n_worlds else f"starting model{'s' * (n > 1)}"
            return f"not judged with {n} {what} ({size}){more}"
        chance = f", perhaps by chance, as one of the {self.n_biases} biases of this run{more}"
        if self.is_significant or self.kind == "doubtful":
            return f"{self._direction()} ({size}){chance if self.kind == 'doubtful' else ''}"
        largest = max(map(abs, self.interval or (b,)))
        share = f", {_percent(100 * largest / abs(gte))} of the effect" if gte else ""
        most = f"{scale.text(largest)}{share}"
        if self.kind == "none":
            return f"no bias found; at most {most}"
        return f"{size}; up to {most}, is not excluded{more}"

    @property
    def in_short(self) -> str:
        """What is found, in a few words for whoever decides."""
        if self.kind in ("unknown", "few"):
            return "too few replications to judge"
        if self.kind == "none":
            return "no bias found"
        if self.kind != "unclear":
            chance = ", perhaps by chance" if self.kind == "doubtful" else ""
            return f"{self._direction()}{chance}"
        more = "" if self.enough is None else f": {_about(*self.enough)} would decide"
        return f"inconclusive{more}"

    def _direction(self) -> str:
        share = self.percent_of_effect
        if share is None:
            return "off, where there is no effect"
        if share < -100:
            return f"turns the sign, at {percent(share)} of the effect"
        way = "overstates" if share > 0 else "understates"
        return f"{way} the effect by {_percent(abs(share))}"


def biases(result: RunResult, label: str | None = None) -> list[Bias]:
    """Every bias of a result, or those of a label."""
    n = len(result.comparison)
    return [Bias(e, n) for e in result.comparison if label in (None, e.label)]


class Glance(NamedTuple):
    """A design beside the truth: places are percents of the width of a chart."""

    design: str
    judgement: Judgement
    words: str
    mean: float
    low: float  # one standard deviation of a single test below the mean, and above
    high: float


class Glances(NamedTuple):
    """Designs beside the truth, for whoever decides by it."""

    truth: float
    no_effect: float
    rows: list[Glance]


def glances(result: RunResult, label: str) -> Glances | None:
    """What tests of each design report of a label, beside the truth and no effect.

    None where there is no truth, or no design has an answer.
    """
    truth = next((e.value for e in result.truths if e.label == label), None)
    known = [x for x in biases(result, label) if x.entry.estimate is not None]
    if truth is None or not known:
        return None
    spans = [(x.entry.estimate or 0.0, x.entry.sd or 0.0) for x in known]
    ends = [0.0, truth, *(m - sd for m, sd in spans), *(m + sd for m, sd in spans)]
    room = 0.04 * (max(ends) - min(ends)) or 1.0
    low, width = min(ends) - room, max(ends) - min(ends) + 2 * room

    def place(value: float) -> float:
        return round(100 * (value - low) / width, 2)

    rows = [
        Glance(x.entry.design, x.judgement, x.in_short, place(m), place(m - sd), place(m + sd))
        for x, (m, sd) in zip(known, spans, strict=True)
    ]
    return Glances(place(truth), place(0.0), rows)


def rule(found: Sequence[Bias]) -> str:
    """What a star or bold figures mean in words, to follow "* " or "bold "."""
    judged = [x for x in found if x.interval is not None]
    if not judged:
        return f"if statistically significant, for which {MIN_REPLICATIONS} replications are needed"
    n = judged[0].n_biases
    limits = sorted({f"{limit(x.df, n):.2f}" for x in judged}, key=float)
    shown = limits[0] if len(limits) == 1 else f"{limits[0]} to {limits[-1]}"
    over = "" if n == 1 else f" over the {n} biases of this run"
    return (
        f"if statistically significant, more than {shown} of these from 0 (Student's t limit for "
        f"5 %{over})"
    )


def _needed(spread: float, half: float, n_biases: int) -> int:
    """The least number of replications whose interval is surely no wider than ± ``half``."""

    def is_enough(n: int) -> bool:
        return (limit(n - 1, n_biases) + _SURE) * spread <= half * math.sqrt(n)

    candidates = range(MIN_REPLICATIONS, MANY)
    return MIN_REPLICATIONS + bisect_left(candidates, True, key=is_enough)


def _rounded(n: int) -> int:
    """Up, to two significant digits."""
    unit = 10 ** max(0, len(str(n)) - 2)
    return -(-n // unit) * unit


def _about(n: int, unit: str) -> str:
    """About how many of them."""
    return f"{'over' if n >= MANY else 'about'} {n:,} {unit}"


def _percent(share: float) -> str:
    return f"{share:,.0f} %" if share >= 10 else f"{share:.2g} %"


class Finding(NamedTuple):
    """What is found of an effect: "unknown", "none" or "found", and words."""

    kind: str
    words: str


def effect(
    entry: Effect, relative: float | None = None, unit: str = "", per: str = " per visit"
) -> Finding:
    """What an entry of ``estimates`` says of the effect, with its percent of control, its unit."""
    value = entry.value
    if value is None:
        return Finding("unknown", "no answer: no replication has outcomes in both arms")
    scale = Scale.of([value], [entry.se])
    share = "" if relative is None else f" ({percent(relative)})"
    of_visit = f" {unit}{per}" if unit else per
    amount = f"by {scale.text(abs(value))}{of_visit}{share}"
    if entry.interval is None:
        way = "higher" if value > 0 else "lower"
        words = f"{way} {amount}, with an unknown error: there is one replication"
        return Finding("unknown", words)
    low, high = entry.interval
    if low == high == 0:
        return Finding("none", "no effect, by construction: both arms are the same")
    interval = f"95 % interval {scale.text(low)} to {scale.text(high)}"
    if low <= 0 <= high:
        return Finding("none", f"no effect found: {scale.text(value)}{of_visit}, {interval}")
    return Finding("found", f"{'raises' if value > 0 else 'lowers'} it {amount}, {interval}")


def signs(entry: Compared) -> str | None:
    """Single tests on the wrong side of 0, where there are many."""
    rate = entry.sign_error_rate
    if not entry.gte or rate is None or rate <= WRONG_SIGNS:
        return None
    return f"{100 * rate:.0f} % of single tests have the wrong sign"


@dataclass(frozen=True)
class Verdict:
    """A design, whether its estimate is biased, and why: for each label what is found."""

    design: str
    judgement: Judgement
    reasons: dict[str, tuple[str, ...]]
    enough: tuple[int, str] | None  # see ``Bias.enough``


def verdicts(result: RunResult) -> list[Verdict]:
    """Whether each design of a result of mode compare is biased, the best first."""
    judged = []
    found = biases(result)
    for design in dict.fromkeys(x.entry.design for x in found):
        own = [x for x in found if x.entry.design == design]
        worst = max((x.judgement for x in own), key=_ORDER.index)
        both = {x.entry.label: (x.words, signs(x.entry)) for x in own}
        reasons = {label: tuple(x for x in said if x) for label, said in both.items()}
        needed = [x.enough for x in own if x.enough]
        judged.append(Verdict(design, worst, reasons, max(needed, default=None)))
    errors = _errors(result.comparison)
    return sorted(judged, key=lambda v: (_ORDER.index(v.judgement), errors.get(v.design, 0.0)))


def _errors(comparison: Sequence[Compared]) -> dict[str, float]:
    """Each design's RMSE, summed over labels in units of the smallest."""
    out: dict[str, float] = {}
    for label in dict.fromkeys(e.label for e in comparison):
        own = {e.design: e.rmse for e in comparison if e.label == label and e.rmse}
        for design, rmse in own.items():
            out[design] = out.get(design, 0.0) + rmse / min(own.values())
    return out


@dataclass(frozen=True)
class Belief:
    """A design's interval methods that were run: to be believed, refuted, and not judged."""

    design: str
    believed: tuple[str, ...]
    refuted: dict[str, dict[str, float]]  # of each method the share of each label that refutes it
    unjudged: tuple[str, ...]


def beliefs(result: RunResult) -> list[Belief]:
    """Which of each design's interval methods can be believed, in the order of the result."""
    by_method: dict[str, dict[str, list[IntervalQuality]]] = {}
    for e in result.inference:
        by_method.setdefault(e.design, {}).setdefault(e.se_method, []).append(e)
    out = []
    for design, methods in by_method.items():
        judged = {x: [e for e in own if e.trustworthy is not None] for x, own in methods.items()}
        refuted = {
            method: {
                e.label: (e.reject_share if result.is_aa else e.coverage) or 0.0
                for e in own
                if not e.trustworthy
            }
            for method, own in judged.items()
            if not all(e.trustworthy for e in own)
        }
        believed = tuple(x for x, own in judged.items() if own and x not in refuted)
        out.append(Belief(design, believed, refuted, tuple(x for x in judged if not judged[x])))
    return out


def not_run(found: Iterable[Belief]) -> list[str]:
    """Interval methods that no design has."""
    run = {method for x in found for method in (*x.believed, *x.refuted, *x.unjudged)}
    return [method for method in names("interval method") if method not in run]


def headline(result: RunResult) -> list[str]:
    """Sentences that say which designs are biased, and which intervals can be believed."""
    return [*_of_biases(verdicts(result)), *_of_intervals(beliefs(result))]


def _of_biases(judged: Sequence[Verdict]) -> list[str]:
    out = []
    for judgement, start in _HEADLINES.items():
        own = [v for v in judged if v.judgement == judgement]
        needed = max((v.enough for v in own if v.enough), default=None)
        is_open = needed and judgement in ("inconclusive", "few")
        more = f"; {_about(*needed)} would decide" if needed and is_open else ""
        if own:
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
    known = "; ".join(f"{', '.join(designs)}: {said}" for said, designs in groups.items())
    lacking = not_run(found)
    return [
        f"Intervals to believe: {known}.",
        *([f"Interval methods not run: {', '.join(lacking)}."] if lacking else []),
    ]
