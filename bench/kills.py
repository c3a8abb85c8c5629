"""Kills runs at random moments and resumes them: no difference may show.

    python bench/kills.py [--kills 100] [--seed 0]

For each of a few experiments one run is left alone; then others of the same config are killed
(SIGKILL, now and then SIGTERM) at random moments, again and again, and resumed until they end. Then
result.json (but for timing, device and versions), the outcomes, metrics, units and estimates must
be those of the run that was left alone, byte for byte. Prints a Markdown table; exit code 1 if
anything differs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SMALL = [
    "simulation.n_steps=60", "simulation.validate_every=10", "simulation.save_every=7",
    "experiment.replications=3", "pretrain.batch_size=512", "pretrain.validate_every_iters=20",
    "pretrain.save_every_iters=7", "pretrain.epochs=2",
]  # fmt: skip
EXPERIMENTS = {
    "compare": ["demo", *SMALL],
    "every design": [
        "demo", *SMALL, "simulation.retrain_every=4", "pretrain.early_stopping=2",
        "experiment.designs=[pooling, snapshot, splitting, weighting, shadow, {name: cluster, "
        "n_clusters: 5}, switchback, codiverted, data_diverted, {name: weighting, label: forest, "
        "model: random_forest, refit_every: 25, window_steps: 5}]",
    ],
    "si2023": [
        "si2023", "simulation.n_steps=120", "simulation.save_every=9", "experiment.replications=4",
        "simulation.validate_every=40",
        "simulation.scheduler={kind: plateau, patience: 1}", "pretrain.save_every_iters=20",
    ],
    "global": [
        "demo", *SMALL, "mode=global", "simulation.scheduler={kind: cosine}", "pretrain.epochs=4",
    ],
}  # fmt: skip
FILES = ("outcomes.parquet", "metrics.parquet", "estimates.parquet", "units.parquet")


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "realdataexp", *words]


def start(experiment: list[str], out: Path) -> list[str]:
    config, *settings = experiment
    sets = [word for s in settings for word in ("--set", s)]
    return command("run", config, "--quiet", "--out", str(out), *sets)


def fingerprint(folder: Path) -> dict[str, str]:
    """What must be equal: each table, and result.json without what may differ."""
    result = json.loads((folder / "result.json").read_text())
    for key in ("timing", "device", "versions"):
        result.pop(key)
    found = {"result.json": hashlib.sha256(json.dumps(result).encode()).hexdigest()}
    for name in FILES:
        if (folder / name).exists():
            found[name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    return found


def killed(words: list[str], after: float, number: signal.Signals) -> bool:
    """Run a command and kill it after some seconds; whether it was still running."""
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        process.wait(after)
    except subprocess.TimeoutExpired:
        process.send_signal(number)
        process.wait()
        return True
    if process.returncode != 0:
        assert process.stderr is not None
        sys.exit(f"{words}: {process.stderr.read().decode()}")
    return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=list(EXPERIMENTS))
    args = parser.parse_args()
    draw = random.Random(args.seed)
    names = args.only or list(EXPERIMENTS)
    print("| experiment | kills | of these by SIGTERM | runs finished | differences |")
    print("|---|---:|---:|---:|---:|")
    n_differences = 0
    with tempfile.TemporaryDirectory() as place:
        for name in names:
            quota = args.kills // len(names) + (names.index(name) < args.kills % len(names))
            line = torture(name, quota, draw, Path(place) / name.replace(" ", "-"))
            n_differences += line[-1]
            print("| " + " | ".join(str(x) for x in (name, *line)) + " |", flush=True)
    sys.exit(1 if n_differences else 0)


def torture(name: str, quota: int, draw: random.Random, place: Path) -> tuple[int, int, int, int]:
    """Kills, those by SIGTERM, runs that came to their end, and how many of them differ."""
    experiment = EXPERIMENTS[name]
    began = time.monotonic()
    subprocess.run(start(experiment, place / "alone"), check=True, stdout=subprocess.DEVNULL)
    seconds = time.monotonic() - began
    alone = fingerprint(place / "alone")
    kills = terms = runs = differences = 0
    while kills < quota:
        folder, words = place / f"run-{runs}", start(experiment, place / f"run-{runs}")
        while True:
            is_term = draw.random() < 0.2
            number = signal.SIGTERM if is_term else signal.SIGKILL
            # the first moments, before there is a folder, are those of a start, not of a run
            is_killed = kills < quota and killed(words, draw.uniform(0.5, seconds), number)
            if kills >= quota:
                subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
            kills, terms = kills + is_killed, terms + (is_killed and is_term)
            if folder.exists() and not (folder / "config.yaml").exists():
                shutil.rmtree(folder)  # killed in the moment between the folder and its first file
            if folder.exists():
                words = command("resume", "--quiet", str(folder))
            if not is_killed:
                break
        runs += 1
        found = fingerprint(folder)
        if found != alone:
            differences += 1
            which = [x for x in alone if found.get(x) != alone[x]]
            print(f"{name}, run {runs}: {', '.join(which)} differ", file=sys.stderr)
    return kills, terms, runs, differences


if __name__ == "__main__":
    main()
