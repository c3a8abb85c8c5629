"""A run folder as its readers see it: result.json as typed rows, and the tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from realdataexp.data.parquet import read_parquet
from realdataexp.errors import InputError
from realdataexp.files import read_json, require_regular
from realdataexp.options import damaged

TRUTH = "global"
REMEDY = "copy the run folder to another place"
"""What to do where a page or plot cannot be written into a run folder."""

# what a reader may raise on a value that no run writes
_ODD = (
    KeyError, ValueError, TypeError, AttributeError, IndexError, ArithmeticError, RecursionError,
    MemoryError, pl.exceptions.PolarsError, pl.exceptions.PanicException,
)  # fmt: skip


class _Row(BaseModel):
    """An entry of result.json; a figure that an earlier version did not write is None."""

    model_config = ConfigDict(strict=True, frozen=True)


class _OfDesign(_Row):
    design: str
    label: str


class Effect(_OfDesign):
    """The effect per visit on a label, as the truth or a design has it: of ``estimates``."""

    value: float | None = None
    se: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    p_value: float | None = None
    n_worlds: int = 0

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval, where there is one."""
        return None if self.ci_low is None or self.ci_high is None else (self.ci_low, self.ci_high)


class Compared(_OfDesign):
    """A design's answers for a label against the truth: of ``comparison``."""

    gte: float | None = None
    estimate: float | None = None
    bias: float | None = None
    bias_mc_se: float | None = None
    bias_df: int | None = None
    sd: float | None = None
    rmse: float | None = None
    se_ratio: float | None = None
    coverage: float | None = None
    sign_error_rate: float | None = None
    regret: float | None = None
    n_worlds: int = 0


class IntervalQuality(_OfDesign):
    """Whether a design's interval method covers as often as it says: of ``inference``."""

    se_method: str
    coverage: float | None = None
    coverage_low: float | None = None
    coverage_high: float | None = None
    reject_share: float | None = None
    reject_low: float | None = None
    reject_high: float | None = None
    trustworthy: bool | None = None


class Power(_OfDesign):
    """What a design could detect of a label: of ``plan``."""

    effect: float | None = None
    mde_reported: float | None = None
    mde_honest: float | None = None
    power_at_effect: float | None = None


class Planned(Power):
    """A row of a plan's table."""

    p: float
    retrain_every: int
    steps: int
    n_worlds: int = 0
    control_mean: float | None = None
    bias: float | None = None
    bias_mc_se: float | None = None
    detects: bool | None = None


class Learned(_Row):
    """What the model of a design's arm learned from: of ``ledger``."""

    design: str
    arm: str
    weight: float
    other_share: float | None = None


class Detected(_OfDesign):
    """How often single tests of a design alarm, by a detector: of ``detectors``."""

    detector: str
    n_tests: int
    verdict: str
    alarm_share: float | None = None
    alarm_low: float | None = None
    alarm_high: float | None = None
    value: float | None = None
    why: str = ""


class Score(_Row):
    """How well a recommender ranks held-out items: of ``results`` of a training."""

    model: str
    split: str
    metric: str
    k: int | None = None
    value: float | None = None
    se: float | None = None
    n: int = 0


class Difference(_Row):
    """A recommender against another on the same questions: of ``compared``."""

    model: str
    against: str
    metric: str
    k: int | None = None
    difference: float
    ci_low: float
    ci_high: float

    @property
    def pair(self) -> str:
        """What is subtracted from what."""
        return f"{self.model} − {self.against}"

    @property
    def is_significant(self) -> bool:
        """Whether the paired 95 % interval excludes 0."""
        return not self.ci_low <= 0 <= self.ci_high


class Doubt(_Row):
    """An entry of ``warnings``."""

    code: str
    message: str


class LastMetric(_Row):
    """A metric's last value, averaged over worlds: of ``metrics_summary``."""

    phase: str
    design: str
    model: str
    label: str
    split: str
    metric: str
    step: int
    value: float | None = None


class Quality(_OfDesign):
    """How well a design's networks predict held-out visits: of ``prediction``."""

    arm: str
    metric: str
    value: float | None = None
    sd: float | None = None
    difference: float | None = None
    difference_se: float | None = None


