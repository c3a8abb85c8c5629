"""The simulated platform: worlds x steps a second, and where a step goes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from bench.figures import Figure, Reference, memory, rates, typical
from bench.process import Parts, measure
from bench.sizes import Place
from realdataexp.api import run as run_config
from realdataexp.designs.oracle import Oracle
from realdataexp.designs.weighting import Weighting
from realdataexp.learner import Learner
from realdataexp.worlds.simulated import SimulatedWorld

_N_FEATURES, _N_LABELS = 11, 2  # user and video together, and the bias
_PAPER = (100, 10_000)  # replications, steps
_N_CALLS = 10


def run(
    replications: int,
    n_steps: int,
    n_visits: int,
    n_candidates: int,
    out: str,
    processes: int | str = "auto",
) -> dict[str, Any]:
    """Run the built-in config at a size, and time the parts of its steps, if in one process.

    Returns:
        ``worlds_steps_per_second``, ``n_blocks``, ``n_networks`` of each label, and ``parts``:
        seconds a step.
    """
    parts = Parts()
    parts.watch(SimulatedWorld, "slate", "random numbers of slates")
    parts.watch(SimulatedWorld, "feedback", "feedback")
    parts.watch(Learner, "predict", "scoring")
    parts.watch(Learner, "update", "learning")
    parts.watch(Oracle, "weights", "weights of the oracle")
    parts.watch(Weighting, "weights", "weights of G, and its learning")
    settings = [
        "device=cpu",
        "pretrain.enabled=false",  # its updates are no part of a step
        f"simulation.batch_size={n_visits}",
        f"simulation.n_candidate={n_candidates}",
        f"simulation.n_steps={n_steps}",
        f"simulation.validate_every={n_steps}",
        f"experiment.replications={replications}",
        f"simulation.processes={processes}",
        "experiment.intervals=[welch]",
    ]
    summary = run_config("si2023", settings, out=out).summary
    timing = summary["timing"]
    stepping = timing["loop_seconds"] - timing["validation_seconds"] - timing["checkpoint_seconds"]
    n_blocks = 2 + len(summary["config"]["experiment"]["designs"])
    seconds = dict(sorted(parts.seconds.items(), key=lambda part: -part[1]))
    seconds["fusing scores, picks, sums, weights"] = max(0.0, stepping - sum(seconds.values()))
    return {
        "worlds_steps_per_second": n_blocks * replications * n_steps / stepping,
        "n_blocks": n_blocks,
        "n_networks": round(timing["arm_steps_per_second"] * stepping / n_steps),
        "parts": {name: s / n_steps for name, s in seconds.items()},
    }


def at_best(replications: int, n_visits: int, n_candidates: int, **_: Any) -> dict[str, Any]:
    """The machine's rates, and the seconds in which torch.rand draws a step's slates."""
    n_floats = replications * n_visits * n_candidates * _N_FEATURES
    return {**rates(), "draw_seconds": typical(lambda: torch.rand(n_floats), _N_CALLS)}


def figures(place: Place) -> Iterator[Figure]:
    """The platform's speed beside the least that a step must draw, multiply and read."""
    R, T, B, C = place.size.platform
    sizes: dict[str, Any] = {
        "replications": R, "n_steps": T, "n_visits": B, "n_candidates": C,
    }  # fmt: skip
    found = measure(run, at_best, **sizes, out=str(place.scratch / "si2023"))
    alone = measure(run, **sizes, out=str(place.scratch / "si2023-parts"), processes=1)
    flops = 2 * _N_LABELS * found["n_networks"] * B * C * _N_FEATURES
    n_bytes = 4 * found["n_blocks"] * R * B * C * _N_FEATURES
    multiplying, reading = flops / (1e9 * found["gflops"]), n_bytes / (1e9 * found["gb_s"])
    least = found["draw_seconds"] + multiplying + reading
    n_worlds = R * found["n_blocks"]
    rate = found["worlds_steps_per_second"]
    paper_worlds = found["n_blocks"] * _PAPER[0]
    hours = paper_worlds * _PAPER[1] / rate / 3600
    yield Figure(
        "worlds x steps",
        rate,
        "1/s",
        floor=Reference(
            "slates drawn by torch.rand, read once a block at the memory's bandwidth, multiplied "
            "at sgemm's rate",
            n_worlds / least,
        ),
        note=f"{n_worlds} worlds, {B} visits x {C} candidates; the paper's {_PAPER[1]:,} steps of "
        f"{paper_worlds} worlds would take {hours:.1f} h",
    )
    total = sum(alone["parts"].values())
    for name, seconds in alone["parts"].items():
        share = f"{100 * seconds / total:.0f} % of a step in one process"
        yield Figure(name, 1000 * seconds, "ms a step", "lower", note=share)
    yield memory("peak memory", found)
