"""A config's whole life: set up, pretrain, loop, results."""

from __future__ import annotations

import dataclasses
import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from realdataexp import draws
from realdataexp.config import Config
from realdataexp.errors import InputError, RunError, Warnings
from realdataexp.learner import Learner
from realdataexp.loop import Loop, n_networks
from realdataexp.models import Batch
from realdataexp.pretrain import Pretraining, PretrainSettings
from realdataexp.report.plots import write_plot
from realdataexp.runs.checkpoint import has_checkpoint, save_checkpoint
from realdataexp.runs.doubts import (
    warn_of_arms,
    warn_of_design,
    warn_of_intervals,
    warn_of_nulls,
    warn_of_updates,
    warn_of_weights,
)
from realdataexp.runs.folder import (
    Folder,
    RunLog,
    check_place,
    disk_faults,
    finite,
    make_folder,
    write_json,
    write_parquet,
    write_text,
)
from realdataexp.runs.interrupts import Interrupts
from realdataexp.runs.machine import peak_memory_mb, versions
from realdataexp.runs.progress import PhaseProgress
from realdataexp.runs.recorder import Recorder
from realdataexp.runs.setup import set_up
from realdataexp.runs.skips import refuse_skips
from realdataexp.stats.comparison import compare, gte_results
from realdataexp.stats.estimates import summarise, world_estimates
from realdataexp.stats.honesty import family_rejections, honesty, wrong_launch_regret
from realdataexp.stats.inference import NEEDS_UNITS, designs_without_units, inference_table
from realdataexp.stats.planner import plan
from realdataexp.worlds.base import RowSource, World, WorldSettings

logger = logging.getLogger("realdataexp")

SCHEMA_VERSION = 1


def check_experiment(
    config: Config, out: Path | None = None, *, every_fault: bool = False
) -> list[str]:
    """Check a config against the machine and the data; describe what would run.

    Args:
        config: what to check.
        out: the run folder it would get; None makes one in the config's log_dir.
        every_fault: import the data in any case, and check them too.

    Raises:
        InputError: with every fault found, a line each.
    """
    check_place(out, config.path(config.logging.log_dir))
    warnings = Warnings()
    setup = set_up(config, warnings, every_fault=every_fault)
    loop, R = config.simulation, config.experiment.replications
    names = ", ".join(dict.fromkeys(b.label for b in setup.blocks))
    lines = [
        f"mode {config.mode}: {names}; {R} replications, {len(setup.blocks) * R} worlds",
        f"device {setup.device.torch} ({setup.device.reason})",
        *setup.environment.description(),
        f"loop: {loop.n_steps} steps of {loop.batch_size} visits x {loop.n_candidate} candidates",
        f"labels: {', '.join(label.name for label in config.labels)}",
    ]
    return lines


def run_experiment(config: Config, out: Path | None = None) -> Path:
    """Run an experiment and write its folder; returns the folder.

    Args:
        config: what to run.
        out: the run folder; None makes ``<log_dir>/<timestamp>-<mode>``.

    Raises:
        InputError: something given is wrong, and no folder is left behind; or the disk is full,
            and a folder is left only if it holds a checkpoint.
        RunError: the run failed.
        KeyboardInterrupt: interrupted; the folder, once there is one, holds the run so far, with
            status "partial".
    """
    check_place(out, config.path(config.logging.log_dir))
    log = RunLog(config.logging.level)
    level = logger.level
    logger.setLevel(log.level if level == logging.NOTSET else min(level, log.level))
    logger.addHandler(log)
    try:
        with Interrupts() as interrupts:
            return _Run(config, log, interrupts).finish(out)
    finally:
        logger.removeHandler(log)
        logger.setLevel(level)


@dataclass
class _CountingRows:
    """Moves a progress bar on with every batch that is read."""

    source: RowSource
    progress: PhaseProgress

    @property
    def n_rows(self) -> int:
        return self.source.n_rows

    def read(self, place_B: np.ndarray) -> tuple[Batch, list[torch.Tensor]]:
        self.progress.advance(len(place_B))
        return self.source.read(place_B)


