"""What the lab itself measured: the tables of docs/measured.md.

    python -m bench.designs --data DIR [--runs FOLDER] [--only STUDY ...] > docs/measured.md

Runs every study (DIR: a KuaiRand-Pure folder; without it the studies on real rows are left out) and
prints a page. ``--runs`` keeps the run folders: a study whose folder holds its result is not run
again. ``--replications`` and ``--steps`` shrink the studies, to try the script out. ``--table``
prints the table of designs and worlds in docs/designs.md instead.
"""

from __future__ import annotations

import argparse
import re
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl

import realdataexp as rx
from bench.kept import result_of
from realdataexp.report.files import RunResult
from realdataexp.report.verdicts import biases

WEAK = ("pretrain.max_rows=2000", "pretrain.batch_size=64")
STRONG = ("pretrain.batch_size=256",)
RANK_BY_MEAN = ("labels.play_time.loss_function=MSE",)
BY_VISIT = ("experiment.assignment=visit",)
SETTINGS_2 = (
    "labels.play_time.loss_function=logMSE",
    "labels.play_time.model_params={hidden_layers: [64, 32]}",
    "labels.click.model_params={hidden_layers: [64, 32]}",
    "simulation.learning_rate=1e-3",
    "simulation.weight_decay=0",
    "pretrain.weight_decay=0",
)
BOTH = "pooling, snapshot, splitting, data_diverted, weighting, shadow, switchback, codiverted"
TEN = (*BOTH.split(", "), "cluster", "oracle")
WITH_USERS = f"experiment.designs=[{BOTH}, cluster]"  # users who come back, for cluster to group
WITH_ORACLE = f"experiment.designs=[{BOTH}, oracle]"  # independent candidates, for E[Z|X]
AA_ORACLE = (
    "experiment.designs=[pooling, snapshot, splitting, weighting, shadow, oracle, switchback, "
    "data_diverted]"
)
AA_USERS = (
    "experiment.designs=[pooling, snapshot, splitting, weighting, shadow, cluster, switchback, "
    "codiverted, data_diverted]"
)
WELCH = "experiment.intervals=[welch]"
# what nothing learned leaves to differ: who gets which arm, and what an arm may show
FROZEN = "experiment.designs=[pooling, switchback, codiverted, cluster]"
REFITTED = "refit_every: 10, window_steps: 10"
EVERY_G = ", ".join(
    [
        *(f"{{name: weighting, label: {g}, model: {g}}}" for g in ("mlp", "logistic")),
        *(
            f"{{name: weighting, label: {g}, model: {g}, {REFITTED}}}"
            for g in ("svm", "random_forest", "gradient_boosting")
        ),
    ]
)
HARD = (
    "dataset.si2023.world_seed=3",
    "dataset.si2023.finish_strength=3.0",
    "dataset.si2023.stay_strength=1.5",
    "simulation.learning_rate=0.1",
)


@dataclass(frozen=True)
class Study:
    """One experiment of the page.

    Attributes:
        title, text: what it shows.
        config: a built-in config; settings: what it changes.
        steps, replications, starts: its size.
        labels: whose tables are shown.
        is_frozen: nothing is learned during the test.
    """

    title: str
    text: str
    config: str
    settings: tuple[str, ...]
    steps: int
    replications: int = 50
    starts: int = 10
    labels: tuple[str, ...] = ("play_time",)
    is_frozen: bool = False

    @property
    def needs_data(self) -> bool:
        return self.config.startswith("kuairand")


def real(title: str, text: str, *settings: str, steps: int = 200, **more: Any) -> Study:
    """A study on the real rows of 25 April to 8 May."""
    where = ("dataset.logs=[standard_late]", WELCH, more.pop("designs", WITH_USERS))
    return Study(title, text, "kuairand-pure", (*where, *settings), steps, **more)


