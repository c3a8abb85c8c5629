"""The parts of a run or a sweep: what each says of itself, and ending what still works on them.

A part is a shard of a run, a point of a sweep, or a run that is in one piece.
"""

from __future__ import annotations

import os
import platform
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from realdataexp.errors import InputError, RunError
from realdataexp.files import is_locked, is_working, read_json, write_json

ERROR, STATUS, LOCK, LOG = "error.json", "status.json", ".lock", "part.log"
"""Files of a part: what it raised, what it is doing, whether a command works there, its output."""
JOBS, JOBS_OF_SWEEP = "shards/jobs.json", "points/jobs.json"
"""The file of a folder with the jobs that outlive its run; see the executor that it names."""
_PATIENCE_SECONDS = 600.0  # for a run that is told to end, and saves


class Status:
    """Keeps a part's status.json: what it is doing, how far it is, how fast, and where."""

    def __init__(self, folder: Path, first: int, n_steps: int) -> None:
        self._path, self._first, self._n_steps = folder / STATUS, first, n_steps
        self._started = time.monotonic()
        self._n_stops_in_vain = 0
        with suppress(OSError, ValueError, KeyError, TypeError):
            self._n_stops_in_vain = int(read_json(self._path)["n_stops_in_vain"])

    def note(self, step: int, state: str = "running", reason: str = "") -> None:
        """Write it; ``state`` is running, stopped, done or failed."""
        seconds, n_done = time.monotonic() - self._started, step - self._first
        if n_done:
            self._n_stops_in_vain = 0
        said = {
            "state": state,
            "step": step,
            "n_steps": self._n_steps,
            "steps_per_second": n_done / seconds if n_done and seconds else None,
            "reason": reason,
            "host": platform.node(),
            "process": os.getpid(),
            "n_stops_in_vain": self._n_stops_in_vain,
        }
        write_json(self._path, said)

    def stop(self, step: int) -> None:
        """Note that a signal came.

        Raises:
            InputError: it is the second in a row before which not one step was done.
        """
        self._n_stops_in_vain += 1
        self.note(step, "stopped")
        if self._n_stops_in_vain > 1:
            raise InputError(
                f"{self._path.parent}: stopped twice before it had done one step: give it more "
                "time (cluster.hours), or more warning (cluster.warn_seconds)"
            )


# --- of a folder ---------------------------------------------------------------------------------


def parts_of(folder: Path) -> list[dict[str, Any]]:
    """What each part is doing: part, state, step, n_steps, steps_per_second, reason, log.

    ``state`` is queued, running, done or failed; of a part that was stopped, and goes on by
    itself, queued.

    Raises:
        InputError: it is the folder of no run and no sweep.
    """
    points = sorted((folder / "points").glob("[0-9]*"), key=_number)
    if points:
        jobs = _jobs(folder, JOBS_OF_SWEEP)
        return [_of_run(x, f"points/{x.name}", jobs.get(x.name)) for x in points]
    if not (folder / "config.yaml").is_file():
        raise InputError(f"{folder}: holds no run and no sweep; pass the folder of one")
    whole = _of_run(folder, "run", None)
    shards = sorted((folder / "shards").glob("[0-9]*"), key=_number)
    if not shards:
        return [whole]
    jobs = _jobs(folder, JOBS)
    return [whole, *(_of_shard(shard, jobs, is_over=whole["state"] == "done") for shard in shards)]


def _number(path: Path) -> tuple[int, str]:
    return int(path.name) if path.name.isdecimal() else -1, path.name


def _of_run(folder: Path, name: str, job: str | None) -> dict[str, Any]:
    said, is_done, is_partial = _said(folder), False, False
    with suppress(OSError, ValueError, KeyError, TypeError):
        result = read_json(folder / "result.json")
        is_done, is_partial = result["status"] == "complete", result["status"] != "complete"
    state, reason = "queued", ""
    if is_done:
        state = "done"
    elif job is not None:
        state, _, reason = job.partition(": ")
    elif is_locked(folder / "run.log"):
        state = "running"
    elif said or is_partial:
        reason = said.get("reason") or "its process is gone"
        state, reason = "failed", f"{reason}; realdataexp resume {folder}"
    return _part(name, state, said, reason, folder / "run.log")


