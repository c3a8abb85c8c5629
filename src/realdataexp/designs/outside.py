"""Designs from outside the package, held to what they promise.

Axes: R replications, B visits, C candidates, M models.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import is_dataclass
from typing import Any

from torch import Tensor

from realdataexp.contracts import BOOLS, FLOATS, INTEGERS, described, fit, unchanged
from realdataexp.designs.base import Context, Design, Outcome
from realdataexp.registry import Unfit, calling, reason
from realdataexp.worlds.base import Slate, Visits


class OutsideDesign:
    """A design from outside, or what it returned from its start; has the methods of Design."""

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
        kind = type(design)
        self.has_own_candidates = getattr(kind, "candidates", None) is not Design.candidates
        self.is_credited = getattr(kind, "shown", None) is not Design.shown
        with calling(who, "n_models"):
            if type(design.n_models) is not int or design.n_models not in (1, 2):
                raise Unfit(
                    f"is {design.n_models!r}; wanted 1 (both arms rank with one model) or 2"
                )

    def start(self, context: Context) -> OutsideDesign:
        """See Design."""
        with calling(self.who, "start()"):
            started = self._design.start(context)
            wanted = (*_CHECKS, "load_state")
            if lacking := [x for x in wanted if not callable(getattr(started, x, None))]:
                raise Unfit(
                    f"returned {described(started)}, which lacks {', '.join(lacking)}; wanted the "
                    "design, or a copy of it that remembers"
                )
        return OutsideDesign(self._design, self.who, started)

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """See Design; whatever it raises says that the state is another's."""
        try:
            self._started.load_state(tensors)
        except Exception as error:
            raise ValueError(f"{self.who}: load_state() raised {reason(error)}") from error

    def __getattr__(self, method: str) -> Callable[..., Any]:
        if method not in _CHECKS:
            raise AttributeError(method)

        def ask(*given: Any) -> Any:
            with calling(self.who, f"{method}()"), unchanged(_tensors(given)):
                found = getattr(self._started, method)(*given)
                return _CHECKS[method](found, self.n_models, *given)

        return ask


def _tensors(of: Any, name: str = "is_treated_RB") -> dict[str, Tensor]:
    """The tensors in what a design is given, by name."""
    if isinstance(of, Tensor):
        return {name: of}
    if isinstance(of, tuple):
        return {k: x for part in of for k, x in _tensors(part).items()}
    parts = vars(of) if is_dataclass(of) else of if isinstance(of, dict) else {}
    return {k: x for name, part in parts.items() for k, x in _tensors(part, name).items()}


def _of_visits(found: Any, n_models: int, visits: Visits, *_: Any, kinds: Any = BOOLS) -> Tensor:
    like = visits.is_visit_RB
    return fit(found, kinds, like.shape, "replications, visits", like)


def _unit(found: Any, n_models: int, visits: Visits) -> Tensor | None:
    return None if found is None else _of_visits(found, n_models, visits, kinds=INTEGERS)


def _candidates(found: Any, n_models: int, visits: Visits, slate: Slate, *_: Any) -> Tensor:
    like = slate.is_candidate_WBC
    return fit(found, BOOLS, like.shape, "replications, visits, candidates", like)


def _shown(
    found: Any, n_models: int, visits: Visits, list_RABK: Tensor, *_: Any
) -> tuple[Tensor, Tensor] | None:
    if found is None:
        return None
    if not (isinstance(found, tuple) and len(found) == 2):
        raise Unfit(f"returned {described(found)}; wanted None, or the lists and whose places are")
    like, axes = list_RABK[:, 0], "replications, visits, places"
    list_RBK = fit(found[0], INTEGERS, like.shape, axes, like)
    return list_RBK, fit(found[1], BOOLS, like.shape, axes, like)


def _weights(found: Any, n_models: int, outcome: Outcome) -> Tensor:
    (R, B), kinds = outcome.is_treated_RB.shape, (*FLOATS, *INTEGERS, *BOOLS)
    axes = "replications, models, visits"
    return fit(found, kinds, (R, n_models, B), axes, outcome.is_treated_RB).float()


def _share(found: Any, *_: Any) -> float:
    if not (isinstance(found, int | float) and 0.0 <= found <= 1.0):
        raise Unfit(f"returned {found!r}; wanted a share from 0 to 1")
    return float(found)


def _inflation(found: Any, n_models: int, outcome: Outcome, weight_RMB: Tensor) -> Tensor | None:
    if found is None:
        return None
    R, like = len(weight_RMB), outcome.is_treated_RB
    found = fit(found, (*FLOATS, *INTEGERS), (R, n_models), "replications, models", like)
    return found.float()


def _state(found: Any, *_: Any) -> dict[str, Tensor]:
    if not isinstance(found, dict):
        raise Unfit(f"returned {described(found)}; wanted a dict of tensors by name")
    for name, tensor in found.items():
        if not (isinstance(name, str) and isinstance(tensor, Tensor)):
            raise Unfit(f"returned {described(tensor)} as {name!r}; wanted a tensor")
    return found


def _evidence(found: Any, *_: Any) -> dict[str, Tensor]:
    for name, tensor in _state(found).items():
        if tensor.device.type != "cpu" or tensor.dim() == 0:
            raise Unfit(
                f"returned {described(tensor)} on {tensor.device} as {name}; wanted one on the "
                "host that counts replications in front"
            )
    return found


def _diagnostics(found: Any, *_: Any) -> dict[str, float]:
    if not isinstance(found, dict):
        raise Unfit(f"returned {described(found)}; wanted a dict of numbers by name")
    return {str(name): float(value) for name, value in found.items()}


# What each method may return: (what it did, the design's models, what it was given) -> the same.
_CHECKS: dict[str, Callable[..., Any]] = {
    "assign": _of_visits, "candidates": _candidates, "weights": _weights, "counts": _of_visits,
    "unit": _unit, "shown": _shown, "treated_share": _share, "inflation": _inflation,
    "state": _state, "evidence": _evidence, "diagnostics": _diagnostics,
}  # fmt: skip
