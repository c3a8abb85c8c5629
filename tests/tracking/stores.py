"""What TensorBoard and MLflow themselves say is stored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from mlflow import MlflowClient
from mlflow.entities import Run
from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator

Series = dict[str, list[tuple[int, float]]]


def in_tensorboard(folder: Path) -> Series:
    """The points of each series in the order in which they were written, twins too."""
    found = EventAccumulator(str(folder / "tensorboard"), size_guidance={SCALARS: 0})
    found.Reload()
    return {
        tag: [(point.step, point.value) for point in found.Scalars(tag)]
        for tag in found.Tags()["scalars"]
    }


def mlflow_run(folder: Path) -> tuple[MlflowClient, Run]:
    """The only run of the only database that a run folder knows."""
    ((uri, run_id),) = json.loads((folder / "tracking.json").read_text()).items()
    client = MlflowClient(tracking_uri=uri)
    return client, client.get_run(run_id)


def in_mlflow(folder: Path) -> Series:
    """As `in_tensorboard`, of MLflow."""
    client, run = mlflow_run(folder)
    return {
        name: [(x.step, x.value) for x in client.get_metric_history(run.info.run_id, name)]
        for name in run.data.metrics
    }


def single(series: Series) -> Series:
    """In the single precision that TensorBoard keeps."""
    return {name: [(s, float(np.float32(v))) for s, v in xs] for name, xs in series.items()}


def repeatable(series: Series) -> Series:
    """Without the seconds, which no other run has."""
    return {name: xs for name, xs in series.items() if not name.startswith("timing/")}


def result_of(folder: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    return result
