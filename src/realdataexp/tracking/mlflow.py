"""MLflow: a run in a local SQLite database, with copies of its files in a folder next to it."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from realdataexp.files import read_json, write_json
from realdataexp.options import Options, Text
from realdataexp.tracking import Point, TrackedRun, Tracker, Writer, library

EXTRA = "mlflow"
FILE = "tracking.json"  # in the run folder: database -> the run's id there
_SQLITE = "sqlite:///"
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
        if uri is not None and not re.fullmatch(r"sqlite:///[^?#]+", uri):
            raise ValueError("must be a local database: write sqlite:///FILE")
        return uri

    def check(self) -> None:
        """See Tracker."""
        # unless the user says otherwise, nothing is sent to MLflow's makers, and only what comes
        # through as an error is reported on stderr, by the package
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
        for module in ("mlflow", "sqlalchemy", "alembic"):
            library(module, EXTRA)

    def open(self, run: TrackedRun) -> Writer:
        """See Tracker."""
        self.check()
        database = run.log_dir / "mlflow.db"
        if self.uri is not None:
            database = run.base_dir / Path(self.uri.removeprefix(_SQLITE)).expanduser()
        _make(database.absolute())
        return _Run(run, database.absolute(), self.experiment)


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
        ids = _ids(run.folder / FILE)
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
        run = None
        if run_id is not None:
            with _unless("RESOURCE_DOES_NOT_EXIST"):
                run = self._client.get_run(run_id)
        if run is None or run.info.lifecycle_stage != "active":
            return "", ()
        return run.info.run_id, list(run.data.params)

    def _experiment(self, name: str, place: str) -> str:
        """The id of an experiment, which is made if it is not there."""
        if self._client.get_experiment_by_name(name) is None:
            with _unless("RESOURCE_ALREADY_EXISTS"):  # made by another process, just now
                self._client.create_experiment(name, artifact_location=place)
        return str(self._client.get_experiment_by_name(name).experiment_id)

    def last_steps(self) -> dict[str, int]:
        names = self._client.get_run(self._id).data.metrics
        history = self._client.get_metric_history
        return {name: max(point.step for point in history(self._id, name)) for name in names}

    def log(self, points: Sequence[Point]) -> None:
        now = int(time.time() * 1000)
        metrics = [self._entities.Metric(name, value, now, step) for name, step, value in points]
        self._client.log_batch(self._id, metrics=metrics)

    def files(self, paths: Sequence[Path]) -> None:
        for path in paths:
            self._client.log_artifact(self._id, str(path))

    def close(self, *, is_finished: bool) -> None:
        self._client.set_terminated(self._id, "FINISHED" if is_finished else "KILLED")


@contextmanager
def _unless(code: str) -> Iterator[None]:
    """Let MLflow's error of this code pass."""
    exceptions = library("mlflow.exceptions", EXTRA)
    try:
        yield
    except exceptions.MlflowException as error:
        if error.error_code != code:
            raise


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


def _ids(path: Path) -> dict[str, str]:
    """What a run folder knows of the databases that it was written to."""
    found = read_json(path) if path.exists() else {}
    if not isinstance(found, dict) or not all(isinstance(x, str) for x in found.values()):
        raise ValueError(f"{path}: is not what was written; remove it")
    return found
