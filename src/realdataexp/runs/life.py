"""What any run goes through: its folder, its log, signals that end it, and what is kept of it."""

from __future__ import annotations

import json
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from realdataexp.config import RunSettings
from realdataexp.device import Device, own_arithmetic
from realdataexp.errors import DiskError, InputError, RunError, Warnings, is_out_of_memory
from realdataexp.files import write_text
from realdataexp.report.files import read_result
from realdataexp.runs import Interrupts
from realdataexp.runs.checkpoint import Checkpoint, Checkpoints, ForeignError, has_checkpoint
from realdataexp.runs.folder import (
    Folder,
    RunLog,
    check_place,
    make_folder,
    placed,
    remove_unfinished,
    require_modules,
    write_places,
)
from realdataexp.runs.machine import MONITOR_FILE, Clock, Monitor

logger = logging.getLogger("realdataexp")

Difference = tuple[str, Any, Any]
"""Where two JSON values differ: path, one, the other."""


class AnyRun(ABC):
    """One run of any kind; a kind says what its work is, and what it writes.

    Attributes:
        device: where it computes, once it is set up.
        folder, checkpoints: from ``begin`` on.
    """

    device: Device
    folder: Path
    checkpoints: Checkpoints

    def __init__(self, config: RunSettings, log: RunLog, interrupts: Interrupts) -> None:
        self.config, self.interrupts, self._log = config, interrupts, log
        self.warnings, self.clock = Warnings(), Clock()

    def begin(self, made: Folder) -> None:
        """Take the run folder, which is there."""
        logger.info("[run] device %s", self.device.description)
        self._made, self.folder = made, made.path

    def start(self) -> None:  # noqa: B027 (most have nothing to do here)
        """What is done once, before the work; a checkpoint is loaded."""

    @abstractmethod
    def work(self, checkpoint: Checkpoint | None) -> None:
        """All that is left to do after a checkpoint."""

    @abstractmethod
    def write(self, status: str) -> None:
        """Write every file of the run folder from what there is, complete or partial."""

    @abstractmethod
    def load(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint; ForeignError or InputError where it is not this run's."""

    def note(self, state: str, reason: str = "") -> None:  # noqa: B027
        """Note for others what has become of it: running, done or failed."""

    def close(self) -> None:  # noqa: B027
        """Whatever happened: let go of what was opened."""

    @property
    @abstractmethod
    def done(self) -> str:
        """How far the run came."""

    @property
    @abstractmethod
    def to_lower(self) -> str:
        """What takes the most memory, and can be lowered."""

    def finish(self, checkpoint: Checkpoint | None) -> Path:
        """Work, write the results; whatever ends the run early, what there is is kept."""
        try:
            self.interrupts.check()
            self.note("running")
            with Monitor(self.folder / MONITOR_FILE, self.device) as monitor:
                self.clock.monitor = monitor
                self.work(checkpoint)
                monitor.phase = "results"
                with self.interrupts.postponed():
                    self.write("complete")
                    self.note("done")
        except ForeignError as error:
            raise self._refusal(error) from error
        except (Exception, KeyboardInterrupt) as error:
            if (told := self._ended_early(error)) is error:
                raise
            raise told from error
        finally:
            self.close()
        return self.folder

    def _ended_early(self, error: BaseException) -> BaseException:
        """Keep what there is of the run; the error to raise, which says what became of it."""
        with suppress(InputError, DiskError):
            self.note("failed", " ".join(str(error).split()) or "interrupted")
        so_far = self._save_rest(needs_checkpoint=isinstance(error, InputError | DiskError))
        if isinstance(error, KeyboardInterrupt):
            resume = (
                f"; resume it: realdataexp resume {self.folder}" if self.folder.exists() else ""
            )
            return KeyboardInterrupt(f"interrupted {so_far}{resume}")
        if isinstance(error, InputError):
            return InputError(*error.faults[:-1], f"{error.faults[-1]} ({so_far})")
        if isinstance(error, RunError):
            kind = DiskError if isinstance(error, DiskError) else RunError
            return kind(f"{error} ({so_far})")
        if is_out_of_memory(error):
            return RunError(
                f"out of memory on {self.device.torch}: lower {self.to_lower} ({so_far})"
            )
        error.add_note(so_far)
        return error

    def _refusal(self, error: ForeignError) -> InputError:
        """What to say of a checkpoint that is none of this run."""
        return InputError(f"{self.checkpoints.root}: {error}; run the config again")

    def _save_rest(self, *, needs_checkpoint: bool) -> str:
        """Write what there is; returns what became of it.

        Where the results cannot be written, or as is asked, a folder without a checkpoint is
        removed: a full disk should not stay full.
        """
        done = self.done
        try:
            with self.interrupts.postponed():
                self.write("partial")
            kept = "holds the run so far, with status partial"
        except (InputError, DiskError):
            kept, needs_checkpoint = "keeps its checkpoints", True
        except Exception as error:
            kept = f"lacks results: {type(error).__name__}: {error}"
        if needs_checkpoint and not has_checkpoint(self.folder):
            self._log.stop()
            self._made.discard()
            return f"{done}; nothing was kept"
        return f"{done}; {self.folder} {kept}"

    def load_newest(self) -> Checkpoint | None:
        """The newest checkpoint that is intact, taken in; None where the run had none yet."""
        try:
            checkpoint = self.checkpoints.newest(self.warnings)
            if checkpoint is None:
                logger.info("[run] no checkpoint yet: starts anew")
                return None
            self.load(checkpoint)
        except ForeignError as error:
            raise self._refusal(error) from error
        logger.info("[run] resumes from %s", checkpoint.name)
        return checkpoint

    def require_same(
        self, name: str, found: Sequence[Difference], may_differ: tuple[str, ...]
    ) -> None:
        """Refuse a checkpoint of another config or other data: a line for each difference."""
        if changes := [x for x in found if not x[0].startswith(may_differ)]:
            raise InputError(
                *(
                    f"{self.folder}: {where} was {show(was)} when {name} was made and is "
                    f"{show(now)}: put it back, or run the config anew"
                    for where, was, now in changes
                )
            )


# --- new ones, and those that were stopped ------------------------------------------------------


@own_arithmetic()
def new_run(kind: Callable[..., AnyRun], config: RunSettings, out: Path | None = None) -> Path:
    """Run a config and write its folder, ``out`` or ``<log_dir>/<timestamp>-<mode>``.

    ``kind`` makes the run: (config, log, interrupts).

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
        run = kind(config, log, interrupts)
        with interrupts.postponed():
            made = make_folder(out, log_dir, config.mode)
            try:
                write_text(made.path / "config.yaml", config.to_yaml())
                write_places(made.path, config)
                log.open(made.path / "run.log")
                run.begin(made)
                run.start()
            except BaseException:
                log.stop()
                made.discard()
                raise
        return run.finish(None)


@own_arithmetic()
def resumed_run(
    kind: Callable[..., AnyRun],
    load: Callable[[Path], RunSettings],
    folder: Path,
    data: Path | None = None,
) -> Path:
    """Go on with an interrupted run to its end: as if it had never been interrupted.

    ``kind`` makes the run: (config, log, interrupts, folder); ``load`` reads its config; ``data``
    is where the data are now (None: where they were).

    Raises:
        InputError: the folder holds no run, or one of another config or of other data, or none of
            its checkpoints can be used.
        RunError, KeyboardInterrupt: as ``new_run``.
    """
    path = folder / "config.yaml"
    if not path.is_file():
        raise InputError(f"{folder}: holds no config.yaml, so no run to resume; pass a run folder")
    require_modules(folder)
    config = placed(load(path), folder, data)
    log = RunLog(config.logging.level)
    with log.listening(logger), Interrupts() as interrupts:
        log.open(folder / "run.log", is_new=False)
        if (folder / "result.json").exists():
            try:
                read_result(folder)
            except InputError as error:
                logger.warning("[run] the result is written anew: %s", error)
        remove_unfinished(folder)
        run = kind(config, log, interrupts, folder)
        run.begin(Folder(folder))
        checkpoint = run.load_newest()
        if data is not None:
            write_places(folder, config, data.absolute())
        run.start()
        return run.finish(checkpoint)


def differences(was: Any, now: Any, where: str = "") -> list[tuple[str, Any, Any]]:
    """Where two JSON values differ: (path, one, the other)."""
    if isinstance(was, dict) and isinstance(now, dict):
        keys: Any = dict.fromkeys([*was, *now])
        pairs = [(key, was.get(key), now.get(key)) for key in keys]
    elif isinstance(was, list) and isinstance(now, list) and len(was) == len(now):
        pairs = [(i, *both) for i, both in enumerate(zip(was, now, strict=True))]
    else:
        return [] if was == now else [(where, was, now)]
    return [d for key, a, b in pairs for d in differences(a, b, f"{where}.{key}".lstrip("."))]


def show(value: Any) -> str:
    """A value of a config, cut where it is long."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."
