"""The suite: which measurements there are, and running some of them.

python -m bench [NAME ...] [OPTIONS]          or: make bench BENCH="[NAME ...] [OPTIONS]"
"""

from __future__ import annotations

import argparse
import logging
import math
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from bench import big, importing, loop, report, resuming, sharding, si2023
from bench.figures import Figure, rates
from bench.sizes import SIZES, Place
from realdataexp import terminal
from realdataexp.data.synthetic import SyntheticConfig, write_synthetic
from realdataexp.errors import InputError, RunError, did_you_mean, one_line
from realdataexp.files import require_space
from realdataexp.report.numbers import number
from realdataexp.runs.folder import Folder, make_folder
from realdataexp.runs.machine import versions

logger = logging.getLogger("realdataexp")

_LOG_DIR = Path("results")
_BYTES_A_ROW = 500  # of the table, its import and its cache
_LEAST_MILLIONS = 0.01


@dataclass(frozen=True)
class Measurement:
    """One of the suite.

    Attributes:
        title: what it measures, in a line.
        figures: measures it.
        is_default: whether it runs when none is named.
        uses_data: whether it reads the data folder; has_cache: from the cache.
    """

    title: str
    figures: Callable[[Place], Iterator[Figure]]
    is_default: bool = True
    uses_data: bool = True
    has_cache: bool = True


MEASUREMENTS = {
    "import": Measurement("import of a data set", importing.figures, has_cache=False),
    "start": Measurement("warm start, and that of the command", importing.starts, has_cache=False),
    "pretraining": Measurement("training the starting model", loop.pretraining),
    "arm-steps": Measurement(
        "the loop, against replications, designs, candidates and visits", loop.arm_steps
    ),
    "pandas": Measurement(
        "the loop on a table that a pandas loop can manage", loop.beside_pandas, uses_data=False
    ),
    "si2023": Measurement("the simulated platform", si2023.figures, uses_data=False),
    "resume": Measurement("checkpoints, and an interruption", resuming.figures),
    "parts": Measurement(
        "a run that is spread over parts; only when named", sharding.figures, is_default=False
    ),
    "big": Measurement(
        "large logs, in time and memory; only when named",
        big.figures,
        is_default=False,
        has_cache=False,
    ),
}


@dataclass(frozen=True)
class Request:
    """What was asked for; see the options of ``main``."""

    names: tuple[str, ...]
    size: str
    data: Path | None = None
    scratch: Path | None = None
    rows: str | None = None
    baseline: Path | None = None
    save_baseline: Path | None = None


def run_bench(request: Request, out: Path | None) -> Path:
    """Measure, and write bench.json and bench.md after each figure; returns their folder.

    Args:
        request: what to measure.
        out: a new folder; None makes ``results/<timestamp>-bench``.

    Raises:
        InputError: something given is wrong, or a disk is full.
        RunError: a measurement failed; the folder holds those before.
    """
    chosen = _chosen(request.names)
    _check(request, chosen)
    rows = _rows(request, chosen)
    result = _begin(request, chosen)
    baseline = _baseline(request, result["workload"])
    folder = make_folder(out, _LOG_DIR, "bench")
    try:
        with tempfile.TemporaryDirectory(dir=request.scratch, prefix="realdataexp-") as scratch:
            place = _place(request, Path(scratch), rows, chosen)
            result["machine"] |= rates()
            for name, measurement in chosen.items():
                for figure in _measured(name, measurement, place):
                    result["figures"].append(figure.as_json(name))
                    if baseline:
                        result["comparison"] = report.compare(
                            result["figures"], baseline, result["machine"]["processor"]
                        )
                    report.write(folder.path, result)
            result["status"] = "complete"
            report.write(folder.path, result)
    except BaseException:
        _discard_if_empty(folder)
        raise
    if request.save_baseline:
        report.save_baseline(request.save_baseline, result)
    return folder.path


def _chosen(names: Sequence[str]) -> dict[str, Measurement]:
    """The measurements of these names, in the suite's order; the default ones without any."""
    for name in names:
        if name not in MEASUREMENTS:
            near = did_you_mean(name, [*MEASUREMENTS])
            raise InputError(
                f"NAME {name!r}: no such measurement{near}; known are {', '.join(MEASUREMENTS)}"
            )
    return {k: m for k, m in MEASUREMENTS.items() if k in names or (not names and m.is_default)}


def _check(request: Request, chosen: Mapping[str, Measurement]) -> None:
    """Refuse wrong options, and those without effect."""
    if request.size not in SIZES:
        raise InputError(f"--size {request.size}: must be one of {', '.join(SIZES)}")
    if request.data and not any(m.uses_data for m in chosen.values()):
        raise InputError("--data: has no effect on what was named: none of it reads data")
    if request.data:
        importing.check_folder(request.data)
    if request.scratch and not request.scratch.is_dir():
        raise InputError(f"--scratch {request.scratch}: no such folder; make it first")
    if request.save_baseline and not request.save_baseline.absolute().parent.is_dir():
        raise InputError(
            f"--save-baseline {request.save_baseline}: {request.save_baseline.parent} is no folder"
        )
    if request.save_baseline and request.save_baseline.exists():
        report.read_baselines(request.save_baseline, "--save-baseline")


