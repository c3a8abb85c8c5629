"""Do detectors see training interference from inside a test? The tables of docs/detectors.md.

    python -m bench.detectors [--data DIR] [--runs FOLDER] [--only STUDY ...] > tables.md

Runs A/A tests and A/B tests whose arms differ more and more, with designs that suffer from training
interference and designs that do not, and prints for each detector how many single tests alarm, and
whether its value goes with the test's true error. DIR: a KuaiRand-Pure folder; without it the study
on real rows is left out. ``--runs`` keeps the run folders, and reuses those that are complete.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import polars as pl
from torch import Tensor

import realdataexp as rx
from bench.kept import result_of
from realdataexp.designs.base import Outcome
from realdataexp.designs.data_diverted import DataDiverted
from realdataexp.designs.rollout import Rollout
from realdataexp.registry import names
from realdataexp.stats.performance import binomial_interval

REAL = (
    "dataset.logs=[standard_late]", "labels.play_time.loss_function=logMSE",
    "labels.play_time.model_params={hidden_layers: [64, 32]}",
    "labels.click.model_params={hidden_layers: [64, 32]}",
    "simulation.learning_rate=1e-3", "simulation.weight_decay=0", "pretrain.weight_decay=0",
    "pretrain.max_rows=2000", "pretrain.batch_size=64",
)  # fmt: skip


class Apart(Rollout):
    """A rollout with a model for each arm: the mean over its own visits."""

    n_models: ClassVar[int] = 2

    def weights(self, outcome: Outcome) -> Tensor:
        return DataDiverted().weights(outcome)


@dataclass(frozen=True)
class Study:
    """Tests of one world whose arms differ by more and more.

    Attributes:
        config: a built-in config; settings: what it changes.
        tests: what each changes besides, by name; the first is an A/A test.
        labels: whose effects are looked at.
        steps, replications, starts: its size.
    """

    config: str
    settings: tuple[str, ...]
    tests: dict[str, tuple[str, ...]]
    labels: tuple[str, ...]
    steps: int = 100
    replications: int = 60
    starts: int = 6


def mixed(play_time: float) -> tuple[str, ...]:
    """The treatment ranks by a mixture of play time and click, the control by click."""
    return (f"labels.play_time.alpha_T={play_time}", f"labels.click.alpha_T={1 - play_time}")


HARD = (
    "dataset.si2023.world_seed=3", "dataset.si2023.finish_strength=3.0",
    "dataset.si2023.stay_strength=1.5", "simulation.learning_rate=0.1",
)  # fmt: skip
STUDIES = {
    "platform": Study(
        "si2023",
        (
            "simulation.batch_size=32", "simulation.n_candidate=8",
            "dataset.si2023.pretrain_rows=5000",
        ),
        {
            "A/A": ("experiment.aa=true",),
            **{f"A/B, {x} : 1": (f"labels.finish.alpha_T={x}",) for x in (2, 10, 30)},
            "A/B, hard": HARD,
        },
        ("stay_time", "finish"),
    ),
    "synthetic": Study(
        "demo",
        ("pretrain.max_rows=5000",),
        {
            "A/A": ("experiment.aa=true",),
            **{f"A/B, {x:g} play": mixed(x) for x in (0.5, 1.0)},
        },
        ("play_time",),
        replications=40,
    ),
    "real": Study(
        "kuairand-pure", REAL, {"A/A": ("experiment.aa=true",), "A/B": ()}, ("play_time",),
        replications=40,
    ),
}  # fmt: skip
DESIGNS = (
    "experiment.designs=[pooling, splitting, rollout, "
    "{name: 'bench.detectors:Apart', label: rollout apart}]"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, help="a KuaiRand-Pure folder")
    parser.add_argument("--runs", type=Path, help="keep run folders here, and reuse them")
    parser.add_argument("--only", nargs="+", choices=list(STUDIES), help="these studies only")
    parser.add_argument("--replications", type=int)
    parser.add_argument("--steps", type=int)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for name in args.only or STUDIES:
            if STUDIES[name].config.startswith("kuairand") and args.data is None:
                continue
            found = {}
            for i, test in enumerate(STUDIES[name].tests):
                found[test] = measured(
                    STUDIES[name], test, (args.runs or Path(folder)) / f"{name}-{i}", args
                )
            print(f"\n## {name}\n")
            for label in STUDIES[name].labels:
                print("\n".join(tables(found, label)))


def settings_of(study: Study, test: str, args: argparse.Namespace) -> list[str]:
    """What a test changes in its built-in config."""
    n_steps = args.steps or study.steps
    return [
        *study.settings,
        *study.tests[test],
        DESIGNS,
        "experiment.intervals=[welch]",
        f"experiment.replications={args.replications or study.replications}",
        f"experiment.starts={study.starts}",
        f"simulation.n_steps={n_steps}",
        f"simulation.validate_every={n_steps}",
        f"simulation.save_every={n_steps}",
        "simulation.retrain_every=5",
    ]


def measured(study: Study, test: str, folder: Path, args: argparse.Namespace) -> rx.Result:
    """A test's result: of its folder if that is there, else of a new run."""
    data = {"data": args.data} if study.config.startswith("kuairand") else {}
    config = rx.load_config(study.config, settings_of(study, test, args), **data)
    return result_of(config, folder, f"{folder.name}: {test}")


