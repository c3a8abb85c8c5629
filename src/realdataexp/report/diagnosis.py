"""What is shown of a diagnosis: its checks, and what becomes of claims; terminal and tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

from realdataexp.report.numbers import number
from realdataexp.report.table import Cell, Table, say

_SIGNS = {
    "ok": ("ok         ", "green"), "fault": ("FAULT      ", "bold red"),
    "cannot tell": ("cannot tell", "yellow"), "supported": ("supported  ", "bold red"),
    "refuted": ("refuted    ", "green"),
}  # fmt: skip
_INDENT = 13
_KINDS = {"ok": "is-unbiased", "fault": "is-biased", "cannot tell": "is-inconclusive"}
_ORDER = ("fault", "ok", "cannot tell")
Found = Mapping[str, Any]


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
    n_told = Counter(x["check"] for x in checks if x["verdict"] != "cannot tell")
    for x in checks:
        if x["verdict"] == "cannot tell":
            name = f"{x['check']} of {x['subject']}" if n_told[x["check"]] else x["check"]
            by_reason.setdefault(x["said"], []).append(name)
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


# --- the page ------------------------------------------------------------------------------------


def headline(found: Found) -> list[str]:
    """What the checks come to, in sentences."""
    by_verdict = {verdict: [_name(x, found) for x in _of(found, verdict)] for verdict in _ORDER}
    n, faults = len(found["checks"]), by_verdict["fault"]
    told = f"{len(faults)} of {n} find a fault: {', '.join(faults)}" if faults else "None finds one"
    said = [f"{n} checks looked for faults. {told}"]
    if unknown := by_verdict["cannot tell"]:
        said.append(f"{len(unknown)} cannot tell, mostly for lack of a part: see why below")
    return said


def _of(found: Found, verdict: str) -> list[Found]:
    return [x for x in found["checks"] if x["verdict"] == verdict]


def _name(check: Found, found: Found) -> str:
    """A check's name and, where there are several subjects, whose."""
    return check["check"] + (f" of {check['subject']}" if len(found["subjects"]) > 1 else "")


def checks_table(found: Found) -> Table:
    """A row a check, faults first."""
    table = Table(
        "Faults first", "verdict", "value", "bound", "seconds", "what was measured", first="check"
    )
    for x in (x for verdict in _ORDER for x in _of(found, verdict)):
        table.add(
            _name(x, found), Cell(x["verdict"], kind=_KINDS[x["verdict"]]), _number(x["value"]),
            _number(x["bound"]), Cell(f"{x['seconds']:.1f}", x["seconds"]),
            Cell([x["said"], f"To do: {x['advice']}"] if x["advice"] else x["said"]),
        )  # fmt: skip
    return table


def claims_table(found: Found) -> Table:
    """A row a claim."""
    table = Table("Claims", "verdict", "check", "value", first="claim")
    for x in found["claims"]:
        table.add(x["claim"], x["verdict"], x["check"], _number(x["value"]))
    return table


def _number(value: float | None) -> Cell:
    return Cell("-" if value is None else number(value), value)


def record(found: Found) -> list[tuple[str, str]]:
    """What a diagnosis looked at, and with what."""
    named = {
        "subject": ", ".join(found["subjects"]), "seed": str(found["seed"]),
        "config, SHA-256": found["config_sha256"] or "-",
        "data, digest": ", ".join(dict.fromkeys(found["data"])) or "-",
    }  # fmt: skip
    return [*named.items(), *((name, str(x or "-")) for name, x in found["versions"].items())]
