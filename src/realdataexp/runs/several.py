"""Several runs for one question: their folders prepared, then run, whatever is left of each.

A prepared folder holds config.yaml and places.json: a run that has not begun. Running one resumes
it, so that what was interrupted goes on where it was, and the bits are those of an unbroken run.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any, cast

from realdataexp.config import Config, load_config
from realdataexp.config.cluster import ClusterConfig
from realdataexp.device import n_gpus, usable_threads
from realdataexp.errors import DiskError, InputError, RunError, one_line
from realdataexp.files import disk_faults, write_text
from realdataexp.registry import find, names
from realdataexp.report.files import is_complete
from realdataexp.runs.executors import Executor, OutsideExecutor
from realdataexp.runs.executors.local import Commands
from realdataexp.runs.executors.work import error_of
from realdataexp.runs.experiment import resume_experiment
from realdataexp.runs.folder import DETAIL, RunLog, write_places
from realdataexp.runs.parts import ERROR, STATUS, is_done
from realdataexp.runs.progress import PhaseProgress
from realdataexp.runs.setup import LOCAL

logger = logging.getLogger("realdataexp")

_PAUSE_SECONDS = 0.2  # between two looks at all that run


def _is_prepared(place: Path, config: Config) -> bool:
    """Whether a folder holds the run of a config, begun or not; False where it can be made.

    Raises:
        InputError: it holds a run of another config, or something else.
    """
    path = place / "config.yaml"
    said = "holds something that is no run"
    if path.is_file():
        with disk_faults(path):
            text = path.read_text(encoding="utf-8")
        if text == config.to_yaml() or load_config(path).decisive() == config.decisive():
            return True
        said = "holds a run of other settings than are asked for"
    elif not place.is_dir() or all(x.name.startswith((".", "places")) for x in place.iterdir()):
        return False
    raise InputError(f"{place}: {said}; remove it or choose another --out")


def prepare(place: Path, config: Config) -> None:
    """Make the folder of a run that has not begun, unless it is there."""
    if not _is_prepared(place, config):
        with disk_faults(place):
            place.mkdir(parents=True, exist_ok=True)
        write_places(place, config)
        write_text(place / "config.yaml", config.to_yaml())


def run_folders(
    folders: Sequence[Path], data: Path | None = None, *, is_shown: bool = True
) -> Iterator[tuple[Path, Exception | None]]:
    """Run prepared folders to their ends, one after another; yields each with what it failed of.

    ``data`` is where the data are now (None: where they were); ``is_shown`` shows the runs' own
    lines and bars.

    Raises:
        DiskError: the disk is full: other runs would fail of it, too.
        KeyboardInterrupt: interrupted; the run so far is saved.
    """
    for folder in folders:
        fault = None
        try:
            with hushed(not is_shown):
                resume_experiment(folder, data)
        except DiskError:
            raise
        except Exception as error:
            fault = error
        yield folder, fault


def executor_for(name: str, folder: Path, cluster: ClusterConfig) -> Executor:
    """What runs prepared folders in processes or jobs of their own; ``folder`` is that of all.

    Raises:
        InputError: there is no such executor, or its engine would not take the jobs.
    """
    if name == LOCAL:
        n = n_gpus()
        return Commands(n, n or usable_threads())
    make = find("executor", name, "--executor")
    if name not in names("executor"):
        return OutsideExecutor(make, f"--executor {name!r}")
    executor: Any = make(folder, cluster, None)
    executor.check()
    return cast(Executor, executor)


def run_apart(
    folders: Sequence[Path], executor: Executor
) -> Iterator[tuple[Path, Exception | None]]:
    """Have an executor run prepared folders; yields each, as it ends, with what it failed of.

    Raises:
        RunError: one is lost for another reason than its own.
        KeyboardInterrupt: interrupted; they have saved, or go on where they outlive this process.
    """
    left = dict.fromkeys(folders)
    for folder in folders:
        (folder / ERROR).unlink(missing_ok=True)
        if is_done(folder):  # and yet asked for, as what it wrote is gone or damaged
            (folder / STATUS).unlink()
    is_interrupted = False
    try:
        executor.start(folders)
        while left:
            for folder in [*left]:
                fault = error_of(folder) if (folder / ERROR).exists() else None
                if fault is not None or is_done(folder):
                    del left[folder]
                    yield folder, fault
            executor.watch()
            time.sleep(_PAUSE_SECONDS)
    except KeyboardInterrupt:
        is_interrupted = True
        raise
    finally:
        if not (is_interrupted and executor.outlives):
            executor.cancel()


@contextmanager
def hushed(is_hushed: bool = True) -> Iterator[None]:
    """Let a terminal show errors only, where asked; a run's own log hears all."""
    shown = [x for x in logger.handlers if isinstance(x, logging.StreamHandler) and is_hushed]
    levels = [handler.level for handler in shown]
    for handler in shown:
        handler.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for handler, level in zip(shown, levels, strict=True):
            handler.setLevel(level)


