"""The package from Python: run a config, look at its result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from realdataexp.config import Config as Config
from realdataexp.config import load_config as load_config
from realdataexp.errors import InputError as InputError
from realdataexp.errors import RunError as RunError
from realdataexp.report.files import read_result, read_table
from realdataexp.report.notebook import notebook_view, one_line
from realdataexp.report.page import write_report
from realdataexp.report.plots import write_plot
from realdataexp.runs.experiment import run_experiment
from realdataexp.runs.networks import Network, best_networks, read_networks
from realdataexp.runs.planning import run_plan


@dataclass(frozen=True, repr=False)
class Result:
    """What a run folder holds; in a notebook it shows its answer.

    Tables and ``summary`` are read from the folder when they are asked for, so a result of an
    earlier run is ``Result(folder)``. A run that was interrupted has them too, with
    ``summary["status"]`` "partial". Outcomes are in their label's unit: milliseconds for
    ``play_time_ms``, 0 or 1 for a click.

    Attributes:
        folder: the run folder.

    Raises:
        InputError: by each property and method, where a file of the folder is missing or damaged.

    Examples:
        >>> result = Result("results/of-an-earlier-run")
        >>> result
        Result(results/of-an-earlier-run/result.json: not there; pass a run folder made by run)
    """

    folder: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", Path(self.folder))

    def __repr__(self) -> str:
        """What was run and the effect on each label, in one line; never raises."""
        return f"Result({one_line(self.folder)})"

    def _repr_html_(self) -> str:
        """The answer in words, the tables, the warnings, and links to the files; never raises."""
        return notebook_view(self.folder)

    @cached_property
    def summary(self) -> dict[str, Any]:
        """result.json: the answer with its diagnostics, warnings, config and versions."""
        return read_result(self.folder)

    @property
    def comparison(self) -> pl.DataFrame:
        """Each design and label against the truth; empty unless the mode was compare.

        A row per design and label: gte, estimate, bias, bias_mc_se (Monte-Carlo standard error of
        the bias), sd, rmse, se_mean, in the label's unit per visit; bias_df (the degrees of
        freedom of bias_mc_se); coverage, sign_error_rate (shares); n_worlds. See
        ``stats.performance.Performance``.
        """
        return pl.DataFrame(self.summary["comparison"], infer_schema_length=None)

    @property
    def estimates(self) -> pl.DataFrame:
        """Each world's estimates: estimates.parquet.

        A row per design, world (replication), label and interval method (``se_method``): value,
        se, ci_low, ci_high in the label's unit per visit, p_value, p_adjusted (by Holm over the
        labels), n_T and n_C (visits in each arm). The truth is the design "global".
        """
        return read_table(self.folder, "estimates")

    @property
    def outcomes(self) -> pl.DataFrame:
        """Sums of outcomes: outcomes.parquet.

        A row per design, world, step, arm ("T", "C") and label: n (known outcomes), sum and
        sum_sq, in the label's unit and its square.
        """
        return read_table(self.folder, "outcomes")

    @property
    def metrics(self) -> pl.DataFrame:
        """Losses and validation metrics over steps: metrics.parquet.

        A row per phase, step, design, world, model, label, split ("train", "validation") and
        metric: its value, and n, what it rests on.
        """
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
    """Run an experiment; shows nothing while it runs.

    Args:
        config: a loaded config, its content, a YAML file, or the name of a built-in config.
        overrides: as ``--set`` takes them, such as "simulation.n_steps=50".
        out: the run folder, which must not exist or be empty; None makes one under
            ``logging.log_dir``.

    Returns:
        The result, whose folder holds every file of the run.

    Raises:
        InputError: something given is wrong: a line for each fault.
        RunError: the run failed.
        KeyboardInterrupt: interrupted; the folder holds the run so far and can be resumed.

    Examples:
        The simulated platform needs no data. Everybody treated for 20 steps, and nobody:

        >>> small = ["simulation.n_steps=20", "experiment.replications=4", "mode=global"]
        >>> result = run("si2023", small, out="results/first")
        >>> result.summary["status"], result.summary["n_steps_done"]
        ('complete', 20)
        >>> result.outcomes.select("design", "arm").unique().sort("arm").rows()
        [('global', 'C'), ('global', 'T')]
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
        A row for each p, cadence, length, design and label: plan.parquet. Effects, biases and
        least detectable effects are in the label's unit per visit (``_percent``: of control's
        mean); see ``stats.performance.plan_grid``.

    Raises:
        InputError: something given is wrong.
        RunError: a run failed.

    Examples:
        >>> small = ["experiment.replications=4", "experiment.designs=[pooling]"]
        >>> table = plan("si2023", small, p=0.5, steps=[10, 20], out="results/plan")
        >>> table.select("steps", "design").unique().sort("steps").rows()
        [(10, 'pooling'), (20, 'pooling')]
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


def load_model(
    path: str | Path,
    best: str | None = None,
    *,
    design: str | None = None,
    replication: int = 0,
    model: str | None = None,
    label: str | None = None,
) -> Network:
    """A trained network of a run: a plain ``torch.nn.Module``.

    Its ``forward(num_ND, cat_NK)`` returns predictions N, L in the labels' units; ``schema`` says
    which features the columns are, ``labels`` which L labels it predicts. By default it is the
    starting model that pretraining left best by a metric: the one network that learned from
    logged data alone. With ``design`` it is a network of one world of the loop, from the step at
    which the mean over all worlds was best.

    Args:
        path: a run folder, or a file made by `realdataexp export`.
        best: a metric, such as "click.auc"; None: the run's ``validation.primary_metric``.
        design: whose network, as in metrics.parquet ("splitting", "global_T").
        replication: which of the design's worlds; without a design, the world whose starting
            model is meant.
        model: "T" (the default) or "C" of a design with two models, "shared" of others.
        label: which label's network; None: that of the metric, or the only one.

    Raises:
        InputError: there is no such network.

    Examples:
        >>> small = ["simulation.n_steps=20", "experiment.replications=4", "mode=global"]
        >>> folder = run("si2023", small, out="results/second").folder
        >>> import torch
        >>> network = load_model(folder, "finish.auc")
        >>> network.labels
        ('finish',)
        >>> network(torch.zeros(3, 11), torch.zeros(3, 0, dtype=torch.long)).shape
        torch.Size([3, 1])
    """
    path, where = Path(path), {"design": design, "model": model}
    if not path.is_file():
        networks = best_networks(path, best, design, replication, model)
        return networks.module(label or networks.label)
    if given := [name for name, value in {"best": best, **where}.items() if value is not None]:
        raise InputError(f"{path}: holds one network a label: leave out {', '.join(given)}")
    return read_networks(path).module(label)


def _loaded(config: Config | dict[str, Any] | str | Path, overrides: Sequence[str]) -> Config:
    if not isinstance(config, Config):
        return load_config(config, overrides)
    if overrides:
        raise InputError(
            f"overrides = {list(overrides)!r}: have no effect on a config that is loaded; give "
            "them to load_config"
        )
    return config
