"""The doctor's findings on the terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.text import Text

from realdataexp.errors import one_line

_SIGNS = {"ok": ("ok  ", "green"), "warning": ("warn", "yellow"), "stop": ("STOP", "bold red")}


def print_findings(findings: Sequence[Mapping[str, str]], console: Console | None = None) -> None:
    """Print a line for each finding, what to do about it below, and a verdict."""
    console = console or Console(highlight=False)
    width = max((len(finding["check"]) for finding in findings), default=0)
    indent = " " * (width + 7)
    for finding in findings:
        sign, style = _SIGNS[finding["status"]]
        lines = _lines(finding["text"], console.width - len(indent))
        head = Text.assemble((sign, style), f" {finding['check'].ljust(width)}  {lines[0]}")
        console.print(head, soft_wrap=True)
        if finding["remedy"]:
            lines += _lines(f"→ {finding['remedy']}", console.width - len(indent))
        for line in lines[1:]:
            console.print(Text(indent + line), soft_wrap=True)
    n_stops, n_warnings = (
        sum(finding["status"] == status for finding in findings) for status in ("stop", "warning")
    )
    verdict = f"{n_stops} would stop a run" if n_stops else "nothing would stop a run"
    console.print(Text(f"{verdict}, warnings: {n_warnings}", style="bold"), soft_wrap=True)


def _lines(text: str, width: int) -> list[str]:
    """The text in lines; paths stay whole."""
    wrapped = textwrap.wrap(
        one_line(text), max(30, width), break_long_words=False, break_on_hyphens=False
    )
    return wrapped or [""]
