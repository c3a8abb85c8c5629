"""How long a run takes on a cluster, and what a lost node costs: on paper, and simulated.

python -m bench.cluster_estimate [--replications 1000] [--parts 8] [--workers 8] ...
python -m bench.cluster_estimate --here

On paper: rounds of parts, each the time to begin, its steps and its saves; and for each expected
loss of a node half of what lies between two saves, and the time to begin again. The simulation
draws the losses (exponential times, a generator of a fixed seed) and hands parts to workers as a
scheduler does, first come, first served; a part whose time limit comes near saves and queues again.
The rate of a GPU is that of docs/performance.md, so what is predicted is as good as that. With
``--here`` the same formula predicts a run in two parts on this machine, from the rate of two runs
of half the replications at the same time, and the run is made.
"""

from __future__ import annotations

import argparse
import heapq
import math
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np

from bench.process import measure
from bench.sharding import loop_timing
from realdataexp.config import load_config


@dataclass(frozen=True)
class Plan:
    """A run that is spread, and the cluster that it is spread over.

    Attributes:
        networks: of a replication, over all designs and the truth: 10 for the five usual designs.
        networks_per_second: network-steps of a worker (arm-steps), with this many networks at once.
        begin_seconds: of a job, until its first step: import Python, open the data, load a state.
        save_seconds: of a part's save, every ``save_every`` steps.
        hours: a job's time limit; lost_every_hours: of a node, on average.
    """

    replications: int = 1000
    steps: int = 2000
    parts: int = 8
    workers: int = 8
    networks: int = 10
    networks_per_second: float = 50_000.0
    begin_seconds: float = 90.0
    save_every: int = 50
    save_seconds: float = 5.0
    hours: float = 23.5
    lost_every_hours: float = 500.0

    @property
    def block_seconds(self) -> float:
        """The steps from one save to the next, and that save."""
        networks = self.networks * math.ceil(self.replications / self.parts)
        return self.save_every * networks / self.networks_per_second + self.save_seconds

    @property
    def n_blocks(self) -> int:
        """Saves of a part."""
        return math.ceil(self.steps / self.save_every)


def on_paper(plan: Plan) -> tuple[float, float]:
    """Hours until the last part ends, and those of them that a lost node costs."""
    work = plan.n_blocks * plan.block_seconds
    limit = 3600 * plan.hours - plan.begin_seconds
    part = work + plan.begin_seconds * math.ceil(work / limit)
    cost = plan.begin_seconds + plan.block_seconds / 2
    n_lost = part / 3600 / plan.lost_every_hours
    return math.ceil(plan.parts / plan.workers) * (part + n_lost * cost) / 3600, cost / 3600


def simulated(plan: Plan, seed: int) -> float:
    """Hours until the last part ends, with losses drawn."""
    draws = np.random.default_rng(seed)
    free_at = [0.0] * plan.workers
    waiting = [(0.0, part, 0) for part in range(plan.parts)]  # since when, which, blocks done
    heapq.heapify(waiting)
    end = 0.0
    while waiting:
        since, part, n_done = heapq.heappop(waiting)
        start = max(since, heapq.heappop(free_at))
        lost_after = draws.exponential(3600 * plan.lost_every_hours)
        left = (plan.n_blocks - n_done) * plan.block_seconds + plan.begin_seconds
        stop = min(left, 3600 * plan.hours, lost_after)
        if stop < left:
            n_done += max(0, int((stop - plan.begin_seconds) / plan.block_seconds))
            heapq.heappush(waiting, (start + stop, part, n_done))
        heapq.heappush(free_at, start + stop)
        end = max(end, start + stop)
    return end / 3600


def here(scratch: Path, replications: int = 32, steps: int = 400) -> tuple[float, float]:
    """Seconds of the loop of a si2023 run in two parts on this machine: predicted, measured."""
    changes = [f"simulation.n_steps={steps}", "simulation.save_every=100", "experiment.starts=1"]

    def seconds(name: str, replications: int, processes: int) -> dict[str, Any]:
        own = [f"experiment.replications={replications}", f"simulation.processes={processes}"]
        settings = load_config("si2023", [*changes, *own]).resolved()
        return measure(loop_timing, settings=settings, out=str(scratch / name))

    with ThreadPoolExecutor(2) as pool:  # as the parts will run: both cores are in use
        halves = [*pool.map(lambda name: seconds(name, replications // 2, 1), ("a", "b"))]
    rates = [x["arm_steps_per_second"] for x in halves]
    plan = Plan(
        replications, steps, 2, 2, networks=12, networks_per_second=fmean(rates),
        begin_seconds=0.0, save_every=100,
        save_seconds=fmean(x.get("checkpoint_seconds", 0.0) for x in halves) / (steps // 100),
        lost_every_hours=math.inf,
    )  # fmt: skip
    return 3600 * on_paper(plan)[0], float(seconds("both", replications, 2)["loop_seconds"])


def main() -> None:
    """Print both for a plan, and for one whose nodes are lost a hundred times as often."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for name, value in vars(Plan()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    parser.add_argument("--here", action="store_true", help="a run in two parts on this machine")
    given = vars(parser.parse_args())
    if given.pop("here"):
        with tempfile.TemporaryDirectory() as folder:
            predicted, measured = here(Path(folder))
        print(f"in two parts here: predicted {predicted:.1f} s, measured {measured:.1f} s")
        return
    plan = Plan(**given)
    often = replace(plan, lost_every_hours=plan.lost_every_hours / 100)
    for what, own in (("as asked", plan), ("nodes lost 100 times as often", often)):
        hours, cost = on_paper(own)
        found = [simulated(own, seed) for seed in range(200)]
        print(
            f"{what}: on paper {hours:.3f} h, simulated {fmean(found):.3f} h "
            f"(SD {stdev(found):.3f} over 200 draws); a lost node costs {3600 * cost:.0f} s"
        )


if __name__ == "__main__":
    main()