class Device(_Row):
    """What a run computed on."""

    name: str = ""
    reason: str = ""
    threads: int = 1

    @property
    def is_cpu(self) -> bool:
        """Whether it is the CPU."""
        return self.name.startswith("cpu")


class Measured(_Row):
    """An outcome of the config, or a label or a derived column that names one."""

    name: str
    target: str | None = None
    ratio: list[str] | None = None
    given_unit: str | None = Field(None, alias="unit")

    @property
    def unit(self) -> str:
        """The given unit, or the one that the target's name tells, such as "ms", or ""."""
        return self.given_unit or ("ms" if (self.target or "").endswith("_ms") else "")

    @property
    def title(self) -> str:
        """The name with its unit, such as "play_time (ms)"."""
        return f"{self.name} ({self.unit})" if self.unit else self.name


class _Loop(_Row):
    batch_size: int = 1
    n_candidate: int = 1


class _Experiment(_Row):
    replications: int = 1
    starts: int = 1
    aa: bool = False


class Settings(_Row):
    """What readers of a result need of its config."""

    labels: list[Measured] = []
    derived: list[Measured] = []
    outcomes: list[Measured] | None = None
    simulation: _Loop = _Loop()
    experiment: _Experiment = _Experiment()
    model: Any = None

    @property
    def measured(self) -> list[Measured]:
        """Whatever may be an outcome: labels, derived columns, and outcomes of the config."""
        return [*self.labels, *self.derived, *(self.outcomes or ())]

    def replications(self, n: int | None = None) -> str:
        """How many replications count (all, if None), and from how many starting models."""
        n = self.experiment.replications if n is None else n
        n_starts = min(self.experiment.starts, n)
        of = f"of {n_starts} starting models" if n_starts > 1 else "given this starting model"
        return f"{n:,} replication{'' if n == 1 else 's'} {of}"


class RunResult(_Row):
    """result.json; ``raw`` is it all, as it stands in the file."""

    raw: dict[str, Any]
    schema_version: int
    config: Settings
    mode: str = ""
    seed: int = 0
    status: str = ""
    n_steps_done: int = 0
    gte_results: dict[str, float | None] = {}
    estimates: list[Effect] = []
    comparison: list[Compared] = []
    inference: list[IntervalQuality] = []
    plan: list[Power] = []
    ledger: list[Learned] = []
    detectors: list[Detected] = []
    results: list[Score] = []
    compared: list[Difference] = []
    warnings: list[Doubt] = []
    diagnostics: dict[str, Any] = {}
    dataset_stats: dict[str, Any] = {}
    weights: dict[str, dict[str, float | None]] = {}
    metrics_summary: list[LastMetric] = []
    prediction: list[Quality] = []
    device: Device = Device()
    timing: dict[str, float | None] = {}
    versions: dict[str, str | None] = {}

    @classmethod
    def of(cls, raw: dict[str, Any]) -> RunResult:
        """The content of a result.json.

        Raises:
            ValidationError: it is not what a run writes.
        """
        return cls.model_validate({**raw, "raw": raw})

    @property
    def is_aa(self) -> bool:
        """Whether both arms of the run are the same."""
        return self.config.experiment.aa

    @property
    def trained(self) -> str:
        """The recommender that a training trained; empty for an experiment."""
        model = self.config.model if self.mode == "train" else ""
        return str(model["name"] if isinstance(model, dict) else model)

    @property
    def is_complete(self) -> bool:
        """Whether the run came to its end."""
        return self.status == "complete"

    @cached_property
    def titles(self) -> dict[str, str]:
        """The title of each outcome."""
        return {x.name: x.title for x in self.config.measured}

    @cached_property
    def units(self) -> dict[str, str]:
        """Each outcome's unit, or ""."""
        return {x.name: x.unit for x in self.config.measured}

    @property
    def designs(self) -> list[str]:
        """The designs that are compared, or that answer, in the order of the result."""
        compared = [e.design for e in self.comparison]
        own = compared or [e.design for e in self.estimates if e.design != TRUTH]
        return list(dict.fromkeys(own))

    @property
    def truths(self) -> list[Effect]:
        """The truth's effects; none where a run has no truth."""
        return [e for e in self.estimates if e.design == TRUTH]

    @property
    def answers(self) -> list[Effect]:
        """The truth's effects, or what the one design of a run answers."""
        return self.truths or list(self.estimates)

    def title(self, label: str) -> str:
        """What an outcome is called, with its unit."""
        return self.titles.get(label, label)

    def per(self, label: str) -> str:
        """Whose effect that on an outcome is: a visit's, or of a ratio of sums that of the arm."""
        is_ratio = any(x.name == label and x.ratio for x in self.config.measured)
        return "" if is_ratio else " per visit"

    def totals(self, label: str) -> list[float | None]:
        """GT, GC and GTE of a label: of ``gte_results``."""
        return [self.gte_results.get(f"{name}_{label}") for name in ("GT", "GC", "GTE")]

    def relative(self, label: str) -> float | None:
        """The true effect on a label in percent of control."""
        return self.gte_results.get(f"GTE_{label}_relative")


