"""Digests of what small runs write: whether a change of the code changed a number.

    python bench/digests.py --out before.json        (before the change)
    python bench/digests.py --against before.json    (after it)

Runs small experiments that together have every design, world, model, loss, weight model, optimizer
and schedule, an A/A test, own tables, several processes, bf16, and a run that is killed and
resumed. Stores a digest of each column of each table, and of each part of result.json that is a
function of config, data and seed. With --against it prints what differs, is gone or is new; exit
code 1 if anything differs or is gone.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import yaml

TABLES = ("outcomes", "metrics", "estimates", "units")
PARTS = (
    "dataset_stats", "gte_results", "estimates", "comparison", "metrics_summary", "warnings",
)  # fmt: skip
EVERY_DESIGN = [
    "pooling", "snapshot", "splitting", "weighting", "shadow", "switchback", "codiverted",
    "data_diverted", {"name": "cluster", "n_clusters": 5},
    {"name": "splitting", "label": "plain", "normalize": False},
    {"name": "shadow", "label": "launched", "steps": "launched", "keep": 0.5},
]  # fmt: skip
WEIGHT_MODELS = [
    {"name": "weighting", "label": label, "model": label, "refit_every": 5, "window_steps": 10}
    for label in ("random_forest", "svm", "gradient_boosting")
] + [
    {"name": "weighting", "label": "logistic", "model": "logistic", "max_weight": 3.0},
    {"name": "weighting", "label": "calibrated", "calibration": "mean", "warmup_steps": 3},
]
FEATURES = {
    "numerical": ["video_duration", "fans_user_num"],
    "categorical": ["user_active_degree", "video_type", "tag"],
}


def label(name: str, **changes: Any) -> dict[str, Any]:
    """A label's settings: play_time, click or another; with what differs."""
    known: dict[str, dict[str, Any]] = {
        "play_time": {"target": "play_time_ms", "type": "numerical", "loss_function": "MSE"},
        "click": {"target": "is_click", "type": "binary", "loss_function": "BCE"},
    }
    own = {"model_params": {"hidden_layers": [8]}, "alpha_T": 1.0, "alpha_C": 0.0}
    if name == "click":
        own |= {"alpha_T": 0.0, "alpha_C": 1.0}
    return {"name": name, **own, **known.get(name, {}), **changes}


def settings(data: Path, **changes: Any) -> dict[str, Any]:
    """A small replay of made-up rows in KuaiRand's format; blocks are merged."""
    base: dict[str, Any] = {
        "mode": "compare",
        "dataset": {"name": "KuaiRand-Pure", "path": str(data), "cache_path": f"{data}-cache"},
        "feature": FEATURES,
        "labels": [label("play_time"), label("click")],
        "pretrain": {"batch_size": 128, "validate_every_iters": 4},
        "simulation": {
            "batch_size": 16, "n_candidate": 6, "n_steps": 20, "validate_every": 5,
            "save_every": 7, "learning_rate": 3e-3, "processes": 1,
        },
        "experiment": {"replications": 4, "starts": 2, "designs": EVERY_DESIGN},
    }  # fmt: skip
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(base.get(key), dict)
        base[key] = base[key] | value if both else value
    return base


def platform(**changes: Any) -> dict[str, Any]:
    """A short test on the simulated platform."""
    stay = label("stay_time", target="stay_time", type="numerical", loss_function="MSE")
    finish = label("finish", target="finish", type="binary", loss_function="BCE", alpha_T=3.0)
    short = {"name": "short", "target": "short_video", "type": "binary", "model": "none"}
    base = {
        "dataset": {"name": "si2023", "si2023": {"pretrain_rows": 2000}},
        "labels": [stay, finish, short],
        "pretrain": {"batch_size": 128, "optimizer": "sgd", "learning_rate": 0.1},
        "simulation": {
            "batch_size": 16, "n_candidate": 6, "n_steps": 20, "validate_every": 10,
            "save_every": 8, "optimizer": "sgd", "learning_rate": 0.03, "processes": 1,
        },
        "experiment": {
            "replications": 4, "starts": 2,
            "designs": ["pooling", "snapshot", "splitting", "weighting", "shadow", "oracle",
                        "data_diverted", "switchback"],
        },
    }  # fmt: skip
    return base | changes


