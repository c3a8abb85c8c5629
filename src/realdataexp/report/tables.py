"""The tables of a result, of a plan and of several runs; and what a terminal shows of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from realdataexp.report import verdicts
from realdataexp.report.files import (
    TRUTH,
    Doubt,
    Effect,
    Plan,
    Planned,
    RunResult,
    leaves,
    read_plan,
    read_run,
)
from realdataexp.report.numbers import Scale, number, percent
from realdataexp.report.table import Cell, Column, Table, say
from realdataexp.report.verdicts import JUDGEMENTS, Bias

Runs = Mapping[str, RunResult]

_AA_LEGEND = (
    "type-I error: how often the 95 % interval of a single test excludes 0 though both arms are "
    "the same; it should be 5 %. {mark} if it is more often, beyond chance: not to be trusted."
)
_LEGEND = (
    "bias: estimate minus truth on the same random numbers ± its Monte-Carlo standard error; "
    "{mark} {rule}. SD, RMSE: of a single test. coverage: how often the 95 % interval (Welch's) of "
    "a single test holds the truth."
)
_MORE_LEGEND = (
    " bias, % of effect: bias / GTE; negative where the design understates the effect. SE / SD: a "
    "test's own standard error divided by its true spread; should be 1. wrong sign: single tests "
    "on the wrong side of 0. regret: mean cost per visit of launching where the interval is "
    "above 0. A click on a header sorts."
)
_PLAN_LEGEND = (
    "p: share treated. every: steps between trainings. effect: true effect of launching. bias: "
    "what the design adds, ± its Monte-Carlo standard error. power: how many tests show the "
    "effect. MDE: least effect that {power:g} % of tests show, given their true spread and bias; "
    "reported: as their own standard errors say. shows: whether the effect reaches MDE."
)


# --- the answer ----------------------------------------------------------------------------------


def answer_tables(result: RunResult) -> list[Table]:
    """The truth and what each design says of it, or a single design's answer; type-I errors.

    Of a training what each recommender reaches.
    """
    if result.trained:
        from realdataexp.report import trained

        return trained.tables(result)
    tables = [_truth(result)] if result.truths else []
    tables += quality_tables(result)
    own = [e for e in result.estimates if e not in result.truths]
    return tables + ([_estimates(result, own)] if own and not result.comparison else [])


def quality_tables(result: RunResult) -> list[Table]:
    """How good each design's answers are, a table for each label; type-I errors of an A/A test."""
    tables = [_quality(result, e) for e in result.truths if verdicts.biases(result, e.label)]
    if result.is_aa:
        labels = dict.fromkeys(e.label for e in result.inference)
        tables += [_type_i_errors(result, label) for label in labels]
    return tables


def legends(result: RunResult, mark: str = "*", has_more: bool = False) -> list[str]:
    """What the columns of these tables mean; ``mark`` is what a notable figure gets."""
    if result.trained:
        from realdataexp.report import trained

        own = f"{trained.LEGEND} {trained.MARKED.format(mark=mark)}"
        return [own, *([trained.MORE_LEGEND] if has_more else [])]
    found = verdicts.biases(result)
    words = _LEGEND.format(mark=mark, rule=verdicts.rule(found)) + _MORE_LEGEND * has_more
    has_errors = result.is_aa and result.inference
    return [*([words] if found else []), *([_AA_LEGEND.format(mark=mark)] if has_errors else [])]


def _truth(result: RunResult) -> Table:
    """Totals of the treated and the control world, and the effect per visit."""
    table = Table(
        f"The truth: everybody treated minus everybody in control (GTE), {_worlds(result)}",
        "treated", "control", "GTE", "GTE %", "GTE per visit ± SE",
    )  # fmt: skip
    for e in result.truths:
        scale = Scale.of([e.value], [e.se])
        relative = result.relative(e.label)
        table.add(
            result.title(e.label),
            *map(number, result.totals(e.label)),
            "-" if relative is None else f"{relative:.3g} %",
            plus_minus(scale, [e.value], [e.se])[0],
        )
    return table


