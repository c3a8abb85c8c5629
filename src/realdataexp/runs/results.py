"""The files of a run folder, made from what a run has come to so far."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

import polars as pl

from realdataexp.files import write_json
from realdataexp.report.page import write_report
from realdataexp.report.plots import write_plot
from realdataexp.runs.checkpoint import LOOP
from realdataexp.runs.doubts import (
    warn_of_arms,
    warn_of_design,
    warn_of_groups,
    warn_of_intervals,
    warn_of_nulls,
    warn_of_ratios,
    warn_of_updates,
    warn_of_weights,
)
from realdataexp.runs.folder import finite, write_parquet
from realdataexp.runs.machine import peak_memory_mb, versions
from realdataexp.runs.parts import Parts
from realdataexp.stats.estimates import summarise
from realdataexp.stats.inference import (
    designs_without_units,
    find_method,
    inference_table,
    needs_units,
    short_name,
)
from realdataexp.stats.performance import family_rejections, gte_results, judge, plan, section

logger = logging.getLogger("realdataexp")

SCHEMA_VERSION = 1
_INNER = ("validation", "checkpoint", "tracking")  # what the loop and pretraining stop for


def write_results(parts: Parts, status: str) -> None:
    """Write every file of the run folder from what there is; signals wait.

    Args:
        parts: the run.
        status: complete or partial.
    """
    with parts.interrupts.postponed():
        _write_results(parts, status)


def _write_results(parts: Parts, status: str) -> None:
    recorder, warnings, config, folder = parts.recorder, parts.warnings, parts.config, parts.folder
    recorder.flush()
    outcomes, metrics = recorder.outcomes(), recorder.metrics()
    units, diagnostics = recorder.units(parts.setup.histories), recorder.diagnostics()
    failed: list[str] = []
    inference = inference_table(outcomes, units, _intervals(parts, outcomes, units), failed)
    for text in failed:
        warnings.add("interval_method_failed", text)
    estimates = inference.filter(pl.col("se_method") == "welch")
    write_parquet(folder / "outcomes.parquet", outcomes)
    write_parquet(folder / "metrics.parquet", metrics)
    write_parquet(folder / "estimates.parquet", inference)
    if units is not None:
        write_parquet(folder / "units.parquet", units)
    is_aa, n_starts = config.experiment.aa, config.experiment.n_starts
    is_true = config.mode in ("global", "compare")
    judged = judge(inference, is_aa, n_starts) if is_true else []
    device = parts.setup.device
    result = finite(
        {
            "schema_version": SCHEMA_VERSION,
            "mode": config.mode,
            "seed": config.seed,
            "status": status,
            "n_steps_done": parts.n_steps_done,
            "config": config.resolved(),
            "dataset_stats": _dataset_stats(parts),
            "gte_results": gte_results(outcomes) if is_true else {},
            "estimates": summarise(estimates, n_starts),
            "comparison": section(judged, "comparison"),
            "inference": section(judged, "inference"),
            "family": family_rejections(inference) if is_true else [],
            "regret": section(judged, "regret"),
            "plan": [] if is_aa else plan(judged),
            "weights": parts.weight_figures,
            "metrics_summary": _last_metrics(metrics),
            "best": parts.checkpoints.best.get(LOOP, {}),
            "diagnostics": diagnostics,
            "warnings": [],
            "device": {
                "name": device.name,
                "reason": device.reason,
                "threads": parts.n_processes,  # one in each
                "processes": parts.n_processes,
            },
            "timing": _timing(parts),
            "versions": versions(),
        },
        warnings,
    )
    warn_of_design(diagnostics, config.simulation.n_candidate, parts.n_steps_done, warnings, is_aa)
    warn_of_weights(parts.weight_figures, diagnostics, warnings)
    for label, n_skipped in parts.n_skipped.items():
        warn_of_updates(label, n_skipped, "simulation", warnings)
    warn_of_arms(estimates, warnings)
    warn_of_ratios(diagnostics, config.experiment.p_treatment, warnings)
    warn_of_intervals(result["inference"], warnings)
    warn_of_groups(inference, n_starts, warnings)
    warn_of_nulls(result, warnings)
    if status == "complete":
        for text in parts.tracking.send_last(metrics, outcomes, result):
            warnings.add("tracker_failed", text)
    result["warnings"] = warnings.items
    write_json(folder / "result.json", result)
    write_plot(folder)
    write_report(folder)
    if status == "complete" and (failed := parts.tracking.finish()):
        for text in failed:
            warnings.add("tracker_failed", text)
        write_json(folder / "result.json", result)
        write_report(folder)
    say = logger.info if status == "complete" else logger.warning
    say("[result] %s after %d steps: %s", status, parts.n_steps_done, folder)


def _intervals(
    parts: Parts, outcomes: pl.DataFrame, units: pl.DataFrame | None
) -> tuple[str, ...] | None:
    """The interval methods that are asked for; None for all that apply."""
    names = parts.config.experiment.intervals
    if names is None:
        return None
    methods = {name: find_method(name, "experiment.intervals") for name in names}
    left_out = [short_name(name) for name, method in methods.items() if needs_units(method)]
    designs = designs_without_units(outcomes, units)
    if left_out and designs:
        parts.warnings.add(
            "intervals_without_units",
            f"experiment.intervals: {', '.join(left_out)} need units that come more than once; "
            f"in {', '.join(designs)} every visit is a new one",
        )
    return tuple(dict.fromkeys(("welch", *names)))  # plots and comparisons use welch


def _dataset_stats(parts: Parts) -> dict[str, Any]:
    return {
        **parts.setup.environment.stats(),
        "identity": parts.setup.environment.identity(),
        "n_held_out_users": parts.validator.n_users,
        "n_held_out_rows": parts.validator.n_rows,
        "label_scales": {
            x.config.name: dataclasses.asdict(x.head.scale) for x in parts.setup.labels
        },
    }


def _timing(parts: Parts) -> dict[str, Any]:
    seconds = parts.clock.seconds
    loop = seconds.get("loop", 0.0)
    stepping = loop - sum(seconds.get(part, 0.0) for part in _INNER)
    n = len(parts.recorder.networks) * parts.n_steps_done
    pretraining = seconds.get("pretrain", 0.0)
    for part in _INNER:
        pretraining -= seconds.get(f"pretrain_{part}", 0.0)
    monitor = parts.clock.monitor
    monitored = monitor.peak_memory_mb() if monitor else 0.0  # of the loop's processes too
    timing = {
        "total_seconds": parts.clock.total,
        **{f"{phase}_seconds": s for phase, s in seconds.items()},
        "arm_steps_per_second": n / stepping if stepping > 0 and n else None,
        "peak_memory_mb": max(peak_memory_mb(), monitored),
        "device_peak_memory_mb": parts.setup.device.memory_mb(),
    }
    if parts.n_rows_pretrained and pretraining > 0:
        timing["pretrain_rows_per_second"] = parts.n_rows_pretrained / pretraining
    return timing


def _last_metrics(metrics: pl.DataFrame) -> list[dict[str, Any]]:
    """The last value of each metric, averaged over worlds."""
    metrics = metrics.filter(pl.col("split") != "data")
    keys = ["phase", "design", "model", "label", "split", "metric"]
    last = metrics.filter(pl.col("step") == pl.col("step").max().over(keys))
    return (
        last.group_by(keys, maintain_order=True)
        .agg(
            pl.col("step").first(),
            pl.col("value").mean(),
            pl.col("n").sum(),
            pl.len().alias("n_networks"),
        )
        .to_dicts()
    )
