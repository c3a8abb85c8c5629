"""Kills a sweep of the demo again and again: it ends as one that was left alone.

    python bench/sweeps.py [--points 200] [--kills 5] [--seed 0]

One sweep is left alone. Another of the same points is killed (SIGKILL, now and then SIGTERM) at
random moments and started again with the same command, until it ends. sweep.parquet must then be
that of the first, byte for byte. Prints a Markdown table; exit code 1 where they differ.
"""

from __future__ import annotations

import argparse
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SMALL = [
    "simulation.n_steps=4", "experiment.replications=4", "experiment.starts=1",
    "experiment.designs=[pooling]", "pretrain.max_rows=256", "dataset.synthetic.users=500",
    "dataset.synthetic.videos=300", "dataset.synthetic.rows=20000",
]  # fmt: skip
N_P = 10  # treatment probabilities


def command(n_points: int, out: Path) -> list[str]:
    sets = [word for setting in SMALL for word in ("--set", setting)]
    alphas = ",".join(str(100 * i) for i in range(n_points // N_P))
    shares = ",".join(f"{(i + 1) / (N_P + 1):.2f}" for i in range(N_P))
    grid = [f"labels.click.alpha_T={alphas}", f"experiment.p_treatment={shares}"]
    varied = [word for values in grid for word in ("--grid", values)]
    return [sys.executable, "-m", "realdataexp", "sweep", "demo", *sets, *varied, "--out", str(out)]


def run(words: list[str], number: signal.Signals | None, after: float | None) -> tuple[bool, str]:
    """Run a command, killed after some seconds; whether it was killed, and what it said."""
    process = subprocess.Popen(
        words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace"
    )
    try:
        _, said = process.communicate(timeout=after)
    except subprocess.TimeoutExpired:
        assert number is not None
        process.send_signal(number)
        return True, process.communicate()[1]
    if process.returncode != 0:
        sys.exit(f"{' '.join(words)}: {said}")
    return False, said


def n_done(folder: Path) -> int:
    """How many points have their result; those of a run that was interrupted are partial."""
    results = folder.glob("points/*/result.json")
    return sum('"status": "complete"' in path.read_text() for path in results)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, default=200)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    draw = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as place:
        alone, killed = Path(place) / "alone", Path(place) / "killed"
        began = time.monotonic()
        _, said = run(command(args.points, alone), None, None)
        seconds_alone = time.monotonic() - began
        n_lines = len(re.findall(r"^\[sweep\] \d+ of \d+ points", said, re.MULTILINE))
        print(f"left alone: {seconds_alone:.0f} s, {n_lines} lines of progress", flush=True)
        began = time.monotonic()
        for i in range(args.kills):
            number = signal.SIGTERM if draw.random() < 0.2 else signal.SIGKILL
            after = seconds_alone * draw.uniform(0.05, 0.8 / args.kills)
            if not run(command(args.points, killed), number, after)[0]:
                sys.exit(f"the sweep came to its end before kill {i + 1}")
            done = f"{n_done(killed)} points done"
            print(f"{number.name} after {after:.0f} s: {done}", flush=True)
        run(command(args.points, killed), None, None)
        seconds_killed = time.monotonic() - began
        tables = [(folder / "sweep.parquet").read_bytes() for folder in (alone, killed)]
    is_same = tables[0] == tables[1]
    print("| points | seconds, left alone | kills | seconds, killed | sweep.parquet |")
    print("|---:|---:|---:|---:|---|")
    equal = "the same" if is_same else "DIFFERS"
    print(
        f"| {args.points} | {seconds_alone:.0f} | {args.kills} | {seconds_killed:.0f} | {equal} |"
    )
    sys.exit(0 if is_same else 1)


if __name__ == "__main__":
    main()