def _quality(result: RunResult, truth: Effect) -> Table:
    """One label: the truth, and how far each design's answers are from it."""
    found = verdicts.biases(result, truth.label)
    entries = [x.entry for x in found]
    scale = Scale.of(
        [truth.value, *(x for e in entries for x in (e.estimate, e.bias, e.sd, e.rmse))],
        [e.bias_mc_se for e in entries],
    )

    def cell(value: float | None) -> Cell:
        return Cell(scale.text(value), value)

    table = Table(
        f"{result.title(truth.label)}: effect{result.per(truth.label)}, {_worlds(result)}",
        "estimate", Column("bias ± MC SE", is_judged=True),
        Column("bias, % of effect", is_more=True), "SD", "RMSE", Column("SE / SD", is_more=True),
        "coverage", Column("wrong sign", is_more=True), Column("regret", is_more=True),
        first="design", label=truth.label,
    )  # fmt: skip
    table.add("truth (GTE)", cell(truth.value), *[""] * 8, design=truth.design, style="bold")
    biases = plus_minus(scale, [e.bias for e in entries], [e.bias_mc_se for e in entries])
    for x, e, bias in zip(found, entries, biases, strict=True):
        kind = "notable" if x.is_significant else ""
        table.add(
            e.design,
            cell(e.estimate),
            Cell(bias, e.bias, kind),
            Cell(percent(x.percent_of_effect), x.percent_of_effect),
            cell(e.sd),
            cell(e.rmse),
            Cell.of(e.se_ratio),
            share(e.coverage),
            share(e.sign_error_rate) if e.gte else "-",
            Cell.of(e.regret),
            design=e.design,
            style="red" if kind else "",
        )
    return table


def _type_i_errors(result: RunResult, label: str) -> Table:
    """One label of an A/A test: how often each design's intervals reject, by method."""
    own = {(e.design, e.se_method): e for e in result.inference if e.label == label}
    methods = list(dict.fromkeys(method for _, method in own))
    title = f"{label}: type-I error by interval method, {_worlds(result)}"
    judged = [Column(x, is_judged=True) for x in methods]
    table = Table(title, *judged, first="design", label=label)
    for design in dict.fromkeys(design for design, _ in own):
        run = [own.get((design, method)) for method in methods]
        cells = [
            share(e.reject_share, "notable" if e.trustworthy is False else "") if e else Cell("-")
            for e in run
        ]
        known = [e for e in run if e and e.reject_share is not None]
        is_red = known and all(e.trustworthy is False for e in known)
        table.add(design, *cells, design=design, style="red" if is_red else "")
    return table


def _estimates(result: RunResult, entries: Sequence[Effect]) -> Table:
    """One design's own estimates."""
    table = Table(
        f"Effect per visit, as the design {entries[0].design} answers, {_worlds(result)}",
        "estimate ± SE", "95 % interval", "p",
    )  # fmt: skip
    for e in entries:
        scale = Scale.of([e.value, e.ci_low, e.ci_high], [e.se])
        table.add(
            result.title(e.label),
            plus_minus(scale, [e.value], [e.se])[0],
            " to ".join(map(scale.text, e.interval)) if e.interval else "-",
            "-" if e.p_value is None else f"{e.p_value:.2g}",
        )
    return table


def share(value: float | None, kind: str = "", digits: int = 0) -> Cell:
    """A share in percent."""
    return Cell("-" if value is None else f"{100 * value:.{digits}f} %", value, kind)


def plus_minus(
    scale: Scale, values: Sequence[float | None], errors: Sequence[float | None]
) -> list[str]:
    """``value ± error`` each, the signs in one column; a value alone where it has no error."""
    after = ["" if error is None else scale.text(error) for error in errors]
    width = max(map(len, after))
    texts = zip(map(scale.text, values), after, strict=True)
    return [f"{value} ± {error.rjust(width)}" if error else value for value, error in texts]


def _worlds(result: RunResult) -> str:
    return result.config.replications(max((e.n_worlds for e in result.answers), default=0))