def _rows(request: Request, chosen: Mapping[str, Measurement]) -> tuple[float, ...]:
    """The rows of ``big``, in millions."""
    if request.rows is None:
        return SIZES[request.size].big_rows
    if "big" not in chosen or request.data:
        why = "with --data" if request.data else "without the measurement big"
        raise InputError(f"--rows {request.rows}: has no effect {why}; leave it out")
    try:
        rows = tuple(float(text) for text in request.rows.split(","))
    except ValueError:
        rows = ()
    if not rows or not all(_LEAST_MILLIONS <= x < math.inf for x in rows):
        raise InputError(
            f"--rows {request.rows}: must be millions of rows, {_LEAST_MILLIONS} or more each, "
            "such as 1,10,50"
        )
    return rows


def _baseline(request: Request, workload: str) -> report.Baseline | None:
    """The baseline of this workload, if there is one; that of a file must be there."""
    path = request.baseline or report.own_baselines()
    there = report.read_baselines(path, "--baseline")
    if request.baseline and workload not in there:
        raise InputError(
            f"--baseline {path}: has none of {workload!r}, but of {', '.join(map(repr, there))}; "
            "give another file, or none"
        )
    return there.get(workload)


def _begin(request: Request, chosen: Mapping[str, Measurement]) -> dict[str, Any]:
    """A result without figures."""
    of = f" on {request.data.absolute().name}" if request.data else ""
    n = torch.get_num_threads()
    machine = {
        "processor": _processor(),
        "n_cpus": os.cpu_count(),
        "memory_gb": psutil.virtual_memory().total / 1e9,
        **versions(),
    }
    return {
        "schema_version": report.SCHEMA_VERSION,
        "status": "partial",
        "workload": f"size {request.size}{of}, {n} thread{'s' if n > 1 else ''}",
        "seed": 0,
        "machine": machine,
        "measurements": {name: m.title for name, m in chosen.items()},
        "figures": [],
        "comparison": None,
    }


def _place(
    request: Request, scratch: Path, rows: tuple[float, ...], chosen: Mapping[str, Measurement]
) -> Place:
    """Where to measure; with synthetic data and the cache, where they are needed."""
    size = SIZES[request.size]
    data = request.data or scratch / "data"
    place = Place(size, data, request.data is not None, scratch, rows)
    # the big one makes its own
    reads = [m for name, m in chosen.items() if m.uses_data and name != "big"]
    if reads and request.data is None:
        require_space(scratch, size.n_rows * _BYTES_A_ROW)
        logger.info("[bench] making a table of %s rows", f"{size.n_rows:,}")
        users, videos = size.n_users, size.n_videos
        write_synthetic(
            data,
            SyntheticConfig(version="pure", users=users, videos=videos, rows=size.n_rows, seed=0),
        )
    if any(m.has_cache for m in reads):
        logger.info("[bench] importing it for what only uses it")
        importing.warm(place)
    return place


def _measured(name: str, measurement: Measurement, place: Place) -> Iterator[Figure]:
    """A measurement's figures, told as they come."""
    logger.info("[bench] %s: %s", name, measurement.title)
    start = time.perf_counter()
    for figure in measurement.figures(place):
        value = number(figure.value)
        logger.info("[bench] %s: %s: %s %s", name, figure.name, value, figure.unit)
        yield figure
    logger.info("[bench] %s: done in %.0f s", name, time.perf_counter() - start)


def _discard_if_empty(folder: Folder) -> None:
    """Leave no folder behind in which nothing was written."""
    if not any(folder.path.iterdir()):
        folder.discard()


def _processor() -> str:
    """The processor's model, as far as the system tells; one name stands for many models."""
    try:
        first, _, _ = Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("\n\n")
    except OSError:
        first = ""
    told = dict(line.replace("\t", "").split(":", 1) for line in first.splitlines() if ":" in line)
    name = told.get("model name", "").strip()
    if not name:
        return platform.processor() or platform.machine()
    keys = {"cpu family": "family", "model": "model", "stepping": "stepping"}
    numbers = [f"{word} {told[key].strip()}" for key, word in keys.items() if key in told]
    return f"{name} ({', '.join(numbers)})" if numbers else name


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; exit codes as those of ``realdataexp``."""
    parser = argparse.ArgumentParser(
        prog="make bench",
        description="Measure speed and memory on the CPU beside their floors; print what became "
        "slower: a ratio that is more than 20 % worse than the baseline's. The exit code stays 0: "
        "a benchmark is not a test.",
        epilog='Example: make bench BENCH="big --rows 1,10"',
    )
    add = parser.add_argument
    add("names", nargs="*", metavar="NAME", help="measurements; default: all but big")
    add("--out", type=Path, help="a new folder; default: results/<timestamp>-bench")
    add("--size", default="prototype", help="how much is measured: small or prototype")
    add("--data", type=Path, help="a KuaiRand folder to use in place of a synthetic one")
    add("--scratch", type=Path, help="folder to work in; default: a temporary one")
    add("--rows", metavar="M,...", help="millions of rows for big; default: 1,10,50")
    add("--baseline", type=Path, help="ratios to compare with; default: the suite's own")
    add("--save-baseline", type=Path, help="write this run's ratios there")
    add("--list", action="store_true", help="show the names of the measurements and end")
    options = vars(parser.parse_args(argv))
    show_names, out, names = options.pop("list"), options.pop("out"), options.pop("names")
    if show_names:
        for name, measurement in MEASUREMENTS.items():
            print(f"{name:12} {measurement.title}")
        return 0
    terminal.log_lines("INFO")
    try:
        folder = run_bench(Request(tuple(names), **options), out)
    except (InputError, RunError) as error:
        print(one_line(str(error)), file=sys.stderr)
        return 2 if isinstance(error, InputError) else 1
    print((folder / "bench.md").read_text(encoding="utf-8"))
    print(f"Bench folder: {folder}")
    return 0
