"""The package from Python: run a config, look at its result."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl
from pydantic_core import PydanticSerializationError

from realdataexp import designs as _designs
from realdataexp.config import Config as Config
from realdataexp.config import load_config as load_config
from realdataexp.config.points import Asked
from realdataexp.designs import Design
from realdataexp.errors import InputError as InputError
from realdataexp.errors import RunError as RunError
from realdataexp.options import construct
from realdataexp.report.files import read_result, read_table
from realdataexp.report.page import notebook_view, one_line, write_report, write_sweep
from realdataexp.report.plots import Plots
from realdataexp.runs.experiment import run_experiment
from realdataexp.runs.networks import Network, best_networks, read_networks
from realdataexp.runs.planning import run_plan
from realdataexp.runs.sweeping import run_sweep
from realdataexp.stats.thinning import extrapolated

_FILES = ("outcomes", "units", "ledger", "estimates", "detections", "metrics", "monitor")
_PARTS = (
    "answers",
    "comparison",
    "inference",
    "family",
    "regret",
    "power",
    "detectors",
    "last_metrics",
    "prediction",
)
_KEYS = {"answers": "estimates", "power": "plan", "last_metrics": "metrics_summary"}


@dataclass(frozen=True, repr=False)
class Result:
    """What a run folder holds; in a notebook it shows its answer.

    Tables and ``summary`` are read from ``folder`` when they are asked for, so a result of an
    earlier run is ``Result(folder)``; of an interrupted one ``summary["status"]`` is "partial".
    Outcomes are in their label's unit: milliseconds for ``play_time_ms``, 0 or 1 for a click.

    Raises:
        InputError: by each property and method, where a file of the folder is missing or damaged.

    Examples:
        >>> small = ["simulation.n_steps=10", "experiment.replications=3"]
        >>> result = run("si2023", small, designs=["pooling"], out="results/looked-at")

        A Polars frame for each table, and a pandas one where that is installed:

        >>> result.comparison.select("design", "label").rows()[0]
        ('pooling', 'stay_time')
        >>> result.to_pandas("outcomes").shape == result.outcomes.shape
        True

        Figures are matplotlib's, and write nothing; ``plot()`` and ``report()`` write their file:

        >>> figure = result.plot.bias("finish")
        >>> [axes.get_title(loc="left") for axes in figure.axes]
        ['finish: bias']
        >>> figure.savefig("bias.png")
        >>> result.plot().name, result.report().name
        ('plot.svg', 'report.html')

        What is missing or damaged is one line:

        >>> Result("results/of-an-earlier-run")
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

    # --- the tables of docs/results.md: those of result.json, then the Parquet files -----------

    @property
    def answers(self) -> pl.DataFrame:
        """The effect as the truth ("global") and each design have it: ``estimates`` of result.json.

        A row per design and label: value, the mean of its worlds' estimates, with se, ci_low,
        ci_high and p_value.
        """
        return self._part("answers")

    @property
    def comparison(self) -> pl.DataFrame:
        """Each design against the truth; empty unless the mode was compare.

        A row per design and label: gte, estimate, bias, bias_mc_se (Monte-Carlo standard error of
        the bias, with bias_df degrees of freedom), sd, rmse, se_mean, in the label's unit per
        visit; coverage, sign_error_rate (shares); n_worlds.
        """
        return self._part("comparison")

    @property
    def inference(self) -> pl.DataFrame:
        """Whether intervals cover as often as they say; empty where the truth was not run.

        A row per design, label and interval method: coverage and reject_share with their exact
        binomial intervals, and trustworthy.
        """
        return self._part("inference")

    @property
    def family(self) -> pl.DataFrame:
        """A row per design and interval method: how often any label's effect is called real."""
        return self._part("family")

    @property
    def regret(self) -> pl.DataFrame:
        """What deciding by the interval costs: launch_share, wrong_share and regret.

        A row per design, label and interval method.
        """
        return self._part("regret")

    @property
    def power(self) -> pl.DataFrame:
        """What a test like these can detect: power_at_effect, mde_reported, mde_honest.

        A row per design, label and interval method: ``plan`` of result.json.
        """
        return self._part("power")

    @property
    def detectors(self) -> pl.DataFrame:
        """Which share of single tests gives an alarm of training interference.

        A row per design, label and detector: alarm_share with its exact binomial interval, value,
        and the verdict; where no test can tell, why.
        """
        return self._part("detectors")

    @property
    def last_metrics(self) -> pl.DataFrame:
        """Each metric's last value, averaged over worlds: ``metrics_summary`` of result.json.

        A row per phase, design, model, label, split and metric.
        """
        return self._part("last_metrics")

    @property
    def prediction(self) -> pl.DataFrame:
        """How well each design's networks and rankings do on held-out visits at last.

        A row per design, arm, label and metric: value (mean over worlds) with its sd over
        replications, and the difference from the truth's network of the arm with its standard
        error; null for the truth, and where a run has none.
        """
        return self._part("prediction")

    def extrapolated(self, near: str, far: str) -> pl.DataFrame:
        """What two designs together say of an effect whose models learn from all visits.

        They differ in how much their models learn from, as ``shadow`` with ``steps: launched`` and
        the same with ``keep: 0.5``: the effect on the line through both, at a launched system's
        amount of data; see ``stats.thinning.extrapolated``, and docs/weights.md for when to use it.

        Returns:
            A row per label: estimate, se (of a single pair of tests, each with visitors of its
            own), gte, bias, bias_mc_se, n_worlds; in the label's unit per visit.

        Raises:
            InputError: a design that the run does not have or whose effective share it does not
                report, or far's models learn from no less than near's.
        """
        shares = {
            name: [w[f"effective_share_{arm}"] for arm in "CT"]
            for name, w in self.summary.get("weights", {}).items()
            if {"effective_share_C", "effective_share_T"} <= {*w}
        }
        if lacking := [x for x in (near, far) if x not in shares]:
            known = f"; use one of {', '.join(shares)}" if shares else ""
            raise InputError(
                f"{self.folder}: no effective share of {lacking[0]!r}: only shadow and splitting "
                f"with steps: launched, and weighting, report how much they learn from{known}"
            )
        kappas = 2 / sum(shares[near]), 2 / sum(shares[far])
        n_starts = self.summary["config"]["experiment"]["starts"]
        return extrapolated(self.estimates, near, far, kappas, n_starts)

    @property
    def outcomes(self) -> pl.DataFrame:
        """A row per design, world, step, arm ("T", "C") and label: outcomes.parquet.

        n (known outcomes), sum and sum_sq, in the label's unit and its square.
        """
        return read_table(self.folder, "outcomes")

    @property
    def units(self) -> pl.DataFrame:
        """A row per design, world, arm, label and what was randomised as one: units.parquet.

        n, sum, and covariate, the mean outcome before the test. A run whose every visit is a new
        user has no such table (InputError).
        """
        if not (path := self.folder / "units.parquet").exists() and self.summary:
            raise InputError(f"{path}: not there; where every visit is a new user a run has none")
        return read_table(self.folder, "units")

    @property
    def ledger(self) -> pl.DataFrame:
        """A row per design, world, step and arm: ledger.parquet.

        visits, those in which the arms would have picked differently, and from which arm's visits
        came the weight of what the arm's model learned: own_weight and other_weight.
        """
        return read_table(self.folder, "ledger")

    @property
    def estimates(self) -> pl.DataFrame:
        """A row per design, world (replication), label and interval method: estimates.parquet.

        value, se, ci_low, ci_high in the label's unit per visit, p_value, p_adjusted (by Holm over
        the labels), n_T and n_C (visits in each arm). The truth is the design "global".
        """
        return read_table(self.folder, "estimates")

    @property
    def detections(self) -> pl.DataFrame:
        """A row per design, world, label and detector: detections.parquet.

        value, with se, ci_low, ci_high and p_value; the verdict "alarm" (p_value of at most 0.05),
        "no alarm", or "cannot tell" with why.
        """
        return read_table(self.folder, "detections")

    @property
    def metrics(self) -> pl.DataFrame:
        """A row per phase, step, design, world, model, label, split and metric: metrics.parquet.

        Losses and validation metrics over steps: value, and n, what it rests on.
        """
        return read_table(self.folder, "metrics")

    @property
    def monitor(self) -> pl.DataFrame:
        """A row per second, at most: CPU, memory and GPU in use, monitor.parquet."""
        return read_table(self.folder, "monitor")

    def to_pandas(self, table: str | None = None) -> Any:
        """A table as a ``pandas.DataFrame``; without a name a dictionary of all that this run has.

        Raises:
            InputError: there is no such table, or pandas is not installed.
        """
        try:
            import pandas  # noqa: F401
        except ImportError as error:
            raise InputError("to_pandas: pandas is not installed: pip install pandas") from error
        if table is None:
            there = [x for x in _FILES if (self.folder / f"{x}.parquet").exists()]
            return {name: getattr(self, name).to_pandas() for name in (*_PARTS, *there)}
        if table not in (*_PARTS, *_FILES):
            known = ", ".join((*_PARTS, *_FILES))
            raise InputError(f"to_pandas: table = {table!r}: unknown; use one of {known}")
        return getattr(self, table).to_pandas()

    def _part(self, name: str) -> pl.DataFrame:
        """A table of result.json."""
        return pl.DataFrame(self.summary.get(_KEYS.get(name, name)), infer_schema_length=None)

    @property
    def plot(self) -> Plots:
        """Figures: ``plot.bias()`` and others return one; ``plot()`` draws plot.svg again."""
        return Plots(self.folder)

    def report(self) -> Path:
        """Write report.html again; returns the file."""
        return write_report(self.folder)


