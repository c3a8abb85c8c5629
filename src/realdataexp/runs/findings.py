"""A finding of the doctor: what was looked at, how it is, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Literal

from realdataexp.errors import InputError

Status = Literal["ok", "warning", "stop"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        check: what, such as "disk".
        status: ok; warning: a run goes on, but look at it; stop: a run would end here.
        text: what was found.
        remedy: what to do about it; empty where it is ok.
    """

    check: str
    status: Status
    text: str
    remedy: str = ""


def ok(check: str, text: str) -> Finding:
    """Nothing to do."""
    return Finding(check, "ok", text)


def warning(check: str, text: str, remedy: str) -> Finding:
    """Something that a run survives."""
    return Finding(check, "warning", text, remedy)


def stop(check: str, text: str, remedy: str) -> Finding:
    """Something that ends a run."""
    return Finding(check, "stop", text, remedy)


def stops(check: str, error: InputError, remedy: str = "mend this") -> list[Finding]:
    """A stop for each line of an input error.

    Args:
        check: what was looked at.
        error: its lines; behind the last `;` stands what to do, as a rule.
        remedy: for lines that do not say what to do.
    """
    findings = []
    for line in error.faults:
        text, _, own = line.rpartition("; ")
        is_told = bool(text) and not own.startswith("there is")
        findings.append(stop(check, text, own) if is_told else stop(check, line, remedy))
    return findings


def would_stop(findings: Iterable[Finding]) -> bool:
    """Whether something would end a run."""
    return any(finding.status == "stop" for finding in findings)


def as_mappings(findings: Iterable[Finding]) -> list[dict[str, str]]:
    """The findings as plain mappings, for JSON and for the terminal."""
    return [asdict(finding) for finding in findings]


def size(n_bytes: float) -> str:
    """A number of bytes for people."""
    return f"{n_bytes / 2**30:,.1f} GiB" if n_bytes >= 2**30 else f"{n_bytes / 2**20:,.0f} MiB"
