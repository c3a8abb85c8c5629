"""MLflow: a run in a local SQLite database, copies of its files in a folder beside that."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from realdataexp.files import read_json, write_json
from realdataexp.options import Options, Text
from realdataexp.tracking.base import TrackedRun, Tracker, Writer, library
from realdataexp.tracking.series import Point

EXTRA = "mlflow"
FILE = "tracking.json"  # in the run folder: database -> the run's id there
_SQLITE = "sqlite:///"
_LOCAL = re.compile(r"sqlite:///[^?#]+")
_N_PARAMS = 100  # that MLflow takes at once


class MLflow(Tracker, Options):
    """Writes a run of an MLflow experiment."""

    uri: str | None = Field(
        None, description="the database, sqlite:///FILE; null: the file mlflow.db in log_dir"
    )
    experiment: Text = Field("realdataexp", description="MLflow experiment that gets the run")

    @field_validator("uri")
    @classmethod
    def _local_database(cls, uri: str | None) -> str | None:
        if uri is not None and not _LOCAL.fullmatch(uri):
            raise ValueError("must be a local database: write sqlite:///FILE")
        return uri

    def check(self) -> None:
        """See Tracker."""
        # unless the user says otherwise: nothing is told to MLflow's makers, and only what comes
        # through as an error is told on stderr, by the package
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
        for module in ("mlflow", "sqlalchemy", "alembic"):
            library(module, EXTRA)

    def open(self, run: TrackedRun) -> Writer:
        """See Tracker."""
        self.check()
        if self.uri is None:
            database = run.log_dir / "mlflow.db"
        else:
            database = run.base_dir / Path(self.uri.removeprefix(_SQLITE)).expanduser()
        database = database.absolute()
        _make(database)
        return _Run(run, database, self.experiment)


class _Run(Writer):
    """The run in MLflow; the id that it got is kept in the run folder."""

    def __init__(self, run: TrackedRun, database: Path, experiment: str) -> None:
        uri = f"{_SQLITE}{database.as_posix()}"
        self.hint = (
            f"mlflow ui --backend-store-uri {uri} (the page needs all of MLflow: pip install "
            "mlflow)"
        )
        self._entities = library("mlflow.entities", EXTRA)
        self._client: Any = library("mlflow", EXTRA).MlflowClient(tracking_uri=uri)
        ids = _ids(run.folder)
        self._id, had = self._find(ids.get(uri))
        if not self._id:
            place = (database.parent / "mlflow-artifacts").as_uri()
            made = self._client.create_run(
                self._experiment(experiment, place), run_name=run.folder.absolute().name
            )
            self._id = made.info.run_id
            write_json(run.folder / FILE, {**ids, uri: self._id})
        self._client.update_run(self._id, status="RUNNING")
        params = [self._entities.Param(*item) for item in run.params.items() if item[0] not in had]
        tags = [self._entities.RunTag(*item) for item in run.tags.items()]
        for i in range(0, len(params), _N_PARAMS):
            self._client.log_batch(self._id, params=params[i : i + _N_PARAMS])
        self._client.log_batch(self._id, tags=tags)

    def _find(self, run_id: str | None) -> tuple[str, Sequence[str]]:
        """The id of the run and the names of its parameters, if it is there and not deleted."""
        if run_id is None:
            return "", ()
        try:
            run = self._client.get_run(run_id)
        except _error() as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return "", ()
        is_deleted = run.info.lifecycle_stage != "active"
        return ("", ()) if is_deleted else (run_id, list(run.data.params))

    def _experiment(self, name: str, place: str) -> str:
        """The id of an experiment, which is made if it is not there."""
        if self._client.get_experiment_by_name(name) is None:
            try:
                self._client.create_experiment(name, artifact_location=place)
            except _error() as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":  # by another process, just now
                    raise
        return str(self._client.get_experiment_by_name(name).experiment_id)

    def last_steps(self) -> dict[str, int]:
        """See Writer."""
        names = self._client.get_run(self._id).data.metrics
        history = self._client.get_metric_history
        return {name: max(point.step for point in history(self._id, name)) for name in names}

    def log(self, points: Sequence[Point]) -> None:
        """See Writer."""
        now = int(time.time() * 1000)
        metrics = [self._entities.Metric(name, value, now, step) for name, step, value in points]
        self._client.log_batch(self._id, metrics=metrics)

    def files(self, paths: Sequence[Path]) -> None:
        """See Writer."""
        for path in paths:
            self._client.log_artifact(self._id, str(path))

    def close(self, *, is_finished: bool) -> None:
        """See Writer."""
        self._client.set_terminated(self._id, "FINISHED" if is_finished else "KILLED")


def _error() -> Any:
    """The class of MLflow's errors."""
    return library("mlflow.exceptions", EXTRA).MlflowException


def _make(database: Path) -> None:
    """Make an empty database, if there is none, whole at once.

    MLflow makes it table by table, and breaks it where two runs begin at the same time.
    """
    database.parent.mkdir(parents=True, exist_ok=True)
    if database.exists():
        return
    temporary = database.with_name(f".{database.name}.{os.getpid()}.tmp")
    try:
        client = library("mlflow", EXTRA).MlflowClient
        client(tracking_uri=f"{_SQLITE}{temporary.as_posix()}").search_experiments(max_results=1)
        try:
            os.link(temporary, database)  # unlike renaming, never over one that is there
        except OSError:  # it is there by now, or the file system has no links
            if not database.exists():
                temporary.replace(database)
    finally:
        with suppress(PermissionError):  # Windows removes no file that MLflow holds open
            temporary.unlink(missing_ok=True)


def _ids(folder: Path) -> dict[str, str]:
    """What a run folder knows of the databases that it was written to."""
    path = folder / FILE
    found = read_json(path) if path.exists() else {}
    if not isinstance(found, dict) or not all(isinstance(x, str) for x in found.values()):
        raise ValueError(f"{path}: is not what was written; remove it")
    return found
