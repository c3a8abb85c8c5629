"""Prediction quality by design, against a plain loop over rows of metrics.parquet."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest

from realdataexp.stats.prediction import prediction_quality

N_WORLDS, N_STARTS = 6, 3


def metrics(designs: dict[str, tuple[str, ...]]) -> pl.DataFrame:
    """Two validations of each design's models, with rankings, training metrics and gaps."""
    g = np.random.default_rng(0)
    rows: list[tuple[Any, ...]] = []
    for step in (5, 10):
        for design, models in designs.items():
            for world in range(N_WORLDS):
                own = [(model, "click", "auc") for model in models]
                own += [(model, "play", "mae") for model in models]
                arms = design[-1] if design.startswith("global") else "CT"
                own += [(arm, "play", "ndcg") for arm in arms]
                for model, label, metric in own:
                    if (design, world, metric) == ("pooling", 2, "auc"):
                        continue  # one class only
                    for split in ("validation", "train"):
                        rows.append(
                            (
                                "loop",
                                step,
                                design,
                                world,
                                model,
                                label,
                                split,
                                metric,
                                g.normal(),
                                9,
                            )
                        )
    rows.append(("pretrain", 99, "", None, "start", "click", "validation", "auc", 7.0, 9))
    rows.append(("loop", 10, "", None, "", "", "data", "users_short", 0.5, 9))
    rows.append(("loop", 10, "pooling", 0, "shared", "click", "validation", "n_nonfinite", 0.0, 9))
    names = ["phase", "step", "design", "world", "model", "label", "split", "metric", "value", "n"]
    return pl.DataFrame(rows, schema=names, orient="row", infer_schema_length=None)


DESIGNS = {
    "global_T": ("shared",), "global_C": ("shared",), "pooling": ("shared",),
    "splitting": ("C", "T"),
}  # fmt: skip


def value_of(
    table: pl.DataFrame, design: str, arm: str, label: str, metric: str
) -> dict[int, float]:
    """By world: of the model that serves an arm, at the last step."""
    found = {}
    for x in table.iter_rows(named=True):
        is_last = x["phase"] == "loop" and x["split"] == "validation" and x["step"] == 10
        name = f"global_{arm}" if design == "global" else design
        is_own = (x["design"], x["label"], x["metric"]) == (name, label, metric)
        if is_last and is_own and x["model"] in ("shared", arm):
            found[x["world"]] = x["value"]
    return found


def test_each_entry_is_that_of_the_model_that_serves_the_arm():
    table = metrics(DESIGNS)
    found = prediction_quality(table, N_STARTS)
    keys = [(x["design"], x["arm"], x["label"], x["metric"]) for x in found]
    assert len({*keys}) == len(keys) == 3 * 2 * 3
    assert [key[1] for key in keys] == ["T", "C"] * 9
    for entry, key in zip(found, keys, strict=True):
        own = value_of(table, *key)
        assert entry["n_worlds"] == len(own) == N_WORLDS - (key[0::3] == ("pooling", "auc"))
        assert entry["value"] == pytest.approx(np.mean([*own.values()]))
        of_start = [[v for w, v in own.items() if w % N_STARTS == k] for k in range(N_STARTS)]
        rest = [v - np.mean(values) for values in of_start for v in values]
        df = len(own) - N_STARTS
        assert entry["sd"] == pytest.approx(np.sqrt(np.sum(np.square(rest)) / df))
        if key[0] == "global":
            assert "difference" not in entry
            continue
        truth = value_of(table, "global", *key[1:])
        apart = {w: v - truth[w] for w, v in own.items()}
        mean = np.mean([*apart.values()])
        assert entry["difference"] == pytest.approx(mean)
        sums = [
            sum(v - mean for w, v in apart.items() if w % N_STARTS == k) for k in range(N_STARTS)
        ]
        se = np.sqrt(N_STARTS / (N_STARTS - 1) * np.sum(np.square(sums))) / len(apart)
        assert entry["difference_se"] == pytest.approx(se)


def test_without_a_truth_or_a_second_replication_there_is_less_to_say():
    table = metrics({"pooling": ("shared",)})
    assert not any("difference" in x for x in prediction_quality(table))
    assert not any("sd" in x for x in prediction_quality(table, N_WORLDS))
    assert prediction_quality(table.clear()) == []
