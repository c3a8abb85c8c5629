"""Many runs for one question: what could a test of this p, length and cadence detect?

Each pair of p and training cadence is a run of mode compare; shorter tests are its first steps.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import polars as pl

from realdataexp.config import Config, load_config
from realdataexp.errors import InputError, Warnings
from realdataexp.files import write_json
from realdataexp.report.files import read_result, read_table
from realdataexp.runs.experiment import run_experiment
from realdataexp.runs.folder import (
    Folder,
    check_place,
    finite,
    make_folder,
    write_parquet,
)
from realdataexp.runs.results import SCHEMA_VERSION as RUN_VERSION
from realdataexp.runs.setup import set_up
from realdataexp.stats.performance import PlannedRun, plan_grid

logger = logging.getLogger("realdataexp")

SCHEMA_VERSION = 1

_N = TypeVar("_N", int, float)
Given = str | float | Iterable[float] | None
"""Values of an option: several, one, a text with commas, or None for the config's own."""


@dataclass(frozen=True)
class Grid:
    """What to plan for: every p with every cadence and every length, in ascending order."""

    p: tuple[float, ...]
    retrain_every: tuple[int, ...]
    steps: tuple[int, ...]
    power: float


@dataclass(frozen=True)
class _Cell:
    """One run of the plan; ``name`` is its folder's."""

    p: float
    retrain_every: int
    config: Config

    @property
    def name(self) -> str:
        return f"p{self.p!r}-retrain{self.retrain_every}"


def run_plan(
    config: Config,
    out: Path | None = None,
    *,
    p: Given = None,
    steps: Given = None,
    retrain_every: Given = None,
    power: float = 0.8,
) -> Path:
    """Run what a plan needs and write plan.parquet and plan.json; returns their folder.

    A complete run of the very same config in the folder is used again, and a partial one is made
    anew, so that a plan that was interrupted goes on.

    Args:
        config: the experiment; its mode does not matter.
        out: the plan's folder; None makes ``<log_dir>/<timestamp>-plan``.
        p: treatment probabilities; None: the config's own.
        steps: lengths of the test; None: a quarter, half and all of the config's own.
        retrain_every: steps between two rounds of training; None: the config's own.
        power: the chance with which an effect shall be detected.

    Raises:
        InputError: something given is wrong, and nothing was run; or the disk is full.
        RunError: a run failed.
        KeyboardInterrupt: interrupted; the runs that are done stay.
    """
    grid = make_grid(config, p=p, steps=steps, retrain_every=retrain_every, power=power)
    cells = _cells(config, grid)
    log_dir = config.path(config.logging.log_dir)
    left = _left_to_run(cells, out, log_dir)
    _check(left)
    made = Folder(out, ()) if out is not None else make_folder(None, log_dir, "plan")
    try:
        for i, cell in enumerate(cells, 1):
            place = made.path / cell.name
            is_left = cell in left
            logger.info(
                "[plan] %d of %d: %s%s", i, len(cells), place, "" if is_left else " (there already)"
            )
            if is_left:
                if place.is_dir():
                    Folder(place, (place,)).discard()
                run_experiment(cell.config, place)
                left.remove(cell)
        _write(made.path, grid, cells)
    except KeyboardInterrupt as error:
        made.leave()
        raise KeyboardInterrupt(
            f"interrupted: {len(cells) - len(left)} of {len(cells)} runs are done; the same "
            f"command with --out {made.path} goes on from there"
        ) from error
    except BaseException:
        made.leave()
        raise
    return made.path


# --- what was asked ----------------------------------------------------------------------------


