"""Speed of the main job at the prototype's size, beside what bounds it, measured in one run.

    python bench/main_job.py [--data DIR] [--replications 20] [--steps 200]

Makes a synthetic KuaiRand-Pure of 2.62 M rows in a temporary folder (or takes DIR), and prints a
Markdown table: import, warm start, pretraining, arm-steps, `--help`, peak memory. The floor is the
rate of a large single-precision matrix product on the same threads. The networks are those of the
prototype's config: 128-64-32 for play time, 64-32-16 for click, dropout on.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

CONFIG = {
    "mode": "global",
    "dataset": {"name": "KuaiRand-Pure"},
    "feature": {
        "numerical": [
            "video_duration",
            "server_width",
            "server_height",
            "show_cnt",
            "play_cnt",
            "play_user_num",
            "complete_play_cnt",
            "like_cnt",
            "comment_cnt",
            "share_cnt",
            "collect_cnt",
            "is_live_streamer",
            "is_video_author",
            "follow_user_num",
            "fans_user_num",
            "friend_user_num",
            "register_days",
        ],
        "categorical": ["user_active_degree", "video_type", "tag"],
    },
    "labels": [
        {
            "name": "play_time",
            "target": "play_time_ms",
            "type": "numerical",
            "loss_function": "logMAE",
            "model_params": {"hidden_layers": [128, 64, 32], "dropout": 0.2, "embedding_dim": 16},
            "alpha_T": 1.0,
            "alpha_C": 0.5,
        },
        {
            "name": "click",
            "target": "is_click",
            "type": "binary",
            "loss_function": "BCE",
            "model_params": {"hidden_layers": [64, 32, 16], "dropout": 0.1, "embedding_dim": 8},
            "alpha_T": 1.0,
            "alpha_C": 0.8,
        },
    ],
    "simulation": {"batch_size": 64, "n_candidate": 10, "save_every": 1000, "validate_every": 1000},
}

# One fresh process a measurement, so that peak memory is that measurement's own.
IMPORT = """
import json, resource, sys, time
start = time.perf_counter()
from pathlib import Path
from realdataexp.config import load_config
from realdataexp.data.kuairand import ImportRequest, prepare
from realdataexp.errors import Warnings
imported = time.perf_counter()
config = load_config(json.loads(sys.argv[1]))
request = ImportRequest(
    Path(config.dataset.path), config.dataset.logs, config.feature.numerical,
    config.feature.categorical, tuple(label.target for label in config.labels),
)
prepare(request, config.cache_dir(), Warnings())
end = time.perf_counter()
print(json.dumps({"seconds": end - imported, "with_modules": end - start,
      "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))
"""

RUN = """
import json, sys
import realdataexp as rx
result = rx.run(json.loads(sys.argv[1]), out=sys.argv[2])
print(json.dumps(result.summary["timing"]))
"""

SGEMM = """
import json, time, torch
a, b, best = torch.randn(1024, 1024), torch.randn(1024, 1024), 1e9
for _ in range(20):
    start = time.perf_counter(); a @ b; best = min(best, time.perf_counter() - start)
print(json.dumps({"gflops": 2 * 1024**3 / best / 1e9, "threads": torch.get_num_threads()}))
"""


def measure(script: str, *args: str) -> dict[str, float]:
    """Run a script in a fresh interpreter; its last line is JSON."""
    done = subprocess.run(
        [sys.executable, "-c", script, *args], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def flops_per_row(video_width: int, hidden: list[int]) -> int:
    """Multiply-adds times 2 of one network's row, the user's part left out."""
    return 2 * sum(a * b for a, b in pairwise([video_width, *hidden, 1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="a KuaiRand-Pure folder; default: synthetic")
    parser.add_argument("--replications", type=int, default=20)
    parser.add_argument("--steps", type=int, default=200)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        data = args.data or root / "pure"
        if args.data is None:
            subprocess.run(
                [sys.executable, "-m", "realdataexp", "synth", str(data), "--users", "27285",
                 "--videos", "7583", "--rows", "2622668"],
                check=True, stdout=subprocess.DEVNULL,
            )  # fmt: skip
        report(root, data, args.replications, args.steps)


def report(root: Path, data: Path, replications: int, steps: int) -> None:
    """Measure and print the table."""
    config = {**CONFIG, "experiment": {"replications": replications}}
    config["dataset"] = {**CONFIG["dataset"], "path": str(data), "cache_path": str(root / "cache")}
    config["simulation"] = {**CONFIG["simulation"], "n_steps": steps}
    config["pretrain"] = {"batch_size": 4096}
    cold = measure(IMPORT, json.dumps(config))
    warm = measure(IMPORT, json.dumps(config))
    floor = measure(SGEMM)
    timing = measure(RUN, json.dumps(config), str(root / "run"))
    start = time.perf_counter()
    command = Path(sys.executable).with_name("realdataexp")
    subprocess.run([str(command), "--help"], check=True, stdout=subprocess.DEVNULL)
    help_seconds = time.perf_counter() - start
    # video columns behind embeddings: 11 numbers and two embeddings
    score = 640 * (
        flops_per_row(11 + 2 * 16, [128, 64, 32]) + flops_per_row(11 + 2 * 8, [64, 32, 16])
    )
    train = 3 * score / 10
    used = timing["arm_steps_per_second"] * (score + train) / 1e9
    size = sum(f.stat().st_size for f in data.rglob("*.csv")) / 1e6
    rows = [
        ("import, s", cold["seconds"], f"{size:.0f} MB of CSV"),
        ("import, peak MB", cold["peak_mb"], ""),
        ("warm start, s", warm["seconds"], f"with importing modules {warm['with_modules']:.2f} s"),
        ("pretraining, rows/s", timing["pretrain_rows_per_second"], "batch 4,096, both labels"),
        (
            "arm-steps/s",
            timing["arm_steps_per_second"],
            f"{2 * replications} worlds, {steps} steps",
        ),
        ("arm-steps, GFLOP/s", used, f"{100 * used / floor['gflops']:.0f} % of sgemm"),
        ("sgemm 1024, GFLOP/s", floor["gflops"], f"{floor['threads']} threads"),
        ("whole run, peak MB", timing["peak_memory_mb"], ""),
        ("realdataexp --help, s", help_seconds, "whole process"),
    ]
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}\n")
    print("| what | measured | |\n|---|---:|---|")
    for name, value, note in rows:
        print(
            f"| {name} | {value:,.3g} | {note} |"
            if value < 100
            else f"| {name} | {value:,.0f} | {note} |"
        )


if __name__ == "__main__":
    main()
