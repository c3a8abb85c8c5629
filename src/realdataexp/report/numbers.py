"""How numbers are written for people: short, never cut, comparable down a column."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

_UNITS = ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k"))
_SHORTENED_FROM = 1e5


def number(value: float | None) -> str:
    """Four significant digits: 12,345 or 54.95 M or 0.001234; "-" where there is no number."""
    if value is None:
        return "-"
    if abs(value) >= 1e15:
        return f"{value:.3e}"
    if abs(value) >= _SHORTENED_FROM:
        divisor, unit = _unit(abs(value))
        return f"{value / divisor:.4g}{unit}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def percent(value: float | None) -> str:
    """A change in percent with its sign: +12.7 % or -4,680 %; "-" where there is no number."""
    if value is None:
        return "-"
    return f"{value:+,.0f} %" if abs(value) >= 100 else f"{value:+.3g} %"


@dataclass(frozen=True)
class Scale:
    """One unit and one number of decimals for all numbers that stand together.

    Attributes:
        divisor: what numbers are divided by. unit: its sign, such as " M".
        decimals: digits after the point.
    """

    divisor: float = 1.0
    unit: str = ""
    decimals: int = 0

    @classmethod
    def of(cls, values: Iterable[float | None], errors: Iterable[float | None]) -> Scale:
        """A scale that shows two digits of the smallest error, or four of the largest value."""
        sizes = [abs(v) for v in values if v]
        precisions = [abs(e) for e in errors if e]
        largest = max([*sizes, *precisions], default=0.0)
        if not largest:
            return cls()
        divisor, unit = _unit(largest)
        last = _exponent(min(precisions)) - 1 if precisions else _exponent(largest) - 3
        last = max(last, _exponent(largest) - 6)  # no more than seven digits
        return cls(divisor, unit, max(0, _exponent(divisor) - last))

    def text(self, value: float | None) -> str:
        """The number on this scale; "-" where there is none."""
        if value is None:
            return "-"
        text = f"{value / self.divisor:,.{self.decimals}f}"
        if text.startswith("-") and not text.strip("-0.,"):
            text = text[1:]  # -0.00
        return text + self.unit


def _unit(size: float) -> tuple[float, str]:
    """The unit that a number of this size is written in."""
    return next((u for u in _UNITS if size >= max(u[0], _SHORTENED_FROM)), (1.0, ""))


def _exponent(value: float) -> int:
    return math.floor(math.log10(value))
