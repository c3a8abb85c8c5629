"""Progress of a long run: a bar on a terminal, a plain line now and then elsewhere.

The bar stays below the log lines: rich puts above it what is written to sys.stderr meanwhile, and
the command line's handler writes to the sys.stderr of the moment. Nothing of it is ever wrapped:
what a narrow terminal has no room for is left out.
"""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

import polars as pl
from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from realdataexp.errors import one_line
from realdataexp.report.numbers import percent
from realdataexp.stats.estimates import TRUTH, relative_effects

logger = logging.getLogger("realdataexp")

_SECONDS_BETWEEN_LINES = 10.0
_SECONDS_BETWEEN_NOTES = 2.0  # of a bar
_LEAST_BAR, _LARGEST_BAR = 8, 40
_GAP = "  "


class PhaseProgress:
    """Counts one phase's units up to a total; use as a context manager."""

    def __init__(self, phase: str, total: int, unit: str) -> None:
        self._phase, self._total, self._unit = phase, total, unit
        self._done = self._done_before = 0
        self._start = self._last_line = time.monotonic()
        self._last_notes = -math.inf
        self._bar: _Bar | None = None

    def __enter__(self) -> PhaseProgress:
        is_shown = any(
            isinstance(h, logging.StreamHandler) and h.level <= logging.INFO
            for h in logger.handlers
        )
        console = bar_console() if is_shown else None
        if console is not None:
            self._bar = _Bar(self._phase, console)
            self._bar.start()
            self._task = self._bar.add_task(self._phase, total=self._total, rate="")
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.refresh()  # a phase too short for its own pace shows once, too
            self._bar.stop()

    def skip(self, n: int) -> None:
        """Count ``n`` units that an earlier process did: they say nothing about the speed."""
        self._done += n
        self._done_before += n

    def advance(self, n: int, notes: Callable[[], Sequence[str]] = list) -> None:
        """Count ``n`` more units; what else to show is asked for only now and then."""
        self._done += n
        now = time.monotonic()
        rate = (self._done - self._done_before) / max(now - self._start, 1e-9)
        text = f"{rate:,.0f} {self._unit}/s" if rate >= 10 else f"{rate:.2g} {self._unit}/s"
        if self._bar is not None:
            if now - self._last_notes >= _SECONDS_BETWEEN_NOTES:
                self._bar.notes, self._last_notes = notes(), now
            self._bar.update(self._task, completed=self._done, rate=text)
        elif now - self._last_line >= _SECONDS_BETWEEN_LINES and self._done < self._total:
            left = _duration((self._total - self._done) / rate)
            logger.info(
                "[%s] %s of %s %s, %s, %s left%s",
                self._phase, f"{self._done:,}", f"{self._total:,}", self._unit, text, left,
                "".join(f"; {note}" for note in notes()),
            )  # fmt: skip
            self._last_line = now


class _Bar(Progress):
    """A bar in a line of its own, and a line of notes below it."""

    notes: Sequence[str] = ()

    def __init__(self, phase: str, console: Console) -> None:
        self._stretch = bar = BarColumn()
        speed, left = TextColumn("{task.fields[rate]}", markup=False), TimeRemainingColumn()
        name = TextColumn(phase, style="bold", markup=False)
        self._whole: tuple[ProgressColumn, ...] = (name, bar, MofNCompleteColumn(), speed, left)
        self._dispensable = (speed, bar, left, name)  # the least needed first
        super().__init__(*self._whole, console=console, refresh_per_second=4, transient=True)

    def get_renderables(self) -> Iterable[RenderableType]:
        """The bar's line without what there is no room for, then that of the notes."""
        for task in self.tasks:
            widths = {column: _width(column, task) for column in self._whole}
            for column in self._dispensable:
                if self._room(widths) < 0:
                    del widths[column]
            self._stretch.bar_width = min(_LARGEST_BAR, _LEAST_BAR + max(0, self._room(widths)))
            self.columns = tuple(widths)
        yield from super().get_renderables()
        if self.notes:
            line = one_line(fitted(self.notes, self.console.width))
            yield Text(line, no_wrap=True, overflow="crop")

    def _room(self, widths: Mapping[ProgressColumn, int]) -> int:
        """How much of the line is left beside these columns and the gaps between them."""
        return self.console.width - sum(widths.values()) - len(widths) + 1


def _width(column: ProgressColumn, task: Task) -> int:
    """The columns of the terminal that one of the bar's needs; a bar takes what there is."""
    shown = column(task)
    return shown.cell_len if isinstance(shown, Text) else _LEAST_BAR


def bar_console() -> Console | None:
    """What a bar can be drawn on: stderr where it is a terminal that moves its cursor."""
    console = Console(stderr=True)
    can_draw = sys.stderr.isatty() and console.is_terminal and not console.is_dumb_terminal
    return console if can_draw else None


def fitted(notes: Sequence[str], width: int) -> str:
    """As many notes, the most important first, as have room, and if it has a sign of more."""
    for n in range(len(notes), 0, -1):
        line = _GAP.join(notes[:n])
        signed = f"{line}{_GAP}…" if n < len(notes) else line
        if cell_len(line) <= width:
            return signed if cell_len(signed) <= width else line
    return ""


def effects_so_far(totals: pl.DataFrame, n_starts: int = 1) -> list[str]:
    """A note for each label: its effect so far in percent of control, ± its standard error.

    The first says whose: GTE, or the design. For the totals see ``relative_effects``.
    """
    notes: list[str] = []
    for effect in relative_effects(totals, n_starts):
        size = percent(effect.percent)
        if effect.se:
            decimals = max(0, -math.floor(math.log10(effect.se)))
            size = f"{effect.percent:+,.{decimals}f} ± {effect.se:,.{decimals}f} %"
        whose = "" if notes else f"{'GTE' if effect.design == TRUTH else effect.design}: "
        notes.append(f"{whose}{effect.label} {size}")
    return notes


def _duration(seconds: float) -> str:
    """Short: 45 s, 12 min, 3.5 h."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
