"""What is shown of a score card, made from its score.json; and two cards compared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from rich.console import Console

from realdataexp.errors import InputError
from realdataexp.files import read_json
from realdataexp.report.numbers import number, percent
from realdataexp.report.panels import JUDGED, Cells, Panel, Point
from realdataexp.report.table import Cell, Column, Table, say
from realdataexp.report.verdicts import JUDGEMENTS, Judgement

CARD, PAGE, PLOT = "score.json", "score.html", "score.svg"
_EDGE = 100.0  # percent, where a picture of biases ends
_SAME = 1e-6  # relative difference of figures that are the same

LEGEND = (
    "Medians (bias, SD, RMSE) and means over questions, in parentheses the rank, 1 the best: the "
    "place of a design's mean rank over the questions that it answers. biased: at how many of them "
    "its bias is statistically significant and may be over 5 % of the effect. bias, SD, RMSE, "
    "regret: % of the true effect. coverage, type-I error: of 95 % intervals by units where a "
    "design has some (user_cluster), else by visits (welch); ranked by the distance from 95 % and "
    "5 %. wrong sign: of single tests. seconds: of a million visits, beyond those of the truth. "
    "models: that it keeps for each label."
)


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True)


class Answer(_Part):
    """A design's answer to a question: of ``rows``."""

    world: str
    label: str
    design: str
    gte: float | None = None
    bias: float | None = None
    bias_mc_se: float | None = None
    bias_percent: float | None = None
    bias_mc_se_percent: float | None = None
    verdict: Judgement | None = None
    sd_percent: float | None = None
    rmse_percent: float | None = None
    coverage: float | None = None
    sign_error_rate: float | None = None
    regret_percent: float | None = None
    type_1: float | None = None
    cause: str | None = None

    @property
    def question(self) -> str:
        """The world and the label."""
        return f"{self.world}: {self.label}"


class Standing(_Part):
    """A design over all questions: of ``summary``."""

    design: str
    n_questions: int
    n_biased: int
    bias: float | None = None
    bias_worst: float | None = None
    bias_rank: int | None = None
    sd: float | None = None
    sd_rank: int | None = None
    rmse: float | None = None
    rmse_rank: int | None = None
    coverage: float | None = None
    coverage_rank: int | None = None
    type_1: float | None = None
    type_1_rank: int | None = None
    sign_errors: float | None = None
    sign_errors_rank: int | None = None
    regret: float | None = None
    regret_rank: int | None = None
    seconds: float | None = None
    seconds_rank: int | None = None
    models: int | None = None


class Missing(_Part):
    """Why a design has no answer in a world; ``kind`` is empty where it cannot run there."""

    world: str
    design: str
    kind: str = ""
    cause: str


class _Panel(_Part):
    version: int
    digest: str


class Card(_Part):
    """score.json."""

    schema_version: Literal[1]
    panel: _Panel
    design: str
    asked: dict[str, Any]
    worlds: dict[str, str]
    summary: list[Standing] = Field(min_length=1)
    rows: list[Answer]
    nulls: list[Missing]
    digests: dict[str, str]
    versions: dict[str, str | None] = {}
    seconds: float = 0.0

    @classmethod
    def read(cls, path: Path) -> Card:
        """That of a file, or of a card's folder.

        Raises:
            InputError: there is none, or it is not what score writes.
        """
        file = path / CARD if path.is_dir() else path
        try:
            return cls.model_validate(read_json(file))
        except OSError as error:
            raise InputError(
                f"{file}: cannot be read ({error.strerror}); pass a score.json, or its folder"
            ) from error
        except ValidationError as error:
            fault = error.errors()[0]
            where = ".".join(map(str, fault["loc"]))
            raise InputError(f"{file}: {where}: not what score writes ({fault['msg']})") from error
        except ValueError as error:
            raise InputError(f"{file}: cannot be read as JSON ({error})") from error

    @property
    def is_quick(self) -> bool:
        """Whether it only says that designs run."""
        return bool(self.asked.get("quick"))

    @property
    def questions(self) -> list[str]:
        """The worlds with their labels, in order."""
        return list(dict.fromkeys(row.question for row in self.rows))

    @property
    def designs(self) -> list[str]:
        """The designs, in order."""
        return [x.design for x in self.summary]

    def standing(self, design: str) -> Standing:
        """A design over all questions."""
        return next(x for x in self.summary if x.design == design)


