"""How the import grows with the log: time and memory, beside a mere parse of the same columns.

    python bench/import_scaling.py [--data DIR] [--rows 1,10,50] [--steps 50] [--replications 5]

Makes synthetic KuaiRand-27K folders of so many million rows (a tenth as many videos, users with
11,800 rows each, as in the real one) in a temporary folder, one after the other, or takes DIR.
For each it measures, every figure in a fresh process: Polars reading the same columns of the same
files and forgetting them; the import; and a `global` run on the imported data, with at most a
million rows of pretraining. Prints a Markdown table. `anonymous` is memory that the system cannot
take back; the rest of a peak are pages of files that it can.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

MEASURE = """
import json, resource, sys, threading, time
from pathlib import Path
import psutil

anonymous = [0.0]

def watch():
    process = psutil.Process()
    while True:
        memory = process.memory_info()
        anonymous[0] = max(anonymous[0], (memory.rss - getattr(memory, "shared", 0)) / 2**20)
        time.sleep(0.02)

threading.Thread(target=watch, daemon=True).start()

def measured(work):
    start, cpu = time.perf_counter(), time.process_time()
    rows = work()
    return json.dumps({
        "rows": rows, "seconds": time.perf_counter() - start, "cpu": time.process_time() - cpu,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "anonymous_mb": anonymous[0],
    })
"""

REQUEST = """
from realdataexp.config import load_config
from realdataexp.data.kuairand import ImportRequest, find_files, prepare
from realdataexp.errors import Warnings

config = load_config("kuairand-27k", data=sys.argv[1])
request = ImportRequest(
    Path(sys.argv[1]), config.dataset.logs, config.feature.numerical,
    config.feature.categorical, tuple(label.target for label in config.labels),
)
"""

PARSE = """
import polars as pl
from realdataexp.data import schema
from realdataexp.data.log_files import DTYPES

files = find_files(request.path, request.logs, need_statistic=True).shards
wanted = {schema.LOG_STEMS[log]: dict(DTYPES) for log in request.logs}
for names, dtype in ((request.numerical, pl.Float64), (request.categorical, pl.String)):
    for column in map(schema.resolve_feature, names):
        id_name = column.side + "_id"
        wanted.setdefault(column.file, {id_name: pl.Int64})[column.source] = dtype

def parse():
    for stem, dtypes in wanted.items():
        for path in files[stem]:
            lazy = pl.scan_csv(path, schema_overrides=dtypes, infer_schema=False)
            lazy.select(list(dtypes)).collect()

print(measured(parse))
"""

IMPORT = """
print(measured(lambda: prepare(request, Path(sys.argv[2]), Warnings()).stats["n_rows_read"]))
"""

RUN = """
import realdataexp as rx

settings = [
    "mode=global", f"dataset.path={sys.argv[1]}", f"dataset.cache_path={sys.argv[2]}",
    f"simulation.n_steps={sys.argv[4]}", f"experiment.replications={sys.argv[5]}",
    "pretrain.max_rows=1000000",
]
print(measured(lambda: rx.run("kuairand-27k", settings, out=sys.argv[3]) and None))
"""


def measure(script: str, *args: object) -> dict[str, float]:
    """Run a script in a fresh interpreter; its last line is JSON."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURE + script, *map(str, args)],
        capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def synthesize(folder: Path, million_rows: int) -> None:
    """Write a synthetic KuaiRand-27K of so many rows."""
    subprocess.run(
        [sys.executable, "-m", "realdataexp", "synth", str(folder), "--version", "27k",
         "--users", str(85 * million_rows), "--videos", str(100_000 * million_rows),
         "--rows", str(1_000_000 * million_rows)],
        check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip


def report(data: Path, scratch: Path, steps: int, replications: int) -> str:
    """Measure a folder; a line of the table."""
    cache = scratch / "cache"
    parsed = measure(REQUEST + PARSE, data)
    made = measure(REQUEST + IMPORT, data, cache)
    run = measure(RUN, data, cache, scratch / "run", steps, replications)
    n_bytes = sum(path.stat().st_size for path in data.rglob("*.csv"))
    cells = [
        f"{made['rows']:,}",
        f"{n_bytes / 1e9:.2f}",
        f"{parsed['seconds']:.1f} ({parsed['cpu']:.1f})",
        f"{made['seconds']:.1f} ({made['cpu']:.1f})",
        f"{made['rows'] / made['seconds'] / 1e6:.2f}",
        f"{made['seconds'] / parsed['seconds']:.2f} ({made['cpu'] / parsed['cpu']:.2f})",
        f"{made['peak_mb']:,.0f} ({made['anonymous_mb']:,.0f})",
        f"{run['peak_mb']:,.0f} ({run['anonymous_mb']:,.0f})",
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="a KuaiRand folder; default: synthetic ones")
    parser.add_argument("--rows", default="1,10,50", help="millions of rows of synthetic folders")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--replications", type=int, default=5)
    parser.add_argument("--scratch", type=Path, help="where to write; default: temporary folder")
    args = parser.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}\n")
    print(
        "| rows read | CSV, GB | parse, s (CPU s) | import, s (CPU s) | import, M rows/s "
        "| import / parse (of CPU) | import, peak MB (anonymous) | run, peak MB (anonymous) |\n"
        "|---:|---:|---:|---:|---:|---:|---:|---:|",
        flush=True,
    )
    sizes = [0] if args.data else [int(size) for size in args.rows.split(",")]
    for size in sizes:
        with tempfile.TemporaryDirectory(dir=args.scratch) as folder:
            data = args.data or Path(folder) / "27k"
            if size:
                synthesize(data, size)
            print(report(data, Path(folder), args.steps, args.replications), flush=True)


if __name__ == "__main__":
    main()