OUTCOMES = ("stay_time", "finish", "short_video")
STUDIES = {
    "platform": Study(
        "The simulated platform, p = 1/2",
        "Interference is known to be there, and E[Z|X] can be computed (oracle).",
        "si2023", (WELCH, WITH_ORACLE), 800, labels=OUTCOMES,
    ),
    "platform-p20": Study(
        "The simulated platform, p = 0.2",
        "The same with a fifth of the visits treated.",
        "si2023-p20", (WELCH, WITH_ORACLE), 800, replications=20, labels=OUTCOMES,
    ),
    "platform-fast": Study(
        "The simulated platform at the paper's learning rate",
        "At the constant rate 0.1 the noise of a training step matters: the weighted steps of an "
        "arm are noisier than a launched system's, in every design that does not pool.",
        "si2023", ("simulation.learning_rate=0.1", WELCH, WITH_ORACLE), 800,
        replications=20, labels=("stay_time",),
    ),
    "platform-hard": Study(
        "A platform where a learned G errs, by more or less from one start to the next",
        "Twice the effects of the default platform, with the coefficients of world seed 3: G's "
        "training starts with the test, and here it is late. From the ten starting models "
        "weighting errs by -0.20 to +0.53 (pooling by +0.14 to +0.82), and from two of them more "
        "than pooling; a single start would have been taken for a rule. Shadow, which learns no "
        "G, errs by -0.06 to +0.01.",
        "si2023", (*HARD, WELCH, WITH_ORACLE), 800, labels=("stay_time",),
    ),
    "platform-g": Study(
        "The same platform with every kind of G",
        "The first quarter of that test, where G has the least to learn from. The three kinds that "
        "are fitted anew, every 10 steps, see the rows of the last 10.",
        "si2023", (*HARD, WELCH, f"experiment.designs=[{EVERY_G}, shadow, oracle]"), 200,
        replications=20, labels=("stay_time",),
    ),
    "platform-aa": Study(
        "A/A on the simulated platform",
        "Both arms rank alike, so every rejection is false.",
        "si2023-aa", (AA_ORACLE,), 200, 400, labels=("stay_time", "finish"),
    ),
    "users": Study(
        "Users who come back, on synthetic rows",
        "The demo's data and models; an arm per user.",
        "demo", (WELCH, WITH_USERS), 100, labels=("play_time", "click"),
    ),
    "users-aa": Study(
        "A/A with users who come back",
        "The synthetic replay data of the demo; an arm per user.",
        "demo", (AA_USERS, "experiment.aa=true"), 50, 400, labels=("play_time", "click"),
    ),
    "weak-user": real(
        "KuaiRand-Pure, weak start, arm by user",
        "Models start from 2,000 rows; play time is ranked by its predicted mean (MSE).",
        *RANK_BY_MEAN, *WEAK, labels=("play_time", "click"),
    ),
    "strong-user": real(
        "KuaiRand-Pure, strong start, arm by user",
        "Models start from the earliest 30 % of the training users' rows.",
        *RANK_BY_MEAN, *STRONG, labels=("play_time", "click"), replications=30,
    ),
    "weak-visit": real(
        "KuaiRand-Pure, weak start, arm by visit",
        "Each visit draws its arm: depletion comes in.",
        *RANK_BY_MEAN, *WEAK, *BY_VISIT, replications=20,
    ),
    "strong-visit": real(
        "KuaiRand-Pure, strong start, arm by visit", "", *RANK_BY_MEAN, *STRONG, *BY_VISIT,
        replications=20,
    ),
    "frozen-user": real(
        "KuaiRand-Pure, weak start, arm by user, nothing learned",
        "Models stay as they started, in the truth too, so no channel of interference is open to "
        "pooling, nor to the designs left out, which show what pooling shows.",
        *RANK_BY_MEAN, *WEAK, designs=FROZEN, is_frozen=True,
    ),
    "frozen-visit": real(
        "KuaiRand-Pure, weak start, arm by visit, nothing learned",
        "Depletion alone.",
        *RANK_BY_MEAN, *WEAK, *BY_VISIT, designs=FROZEN, is_frozen=True,
    ),
    "log-weak": real(
        "KuaiRand-Pure, play time ranked by its mean logarithm, weak start",
        "Two networks 64-32, Adam 1e-3 without weight decay, log1p of play time (logMSE).",
        *SETTINGS_2, *WEAK, steps=300,
    ),
    "log-strong": real(
        "KuaiRand-Pure, play time ranked by its mean logarithm, strong start",
        "The same, started from the earliest 30 % of the training users' rows.",
        *SETTINGS_2, *STRONG, steps=300, replications=30,
    ),
    "log-overlap": real(
        "KuaiRand-Pure, play time ranked by its mean logarithm, start on the replayed rows",
        "The same, started from 150,000 rows that are replayed later: the model has seen the "
        "answers.",
        *SETTINGS_2, "pretrain.rows=overlap", "pretrain.max_rows=150000", *STRONG, steps=300,
        replications=20,
    ),
}  # fmt: skip


