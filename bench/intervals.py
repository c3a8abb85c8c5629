"""Do intervals that use both picks cover, and how narrow are they? A table of docs/designs.md.

    python -m bench.intervals [--data DIR] [--runs FOLDER] [--only STUDY ...] > table.md
    python -m bench.intervals --cost

Runs A/B tests and A/A tests with many replications and prints for each method: its error and
spread, its standard error as a share of user_cluster's, how often its interval holds what it
estimates, and how often it rejects. DIR: a KuaiRand-Pure folder; without it the studies of real
rows are left out. ``--runs`` keeps the run folders, and reuses those that are complete.
``--cost`` prints instead how much longer mode compare takes with every interval method.

What a method estimates, its mean, is the mean of its values over the other replications that begin
from the same starting model. So coverage is that of the interval alone; the error, of the estimates
minus the truth of the same replication, says how far from the launch that mean is.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

import realdataexp as rx
from bench.kept import result_of
from realdataexp.registry import names
from realdataexp.stats.estimates import mean_over_worlds, sd_within_starts
from realdataexp.stats.performance import binomial_interval

METHODS = ("user_cluster", "paired", "paired_visit", "aipw", "cupac")
REAL = (
    "dataset.logs=[standard_late]", "labels.play_time.loss_function=MSE", "pretrain.batch_size=256",
)  # fmt: skip
CLOSE = (*REAL, "labels.play_time.alpha_C=1.0", "labels.click.alpha_C=0.3")
AA = ("experiment.aa=true",)


@dataclass(frozen=True)
class Study:
    """A test of one world: a built-in config, what it changes, its designs and its length.

    The designs are in groups that are run one after the other, for memory.
    """

    config: str
    settings: tuple[str, ...]
    designs: tuple[str, ...]
    n_steps: int
    is_frozen: bool = False  # models stay as they started, in the truth too


# all whose picks are known; of a rollout the whole has estimators of its own
FIRST = "pooling, snapshot, splitting, weighting, shadow"
NEW_USERS = (FIRST, "oracle, data_diverted, switchback, holdout, sharing")
BACK = (FIRST, "data_diverted, cluster, switchback, holdout, sharing")
POOLING = ("pooling",)
STUDIES = {
    "real rows, arms close": Study("kuairand-pure", CLOSE, BACK, 60),
    "real rows, A/A": Study("kuairand-pure", (*CLOSE, *AA), BACK, 60),
    "real rows, arms far apart": Study("kuairand-pure", REAL, POOLING, 100),
    "demo": Study("demo", (), BACK, 40),
    "demo, A/A": Study("demo", AA, BACK, 40),
    "demo, arm by visit": Study(
        "demo", ("experiment.assignment=visit",), ("pooling, splitting",), 40
    ),
    "platform": Study("si2023", (), NEW_USERS, 40),
    "real rows, nothing learned": Study("kuairand-pure", CLOSE, POOLING, 60, is_frozen=True),
    "platform, nothing learned": Study("si2023", (), POOLING, 40, is_frozen=True),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, help="a KuaiRand-Pure folder")
    parser.add_argument("--runs", type=Path, help="keep run folders here, and reuse them")
    parser.add_argument("--only", nargs="+", choices=list(STUDIES), help="these studies only")
    parser.add_argument("--replications", type=int, default=300)
    parser.add_argument("--steps", type=int, help="of every study")
    parser.add_argument("--cost", action="store_true", help="measure what all methods cost")
    args = parser.parse_args()
    if args.cost:
        print(cost(args.steps or 100, min(args.replications, 20)))
        return
    found = {}
    with tempfile.TemporaryDirectory() as temporary:
        for name in args.only or STUDIES:
            if not STUDIES[name].config.startswith("kuairand") or args.data is not None:
                where = args.runs or Path(temporary)
                found[name] = [
                    measured(STUDIES[name], designs, where / folder_name(name, i), args)
                    for i, designs in enumerate(STUDIES[name].designs)
                ]
        print("\n".join(tables(found)))


def folder_name(study: str, group: int) -> str:
    return f"{study.replace(' ', '-').replace(',', '').replace('/', '')}-{group}"


def measured(study: Study, designs: str, folder: Path, args: argparse.Namespace) -> rx.Result:
    """What a study found of some designs: of their folder if that is there, else of a new run."""
    n_steps = args.steps or study.n_steps
    settings = [
        *study.settings,
        f"experiment.designs=[{designs}]",
        f"experiment.intervals=[{', '.join(METHODS)}]",
        f"experiment.replications={args.replications}",
        "experiment.starts=10",
        "experiment.detectors=[]",
        f"simulation.n_steps={n_steps}",
        f"simulation.validate_every={n_steps}",
        f"simulation.save_every={n_steps}",
        f"simulation.retrain_every={n_steps if study.is_frozen else 1}",
        "logging.pictures=false",
    ]
    if "switchback" in designs:
        settings.append(f"switchback.block_steps={max(1, n_steps // 20)}")
    data = {"data": args.data} if study.config.startswith("kuairand") else {}
    config = rx.load_config(study.config, settings, **data)
    return result_of(config, folder, folder.name)


@dataclass(frozen=True)
class Row:
    """What a method's intervals did in the worlds of a design that have one."""

    error: str  # of the mean, from the launch
    sd: float
    se: float
    n: int
    se_share: float
    covered: str
    rejected: str


