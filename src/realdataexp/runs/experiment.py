"""A config's whole life: set up, pretrain, loop, results; and going on where a run was stopped."""

from __future__ import annotations

import logging
from pathlib import Path

from torch import Tensor

from realdataexp.config import Config, load_config
from realdataexp.device import multiplies_by_place, own_arithmetic
from realdataexp.errors import DiskError, InputError, RunError, Warnings, is_out_of_memory
from realdataexp.files import write_text
from realdataexp.report.files import read_result
from realdataexp.runs import looping, pretraining
from realdataexp.runs.checkpoint import Checkpoint, Checkpoints, ForeignError, has_checkpoint
from realdataexp.runs.folder import (
    Folder,
    RunLog,
    check_place,
    make_folder,
    remove_unfinished,
)
from realdataexp.runs.interrupts import Interrupts
from realdataexp.runs.looping import LoopPhase
from realdataexp.runs.machine import versions
from realdataexp.runs.memory_need import largest_setting
from realdataexp.runs.monitor import FILE, Monitor
from realdataexp.runs.networks import (
    STARTING,
    STARTS,
    read_networks,
    starting_networks,
    write_networks,
)
from realdataexp.runs.parts import Clock, Parts
from realdataexp.runs.places import placed, require_modules, write_places
from realdataexp.runs.pretraining import PretrainingPhase
from realdataexp.runs.recorder import Recorder
from realdataexp.runs.results import write_results
from realdataexp.runs.setup import Setup, set_up
from realdataexp.runs.validation import Validator
from realdataexp.tracking.session import begin_tracking, trackers_of

logger = logging.getLogger("realdataexp")


@own_arithmetic()
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
    trackers_of(config)
    setup = set_up(config, warnings, every_fault=every_fault)
    _starting(setup, None, warnings)
    loop, R = config.simulation, config.experiment.replications
    names = ", ".join(dict.fromkeys(b.label for b in setup.blocks))
    return [
        f"mode {config.mode}: {names}; {R} replications, {len(setup.blocks) * R} worlds",
        _test_of(config),
        f"device {setup.device.description}",
        *setup.environment.description(),
        f"loop: {loop.n_steps} steps of {loop.batch_size} visits x {loop.n_candidate} candidates",
        f"labels: {', '.join(label.name for label in config.labels)}",
    ]


def _starting(
    setup: Setup, folder: Path | None, warnings: Warnings
) -> list[list[dict[str, Tensor]]] | None:
    """The networks that a run starts from, where the config names some; a copy, once it has one."""
    given, own = setup.config.pretrain.start_from, folder and folder / STARTING
    if given is None:
        return None
    path = own if own and own.is_file() else setup.config.path(given)
    return starting_networks(path, given, setup, warnings)


def _test_of(config: Config) -> str:
    """The test in a line: who is treated, and whether the arms differ at all."""
    test = config.experiment
    text = f"test: p = {test.p_treatment:g} of treatment, by {test.assignment}"
    control, treatment = config.policies()
    if control == treatment:
        return f"{text}; an A/A test: both arms rank alike"
    return f"{text}; the arms rank differently (no A/A test)"


@own_arithmetic()
def run_experiment(config: Config, out: Path | None = None) -> Path:
    """Run an experiment and write its folder; returns the folder.

    Args:
        config: what to run.
        out: the run folder; None makes ``<log_dir>/<timestamp>-<mode>``.

    Raises:
        InputError: something given is wrong, and no folder is left behind.
        RunError: the run failed; where the disk was full (`DiskError`), a folder is left only if
            it holds a checkpoint.
        KeyboardInterrupt: interrupted; the folder, once there is one, holds the run so far, with
            status "partial", and can be resumed.
    """
    log_dir = config.path(config.logging.log_dir)
    check_place(out, log_dir)
    log = RunLog(config.logging.level)
    with log.listening(logger), Interrupts() as interrupts:
        run = _Run(config, log, interrupts)
        with interrupts.postponed():
            made = make_folder(out, log_dir, config.mode)
            try:
                write_text(made.path / "config.yaml", config.to_yaml())
                write_places(made.path, config)
                run.keep_starting(made.path)
                log.open(made.path / "run.log")
                run.begin(made.path)
                run.begin_tracking()
            except BaseException:
                log.stop()
                made.discard()
                raise
        return run.finish(made, None)


