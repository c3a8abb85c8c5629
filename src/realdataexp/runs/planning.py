"""What could a test of this p, length and cadence detect? Read off a sweep.

Each pair of p and training cadence is a point, a run of mode compare; shorter tests are its first
steps. The folder is a sweep's (sweeping), and plan.parquet and plan.json in it are the answer.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import polars as pl

from realdataexp.config import Config, load_config
from realdataexp.data.parquet import write_parquet
from realdataexp.errors import InputError, Warnings
from realdataexp.files import write_json
from realdataexp.report.files import read_result, read_table
from realdataexp.report.page import write_plan_page
from realdataexp.runs.folder import finite
from realdataexp.runs.sweeping import asked_of, run_sweep
from realdataexp.stats.performance import PlannedRun, plan_grid

logger = logging.getLogger("realdataexp")

SCHEMA_VERSION = 1

Given = str | float | Iterable[float] | None
"""Values of an option: several, one, a text with commas, or None for the config's own."""


@dataclass(frozen=True)
class Grid:
    """What to plan for: every p with every cadence and every length, in ascending order."""

    p: tuple[float, ...]
    retrain_every: tuple[int, ...]
    steps: tuple[int, ...]
    power: float


def run_plan(
    config: Config,
    out: Path | None = None,
    *,
    executor: str | None = None,
    is_detailed: bool = False,
    **asked: Any,
) -> Path:
    """Run what a plan needs and write plan.parquet and plan.json; returns their folder.

    A sweep of the same runs in the folder is used again, so that a plan that was interrupted goes
    on. What may be asked: see ``make_grid``; ``executor`` and ``is_detailed``: see ``run_sweep``.

    Raises:
        InputError: something given is wrong, and nothing was run; or the disk is full.
        RunError: a run failed.
        KeyboardInterrupt: interrupted; the runs that are done stay.
    """
    grid = make_grid(config, **asked)
    names = "experiment.p_treatment", "simulation.retrain_every"
    points = [dict(zip(names, x, strict=True)) for x in product(grid.p, grid.retrain_every)]
    values = config.resolved()
    values["mode"] = "compare"
    values["simulation"]["n_steps"] = grid.steps[-1]
    plan = {k: x if isinstance(x, float) else [*x] for k, x in vars(grid).items()}
    folder = run_sweep(
        values, points, out=out, executor=executor, is_detailed=is_detailed, plan=plan
    )
    return write_plan(folder)


# --- what was asked ----------------------------------------------------------------------------