def own_tables(folder: Path) -> dict[str, Any]:
    """Made-up tables of somebody's own, and their config."""
    folder.mkdir()
    rows, users, videos = 4000, 120, 60
    i = pl.int_range(rows, eager=True)
    frame = pl.DataFrame({"row": i}).select(
        who=pl.format("u{}", (pl.col("row") * 7919) % users),
        what=(pl.col("row") * 104_729) % videos + 1000,
        when=pl.col("row") * 60,
        liked=((pl.col("row") * 31) % 17 < 5).cast(pl.Int8),
        seconds=((pl.col("row") * 13) % 29).cast(pl.Float64) / 2,
    )
    frame.write_csv(folder / "log.csv")
    n = pl.int_range(videos, eager=True)
    pl.DataFrame({"what": n + 1000, "size": n.cast(pl.Float64), "kind": n % 4}).write_parquet(
        folder / "videos.parquet"
    )
    tables = {"log": ["log.csv"], "videos": "videos.parquet", "early_before": 60 * 1200}
    columns = {"user_id": "who", "video_id": "what", "time": "when"}
    return {
        "dataset": {
            "name": "tables", "path": str(folder), "cache_path": f"{folder}-cache",
            "tables": tables | columns,
        },
        "feature": {"numerical": ["size"], "categorical": ["kind"]},
        "labels": [
            label("seconds", target="seconds", type="numerical", loss_function="MAE"),
            label("liked", target="liked", type="binary", loss_function="BCE", alpha_T=0.0),
        ],
    }  # fmt: skip