def _of_shard(folder: Path, jobs: dict[str, str], *, is_over: bool) -> dict[str, Any]:
    said, name = _said(folder), f"shards/{folder.name}"
    reason, job = "", jobs.get(folder.name)
    if is_over or said.get("state") == "done":
        state = "done"
    elif (folder / ERROR).exists():
        state, reason = "failed", _reason(folder)
    elif job is not None:
        state, _, reason = job.partition(": ")
    elif said.get("state") == "running" and not is_alive(folder, said):
        state, reason = "failed", "its process is gone"
    else:
        state = "running" if said.get("state") == "running" else "queued"
    return _part(name, state, said, reason, folder / LOG)


def _part(name: str, state: str, said: dict[str, Any], reason: str, log: Path) -> dict[str, Any]:
    return {
        "part": name,
        "state": state,
        "step": said.get("step", 0),
        "n_steps": said.get("n_steps"),
        "steps_per_second": said.get("steps_per_second") if state == "running" else None,
        "reason": reason,
        "log": str(log) if log.exists() else None,
    }


def _said(folder: Path) -> dict[str, Any]:
    """A part's status.json, or nothing where there is none yet."""
    with suppress(OSError, ValueError):
        found = read_json(folder / STATUS)
        return found if isinstance(found, dict) else {}
    return {}


def is_done(folder: Path) -> bool:
    """Whether a part says that it is done."""
    return bool(_said(folder).get("state") == "done")


def _reason(folder: Path) -> str:
    with suppress(OSError, ValueError, KeyError, TypeError):
        said = read_json(folder / ERROR)
        return "; ".join(said["lines"]) or str(said["error"])
    return f"see {folder / ERROR}"


def _jobs(folder: Path, jobs: str) -> dict[str, str]:
    """The state of the job of each part, where an engine has them."""
    if not (folder / jobs).exists():
        return {}
    from realdataexp.runs.executors import of_jobs

    states: dict[str, str] = of_jobs(folder, jobs).states()
    return states


def is_alive(folder: Path, said: dict[str, Any]) -> bool:
    """Whether what noted a status still works: a process of this machine, or one with a lock."""
    if said.get("host") == platform.node():
        return is_working(int(said.get("process", 0)))
    return is_locked(folder / LOCK) or is_locked(folder / "run.log")


def cancel(folder: Path) -> list[str]:
    """End what works on a run or a sweep, which keeps what it has; a line for each that was ended.

    Raises:
        InputError: it is no such folder, or its own process runs on another machine.
        RunError: it did not end.
    """
    runs = [*sorted((folder / "points").glob("[0-9]*"), key=_number)] or [folder]
    parts_of(folder)
    lines = []
    for run in runs:
        said = _said(run)
        if is_locked(run / "run.log") and said.get("process"):
            if said["host"] != platform.node():
                raise InputError(
                    f"{run}: its process {said['process']} runs on {said['host']}: cancel it there"
                )
            lines.append(_end(run, int(said["process"])))
    for jobs in (JOBS, JOBS_OF_SWEEP):
        if (folder / jobs).exists():
            from realdataexp.runs.executors import of_jobs

            of_jobs(folder, jobs).cancel()
            lines.append(f"{folder}: its jobs are cancelled")
    return lines or [f"{folder}: nothing works there"]


def _end(run: Path, process: int) -> str:
    with suppress(ProcessLookupError):
        os.kill(process, signal.SIGTERM)
    until = time.monotonic() + _PATIENCE_SECONDS
    while is_locked(run / "run.log"):
        if time.monotonic() > until:
            raise RunError(f"{run}: process {process} does not end; kill it")
        time.sleep(0.1)
    return f"{run}: process {process} has saved and ended; realdataexp resume {run} goes on"
