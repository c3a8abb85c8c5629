"""The blocks of a config: every setting with its bounds and its meaning."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    Field,
    ValidationInfo,
    field_validator,
)

from realdataexp.options import (
    MOST,
    Count,
    Decay,
    Names,
    Number,
    Options,
    Rate,
    Share,
    Text,
    checked,
    component_name,
    repeated,
)
from realdataexp.registry import find, names

NO_MODEL = "none"
ARMS = ("control", "treatment")

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_LONGEST_NAME = 64
_TRUTH = ("global", "global_t", "global_c", "truth (gte)")  # its names in tables and on pages


def alike(names: Sequence[str]) -> list[str]:
    """The names that stand more than once, but for case and for how Unicode writes them."""
    keys = [_key(name) for name in names]
    return [name for name, key in zip(names, keys, strict=True) if keys.count(key) > 1]


def _key(name: str) -> str:
    return unicodedata.normalize("NFKC", name).casefold()


def identifier(name: str) -> str:
    """A name that stands in names of metrics and overrides.

    Raises:
        ValueError: it cannot.
    """
    if not _IDENTIFIER.fullmatch(name):
        raise ValueError("must be letters, digits and _, not starting with a digit")
    if len(name) > _LONGEST_NAME:
        raise ValueError(f"must have at most {_LONGEST_NAME} characters, not {len(name)}")
    return name


def result_name(name: str) -> str:
    """A name of one's own in results, if tables, plots and pages can show it and tell it apart.

    Raises:
        ValueError: they cannot.
    """
    if not name.isprintable() or name != name.strip() or name.startswith("_"):
        raise ValueError(
            "must be characters that print (no newline, tab or direction mark), the first and the "
            "last no space, the first no _"
        )
    if len(name) > _LONGEST_NAME:
        raise ValueError(f"must have at most {_LONGEST_NAME} characters, not {len(name)}")
    if _key(name) in _TRUTH:
        raise ValueError("stands for the truth; use another label")
    return name


class LabelFeatures(Options):
    """The features that the network of a label sees, in place of those of the block `feature`."""

    _place: ClassVar[str] = "features"

    numerical: Names = Field((), description="columns used as numbers, standardised")
    categorical: Names = Field(
        (), validate_default=True, description="columns used as categories or lists of tags"
    )

    @property
    def names(self) -> tuple[str, ...]:
        """All of them."""
        return (*self.numerical, *self.categorical)

    @field_validator("numerical")
    @classmethod
    def _no_name_twice(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if twice := repeated(names):
            raise ValueError(f"each feature once: remove the second {', '.join(twice)}")
        return names

    @field_validator("categorical")
    @classmethod
    def _no_name_in_both(cls, names: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        cls._no_name_twice(names)
        numerical = info.data.get("numerical")
        if numerical is not None and (both := [name for name in names if name in numerical]):
            raise ValueError(f"{', '.join(both)} is also in {cls._place}.numerical: keep one")
        if numerical == () and not names:
            where = f"{cls._place}.numerical and {cls._place}.categorical"
            raise ValueError(f"{where} are empty: list a feature")
        return names


class FeatureConfig(LabelFeatures):
    """The features; only what is listed is used."""

    _place: ClassVar[str] = "feature"

    missing_indicator: bool = Field(
        False, description="whether a number that is missing gets an indicator of its own"
    )
    history: int = Field(
        0,
        ge=0,
        le=1000,
        description="the user's last items, so many, that a model of your own sees as a sequence",
    )


class LabelConfig(Options):
    """An outcome, the model that predicts it, and its weight in each arm's score."""

    name: Text = Field(description="name in results and overrides, an identifier")
    target: Text = Field(description="log column that holds the outcome")
    type: Literal["numerical", "binary", "categorical"] = Field(description="kind of outcome")
    n_classes: int | None = Field(
        None,
        ge=2,
        le=10**6,
        validate_default=True,
        description="number of classes of a categorical label",
    )
    model: Annotated[str, component_name("model", NO_MODEL)] = Field(
        "MLP",
        description=f"one of {', '.join(names('model'))}, or package.module:Name; none: an outcome "
        "that is measured, but neither predicted nor ranked by",
    )
    loss_function: Annotated[str, component_name("loss")] | None = Field(
        None,
        validate_default=True,
        description=f"one of {', '.join(names('loss'))}, or package.module:Name",
    )
    model_params: dict[str, Any] = Field(
        default_factory=dict, validate_default=True, description="settings of the model"
    )
    learning_rate: Rate | None = Field(
        None, description="learning rate of a phase that gives none of its own"
    )
    weight_decay: Decay | None = Field(
        None, description="weight decay of a phase that gives none of its own; null: 0"
    )
    features: LabelFeatures | None = Field(
        None, description="the features that its network sees; null: those of the block feature"
    )
    alpha_T: Number | None = Field(
        None, description="weight in the treatment arm's score, if there are no arms; null: 1"
    )
    alpha_C: Number | None = Field(
        None, description="weight in the control arm's score, if there are no arms; null: 1"
    )
    arms: Annotated[tuple[Literal["control", "treatment"], ...], Field(strict=False)] | None = (
        Field(
            None,
            description="the arms whose score it may enter, for which alone its networks are "
            "trained and reported; null: those whose score has it, or both without arms",
        )
    )
    score_unit: Literal["standard", "raw"] = Field(
        "standard", description="whether predictions enter the score standardised or as they are"
    )

    @field_validator("name")
    @classmethod
    def _identifier(cls, name: str) -> str:
        return identifier(name)

    @field_validator("arms")
    @classmethod
    def _arms_of_a_model(
        cls, arms: tuple[str, ...] | None, info: ValidationInfo
    ) -> tuple[str, ...] | None:
        if arms is None:
            return None
        if info.data.get("model") == NO_MODEL:
            raise ValueError("has no effect without a model: leave it out")
        if not arms or repeated(arms):
            raise ValueError("must be control, treatment or both, each once")
        for arm in ARMS:
            alpha = f"alpha_{arm[0].upper()}"
            if arm not in arms and info.data.get(alpha):
                raise ValueError(f"lacks {arm}, but {alpha} is not 0: leave it out, or add the arm")
        return tuple(arm for arm in ARMS if arm in arms)

    @field_validator("features")
    @classmethod
    def _features_of_a_model(
        cls, features: LabelFeatures | None, info: ValidationInfo
    ) -> LabelFeatures | None:
        if features is not None and info.data.get("model") == NO_MODEL:
            raise ValueError("has no effect without a model: leave it out")
        return features

    @field_validator("n_classes")
    @classmethod
    def _only_for_categorical(cls, n_classes: int | None, info: ValidationInfo) -> int | None:
        kind = info.data.get("type")
        if kind == "categorical" and n_classes is None:
            raise ValueError("must be given for type categorical: at least 2")
        if kind in ("numerical", "binary") and n_classes is not None:
            raise ValueError(f"has no effect for type {kind}: leave it out")
        return n_classes

    @field_validator("loss_function")
    @classmethod
    def _fits_type(cls, loss: str | None, info: ValidationInfo) -> str | None:
        kind, model = info.data.get("type"), info.data.get("model")
        if model == NO_MODEL and loss is not None:
            raise ValueError("has no effect without a model: leave it out")
        if loss is None:
            if model != NO_MODEL:
                raise ValueError(f"missing: use one of {', '.join(names('loss'))}")
            return None
        known = names("loss")
        if kind and loss in known and kind not in find("loss", loss, loss).types:
            fitting = [name for name in known if kind in find("loss", name, name).types]
            raise ValueError(f"does not fit type {kind}: use {' or '.join(fitting)}")
        return loss

    @field_validator("model_params")
    @classmethod
    def _check_model_params(cls, params: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        model = info.data.get("model", "")
        if model not in names("model"):
            return params
        return checked(find("model", model, model).Params, params).model_dump(mode="json")


class SchedulerConfig(Options):
    """How the learning rate changes within a phase."""

    kind: Literal["none", "cosine", "plateau"] = Field(
        "none",
        description="cosine: down over the phase's updates; plateau: down where a network's "
        "validation stops improving",
    )
    min_factor: float | None = Field(
        None,
        ge=0,
        lt=1,
        validate_default=True,
        description="the rate falls to this share of learning_rate, no further; null: 0",
    )
    factor: float | None = Field(
        None,
        gt=0,
        lt=1,
        validate_default=True,
        description="what a plateau multiplies the rate with; null: 0.5",
    )
    patience: int | None = Field(
        None,
        ge=0,
        le=MOST,
        validate_default=True,
        description="validations without improvement that a plateau bears; null: 3",
    )

    @field_validator("min_factor", "factor", "patience")
    @classmethod
    def _only_where_it_acts(cls, value: float | None, info: ValidationInfo) -> float | None:
        kind, name = info.data.get("kind"), str(info.field_name)
        acts = {"cosine": ("min_factor",), "plateau": ("min_factor", "factor", "patience")}
        if kind is not None and name not in acts.get(kind, ()):
            if value is not None:
                raise ValueError(f"has no effect with kind {kind}: leave it out")
            return None
        return {"min_factor": 0.0, "factor": 0.5, "patience": 3}[name] if value is None else value


Optimizer = Literal["adam", "adamw", "sgd"]
_GRADIENT_CLIP = "largest gradient norm of a network; null: no clipping"
_MAX_SKIPPED = "the run fails where a network skips more of its updates as not finite"


class PretrainConfig(Options):
    """Training of the starting models, from which the worlds begin."""

    enabled: bool = Field(True, description="whether to pretrain; otherwise models start untrained")
    start_from: Text | None = Field(
        None, description="a run folder, or a file made by export, with the networks that training "
        "begins from; null: new ones"
    )  # fmt: skip
    optimizer: Optimizer = Field("adam", description="optimizer")
    scheduler: SchedulerConfig = Field(SchedulerConfig(), description="of the learning rate")
    gradient_clip: Rate | None = Field(None, description=_GRADIENT_CLIP)
    max_skipped_share: float = Field(0.1, ge=0, le=1, description=_MAX_SKIPPED)
    batch_size: Count = Field(1024, description="rows of a batch")
    epochs: Count = Field(1, description="passes over the pretraining rows")
    learning_rate: Rate = Field(1e-3, description="learning rate")
    weight_decay: Decay | None = Field(None, description="weight decay; null: each label's own")
    early_stopping: Count | None = Field(
        None, description="stop after this many checks without improvement; null: never"
    )
    max_rows: Count | None = Field(None, description="use at most this many rows; null: all")
    rows: Literal["auto", "early", "share", "overlap"] = Field(
        "auto",
        description="which rows: the early log, a share of each user's, all (they are replayed "
        "later: the model has seen its answers), or the early log where there is one",
    )
    share: Share = Field(
        0.3, description="share of each user's rows, the earliest, where rows is share (or falls "
        "back to it)"
    )  # fmt: skip
    validate_every_iters: Count | None = Field(
        None, description="batches between two checks; null: one check an epoch"
    )
    save_every_iters: Count | None = Field(
        None, description="batches between two checkpoints, besides one at each check"
    )


class SimulationConfig(Options):
    """The loop's settings, for every mode; `global` is the block's older name."""

    user_p_val: Share = Field(0.2, description="share of users kept for validation")
    batch_size: Count = Field(64, description="visits a step in each world")
    n_candidate: Count = Field(
        10, description="videos on a visit's slate; with 0 there is nothing to recommend"
    )
    n_steps: Count = Field(200, description="steps of the loop; with 0 nothing happens")
    validate_every: Count = Field(25, description="steps between two validations")
    save_every: Count = Field(50, description="steps between two checkpoints")
    keep_last: Count = Field(2, description="checkpoints that are kept to resume from")
    learning_rate: Rate | None = Field(
        5e-4, description="learning rate in the loop; null: each label's own"
    )
    weight_decay: Decay | None = Field(
        None, description="weight decay in the loop; null: each label's own"
    )
    optimizer: Optimizer = Field("adam", description="optimizer in the loop")
    scheduler: SchedulerConfig = Field(
        SchedulerConfig(), description="of the learning rate in the loop"
    )
    retrain_every: Count = Field(
        1, description="steps between two rounds of training; a round has an update for each of "
        "these steps; n_steps: one round, after the last step, so that nothing learned is shown"
    )  # fmt: skip
    gradient_clip: Rate | None = Field(None, description=_GRADIENT_CLIP)
    max_skipped_share: float = Field(0.1, ge=0, le=1, description=_MAX_SKIPPED)
    min_candidates: Count = Field(
        1, description="a user with fewer unused videos than this is not drawn"
    )
    processes: Literal["auto"] | Count = Field(
        "auto", description="processes that share the replications, on the CPU; changes no "
        "result; auto: one for each of PyTorch's threads"
    )  # fmt: skip

    executor: Text = Field(
        "fork", description="what runs these: fork, processes of this machine, or "
        "package.module:Name; changes no result"
    )  # fmt: skip

    @field_validator("retrain_every")
    @classmethod
    def _within_run(cls, value: int, info: ValidationInfo) -> int:
        n_steps = info.data.get("n_steps")
        if n_steps is not None and value > n_steps:
            raise ValueError(f"no training in a run of {n_steps} steps: must be at most n_steps")
        return value

    @field_validator("min_candidates")
    @classmethod
    def _within_slate(cls, value: int, info: ValidationInfo) -> int:
        n_candidate = info.data.get("n_candidate")
        if n_candidate is not None and value > n_candidate:
            raise ValueError(f"must be at most n_candidate, which is {n_candidate}")
        return value

    @field_validator("processes", mode="before")
    @classmethod
    def _auto_or_count(cls, value: Any) -> Any:
        if value == "auto" or (type(value) is int and 0 < value <= MOST):
            return value
        raise ValueError(f"must be auto or a whole number, from 1 to {MOST:,}")


class ValidationConfig(Options):
    """Validation of the models on visits of the users who are held out."""

    primary_metric: Text | None = Field(
        None, description="what the best networks are best by, as label.metric, where nothing else "
        "is asked for; null: the first label's loss"
    )  # fmt: skip
    metrics: Annotated[
        tuple[Annotated[str, component_name("metric")], ...], Field(strict=False)
    ] = Field(
        (),
        description="metrics of predictions of one's own, as package.module:Name; those of the "
        "package are always computed",
    )
    validation_batches: Count = Field(
        6, description="visits of a validation, at most, in batches of simulation.batch_size"
    )

    @field_validator("metrics")
    @classmethod
    def _of_one_s_own(cls, metrics: tuple[str, ...]) -> tuple[str, ...]:
        known = names("metric")
        if always := [name for name in metrics if name in known]:
            raise ValueError(f"{always[0]} is computed for every label that it fits: leave it out")
        short = [*known, "loss", *(name.rpartition(":")[2] for name in metrics)]
        if twice := repeated(short):
            raise ValueError(f"{twice[0]} stands for two metrics in tables: rename one")
        return metrics