def experiments(place: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each experiment's name and config."""
    data = place / "data"
    words = "synth", str(data), "--users", "300", "--videos", "200", "--rows", "9000", "--seed", "0"
    subprocess.run([sys.executable, "-m", "realdataexp", *words], check=True, capture_output=True)
    yield "every design", settings(data)
    yield "two processes", settings(data, simulation={"processes": 2})
    yield (
        "weight models",
        settings(data, experiment={"designs": WEIGHT_MODELS, "replications": 2, "starts": 1}),
    )
    yield (
        "deep models",
        settings(
            data,
            labels=[
                label("play_time", model="DCNv2", loss_function="logMAE",
                      model_params={"hidden_layers": [8], "n_cross_layers": 2, "rank": 3}),
                label("click", model="WideDeep",
                      model_params={"hidden_layers": [8], "crosses": [["tag", "video_type"]]}),
                label("like", target="is_like", type="binary", loss_function="BCE", model="DLRM"),
                label("hate", target="is_hate", type="binary", model="none",
                      model_params={}),
            ],
            experiment={"designs": ["pooling", "shadow"], "replications": 2, "starts": 2},
        ),
    )  # fmt: skip
    yield (
        "shared and linear",
        settings(
            data,
            labels=[
                label("play_time", model="MMoE", model_params={"dropout": 0.1}),
                label("click", model="MMoE", model_params={"dropout": 0.1}),
                label("like", target="is_like", type="binary", loss_function="BCE", model="Linear",
                      model_params={}),
                label("tab", target="tab", type="categorical", n_classes=16, loss_function="CE",
                      model_params={"hidden_layers": [4], "normalization": "layer"}),
            ],
            experiment={"designs": ["splitting", "cluster"], "replications": 2, "starts": 1},
            cluster={"n_clusters": 4},
        ),
    )  # fmt: skip
    yield (
        "by visit, all schedules",
        settings(
            data,
            pretrain={"optimizer": "adamw", "scheduler": {"kind": "cosine"}, "rows": "share",
                      "early_stopping": 2, "epochs": 3},
            simulation={"scheduler": {"kind": "plateau"},
                        "gradient_clip": 0.5, "retrain_every": 3, "min_candidates": 2},
            experiment={"assignment": "visit", "p_treatment": 0.3, "replications": 3,
                        "designs": ["pooling", "splitting", "shadow", "codiverted"]},
            validation={"primary_metric": "click.auc"},
        ),
    )  # fmt: skip
    yield "truth alone", settings(data, mode="global", pretrain={"rows": "overlap"})
    yield "untrained", settings(data, mode="splitting", pretrain={"enabled": False})
    yield (
        "A to A",
        settings(data, experiment={"aa": True, "replications": 6, "designs": ["pooling"]}),
    )
    yield (
        "bf16",
        settings(data, use_amp=True, experiment={"designs": ["shadow"], "replications": 2}),
    )
    yield "own tables", settings(data, **own_tables(place / "own"))
    yield "platform", platform()
    yield "platform, global", platform(mode="global", seed=5)


def run(config: Path, out: Path, *, interrupted: bool = False) -> None:
    """Run a config; where interrupted, the run is killed once it has a checkpoint, and resumed."""
    words = [sys.executable, "-m", "realdataexp"]
    first = [*words, "run", str(config), "--quiet", "--out", str(out)]
    if interrupted:
        process = subprocess.Popen(first, stdout=subprocess.DEVNULL)
        while process.poll() is None and not any(out.glob("checkpoints/step_*")):
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        first = [*words, "resume", "--quiet", str(out)]
    done = subprocess.run(first, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{config}: {done.stderr}")


def digest(folder: Path) -> dict[str, str]:
    """A digest of each column of the tables, and of each part of result.json."""
    found = {}
    for name in TABLES:
        path = folder / f"{name}.parquet"
        if path.exists():
            for column in pl.read_parquet(path).iter_columns():
                # floats by their bits: NaN, and -0, are values too
                text = [str(column.dtype), *map(_exact, column.to_list())]
                found[f"{name}.{column.name}"] = _hash("\n".join(text))
    result = json.loads((folder / "result.json").read_text())
    for key in PARTS:
        if key in result:
            found[f"result.{key}"] = _hash(json.dumps(result[key], sort_keys=True))
    return found


def _exact(value: Any) -> str:
    return value.hex() if isinstance(value, float) else repr(value)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--against", type=Path)
    parser.add_argument("--only", nargs="+", help="experiments by name")
    args = parser.parse_args()
    digests: dict[str, dict[str, str]] = {}
    with tempfile.TemporaryDirectory() as at:
        place = Path(at)
        for name, config in experiments(place):
            if args.only and name not in args.only:
                continue
            path = place / f"{name}.yaml"
            path.write_text(yaml.safe_dump(config))
            run(path, place / "runs" / name)
            digests[name] = digest(place / "runs" / name)
            if name == "every design":
                run(path, place / "runs" / "killed", interrupted=True)
                digests["killed and resumed"] = digest(place / "runs" / "killed")
            print(name, len(digests[name]), flush=True)
    if args.out:
        args.out.write_text(json.dumps(digests, indent=1))
    if args.against:
        sys.exit(compare(json.loads(args.against.read_text()), digests, partial=bool(args.only)))


def compare(
    before: dict[str, dict[str, str]], after: dict[str, dict[str, str]], *, partial: bool
) -> int:
    """Print what differs, is gone or is new; 1 if anything differs or is gone."""
    is_changed = False
    for name in before if not partial else after:
        old, new = before[name], after.get(name, {})
        different = [key for key in old if key in new and old[key] != new[key]]
        gone, added = [key for key in old if key not in new], [key for key in new if key not in old]
        for what, keys in (("differ", different), ("gone", gone), ("new", added)):
            if keys:
                print(f"{name}: {what}: {', '.join(keys)}")
        is_changed |= bool(different or gone)
    print("something changed" if is_changed else "nothing changed")
    return int(is_changed)


if __name__ == "__main__":
    main()