# --- words and tables ----------------------------------------------------------------------------


def headline(card: Card) -> list[str]:
    """What the card says of its design, and what it was made with."""
    own, n = card.standing(card.design), len(card.summary)
    lines = [
        f"{card.design} is biased at {own.n_biased} of the {own.n_questions} questions that it "
        f"answers; its bias is {number(own.bias)} % of the effect in the median, at most "
        f"{number(own.bias_worst)} % (rank {own.bias_rank or '-'} of {n} designs)"
    ]
    quick = ", quick: whether designs run, not how good they are" * card.is_quick
    lines.append(
        f"panel {card.panel.version}{quick}: {len(card.questions)} questions in "
        f"{len(card.worlds)} worlds, {number(card.seconds)} s of runs"
    )
    return lines


def standings(card: Card) -> Table:
    """Every design over all questions, by the rank of its RMSE."""
    table = Table(
        f"Score card of {card.design}: every design over all questions", "answers", "biased",
        "bias", Column("worst bias", is_more=True), "SD", "RMSE", "coverage", "type-I",
        "wrong sign", "regret", "seconds", "models", first="design",
    )  # fmt: skip
    found = sorted(card.summary, key=lambda x: (x.rmse_rank is None, x.rmse_rank or 0))
    for x in found:
        table.add(
            x.design, _count(x.n_questions, ""), Cell(str(x.n_biased), x.n_biased),
            _ranked(x.bias, x.bias_rank), Cell.of(x.bias_worst), _ranked(x.sd, x.sd_rank),
            _ranked(x.rmse, x.rmse_rank), _ranked(_share(x.coverage), x.coverage_rank),
            _ranked(_share(x.type_1), x.type_1_rank),
            _ranked(_share(x.sign_errors), x.sign_errors_rank), _ranked(x.regret, x.regret_rank),
            _ranked(x.seconds, x.seconds_rank), Cell("-" if x.models is None else str(x.models)),
            design=x.design, style="bold" if x.design == card.design else "",
        )  # fmt: skip
    return table


def _count(n: int, unit: str) -> Cell:
    return Cell(f"{n}{unit}", n)


def _share(x: float | None) -> float | None:
    return None if x is None else 100.0 * x


def _ranked(value: float | None, rank: int | None) -> Cell:
    """A figure and its rank."""
    if value is None:
        return Cell("-")
    return Cell(
        f"{number(float(f'{value:.2g}') if value < 10 else round(value, 1))} ({rank})", value
    )


def questions(card: Card) -> list[Table]:
    """Every design's answer, a table for each question."""
    return [
        _answers(f"{question} ({card.worlds[rows[0].world]})", rows)
        for question in card.questions
        if (rows := [row for row in card.rows if row.question == question])
    ]


def own_answers(card: Card) -> Table:
    """The card's design at each question."""
    rows = [row for row in card.rows if row.design == card.design]
    return _answers(f"{card.design} at each question", rows, by_question=True)


