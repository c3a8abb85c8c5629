"""The one place of names: a run's tables and result become series of numbers.

The parts of a name stand in this order, those that are empty left out. Steps count steps done,
from 1; in pretraining, batches.

    pretrain/<split>/<label>/<metric>/<model>      metrics.parquet of the phase pretrain
    <split>/<label>/<metric>/<design>/<model>      the same of the loop, a mean over worlds
    outcome/<label>/<design>_<arm>                 outcomes.parquet: per visit, over all worlds
    estimate/<label>/<quantity>/<design>           result.json, at the run's last step, as below
    comparison/<label>/<quantity>/<design>
    gte/<quantity>, timing/<quantity>
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import polars as pl

from realdataexp.errors import InputError

_PARTS = ["split", "label", "metric", "design", "model"]


class Point(NamedTuple):
    """A number of a series at a step."""

    name: str
    step: int
    value: float


def name_of(*parts: str) -> str:
    """The name of a series; what a tracker may refuse in a part becomes an underscore."""
    return "/".join(_clean(part) for part in parts if part)


def _clean(part: str) -> str:
    return re.sub(r"[^\w-]", "_", part)


def check_names(designs: Sequence[str]) -> None:
    """Refuse designs whose series would have the same names.

    Raises:
        InputError: two labels differ only in what cannot stand in a name.
    """
    taken: dict[str, str] = {}
    for design in designs:
        other = taken.setdefault(_clean(design), design)
        if other != design:
            raise InputError(
                f"designs {other!r} and {design!r}: both are {_clean(design)!r} to a tracker; give "
                "one another label, of letters, digits, _ and -"
            )


def metric_points(metrics: pl.DataFrame, since: Mapping[str, int]) -> Iterator[Point]:
    """The series of metrics.parquet: means over worlds.

    Args:
        metrics: the table so far.
        since: the step of each phase from which on points are wanted; absent: from the start.
    """
    for (phase,), rows in metrics.partition_by("phase", as_dict=True).items():
        prefix = "pretrain" if phase == "pretrain" else ""
        wanted = rows.filter(pl.col("step") >= since.get(str(phase), 0))
        groups = wanted.group_by("step", *_PARTS, maintain_order=True).agg("value")
        for step, *parts, values in groups.iter_rows():
            # exact sums: the same bits in whatever order the rows come
            yield Point(name_of(prefix, *parts), step, math.fsum(values) / len(values))


def outcome_points(outcomes: pl.DataFrame, since: Mapping[str, int]) -> Iterator[Point]:
    """The series of outcomes.parquet: means per visit, of all worlds together.

    Args:
        outcomes: the table so far.
        since: as for `metric_points`.
    """
    wanted = outcomes.filter(pl.col("step") + 1 >= since.get("loop", 0))
    groups = wanted.group_by("step", "label", "design", "arm", maintain_order=True)
    for step, label, design, arm, n, sums in groups.agg(pl.sum("n"), "sum").iter_rows():
        yield Point(name_of("outcome", label, f"{design}_{arm}"), step + 1, math.fsum(sums) / n)


def result_points(result: Mapping[str, Any]) -> list[Point]:
    """The numbers of result.json, at the run's last step; null has no point."""
    named = [
        *((name_of("gte", key), value) for key, value in result["gte_results"].items()),
        *_rows("estimate", result["estimates"]),
        *_rows("comparison", result["comparison"]),
        *((name_of("timing", key), value) for key, value in result["timing"].items()),
    ]
    step = result["n_steps_done"]
    return [Point(name, step, float(value)) for name, value in named if _is_number(value)]


def _rows(what: str, rows: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, Any]]:
    """Names and values of a list of blocks, each of a design and a label."""
    for row in rows:
        for key, value in row.items():
            yield name_of(what, row["label"], key, row["design"]), value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def parameters(config: Mapping[str, Any]) -> dict[str, str]:
    """Every setting of a resolved config by its path, such as simulation.n_steps.

    The trackers are left out: they are no part of what was run.
    """
    logging = {key: value for key, value in config["logging"].items() if key != "trackers"}
    return dict(_flat({**config, "logging": logging}, ""))


def _flat(value: Any, path: str) -> Iterator[tuple[str, str]]:
    """Path and text of each plain value, and of each list of plain values."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _flat(item, f"{path}.{key}".lstrip("."))
    elif isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        for i, item in enumerate(value):
            yield from _flat(item, f"{path}.{i}")
    else:
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        yield re.sub(r"[^\w.\-]", "_", path), text


def tags(mode: str, seed: int, versions: Mapping[str, str | None]) -> dict[str, str]:
    """What tells runs apart besides the config."""
    known = {f"version.{name}": version for name, version in versions.items() if version}
    return {"mode": mode, "seed": str(seed), **known}
