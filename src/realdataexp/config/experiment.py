"""The test and its designs, and logging with who is told of the run."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    Field,
    GetJsonSchemaHandler,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from realdataexp.config.blocks import alike, result_name
from realdataexp.options import Count, Options, Text, checked, component_name, repeated
from realdataexp.registry import Kind, find, names

COMPARED = ("pooling", "snapshot", "splitting", "weighting", "shadow")  # by default


class _Component(Options):
    """A component by its name alone, or by a block that has its options beside the name."""

    kind: ClassVar[Kind]

    name: str
    options: dict[str, Any] = Field(default_factory=dict, description="the options that were given")

    @model_validator(mode="before")
    @classmethod
    def _gather_options(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"name": value}
        if not isinstance(value, dict) or "options" in value:
            return value
        own = {key: value[key] for key in cls.model_fields if key in value}
        return {**own, "options": {key: value[key] for key in value if key not in own}}

    @field_validator("options")
    @classmethod
    def _check_options(cls, options: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        name = info.data.get("name", "")
        if not options or name not in names(cls.kind):
            return options  # one from outside is asked when it is made
        return checked(find(cls.kind, name, name), options).model_dump(exclude_unset=True)

    @model_serializer
    def _as_written(self) -> str | dict[str, Any]:
        return {"name": self.name, **self.options} if self.options else self.name

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        block = handler.resolve_ref_schema(handler(core_schema["schema"]))
        del block["properties"]["options"]
        return {"description": cls.__doc__, "anyOf": [{"type": "string"}, block]}


class DesignConfig(_Component):
    """A design to run: its name alone, or `{name, label, <options of the design>}`."""

    kind = "design"

    name: Annotated[str, component_name("design")] = Field(
        description=f"one of {', '.join(names('design'))}, or package.module:Name"
    )
    label: str = Field("", validate_default=True, description="name in results; default: the name")

    @field_validator("label")
    @classmethod
    def _default_label(cls, label: str, info: ValidationInfo) -> str:
        name = str(info.data.get("name", "")).rpartition(":")[2]
        # a faulty name has been reported as such
        return result_name(label or name) if label or name else label

    @model_serializer
    def _as_written(self) -> str | dict[str, Any]:
        if self.label == self.name and not self.options:
            return self.name
        return {"name": self.name, "label": self.label, **self.options}


class ExperimentConfig(Options):
    """The test: how arms are assigned, how often it is replicated, which designs are compared."""

    p_treatment: float = Field(0.5, ge=0, le=1, description="probability of the treatment arm")
    assignment: Literal["user", "visit"] = Field(
        "user", description="whether a user keeps one arm or each visit draws its own"
    )
    replications: Count = Field(20, description="worlds of each design, run in lockstep")
    starts: Count = Field(
        1,
        description="starting models, each with a split of users and pretraining draws of its own; "
        "replication r begins from start r mod starts, and standard errors over replications "
        "are clustered by start; with fewer replications each has a start of its own. 1: all "
        "results are given this one starting model",
    )
    aa: bool = Field(
        False, description="an A/A test: the control ranks with the treatment's alphas"
    )
    intervals: (
        Annotated[
            tuple[Annotated[str, component_name("interval method")], ...], Field(strict=False)
        ]
        | None
    ) = Field(
        None,
        description=f"interval methods: {', '.join(names('interval method'))}, or "
        "package.module:Name; null: all of the package that apply",
    )
    designs: Annotated[tuple[DesignConfig, ...], Field(strict=False, min_length=1)] = Field(
        tuple(DesignConfig(name=name) for name in COMPARED),
        description="the designs that mode compare runs",
    )

    @property
    def n_starts(self) -> int:
        """Starting models that some replication begins from."""
        return min(self.starts, self.replications)

    @field_validator("intervals")
    @classmethod
    def _tables_tell_them_apart(cls, methods: tuple[str, ...] | None) -> tuple[str, ...] | None:
        own = [name.rpartition(":")[2] for name in dict.fromkeys(methods or ())]
        if taken := [name for name in own if own.count(name) > 1]:
            raise ValueError(f"{taken[0]} stands for two methods in tables: rename one")
        return methods

    @field_validator("designs")
    @classmethod
    def _unique_labels(cls, designs: tuple[DesignConfig, ...]) -> tuple[DesignConfig, ...]:
        if twice := alike([design.label for design in designs]):
            raise ValueError(
                f"{', '.join(dict.fromkeys(twice))} stands more than once (in upper or lower "
                "case): give each a label of its own"
            )
        return designs


class TrackerConfig(_Component):
    """A tracker to tell of the run: its name alone, or `{name, <options of the tracker>}`."""

    kind = "tracker"

    name: Annotated[str, component_name("tracker")] = Field(
        description=f"one of {', '.join(names('tracker'))}, or package.module:Name"
    )


class LoggingConfig(Options):
    """What is logged, and where run folders are made."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="log level")
    log_dir: Text = Field("results", description="folder in which run folders are made")
    trackers: Annotated[tuple[TrackerConfig, ...], Field(strict=False)] = Field(
        (), description=f"who else is told of a run: {', '.join(names('tracker'))}"
    )

    @field_validator("trackers")
    @classmethod
    def _each_once(cls, trackers: tuple[TrackerConfig, ...]) -> tuple[TrackerConfig, ...]:
        if twice := repeated([tracker.name for tracker in trackers]):
            raise ValueError(f"{', '.join(twice)} stands more than once: keep one")
        return trackers