def _answers(title: str, rows: Sequence[Answer], *, by_question: bool = False) -> Table:
    table = Table(
        title, Column("GTE", is_more=not by_question),
        Column("bias ± MC SE", is_more=by_question), Column("bias, %", is_judged=True),
        "± MC SE, %", "SD, %", "coverage", "type-I", "wrong sign", "regret, %",
        first="question" if by_question else "design", label="" if by_question else rows[0].label,
    )  # fmt: skip
    for x in rows:
        known = x.bias is not None
        kind = "notable" if x.verdict in ("biased", "small") else ""
        table.add(
            x.question if by_question else x.design, Cell.of(x.gte),
            Cell(f"{number(x.bias)} ± {number(x.bias_mc_se)}" if known else "-", x.bias),
            Cell(percent(x.bias_percent), x.bias_percent, kind), Cell.of(x.bias_mc_se_percent),
            Cell.of(x.sd_percent), *map(_percent_cell, (x.coverage, x.type_1, x.sign_error_rate)),
            Cell.of(x.regret_percent), design=x.design,
        )  # fmt: skip
    return table


def _percent_cell(share: float | None) -> Cell:
    return Cell("-" if share is None else f"{100 * share:.0f} %", share)


def missing(card: Card) -> Table | None:
    """Why designs have no answer in a world; none where all have."""
    if not card.nulls:
        return None
    table = Table("No answer", "cause", first="design and worlds")
    found: dict[tuple[str, str], list[str]] = {}
    for x in card.nulls:
        found.setdefault((x.design, x.cause), []).append(f"{x.world} {x.kind}".strip())
    for (design, cause), worlds in found.items():
        table.add(f"{design}: {', '.join(worlds)}", cause, design=design)
    return table


def print_card(folder: Path, console: Console | None = None) -> None:
    """Print a card: every design over all questions, and its own design at each."""
    console = console or Console(highlight=False)
    card = Card.read(folder)
    standings(card).show(console)
    console.print()
    say(console, LEGEND, "dim")
    own_answers(card).show(console)
    console.print()
    for line in headline(card):
        say(console, line, hang="  ")
    lacking = missing(card)
    for row in lacking.rows if lacking else ():
        say(console, f"- {row.name}: {row.cells[0].shown}", "yellow", hang="  ")


# --- charts --------------------------------------------------------------------------------------


def biases(card: Card) -> Panel:
    """Every design's bias at each question, in percent of the effect."""
    n = max(1, len(card.questions))
    places = {question: 0.7 * ((i + 0.5) / n - 0.5) for i, question in enumerate(card.questions)}
    points = [
        Point(x.design, max(-_EDGE, min(_EDGE, x.bias_percent)), None, *JUDGED[judgement],
              name, places[x.question])
        for judgement, name in JUDGEMENTS.items()
        for x in card.rows
        if x.verdict == judgement and x.bias_percent is not None
    ]  # fmt: skip
    return Panel(
        "biases", "Bias of every design",
        "A mark for each question. Beyond 100 % at the edge. Green: no bias",
        "bias, % of the true effect", tuple(card.designs), points=tuple(points), line=0.0,
        line_name="no bias", limits=(-1.05 * _EDGE, 1.05 * _EDGE),
    )  # fmt: skip


def panels(card: Card) -> Iterator[Panel]:
    """Biases, and a heat map of every figure by design and question."""
    yield biases(card)
    figures: Mapping[str, tuple[str, float]] = {
        "bias, % of the effect": ("bias_percent", 1.0), "coverage": ("coverage", 100.0),
        "type-I error, %": ("type_1", 100.0), "SD, % of the effect": ("sd_percent", 1.0),
        "wrong sign, %": ("sign_error_rate", 100.0),
        "regret, % of the effect": ("regret_percent", 1.0),
    }  # fmt: skip
    rows = {(x.design, x.question): x for x in card.rows}
    cells = []
    for metric, (name, scale) in figures.items():
        values = [
            [
                None if (v := getattr(rows[design, question], name)) is None else scale * v
                for question in card.questions
            ]
            for design in card.designs
        ]
        cells.append(Cells(card.questions, card.designs, values, metric, "", ""))
    yield Panel(
        "figures", "Every figure", "A figure of each design at each question", "design",
        cells=tuple(cells), over="question", choices={"metric": list(figures)},
    )  # fmt: skip


# --- two cards -----------------------------------------------------------------------------------