# --- more of a result, on its page ---------------------------------------------------------------


def biased(result: RunResult) -> Table:
    """The verdict on each design, with what is found of each label."""
    judged = verdicts.verdicts(result)
    labels = [x for x in result.titles if any(x in v.reasons for v in judged)]
    table = Table(
        "What is found of each design", "verdict", *map(result.title, labels), first="design"
    )
    for v in judged:
        verdict = Cell(JUDGEMENTS[v.judgement], kind=f"is-{v.judgement}")
        reasons = [Cell(v.reasons.get(label, ())) for label in labels]
        table.add(v.design, verdict, *reasons, design=v.design)
    return table


def believed(result: RunResult) -> Table:
    """Which of each design's interval methods can be believed."""
    found = verdicts.beliefs(result)
    what = "exclude 0 too often" if result.is_aa else "hold the truth too rarely"
    any_unjudged = ["not judged"] * any(x.unjudged for x in found)
    names = ["to believe", *any_unjudged, f"refuted: {what}"]
    table = Table("Interval methods of each design", *names, first="design")
    for x in found:
        shares = [
            f"{method} ({', '.join(f'{label} {100 * y:.0f} %' for label, y in of.items())})"
            for method, of in x.refuted.items()
        ]
        table.add(
            x.design,
            Cell(", ".join(x.believed) or "none", kind="" if x.believed else "is-biased"),
            *[", ".join(x.unjudged) or "-" for _ in any_unjudged],
            "; ".join(shares) or "-",
            design=x.design,
        )
    return table


def intervals(result: RunResult) -> Table:
    """Every interval method of every design."""
    table = Table(
        "Every interval method", "label", "method", "coverage", "(95 % interval)", "excludes 0",
        "(95 % interval)", "trustworthy", first="design",
    )  # fmt: skip
    for e in result.inference:
        trusted = {True: "yes", False: "no", None: "too few to judge"}[e.trustworthy]
        table.add(
            e.design, result.title(e.label), e.se_method,
            share(e.coverage), _range(e.coverage_low, e.coverage_high),
            share(e.reject_share), _range(e.reject_low, e.reject_high),
            Cell(trusted, kind="notable" if e.trustworthy is False else ""), design=e.design,
        )  # fmt: skip
    return table


def _range(low: float | None, high: float | None) -> str:
    return "-" if low is None or high is None else f"{100 * low:.0f} to {100 * high:.0f} %"


def detectable(result: RunResult) -> Table:
    """What effect each design could detect."""
    table = Table(
        "Least effect that 80 % of tests detect", "label", "true effect", "MDE reported",
        "MDE with true spread and bias", "power", first="design",
    )  # fmt: skip
    for e in result.plan:
        numbers = map(Cell.of, (e.effect, e.mde_reported, e.mde_honest))
        power = share(e.power_at_effect)
        table.add(e.design, result.title(e.label), *numbers, power, design=e.design)
    return table


def visits(result: RunResult) -> Table:
    """Visits and units of each design's worlds."""
    found = result.diagnostics
    lost, units = found.get("share_of_visits_lost", {}), found.get("units_by_arm", {})
    table = Table(
        "Visits and units of all replications", "arms would pick different items", "visits lost",
        "units treated", "units in control", first="world",
    )  # fmt: skip
    for name, differ in found.get("share_of_visits_where_arms_differ", {}).items():
        n = [units.get(name, {}).get(arm) for arm in "TC"]
        shares = [share(differ, digits=1), share(lost.get(name), digits=1)]
        table.add(name, *shares, *(Cell("-" if x is None else f"{x:,}", x) for x in n))
    return table


def ledger(result: RunResult) -> Table:
    """From which arm's visits each arm's model learned."""
    table = Table(
        "Training weight that came from the other arm's visits", "of the treatment's model",
        "of the control's model", first="design",
    )  # fmt: skip
    shares = {(e.design, e.arm): e.other_share for e in result.ledger}
    for design in dict.fromkeys(design for design, _ in shares):
        of_arms = [share(shares.get((design, arm)), digits=1) for arm in "TC"]
        table.add(design, *of_arms, design=design)
    return table


