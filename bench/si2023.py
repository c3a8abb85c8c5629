"""Speed of the simulated platform at the paper's full size, and where the time goes.

    python bench/si2023.py [--replications 8] [--steps 60]

Runs `si2023` with 128 visits x 100 candidates a step and prints worlds x steps per second, how long
the paper's 10,000 steps would take, the share of each part of a step, and two floors measured in
the same run: the random numbers of a step's slates from PyTorch's own generator, and the
multiplications of its scores at the rate of a large matrix product.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import realdataexp as rx
from realdataexp.designs.oracle import Oracle
from realdataexp.designs.weighting import RunningWeighting
from realdataexp.learner import Learner
from realdataexp.worlds.si2023 import Si2023World

VISITS, CANDIDATES, FEATURES, STEPS = 128, 100, 11, 10_000
seconds: dict[str, float] = defaultdict(float)


def timed(owner: Any, method: str, part: str) -> None:
    """Add the time of a method to a part; calls inside another part's count there."""
    real = getattr(owner, method)

    def call(*args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        inside = seconds["inside"]
        try:
            return real(*args, **kwargs)
        finally:
            took = time.perf_counter() - start
            seconds[part] += took - (seconds["inside"] - inside)
            seconds["inside"] = inside + took

    setattr(owner, method, call)


def best(function: Callable[[], Any]) -> float:
    """The shortest of ten calls."""
    times = []
    for _ in range(10):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--replications", type=int, default=8)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--data", help="has no effect: this world has no files")
    args = parser.parse_args()
    timed(Si2023World, "slate", "random numbers of slates")
    timed(Si2023World, "feedback", "feedback")
    timed(Learner, "predict", "scoring")
    timed(Learner, "update", "learning")
    timed(Oracle, "weights", "weights of the oracle")
    timed(RunningWeighting, "weights", "weights of G, and its learning")
    with tempfile.TemporaryDirectory() as folder:
        result = rx.run(
            "si2023",
            [
                f"simulation.batch_size={VISITS}", f"simulation.n_candidate={CANDIDATES}",
                f"simulation.n_steps={args.steps}", f"simulation.validate_every={args.steps}",
                f"experiment.replications={args.replications}", "experiment.intervals=[welch]",
            ],
            out=Path(folder) / "run",
        )  # fmt: skip
        summary = result.summary
    timing = summary["timing"]
    stepping = timing["loop_seconds"] - timing["validation_seconds"] - timing["checkpoint_seconds"]
    n_blocks = 2 + len(summary["config"]["experiment"]["designs"])
    rate = n_blocks * args.replications * args.steps / stepping
    hours = STEPS * n_blocks * 100 / rate / 3600
    print(f"{rate:,.0f} worlds x steps per second ({torch.get_num_threads()} threads);")
    print(f"100 replications of {n_blocks} worlds x {STEPS:,} steps: {hours:.1f} h\n")
    print("| part | ms a step | share |\n|---|---:|---:|")
    rest = stepping
    for part, s in sorted(seconds.items(), key=lambda item: -item[1]):
        if part != "inside":
            rest -= s
            print(f"| {part} | {1000 * s / args.steps:.1f} | {100 * s / stepping:.0f} % |")
    print(f"| fusing scores, picks, sums, weights | {1000 * rest / args.steps:.1f} | "
          f"{100 * rest / stepping:.0f} % |")  # fmt: skip
    size = args.replications * VISITS * CANDIDATES * FEATURES
    square = torch.randn(1024, 1024)
    per_flop = best(lambda: square @ square) / (2 * 1024**3)
    n_networks = timing["arm_steps_per_second"] * stepping / args.steps
    print(f"| floor: torch.rand of the slates | {1000 * best(lambda: torch.rand(size)):.1f} | |")
    flops = 2 * 2 * n_networks * VISITS * CANDIDATES * FEATURES
    print(f"| floor: products of the scores at sgemm's rate | {1000 * flops * per_flop:.2f} | |")


if __name__ == "__main__":
    main()