def errors(result: rx.Result, label: str) -> pl.DataFrame:
    """Of each design and world, the estimate minus the truth of the same random numbers."""
    own = result.estimates.filter(label=label, se_method="welch").select("design", "world", "value")
    truth = own.filter(design="global").select("world", truth="value")
    return own.filter(pl.col("design") != "global").join(truth, on="world").select(
        "design", "world", error=pl.col("value") - pl.col("truth")
    )  # fmt: skip


def tables(found: dict[str, rx.Result], label: str) -> list[str]:
    """Alarms by test and design, then how a detector's value goes with the error."""
    detectors = names("detector")
    lines = [
        f"**{label}**: % of tests that alarm, with its 95 % binomial interval", "",
        f"| test | design | bias ± MC SE (of the effect) | {' | '.join(detectors)} |",
        f"|---|---|---:|{'---:|' * len(detectors)}",
    ]  # fmt: skip
    for test, result in found.items():
        for e in result.comparison.filter(label=label).iter_rows(named=True):
            own = result.detectors.filter(label=label, design=e["design"])
            share = f" ({100 * e['bias'] / e['gte']:+.0f} %)" if e["gte"] else ""
            cells = [alarms(own.filter(detector=x).row(0, named=True)) for x in detectors]
            bias = f"{e['bias']:+.3g} ± {e['bias_mc_se']:.2g}{share}"
            lines.append(f"| {test} | {e['design']} | {bias} | {' | '.join(cells)} |")
    lines += ["", f"**{label}**: correlation of a detector's value with the test's error, A/B", ""]
    lines += [
        f"| test | design | {' | '.join(detectors)} |",
        f"|---|---|{'---:|' * len(detectors)}",
    ]
    for test, result in found.items():
        if test == "A/A":
            continue
        both = result.detections.filter(label=label).join(
            errors(result, label), on=["design", "world"]
        )
        for design in both["design"].unique(maintain_order=True):
            cells = [correlation(both.filter(design=design, detector=x)) for x in detectors]
            lines.append(f"| {test} | {design} | {' | '.join(cells)} |")
    return lines


def alarms(entry: dict[str, Any]) -> str:
    """The share of tests that alarm."""
    if not entry["n_tests"]:
        return "-"
    low, high = binomial_interval(round(entry["alarm_share"] * entry["n_tests"]), entry["n_tests"])
    return f"{100 * entry['alarm_share']:.0f} [{100 * low:.0f}, {100 * high:.0f}]"


def correlation(both: pl.DataFrame) -> str:
    """Pearson's correlation over tests, with Fisher's 95 % interval."""
    known = both.drop_nulls("value")
    value, error = known["value"].to_numpy(), known["error"].to_numpy()
    if known.height < 10 or value.std() == 0 or error.std() == 0:
        return "-"
    r = float(np.corrcoef(value, error)[0, 1])
    low, high = np.tanh(np.arctanh(r) + np.array([-1.96, 1.96]) / np.sqrt(known.height - 3))
    return f"{r:+.2f} [{low:+.2f}, {high:+.2f}]"


if __name__ == "__main__":
    main()
