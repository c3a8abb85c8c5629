"""The package from Python: run a config, look at its result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from realdataexp.config import Config
from realdataexp.config import load_config as load_config
from realdataexp.errors import InputError
from realdataexp.report.files import read_result, read_table
from realdataexp.report.page import write_report
from realdataexp.report.plots import write_plot
from realdataexp.runs.experiment import run_experiment
from realdataexp.runs.planning import run_plan


@dataclass(frozen=True)
class Result:
    """What a run folder holds.

    Attributes:
        folder: the run folder.
    """

    folder: Path

    @cached_property
    def summary(self) -> dict[str, Any]:
        """result.json."""
        return read_result(self.folder)

    @property
    def comparison(self) -> pl.DataFrame:
        """Each design and label against the truth; empty unless the mode was compare."""
        return pl.DataFrame(self.summary["comparison"], infer_schema_length=None)

    @property
    def estimates(self) -> pl.DataFrame:
        """Each world's estimate: estimates.parquet."""
        return read_table(self.folder, "estimates")

    @property
    def outcomes(self) -> pl.DataFrame:
        """Sums of outcomes per world, step, arm and label: outcomes.parquet."""
        return read_table(self.folder, "outcomes")

    @property
    def metrics(self) -> pl.DataFrame:
        """Losses over steps: metrics.parquet."""
        return read_table(self.folder, "metrics")

    def plot(self) -> Path:
        """Draw plot.svg again; returns the file."""
        return write_plot(self.folder)

    def report(self) -> Path:
        """Write report.html again; returns the file."""
        return write_report(self.folder)


def run(
    config: Config | dict[str, Any] | str | Path = "demo",
    overrides: Sequence[str] = (),
    *,
    out: str | Path | None = None,
) -> Result:
    """Run an experiment.

    Args:
        config: a loaded config, its content, a YAML file, or the name of a built-in config.
        overrides: as ``--set`` takes them, such as "simulation.n_steps=50".
        out: the run folder; None makes one under ``logging.log_dir``.

    Raises:
        InputError: something given is wrong.
        RunError: the run failed.
    """
    return Result(run_experiment(_loaded(config, overrides), None if out is None else Path(out)))


def plan(
    config: Config | dict[str, Any] | str | Path = "demo",
    overrides: Sequence[str] = (),
    *,
    p: float | Sequence[float] | None = None,
    steps: int | Sequence[int] | None = None,
    retrain_every: int | Sequence[int] | None = None,
    power: float = 0.8,
    out: str | Path | None = None,
) -> pl.DataFrame:
    """What effect each design could detect: mode compare, for each p and training cadence.

    Args:
        config: as for `run`; its mode does not matter.
        overrides: as for `run`.
        p: treatment probabilities; None: the config's own.
        steps: lengths of the test; None: a quarter, half and all of the config's own.
        retrain_every: steps between two rounds of training; None: the config's own.
        power: the chance with which an effect shall be detected.
        out: the plan's folder, which may hold runs of an interrupted plan; None makes one under
            ``logging.log_dir``.

    Returns:
        A row for each p, cadence, length, design and label: plan.parquet.

    Raises:
        InputError: something given is wrong.
        RunError: a run failed.
    """
    folder = run_plan(
        _loaded(config, overrides),
        None if out is None else Path(out),
        p=p,
        steps=steps,
        retrain_every=retrain_every,
        power=power,
    )
    return read_table(folder, "plan")


def _loaded(config: Config | dict[str, Any] | str | Path, overrides: Sequence[str]) -> Config:
    if not isinstance(config, Config):
        return load_config(config, overrides)
    if overrides:
        raise InputError(
            f"overrides = {list(overrides)!r}: have no effect on a config that is loaded; give "
            "them to load_config"
        )
    return config
