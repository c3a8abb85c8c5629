"""What is shown of a diagnosis: its checks, and what becomes of claims."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console

from realdataexp.report.table import say

_SIGNS = {
    "ok": ("ok         ", "green"), "fault": ("FAULT      ", "bold red"),
    "cannot tell": ("cannot tell", "yellow"), "supported": ("supported  ", "bold red"),
    "refuted": ("refuted    ", "green"),
}  # fmt: skip
_INDENT = 13


def print_check(found: Mapping[str, Any], console: Console | None = None) -> None:
    """A check's verdict, what it measured, and what to do."""
    console = console or Console(highlight=False)
    sign, style = _SIGNS[found["verdict"]]
    say(
        console, f"{sign}  {found['check']} ({found['seconds']:.1f} s): {found['said']}", style,
        hang=" " * _INDENT,
    )  # fmt: skip
    if found["advice"]:
        say(console, f"{' ' * _INDENT}-> {found['advice']}", "", hang=" " * _INDENT)


def print_claims(claims: list[dict[str, Any]], console: Console | None = None) -> None:
    """Each claim with its verdict."""
    console = console or Console(highlight=False)
    if claims:
        console.print()
        say(console, "Claims", "bold")
    for x in claims:
        sign, _ = _SIGNS[x["verdict"]]
        say(console, f"{sign}  {x['claim']} ({x['check']})", hang=" " * _INDENT)