class Compared(NamedTuple):
    """Two cards of one panel: what is the same for both, and a table of their designs."""

    lines: list[str]
    tables: list[Table]


def compare(a: Card, b: Card) -> Compared:
    """Two cards' designs side by side.

    Raises:
        InputError: they are of different panels, or one is quick and the other is not.
    """
    if (a.panel, a.is_quick) != (b.panel, b.is_quick):
        said = [f"panel {x.panel.version}{', quick' * x.is_quick}" for x in (a, b)]
        raise InputError(
            f"the cards of {a.design} and {b.design} answer different questions ({said[0]} of "
            f"digest {a.panel.digest[:8]}, {said[1]} of digest {b.panel.digest[:8]}): make both "
            "with one version"
        )
    names = [a.design, b.design]
    if names[0] == names[1]:
        names = [f"{name} ({x})" for name, x in zip(names, "AB", strict=True)]
    overall = Table("Over all questions of each card", *names, first="figure")
    of = [x.standing(x.design) for x in (a, b)]
    figures: dict[str, tuple[str, float]] = {
        "answers": ("n_questions", 1), "biased": ("n_biased", 1), "bias, %": ("bias", 1),
        "worst bias, %": ("bias_worst", 1), "SD, %": ("sd", 1), "RMSE, %": ("rmse", 1),
        "coverage, %": ("coverage", 100), "type-I error, %": ("type_1", 100),
        "wrong sign, %": ("sign_errors", 100), "regret, %": ("regret", 1),
        "seconds": ("seconds", 1), "models": ("models", 1),
    }  # fmt: skip
    for title, (name, scale) in figures.items():
        values = [getattr(x, name) for x in of]
        overall.add(title, *(Cell.of(None if v is None else scale * v) for v in values))
    each = Table(
        "Bias ± MC SE, % of the effect", *names, first="question",
    )  # fmt: skip
    rows = [{x.question: x for x in card.rows if x.design == card.design} for card in (a, b)]
    for question in dict.fromkeys([*rows[0], *rows[1]]):
        each.add(question, *(_with_error(own.get(question)) for own in rows))
    return Compared(_common(a, b), [overall, each])


def _with_error(x: Answer | None) -> Cell:
    if x is None or x.bias_percent is None:
        return Cell("-")
    return Cell(f"{percent(x.bias_percent)} ± {number(x.bias_mc_se_percent)}", x.bias_percent)


def _common(a: Card, b: Card) -> list[str]:
    """Whether what the cards share is the same: versions, worlds, the built-in designs' answers."""
    lines = []
    differ = [k for k in ("realdataexp", "torch") if a.versions.get(k) != b.versions.get(k)]
    lines += [f"{k}: {a.versions.get(k)} and {b.versions.get(k)}" for k in differ]
    if only := sorted({*a.worlds} ^ {*b.worlds}):
        lines.append(f"worlds of one card only: {', '.join(only)}")
    rows = [
        {(x.world, x.label, x.design): x for x in card.rows if x.bias is not None}
        for card in (a, b)
    ]
    own = {a.design, b.design} - ({*a.designs} & {*b.designs})
    shared = [key for key in rows[0] if key in rows[1] and key[2] not in own]
    n = sum(not _are_same(rows[0][key].bias, rows[1][key].bias) for key in shared)
    said = "the same" if n == 0 else f"other numbers in {n}"
    lines.append(f"{len(shared)} answers of designs that both cards have: {said}")
    return lines


def _are_same(x: float | None, y: float | None) -> bool:
    if x is None or y is None:
        return x is y
    return abs(x - y) <= _SAME * max(abs(x), abs(y))


def print_comparison(a: Path, b: Path, console: Console | None = None) -> None:
    """Print two cards' designs side by side."""
    console = console or Console(highlight=False)
    found = compare(Card.read(a), Card.read(b))
    for table in found.tables:
        table.show(console)
    console.print()
    for line in found.lines:
        say(console, line, hang="  ")
