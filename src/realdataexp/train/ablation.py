"""What vectors are worth to a model: trained without them, and with controls in their place."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from realdataexp.errors import InputError
from realdataexp.files import write_json
from realdataexp.report.files import read_result, read_table
from realdataexp.report.page import write_report
from realdataexp.report.plots import write_plot
from realdataexp.sequences.item_options import VectorOptions
from realdataexp.sequences.ranking import compare
from realdataexp.train.config import Recommender, TrainConfig
from realdataexp.train.ranks import of_torchrun
from realdataexp.train.run import resume_training, train

logger = logging.getLogger("realdataexp")

WITHOUT = "without"
CONTROLS = ("zeros", "shuffled", "noise")


def train_variants(config: TrainConfig, out: Path | None = None) -> Path:
    """Train a model with its items' vectors, without, and with controls; returns the run folder.

    It is that of the model as configured, whose result.json also has the others among `results`,
    and all pairs among `compared`; their own folders are in its folder ablation. What an earlier
    call has trained to its end stays, and what it left goes on.

    Raises:
        InputError: the model reads no vectors, or a folder holds another training.
    """
    parts = variants(config)
    if of_torchrun():
        raise InputError("--ablate: not under torchrun; use training.processes")
    folder = _trained(config, out)
    folders = {"": folder}
    for name, variant in parts.items():
        logger.info("[ablation] %s", name)
        folders[name] = _trained(variant, folder / "ablation" / name)
    _join(config, folders)
    return folder


def variants(config: TrainConfig) -> dict[str, TrainConfig]:
    """The trainings to compare with, by what becomes of the vectors.

    Raises:
        InputError: the model reads none.
    """
    model, vectors = config.model, config.items.vectors
    if vectors is None or model.options.get("prefix", "none") == "none":
        raise InputError(
            "--ablate: the model reads no vectors of items; set items.vectors and model.prefix"
        )
    plain = Recommender(name=model.name, options={**model.options, "prefix": "none"})
    shown: dict[str, VectorOptions | None] = {WITHOUT: None}
    shown |= {x: vectors.model_copy(update={"control": x}) for x in CONTROLS}
    return {
        name: config.model_copy(
            update={
                "model": plain if own is None else model,
                "items": config.items.model_copy(update={"vectors": own}),
                "baselines": (),
                "mixture": None,
            }
        )
        for name, own in shown.items()
    }


def _trained(config: TrainConfig, place: Path | None) -> Path:
    """The folder of a complete training; begun, resumed or as it is."""
    if place is None or not (place / "config.yaml").exists():
        return train(config, place)
    if not (place / "result.json").exists() or read_result(place)["status"] != "complete":
        return resume_training(place)
    if read_result(place)["config"] != config.resolved():
        raise InputError(f"{place}: holds a training of other settings; choose another --out")
    return place


def _join(config: TrainConfig, folders: dict[str, Path]) -> None:
    """Add the variants to the model's result, as recommenders that it is compared with."""
    own, k = config.model.name, config.evaluation.k
    names = {x: f"{own}, {x}" if x else own for x in folders}
    results = {x: read_result(place) for x, place in folders.items()}
    rank_Q = {x: _ranks(place, own) for x, place in folders.items()}
    others = set(names.values()) - {own}
    result = results[""]
    rows = [x for x in result["results"] if x["model"] not in others]
    compared = [x for x in result["compared"] if x["against"] not in others]
    rows += [
        {**x, "model": names[name]} for name in names if name for x in results[name]["results"]
    ]
    pairs = [("", x) for x in names if x] + [(x, WITHOUT) for x in CONTROLS]
    for a, b in pairs:
        found = compare(rank_Q[a], rank_Q[b], k, config.seed)
        pair = {"model": names[a], "against": names[b], "split": "test"}
        compared += [{**pair, **x} for x in found]
    write_json(folders[""] / "result.json", {**result, "results": rows, "compared": compared})
    if config.logging.pictures is not False:
        write_plot(folders[""])
        write_report(folders[""])


def _ranks(folder: Path, model: str) -> np.ndarray:
    table = read_table(folder, "ranks").filter(split="test", model=model)
    return table.sort("question")["rank"].to_numpy()