def alarms(result: RunResult) -> Table:
    """How many single tests alarm, by design and detector; for each label, where they differ."""
    told = [e for e in result.detectors if e.n_tests]
    shown = list(dict.fromkeys(e.detector for e in told))
    labels = list(dict.fromkeys(e.label for e in told))
    table = Table(
        f"Seen from inside: tests with an alarm of interference ({' / '.join(labels)})",
        *(Column(x, is_judged=True) for x in shown), first="design",
    )  # fmt: skip
    found = {(e.design, e.detector, e.label): e for e in told}
    for design in dict.fromkeys(e.design for e in told):
        cells = []
        for detector in shown:
            own = [found.get((design, detector, label)) for label in labels]
            shares = ["-" if e is None else f"{100 * (e.alarm_share or 0):.0f}" for e in own]
            is_alarm = any(e is not None and e.verdict == "alarm" for e in own)
            same = len({*shares}) == 1
            text = f"{' / '.join(shares[:1] if same else shares)} %" if any(own) else "-"
            first = next((e.alarm_share for e in own if e is not None), None)
            cells.append(Cell(text, first, "notable" if is_alarm else ""))
        table.add(design, *cells, design=design)
    return table


def score_shares(result: RunResult) -> Table:
    """What each label adds to the scores of an arm."""
    shares = result.diagnostics.get("label_share_of_score_variance", {})
    rows = {f"{name}, arm {arm}": of for name, arms in shares.items() for arm, of in arms.items()}
    labels = list(dict.fromkeys(label for of in rows.values() for label in of))
    title = "Each label's share of the scores' variance within slates"
    table = Table(title, *labels, first="world and arm")
    for name, of in rows.items():
        table.add(name, *(share(of.get(x), digits=1) for x in labels))
    return table


def weights(result: RunResult) -> Table:
    """How good the weight models are."""
    names = list(dict.fromkeys(name for of in result.weights.values() for name in of))
    title = "Weight model: log loss should be below a constant's, mean weights near 1"
    table = Table(title, *(name.replace("_", " ") for name in names), first="design")
    for design, of in result.weights.items():
        table.add(design, *(Cell.of(of.get(name)) for name in names))
    return table


def prediction(result: RunResult) -> Table:
    """How well each design's networks and rankings do on held-out visits."""
    title = (
        "Prediction for held-out users at the last validation, by the network that serves the arm: "
        "mean ± SD over replications, and difference from the truth's network ± standard error"
    )
    table = Table(title, "arm", "label", "metric", "mean", "SD", "difference", "±", first="design")
    for e in sorted(result.prediction, key=lambda e: (e.label, e.metric, e.arm)):
        numbers = map(Cell.of, (e.value, e.sd, e.difference, e.difference_se))
        table.add(e.design, e.arm, e.label, e.metric, *numbers, design=e.design)
    return table


def metrics(result: RunResult) -> Table:
    """What was measured of the loop's networks at last."""
    title = "Last value of every metric, averaged over worlds"
    table = Table(title, "model", "label", "split", "metric", "step", "value", first="design")
    for e in result.metrics_summary:
        if e.phase == "loop" and e.metric != "n_nonfinite":
            step = Cell(f"{e.step}", e.step)
            table.add(e.design, e.model, e.label, e.split, e.metric, step, Cell.of(e.value))
    return table


def data(result: RunResult) -> list[tuple[str, Cell]]:
    """Counts and means of the data, by names in words."""

    def in_words(part: str) -> str:  # what has a dot is the name of a file
        return part if "." in part else part.replace("_", " ")

    found = leaves(result.dataset_stats)
    return [(" / ".join(map(in_words, path)), _plain(value)) for path, value in found]