class _PlanSettings(_Row):
    config: Settings
    power: float


class Plan(_Row):
    """plan.json."""

    settings: _PlanSettings
    rows: list[Planned]
    warnings: list[Doubt]


def read_plan(plan_dir: Path) -> Plan:
    """plan.json of a plan's folder, which has just been written."""
    return Plan.model_validate_json((plan_dir / "plan.json").read_bytes())


def read_run(run_dir: Path) -> RunResult:
    """result.json of a run folder.

    Raises:
        InputError: there is none, or it is not what a run writes.
    """
    path = run_dir / "result.json"
    try:
        raw = read_json(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(f"{path}: not there; pass a run folder made by run") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: cannot be read as JSON ({reason}); run again") from error
    if not isinstance(raw, dict) or "schema_version" not in raw:
        raise InputError(f"{path}: is not a result of realdataexp; pass a run folder made by run")
    try:
        return RunResult.of(raw)
    except ValidationError as error:
        raise damaged(path, error, "a run", "run again") from error


def read_result(run_dir: Path) -> dict[str, Any]:
    """result.json of a run folder, as it stands there; raises as ``read_run``."""
    return read_run(run_dir).raw


def read_table(run_dir: Path, name: str) -> pl.DataFrame:
    """One of the Parquet tables of a run folder, such as "outcomes".

    Raises:
        InputError: it is missing or damaged.
    """
    path = run_dir / f"{name}.parquet"
    try:
        require_regular(path)
        return read_parquet(path)
    except (OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise InputError(f"{path}: cannot be read ({reason}); run again") from error


def read_table_if_there(run_dir: Path, name: str) -> pl.DataFrame | None:
    """A table of the run folder, or None where there is no such file; raises as ``read_table``."""
    return read_table(run_dir, name) if (run_dir / f"{name}.parquet").exists() else None


def leaves(
    value: Any, by_name: bool = False, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The plain values inside of a value, and its lists of plain values, each with its path.

    Items of other lists are called by their place or, where asked and they have one, by their name.
    """
    if isinstance(value, Mapping):
        inner = list(value.items())
    elif isinstance(value, list) and any(isinstance(x, Mapping | list) for x in value):
        has_name = [by_name and isinstance(x, Mapping) for x in value]
        inner = [(x.get("name", i) if has_name[i] else i, x) for i, x in enumerate(value)]
    else:
        yield path, value
        return
    for key, x in inner:
        yield from leaves(x, by_name, (*path, str(key)))


@contextmanager
def odd_files_named(*run_dirs: Path) -> Iterator[None]:
    """An InputError for files that are sound, but hold what no run writes."""
    try:
        yield
    except _ODD as error:
        kind = "lacks" if isinstance(error, KeyError) else f"{type(error).__name__}:"
        fault = " ".join(f"{kind} {error}".split())
        raise InputError(
            f"{', '.join(map(str, run_dirs))}: holds what no run writes ({fault[:200]}); run again"
        ) from error


def is_complete(run_dir: Path) -> bool:
    """Whether a run folder holds the result of a run that came to its end."""
    try:
        return read_run(run_dir).is_complete
    except InputError:
        return False  # none, or one that resuming the run writes anew
