"""What it costs to spread a run over parts: beside two halves of it, and merging many."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from bench.figures import Figure, Reference
from bench.process import measure
from bench.sizes import Place
from realdataexp import draws
from realdataexp.api import run as run_config
from realdataexp.config import load_config
from realdataexp.device import own_arithmetic
from realdataexp.errors import Warnings
from realdataexp.runs import Interrupts
from realdataexp.runs.executors.chunks import JOB, file_of, kept, read_chunk
from realdataexp.runs.executors.merging import Shards
from realdataexp.runs.executors.work import work
from realdataexp.runs.setup import set_up
from realdataexp.runs.shard import Validator

_MERGED = {"batch_size": 32, "n_steps": 50, "validate_every": 25, "save_every": 25}


def loop_timing(settings: dict[str, Any], out: str) -> dict[str, Any]:
    """Run a config: the seconds that its result reports."""
    return dict(run_config(settings, out=out).summary["timing"])


def loop_seconds(settings: dict[str, Any], out: str) -> dict[str, Any]:
    """Run a config: ``seconds`` of its loop, but those of validation and checkpoints."""
    timing = loop_timing(settings, out)
    parts = ("validation_seconds", "checkpoint_seconds")
    return {"seconds": timing["loop_seconds"] - sum(timing.get(x, 0.0) for x in parts)}


class Nobody:
    """An executor whose parts are done."""

    outlives = False

    def start(self, parts: Sequence[Path]) -> None:
        """Nothing is left to do."""

    watch = cancel = lambda self: None


@own_arithmetic()
def merge_many(settings: dict[str, Any], out: str) -> dict[str, Any]:
    """Merge all that the parts of a run leave: ``seconds``, ``n_chunks``, ``megabytes``.

    One part is computed; the others are its copies, each with replications of its own.
    """
    config = load_config(settings)
    n_parts = config.experiment.replications // 2
    setup = set_up(config, Warnings())
    starts = [[x.model.init(draws.key(0, x.name))] for x in setup.networks]
    with Interrupts() as interrupts:
        shards = Shards(Path(out), setup, n_parts, Nobody(), interrupts)
        for i in range(n_parts):
            shards._hand_out(i, {}, 0, config.simulation.n_steps)
        first = Path(out) / "shards/0"
        work(first, (setup, Validator(setup), starts))
        chunks = [read_chunk(file_of(first, x.number)) for x in kept(first)]
        for i in range(1, n_parts):
            own = first.parent / str(i)
            for number, chunk in enumerate(chunks):
                replace(chunk, replications=(2 * i, 2 * i + 1)).write(file_of(own, number))
            assert json.loads((own / JOB).read_text())["replications"] == [2 * i, 2 * i + 1]
        n_bytes = sum(path.stat().st_size for path in first.parent.rglob("*.safetensors"))
        began = time.perf_counter()
        shards.begin()
        shards.saved(0)
        for step in (25, 50):
            assert len([*shards.steps(step - 25, step)]) == 25
            assert shards.validate().predictions and shards.state()
            shards.saved(step)
        seconds = time.perf_counter() - began
    shutil.rmtree(out)
    n_chunks = n_parts * len(chunks)
    return {"seconds": seconds, "n_chunks": n_chunks, "megabytes": n_bytes / 1e6}


def figures(place: Place) -> Iterator[Figure]:
    """The loop in two parts beside two halves at the same time; merging many."""
    size, n = place.size, place.size.n_repeats
    R = max(4, size.replications // 2 * 2)

    def config(replications: int, processes: int) -> dict[str, Any]:
        own = {"replications": replications}
        return place.config(experiment=own, simulation={"processes": processes})

    def seconds(name: str, settings: dict[str, Any]) -> float:
        found = measure(loop_seconds, settings=settings, out=str(place.scratch / name))
        return float(found["seconds"])

    both, halves = [], []
    for j in range(n):  # in turn, so that both meet the machine's other work
        both.append(seconds(f"both-{j}", config(R, 2)))
        with ThreadPoolExecutor(2) as pool:
            names = [f"half-{j}-{i}" for i in (0, 1)]
            halves.append(max(pool.map(lambda name: seconds(name, config(R // 2, 1)), names)))
    yield Figure(
        "the loop in 2 parts",
        median(both),
        "s",
        "lower",
        floor=Reference("two runs of half the replications, at the same time", median(halves)),
        n_repeats=n,
        note=f"{R} replications, merging included",
    )
    parts = {
        "dataset": {"name": "si2023"},
        "seed": 0,
        "simulation": {**_MERGED, "processes": size.n_parts, "executor": f"{__name__}:Nobody"},
        "experiment": {
            "replications": 2 * size.n_parts,
            "starts": 1,
            "designs": ["pooling", "splitting"],
        },
    }
    settings = load_config("si2023").resolved()
    for section, own in parts.items():
        settings[section] = {**settings[section], **own} if isinstance(own, dict) else own
    found = measure(merge_many, settings=settings, out=str(place.scratch / "merged"))
    yield Figure(
        f"merging {size.n_parts:,} parts",
        found["seconds"],
        "s",
        "lower",
        limit=10.0,
        note=f"of 2 replications each; {found['n_chunks']:,} chunks, {found['megabytes']:,.0f} MB",
    )
