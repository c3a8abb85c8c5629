"""A sweep: a run for each point of a grid, in one folder with one table and one page.

sweep.yaml says what was asked; points/<i>/ are run folders. They are all prepared before the first
one runs, so that whoever runs them needs nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, Literal

import polars as pl
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from realdataexp.config import Config
from realdataexp.config.points import Point, complete, load_points, of_points, said
from realdataexp.config.yaml_text import parse_yaml, read_text, to_yaml
from realdataexp.data.parquet import write_parquet
from realdataexp.device import own_arithmetic
from realdataexp.errors import InputError, Warnings
from realdataexp.files import write_text
from realdataexp.options import damaged, show
from realdataexp.report.files import TRUTH, RunResult, is_complete, read_run
from realdataexp.report.page import write_sweep
from realdataexp.report.sweeps import SWEEP, TABLE
from realdataexp.runs.experiment import starting_of
from realdataexp.runs.folder import (
    Folder,
    check_place,
    make_folder,
    placed,
    require_modules,
    write_places,
)
from realdataexp.runs.life import differences
from realdataexp.runs.progress import PhaseProgress
from realdataexp.runs.setup import set_up
from realdataexp.runs.several import Points, executor_for, hushed
from realdataexp.stats.performance import SECTIONS

_PLAIN = {
    (str,): pl.String,
    (bool,): pl.Boolean,
    (int,): pl.Int64,
    (int, float): pl.Float64,
}  # the kinds of value that a column of the table holds as they are
_COMPARED = SECTIONS["comparison"]
_ENDS = ("gte", "estimate", "coverage")  # what has an interval, too
_SCHEMA = {
    **dict.fromkeys(_COMPARED, pl.Float64),
    **dict.fromkeys(("bias_df", "n_worlds"), pl.Int64),
    **dict.fromkeys(("design", "label"), pl.String),
    **{f"{name}_{end}": pl.Float64 for name in _ENDS for end in ("low", "high")},
    "point": pl.Int64,
    "warnings": pl.String,
    "fault": pl.String,
}


class Asked(BaseModel):
    """sweep.yaml: the settings that all points share, and what each changes.

    ``plan`` is what a plan shall read off the runs; see planning.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    schema_version: Literal[1] = 1
    keep_going: bool = False
    executor: str | None = None
    config: dict[str, Any]
    points: list[Point] = Field(min_length=1)
    plan: dict[str, Any] | None = None

    def write(self, folder: Path) -> None:
        """Write sweep.yaml."""
        write_text(folder / SWEEP, to_yaml(self.model_dump()))


def asked_of(folder: Path) -> Asked:
    """That of a sweep's folder; InputError where it is none, or damaged."""
    path = folder / SWEEP
    try:
        values, _ = parse_yaml(read_text(path, str(path)), str(path))
        return Asked.model_validate(values)
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{folder}: holds no {SWEEP}; pass a folder made by sweep") from None
    except ValidationError as error:
        raise damaged(path, error, "a sweep", "run the sweep anew") from None


def run_sweep(
    source: str | Path | Mapping[str, Any],
    points: Sequence[Point],
    overrides: Sequence[str] = (),
    *,
    out: Path | None = None,
    keep_going: bool = False,
    executor: str | None = None,
    is_detailed: bool = False,
    plan: dict[str, Any] | None = None,
    **given: Any,
) -> Path:
    """Run every point of a sweep, or those that a sweep in ``out`` has left; returns its folder.

    The arguments are those of ``load_points``; ``keep_going`` goes on after a point that failed,
    ``is_detailed`` shows the runs' own lines, and ``executor`` names who runs the points, in
    processes or jobs of their own (None: one after another, in this process).

    Raises:
        InputError: something given is wrong, and nothing was run.
        RunError: a point failed (without ``keep_going``), or the disk is full; what is done is
            kept, and the same call goes on from there.
        KeyboardInterrupt: interrupted; as above.
    """
    shared, configs = load_points(source, points, overrides, **given)
    asked = Asked(
        keep_going=keep_going,
        executor=executor,
        config=shared,
        points=[dict(x) for x in points],
        plan=plan,
    )
    if executor is not None:
        executor_for(executor, out or Path(), configs[0].cluster)
    if out is not None and (out / SWEEP).exists():
        _require_same(out, asked)
        made = Folder(out)
    else:
        made = _begin(asked, configs, out)
    asked.write(made.path)
    write_places(made.path, configs[0])
    return _Sweep(made.path, asked, configs).run(None, is_detailed)


def resume_sweep(folder: Path, data: Path | None = None, *, is_detailed: bool = False) -> Path:
    """Go on with a sweep that was interrupted, or in which points failed; as ``run_sweep``."""
    asked = asked_of(folder)
    require_modules(folder)
    _, configs = load_points(asked.config, asked.points)
    configs = [placed(config, folder, None) for config in configs]
    return _Sweep(folder, asked, configs).run(data, is_detailed)


def is_swept(folder: Path) -> bool:
    """Whether a sweep's folder has every point complete, and its table."""
    points = (folder / "points" / str(i) for i in range(len(asked_of(folder).points)))
    return (folder / TABLE).exists() and all(map(is_complete, points))


# --- its beginning -------------------------------------------------------------------------------