def channel_3(name: str) -> Study:
    """A study's truth against shadow: at its weights' pace, at a launched system's, and thinned."""
    study = STUDIES[name]
    launched = "{name: shadow, label: launched, steps: launched}"
    thinned = "{name: shadow, label: thinned, steps: launched, keep: 0.5}"
    designs = f"[shadow, {launched}, {thinned}]"
    settings = (
        f"experiment.designs={designs}", "seed=11", "validation.validation_batches=1",
        f"simulation.validate_every={study.steps}", f"simulation.save_every={study.steps}",
    )  # fmt: skip
    own = (x for x in study.settings if not x.startswith("experiment.designs"))
    return replace(
        study, title=f"Smaller training sets: {study.title}", text=CHANNEL_3,
        settings=(*own, *settings), replications=400, starts=40,
        labels=("play_time", "click"),
    )  # fmt: skip


CHANNEL_3 = (
    "Each arm's model learns from fewer visits than a launched system's. `launched` is shadow with "
    "Adam's steps as long as a launched system's; `thinned` learns from half of its visits; "
    "`extrapolated` is on the line through both, where a launched system is "
    "([why](weights.md#what-no-weight-repairs))."
)
STUDIES |= {
    f"channel-3-{name}": channel_3(name)
    for name in ("weak-user", "log-weak", "strong-user", "log-strong")
}

HEAD = """# What the lab measured

Made by `python -m bench.designs --data data/KuaiRand-Pure` (seed 0 unless a study says \
another). Bias is the mean of the paired differences from the truth of the same replication, ± its \
Monte-Carlo standard error, \
clustered by starting model; \
bias/GTE is negative where the design understates the effect. SD: of a single test, given its \
starting model. SE: \
the mean that a test reports (Welch). Coverage: of the true effect by its 95 % interval. Regret: \
what deciding by that interval costs per visit. Studies of KuaiRand-Pure replay its rows of \
25 April to 8 May. Other pages quote these studies with 100 replications (`--replications 100`), \
of which those here are the first.

Measured on two x86-64 cores (AMD EPYC, families 25 and 26), one process and one thread each, \
beside other work, PyTorch 2.13 CPU."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="a KuaiRand-Pure folder")
    parser.add_argument("--runs", type=Path, help="keep run folders here, and reuse them")
    parser.add_argument("--only", nargs="+", choices=list(STUDIES), help="these studies only")
    parser.add_argument("--replications", type=int)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--table", action="store_true", help="print the designs by world alone")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        runs = args.runs or Path(folder)
        print("\n".join(table_head()) if args.table else HEAD)
        for name in args.only or STUDIES:
            study = STUDIES[name]
            if study.needs_data and args.data is None:
                continue
            result = measure(name, study, runs, args)
            if not args.table:
                print(section(study, settings_of(study, args), result))
                if "thinned" in designs_of(result):
                    print(*extrapolated(runs / name, study), sep="  \n")
            elif not result["config"]["experiment"]["aa"] and {"pooling"} & {*designs_of(result)}:
                print("\n".join(table_rows(name, study, result)))


def settings_of(study: Study, args: argparse.Namespace) -> list[str]:
    """What a study changes in its built-in config, its size included."""
    steps = args.steps or study.steps
    settings = [
        *study.settings,
        f"experiment.replications={args.replications or study.replications}",
        f"experiment.starts={study.starts}",
        f"simulation.n_steps={steps}",
    ]
    if study.is_frozen:
        settings.append(f"simulation.retrain_every={steps}")
    if any("switchback" in x for x in settings):
        settings.append(f"switchback.block_steps={max(1, steps // 20)}")
    return settings


def measure(name: str, study: Study, runs: Path, args: argparse.Namespace) -> dict[str, Any]:
    """The result of a study: of its folder in ``runs`` if that is there, else of a new run."""
    settings = settings_of(study, args)
    config = rx.load_config(study.config, settings, data=args.data if study.needs_data else None)
    return dict(result_of(config, runs / name, name).summary)


def section(study: Study, settings: list[str], result: dict[str, Any]) -> str:
    """A study's part of the page."""
    config, seconds = result["config"], result["timing"]["total_seconds"]
    size = (
        f"{RunResult.of(result).config.replications()} × {result['n_steps_done']} steps × "
        f"{config['simulation']['batch_size']} visits × {config['simulation']['n_candidate']} "
        f"candidates; {seconds:,.0f} s."
    )
    lines = [f"\n## {study.title}", f"{study.text} {size}".strip(), "", "```"]
    given = " --data DIR" if study.needs_data else ""
    lines += [f"realdataexp run {study.config}{given}", *(f"    --set '{x}'" for x in settings)]
    lines += ["```", ""]
    table = type_1_table if config["experiment"]["aa"] else comparison_table
    for label in study.labels:
        lines += [*table(result, label), ""]
    return "\n".join(lines)