@own_arithmetic()
def resume_experiment(folder: Path, data: Path | None = None) -> Path:
    """Go on with an interrupted run to its end; returns the folder.

    The finished run's results are those of a run that was never interrupted.

    Args:
        folder: the run folder.
        data: where the data are now; None: where they were.

    Raises:
        InputError: the folder holds no run, or one of another config or of other data, or none of
            its checkpoints can be used.
        RunError, KeyboardInterrupt: as ``run_experiment``.
    """
    path = folder / "config.yaml"
    if not path.is_file():
        raise InputError(f"{folder}: holds no config.yaml, so no run to resume; give a run folder")
    require_modules(folder)
    config = placed(load_config(path), folder, data)
    log = RunLog(config.logging.level)
    with log.listening(logger), Interrupts() as interrupts:
        log.open(folder / "run.log", is_new=False)
        if (folder / "result.json").exists():
            try:
                read_result(folder)
            except InputError as error:
                logger.warning("[run] the result is written anew: %s", error)
        remove_unfinished(folder)
        run = _Run(config, log, interrupts, folder)
        run.begin(folder)
        checkpoint = run.load()
        if data is not None:
            write_places(folder, config, data.absolute())
        run.begin_tracking()
        return run.finish(Folder(folder, ()), checkpoint)


class _Run:
    """One run in one process."""

    def __init__(
        self, config: Config, log: RunLog, interrupts: Interrupts, folder: Path | None = None
    ) -> None:
        self._config, self._log, self._interrupts = config, log, interrupts
        self._warnings, self._clock = Warnings(), Clock()
        self._trackers = trackers_of(config)
        with self._clock.timed("setup"):
            self._setup = set_up(config, self._warnings)
            self._starting = _starting(self._setup, folder, self._warnings)
        if self._setup.device.is_cpu and multiplies_by_place():
            self._warnings.add(
                "products_by_place",
                "matrices were multiplied before realdataexp was imported, so that MKL does not "
                "know MKL_CBWR: last bits depend on where in memory a network lies; set "
                "MKL_CBWR=AUTO,STRICT for the program, or import realdataexp first",
            )
        self._clock.device = self._setup.device

    def keep_starting(self, folder: Path) -> None:
        """Copy the networks that the run starts from, as their own folder may be gone one day."""
        if self._starting is not None:
            (folder / STARTING).parent.mkdir()
            write_networks(folder / STARTING, self._setup, self._starting)

    def begin(self, folder: Path) -> None:
        """Bring together what the phases share."""
        config, setup = self._config, self._setup
        logger.info("[run] device %s", setup.device.description)
        kinds = _kinds(setup)
        recorder = Recorder(
            setup.blocks,
            tuple(range(config.experiment.replications)),
            tuple(setup.outcomes),
            tuple(label.config.name for label in setup.labels),
            kinds,
            config.simulation.n_candidate,
            has_users=setup.histories is not None,
        )
        checkpoints = Checkpoints(
            folder, config.simulation.keep_last, setup.primary_metric, setup.metrics
        )
        self._parts = Parts(
            config,
            setup,
            recorder,
            _validator(setup),
            self._warnings,
            self._interrupts,
            self._clock,
            folder,
            checkpoints,
            starting=self._starting,
        )

    def begin_tracking(self) -> None:
        """Open the trackers, if there are any; the run folder is there."""
        if self._trackers:
            with self._clock.timed("setup"):
                self._parts.tracking = begin_tracking(
                    self._trackers, self._config, self._parts.folder, versions()
                )

    def load(self) -> Checkpoint | None:
        """The newest checkpoint that is intact, taken in; None where the run had none yet."""
        parts = self._parts
        try:
            checkpoint = parts.checkpoints.newest(self._warnings)
            if checkpoint is None:
                logger.info("[run] no checkpoint yet: starts anew")
                return None
            parts.load(checkpoint)
        except ForeignError as error:
            raise self._refusal(error) from error
        logger.info("[run] goes on from %s", checkpoint.name)
        return checkpoint

    def finish(self, made: Folder, checkpoint: Checkpoint | None) -> Path:
        """Pretrain, loop, write the results; whatever ends the run early, what there is is kept."""
        parts = self._parts
        try:
            self._interrupts.check()
            with Monitor(parts.folder / FILE, self._setup.device) as monitor:
                self._clock.monitor = monitor
                self._phases(checkpoint)
                monitor.phase = "results"
                write_results(parts, "complete")
        except ForeignError as error:
            raise self._refusal(error) from error
        except KeyboardInterrupt as error:
            so_far = self._save_rest(made)
            if made.path.exists():
                so_far += f"; go on: realdataexp resume {made.path}"
            raise KeyboardInterrupt(f"interrupted {so_far}") from error
        except InputError as error:
            so_far = self._save_rest(made, needs_checkpoint=True)
            raise InputError(*error.faults[:-1], f"{error.faults[-1]} ({so_far})") from error
        except DiskError as error:
            so_far = self._save_rest(made, needs_checkpoint=True)
            raise DiskError(f"{error} ({so_far})") from error
        except RunError as error:
            raise RunError(f"{error} ({self._save_rest(made)})") from error
        except Exception as error:
            so_far = self._save_rest(made)
            if is_out_of_memory(error):
                key, value = largest_setting(self._config)
                raise RunError(
                    f"out of memory on {self._setup.device.torch}: lower {key}, which is "
                    f"{value:,}, or the number of designs ({so_far})"
                ) from error
            error.add_note(so_far)
            raise
        finally:
            parts.tracking.close()
        return parts.folder

    def _phases(self, checkpoint: Checkpoint | None) -> None:
        """Pretraining, then the loop; what a checkpoint has done is not done again."""
        parts = self._parts
        phase = checkpoint.state["phase"] if checkpoint else pretraining.PHASE
        first = PretrainingPhase(parts)
        starts = first.untrained
        if phase == pretraining.PHASE:
            with self._clock.timed("pretrain"):
                starts = first.run(checkpoint)
        own = checkpoint if phase == looping.PHASE else None
        n_processes = self._setup.n_processes
        with self._clock.timed("loop"), LoopPhase(parts, starts, n_processes) as second:
            second.run(own)

    def _refusal(self, error: ForeignError) -> InputError:
        """What to say of a checkpoint that is none of this run."""
        return InputError(f"{self._parts.checkpoints.root}: {error}; run the config again")

    def _save_rest(self, made: Folder, *, needs_checkpoint: bool = False) -> str:
        """Write what there is of a run that ends early; returns what became of it.

        Args:
            made: the run folder.
            needs_checkpoint: remove the folder unless it holds a checkpoint, as is done in any
                case where the results cannot be written: a full disk should not stay full.
        """
        parts = self._parts
        done = f"after {parts.n_steps_done} of {self._config.simulation.n_steps} steps"
        try:
            write_results(parts, "partial")
            kept = "holds the run so far, with status partial"
        except (InputError, DiskError):
            kept, needs_checkpoint = "keeps its checkpoints", True
        except Exception as error:
            kept = f"lacks results: {type(error).__name__}: {error}"
        if needs_checkpoint and not has_checkpoint(parts.folder):
            self._log.stop()
            made.discard()
            return f"{done}; nothing was kept"
        return f"{done}; {parts.folder} {kept}"


