"""Worlds from outside the package, held to what they promise.

Axes: R replications, W worlds, B visits, C candidates, L labels, U users.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import (
    InstanceOf,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    TypeAdapter,
    ValidationError,
)
from torch import Tensor

from realdataexp.config import Config
from realdataexp.contracts import BOOLS, FLOATS, INTEGERS, check_values, described, fit
from realdataexp.device import Device
from realdataexp.errors import InputError, Warnings
from realdataexp.models import Batch, FeatureSchema
from realdataexp.registry import Unfit, calling, reason
from realdataexp.worlds.base import (
    Environment,
    HeldOut,
    RowSource,
    Slate,
    Visits,
    World,
    WorldConfig,
    WorldSettings,
)

_N_LOOKED_AT = 8


class OutsideConfig:
    """A world from outside as a config names it; has the methods of WorldConfig."""

    _RETURNED: ClassVar[dict[str, tuple[Any, str]]] = {
        "faults": (list[str], "a list of texts"),
        "doubts": (list[tuple[str, str]], "a list of codes with messages"),
        "found": (tuple[str, list[Path]], "a text and a list of paths"),
        "prepare": (tuple[str, dict[str, Any]], "a text and a dict of counts"),
        "inputs": (InstanceOf[FeatureSchema], "FeatureSchema"),
        "made_bytes": (NonNegativeInt, "a whole number of bytes"),
        "sizes": (list[tuple[str, int, PositiveInt]], "a list of (key, value, what is usual)"),
        "scatter": (NonNegativeFloat, "a number"),
    }

    def __init__(self, world: WorldConfig) -> None:
        self._world, self._who = world, f"dataset.name = {world.name!r}"

    def open(self, config: Config, device: Device, warnings: Warnings) -> OutsideEnvironment:
        """See WorldConfig."""
        with calling(self._who, "open()", InputError):
            found = _of_kind(self._world.open(config, device, warnings), Environment)
        return OutsideEnvironment(found, self._who)

    def __getattr__(self, method: str) -> Callable[..., Any]:
        if method not in self._RETURNED:
            raise AttributeError(method)
        kind, words = self._RETURNED[method]

        def ask(*args: Any) -> Any:
            with calling(self._who, f"{method}()", InputError):
                found = getattr(self._world, method)(*args)
                try:
                    return TypeAdapter(kind).validate_python(found)
                except ValidationError as error:
                    raise Unfit(f"returned {described(found)}; wanted {words}") from error

        return ask


def _asking(method: str, *kinds: type) -> Any:
    """A method that asks the component from outside for its own, which must return these types."""

    def ask(self: OutsideEnvironment | OutsideWorld, *args: Any) -> Any:
        with calling(self.who, f"{method}()"):
            return _of_kind(getattr(self.own, method)(*args), *kinds)

    return ask


def _of_kind(value: Any, *kinds: type) -> Any:
    if isinstance(value, kinds):
        return value
    names = " or ".join("None" if x is type(None) else x.__name__ for x in kinds)
    raise Unfit(f"returned {described(value)}; wanted {names}")


class OutsideEnvironment(Environment):
    """An environment from outside; see Environment."""

    tastes = _asking("tastes", np.ndarray, type(None))
    stats = _asking("stats", dict)
    identity = _asking("identity", dict)
    description = _asking("description", list)

    def __init__(self, environment: Environment, who: str) -> None:
        self.own, self.who = environment, who
        with calling(who, "its schema"):
            self.schema = _of_kind(environment.schema, FeatureSchema)
        self.has_exchangeable_candidates = bool(environment.has_exchangeable_candidates)
        self.has_memory = bool(environment.has_memory)
        with calling(who, "n_shown"):
            if type(environment.n_shown) is not int or environment.n_shown < 1:
                raise Unfit(f"is {environment.n_shown!r}; wanted a whole number of 1 or more")
        self.n_shown = environment.n_shown
        self._n_popular: int | None = None  # videos that popularity() numbers, once it is asked

    def label_values(self, target: str) -> Iterator[np.ndarray]:
        """See Environment."""
        if type(self.own).label_values is Environment.label_values:
            yield from super().label_values(target)  # of rows that are looked at
            return
        with calling(self.who, "label_values()"):
            for y_N in self.own.label_values(target):
                yield _of_kind(y_N, np.ndarray)

    def pretraining(self, targets: Sequence[str], start: int) -> RowSource:
        """See Environment."""
        with calling(self.who, "pretraining()"):
            rows = self.own.pretraining(targets, start)
            if type(getattr(rows, "n_rows", None)) is not int:
                raise Unfit(f"returned {described(rows)}, whose n_rows is no whole number")
        return _OutsideRows(rows, len(targets), self)

    def held_out(
        self, targets: Sequence[str], n_visits: int, n_candidates: int, start: int
    ) -> HeldOut:
        """See Environment."""
        with calling(self.who, "held_out()"):
            args = targets, n_visits, n_candidates, start
            found: HeldOut = _of_kind(self.own.held_out(*args), HeldOut)
            B, C = len(found.y_BCL), found.y_BCL.shape[1] if found.y_BCL.dim() == 3 else 0
            axes = "visits, candidates, labels"
            fit(found.y_BCL, FLOATS, (B, C, len(targets)), axes, found.y_BCL)
            fit(found.is_candidate_BC, BOOLS, (B, C), axes[:18], found.y_BCL)
            self.check_batch(found.batch, (1,), B, C)
        return found

    def history(self, targets: Sequence[str], start: int) -> np.ndarray | None:
        """See Environment."""
        with calling(self.who, "history()"):
            found = _of_kind(self.own.history(targets, start), np.ndarray, type(None))
            if found is not None and found.shape[1:] != (len(targets),):
                raise Unfit(f"returned shape {found.shape}; wanted users, {len(targets)} labels")
            return found

    def popularity(self, start: int) -> np.ndarray | None:
        """See Environment."""
        with calling(self.who, "popularity()"):
            found = _of_kind(self.own.popularity(start), np.ndarray, type(None))
            if found is not None and (
                found.ndim != 1 or found.dtype.kind not in "iuf" or not np.isfinite(found).all()
            ):
                said = f"{found.dtype} of shape {found.shape}"
                raise Unfit(f"returned {said}; wanted a finite number for each video")
            n = None if found is None else len(found)
            if start and n != self._n_popular:
                raise Unfit(
                    f"returned numbers of {n} videos for start {start} and of {self._n_popular} "
                    "for start 0; wanted the same videos, or None for all starts"
                )
            self._n_popular = n
            return found

    def world(self, targets: Sequence[str], settings: WorldSettings) -> OutsideWorld:
        """See Environment."""
        with calling(self.who, "world()"):
            found = _of_kind(self.own.world(targets, settings), World)
        return OutsideWorld(found, len(targets), settings, self)

    def check_batch(self, batch: Any, stacks: tuple[int, ...], n_visits: int, n_items: int) -> None:
        """Raise `Unfit` for inputs that are not those of the schema; ``stacks`` are possible S."""
        given, wanted = _of_kind(batch, Batch).tensors, self.schema.inputs
        if given.keys() != wanted.keys():
            said = ", ".join(sorted(given.keys() ^ wanted.keys()))
            raise Unfit(f"returned inputs that differ from those of its schema: {said}")
        S = batch.shape[0]
        if S not in stacks:
            raise Unfit(f"returned inputs for {S} in front; wanted {' or '.join(map(str, stacks))}")
        for name, own in wanted.items():
            of_sequence = given[name].shape[2:3]
            each = {"visit": (), "candidate": (n_items,), "sequence": of_sequence}[own.axis]
            kinds = FLOATS if own.n_ids is None else INTEGERS
            shape = (S, n_visits, *each, *own.shape)
            fit(given[name], kinds, shape, f"{name}, as the schema has it", given[name])

    # --- before a run ------------------------------------------------------------------------

    def rehearse(self, targets: Sequence[str], settings: WorldSettings) -> None:
        """Raise a ComponentError for odd values, and draws that are no function of the seed."""
        rows = self.pretraining(targets, 0)
        batch, _ = rows.read(np.arange(min(_N_LOOKED_AT, rows.n_rows)))
        with calling(self.who, "pretraining()"):
            check_values(batch.candidate["video_num"], "inputs")
        self.held_out(targets, settings.batch_size, settings.n_candidates, 0)
        first, second = (self.world(targets, settings) for _ in range(2))
        answers = []
        for world in (first, second):
            visits = world.draw(0)
            slate = world.slate(visits)
            choice_WB = slate.is_candidate_WBC.int().argmax(-1)
            answers.append((slate, world.feedback(visits, slate, choice_WB)))
        with calling(self.who, "slate()"):
            check_values(answers[0][0].batch.candidate["video_num"], "inputs")
            last = int(answers[0][0].video_WBC.max())
            if self._n_popular is not None and last >= self._n_popular:
                raise Unfit(f"showed video {last}; popularity() numbers only {self._n_popular}")
        with calling(self.who, "feedback()"):
            (slate, y_WBL), (again, other_WBL) = answers
            is_same = torch.equal(slate.item_WBC, again.item_WBC)
            if not is_same or not torch.allclose(y_WBL, other_WBL, equal_nan=True):
                raise Unfit(
                    "and slate() gave another slate or answer the second time: draw with "
                    "realdataexp.draws, whose numbers are a function of a key"
                )
        with calling(self.who, "load_state()"):
            second.load_state(first.state())


class _OutsideRows:
    """Rows from outside; see RowSource."""

    def __init__(self, rows: RowSource, n_targets: int, environment: OutsideEnvironment) -> None:
        self.n_rows = rows.n_rows
        self._rows, self._n_targets, self._environment = rows, n_targets, environment

    def read(self, place_B: np.ndarray) -> tuple[Batch, list[Tensor]]:
        """See RowSource."""
        with calling(self._environment.who, "read() of pretraining()"):
            batch, y_L = _of_kind(self._rows.read(place_B), tuple)
            self._environment.check_batch(batch, (1,), len(place_B), 1)
            if len(y_L) != self._n_targets:
                raise Unfit(f"returned {len(y_L)} labels; wanted {self._n_targets}")
            for y_1B in y_L:
                fit(y_1B, FLOATS, (1, len(place_B)), "1, rows", batch.candidate["video_num"])
            return batch, [y_1B.float() for y_1B in y_L]


class OutsideWorld(World):
    """A world from outside, its replications running; see World."""

    state = _asking("state", dict)

    def __init__(
        self, world: World, n_targets: int, settings: WorldSettings, environment: OutsideEnvironment
    ) -> None:
        self.own, self._n_targets, self._environment = world, n_targets, environment
        self._settings, self.who = settings, environment.who
        R = len(settings.replications)
        self._R, self._W, self._B = R, R * settings.n_blocks, settings.batch_size

    @property
    def has_visitors(self) -> bool:
        """See World."""
        with calling(self.who, "has_visitors"):
            return bool(self.own.has_visitors)

    def draw(self, step: int) -> Visits:
        """See World."""
        with calling(self.who, "draw()"):
            v: Visits = _of_kind(self.own.draw(step), Visits)
            shape, axes, like = (self._R, self._B), "replications, visits", v.is_visit_RB
            for value, kinds in (
                (v.user_RB, INTEGERS),
                (v.is_visit_RB, BOOLS),
                (v.arm_draw_RB, FLOATS),
                (v.n_candidates_RB, INTEGERS),
            ):
                fit(value, kinds, shape, axes, like)
            fit(v.replication_R, INTEGERS, shape[:1], "replications", v.replication_R)
            fit(v.share_short_R, FLOATS, shape[:1], "replications", v.share_short_R)
            return v

    def slate(self, visits: Visits) -> Slate:
        """See World."""
        with calling(self.who, "slate()"):
            s: Slate = _of_kind(self.own.slate(visits), Slate)
            C = self._settings.n_candidates
            shape, axes = (self._W, self._B, C), "worlds, visits, candidates"
            fit(s.is_candidate_WBC, BOOLS, shape, axes, visits.is_visit_RB)
            fit(s.item_WBC, INTEGERS, shape, axes, visits.is_visit_RB)
            fit(s.video_WBC, INTEGERS, shape, axes, visits.is_visit_RB)
            self._environment.check_batch(s.batch, (self._R, self._W), self._B, C)
            return s

    def taken(self, visits: Visits, slate: Slate, shown_WBK: Tensor) -> Tensor:
        """See World."""
        with calling(self.who, "taken()"):
            found = self.own.taken(visits, slate, shown_WBK)
            return fit(found, INTEGERS, (self._W, self._B), "worlds, visits", shown_WBK)

    def feedback(self, visits: Visits, slate: Slate, choice_WB: Tensor) -> Tensor:
        """See World; as float32."""
        with calling(self.who, "feedback()"):
            y_WBL = self.own.feedback(visits, slate, choice_WB)
            shape = (self._W, self._B, self._n_targets)
            return fit(y_WBL, FLOATS, shape, "worlds, visits, labels", choice_WB).float()

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """See World; whatever it raises says that the state is another's."""
        try:
            self.own.load_state(tensors)
        except Exception as error:
            raise ValueError(f"{self.who}: load_state() raised {reason(error)}") from error
