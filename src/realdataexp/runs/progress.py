"""Progress of a long run: a bar on a terminal, a plain line now and then elsewhere.

The bar stays below the log lines: rich puts above it what is written to sys.stderr meanwhile, and
the command line's handler writes to the sys.stderr of the moment.
"""

from __future__ import annotations

import logging
import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

logger = logging.getLogger("realdataexp")

_SECONDS_BETWEEN_LINES = 10.0


class PhaseProgress:
    """Counts one phase's units up to a total; use as a context manager."""

    def __init__(self, phase: str, total: int, unit: str) -> None:
        self._phase, self._total, self._unit = phase, total, unit
        self._done, self._start, self._last_line = 0, time.monotonic(), time.monotonic()
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> PhaseProgress:
        is_shown = any(
            isinstance(h, logging.StreamHandler) and h.level <= logging.INFO
            for h in logger.handlers
        )
        if sys.stderr.isatty() and is_shown:
            self._bar = Progress(
                TextColumn(self._phase, style="bold", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            self._bar.start()
            self._task = self._bar.add_task(self._phase, total=self._total, rate="")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, n: int, note: str = "") -> None:
        """Count ``n`` more units."""
        self._done += n
        now = time.monotonic()
        rate = self._done / max(now - self._start, 1e-9)
        text = f"{rate:,.0f} {self._unit}/s {note}".strip()
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=self._done, rate=text)
        elif now - self._last_line >= _SECONDS_BETWEEN_LINES and self._done < self._total:
            left = (self._total - self._done) / rate
            logger.info(
                "[%s] %s of %s %s, %s, %.0f s left",
                self._phase, f"{self._done:,}", f"{self._total:,}", self._unit, text, left,
            )  # fmt: skip
            self._last_line = now
