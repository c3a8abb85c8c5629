"""What is shown of a diagnosis: its checks, and what becomes of claims."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

from realdataexp.report.table import say

_SIGNS = {
    "ok": ("ok         ", "green"), "fault": ("FAULT      ", "bold red"),
    "cannot tell": ("cannot tell", "yellow"), "supported": ("supported  ", "bold red"),
    "refuted": ("refuted    ", "green"),
}  # fmt: skip
_INDENT = 13


def print_check(found: Mapping[str, Any], is_named: bool, console: Console | None = None) -> None:
    """A check's verdict, what it measured, and what to do; of one of several, its name too.

    What cannot be told is left to `print_untold`.
    """
    if found["verdict"] == "cannot tell":
        return
    console = console or Console(highlight=False)
    sign, style = _SIGNS[found["verdict"]]
    of = f" of {found['subject']}" if is_named else ""
    say(
        console, f"{sign}  {found['check']}{of} ({found['seconds']:.1f} s): {found['said']}", style,
        hang=" " * _INDENT,
    )  # fmt: skip
    if found["advice"]:
        say(console, f"{' ' * _INDENT}-> {found['advice']}", "", hang=" " * _INDENT)


def print_untold(checks: Sequence[Mapping[str, Any]], console: Console | None = None) -> None:
    """What could not be told, and why, a line for each reason."""
    console = console or Console(highlight=False)
    by_reason: dict[str, list[str]] = {}
    for x in checks:
        if x["verdict"] == "cannot tell":
            by_reason.setdefault(x["said"], []).append(x["check"])
    sign, style = _SIGNS["cannot tell"]
    for said, found in by_reason.items():
        of = ", ".join(dict.fromkeys(found))
        say(console, f"{sign}  {of}: {said}", style, hang=" " * _INDENT)


def print_claims(claims: list[dict[str, Any]], console: Console | None = None) -> None:
    """Each claim with its verdict."""
    console = console or Console(highlight=False)
    if claims:
        console.print()
        say(console, "Claims", "bold")
    for x in claims:
        sign, _ = _SIGNS[x["verdict"]]
        say(console, f"{sign}  {x['claim']} ({x['check']})", hang=" " * _INDENT)
