"""What the commands show on a terminal: log lines and tables."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

from realdataexp.errors import one_line

if TYPE_CHECKING:
    from rich.progress import TaskID
    from rich.table import Table
    from rich.text import Text

logger = logging.getLogger("realdataexp")

_SECONDS_BETWEEN_LINES = 10.0


class _StderrHandler(logging.StreamHandler[TextIO]):
    """Writes to what sys.stderr is at the time: a progress bar puts lines above itself there."""

    def __init__(self, level: str) -> None:
        logging.Handler.__init__(self, level)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        return sys.stderr

    def format(self, record: logging.LogRecord) -> str:
        """The record's message in one line."""
        return one_line(record.getMessage())


def say(text: str) -> None:
    """Print one line of a command's answer."""
    print(one_line(text, is_cut=False))


def log_lines(level: str, *, quiet: bool = False, verbose: bool = False) -> None:
    """Show the package's log lines on stderr, from ``level`` or as quiet or verbose says.

    Quiet leaves the warnings to the result, which ends with them. Details, such as each network's
    metrics, are in run.log in any case, and here only for verbose.
    """
    handler = _StderrHandler("ERROR" if quiet else "DEBUG" if verbose else level)
    if not verbose:
        handler.addFilter(lambda record: not getattr(record, "is_detail", False))
    logger.handlers = [handler]
    logger.setLevel(handler.level)


@contextmanager
def byte_progress() -> Iterator[Callable[[str, int, int | None], None]]:
    """Show how many bytes a phase is through: a bar on a terminal, a line now and then elsewhere.

    Yields:
        What to call with the phase, its bytes so far and in all (None: unknown).
    """
    from realdataexp.runs.progress import bar_console

    console = bar_console()
    if console is None:
        yield _byte_lines()
        return
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    tasks: dict[str, TaskID] = {}
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    text = TextColumn("{task.description}", style="bold", markup=False)
    with Progress(text, *columns, console=console, transient=True) as bar:

        def show(phase: str, done: int, total: int | None) -> None:
            if phase not in tasks:
                tasks[phase] = bar.add_task(one_line(phase), total=total, completed=done)
            bar.update(tasks[phase], completed=done, total=total)

        yield show


def _byte_lines() -> Callable[[str, int, int | None], None]:
    last = time.monotonic()

    def show(phase: str, done: int, total: int | None) -> None:
        nonlocal last
        if time.monotonic() - last >= _SECONDS_BETWEEN_LINES and done != total:
            last = time.monotonic()
            whole = f" of {total / 1e6:,.0f}" if total is not None else ""
            logger.info("[download] %s: %s%s MB", phase, f"{done / 1e6:,.0f}", whole)

    return show


_TITLES = {
    "without_features": "ids of the log without features",
    "official": "for comparison: the whole of the official data",
}


def print_stats(title: str, stats: Mapping[str, Any]) -> None:
    """Print a mapping as tables: its plain values in one, each inner mapping in one of its own."""
    from rich.console import Console

    console = Console()
    plain = {name: value for name, value in stats.items() if not isinstance(value, Mapping)}
    console.print(_pairs(title, plain))
    for name, value in stats.items():
        if isinstance(value, Mapping) and value:
            nested = all(isinstance(row, Mapping) for row in value.values())
            show = _grid if nested else _pairs
            console.print(show(_TITLES.get(name, name), value))


def _pairs(title: str, values: Mapping[str, Any]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(one_line(title)), title_justify="left", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name, value in values.items():
        table.add_row(_cell(name), _cell(value))
    return table


def _grid(title: str, rows: Mapping[str, Mapping[str, Any]]) -> Table:
    """A table with a line for each entry; the columns are all the keys that entries have."""
    from rich.table import Table
    from rich.text import Text

    columns = list(dict.fromkeys(key for row in rows.values() for key in row))
    table = Table(title=Text(one_line(title)), title_justify="left")
    table.add_column("")
    for column in columns:
        table.add_column(_cell(column), justify="right")
    for name, row in rows.items():
        table.add_row(_cell(name), *(_cell(row.get(column)) for column in columns))
    return table


def _cell(value: Any) -> Text:
    """A cell of a table, in which nothing is markup."""
    from rich.text import Text

    return Text(one_line(_text(value)))


def _text(value: Any) -> str:
    """A number with thousands separators; anything else as it prints."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