def _plain(value: Any) -> Cell:
    match value:
        case None:
            return Cell("-")
        case bool() | str():
            return Cell(str(value))
        case int():
            return Cell(f"{value:,}", value)
        case float():
            return Cell.of(value)
        case _:
            return Cell(yaml.safe_dump(value, default_flow_style=True).strip())


def timing(result: RunResult) -> list[tuple[str, Cell]]:
    """Where the time went."""
    return [(name.replace("_", " "), Cell.of(x)) for name, x in result.timing.items()]


def versions(result: RunResult) -> list[tuple[str, object]]:
    """What the run was made with and computed on."""
    device = result.raw.get("device", {}).items()
    return [*result.versions.items(), *((f"device {name}", x) for name, x in device)]


def pairs(caption: str, values: Iterable[tuple[str, object]]) -> Table:
    """A table of names and values."""
    table = Table(caption, "value")
    for name, value in values:
        table.add(name, value if isinstance(value, Cell) else str(value))
    return table


# --- several runs --------------------------------------------------------------------------------


def overview(runs: Runs) -> Table:
    """What was run, and the verdicts of each run."""
    table = Table(
        "The runs", "mode", "seed", "replications", "steps", "status", "designs", first="run"
    )
    for name, r in runs.items():
        table.add(
            name, "A/A test" if r.is_aa else r.mode, str(r.seed),
            Cell.of(r.config.experiment.replications), Cell.of(r.n_steps_done), r.status,
            " ".join(verdicts.headline(r)) if r.comparison else "-",
        )  # fmt: skip
    return table


def answers_of(runs: Runs, label: str) -> list[tuple[str, Effect]]:
    """Of each run the truth's entry for a label, or what its one design answers."""
    return [(name, e) for name, r in runs.items() for e in r.answers if e.label == label]


def effects(runs: Runs, label: str, title: str) -> Table:
    """The effect on a label in each run."""
    found = answers_of(runs, label)
    scale = Scale.of(
        [x for _, e in found for x in (e.value, e.ci_low, e.ci_high)], [e.se for _, e in found]
    )
    names = ("by", "effect per visit", "95 % from", "to", "of control")
    table = Table(title, *names, first="run", label=label)
    for name, e in found:
        by = "truth (GTE)" if e.design == TRUTH else f"as {e.design} answers"
        cells = [Cell(scale.text(x), x) for x in (e.value, e.ci_low, e.ci_high)]
        relative = runs[name].relative(label)
        table.add(name, by, *cells, Cell(percent(relative), relative))
    return table


def biases(runs: Runs, label: str, title: str) -> Table:
    """Each design's bias in each run, with its error and its share of the effect."""
    found = {
        (name, x.entry.design): x
        for name, r in runs.items()
        for x in verdicts.biases(r, label)
        if x.entry.bias is not None
    }
    entries = [x.entry for x in found.values()]
    scale = Scale.of([e.bias for e in entries], [e.bias_mc_se for e in entries])
    names = list(dict.fromkeys(run for run, _ in found))
    table = Table(f"{title}: bias of each design", *names, first="design", label=label)

    def cell(x: Bias | None) -> Cell:
        if x is None:
            return Cell("-")
        b, s = x.entry.bias, x.entry.bias_mc_se
        text = scale.text(b) if s is None else f"{scale.text(b)} ± {scale.text(s)}"
        if x.percent_of_effect is not None:
            text += f" ({percent(x.percent_of_effect)})"
        return Cell(text, b, "notable" if x.is_significant else "")

    for design in dict.fromkeys(design for _, design in found):
        table.add(design, *(cell(found.get((name, design))) for name in names), design=design)
    return table


def settings(runs: Runs) -> Table:
    """Settings that are not the same in all runs; what has a name is called by it."""
    flat = [
        {".".join(path): "null" if x is None else str(x)
         for path, x in leaves(r.raw["config"], by_name=True)}
        for r in runs.values()
    ]  # fmt: skip
    table = Table("Settings", *runs, first="setting")
    for key in dict.fromkeys(key for own in flat for key in own):
        values = [own.get(key, "(not set)") for own in flat]
        if len(set(values)) > 1:
            table.add(key, *values)
    return table


