"""Tables of a result, once for the terminal, a notebook and the page; and what a terminal shows."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.text import Text

from realdataexp.errors import one_line
from realdataexp.report import verdicts
from realdataexp.report.files import Doubt, Effect, Planned, RunResult, read_plan, read_run
from realdataexp.report.numbers import Scale, number, percent
from realdataexp.report.verdicts import Bias

_GAP = "  "
_LEAST_NAME = 12
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
    "on the wrong side of 0. regret: mean cost per visit of launching where the interval lies "
    "above 0. A click on a header sorts."
)
_PLAN_LEGEND = (
    "p: share treated. every: steps between trainings. effect: true effect of launching. bias: "
    "what the design adds, ± its Monte-Carlo standard error. power: how many tests show the "
    "effect. MDE: least effect that {power:g} % of tests show, given their true spread and bias; "
    "reported: as their own standard errors say. shows: whether the effect reaches MDE."
)


@dataclass(frozen=True)
class Cell:
    """A table cell: what it shows, the number to sort by, and a CSS class such as "notable"."""

    shown: str
    sort: float | None = None
    kind: str = ""


@dataclass(frozen=True)
class Column:
    """A column of numbers.

    Attributes:
        is_more: whether it stands on the page only, where there is room.
        is_judged: whether a notable figure gets a star where it cannot be bold.
    """

    name: str
    is_more: bool = False
    is_judged: bool = False


@dataclass(frozen=True)
class Row:
    """A line: its name, its cells, the design it is about, and a terminal's style."""

    name: str
    cells: Sequence[Cell]
    design: str = ""
    style: str = ""


@dataclass(frozen=True)
class Table:
    """Rows of cells: the first column of names, on the left, the others on the right.

    On a terminal nothing is ever cut: a name too long for the room that the numbers leave stands
    on a line of its own, and where a terminal is narrower than the numbers their lines run on.
    """

    title: str
    columns: Sequence[Column]
    first: str = ""
    rows: list[Row] = field(default_factory=list)
    label: str = ""

    @classmethod
    def of(cls, title: str, *names: str, first: str = "", label: str = "") -> Table:
        """A table without rows, its columns by their names."""
        return cls(title, [Column(name) for name in names], first, label=label)

    def add(self, name: str, *cells: Cell | str, design: str = "", style: str = "") -> None:
        """Add a row."""
        made = [cell if isinstance(cell, Cell) else Cell(cell) for cell in cells]
        self.rows.append(Row(name, made, design, style))

    def brief(self) -> Table:
        """Without the columns that only a page has room for."""
        kept = [i for i, column in enumerate(self.columns) if not column.is_more]
        rows = [
            Row(row.name, [row.cells[i] for i in kept], row.design, row.style) for row in self.rows
        ]
        return Table(self.title, [self.columns[i] for i in kept], self.first, rows, self.label)

    def show(self, console: Console) -> None:
        """Print the brief table."""
        table = self.brief()
        header = [column.name for column in table.columns]
        lines = [
            [_text(cell, column) for cell, column in zip(row.cells, table.columns, strict=True)]
            for row in table.rows
        ]
        widths = [max(map(len, column)) for column in zip(header, *lines, strict=True)]
        header = [
            (column.name + _GAP * column.is_judged)[:width]
            for column, width in zip(table.columns, widths, strict=True)
        ]
        taken = sum(widths) + len(_GAP) * len(widths)
        room = max(_LEAST_NAME, console.width - taken - 1)
        names = [one_line(row.name) for row in table.rows]
        first = max((len(x) for x in (self.first, *names) if len(x) <= room), default=0)

        def line(name: str, values: Sequence[str], style: str) -> None:
            if len(name) > room:
                console.print(Text(name, style=style), soft_wrap=True)
                name = ""
            right = [value.rjust(width) for value, width in zip(values, widths, strict=True)]
            text = _GAP.join([name.ljust(first), *right]).rstrip()
            console.print(Text(text, style=style), soft_wrap=True)

        console.print()
        say(console, self.title, "bold")
        line(self.first, header, "")
        console.print(Text("─" * (first + taken), style="dim"), soft_wrap=True)
        for name, row, values in zip(names, table.rows, lines, strict=True):
            line(name, values, row.style)


def _text(cell: Cell, column: Column) -> str:
    star = (" *" if cell.kind == "notable" else "  ") if column.is_judged else ""
    return one_line(cell.shown) + star


# --- the tables of a result ----------------------------------------------------------------------