def rebuilt(run_dir: Path) -> tuple[Setup, Validator, list[list[dict[str, Tensor]]]]:
    """What a shard needs, made from its run folder alone: set-up, validator, starting models."""
    require_modules(run_dir)
    config = placed(load_config(run_dir / "config.yaml"), run_dir, None)
    setup = set_up(config, Warnings())
    found = read_networks(run_dir / STARTS)
    starts = [
        [{name: t[k] for name, t in own.items()} for k in range(len(found.card.members))]
        for own in found.params
    ]
    return setup, _validator(setup), starts


def _kinds(setup: Setup) -> tuple[str, ...]:
    return tuple(label.config.type for label in setup.labels)


def _validator(setup: Setup) -> Validator:
    """Looks at a fixed sample of held-out visits."""
    config = setup.config
    held_out = [
        setup.environment.held_out(
            setup.world_targets,
            config.validation.validation_batches * config.simulation.batch_size,
            config.simulation.n_candidate,
            start,
        )
        for start in range(config.experiment.n_starts)
    ]
    return Validator(
        held_out,
        [label.config.name for label in setup.labels],
        _kinds(setup),
        setup.arms,
        tuple(setup.outcomes),
        [network.labels for network in setup.networks],
        setup.label_at,
        setup.outcome_at,
        setup.metrics,
    )
