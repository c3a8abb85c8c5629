"""Options of the designs. A design of the package inherits its fields from here."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from realdataexp.options import LARGEST, MOST, Count, Options, Rate, Text, Widths


class NoOptions(Options):
    """Options of a design that has none."""


class SplittingOptions(Options):
    """Options of the design splitting."""

    normalize: bool = Field(
        True, description="whether a visit of the model's own arm weighs 1/P(arm) instead of 1"
    )


class WeightingOptions(Options):
    """Options of the design weighting: the classifier G of E[Z|X], and what becomes of it."""

    model: Literal["mlp", "logistic", "random_forest", "svm", "gradient_boosting"] = Field(
        "mlp", description="G; the last three are refitted on the host: slow"
    )
    hidden_layers: Widths = Field((64, 64), description="hidden layers of G, if it is the mlp")
    features: Annotated[tuple[Text, ...], Field(strict=False, min_length=1)] | None = Field(
        None,
        description="what G sees, of feature.numerical and feature.categorical (in si2023 of x0, "
        "x1, ..., long); null: all that the models see",
    )
    learning_rate: Rate = Field(1e-3, description="of G, if it is mlp or logistic (Adam)")
    refit_every: Count = Field(10, description="steps between two fits of a refitted G")
    window_steps: Count | None = Field(
        None, description="steps that a refitted G remembers; null: all"
    )
    warmup_steps: int = Field(
        0, ge=0, le=MOST, description="steps at the start in which weights are 1"
    )
    max_weight: float | None = Field(
        None, gt=1, le=LARGEST, description="clip weights at this; null: never"
    )
    calibration: Literal["none", "mean"] = Field(
        "none", description="mean: scale each model's weights of a step to the mean 1"
    )


class ClusterOptions(Options):
    """Options of the design cluster."""

    n_clusters: int = Field(
        20, ge=2, le=10**6, description="groups of users of like taste (k-means)"
    )


class SwitchbackOptions(Options):
    """Options of the design switchback."""

    block_steps: Count = Field(10, description="steps for which everybody keeps one arm")
    washout_steps: int = Field(
        0, ge=0, le=MOST, description="first steps of a block that the estimate leaves out"
    )


DESIGN_OPTIONS: dict[str, type[Options]] = {
    "pooling": NoOptions,
    "snapshot": NoOptions,
    "splitting": SplittingOptions,
    "weighting": WeightingOptions,
    "shadow": NoOptions,
    "oracle": NoOptions,
    "cluster": ClusterOptions,
    "switchback": SwitchbackOptions,
    "codiverted": NoOptions,
    "data_diverted": NoOptions,
}
