"""What a measurement says: a figure, its floor, and what a user would write otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Better = Literal["higher", "lower"]


@dataclass(frozen=True)
class Reference:
    """What a figure is compared with, measured in the same run and in the figure's unit.

    Attributes:
        what: it in a few words.
        value: positive.
    """

    what: str
    value: float


@dataclass(frozen=True)
class Figure:
    """One measured number.

    Attributes:
        name: what was measured, the same in every run of a size.
        value: in ``unit``.
        better: whether more of it is better, or less; so for the ratios too.
        floor: the best that the machine could do, whoever writes the code.
        peer: what a user would write or do otherwise.
        limit: a bound that the figure shall keep, in ``unit``.
        n_repeats: the value is the median of so many.
        note: what one should know to read it.
    """

    name: str
    value: float
    unit: str
    better: Better = "higher"
    floor: Reference | None = None
    peer: Reference | None = None
    limit: float | None = None
    n_repeats: int = 1
    note: str = ""

    def ratios(self) -> dict[str, float]:
        """The figure over its references: what is stored in a baseline."""
        there = {"floor": self.floor, "peer": self.peer}
        return {kind: self.value / x.value for kind, x in there.items() if x is not None}

    def as_json(self, measurement: str) -> dict[str, Any]:
        """The figure as plain values."""
        ratios = self.ratios()
        references = {
            kind: None if x is None else {"what": x.what, "value": x.value, "ratio": ratios[kind]}
            for kind, x in (("floor", self.floor), ("peer", self.peer))
        }
        return {
            "measurement": measurement,
            "name": self.name,
            "value": self.value,
            "unit": self.unit,
            "better": self.better,
            "n_repeats": self.n_repeats,
            **references,
            "limit": self.limit,
            "note": self.note,
        }


def memory(name: str, found: Mapping[str, Any], **more: Any) -> Figure:
    """The peak memory of a process beside that of importing its modules.

    Args:
        name: the figure's.
        found: what ``process.measure`` says.
        more: of the figure.
    """
    bare = Reference("its modules alone", found["modules_mib"])
    return Figure(name, found["peak_mib"], "MiB", "lower", floor=bare, **more)
