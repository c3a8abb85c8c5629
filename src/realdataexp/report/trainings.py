"""What is shown of several trainings together: their models in pairs, scores, learning curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from realdataexp.report.files import Difference, RunResult, read_table_if_there
from realdataexp.report.panels import Panel
from realdataexp.report.table import Cell, Table
from realdataexp.report.trained import (
    by_model,
    curve,
    differences,
    differences_panel,
    headline,
    main_length,
    reached,
)
from realdataexp.sequences.ranking import compare

Runs = Mapping[str, RunResult]


def overview(runs: Runs) -> Table:
    """What was trained, on which data, and how it compares with its baselines."""
    names = ("model", "seed", "updates", "status", "data (SHA-256)", "test")
    table = Table("The trainings", *names, first="run")
    for name, r in runs.items():
        data = str(r.dataset_stats.get("identity", "-"))[:8]
        table.add(
            name, r.trained, str(r.seed), Cell(f"{r.n_steps_done:,}", r.n_steps_done), r.status,
            data, Cell(headline(r)),
        )  # fmt: skip
    return table


def paired(runs: Runs, run_dirs: Mapping[str, Path]) -> list[Difference]:
    """Each training's model against that of the first, where both were asked the same questions.

    Raises:
        InputError: a ranks.parquet is damaged.
    """
    first, *others = runs
    ranked = {name: _ranks(run_dirs[name], r) for name, r in runs.items()}
    ks = runs[first].raw["config"]["evaluation"]["k"]
    found = []
    for name in others:
        a, b = ranked[name], ranked[first]
        if a is not None and b is not None and _asked(runs[name]) == _asked(runs[first]):
            rows = compare(a, b, ks, runs[first].seed)
            found += [Difference(model=name, against=first, **row) for row in rows]
    return found


def _ranks(run_dir: Path, result: RunResult) -> np.ndarray | None:
    """The model's for each test question, where they were kept."""
    table = read_table_if_there(run_dir, "ranks")
    if table is None:
        return None
    own = table.filter(split="test", model=result.trained).sort("question")
    return own["rank"].to_numpy() if own.height else None


def _asked(result: RunResult) -> tuple[Any, ...]:
    """What tells which questions a training was asked."""
    data = result.raw["config"]["dataset"]
    return result.dataset_stats["identity"], data["split"], data["held_out"]


def tables(runs: Runs, compared: Sequence[Difference]) -> list[Table]:
    """What each recommender reaches on the test and on the validation, and the differences."""
    scores = {
        f"{name}: {model}": own for name, r in runs.items() for model, own in by_model(r).items()
    }
    models = [f"{name}: {r.trained}" for name, r in runs.items()]
    found = [reached(split, scores, models) for split in ("test", "validation")]
    return [table for table in (*found, differences(compared)) if table.rows]


def panels(run_dirs: Mapping[str, Path], compared: Sequence[Difference]) -> list[Panel]:
    """The learning curves of several trainings, by their names, and the differences.

    Raises:
        InputError: a metrics.parquet is damaged.
    """
    read = {name: read_table_if_there(run_dir, "metrics") for name, run_dir in run_dirs.items()}
    known = [x.with_columns(run=pl.lit(name)) for name, x in read.items() if x is not None]
    curves = _curves(pl.concat(known), [*run_dirs]) if known else []
    return [x for x in (*curves, differences_panel(compared)) if x.curves or x.rows]


def _curves(table: pl.DataFrame, order: Sequence[str]) -> list[Panel]:
    main = main_length(("ndcg", k) for k in table["k"].unique())
    found = []
    for title, metric, k in ((f"Validation NDCG@{main}", "ndcg", main), ("Loss", "loss", None)):
        own = table.filter((pl.col("metric") == metric) & pl.col("k").eq_missing(k))
        drawn = [curve(x["run"][0], x, order) for x in own.partition_by("run", maintain_order=True)]
        said = "After each epoch"
        found.append(Panel(metric, title, said, title, curves=tuple(drawn), over="epoch"))
    return found