def make_grid(
    config: Config,
    *,
    p: Given = None,
    steps: Given = None,
    retrain_every: Given = None,
    power: float = 0.8,
) -> Grid:
    """What was asked, filled in from the config, and checked: InputError with the first fault."""
    loop, test = config.simulation, config.experiment
    if test.aa:
        raise InputError("experiment.aa = true: an A/A test has no effect to detect; set it false")
    if not 0 < power < 1:
        raise InputError(f"--power {power}: must be more than 0 and less than 1, such as 0.8")
    if p is None:
        shares = _values("experiment.p_treatment =", test.p_treatment, is_whole=False)
    else:
        shares = _values("--p", p, is_whole=False)
    where, every = "--retrain-every", retrain_every
    if every is None:
        where, every = "simulation.retrain_every =", loop.retrain_every
    cadences = tuple(map(int, _values(where, every, is_whole=True)))
    if steps is None:
        n = loop.n_steps
        wanted = {max(1, n // 4), max(1, n // 2), n}
        lengths = tuple(sorted(x for x in wanted if x == n or x >= cadences[-1]))
        shortest = f"simulation.n_steps = {lengths[0]}"
    else:
        lengths = tuple(map(int, _values("--steps", steps, is_whole=True)))
        shortest = f"--steps {lengths[0]}"
    if cadences[-1] > lengths[0]:
        raise InputError(
            f"{where} {cadences[-1]}: no training in a test of {lengths[0]} steps ({shortest}): "
            f"must be at most {lengths[0]}; lower it or pass --steps of at least {cadences[-1]}"
        )
    return Grid(shares, cadences, lengths, power)


def _values(where: str, given: Any, *, is_whole: bool) -> tuple[float, ...]:
    """The values of an option, whole numbers or shares, in ascending order."""
    rule, example = "a number more than 0 and less than 1", "0.1,0.5"
    if is_whole:
        rule, example = "a whole number of at least 1", "50,200"
    if isinstance(given, str):
        given = [part.strip() for part in given.split(",")]
    items = list(given) if isinstance(given, Iterable) else [given]
    if not any(item != "" for item in items):
        option = where.removesuffix(" =")
        raise InputError(f"{option}: an empty list; pass values such as {example}")
    found: list[float] = []
    for item in items:
        try:
            value = float(int(item) if is_whole and isinstance(item, str) else item)
        except (TypeError, ValueError, OverflowError):
            value = math.nan
        is_fit = value >= 1 and value.is_integer() if is_whole else 0 < value < 1
        if not is_fit or isinstance(item, bool):
            raise InputError(f"{where} {item or repr(item)}: must be {rule}, such as {example}")
        if value in found:
            raise InputError(f"{where} {item}: stands more than once; pass each value once")
        found.append(value)
    return tuple(sorted(found))


# --- the answer --------------------------------------------------------------------------------


def write_plan(folder: Path) -> Path:
    """Write the table of a plan whose runs are complete; returns its folder."""
    asked = asked_of(folder)
    assert asked.plan is not None
    grid, warnings = Grid(**asked.plan), Warnings()
    places = [folder / "points" / str(i) for i in range(len(asked.points))]
    cells = [(place, load_config(place / "config.yaml")) for place in places]
    runs = (
        PlannedRun(
            cell.experiment.p_treatment,
            cell.simulation.retrain_every,
            read_table(place, "outcomes"),
            cell.experiment.n_starts,
        )
        for place, cell in cells
    )
    config = cells[0][1]
    designs = [design.label for design in config.designs()]
    rows = plan_grid(runs, grid.steps, designs, list(config.measured), grid.power)
    _warn_of_runs(places, warnings)
    _warn_of_nulls(rows, warnings)
    document = {
        "schema_version": SCHEMA_VERSION,
        "settings": {**asdict(grid), "config": config.resolved()},
        "rows": rows.to_dicts(),
        "warnings": warnings.items,
    }
    write_parquet(folder / "plan.parquet", rows)
    write_json(folder / "plan.json", finite(document, warnings))
    write_plan_page(folder)
    logger.info("[plan] complete: %s", folder)
    return folder


def _warn_of_runs(places: list[Path], warnings: Warnings) -> None:
    """Pass the runs' warnings on, those of one kind as one; numbers that lack have their own."""
    found: dict[str, tuple[str, dict[str, None]]] = {}
    for place in places:
        for item in read_result(place)["warnings"]:
            found.setdefault(item["code"], (item["message"], {}))[1][place.name] = None
    for code, (message, (first, *others)) in found.items():
        if code != "no_number":
            also = f" (and alike in {', '.join(others)})" if others else ""
            warnings.add(code, f"point {first}: {message}{also}")


def _warn_of_nulls(rows: pl.DataFrame, warnings: Warnings) -> None:
    """Say which numbers lack, of which designs and lengths, and why."""
    found: dict[tuple[str, str], dict[str, None]] = {}
    for row in rows.iter_rows(named=True):
        if lacking := [name for name, value in row.items() if value is None]:
            reason = "the control world's mean is 0, or an arm has fewer than two outcomes"
            if row["n_worlds"] < 2:
                reason = (
                    "fewer than two worlds have an estimate; raise experiment.replications, "
                    "--steps, or what leaves an arm empty"
                )
            elif row["effect"] == 0:
                reason = "the true effect is 0"
            who = f"{row['design']} of {row['label']} after {row['steps']} steps"
            found.setdefault((", ".join(lacking), reason), {})[who] = None
    for (names, reason), whose in found.items():
        warnings.add("no_number", f"plan: {names} null for {', '.join(whose)}: {reason}")
