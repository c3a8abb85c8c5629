"""The import of a data set, opening it again, and starting the command at all."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq

from bench.figures import Figure, Reference, memory
from bench.process import measure, timed
from bench.sizes import Place
from realdataexp.config import Config, load_config
from realdataexp.data import schema
from realdataexp.data.kuairand import DTYPES, Files, ImportRequest, find_files, prepare
from realdataexp.errors import InputError, Warnings
from realdataexp.worlds.kuairand import KuaiRand

_N_OPENED = 5


def request_of(config: Config) -> ImportRequest:
    """What a config of KuaiRand reads."""
    path, world = config.data_dir(), config.dataset
    assert path is not None and isinstance(world, KuaiRand)  # the suite's configs have both
    return world.request(path, config)


def import_data(settings: dict[str, Any], force: bool = True) -> dict[str, Any]:
    """Import, or open what was imported: ``n_rows`` read, and the time."""
    config = load_config(settings)
    request, cache = request_of(config), config.cache_dir()
    found = timed(lambda: prepare(request, cache, Warnings(), force))
    return {**found, "result": None, "n_rows": found["result"].stats["n_rows_read"]}


def _wanted(config: Config) -> tuple[Files, dict[str, dict[str, Any]]]:
    """The files of a config, and of each kind of file the columns that it needs."""
    request = request_of(config)
    files = find_files(request.path, request.logs, need_statistic=True)
    wanted: dict[str, dict[str, Any]] = {
        schema.LOG_STEMS[log]: dict(DTYPES) for log in request.logs
    }
    for names, dtype in ((request.numerical, pl.Float64), (request.categorical, pl.String)):
        for column in map(schema.resolve_feature, names):
            of_file = wanted.setdefault(column.file, {column.side + "_id": pl.Int64})
            of_file[column.source] = dtype
    return files, wanted


def parse(settings: dict[str, Any]) -> dict[str, Any]:
    """Polars reads the same columns of the same files and forgets them."""
    files, wanted = _wanted(load_config(settings))

    def read() -> None:
        for stem, dtypes in wanted.items():
            for path in files.shards[stem]:
                lazy = pl.scan_csv(path, schema_overrides=dtypes, infer_schema=False, glob=False)
                lazy.select(list(dtypes)).collect()

    return timed(read)


def read_with_pandas(settings: dict[str, Any]) -> dict[str, Any]:
    """What a script does at its start: read the files, drop double rows, sort by user and time."""
    import pandas as pd  # not above: it would count to the memory of every measurement

    files, wanted = _wanted(load_config(settings))
    logs = set(schema.LOG_STEMS.values())

    def read() -> None:
        parts = [pd.read_csv(p) for stem in wanted if stem in logs for p in files.shards[stem]]
        pd.concat(parts).drop_duplicates().sort_values(["user_id", "time_ms"])
        for stem in wanted.keys() - logs:
            pd.concat([pd.read_csv(p, usecols=[*wanted[stem]]) for p in files.shards[stem]])

    return timed(read)


def open_cached(settings: dict[str, Any]) -> dict[str, Any]:
    """Open imported data a few times, and their files with NumPy and pyarrow alone."""
    config = load_config(settings)
    request, cache = request_of(config), config.cache_dir()
    name = prepare(request, cache, Warnings()).fingerprint

    def open_files() -> None:
        for path in (cache / name).iterdir():
            if path.suffix == ".npy":
                np.load(path, mmap_mode="r")
            elif path.suffix == ".parquet":
                pq.ParquetFile(path).close()

    opened = [timed(lambda: prepare(request, cache, Warnings())) for _ in range(_N_OPENED)]
    return {
        "seconds": median(x["seconds"] for x in opened),
        "floor_seconds": median(timed(open_files)["seconds"] for _ in range(_N_OPENED)),
    }


def figures(place: Place) -> Iterator[Figure]:
    """The import's speed and memory."""
    settings, n = place.config(), place.size.n_repeats
    made = [measure(import_data, settings=settings) for _ in range(n)]
    parsed = [measure(parse, settings=settings) for _ in range(n)]
    n_rows, n_bytes = made[0]["n_rows"], sum(p.stat().st_size for p in place.data.rglob("*.csv"))
    other = measure(read_with_pandas, settings=settings)
    yield Figure(
        "import",
        n_rows / median(x["seconds"] for x in made),
        "rows/s",
        floor=Reference(
            "Polars parses the same columns", n_rows / median(x["seconds"] for x in parsed)
        ),
        peer=Reference("pandas: read, drop doubles, sort", n_rows / other["seconds"]),
        n_repeats=n,
        note=f"{n_rows:,} rows of {n_bytes / 1e6:,.0f} MB",
    )
    largest = max(made, key=lambda x: x["peak_mib"])
    yield memory("import, peak memory", largest)


def starts(place: Place) -> Iterator[Figure]:
    """A warm start, and that of the command."""
    settings = place.config()
    cold = measure(import_data, settings=settings)
    warm = measure(open_cached, settings=settings)
    yield Figure(
        "opening imported data",
        warm["seconds"],
        "s",
        "lower",
        floor=Reference("NumPy and pyarrow open its files", warm["floor_seconds"]),
        peer=Reference("importing again", cold["seconds"]),
        n_repeats=_N_OPENED,
    )
    yield Figure(
        "realdataexp --help",
        _seconds_of("-m", "realdataexp", "--help"),
        "s",
        "lower",
        floor=Reference("starting Python", _seconds_of("-c", "pass")),
        n_repeats=_N_OPENED,
        note="whole process",
    )


def _seconds_of(*words: str) -> float:
    """Median time of a Python process."""
    times = []
    for _ in range(_N_OPENED):
        start = time.perf_counter()
        subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - start)
    return median(times)


def warm(place: Place) -> None:
    """Import the data for the measurements that only use them.

    Raises:
        InputError: the user's own data cannot be imported.
    """
    measure(import_data, settings=place.config(), force=False)


def check_folder(data: Path) -> None:
    """Refuse a folder that holds no KuaiRand files.

    Raises:
        InputError: it is none.
    """
    if not data.is_dir():
        raise InputError(f"--data {data}: no such folder; give one of KuaiRand")
    find_files(data, (), need_statistic=True)
