"""Shadow on twenty random platforms: the figures of docs/designs.md.

    python -m bench.platforms [--replications 40] [--starts 8] [--steps 300] [--only 3 5 ...]
        [--runs FOLDER]

The platforms are draws of a fixed generator over the constants of si2023: how strongly features
matter, the share of long videos, and how much more the treatment cares for finishing. sgd and the
rate are those of the built-in config. ``--runs`` keeps the run folders, and reuses them.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np

import realdataexp as rx
from bench.kept import result_of

N, SEED = 20, 2310
LABELS = ("stay_time", "finish")
DESIGNS = ("pooling", "splitting", "shadow")


def platforms() -> list[list[str]]:
    """The settings of each."""
    random, found = np.random.default_rng(SEED), []
    for i in range(N):
        finish, stay = random.uniform(0.5, 3.0), random.uniform(0.3, 1.5)
        long_share = random.uniform(0.3, 0.7)
        alpha_T, alpha_C = random.uniform(3.0, 12.0), random.uniform(0.3, 3.0)
        found.append(
            [
                f"seed={100 + i}",
                f"dataset.si2023.world_seed={100 + i}",
                f"dataset.si2023.finish_strength={finish:.3f}",
                f"dataset.si2023.stay_strength={stay:.3f}",
                f"dataset.si2023.long_share={long_share:.3f}",
                f"labels.finish.alpha_T={alpha_T:.2f}",
                f"labels.finish.alpha_C={alpha_C:.2f}",
            ]
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--replications", type=int, default=40)
    parser.add_argument("--starts", type=int, default=8)
    parser.add_argument("--only", type=int, nargs="+", choices=range(N), help="these platforms")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--runs", type=Path, help="keep run folders here, and reuse them")
    args = parser.parse_args()
    columns = [f"{label}: {x}" for label in LABELS for x in ("truth", *DESIGNS)]
    print("| platform | " + " | ".join(columns) + " |")
    print("|---|" + "---:|" * len(columns))
    found: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for i in args.only or range(N):
            settings = [
                *platforms()[i],
                f"experiment.replications={args.replications}",
                f"experiment.starts={args.starts}",
                f"experiment.designs=[{', '.join(DESIGNS)}]",
                "experiment.intervals=[welch]",
                f"simulation.n_steps={args.steps}",
                f"simulation.validate_every={args.steps}",
                f"simulation.save_every={args.steps}",
            ]
            config, out = rx.load_config("si2023", settings), (args.runs or Path(folder)) / f"{i}"
            summary = result_of(config, out, f"platform {i}").summary
            entries = {(e["label"], e["design"]): e for e in summary["comparison"]}
            cells = []
            for label in LABELS:
                cells.append(f"{entries[label, 'shadow']['gte']:.3g}")
                for design in DESIGNS:
                    e = entries[label, design]
                    bias, error = (100 * e[x] / abs(e["gte"]) for x in ("bias", "bias_mc_se"))
                    found.setdefault(design, []).append((bias, error))
                    cells.append(f"{bias:+.2f} ± {error:.2f}")
            print(f"| {i} | " + " | ".join(cells) + " |", flush=True)
    for design, of_design in found.items():
        bias, error = np.array(of_design).T
        print(
            f"\n{design}: of {len(bias)} biases the largest is {np.abs(bias).max():.2f} %, "
            f"{(np.abs(bias) < 1).sum()} are below 1 %, "
            f"{(np.abs(bias) <= 2 * error).sum()} within 2 of their Monte-Carlo standard errors"
        )


if __name__ == "__main__":
    main()
