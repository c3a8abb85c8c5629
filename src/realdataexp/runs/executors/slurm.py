"""Slurm: a job array with an element for each part, submitted by submitit and watched by squeue.

An element's index is the name of its part's folder, and all jobs for a folder of parts have one
name. So Slurm's queue is all that says which jobs there are: a run that was killed finds those
that are alive when it is resumed, on whatever machine, and those that were submitted by hand.
No accounting is needed. A job warned of its time limit saves what it has and queues itself again;
one that was lost is submitted again, as often as `cluster.retries` says.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from realdataexp.config.cluster import ClusterConfig
from realdataexp.errors import DiskError, InputError, RunError, did_you_mean
from realdataexp.files import disk_faults, read_json, write_json, write_text
from realdataexp.runs.executors.work import DISK, Basis
from realdataexp.runs.parts import ERROR, JOBS, LOG, STATUS

logger = logging.getLogger("realdataexp")

_ENDED = (
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY",
    "PREEMPTED", "REVOKED", "TIMEOUT",
)  # fmt: skip
_NEVER = (  # why a pending job will not start as it is, whoever ends or goes
    "AccountNotAllowed", "BadConstraints", "InvalidAccount", "InvalidQOS", "PartitionConfig",
    "PartitionNodeLimit", "PartitionTimeLimit", "QOSNotAllowed",
)  # fmt: skip
SCRIPT = "shards.sbatch"
"""The script in the folder `cluster.scripts`."""
_COLUMNS = ("ArrayJobID", "ArrayTaskID", "State", "exit_code", "Reason")
_LOOK_SECONDS = 5.0  # between two questions to Slurm, which all its users share
_ANSWER_SECONDS = 60
_CANCEL_SECONDS = 120.0  # Slurm kills what has not ended KillWait seconds (30, usually) after TERM

# A signal ends bash's wait, not the part; so bash waits until that is gone. Only a job that was
# warned (SIGUSR1) queues itself again: Slurm would start one that scancel ended (SIGTERM), too.
# SLURM_JOB_ID may be the whole array's number.
_SCRIPT = """# realdataexp finds jobs by their name, and parts by the array's index: keep both
part={root}/$SLURM_ARRAY_TASK_ID
{command} "$part" &
trap 'warned=yes; kill -USR1 $!' USR1
trap 'warned=no; kill -TERM $!' TERM
while kill -0 $! 2>/dev/null; do wait $!; done
wait $!
code=$?
if [ $code = 130 ] && [ "$warned" = yes ]; then
  echo "the time limit is near: queued again" >&2
  scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID"
fi
exit $code"""


@dataclass(frozen=True)
class Job:
    """An element of a job array, as squeue shows it."""

    number: int
    state: str
    exit_code: int
    reason: str

    @property
    def is_alive(self) -> bool:
        """Whether it waits or runs, or is about to have ended."""
        return self.state not in _ENDED

    @property
    def end(self) -> str:
        """How it ended."""
        code = f", exit code {self.exit_code}" if self.exit_code else ""
        return f"job {self.number}: {self.state}{code}"


class NotSubmittedError(KeyboardInterrupt):
    """A run ends here, as if it were interrupted: its jobs wait to be submitted by hand."""


def job_name(folder: Path) -> str:
    """What all jobs of a run folder, or of a sweep's, are called; scancel takes it, too."""
    return f"realdataexp-{hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:10]}"


def jobs_of(folder: Path) -> dict[str, Job]:
    """The jobs that Slurm knows of a folder, by the name of their part: those alive, else newest.

    One that ended is known for some minutes only (MinJobAge, as a rule five).

    Raises:
        InputError: there is no Slurm here.
        RunError: it does not answer.
    """
    columns = ",".join(f"{name}:|" for name in _COLUMNS)
    query = [
        "squeue",
        "--me",
        f"--name={job_name(folder)}",
        "--states=all",
        "--array",
        "--noheader",
    ]
    found: dict[str, Job] = {}
    for line in ask([*query, f"--Format={columns}"]).splitlines():
        number, part, state, status, reason = line.split("|")[: len(_COLUMNS)]
        job = Job(int(number), state, int(status) >> 8 or int(status), reason)
        old = found.get(part)
        if old is None or (job.is_alive, job.number) > (old.is_alive, old.number):
            found[part] = job
    return found