def extrapolated(folder: Path, study: Study) -> list[str]:
    """The effect at a launched system's amount of data, on the line through both designs."""
    lines = []
    found = rx.Result(folder).extrapolated("launched", "thinned")
    for x in found.filter(pl.col("label").is_in(study.labels)).iter_rows(named=True):
        said = f"bias {text(x['bias'])} ± {text(x['bias_mc_se'], 2)}"
        share, error = (100 * x[key] / x["gte"] for key in ("bias", "bias_mc_se"))
        lines.append(f"extrapolated, {x['label']}: {said}, {share:+.1f} ± {abs(error):.1f} %")
    return lines


def designs_of(result: dict[str, Any]) -> list[str]:
    return list(dict.fromkeys(e["design"] for e in result["comparison"]))


def table_head() -> list[str]:
    columns = ["world, label", "truth", *TEN, "study"]
    return ["| " + " | ".join(columns) + " |", "|---|" + "---:|" * (len(columns) - 1)]


def table_rows(name: str, study: Study, result: dict[str, Any]) -> list[str]:
    """A row for each label: the truth, and each design's bias in percent of it, with its error."""
    anchor = re.sub(r"[^\w\- ]", "", study.title.lower()).replace(" ", "-")
    anchor = re.sub(r"-+", "-", anchor)
    rows = []
    for label in study.labels:
        found = {x.entry.design: x for x in biases(RunResult.of(result), label)}
        gte = next(iter(found.values())).entry.gte
        cells = [f"[{study.title}](measured.md#{anchor}), {label}", text(gte)]
        for design in TEN:
            x = found.get(design)
            if x is None or x.percent_of_effect is None or not gte:
                cells.append("-")
                continue
            error = 100 * (x.entry.bias_mc_se or 0.0) / abs(gte)
            said = f"{x.percent_of_effect:+.1f} ± {error:.1f}".replace("-", "−")
            cells.append(f"**{said}**" if x.is_significant else said)
        rows.append("| " + " | ".join([*cells, f"`{name}`"]) + " |")
    return rows


def comparison_table(result: dict[str, Any], label: str) -> list[str]:
    """Each design against the truth."""
    entries = [e for e in result["comparison"] if e["label"] == label]
    regret = {
        e["design"]: e["regret"]
        for e in result["regret"]
        if e["label"] == label and e["se_method"] == "welch"
    }
    relative = result["gte_results"][f"GTE_{label}_relative"]
    lines = [
        f"**{label}**: true effect {text(entries[0]['gte'])} per visit ({text(relative)} %)",
        "",
        "| design | estimate | bias ± MC SE | bias/GTE | SD | SE | RMSE | coverage | wrong sign | "
        "regret |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    shares = [x.percent_of_effect for x in biases(RunResult.of(result), label)]
    for e, share in zip(entries, shares, strict=True):
        cells = [
            e["design"], text(e["estimate"]), f"{text(e['bias'])} ± {text(e['bias_mc_se'], 2)}",
            percent(share), text(e["sd"]), text(e["se_mean"]), text(e["rmse"]),
            percent(times_100(e["coverage"])), percent(times_100(e["sign_error_rate"])),
            text(regret[e["design"]]),
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def type_1_table(result: dict[str, Any], label: str) -> list[str]:
    """The share of false rejections of each design and interval method."""
    entries = [e for e in result["inference"] if e["label"] == label]
    methods = list(dict.fromkeys(e["se_method"] for e in entries))
    found = {(e["design"], e["se_method"]): e for e in entries}
    lines = [
        f"**{label}**: share of rejections at 5 %, its 95 % binomial interval; * not to be trusted",
        "",
        "| design | " + " | ".join(methods) + " |",
        "|---|" + "---:|" * len(methods),
    ]
    for design in dict.fromkeys(e["design"] for e in entries):
        cells = []
        for method in methods:
            e = found.get((design, method))
            if e is None or e["reject_share"] is None:
                cells.append("-")
                continue
            star = " *" if e["trustworthy"] is False else ""
            low, high = 100 * e["reject_low"], 100 * e["reject_high"]
            cells.append(f"{100 * e['reject_share']:.1f} [{low:.1f}, {high:.1f}]{star}")
        lines.append(f"| {design} | " + " | ".join(cells) + " |")
    return lines


def times_100(x: float | None) -> float | None:
    return None if x is None else 100 * x


def percent(x: float | None) -> str:
    return "-" if x is None else f"{round(x):,} %"


def text(x: float | None, digits: int = 3) -> str:
    if x is None:
        return "-"
    return f"{x:,.0f}" if abs(x) >= 1000 else f"{x:.{digits}g}"


if __name__ == "__main__":
    main()
