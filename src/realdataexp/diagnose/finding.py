"""What a check found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["ok", "fault", "cannot tell"]


@dataclass(frozen=True)
class Measured:
    """What a check measured.

    Attributes:
        is_fault: whether it is beyond what a training without the fault would show.
        value: the figure; None: there is none.
        bound: what it is compared with, which separates the two.
        said: the figure in words, with its null or bound.
        advice: what to do about it, where it is a fault.
    """

    is_fault: bool
    value: float | None
    bound: float | None
    said: str
    advice: str


@dataclass(frozen=True)
class Finding:
    """A check's answer, as the report has it."""

    check: str
    subject: str
    verdict: Verdict
    value: float | None
    bound: float | None
    seconds: float
    said: str
    advice: str
