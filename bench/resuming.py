"""What an interruption costs: checkpoints, and a run's way back to its next step."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import median
from typing import Any

from bench.figures import Figure, Reference
from bench.process import measure, timed
from bench.sizes import Place
from realdataexp.api import run as run_config
from realdataexp.config import load_config
from realdataexp.loop import Step
from realdataexp.runs.checkpoint import Checkpoints
from realdataexp.runs.experiment import resume_experiment
from realdataexp.runs.recorder import Recorder

_N_WRITTEN = 5


def run_half(settings: dict[str, Any], out: str) -> dict[str, Any]:
    """Run a config up to the middle and interrupt it there.

    Returns:
        ``seconds`` until the middle, and median ``checkpoint_seconds``.
    """
    middle = load_config(settings).simulation.n_steps // 2
    saving: list[float] = []
    reached: list[float] = []

    def save(real: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        saving.append(timed(lambda: real(*args, **kwargs))["seconds"])

    def add(real: Callable[..., Any], recorder: Recorder, step: Step) -> None:
        if step.visits.step == middle:
            reached.append(time.perf_counter())
            raise KeyboardInterrupt
        real(recorder, step)

    start = time.perf_counter()
    with (
        _replaced(Checkpoints, "save", save),
        _replaced(Recorder, "add", add),
        suppress(KeyboardInterrupt),
    ):
        run_config(settings, out=out)
    return {"seconds": reached[0] - start, "checkpoint_seconds": median(saving)}


def resume(run_dir: str) -> dict[str, Any]:
    """Resume a run: ``seconds`` until it did a step, and ``rest_seconds`` from there to the end."""
    reached: list[float] = []

    def add(real: Callable[..., Any], *args: Any) -> None:
        reached.append(time.perf_counter())
        real(*args)

    start = time.perf_counter()
    with _replaced(Recorder, "add", add):
        resume_experiment(Path(run_dir))
    end = time.perf_counter()
    return {"seconds": reached[0] - start, "rest_seconds": end - reached[0]}


@contextmanager
def _replaced(owner: type, method: str, by: Callable[..., Any]) -> Iterator[None]:
    """For a while, call ``by`` with the method and its arguments in the method's place."""
    real = getattr(owner, method)

    def call(*args: Any, **kwargs: Any) -> Any:
        return by(real, *args, **kwargs)

    setattr(owner, method, call)
    try:
        yield
    finally:
        setattr(owner, method, real)


def write_plainly(folder: str, n_bytes: int) -> dict[str, Any]:
    """Write so many bytes to a new file, have them on the disk, take their SHA-256."""
    content, path = os.urandom(n_bytes), Path(folder) / "plain"

    def write() -> None:
        with path.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        hashlib.sha256(content).digest()

    seconds = median(timed(write)["seconds"] for _ in range(_N_WRITTEN))
    path.unlink()
    return {"seconds": seconds}


def figures(place: Place) -> Iterator[Figure]:
    """A checkpoint of the main job, and the way back after an interruption in the middle."""
    n_steps, out = place.size.n_steps, place.scratch / "resumed"
    settings = place.config(simulation={"save_every": max(1, n_steps // 2)})
    half = measure(run_half, settings=settings, out=str(out))
    saved = out / "checkpoints" / f"step_{n_steps // 2}"
    n_bytes = sum(path.stat().st_size for path in saved.iterdir())
    plain = measure(write_plainly, folder=str(place.scratch), n_bytes=n_bytes)
    back = measure(resume, run_dir=str(out))
    total = half["seconds"] + back["rest_seconds"]
    yield Figure(
        "writing a checkpoint",
        half["checkpoint_seconds"],
        "s",
        "lower",
        floor=Reference("writing and hashing as many bytes", plain["seconds"]),
        note=f"{n_bytes / 1e6:,.1f} MB",
    )
    yield Figure(
        "resuming, until a step is done",
        back["seconds"],
        "s",
        "lower",
        peer=Reference("running to there again", half["seconds"]),
        note=f"{100 * back['seconds'] / total:.1f} % of the run of {total:.1f} s",
    )
