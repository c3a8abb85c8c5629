"""The logging block: what is said, where run folders are made, and who else is told of a run."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_serializer,
    model_validator,
)

from realdataexp.config.blocks import registered
from realdataexp.options import Options, Text, checked, repeated

TRACKERS = ("tensorboard", "mlflow")
_SQLITE = re.compile(r"sqlite:///[^?#]+")


class TensorBoardOptions(Options):
    """Options of the tracker tensorboard: none, as its files lie in the run folder."""


class MLflowOptions(Options):
    """Options of the tracker mlflow."""

    uri: str | None = Field(
        None, description="the database, sqlite:///FILE; null: the file mlflow.db in log_dir"
    )
    experiment: Text = Field("realdataexp", description="MLflow experiment that gets the run")

    @field_validator("uri")
    @classmethod
    def _local_database(cls, uri: str | None) -> str | None:
        if uri is not None and not _SQLITE.fullmatch(uri):
            raise ValueError("must be a local database: write sqlite:///FILE")
        return uri


TRACKER_OPTIONS: dict[str, type[Options]] = {
    "tensorboard": TensorBoardOptions,
    "mlflow": MLflowOptions,
}


class TrackerConfig(Options):
    """A tracker to tell of the run: its name alone, or `{name, <options of the tracker>}`."""

    name: Annotated[str, registered("tracker", TRACKERS)] = Field(
        description=f"one of {', '.join(TRACKERS)}, or package.module:Name"
    )
    options: dict[str, Any] = Field(default_factory=dict, description="the options that were given")

    @model_validator(mode="before")
    @classmethod
    def _gather_options(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"name": value}
        if not isinstance(value, dict) or "options" in value:
            return value
        own = {key: value[key] for key in ("name",) if key in value}
        return {**own, "options": {key: value[key] for key in value if key not in own}}

    @field_validator("options")
    @classmethod
    def _check_options(cls, options: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        model = TRACKER_OPTIONS.get(info.data.get("name", ""))
        return checked(model, options).model_dump(exclude_unset=True) if model else options

    @model_serializer
    def _as_written(self) -> str | dict[str, Any]:
        return {"name": self.name, **self.options} if self.options else self.name


_TRACKER_SCHEMA = WithJsonSchema(
    {
        "anyOf": [
            {"type": "string"},
            {
                "type": "object",
                "description": TrackerConfig.__doc__,
                "properties": {"name": {"type": "string"}},
                "required": ["name"],
            },
        ]
    }
)


class LoggingConfig(Options):
    """What is logged, and where run folders are made."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="log level")
    log_dir: Text = Field("results", description="folder in which run folders are made")
    trackers: Annotated[
        tuple[Annotated[TrackerConfig, _TRACKER_SCHEMA], ...], Field(strict=False)
    ] = Field((), description=f"who else is told of a run: {', '.join(TRACKERS)}")

    @field_validator("trackers")
    @classmethod
    def _each_once(cls, trackers: tuple[TrackerConfig, ...]) -> tuple[TrackerConfig, ...]:
        if twice := repeated([tracker.name for tracker in trackers]):
            raise ValueError(f"{', '.join(twice)} stands more than once: keep one")
        return trackers