def _begin(asked: Asked, configs: Sequence[Config], out: Path | None) -> Folder:
    """Check all of a new sweep, then make its folder."""
    log_dir = configs[0].path(configs[0].logging.log_dir)
    for left in out.glob(f".{SWEEP}.*.tmp") if out is not None else ():
        left.unlink()  # of one that was killed before it began
    check_place(out, log_dir)
    _check(asked, configs)
    return make_folder(out, log_dir, "plan" if asked.plan else "sweep")


@own_arithmetic()
def _check(asked: Asked, configs: Sequence[Config]) -> None:
    """Check each config against the data and the machine; InputError with all faults."""
    found: dict[str, list[int]] = {}
    with PhaseProgress("check", len(configs), "points") as progress:
        for i, config in enumerate(configs):
            try:
                with hushed():
                    warnings = Warnings()
                    starting_of(set_up(config, warnings), None, warnings)
            except InputError as error:
                for fault in error.faults:
                    found.setdefault(fault, []).append(i)
            progress.advance(1)
    if found:
        raise InputError(*(of_points(fault, at, len(configs)) for fault, at in found.items()))


def _require_same(out: Path, asked: Asked) -> None:
    """InputError where a folder holds a sweep of other points, or of another config."""
    there = asked_of(out)
    if there.points != asked.points:
        raise InputError(
            f"{out}: holds a sweep of {len(there.points)} other points (the first: "
            f"{said(there.points[0])}); ask for the same ones or choose another --out"
        )
    if changes := differences(there.config, asked.config):
        where, was, now = changes[0]
        more = f" (and {len(changes) - 1} other settings differ)" * (len(changes) > 1)
        raise InputError(
            f"{out}: holds a sweep with {where} = {show(was)}, not {show(now)}{more}: put it back "
            "or choose another --out"
        )


# --- its life ------------------------------------------------------------------------------------


class _Sweep:
    """A sweep that goes on from what its folder holds."""

    def __init__(self, folder: Path, asked: Asked, configs: Sequence[Config]) -> None:
        self.folder, self._asked, self._configs = folder, asked, configs
        names = [f"point {i} ({said(point)})" for i, point in enumerate(asked.points)]
        self._runs = Points(folder, "sweep", configs, names)

    def run(self, data: Path | None, is_detailed: bool) -> Path:
        """Run what is left, and write the table and the page of what there is then."""
        self._runs.run(
            self._write, data, executor=self._asked.executor,
            keep_going=self._asked.keep_going, is_detailed=is_detailed,
        )  # fmt: skip
        return self.folder

    def _write(self) -> None:
        """Write the table of the points that are complete or failed, and its page."""
        rows: list[dict[str, Any]] = []
        places, faults = self._runs.places, self._runs.faults
        for i, (place, config) in enumerate(zip(places, self._configs, strict=True)):
            found: list[dict[str, Any]] = []
            if i in faults:
                designs = [x.label for x in config.designs()] or [TRUTH]
                names = product(designs, [*config.measured, *config.ratios])
                found = [{"design": d, "label": x, "fault": faults[i]} for d, x in names]
            elif is_complete(place):
                found = _rows(read_run(place))
            rows += ({**row, "point": i} for row in found)
        table = pl.DataFrame(rows, schema=_SCHEMA)
        points = [
            _column(key, values).gather(table["point"])
            for key, values in complete(self._asked.points, self._configs).items()
        ]
        write_parquet(self.folder / TABLE, pl.DataFrame([*points, *table]))
        write_sweep(self.folder)


def _rows(result: RunResult) -> list[dict[str, Any]]:
    """What a point's run answers for each design and label, with the ends of the intervals."""
    effects = {(e.design, e.label): e for e in result.estimates}
    shares = {(e.design, e.label): e for e in result.inference if e.se_method == "welch"}
    codes = dict.fromkeys(warning.code for warning in result.warnings)
    rows: list[dict[str, Any]] = result.raw["comparison"]
    if not rows:  # the truth, or a design, alone
        rows = [
            {
                "design": e.design,
                "label": e.label,
                "gte" if e.design == TRUTH else "estimate": e.value,
                "n_worlds": e.n_worlds,
            }
            for e in result.estimates
        ]
    found = []
    for row in rows:
        design, label = row["design"], row["label"]
        intervals: dict[str, tuple[float | None, float | None] | None] = {}
        for name, of in (("gte", TRUTH), ("estimate", design)):
            if row.get(name) is not None and (effect := effects.get((of, label))):
                intervals[name] = effect.interval
        if share := shares.get((design, label)):
            intervals["coverage"] = share.coverage_low, share.coverage_high
        ends = {
            f"{name}_{end}": x
            for name, interval in intervals.items()
            for end, x in zip(("low", "high"), interval or (), strict=False)
        }
        found.append({**row, **ends, "warnings": ", ".join(codes)})
    return found


def _column(key: str, values: Sequence[Any]) -> pl.Series:
    """A key's values at every point; as JSON where they are not of one plain kind."""
    kinds = {type(x) for x in values if x is not None}
    for plain, dtype in _PLAIN.items():
        if kinds <= set(plain):
            return pl.Series(key, values, dtype, strict=False)
    texts = [x if x is None or isinstance(x, str) else json.dumps(x, default=str) for x in values]
    return pl.Series(key, texts, pl.String)
