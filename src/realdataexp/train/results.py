"""The files of a training's run folder, made from what it has come to so far."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl

from realdataexp.data.parquet import write_parquet
from realdataexp.files import write_json
from realdataexp.report.page import write_report
from realdataexp.report.plots import write_plot
from realdataexp.runs.folder import finite
from realdataexp.runs.machine import peak_memory_mb, versions
from realdataexp.sequences.ranking import compare, concentration, metrics, spread_errors

if TYPE_CHECKING:
    from realdataexp.train.run import TrainRun

SCHEMA_VERSION = 1
TABLE = {
    "step": pl.Int64, "epoch": pl.Int64, "split": pl.String, "metric": pl.String, "k": pl.Int64,
    "value": pl.Float64,
}  # fmt: skip

RANKS = {"model": pl.String, "split": pl.String, "question": pl.UInt32, "rank": pl.Float64}


def write_results(run: TrainRun, status: str) -> None:
    """Write every file of the run folder, complete or partial."""
    folder, config = run.folder, run.config
    write_parquet(folder / "metrics.parquet", pl.DataFrame(run.table, schema=TABLE))
    write_parquet(folder / "ranks.parquet", _ranks(run))
    histories, split = run.split.histories, run.split
    result = finite(
        {
            "schema_version": SCHEMA_VERSION,
            "mode": config.mode,
            "seed": config.seed,
            "status": status,
            "n_steps_done": 0 if run.trainer is None else run.trainer.progress.step,
            "config": config.resolved(),
            "dataset_stats": {
                "users": histories.n_users,
                "items": histories.n_items,
                "interactions": len(histories.item_N),
                "trained_on": int(split.is_train_N.sum()),
                "validation_questions": len(split.validation),
                "test_questions": len(split.test),
                "identity": run.identity()["data"],
            },
            "results": _results(run),
            "mixture_weight": run.weight,
            "compared": _compared(run),
            "warnings": [],
            "device": {
                "name": run.device.name,
                "reason": run.device.reason,
                "threads": config.training.processes,
                "processes": config.training.processes,
            },
            "timing": _timing(run),
            "versions": versions(),
        },
        run.warnings,
    )
    result["warnings"] = run.warnings.items
    write_json(folder / "result.json", result)
    if config.logging.pictures is not False:
        write_plot(folder)
        write_report(folder)


def _ranks(run: TrainRun) -> pl.DataFrame:
    """Where the item that came stood, for each recommender and question."""
    tables = [
        pl.DataFrame({"rank": found.rank_Q})
        .with_row_index("question")
        .select(pl.lit(model).alias("model"), pl.lit(kind).alias("split"), "question", "rank")
        for (model, kind), found in run.ranked.items()
    ]
    return pl.concat(tables) if tables else pl.DataFrame(schema=RANKS)


def _results(run: TrainRun) -> list[dict[str, Any]]:
    """What each recommender reaches on validation and test, and how its lists vary."""
    rows = []
    for (model, kind), found in run.ranked.items():
        own = {"model": model, "split": kind}
        rows += [{**own, **row} for row in metrics(found.rank_Q, run.config.evaluation.k)]
        V, (n, k) = run.split.histories.n_items, found.top_QK.shape
        error = spread_errors(found.top_QK, V, run.config.seed)
        rows += [
            {**own, "metric": name, "k": k, "value": value, "se": error[name], "n": n}
            for name, value in concentration(found.top_QK, V).items()
        ]
    return rows


def _compared(run: TrainRun) -> list[dict[str, Any]]:
    """The model, and its mixture, against each other recommender, on the same test questions."""
    config, asked = run.config, {x: y for (x, kind), y in run.ranked.items() if kind == "test"}
    mixture = config.mixture and f"{config.model.name}+{config.mixture.name}"
    first = [x for x in (config.model.name, mixture) if x in asked]
    return [
        {"model": name, "against": other, "split": "test", **row}
        for i, name in enumerate(first)
        for other in asked
        if other not in first[i:]
        for row in compare(
            asked[name].rank_Q, asked[other].rank_Q, config.evaluation.k, config.seed
        )
    ]


def _timing(run: TrainRun) -> dict[str, float | None]:
    seconds, trainer = run.clock.state()["phases"], run.trainer
    rate = None
    if trainer is not None and run.seconds:
        now, passages = trainer.progress, trainer.passages
        rate = now.step * passages.n_positions / passages.n_batches / run.seconds
    return {
        **{f"{phase}_seconds": x for phase, x in seconds.items()},
        "total_seconds": run.clock.total,
        "positions_per_second": rate,
        "peak_memory_mb": max(peak_memory_mb(), run.clock.monitor.peak_memory_mb())
        if run.clock.monitor
        else peak_memory_mb(),
    }