class _Run:
    """One run: what was set up, and where its time goes."""

    def __init__(self, config: Config, log: RunLog, interrupts: Interrupts) -> None:
        self.config, self.log, self.interrupts = config, log, interrupts
        self.warnings = Warnings()
        self.seconds: dict[str, float] = {}
        self.started = time.perf_counter()
        with self._timed("setup"):
            self.setup = set_up(config, self.warnings)
        self.recorder = Recorder(
            self.setup.blocks,
            tuple(range(config.experiment.replications)),
            tuple(self.setup.outcomes),
            tuple(label.config.name for label in self.setup.labels),
            config.simulation.n_candidate,
            has_users=self.setup.history is not None,
        )
        self.n_steps_done = self.pretrained_rows = 0
        self.learners: list[Learner] = []
        self.weight_figures: dict[str, dict[str, float]] = {}

    @contextmanager
    def _timed(self, phase: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - start

    def finish(self, out: Path | None) -> Path:
        """Make the folder, pretrain, loop, write the results.

        Whatever ends the run early, what there is gets written.
        """
        log_dir = self.config.path(self.config.logging.log_dir)
        with self.interrupts.postponed():
            made = make_folder(out, log_dir, self.config.mode)
            self.folder = made.path
            try:
                self._begin()
            except BaseException:
                self.log.stop()
                made.discard()
                raise
        try:
            self.interrupts.check()
            with self._timed("pretrain"):
                start = self._pretrain()
            with self._timed("loop"):
                self._loop(start)
            self._results("complete")
        except KeyboardInterrupt as error:
            so_far = self._save_rest(made)
            raise KeyboardInterrupt(f"interrupted {so_far}") from error
        except torch.OutOfMemoryError as error:
            raise RunError(
                f"out of memory on {self.setup.device.torch}: lower experiment.replications or "
                f"the number of designs ({self._save_rest(made)})"
            ) from error
        except RunError as error:
            raise RunError(f"{error} ({self._save_rest(made)})") from error
        except InputError as error:
            so_far = self._save_rest(made, needs_checkpoint=True)
            raise InputError(f"{error} ({so_far})") from error
        except Exception as error:
            error.add_note(self._save_rest(made))
            raise
        return self.folder

    def _begin(self) -> None:
        self.log.open(self.folder / "run.log")
        write_text(self.folder / "config.yaml", self.config.to_yaml())
        logger.info("[run] device %s (%s)", self.setup.device.torch, self.setup.device.reason)

    def _save_rest(self, made: Folder, *, needs_checkpoint: bool = False) -> str:
        """Write what there is of a run that ends early; returns what became of it.

        Args:
            made: the run folder.
            needs_checkpoint: remove the folder unless it holds a checkpoint, as is done in any
                case where the results cannot be written: a full disk should not stay full.
        """
        done = f"after {self.n_steps_done} of {self.config.simulation.n_steps} steps"
        try:
            self._results("partial")
            kept = "holds the run so far, with status partial"
        except InputError:
            kept, needs_checkpoint = "keeps its checkpoints", True
        except Exception as error:
            kept = f"lacks results: {type(error).__name__}: {error}"
        if needs_checkpoint and not has_checkpoint(self.folder):
            self.log.stop()
            made.discard()
            return f"{done}; nothing was kept"
        return f"{done}; {self.folder} {kept}"

    # --- pretraining -----------------------------------------------------------------------

    def _learner(self, index: int, start: dict[str, torch.Tensor], n: int) -> Learner:
        network = self.setup.networks[index]
        return Learner.start(network.model, network.heads, self.setup.device, start, n)

    def _pretrain(self) -> list[dict[str, torch.Tensor]]:
        """Parameters of the starting model of each learner."""
        config, setup = self.config, self.setup
        starts = [
            network.model.init(draws.key(config.seed, f"init {network.name}"))
            for network in setup.networks
        ]
        learners = [self._learner(i, start, 1) for i, start in enumerate(starts)]
        self._validation_reader()
        rows = setup.environment.pretraining(setup.targets)
        n_rows = min(rows.n_rows, config.pretrain.max_rows or sys.maxsize)
        if not config.pretrain.enabled:
            return starts
        if n_rows == 0:
            self.warnings.add(
                "no_pretraining_rows", "no row to pretrain on: models start untrained"
            )
            return starts
        settings = PretrainSettings(
            config.seed,
            config.pretrain.batch_size,
            config.pretrain.epochs,
            config.pretrain.max_rows,
            config.pretrain.validate_every_iters,
            config.pretrain.early_stopping,
        )
        progress = PhaseProgress("pretrain", n_rows * config.pretrain.epochs, "rows")
        pretraining = Pretraining(
            learners,
            [network.pretrain_optimizer for network in setup.networks],
            _CountingRows(rows, progress),
            rows.n_rows,
            lambda: tuple(self._validation_losses(learners)[0].tolist()),
            settings,
            [network.labels for network in setup.networks],
        )
        with progress:
            for check in pretraining.checks():
                self.pretrained_rows = check.n_rows
                self._log_check(check.iteration, check.training_L, check.validation_L)
                self._refuse_skips(learners, ["starting model"], "pretrain")
        return [learner.network(0) for learner in learners]

    def _log_check(
        self, iteration: int, training_L: tuple[float, ...], validation_L: tuple[float, ...]
    ) -> None:
        for i, name in enumerate(self.recorder.learned):
            for split, value in (("train", training_L[i]), ("validation", validation_L[i])):
                self.recorder.metric(
                    "pretrain", iteration, "", 0, "start", name, split, "loss", value,
                    self.n_validation,
                )  # fmt: skip
            logger.info(
                "[pretrain] iteration %d: %s loss %.4f, validation %.4f",
                iteration, name, training_L[i], validation_L[i],
            )  # fmt: skip

    # --- validation ------------------------------------------------------------------------

    def _validation_reader(self) -> None:
        """Read the fixed sample of held-out users' rows once."""
        config, loop = self.config, self.config.simulation
        self.held_out = self.setup.environment.held_out(
            tuple(self.setup.outcomes.values()),
            config.validation.validation_batches * loop.batch_size,
            loop.n_candidate,
            config.seed,
        )
        self.validation_batch, y_NL = self.held_out.rows()
        self.n_validation = len(y_NL)
        self.validation_y_L = [y.unsqueeze(0) for y in y_NL.unbind(-1)]

    def _validation_losses(self, learners: list[Learner]) -> torch.Tensor:
        """Each network's mean loss on the validation rows: S, L, on the host."""
        loss_L = [torch.empty(0)] * len(self.setup.labels)
        for network, learner in zip(self.setup.networks, learners, strict=True):
            n = learner.n_networks
            batch = self.validation_batch.expand(n)
            y_BK = torch.stack([self.validation_y_L[i][0] for i in network.labels], dim=-1)
            loss_SBK = learner.losses(batch, y_BK.expand(n, -1, -1), slice(0, n))
            for i, loss_S in zip(network.labels, loss_SBK.nanmean(1).unbind(-1), strict=True):
                loss_L[i] = loss_S.cpu()
        return torch.stack(loss_L, dim=-1)

    def _refuse_skips(self, learners: list[Learner], names: list[str], block: str) -> None:
        max_share = getattr(self.config, block).max_skipped_share
        for network, learner in zip(self.setup.networks, learners, strict=True):
            refuse_skips(learner, network.name, names, block, max_share, self.config.use_amp)

    def _validate(self, step: int) -> None:
        with self._timed("validation"):
            loss_SL = self._validation_losses(self.learners)
            for network, learner in zip(self.setup.networks, self.learners, strict=True):
                schedule = self.setup.labels[network.labels[0]].policy.optimizer.schedule
                learner.look(loss_SL[:, list(network.labels)].sum(1), schedule)
            names = [" ".join(map(str, name)) for name in self.recorder.networks]
            self._refuse_skips(self.learners, names, "simulation")
            for i, name in enumerate(self.recorder.learned):
                loss_S = loss_SL[:, i].tolist()
                for (design, world, model), loss in zip(
                    self.recorder.networks, loss_S, strict=True
                ):
                    self.recorder.metric(
                        "loop", step, design, world, model, name, "validation", "loss", loss,
                        self.n_validation,
                    )  # fmt: skip
                logger.info(
                    "[validate] step %d: %s loss %.4f (mean of %d networks, %d rows)",
                    step, name, sum(loss_S) / len(loss_S), len(loss_S), self.n_validation,
                )  # fmt: skip

    # --- the loop --------------------------------------------------------------------------

    def _world(self) -> World:
        config = self.config
        loop, test = config.simulation, config.experiment
        settings = WorldSettings(
            seed=config.seed,
            replications=self.recorder.replications,
            n_blocks=len(self.setup.blocks),
            batch_size=loop.batch_size,
            n_candidates=loop.n_candidate,
            n_steps=loop.n_steps,
            min_candidates=loop.min_candidates,
            assignment=test.assignment,
        )
        targets = tuple(self.setup.outcomes.values())
        return self.setup.environment.world(targets, settings)

    def _loop(self, starts: list[dict[str, torch.Tensor]]) -> None:
        config, recorder = self.config.simulation, self.recorder
        n = n_networks(self.setup.blocks, len(recorder.replications))
        self.learners = [self._learner(i, start, n) for i, start in enumerate(starts)]
        world = self._world()
        policies = [label.policy for label in self.setup.labels]
        loop = Loop(
            world,
            self.setup.blocks,
            policies,
            self.learners,
            self.config.seed,
            diagnose_every=config.validate_every,
            retrain_every=config.retrain_every,
            running=self.setup.running,
            labels_of=[network.labels for network in self.setup.networks],
        )
        self._validate(0)
        with (
            PhaseProgress("loop", config.n_steps, "steps") as progress,
            self.interrupts.postponed(may_insist=True),
        ):
            for step in loop.steps(0, config.n_steps):
                recorder.add(step)
                self.n_steps_done = done = step.visits.step + 1
                is_last = done == config.n_steps
                if done % config.validate_every == 0 or is_last:
                    self._look(loop, done)
                if done % config.save_every == 0 or is_last:
                    self._save(world, done)
                progress.advance(1)
                self.interrupts.check()
        done = self.n_steps_done
        if done < config.n_steps:
            self.warnings.add(
                "data_exhausted",
                f"nobody had {config.min_candidates} unused rows left after step {done} of "
                f"{config.n_steps}: the run ended there",
            )
            if done and done % config.validate_every:
                self._look(loop, done)
            if done and done % config.save_every:
                self._save(world, done)

    def _look(self, loop: Loop, step: int) -> None:
        """Read out the steps since the last look, and validate."""
        self.recorder.flush()
        for block, design in zip(loop.blocks, loop.running, strict=True):
            figures = design.diagnostics()
            for name, value in figures.items():
                n = self.recorder.n_visits(block.label)
                row = ("loop", step, block.label, None, "G", "", "weights", name, value, n)
                self.recorder.metric(*row)
            if figures:
                self.weight_figures[block.label] = figures
                text = ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
                logger.info("[weights] step %d: %s: %s", step, block.label, text)
        self._report(step)
        self._validate(step)

    def _report(self, step: int) -> None:
        """A line about the step, and the first warning when data run out."""
        point = self.recorder.last_short
        assert point is not None
        logger.info(
            "[loop] step %d: %.1f %% of training users and %.1f %% of slates have fewer than %d "
            "candidates",
            step, 100 * point["users_short"], 100 * point["slates_short"],
            self.config.simulation.n_candidate,
        )  # fmt: skip

    def _save(self, world: World, step: int) -> None:
        with self._timed("checkpoint"), self.interrupts.postponed():
            tensors = {f"world.{name}": t for name, t in world.state().items()}
            for network, learner in zip(self.setup.networks, self.learners, strict=True):
                tensors.update({f"{network.name}.{k}": t for k, t in learner.state().items()})
            save_checkpoint(self.folder, step, tensors, {"networks": self.recorder.networks})

    # --- results ---------------------------------------------------------------------------

    def _results(self, status: str) -> None:
        """Write every file of the run folder from what there is; signals wait."""
        with self.interrupts.postponed():
            self._write_results(status)

    def _write_results(self, status: str) -> None:
        recorder, warnings = self.recorder, self.warnings
        recorder.flush()
        outcomes, metrics = recorder.outcomes(), recorder.metrics()
        estimates, diagnostics = world_estimates(outcomes), recorder.diagnostics()
        units = recorder.units(self.setup.history)
        inference = inference_table(outcomes, units, self._intervals(outcomes, units))
        write_parquet(self.folder / "outcomes.parquet", outcomes)
        write_parquet(self.folder / "metrics.parquet", metrics)
        write_parquet(self.folder / "estimates.parquet", inference)
        if units is not None:
            write_parquet(self.folder / "units.parquet", units)
        is_aa = self.config.experiment.aa
        is_true = self.config.mode in ("global", "compare")
        result = finite(
            {
                "schema_version": SCHEMA_VERSION,
                "mode": self.config.mode,
                "seed": self.config.seed,
                "status": status,
                "n_steps_done": self.n_steps_done,
                "config": self.config.resolved(),
                "dataset_stats": self._dataset_stats(),
                "gte_results": gte_results(outcomes) if is_true else {},
                "estimates": summarise(estimates),
                "comparison": compare(estimates) if self.config.mode == "compare" else [],
                "inference": honesty(inference, estimates, is_aa) if is_true else [],
                "family": family_rejections(inference) if is_true else [],
                "regret": wrong_launch_regret(inference, estimates) if is_true else [],
                "plan": plan(inference, estimates) if is_true and not is_aa else [],
                "weights": self.weight_figures,
                "metrics_summary": _last_losses(metrics),
                "diagnostics": diagnostics,
                "warnings": [],
                "device": {
                    "name": str(self.setup.device.torch),
                    "reason": self.setup.device.reason,
                    "threads": torch.get_num_threads(),
                },
                "timing": self._timing(),
                "versions": versions(),
            },
            warnings,
        )
        n_candidate = self.config.simulation.n_candidate
        warn_of_design(diagnostics, n_candidate, self.n_steps_done, warnings, is_aa)
        warn_of_weights(self.weight_figures, diagnostics, warnings)
        names = [network.name for network in self.setup.networks]
        warn_of_updates(names, self.learners, warnings)
        warn_of_arms(estimates, warnings)
        warn_of_intervals(result["inference"], warnings)
        warn_of_nulls(result, warnings)
        result["warnings"] = warnings.items
        write_json(self.folder / "result.json", result)
        with disk_faults(self.folder / "plot.svg"):
            write_plot(self.folder)
        say = logger.info if status == "complete" else logger.warning
        say("[result] %s after %d steps: %s", status, self.n_steps_done, self.folder)

    def _intervals(
        self, outcomes: pl.DataFrame, units: pl.DataFrame | None
    ) -> tuple[str, ...] | None:
        """The interval methods that are asked for; None for all that apply."""
        names = self.config.experiment.intervals
        if names is None:
            return None
        left_out = [name for name in names if name in NEEDS_UNITS]
        designs = designs_without_units(outcomes, units)
        if left_out and designs:
            self.warnings.add(
                "intervals_without_units",
                f"experiment.intervals: {', '.join(left_out)} need units that come more than once; "
                f"in {', '.join(designs)} every visit is a new one",
            )
        return tuple(dict.fromkeys(("welch", *names)))  # plots and comparisons use welch

    def _dataset_stats(self) -> dict[str, Any]:
        s = self.setup
        return {
            **s.environment.stats(),
            "label_scales": {x.config.name: dataclasses.asdict(x.head.scale) for x in s.labels},
        }

    def _timing(self) -> dict[str, Any]:
        loop = self.seconds.get("loop", 0.0)
        stepping = loop - self.seconds.get("validation", 0.0) - self.seconds.get("checkpoint", 0.0)
        n = len(self.recorder.networks) * self.n_steps_done
        pretraining = self.seconds.get("pretrain", 0.0)
        timing = {
            "total_seconds": time.perf_counter() - self.started,
            **{f"{phase}_seconds": s for phase, s in self.seconds.items()},
            "arm_steps_per_second": n / stepping if stepping > 0 and n else None,
            "peak_memory_mb": peak_memory_mb(),
        }
        if self.pretrained_rows and pretraining:
            timing["pretrain_rows_per_second"] = self.pretrained_rows / pretraining
        return timing


def _last_losses(metrics: pl.DataFrame) -> list[dict[str, Any]]:
    """The last value of each metric, averaged over worlds."""
    losses = metrics.filter(pl.col("split") != "data")
    keys = ["phase", "design", "model", "label", "split", "metric"]
    last = losses.filter(pl.col("step") == pl.col("step").max().over(keys))
    return (
        last.group_by(keys, maintain_order=True)
        .agg(pl.col("step").first(), pl.col("value").mean(), pl.len().alias("n_networks"))
        .to_dicts()
    )