def answer_tables(result: RunResult) -> list[Table]:
    """The truth and what each design says of it, or a single design's answer; type-I errors."""
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
    found = verdicts.biases(result)
    words = _LEGEND.format(mark=mark, rule=verdicts.rule(found)) + _MORE_LEGEND * has_more
    has_errors = result.is_aa and result.inference
    return [*([words] if found else []), *([_AA_LEGEND.format(mark=mark)] if has_errors else [])]


def _truth(result: RunResult) -> Table:
    """Totals of the treated and the control world, and the effect per visit."""
    table = Table.of(
        f"The truth: everybody treated minus everybody in control (GTE), {_worlds(result)}",
        "treated", "control", "GTE", "GTE %", "GTE per visit ± SE",
    )  # fmt: skip
    for e in result.truths:
        scale = Scale.of([e.value], [e.se])
        relative = result.relative(e.label)
        table.add(
            result.titles.get(e.label, e.label),
            *(number(result.total(x, e.label)) for x in ("GT", "GC", "GTE")),
            "-" if relative is None else f"{relative:.3g} %",
            plus_minus([scale.text(e.value)], [scale.text(e.se)])[0],
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
    columns = [
        Column("estimate"), Column("bias ± MC SE", is_judged=True),
        Column("bias, % of effect", is_more=True), Column("SD"), Column("RMSE"),
        Column("SE / SD", is_more=True), Column("coverage"), Column("wrong sign", is_more=True),
        Column("regret", is_more=True),
    ]  # fmt: skip
    title = f"{result.titles.get(truth.label, truth.label)}: effect per visit, {_worlds(result)}"
    table = Table(title, columns, "design", label=truth.label)
    value = Cell(scale.text(truth.value), truth.value)
    table.add("truth (GTE)", value, *[""] * 8, design=truth.design, style="bold")
    shown = plus_minus(
        [scale.text(e.bias) for e in entries], [scale.text(e.bias_mc_se) for e in entries]
    )
    for x, e, bias in zip(found, entries, shown, strict=True):
        kind = "notable" if x.is_significant else ""
        table.add(
            e.design,
            Cell(scale.text(e.estimate), e.estimate),
            Cell(bias, e.bias, kind),
            Cell(percent(x.percent_of_effect), x.percent_of_effect),
            Cell(scale.text(e.sd), e.sd),
            Cell(scale.text(e.rmse), e.rmse),
            Cell(number(e.se_ratio), e.se_ratio),
            share(e.coverage),
            share(e.sign_error_rate) if e.gte else "-",
            Cell(number(e.regret), e.regret),
            design=e.design,
            style="red" if kind else "",
        )
    return table


def bias_cell(x: Bias | None, scale: Scale) -> Cell:
    """A bias with its error and its share of the effect, in one cell."""
    if x is None:
        return Cell("-")
    b, s = x.entry.bias, x.entry.bias_mc_se
    text = scale.text(b) if s is None else f"{scale.text(b)} ± {scale.text(s)}"
    if x.percent_of_effect is not None:
        text += f" ({percent(x.percent_of_effect)})"
    return Cell(text, b, "notable" if x.is_significant else "")


def _type_i_errors(result: RunResult, label: str) -> Table:
    """One label of an A/A test: how often each design's intervals reject, by method."""
    own = {(e.design, e.se_method): e for e in result.inference if e.label == label}
    methods = list(dict.fromkeys(method for _, method in own))
    title = f"{label}: type-I error by interval method, {_worlds(result)}"
    table = Table(title, [Column(x, is_judged=True) for x in methods], "design", label=label)
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
    table = Table.of(
        f"Effect per visit, as the design {entries[0].design} answers, {_worlds(result)}",
        "estimate ± SE", "95 % interval", "p",
    )  # fmt: skip
    for e in entries:
        scale = Scale.of([e.value, e.ci_low, e.ci_high], [e.se])
        ends = e.interval
        table.add(
            result.titles.get(e.label, e.label),
            plus_minus([scale.text(e.value)], [scale.text(e.se)])[0],
            f"{scale.text(ends[0])} to {scale.text(ends[1])}" if ends else "-",
            "-" if e.p_value is None else f"{e.p_value:.2g}",
        )
    return table


def _plan(rows: Sequence[Planned], title: str, worlds: str) -> Table:
    """One label: what each design could detect, in percent of what a visit of control yields.

    In the label's own unit where that is nothing.
    """
    controls = [r.control_mean for r in rows if r.control_mean]
    is_share = len(controls) == len(rows)
    low, high = (number(pick(controls, default=0.0)) for pick in (min, max))
    of = f" in % of control's mean per visit ({low if low == high else f'{low} to {high}'})"
    factors = [100.0 / abs(r.control_mean or 1.0) if is_share else 1.0 for r in rows]

    def column(values: Iterable[float | None]) -> list[float | None]:
        return [None if v is None else f * v for v, f in zip(values, factors, strict=True)]

    figures = [
        column(own)
        for own in zip(
            *((r.effect, r.bias, r.bias_mc_se, r.mde_reported, r.mde_honest) for r in rows),
            strict=True,
        )
    ]
    scale = Scale.of([x for own in figures for x in own], [])
    effects, bias, errors, reported, honest = ([scale.text(x) for x in own] for own in figures)
    width = max(len(r.design) for r in rows)
    table = Table.of(
        f"{title}: effects{of if is_share else ' per visit'}; {worlds}",
        "every", "steps", "design".ljust(width), "effect", "bias ± SE", "power", "reported", "MDE",
        "shows", first="p",
    )  # fmt: skip
    both = plus_minus(bias, errors)
    for i, r in enumerate(rows):
        table.add(
            f"{r.p:g}", f"{r.retrain_every}", f"{r.steps}", r.design.ljust(width), effects[i],
            both[i], share(r.power_at_effect), reported[i], honest[i],
            "-" if r.detects is None else "yes" if r.detects else "no",
            style="bold" if r.detects else "",
        )  # fmt: skip
    return table


def share(value: float | None, kind: str = "", digits: int = 0) -> Cell:
    """A share in percent."""
    return Cell("-" if value is None else f"{100 * value:.{digits}f} %", value, kind)


def plus_minus(values: Sequence[str], errors: Sequence[str]) -> list[str]:
    """``value ± error`` each, the signs in one column; values alone where there are no errors."""
    if set(errors) == {"-"}:
        return list(values)
    width = max(map(len, errors))
    return [f"{v} ± {e.rjust(width)}" for v, e in zip(values, errors, strict=True)]


def _worlds(result: RunResult) -> str:
    entries = result.answers
    return result.config.replications(max((e.n_worlds for e in entries), default=0))


# --- on the terminal -----------------------------------------------------------------------------


def print_result(run_dir: Path, console: Console | None = None) -> None:
    """Print a run's answer: the truth, what each design says, and the warnings."""
    console = console or Console(highlight=False)
    result = read_run(run_dir)
    if not result.is_complete:
        say(console, f"partial: stopped after {result.n_steps_done} steps", "yellow")
    for table in answer_tables(result):
        table.show(console)
    if result.comparison:
        console.print()
        for text in verdicts.headline(result):
            say(console, text, "bold", hang="  ")
    for text in legends(result):
        console.print()
        say(console, text, "dim")
    _print_warnings(console, result.warnings)


def print_plan(plan_dir: Path, console: Console | None = None) -> None:
    """Print what each design could detect, a table for each label, and the warnings."""
    console = console or Console(highlight=False)
    plan = read_plan(plan_dir)
    titles = {x.name: x.title for x in plan.settings.config.measured}
    for label in dict.fromkeys(row.label for row in plan.rows):
        rows = [row for row in plan.rows if row.label == label]
        n = max((row.n_worlds for row in rows), default=0)
        _plan(rows, titles[label], plan.settings.config.replications(n)).show(console)
    console.print()
    say(console, _PLAN_LEGEND.format(power=100 * plan.settings.power), "dim")
    _print_warnings(console, plan.warnings)


def say(console: Console, text: str, style: str = "", hang: str = "") -> None:
    """Print a text in lines as wide as the terminal."""
    lines = wrapped(text, max(40, console.width - 1), hang)
    console.print(Text("\n".join(lines), style=style), soft_wrap=True)


def _print_warnings(console: Console, warnings: Sequence[Doubt]) -> None:
    if warnings:
        console.print()
    for warning in warnings:
        say(console, f"! {warning.code}: {warning.message}", "yellow", hang="  ")


def wrapped(text: str, width: int, hang: str = "") -> list[str]:
    """The text in lines; paths stay whole."""
    lines = textwrap.wrap(
        one_line(text), max(30, width), subsequent_indent=hang, break_long_words=False,
        break_on_hyphens=False,
    )  # fmt: skip
    return lines or [""]