class Points:
    """The runs of one question, in points/<i>/ of its folder, with a log of their own.

    Attributes:
        places: their folders.
        faults: what each run that failed failed of, by its number.
    """

    def __init__(
        self, folder: Path, kind: str, configs: Sequence[Config], names: Sequence[str]
    ) -> None:
        """For a ``kind`` of question, such as "sweep"; each config has a name."""
        self.folder, self._kind, self._configs, self._names = folder, kind, configs, names
        self.places = [folder / "points" / str(i) for i in range(len(configs))]
        self.faults: dict[int, str] = {}

    def run(
        self,
        write: Callable[[], None],
        data: Path | None = None,
        *,
        executor: str | None = None,
        keep_going: bool = False,
        is_detailed: bool = False,
    ) -> None:
        """Run what is left, and ``write`` what follows from the runs that there are then.

        ``executor`` runs them in processes or jobs of their own (None: one after another, here);
        ``keep_going``: after one that failed, too.

        Raises:
            RunError: a run failed (without ``keep_going``), or the disk is full.
            KeyboardInterrupt: interrupted.
        """
        log, mark = RunLog("INFO"), f"[{self._kind}]"
        log.addFilter(lambda record: record.getMessage().startswith(mark))
        with log.listening(logger):
            log.open(self.folder / f"{self._kind}.log", is_new=False)
            for place, config in zip(self.places, self._configs, strict=True):
                prepare(place, config)
            try:
                self._run_left(data, executor, keep_going, is_detailed)
            except BaseException as error:
                with suppress(InputError, RunError):  # it says less than what went wrong before
                    write()
                if (told := self._ended_early(error)) is error:
                    raise
                raise told from error
            write()
            logger.info("%s complete: %s", mark, self.folder)

    def _run_left(
        self, data: Path | None, executor: str | None, keep_going: bool, is_detailed: bool
    ) -> None:
        n, left = len(self.places), [i for i, x in enumerate(self.places) if not is_complete(x)]
        progress = PhaseProgress(self._kind, n, "points")
        progress.skip(n - len(left))
        # a bar of the points, or bars of the runs
        with nullcontext() if is_detailed else progress:
            places = [self.places[i] for i in left]
            if executor is None:
                ended = run_folders(places, data, is_shown=is_detailed)
            else:
                if data is not None:
                    for place, config in zip(self.places, self._configs, strict=True):
                        write_places(place, config, data.absolute())
                cluster = self._configs[0].cluster
                ended = run_apart(places, executor_for(executor, self.folder, cluster))
            for place, error in ended:
                i = self.places.index(place)
                name = self._names[i]
                if error is None:
                    logger.info("[%s] %s: done", self._kind, name, extra=DETAIL)
                else:
                    self.faults[i] = _cause(error)
                    logger.error("[%s] %s failed: %s", self._kind, name, self.faults[i])
                    if not keep_going:
                        raise error
                progress.advance(1, partial(list, (f"{name}: done",)))

    def _ended_early(self, error: BaseException) -> BaseException:
        """The error to raise, which says what became of the question."""
        done, n = sum(map(is_complete, self.places)), len(self.places)
        points = "point is" if n == 1 else "points are"
        so_far = f"{done} of {n} {points} done; resume it: realdataexp resume {self.folder}"
        if isinstance(error, KeyboardInterrupt):
            return KeyboardInterrupt(f"interrupted: {so_far}")
        where = "".join(f"{self._names[i]}: " for i in self.faults)
        if isinstance(error, InputError | RunError):
            kind = DiskError if isinstance(error, DiskError) else RunError
            return kind(f"{where}{_cause(error)} ({so_far})")
        error.add_note(f"{where}{so_far}")
        return error


def _cause(error: Exception) -> str:
    """What made a run fail, as one line."""
    if isinstance(error, InputError):
        return "; ".join(error.faults)
    return one_line(
        str(error) if isinstance(error, RunError) else f"{type(error).__name__}: {error}"
    )
