"""Many configs from one: the points of a sweep, and the config of each.

A point is what it changes: values by their keys, which are those of ``--set``. A grid is every
value of each key with every value of the others; a zip takes the first values of its keys together,
then the second ones, and so on; points may be listed, too. What is asked in more than one of these
ways is combined: each with each.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from realdataexp.config.load import apply_to, checked_draft, draft_of, setting_at
from realdataexp.config.schema import Config
from realdataexp.config.yaml_text import parse_yaml, plain_copy, read_text
from realdataexp.errors import InputError
from realdataexp.options import check, show

Point = dict[str, Any]
Way = Literal["grid", "zip"]
MOST_POINTS = 10_000
_NAMED = 3  # points that a fault names


class _File(BaseModel):
    """The content of a file of points."""

    model_config = ConfigDict(extra="forbid", strict=True)

    grid: dict[str, list[Any]] = {}
    zip: dict[str, list[Any]] = {}
    points: list[dict[str, Any]] = []


@dataclass
class Asked:
    """What shall vary: the values of each key, and points as they are listed."""

    grid: dict[str, list[Any]] = field(default_factory=dict)
    zip: dict[str, list[Any]] = field(default_factory=dict)
    listed: list[Point] = field(default_factory=list)

    def add_texts(self, way: Way, texts: Sequence[str]) -> None:
        """Values as the command line has them: ``KEY=a,b,c`` each, the values in YAML.

        Raises:
            InputError: one is no such text.
        """
        for text in texts:
            key, equals, values = text.partition("=")
            if not equals or not key.strip() or not values.strip():
                example = "simulation.n_steps=50,100"
                raise InputError(f"--{way} {text[:60]}: must be KEY=a,b,c, such as {example}")
            found, _ = parse_yaml(f"[{values}]", f"--{way} {key.strip()}")
            self.add(way, {key.strip(): found}, f"--{way} ")

    def add_file(self, path: Path) -> None:
        """What a YAML file asks for: ``grid`` and ``zip`` (lists by key), and ``points``.

        Raises:
            InputError: there is no such file, or it holds something else.
        """
        try:
            values, faults = parse_yaml(read_text(path, str(path)), str(path))
        except FileNotFoundError:
            raise InputError(f"--from {path}: no such file; pass a YAML file") from None
        if faults:
            raise InputError(*faults)
        if not isinstance(values, Mapping):
            raise InputError(f"{path}: must hold grid, zip or points, not one {show(values)}")
        found = check(_File, values, str(path))
        self.add("grid", found.grid, f"{path}: grid.")
        self.add("zip", found.zip, f"{path}: zip.")
        self.add_points(found.points, f"{path}: points.")

    def add(self, way: Way, values: Mapping[str, Any], where: str) -> None:
        """The values of some keys.

        Raises:
            InputError: a key has no list of values, or stands there already.
        """
        for key, given in values.items():
            own = given.tolist() if hasattr(given, "tolist") else given  # NumPy's
            if isinstance(own, str | Mapping) or not isinstance(own, Sequence) or not own:
                raise InputError(f"{where}{key} = {show(given)}: must be a list of values")
            if key in (*self.grid, *self.zip):
                raise InputError(f"{where}{key}: stands more than once; keep one of its lists")
            chosen = self.grid if way == "grid" else self.zip
            chosen[key] = plain_copy(list(own), f"{where}{key}")

    def add_points(self, points: Sequence[Mapping[str, Any]], where: str) -> None:
        """Points as they are.

        Raises:
            InputError: one is no mapping, or changes nothing.
        """
        for i, point in enumerate(points):
            if not isinstance(point, Mapping) or not point:
                raise InputError(f"{where}{i} = {show(point)}: must be values by their keys")
            self.listed.append(plain_copy(point, f"{where}{i}"))

    def points(self) -> list[Point]:
        """Every point, the first key varying slowest.

        Raises:
            InputError: there is none or too many, or a key is varied in two ways.
        """
        lengths = {key: len(values) for key, values in self.zip.items()}
        if len({*lengths.values()}) > 1:
            said = ", ".join(f"{key} has {n}" for key, n in lengths.items())
            raise InputError(f"zip: its lists must be equally long: {said} values")
        varied = {*self.grid, *self.zip}
        if both := next((key for point in self.listed for key in point if key in varied), None):
            raise InputError(f"{both}: stands in points and in grid or zip; keep one of them")
        factors: list[list[Point]] = [[{k: x} for x in own] for k, own in self.grid.items()]
        if self.zip:
            rows = zip(*self.zip.values(), strict=True)
            factors.append([dict(zip(self.zip, row, strict=True)) for row in rows])
        if self.listed:
            factors.append(self.listed)
        if not factors:
            raise InputError("nothing varies: pass --grid KEY=a,b,c, --zip or --from FILE.yaml")
        n = 1
        for factor in factors:
            n *= len(factor)
        if n > MOST_POINTS:
            raise InputError(f"{n:,} points: at most {MOST_POINTS:,}; leave values out")
        return [{k: x for part in parts for k, x in part.items()} for parts in product(*factors)]


def load_points(
    source: str | Path | Mapping[str, Any],
    points: Sequence[Point],
    overrides: Sequence[str] = (),
    *,
    data: str | Path | None = None,
    **given: Any,
) -> tuple[dict[str, Any], list[Config]]:
    """The settings that all points share, and the config of each; for the rest ``load_config``.

    Raises:
        InputError: with a line for every fault of any point, and for points that are the same.
    """
    draft = draft_of(source, overrides, data, **given)
    shared = copy.deepcopy(draft.values)
    draft.faults += _without_effect(points, overrides, {"dataset.path": data, **given})
    found: dict[str, list[int]] = {}
    configs: dict[str, Config] = {}
    for i, point in enumerate(points):
        own = copy.deepcopy(draft)
        try:
            for key, value in point.items():
                apply_to(own, key, value, "sweep")
            logged = own.values.setdefault("logging", {})
            if isinstance(logged, dict) and logged.get("pictures") is None:
                logged["pictures"] = False
            config = checked_draft(own)
        except InputError as error:
            for fault in error.faults:
                found.setdefault(fault, []).append(i)
            continue
        same = configs.setdefault(str(config.resolved()), config)
        if same is not config:
            found.setdefault(f"sweep: {said(point)}: the same as another point", []).append(i)
    if found:
        raise InputError(*(of_points(fault, at, len(points)) for fault, at in found.items()))
    return shared, list(configs.values())


def _without_effect(
    points: Sequence[Point], overrides: Sequence[str], given: Mapping[str, Any]
) -> Iterator[str]:
    """A line for each setting that every point replaces."""
    varied = set(points[0]).intersection(*points)
    named = {key: "--data" if key == "dataset.path" else f"--{key}" for key in given}
    set_to = {key: option for key, option in named.items() if given[key] is not None}
    set_to |= {key: f"--set {key}" for text in overrides if (key := text.partition("=")[0].strip())}
    for key, option in set_to.items():
        if key in varied:
            yield f"{option}: has no effect, as the sweep varies {key}: leave it out"


def of_points(fault: str, at: Sequence[int], n: int) -> str:
    """A fault, and which points have it where not all do."""
    if len(at) == n:
        return fault
    named = ", ".join(map(str, at[:_NAMED])) + (f" and {len(at) - _NAMED} more" * (len(at) > 3))
    return f"{fault} (point{'s' * (len(at) > 1)} {named})"


def said(point: Point) -> str:
    """A point in words: ``experiment.p_treatment = 0.1, seed = 3``."""
    return ", ".join(f"{key} = {show(value)}" for key, value in point.items())


def complete(points: Sequence[Point], configs: Sequence[Config]) -> dict[str, list[Any]]:
    """The value of each key at every point; the config's own where a listed point leaves it."""
    keys = dict.fromkeys(key for point in points for key in point)
    resolved = [config.resolved() for config in configs]
    return {
        key: [
            point[key] if key in point else setting_at(values, key)
            for point, values in zip(points, resolved, strict=True)
        ]
        for key in keys
    }
