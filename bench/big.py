"""Large logs: how import and runs grow with the rows, in time and in memory."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench import importing, loop
from bench.figures import Figure, Reference
from bench.process import measure
from bench.sizes import Place, logs_in
from realdataexp.config import load_config
from realdataexp.data.synthetic import SyntheticConfig, write_synthetic
from realdataexp.files import require_space
from realdataexp.runs.setup import make_blocks

_MILLION = 1_000_000
_USERS, _VIDEOS = 85, 100_000  # for a million rows: 11,800 rows a user, as in KuaiRand-27K
_LEAST_USERS = 50
_BYTES_A_ROW = 350  # of the CSV files, of what the import sorts on disk, and of the cache
_BYTES_OF_RUNS = 10**9
_GIB = 1e9 / 2**20  # a gigabyte in MiB
_IMPORT_LIMIT, _WORLDS_LIMIT = 3 * _GIB, 4 * _GIB


def figures(place: Place) -> Iterator[Figure]:
    """Import, a global run, a comparison, and at the largest size one of many worlds."""
    if place.is_own:
        yield from _at("own data", place.data, place, has_many_worlds=True)
        return
    for rows in place.big_rows:
        n_rows = round(rows * _MILLION)
        data = place.scratch / f"27k-{n_rows}"
        require_space(place.scratch, n_rows * _BYTES_A_ROW + _BYTES_OF_RUNS)
        write_synthetic(
            data,
            SyntheticConfig(
                version="27k",
                users=max(_LEAST_USERS, round(_USERS * rows)),
                videos=max(_LEAST_USERS, round(_VIDEOS * rows)),
                rows=n_rows,
                seed=0,
            ),
        )
        has_many_worlds = rows == max(place.big_rows)
        yield from _at(f"{rows:g} M rows", data, place, has_many_worlds=has_many_worlds)
        shutil.rmtree(data)


def _at(name: str, data: Path, place: Place, *, has_many_worlds: bool) -> Iterator[Figure]:
    """The figures of one folder."""
    work, steps = place.scratch / "big", place.size.big_steps
    settings = _settings(data, work / "cache", steps)
    parsed = measure(importing.parse, settings=settings)
    made = measure(importing.import_data, settings=settings)
    n_rows, n_bytes = made["n_rows"], sum(p.stat().st_size for p in data.rglob("*.csv"))
    yield Figure(
        f"{name}, import",
        n_rows / made["seconds"],
        "rows/s",
        floor=Reference("Polars parses the same columns", n_rows / parsed["seconds"]),
        note=f"{n_rows:,} rows of {n_bytes / 1e6:,.0f} MB in {made['seconds']:.1f} s, "
        f"{made['cpu_seconds'] / parsed['cpu_seconds']:.2f} times the parse's processor time",
    )
    yield from _memory(f"{name}, import", made, _IMPORT_LIMIT)
    n_compared, n_many = place.size.big_worlds
    n_blocks = len(make_blocks(load_config(settings)))
    runs = [
        ("global run", {"mode": "global", "replications": 5}, _IMPORT_LIMIT),
        (
            "comparison",
            {"mode": "compare", "replications": -(-n_compared // n_blocks)},
            _IMPORT_LIMIT,
        ),
    ]
    if has_many_worlds:
        many = {"mode": "compare", "replications": -(-n_many // n_blocks)}
        runs.append(("comparison of many worlds", many, _WORLDS_LIMIT))
    for i, (what, changes, limit) in enumerate(runs):
        own = {**settings, "mode": changes["mode"]}
        own["experiment"] = {**own["experiment"], "replications": changes["replications"]}
        found = measure(loop.run, settings=own, out=str(work / f"run-{i}"))
        title = f"{name}, {what}"
        seconds, rate = (found["timing"][x] for x in ("total_seconds", "arm_steps_per_second"))
        note = f"{found['n_worlds']} worlds, {steps} steps, {rate:,.0f} arm-steps/s"
        yield Figure(title, seconds, "s", "lower", note=note)
        yield from _memory(title, found, limit)
    shutil.rmtree(work)


def _settings(data: Path, cache: Path, n_steps: int) -> dict[str, Any]:
    """The built-in config of KuaiRand-27K, with at most a million rows of pretraining."""
    changes = [
        "device=cpu",
        f"dataset.logs=[{', '.join(logs_in(data))}]",
        f"simulation.n_steps={n_steps}",
        f"pretrain.max_rows={_MILLION}",
    ]
    config = load_config("kuairand-27k", changes, data=data.absolute()).resolved()
    config["dataset"]["cache_path"] = str(cache.absolute())
    return config


def _memory(name: str, found: dict[str, Any], limit: float) -> Iterator[Figure]:
    """The most memory of a process, and how much of it the system could not take back."""
    for what, key in (("peak memory", "peak_mib"), ("of it anonymous", "anonymous_mib")):
        yield Figure(f"{name}, {what}", found[key], "MiB", "lower", limit=limit)
