"""The test's block, and the designs in it with their options."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_serializer,
    model_validator,
)

from realdataexp.config.blocks import (
    COMPARED,
    DESIGNS,
    INTERVALS,
    alike,
    registered,
    result_name,
)
from realdataexp.config.designs import DESIGN_OPTIONS
from realdataexp.errors import did_you_mean
from realdataexp.options import Count, Options, Text, checked


class DesignConfig(Options):
    """A design to run: its name alone, or `{name, label, <options of the design>}`."""

    name: Annotated[str, registered("design", DESIGNS)] = Field(
        description=f"one of {', '.join(DESIGNS)}, or package.module:Name"
    )
    label: str = Field("", validate_default=True, description="name in results; default: the name")
    options: dict[str, Any] = Field(default_factory=dict, description="the options that were given")

    @model_validator(mode="before")
    @classmethod
    def _gather_options(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"name": value}
        if not isinstance(value, dict) or "options" in value:
            return value
        own = {key: value[key] for key in ("name", "label") if key in value}
        return {**own, "options": {key: value[key] for key in value if key not in own}}

    @field_validator("label")
    @classmethod
    def _default_label(cls, label: str, info: ValidationInfo) -> str:
        name = str(info.data.get("name", "")).rpartition(":")[2]
        # a faulty name has been reported as such
        return result_name(label or name) if label or name else label

    @field_validator("options")
    @classmethod
    def _check_options(cls, options: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        model = DESIGN_OPTIONS.get(info.data.get("name", ""))
        return checked(model, options).model_dump(exclude_unset=True) if model else options

    @model_serializer
    def _as_written(self) -> str | dict[str, Any]:
        if self.label == self.name and not self.options:
            return self.name
        return {"name": self.name, "label": self.label, **self.options}


_DESIGN_SCHEMA = WithJsonSchema(
    {
        "anyOf": [
            {"type": "string"},
            {
                "type": "object",
                "description": DesignConfig.__doc__,
                "properties": {"name": {"type": "string"}, "label": {"type": "string"}},
                "required": ["name"],
            },
        ]
    }
)


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
    intervals: Annotated[tuple[Text, ...], Field(strict=False)] | None = Field(
        None, description=f"interval methods: {', '.join(INTERVALS)}; null: all that apply"
    )
    designs: Annotated[
        tuple[Annotated[DesignConfig, _DESIGN_SCHEMA], ...], Field(strict=False, min_length=1)
    ] = Field(
        tuple(DesignConfig(name=name) for name in COMPARED),
        description="the designs that mode compare runs",
    )

    @property
    def n_starts(self) -> int:
        """Starting models that some replication begins from."""
        return min(self.starts, self.replications)

    @field_validator("intervals")
    @classmethod
    def _known_intervals(cls, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for name in names or ():
            if name not in INTERVALS:
                near = did_you_mean(name, INTERVALS)
                raise ValueError(f"unknown method {name}{near}; known are {', '.join(INTERVALS)}")
        return names

    @field_validator("designs")
    @classmethod
    def _unique_labels(cls, designs: tuple[DesignConfig, ...]) -> tuple[DesignConfig, ...]:
        if twice := alike([design.label for design in designs]):
            raise ValueError(
                f"{', '.join(dict.fromkeys(twice))} stands more than once (in upper or lower "
                "case): give each a label of its own"
            )
        return designs
