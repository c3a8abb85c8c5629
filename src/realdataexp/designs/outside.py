"""Designs from outside the package, held to what they promise.

Axes: R replications, B visits, C candidates, M models.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from realdataexp.contracts import BOOLS, FLOATS, INTEGERS, described, fit, unchanged
from realdataexp.designs.base import Context, Design, Outcome
from realdataexp.registry import Unfit, calling, reason
from realdataexp.worlds.base import Slate, Visits

_METHODS = (
    "assign", "candidates", "weights", "counts", "unit", "state", "load_state", "evidence",
)  # fmt: skip


class OutsideDesign:
    """A design from outside, or what it returned from its start; see Design."""

    def __init__(self, design: Design, who: str, started: Design | None = None) -> None:
        """Take a design.

        Args:
            design: the component.
            who: the config path and the name of the component.
            started: what its ``start`` returned.

        Raises:
            ComponentError: it has a number of models that no design has.
        """
        self._design, self.who = design, who
        self._started = design if started is None else started
        self.n_models = design.n_models
        with calling(who, "n_models"):
            if type(design.n_models) is not int or design.n_models not in (1, 2):
                raise Unfit(
                    f"is {design.n_models!r}; wanted 1 (both arms rank with one model) or 2"
                )

    def start(self, context: Context) -> OutsideDesign:
        """See Design."""
        with calling(self.who, "start()"):
            started = self._design.start(context)
            if lacking := [x for x in _METHODS if not callable(getattr(started, x, None))]:
                raise Unfit(
                    f"returned {described(started)}, which lacks {', '.join(lacking)}; wanted the "
                    "design, or a copy of it that remembers"
                )
        return OutsideDesign(self._design, self.who, started)

    def assign(self, visits: Visits, p: float) -> Tensor:
        """See Design."""
        with calling(self.who, "assign()"), unchanged(_tensors(visits)):
            return _of_visits(self._started.assign(visits, p), visits)

    def candidates(self, visits: Visits, slate: Slate, is_treated_RB: Tensor) -> Tensor:
        """See Design."""
        given = _tensors(visits) | _tensors(slate) | {"is_treated_RB": is_treated_RB}
        with calling(self.who, "candidates()"), unchanged(given):
            allowed = self._started.candidates(visits, slate, is_treated_RB)
            like = slate.is_candidate_WBC
            return fit(allowed, BOOLS, like.shape, "replications, visits, candidates", like)

    def weights(self, outcome: Outcome) -> Tensor:
        """See Design; as float32."""
        given = {
            **_tensors(outcome.visits), **_tensors(outcome.slate), **_tensors(outcome),
        }  # fmt: skip
        with calling(self.who, "weights()"), unchanged(given):
            R, B = outcome.is_treated_RB.shape
            return fit(
                self._started.weights(outcome),
                (*FLOATS, *INTEGERS, *BOOLS),
                (R, self.n_models, B),
                "replications, models, visits",
                outcome.is_treated_RB,
            ).float()

    def counts(self, visits: Visits) -> Tensor:
        """See Design."""
        with calling(self.who, "counts()"), unchanged(_tensors(visits)):
            return _of_visits(self._started.counts(visits), visits)

    def unit(self, visits: Visits) -> Tensor | None:
        """See Design."""
        with calling(self.who, "unit()"), unchanged(_tensors(visits)):
            unit = self._started.unit(visits)
            return None if unit is None else _of_visits(unit, visits, INTEGERS)

    def state(self) -> dict[str, Tensor]:
        """See Design."""
        with calling(self.who, "state()"):
            return _named(self._started.state())

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """See Design; whatever it raises says that the state is another's."""
        try:
            self._started.load_state(tensors)
        except Exception as error:
            raise ValueError(f"{self.who}: load_state() raised {reason(error)}") from error

    def evidence(self) -> dict[str, Tensor]:
        """See Design."""
        with calling(self.who, "evidence()"):
            found = _named(self._started.evidence())
            for name, tensor in found.items():
                if tensor.device.type != "cpu" or tensor.dim() == 0:
                    raise Unfit(
                        f"returned {described(tensor)} on {tensor.device} as {name}; wanted one "
                        "on the host that counts replications in front"
                    )
            return found

    def diagnostics(self, evidence: Mapping[str, Tensor], p: float) -> dict[str, float]:
        """See Design."""
        with calling(self.who, "diagnostics()"):
            found: Any = self._design.diagnostics(evidence, p)
            if not isinstance(found, dict):
                raise Unfit(f"returned {described(found)}; wanted a dict of numbers by name")
            return {str(name): float(value) for name, value in found.items()}


def _tensors(of: Any) -> dict[str, Tensor]:
    return {name: x for name, x in vars(of).items() if isinstance(x, Tensor)}


def _of_visits(value: Any, visits: Visits, kinds: Any = BOOLS) -> Tensor:
    like = visits.is_visit_RB
    return fit(value, kinds, like.shape, "replications, visits", like)


def _named(tensors: Any) -> dict[str, Tensor]:
    if not isinstance(tensors, dict):
        raise Unfit(f"returned {described(tensors)}; wanted a dict of tensors by name")
    for name, tensor in tensors.items():
        if not (isinstance(name, str) and isinstance(tensor, Tensor)):
            raise Unfit(f"returned {described(tensor)} as {name!r}; wanted a tensor")
    return tensors