def ask(command: Sequence[str], text: str | None = None) -> str:
    """What a command of Slurm prints, given a text on its standard input.

    Raises:
        InputError: it is not installed here.
        RunError: it failed, or did not answer in time; the message is its last line.
    """
    if shutil.which(command[0]) is None:
        raise InputError(
            f"simulation.executor = 'slurm': there is no {command[0]} on the PATH: start the run "
            "where jobs are submitted from, such as a login node, or take the executor local"
        )
    try:
        done = subprocess.run(
            command, input=text or "", capture_output=True, text=True, timeout=_ANSWER_SECONDS
        )
    except subprocess.TimeoutExpired:
        said = f"no answer for {_ANSWER_SECONDS} seconds"
    else:
        if not done.returncode:
            return done.stdout or done.stderr  # sbatch --test-only answers on the latter
        said = _last_line(done.stderr) or f"exit code {done.returncode}"
    raise RunError(f"{command[0]}: {said}")


def partitions() -> list[str]:
    """The names of Slurm's partitions."""
    return sorted({*ask(["sinfo", "--noheader", "--format=%R"]).split()})


def _sbatch(script: str, *options: str) -> str:
    """What sbatch says of a script."""
    try:
        return _last_line(ask(["sbatch", *options], script))
    except RunError as error:
        raise InputError(f"{error}; look at the config's section cluster") from None


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""


