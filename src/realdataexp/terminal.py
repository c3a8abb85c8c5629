"""What commands show: log lines, progress and tables, on streams that outlive their terminal."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TextIO

from realdataexp.errors import one_line

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

logger = logging.getLogger("realdataexp")

_SECONDS_BETWEEN_LINES = 10.0
_TITLES = {
    "without_features": "ids of the log without features",
    "official": "for comparison: the whole of the official data",
}


# --- streams -------------------------------------------------------------------------------------


class LastingStream:
    """A text stream; from the first write that fails with an ``error`` on, texts are dropped."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.error: OSError | None = None

    def write(self, text: str) -> int:
        """Write a text, if that can be."""
        try:
            return self._stream.write(text)
        except OSError as error:
            self._drop(error)
            return len(text)

    def flush(self) -> None:
        """Hand over what was written, if that can be."""
        try:
            self._stream.flush()
        except OSError as error:
            self._drop(error)

    def _drop(self, error: OSError) -> None:
        """Let what is still in the stream, and all that comes, go nowhere."""
        self.error = self.error or error
        with suppress(OSError):  # it may have no descriptor
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def lasting_streams() -> Iterator[LastingStream]:
    """Keep sys.stdout and sys.stderr from ending a command; yields the former.

    A descriptor that is closed leads nowhere meanwhile, lest the next file that is opened gets it.
    What an encoding has no character for is replaced.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest that is free
    before = sys.stdout, sys.stderr
    made = []
    for stream in before:
        # Python has no stream where the descriptor was closed
        own = stream or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
        if stream is not None and hasattr(own, "reconfigure"):
            own.reconfigure(errors="backslashreplace" if stream is sys.stderr else "replace")
        made.append(LastingStream(own))
    sys.stdout, sys.stderr = made
    try:
        yield made[0]
    finally:
        for lasting in made:
            lasting.flush()
        sys.stdout, sys.stderr = before


# --- log lines and progress ----------------------------------------------------------------------


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

    Quiet leaves the warnings to the result. Details are in run.log in any case.
    """
    handler = _StderrHandler("ERROR" if quiet else "DEBUG" if verbose else level)
    if not verbose:
        handler.addFilter(lambda record: not getattr(record, "is_detail", False))
    logger.handlers = [handler]
    logger.setLevel(handler.level)


@contextmanager
def byte_progress() -> Iterator[Callable[[str, int, int | None], None]]:
    """Show how many bytes a phase is through: a bar on a terminal, a line now and then elsewhere.

    Yields what to call with the phase, its bytes so far and in all (None: unknown).
    """
    from realdataexp.runs.progress import bar_console

    console = bar_console()
    if console is None:
        yield _byte_lines()
        return
    from rich import progress

    tasks: dict[str, progress.TaskID] = {}
    columns = (
        progress.TextColumn("{task.description}", style="bold", markup=False),
        progress.BarColumn(),
        progress.DownloadColumn(),
        progress.TransferSpeedColumn(),
        progress.TimeRemainingColumn(),
    )
    with progress.Progress(*columns, console=console, transient=True) as bar:

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


def print_stats(title: str, stats: Mapping[str, Any]) -> None:
    """Print a mapping as tables: its plain values in one, each inner mapping in one of its own."""
    from rich.console import Console

    console = Console()
    plain = {name: value for name, value in stats.items() if not isinstance(value, Mapping)}
    console.print(_table(title, plain))
    for name, value in stats.items():
        if isinstance(value, Mapping) and value:
            console.print(_table(_TITLES.get(name, name), value))


def print_parts(parts: Sequence[Mapping[str, Any]]) -> None:
    """Print what each part is doing, and of those that failed the reason and where their log is."""
    from rich.console import Console

    counts = Counter(part["state"] for part in parts)
    title = ", ".join(f"{n} {state}" for state, n in counts.items())
    rows = {
        part["part"]: {
            "state": part["state"],
            "step": part["step"],
            "of": part["n_steps"],
            "steps/s": part["steps_per_second"],
        }
        for part in parts
    }
    Console().print(_table(title, rows))
    for part in parts:
        if part["state"] == "failed":
            log = f" (log: {part['log']})" if part["log"] else ""
            say(f"{part['part']}: {part['reason']}{log}")


def _table(title: str, rows: Mapping[str, Any]) -> Table:
    """A line for each entry; where entries are mappings, a column for each key that they have."""
    from rich.table import Table
    from rich.text import Text

    def cell(value: Any) -> Text:  # in which nothing is markup
        return Text(one_line(_text(value)))

    is_nested = all(isinstance(row, Mapping) for row in rows.values()) and bool(rows)
    columns = (
        list(dict.fromkeys(key for row in rows.values() for key in row)) if is_nested else [""]
    )
    table = Table(title=Text(one_line(title)), title_justify="left", show_header=is_nested)
    table.add_column("")
    for column in columns:
        table.add_column(cell(column), justify="right")
    for name, row in rows.items():
        table.add_row(cell(name), *(cell(row.get(x) if is_nested else row) for x in columns))
    return table


def _text(value: Any) -> str:
    """A number with thousands separators; anything else as it prints."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