_AnyDesign = Design | str | Mapping[str, Any]


def run(
    config: Config | Mapping[str, Any] | str | Path = "demo",
    overrides: Sequence[str] = (),
    *,
    designs: Sequence[_AnyDesign] | Mapping[str, _AnyDesign] | None = None,
    out: str | Path | None = None,
) -> Result:
    """Run an experiment; shows nothing while it runs.

    Args:
        config: a loaded config, its content, a YAML file, or the name of a built-in config.
        overrides: as ``--set`` takes them, such as "simulation.n_steps=50".
        designs: what to compare with the truth, in place of the config's: designs, or what a
            config may say of one (its name, or a mapping); by the names that results shall use,
            or in a list. A design of your own is a `Design` in a module that Python can import:
            the run is rebuilt from config.yaml, which names it with its options.
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

        Designs as objects; two of one kind are told apart by the names you choose:

        >>> slow = _designs.Switchback(block_steps=10)
        >>> pair = {"frozen": _designs.Snapshot(), "slow": slow}
        >>> result = run("si2023", small[:2], designs=pair, out="results/designs")
        >>> result.comparison["design"].unique(maintain_order=True).to_list()
        ['frozen', 'slow']
    """
    loaded = _loaded(config, overrides)
    if designs is not None:
        loaded = _comparing(loaded, designs)
    return Result(run_experiment(loaded, None if out is None else Path(out)))