def make_grid(
    config: Config,
    *,
    p: Given = None,
    steps: Given = None,
    retrain_every: Given = None,
    power: float = 0.8,
) -> Grid:
    """What was asked, filled in from the config, and checked.

    Raises:
        InputError: with the first fault.
    """
    loop, test = config.simulation, config.experiment
    if test.aa:
        raise InputError("experiment.aa = true: an A/A test has no effect to detect; set it false")
    if not 0 < power < 1:
        raise InputError(f"--power {power}: must be more than 0 and less than 1, such as 0.8")
    share = ("a number more than 0 and less than 1", "0.1,0.5")
    count = ("a whole number of at least 1", "50,200")
    p_where, p = ("--p", p) if p is not None else ("experiment.p_treatment =", test.p_treatment)
    shares = _values(p_where, p, _share, *share)
    where, every = "--retrain-every", retrain_every
    if every is None:
        where, every = "simulation.retrain_every =", loop.retrain_every
    cadences = _values(where, every, _count, *count)
    if steps is None:
        n = loop.n_steps
        wanted = {max(1, n // 4), max(1, n // 2), n}
        lengths = tuple(sorted(x for x in wanted if x == n or x >= cadences[-1]))
        shortest = f"simulation.n_steps = {lengths[0]}"
    else:
        lengths = _values("--steps", steps, _count, *count)
        shortest = f"--steps {lengths[0]}"
    if cadences[-1] > lengths[0]:
        raise InputError(
            f"{where} {cadences[-1]}: no training in a test of {lengths[0]} steps ({shortest}): "
            f"must be at most {lengths[0]}; lower it or give --steps of at least {cadences[-1]}"
        )
    return Grid(shares, cadences, lengths, power)


def _values(
    where: str, given: Any, read: Callable[[Any], _N | None], rule: str, example: str
) -> tuple[_N, ...]:
    """The values of an option in ascending order; ``read`` gives None for what breaks the rule."""
    if isinstance(given, str):
        given = [part.strip() for part in given.split(",")]
    items = list(given) if isinstance(given, Iterable) else [given]
    option = where.removesuffix(" =")
    if not any(item != "" for item in items):
        raise InputError(f"{option}: an empty list; give values such as {example}")
    found: list[_N] = []
    for item in items:
        value = read(item)
        if value is None:
            raise InputError(f"{where} {item or repr(item)}: must be {rule}, such as {example}")
        if value in found:
            raise InputError(f"{where} {item}: stands more than once; give each value once")
        found.append(value)
    return tuple(sorted(found))


def _share(item: Any) -> float | None:
    try:
        value = float(item)
    except (TypeError, ValueError):
        return None
    return value if 0 < value < 1 else None


def _count(item: Any) -> int | None:
    try:
        value = int(item)
    except (TypeError, ValueError, OverflowError):
        return None
    is_whole = isinstance(item, str) or (value == item and not isinstance(item, bool))
    return value if is_whole and value >= 1 else None


def _cells(config: Config, grid: Grid) -> list[_Cell]:
    """A run for every p and cadence, as long as the longest test."""
    cells = []
    for p in grid.p:
        for every in grid.retrain_every:
            values = config.resolved()
            values["mode"] = "compare"
            values["experiment"]["p_treatment"] = p
            values["simulation"].update(retrain_every=every, n_steps=grid.steps[-1])
            cells.append(_Cell(p, every, load_config(values)))
    return cells


# --- what can be run ---------------------------------------------------------------------------


def _left_to_run(cells: list[_Cell], out: Path | None, log_dir: Path) -> list[_Cell]:
    """The runs that the folder does not hold yet.

    Raises:
        InputError: it holds something else, or nothing can be written there.
    """
    if out is None:
        check_place(None, log_dir)
        return list(cells)
    if out.is_dir() and any(out.iterdir()) and not any(out.glob("p*-retrain*")):
        raise InputError(f"{out}: exists and holds no plan; choose another --out")
    return [cell for cell in cells if not _is_there(out / cell.name, cell.config, log_dir)]


def _is_there(place: Path, config: Config, log_dir: Path) -> bool:
    """Whether a run of this config is complete in a folder; False where it can be made."""
    if not place.is_dir() or not any(place.iterdir()):
        check_place(place, log_dir)
        return False
    fault = f"{place}: holds {{}}; remove it or choose another --out"
    try:
        result = read_result(place)
    except InputError as error:
        raise InputError(fault.format("no run that came to an end")) from error
    if (result["schema_version"], result["config"]) != (RUN_VERSION, config.resolved()):
        raise InputError(fault.format("a run of other settings than this plan's"))
    return bool(result["status"] == "complete")


def _check(cells: list[_Cell]) -> None:
    """Check everything that a run would, once for each p: whether a design can run may hang on p.

    Raises:
        InputError: with every fault found, a line each.
    """
    for cell in {cell.p: cell for cell in cells}.values():
        set_up(cell.config, Warnings())


# --- the answer --------------------------------------------------------------------------------


def _write(folder: Path, grid: Grid, cells: list[_Cell]) -> None:
    """Write the plan's table from the tables of its runs."""
    config, warnings = cells[0].config, Warnings()
    rows = plan_grid(
        (_planned(folder, cell) for cell in cells),
        grid.steps,
        [design.label for design in config.designs()],
        list(config.measured),
        grid.power,
    )
    _warn_of_runs(folder, cells, warnings)
    _warn_of_nulls(rows, warnings)
    document = {
        "schema_version": SCHEMA_VERSION,
        "settings": {**asdict(grid), "config": config.resolved()},
        "rows": rows.to_dicts(),
        "warnings": warnings.items,
    }
    write_parquet(folder / "plan.parquet", rows)
    write_json(folder / "plan.json", finite(document, warnings))
    logger.info("[plan] complete: %s", folder)


def _planned(folder: Path, cell: _Cell) -> PlannedRun:
    """What the planner looks at of a run."""
    outcomes = read_table(folder / cell.name, "outcomes")
    return PlannedRun(cell.p, cell.retrain_every, outcomes, cell.config.experiment.n_starts)


def _warn_of_runs(folder: Path, cells: list[_Cell], warnings: Warnings) -> None:
    """Pass the runs' warnings on, those of one kind as one; numbers that lack have their own."""
    found: dict[str, tuple[str, list[str]]] = {}
    for cell in cells:
        for item in read_result(folder / cell.name)["warnings"]:
            _, names = found.setdefault(item["code"], (item["message"], []))
            names.extend([cell.name] if cell.name not in names else [])
    for code, (message, names) in found.items():
        if code != "no_number":
            first, *others = names
            also = f" (and alike in {', '.join(others)})" if others else ""
            warnings.add(code, f"{first}: {message}{also}")


def _warn_of_nulls(rows: pl.DataFrame, warnings: Warnings) -> None:
    """Say which numbers lack, of which designs and lengths, and why."""
    found: dict[tuple[str, str], dict[str, None]] = {}
    for row in rows.iter_rows(named=True):
        lacking = [name for name, value in row.items() if value is None]
        if lacking:
            who = f"{row['design']} of {row['label']} after {row['steps']} steps"
            found.setdefault((", ".join(lacking), _reason(row)), {})[who] = None
    for (names, reason), whose in found.items():
        warnings.add("no_number", f"plan: {names} null for {', '.join(whose)}: {reason}")


def _reason(row: dict[str, Any]) -> str:
    if row["n_worlds"] < 2:
        return (
            "fewer than two worlds have an estimate; raise experiment.replications, --steps, or "
            "what leaves an arm empty"
        )
    if row["effect"] == 0:
        return "the true effect is 0"
    return "the control world's mean is 0, or an arm has fewer than two outcomes"