# --- a plan --------------------------------------------------------------------------------------


def plan_tables(plan: Plan) -> Iterator[tuple[str, Table]]:
    """A table for each outcome, by its name."""
    titles = {x.name: x.title for x in plan.settings.config.measured}
    for label in dict.fromkeys(row.label for row in plan.rows):
        rows = [row for row in plan.rows if row.label == label]
        n = max((row.n_worlds for row in rows), default=0)
        yield label, _plan(rows, titles[label], plan.settings.config.replications(n))


def plan_legend(plan: Plan) -> str:
    """What the columns of these tables mean."""
    return _PLAN_LEGEND.format(power=100 * plan.settings.power)


def _plan(rows: Sequence[Planned], title: str, worlds: str) -> Table:
    """One label: what each design could detect, in percent of what a visit of control yields.

    In the label's own unit where that is nothing.
    """
    controls = [r.control_mean for r in rows if r.control_mean]
    is_share = len(controls) == len(rows)
    low, high = (number(pick(controls, default=0.0)) for pick in (min, max))
    of = f" in % of control's mean per visit ({low if low == high else f'{low} to {high}'})"

    def scaled(name: str) -> list[float | None]:
        pairs = ((getattr(r, name), r.control_mean if is_share else None) for r in rows)
        return [None if x is None else 100.0 / abs(c) * x if c else x for x, c in pairs]

    names = ("effect", "bias", "bias_mc_se", "mde_reported", "mde_honest")
    figures = [scaled(name) for name in names]
    scale = Scale.of([x for own in figures for x in own], [])
    both = plus_minus(scale, *figures[1:3])
    effect, _, _, reported, honest = ([scale.text(x) for x in own] for own in figures)
    width = max(len(r.design) for r in rows)
    table = Table(
        f"{title}: effects{of if is_share else ' per visit'}; {worlds}",
        "every", "steps", "design".ljust(width), "effect", "bias ± SE", "power", "reported", "MDE",
        "shows", first="p",
    )  # fmt: skip
    for i, r in enumerate(rows):
        table.add(
            f"{r.p:g}", f"{r.retrain_every}", f"{r.steps}", r.design.ljust(width), effect[i],
            both[i], share(r.power_at_effect), reported[i], honest[i],
            {None: "-", True: "yes", False: "no"}[r.detects], style="bold" if r.detects else "",
        )  # fmt: skip
    return table


# --- on the terminal -----------------------------------------------------------------------------


def print_result(run_dir: Path, console: Console | None = None) -> None:
    """Print a run's answer: the truth, what each design says, and the warnings."""
    console = console or Console(highlight=False)
    result = read_run(run_dir)
    if not result.is_complete:
        say(console, f"partial: stopped after {result.n_steps_done} steps", "yellow")
    seen = alarms(result)
    for table in [*answer_tables(result), *([seen] if seen.rows else [])]:
        table.show(console)
    if lines := headline(result):
        console.print()
        for text in lines:
            say(console, text, "bold", hang="  ")
    for text in legends(result):
        console.print()
        say(console, text, "dim")
    _print_warnings(console, result.warnings)


def headline(result: RunResult) -> list[str]:
    """The answer in a few sentences, where a run compares something."""
    if result.trained:
        from realdataexp.report import trained

        return trained.headline(result)
    return verdicts.headline(result) if result.comparison else []


def print_plan(plan_dir: Path, console: Console | None = None) -> None:
    """Print what each design could detect, a table for each label, and the warnings."""
    console = console or Console(highlight=False)
    plan = read_plan(plan_dir)
    for _, table in plan_tables(plan):
        table.show(console)
    console.print()
    say(console, plan_legend(plan), "dim")
    _print_warnings(console, plan.warnings)


def _print_warnings(console: Console, warnings: Sequence[Doubt]) -> None:
    if warnings:
        console.print()
    for warning in warnings:
        say(console, f"! {warning.code}: {warning.message}", "yellow", hang="  ")