def plan(
    config: Config | Mapping[str, Any] | str | Path = "demo",
    overrides: Sequence[str] = (),
    *,
    p: float | Sequence[float] | None = None,
    steps: int | Sequence[int] | None = None,
    retrain_every: int | Sequence[int] | None = None,
    power: float = 0.8,
    out: str | Path | None = None,
    executor: str | None = None,
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
        executor: who runs them; see `sweep`.

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
        executor=executor,
    )
    return read_table(folder, "plan")


@dataclass(frozen=True)
class Sweep:
    """What a sweep's folder holds: ``table`` and the page are read, and made, from its files."""

    folder: Path

    @cached_property
    def table(self) -> pl.DataFrame:
        """A row for each point, design and label: sweep.parquet.

        The keys that vary, then the columns of `Result.comparison`, the 95 % intervals of ``gte``,
        ``estimate`` and ``coverage`` (``_low``, ``_high``), ``point`` (its folder, points/<point>),
        ``warnings`` (codes of the run's) and ``fault`` (why a point has no numbers, or null).
        """
        return read_table(self.folder, "sweep")

    def result(self, point: int) -> Result:
        """The run of a point."""
        return Result(self.folder / "points" / str(point))

    def report(self) -> Path:
        """Write sweep.html again; returns the file."""
        return write_sweep(self.folder)


