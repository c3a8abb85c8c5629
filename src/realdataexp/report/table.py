"""A table of cells, once for the terminal, a notebook and the page; and texts on a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import compress

from rich.console import Console
from rich.text import Text

from realdataexp.errors import one_line
from realdataexp.report.numbers import number

_GAP = "  "
_LEAST_NAME = 12


@dataclass(frozen=True)
class Cell:
    """A table cell: a text or a list of texts, the number to sort by, and a CSS class."""

    shown: str | Sequence[str]
    sort: float | None = None
    kind: str = ""  # "notable", or "is-" and a judgement

    @classmethod
    def of(cls, value: float | None) -> Cell:
        """A number."""
        return cls(number(value), value)


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


class Table:
    """Rows of cells: the first column of names, on the left, the others on the right.

    On a terminal nothing is ever cut: a name too long for the room that the numbers leave stands
    on a line of its own, and where a terminal is narrower than the numbers their lines run on.
    """

    def __init__(
        self, title: str, *columns: Column | str, first: str = "", label: str = ""
    ) -> None:
        self.title, self.first, self.label = title, first, label
        self.columns = [Column(x) if isinstance(x, str) else x for x in columns]
        self.rows: list[Row] = []

    def add(self, name: str, *cells: Cell | str, design: str = "", style: str = "") -> None:
        """Add a row."""
        made = [cell if isinstance(cell, Cell) else Cell(cell) for cell in cells]
        self.rows.append(Row(name, made, design, style))

    def brief(self) -> Table:
        """Without the columns that only a page has room for."""
        kept = [not column.is_more for column in self.columns]
        columns = compress(self.columns, kept)
        short = Table(self.title, *columns, first=self.first, label=self.label)
        short.rows = [replace(row, cells=list(compress(row.cells, kept))) for row in self.rows]
        return short

    def show(self, console: Console) -> None:
        """Print the brief table."""
        table = self.brief()
        lines = [
            [_text(cell, column) for cell, column in zip(row.cells, table.columns, strict=True)]
            for row in table.rows
        ]
        header = [column.name for column in table.columns]
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
    return one_line(str(cell.shown)) + star


def say(console: Console, text: str, style: str = "", hang: str = "") -> None:
    """Print a text in lines as wide as the terminal."""
    lines = wrapped(text, max(40, console.width - 1), hang)
    console.print(Text("\n".join(lines), style=style), soft_wrap=True)


def wrapped(text: str, width: int, hang: str = "") -> list[str]:
    """The text in lines; paths stay whole."""
    lines = textwrap.wrap(
        one_line(text), max(30, width), subsequent_indent=hang, break_long_words=False,
        break_on_hyphens=False,
    )  # fmt: skip
    return lines or [""]