class Slurm:
    """Parts as elements of a job array; see the module."""

    outlives = True

    def __init__(
        self,
        folder: Path,
        cluster: ClusterConfig,
        _: Basis | None = None,
        program: str = "realdataexp.runs.executors",
    ) -> None:
        """For the parts of a run folder, or of a sweep's; ``program`` is the module to run."""
        self._folder, self._cluster, self._program = folder, cluster, program
        self._parts: list[Path] = []
        self._missed: set[Path] = set()  # parts without a job when last looked
        self._losses: dict[Path, tuple[int, int]] = {}  # how many in a row, and at which step
        self._looked_at = -math.inf
        self._is_silent = False

    def script(self, parts: Sequence[Path]) -> str:
        """What sbatch is given for these parts, which are in one folder.

        Raises:
            InputError: submitit is not installed, or the config asks for what cannot be.
        """
        try:
            from submitit.slurm.slurm import _make_sbatch_string
        except ImportError:
            raise InputError(
                "simulation.executor = 'slurm': submitit is not installed; "
                "pip install 'realdataexp[slurm]'"
            ) from None
        asked, root = self._cluster, parts[0].parent.resolve()
        if asked.gpus != int(asked.gpus):
            raise InputError(f"cluster.gpus = {asked.gpus}: Slurm gives whole GPUs")
        minutes = max(1, int(60 * asked.hours)) if asked.hours else None
        if minutes and asked.warn_seconds >= 60 * minutes:
            raise InputError(
                f"cluster.warn_seconds = {asked.warn_seconds}: must be less than the time limit, "
                f"cluster.hours = {asked.hours:g}, which is {60 * minutes} seconds"
            )
        python = [sys.executable, "-m", self._program]
        memory = f"{math.ceil(1024 * asked.memory_gb)}M" if asked.memory_gb else None
        # what submitit leaves out where it is None, although its types do not say so
        left_out: dict[str, Any] = {"time": minutes, "wckey": None}
        return _make_sbatch_string(
            command=_SCRIPT.format(root=shlex.quote(str(root)), command=shlex.join(python)),
            folder=root,
            job_name=job_name(self._folder),
            partition=asked.partition,
            account=asked.account,
            gpus_per_node=int(asked.gpus) or None,
            cpus_per_task=asked.cpus,
            mem=memory,
            stderr_to_stdout=True,
            **left_out,
            use_srun=False,  # a step of its own would have to be given the job's CPUs again
            setup=[*(f"#SBATCH {x}" for x in asked.directives), *asked.setup],
            additional_parameters={
                "array": _ranges(parts),
                "output": f"{str(root).replace('%', '%%')}/%a/{LOG}",
                "requeue": True,
                "signal": f"B:USR1@{asked.warn_seconds}",
            },
        )

    def check(self) -> str:
        """Which Slurm it is, and when it would start a part's job, in its own words.

        Raises:
            InputError: it has no such partition, or would not take the job.
            RunError: it does not answer.
        """
        script = self.script([self._folder / "0"])
        if self._cluster.scripts is not None:
            return "not asked, as its script waits to be submitted"
        asked, known = self._cluster.partition, partitions()
        if asked is not None and asked not in known:
            raise InputError(
                f"cluster.partition = {asked!r}: Slurm has {', '.join(known)}"
                f"{did_you_mean(asked, known)}"
            )
        version = ask(["sbatch", "--version"]).strip()
        return f"{version}; {_sbatch(script, '--test-only')}"

    def start(self, parts: Sequence[Path]) -> None:
        """Submit a job for each part that has none, and return.

        Raises:
            InputError: Slurm does not take it.
            NotSubmittedError: its script was written, for the user to edit.
        """
        self._parts, self._missed = [*parts], set()
        if not parts:
            return
        if (own := self._own_script()) is not None and not own.exists():
            with disk_faults(own, "choose another folder"):
                own.parent.mkdir(parents=True, exist_ok=True)
            write_text(own, self.script(parts), "choose another folder")
            raise NotSubmittedError(f"{own}: written, not submitted")
        write_json(self._jobs(), {"executor": "slurm"})
        alive = {name for name, job in jobs_of(self._folder).items() if job.is_alive}
        todo = [part for part in parts if part.name not in alive or _is_done(part)]
        if n := len(parts) - len(todo):
            logger.info("[slurm] %d of %d parts have a job already", n, len(parts))
        self._submit(todo)

    def _jobs(self) -> Path:
        """What says, next to the parts, that there are jobs."""
        return self._parts[0].with_name(Path(JOBS).name) if self._parts else self._folder / JOBS

    def _own_script(self) -> Path | None:
        """The script that the user may edit, where one is asked for."""
        scripts = self._cluster.scripts
        return None if scripts is None else Path(scripts) / SCRIPT

    def _submit(self, parts: Sequence[Path]) -> None:
        if not parts:
            return
        own = self._own_script()
        text = self.script(parts) if own is None else own.read_text(encoding="utf-8")
        number = _sbatch(text, "--parsable", f"--array={_ranges(parts)}")
        name = job_name(self._folder)
        logger.info("[slurm] job %s, named %s, for %d parts", number, name, len(parts))

    def watch(self) -> None:
        """Submit again what was lost; a part's own error.json says what else ended it.

        Raises:
            InputError: Slurm will never start a job as it was asked for.
            RunError: a part was lost more often than `cluster.retries`, or ran out of memory.
            DiskError: a part could write nothing.
        """
        if time.monotonic() - self._looked_at < _LOOK_SECONDS:
            return
        try:
            jobs = jobs_of(self._folder)
        except RunError as error:  # slurmctld may be restarted; the jobs do not need it
            if not self._is_silent:
                logger.warning("[slurm] %s; asking again every %g seconds", error, _LOOK_SECONDS)
            self._is_silent = True
            return
        finally:
            self._looked_at = time.monotonic()
        self._is_silent = False
        missing = {part for part in self._parts if self._is_missing(part, jobs.get(part.name))}
        # what a part wrote as its last may be seen here later than the end of its job
        lost = [part for part in self._parts if part in missing & self._missed]
        self._missed = missing - {*lost}
        for part in lost:
            self._count(part, jobs.get(part.name))
        self._submit(lost)

    def _is_missing(self, part: Path, job: Job | None) -> bool:
        if job is not None and job.state == "PENDING" and job.reason in _NEVER:
            raise InputError(
                f"{part}: Slurm will not start job {job.number} ({job.reason}): look at the "
                "config's section cluster"
            )
        is_alive = job is not None and job.is_alive
        return not is_alive and not _is_done(part) and not (part / ERROR).exists()

    def _count(self, part: Path, job: Job | None) -> None:
        """Note a loss, or raise where it is one too many or would only come again."""
        end, log = "its job is gone" if job is None else job.end, part / LOG
        said = _last_line(log.read_text(errors="replace")[-2000:]) if log.exists() else ""
        if job is not None and job.exit_code == DISK:
            raise DiskError(f"{part}: nothing can be written there ({end}): {said}")
        if job is not None and (job.state == "OUT_OF_MEMORY" or "memory limit" in said):
            given = self._cluster.memory_gb
            raise RunError(
                f"{part}: out of memory ({end}): raise cluster.memory_gb, which is "
                f"{'not set' if given is None else format(given, 'g')}, or share the replications "
                "out to more parts (--shards)"
            )
        step = int(_status(part).get("step", 0))
        n, at = self._losses.get(part, (0, step))
        n = n + 1 if step == at else 1
        self._losses[part] = n, step
        if n > self._cluster.retries:
            raise RunError(
                f"{part}: lost {n} times in a row at step {step}, the last time by {end}: {said} "
                f"(all of it: {log})"
            )
        logger.warning("[slurm] %s: %s; it is submitted again", part, end)

    def cancel(self) -> None:
        """End all jobs of the folder; a part keeps what it has, and may be started again.

        Raises:
            RunError: Slurm does not answer, or the jobs do not end.
        """
        if not self._parts or not all(map(_is_done, self._parts)):
            name = job_name(self._folder)
            if _alive(self._folder):
                ask(["scancel", "--me", f"--name={name}"])
            until = time.monotonic() + _CANCEL_SECONDS
            while _alive(self._folder):
                if time.monotonic() > until:
                    raise RunError(f"{self._folder}: jobs {name} do not end; see squeue --me")
                time.sleep(0.5)
        self._jobs().unlink(missing_ok=True)

    def states(self) -> dict[str, str]:
        """What the job of each part is doing, and why: queued, running or failed."""
        found = {}
        for part, job in jobs_of(self._folder).items():
            if job.is_alive:
                is_queued = job.state in ("PENDING", "REQUEUED", "CONFIGURING")
                found[part] = f"queued: {job.reason}" if is_queued else "running"
            elif job.state != "COMPLETED":
                found[part] = f"failed: {job.end}"
        return found


def _alive(folder: Path) -> bool:
    return any(job.is_alive for job in jobs_of(folder).values())


def _is_done(part: Path) -> bool:
    return _status(part).get("state") == "done"


def _status(part: Path) -> dict[str, Any]:
    """What a part says of itself; nothing where it has not begun."""
    try:
        return dict(read_json(part / STATUS))
    except (OSError, ValueError, TypeError):
        return {}


def _ranges(parts: Sequence[Path]) -> str:
    """The names of parts, which are numbers, as sbatch's --array takes them: 0-3,7."""
    groups = groupby(enumerate(sorted(int(x.name) for x in parts)), lambda x: x[1] - x[0])
    runs = [[n for _, n in group] for _, group in groups]
    return ",".join(f"{x[0]}-{x[-1]}" if len(x) > 1 else f"{x[0]}" for x in runs)