def sweep(
    config: Config | Mapping[str, Any] | str | Path = "demo",
    overrides: Sequence[str] = (),
    *,
    grid: Mapping[str, Sequence[Any]] | None = None,
    zip: Mapping[str, Sequence[Any]] | None = None,
    points: Sequence[Mapping[str, Any]] = (),
    out: str | Path | None = None,
    keep_going: bool = False,
    executor: str | None = None,
) -> Sweep:
    """Run an experiment at each point of a grid; shows nothing while it runs.

    Args:
        config: as for `run`.
        overrides: as for `run`; a key that varies cannot stand here.
        grid: values by key, each with each.
        zip: values by key, which vary together: equally long lists.
        points: values by key, as they are. What is given in several ways is combined.
        out: the sweep's folder, which may hold an interrupted sweep of the same points; None makes
            one under ``logging.log_dir``.
        keep_going: whether to go on after a point that failed, whose rows are then null with a
            ``fault``.
        executor: who runs the points, in processes or jobs of their own: local, slurm, or
            package.module:Name; None: one after another, in this process.

    Returns:
        The sweep, whose folder holds a run folder for each point, sweep.parquet and sweep.html.

    Raises:
        InputError: something given is wrong: a line for each fault of any point.
        RunError: a point failed; what is done stays, and the same call goes on from there.
        KeyboardInterrupt: interrupted; as above.

    Examples:
        >>> small = ["simulation.n_steps=10", "experiment.designs=[pooling]"]
        >>> grid = {"experiment.replications": [3, 4], "labels.0.alpha_T": [1, 2]}
        >>> found = sweep("si2023", small, grid=grid, out="results/sweep")
        >>> found.table.height, found.table.columns[:4]
        (12, ['experiment.replications', 'labels.0.alpha_T', 'design', 'label'])
        >>> found.report().name
        'sweep.html'
    """
    asked = Asked()
    asked.add("grid", grid or {}, "grid: ")
    asked.add("zip", zip or {}, "zip: ")
    asked.add_points(points, "points: ")
    source: Any = _plain(config) if isinstance(config, Mapping) else config
    if isinstance(config, Config):
        source = _loaded(config, overrides).resolved()
    folder = run_sweep(
        source, asked.points(), overrides, out=None if out is None else Path(out),
        keep_going=keep_going, executor=executor,
    )  # fmt: skip
    return Sweep(folder)


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


def _loaded(config: Config | Mapping[str, Any] | str | Path, overrides: Sequence[str]) -> Config:
    if not isinstance(config, Config):
        return load_config(_plain(config) if isinstance(config, Mapping) else config, overrides)
    if overrides:
        raise InputError(
            f"overrides = {list(overrides)!r}: have no effect on a config that is loaded; pass "
            "them to load_config"
        )
    return config


def _plain(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """Settings, the designs in them that are objects by what a config says of them."""
    test = settings.get("experiment")
    designs = test.get("designs") if isinstance(test, Mapping) else None
    if not (isinstance(test, Mapping) and isinstance(designs, list | tuple)):
        return settings
    said = [
        _settings_of(x, f"experiment.designs.{i}") if isinstance(x, Design) else x
        for i, x in enumerate(designs)
    ]
    return {**settings, "experiment": {**test, "designs": said}}


def _comparing(config: Config, designs: Sequence[_AnyDesign] | Mapping[str, _AnyDesign]) -> Config:
    """The config, with these designs."""
    if config.mode != "compare":
        raise InputError(
            f"designs: have no effect in mode {config.mode!r}, which runs worlds of its own; use "
            "mode compare"
        )
    named: Sequence[tuple[Any, _AnyDesign]]
    named = list(designs.items() if isinstance(designs, Mapping) else enumerate(designs))
    chosen = []
    for key, design in named:
        given = _settings_of(design, f"designs.{key}")
        own = {"name": given} if isinstance(given, str) else given
        chosen.append({**own, "label": key} if isinstance(designs, Mapping) else own)
    settings = config.resolved()
    settings["experiment"]["designs"] = chosen
    return load_config(settings)


def _settings_of(design: _AnyDesign, where: str) -> str | dict[str, Any]:
    """What a config says of a design.

    Raises:
        InputError: its class cannot be found again by its name, or its options are no plain
            values.
    """
    if isinstance(design, str):
        return design
    if isinstance(design, Mapping):
        return dict(design)
    if not isinstance(design, Design):
        remedy = "call it" if isinstance(design, type) else "pass a realdataexp.designs.Design"
        raise InputError(f"{where} = {design!r}: is no design; {remedy}, or pass a name")
    kind = type(design)
    module, called = kind.__module__, kind.__qualname__
    name = _designs.registered_name(kind) or f"{module}:{called}"
    is_found = getattr(sys.modules.get(module), called, None) is kind
    if module == "__main__" or not is_found:
        raise InputError(
            f"{where} = {name}: a run is rebuilt from config.yaml, where this class cannot be "
            "named; write it to a file, such as my_designs.py, and import it from there"
        )
    try:
        options = design.model_dump(mode="json")
        is_same = construct(kind, name, options, where).model_dump(mode="json") == options
    except (InputError, PydanticSerializationError) as error:
        raise InputError(f"{where} = {name}: its options are no plain values ({error})") from error
    if not is_same:
        raise InputError(f"{where} = {name}: other options come back from config.yaml than it has")
    return {"name": name, **options}