def tables(found: dict[str, list[rx.Result]]) -> Iterator[str]:
    """Coverage or false rejections with the standard error's share, then error and spread."""
    narrow = ["standard error / user_cluster's, coverage of its mean (A/A: false rejections)"]
    wide = ["its mean minus the truth ± MC SE, SD of a single test, mean SE"]
    columns = (
        f"| test | design | label | differ, so far | {' | '.join(f'`{x}`' for x in METHODS)} |"
    )
    for lines in (narrow, wide):
        lines += ["", columns, f"|---|---|---|---:|{'---:|' * len(METHODS)}"]
    for name, result in ((name, x) for name, results in found.items() for x in results):
        is_aa = bool(result.summary["config"]["experiment"]["aa"])
        shares = apart(result)
        for entry in result.comparison.iter_rows(named=True):
            design, label = entry["design"], entry["label"]
            by_method = {x: measures(result, design, label, x) for x in METHODS}
            n_worlds = result.estimates["world"].n_unique()
            first = f"| {name} | {design} | {label} | {shares[design, label]} |"
            cells: dict[str, list[str]] = {"narrow": [], "wide": []}
            for x in by_method.values():
                if x is None or x.sd == 0:
                    for own in cells.values():
                        own.append("no answer" if x is None else "0 exactly")
                    continue
                few = "" if x.n == n_worlds else f" ({x.n} tests)"
                told = x.rejected if is_aa else x.covered
                cells["narrow"].append(f"{x.se_share:.2f}, {told}{few}")
                cells["wide"].append(f"{x.error}, {number(x.sd)}, {number(x.se)}{few}")
            narrow.append(f"{first} {' | '.join(cells['narrow'])} |")
            wide.append(f"{first} {' | '.join(cells['wide'])} |")
    yield from (*narrow, "", *wide)


def apart(result: rx.Result) -> dict[tuple[str, str], str]:
    """Of each design and label, the share of visits in which the picks differ, and so far."""
    assert result.units is not None
    sums = result.units.group_by("design", "label").agg(pl.col("n", "n_differ", "n_parted").sum())
    return {
        (design, label): f"{100 * n_differ / n:.0f} %, {100 * n_parted / n:.0f} %"
        for design, label, n, n_differ, n_parted in sums.iter_rows()
    }


def measures(result: rx.Result, design: str, label: str, method: str) -> Row | None:
    """A method's row, over the worlds in which it has an interval; None where it has none."""
    own = result.estimates.filter(design=design, label=label, se_method=method)
    plain = result.estimates.filter(design=design, label=label, se_method="user_cluster")
    truth = result.estimates.filter(design="global", label=label, se_method="welch")
    both = (
        own.drop_nulls("ci_low")
        .join(truth.select("world", truth="value"), on="world", how="left")
        .join(plain.select("world", plain="se"), on="world")
        .sort("world")
    )
    world, value, truth_W, se, plain_se, low, high = (
        both[x].to_numpy() for x in ("world", "value", "truth", "se", "plain", "ci_low", "ci_high")
    )
    if not len(world):
        return None
    n_starts = int(result.summary["config"]["experiment"]["starts"])
    n_W = np.bincount(world % n_starts, minlength=n_starts)[world % n_starts]
    off = (value - of_starts(value, world, n_starts)) * np.sqrt(n_W / (n_W - 1).clip(1))
    sd = sd_within_starts(value, world, n_starts)
    return Row(
        with_error(value - truth_W, world, n_starts),
        0.0 if sd is None else sd,
        float(se.mean()),
        len(value),
        float(np.divide(se, plain_se, where=plain_se > 0, out=np.ones_like(se)).mean()),
        percent(np.abs(off) <= (high - low) / 2),
        percent((low > 0) | (high < 0)),
    )


def cost(n_steps: int, replications: int) -> str:
    """CPU seconds of a run of ``demo`` with Welch's intervals alone, and with every method."""
    every = (*names("interval method"), *(x for x in names("estimator") if "rollout" not in x))
    seconds: dict[str, list[float]] = {"welch": [], ", ".join(every): []}
    for _ in range(2):
        for methods, own in seconds.items():
            settings = [
                f"experiment.intervals=[{methods}]",
                f"experiment.replications={replications}",
                f"simulation.n_steps={n_steps}",
                "simulation.processes=1",
                "experiment.starts=1",
                "logging.pictures=false",
            ]
            with tempfile.TemporaryDirectory() as folder:
                start = time.process_time()
                rx.run("demo", settings, out=Path(folder) / "run")
                own.append(time.process_time() - start)
    without, with_all = (min(own) for own in seconds.values())
    return (
        f"welch alone {without:.1f} s, all {with_all:.1f} s of CPU: {with_all / without:.2f} times"
    )


def number(x: float | None) -> str:
    """Three digits, or whole."""
    if x is None:
        return "-"
    return f"{x:,.0f}" if abs(x) >= 100 else f"{x:.3g}"


def of_starts(x_W: np.ndarray, world_W: np.ndarray, n_starts: int) -> np.ndarray:
    """For each world the mean over the worlds of its starting model."""
    start_W = world_W % n_starts
    sums = np.bincount(start_W, x_W, minlength=n_starts)
    return sums[start_W] / np.bincount(start_W, minlength=n_starts)[start_W]


def with_error(x_W: np.ndarray, world_W: np.ndarray, n_starts: int) -> str:
    """A mean with its Monte-Carlo standard error, clustered by starting model."""
    found = mean_over_worlds(x_W, world_W, n_starts)
    return f"{number(found.value)} ± {number(found.se)}"


def percent(is_W: np.ndarray) -> str:
    """How many, with the 95 % binomial interval."""
    low, high = binomial_interval(int(is_W.sum()), len(is_W))
    return f"{100 * is_W.mean():.1f} % [{100 * low:.0f}–{100 * high:.0f}]"


if __name__ == "__main__":
    main()
