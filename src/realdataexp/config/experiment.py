"""The phases (pretraining, loop, validation), the test with its designs, and logging."""

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

from realdataexp.config.sections import ByKind, Section, alike, result_name, setting
from realdataexp.options import (
    MOST,
    Count,
    Decay,
    Rate,
    Share,
    Text,
    checked,
    component_name,
    repeated,
)
from realdataexp.registry import Kind, find, names

_TIME_SLICES = 10
COMPARED = ("pooling", "snapshot", "splitting", "weighting", "shadow")  # by default

# --- the phases ----------------------------------------------------------------------------------


class SchedulerConfig(ByKind):
    """How the learning rate changes within a phase."""

    _acts: ClassVar = {
        "cosine": {"min_factor": 0.0},
        "plateau": {"min_factor": 0.0, "factor": 0.5, "patience": 3},
    }

    kind: Literal["none", "cosine", "plateau"] = setting(
        "none",
        "cosine: down over the phase's updates; plateau: down where a network's "
        "validation stops improving",
    )
    min_factor: Annotated[float, Field(ge=0, lt=1)] | None = setting(
        None, "the rate falls to this share of learning_rate, no further; null: 0"
    )
    factor: Share | None = setting(None, "what a plateau multiplies the rate with; null: 0.5")
    patience: Annotated[int, Field(ge=0, le=MOST)] | None = setting(
        None, "validations without improvement that a plateau bears; null: 3"
    )


Optimizer = Literal["adam", "adamw", "sgd"]
_GRADIENT_CLIP = "largest gradient norm of a network; null: no clipping"
_MAX_SKIPPED = "the run fails where a network skips more of its updates as not finite"


class PretrainConfig(Section):
    """Training of the starting models, from which the worlds begin."""

    enabled: bool = setting(True, "whether to pretrain; otherwise models start untrained")
    start_from: Text | None = setting(
        None,
        "a run folder, or a file made by export, with the networks that training "
        "begins from; null: new ones",
    )
    optimizer: Optimizer = setting("adam", "optimizer")
    scheduler: SchedulerConfig = setting(SchedulerConfig(), "of the learning rate")
    gradient_clip: Rate | None = setting(None, _GRADIENT_CLIP)
    max_skipped_share: float = setting(0.1, _MAX_SKIPPED, ge=0, le=1)
    batch_size: Count = setting(1024, "rows of a batch")
    epochs: Count = setting(1, "passes over the pretraining rows")
    learning_rate: Rate = setting(1e-3, "learning rate")
    weight_decay: Decay | None = setting(None, "weight decay; null: each label's own")
    early_stopping: Count | None = setting(
        None, "checks without improvement before it stops; null: never"
    )
    max_rows: Count | None = setting(None, "use at most this many rows; null: all")
    rows: Literal["auto", "early", "share", "overlap"] = setting(
        "auto",
        "which rows: the early log, a share of each user's, all (they are replayed "
        "later: the model has seen its answers), or the early log where there is one",
    )
    share: Share = setting(
        0.3, "share of each user's rows, the earliest, where rows is share (or falls back to it)"
    )
    validate_every_iters: Count | None = setting(None, "batches between checks; null: one an epoch")
    save_every_iters: Count | None = setting(
        None, "batches between two checkpoints, besides one at each check"
    )


class SimulationConfig(Section):
    """The loop's settings, for every mode; `global` is the section's older name."""

    user_p_val: Share = setting(0.2, "share of users kept for validation")
    batch_size: Count = setting(64, "visits a step in each world")
    n_candidate: Count = setting(10, "videos on a slate; with 0 there is nothing to recommend")
    n_steps: Count = setting(200, "steps of the loop; with 0 nothing happens")
    validate_every: Count = setting(25, "steps between two validations")
    save_every: Count = setting(50, "steps between two checkpoints")
    keep_last: Count = setting(2, "checkpoints that are kept to resume from")
    learning_rate: Rate | None = setting(5e-4, "learning rate; null: each label's own")
    weight_decay: Decay | None = setting(None, "weight decay; null: each label's own")
    optimizer: Optimizer = setting("adam", "optimizer")
    scheduler: SchedulerConfig = setting(SchedulerConfig(), "of the learning rate")
    retrain_every: Count = setting(
        1,
        "steps between two rounds of training; a round has an update for each of "
        "these steps; n_steps: one round, after the last step, so that nothing learned is shown",
    )
    gradient_clip: Rate | None = setting(None, _GRADIENT_CLIP)
    max_skipped_share: float = setting(0.1, _MAX_SKIPPED, ge=0, le=1)
    min_candidates: Count = setting(1, "a user with fewer unused videos than this is not drawn")
    order: Literal["any", "time"] = setting(
        "any",
        "any: a slate is drawn from all of its user's unused rows; time: the run walks through the "
        "log's calendar, slice by slice, and visits and slates are of the slice's rows alone",
    )
    time_slices: Count | None = setting(
        None,
        "order time: slices of the calendar, each of about as many replayed rows and of as many "
        "steps; null: 10, or n_steps where these are fewer",
    )
    processes: Literal["auto"] | Count = setting(
        "auto",
        "parts that the replications are shared out to, each run by a process; changes "
        "no result; auto: one for each of PyTorch's threads, or each GPU",
    )
    executor: Annotated[str, component_name("executor")] = setting(
        "local",
        f"who runs these: {', '.join(names('executor'))} (local: processes of this machine), or "
        "package.module:Name; changes no result",
    )

    @field_validator("executor", mode="before")
    @classmethod
    def _older_name(cls, value: Any) -> Any:
        return "local" if value == "fork" else value

    @field_validator("retrain_every", "min_candidates")
    @classmethod
    def _within_run_and_slate(cls, value: int, info: ValidationInfo) -> int:
        bound = "n_steps" if info.field_name == "retrain_every" else "n_candidate"
        if value > info.data.get(bound, value):
            raise ValueError(f"must be at most {bound}, which is {info.data[bound]}")
        return value

    @field_validator("time_slices")
    @classmethod
    def _only_in_order(cls, value: int | None, info: ValidationInfo) -> int | None:
        if info.data.get("order") != "time":
            if value is not None:
                raise ValueError("has no effect with order any: leave it out, or set order: time")
            return None
        n_steps = info.data.get("n_steps", MOST)
        value = value or min(_TIME_SLICES, n_steps)
        if value > n_steps:
            raise ValueError(f"must be at most n_steps, which is {n_steps}, not {value}")
        return value

    @field_validator("processes", mode="before")
    @classmethod
    def _auto_or_count(cls, value: Any) -> Any:
        if value == "auto" or (type(value) is int and 0 < value <= MOST):
            return value
        raise ValueError(f"must be auto or a whole number, from 1 to {MOST:,}")


class ValidationConfig(Section):
    """Validation of the models on visits of the users who are held out."""

    primary_metric: Text | None = setting(
        None,
        "what the best networks are best by, as label.metric, where nothing else "
        "is asked for; null: the first label's loss",
    )
    metrics: Annotated[
        tuple[Annotated[str, component_name("metric")], ...], Field(strict=False)
    ] = setting(
        (),
        "metrics of predictions of one's own, as package.module:Name; those of the "
        "package are always computed",
    )
    validation_batches: Count = setting(
        6, "visits of a validation, at most, in batches of simulation.batch_size"
    )

    @field_validator("metrics")
    @classmethod
    def _of_one_s_own(cls, metrics: tuple[str, ...]) -> tuple[str, ...]:
        known = names("metric")
        if always := [name for name in metrics if name in known]:
            raise ValueError(f"{always[0]} is computed for every label that it fits: leave it out")
        if twice := repeated([*known, "loss", *(name.rpartition(":")[2] for name in metrics)]):
            raise ValueError(f"{twice[0]} stands for two metrics in tables: rename one")
        return metrics


# --- components by name --------------------------------------------------------------------------


class Component(Section):
    """A component by its name alone, or by a section that has its options beside the name."""

    kind: ClassVar[Kind]

    name: str
    options: dict[str, Any] = setting({}, "the options that were given")

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
        component = find(cls.kind, name, name)
        own = getattr(component, "Params", component)  # of a network
        return checked(own, options).model_dump(exclude_unset=True)

    @model_serializer
    def _as_written(self) -> str | dict[str, Any]:
        own = {key: getattr(self, key) for key in type(self).model_fields if key != "options"}
        is_plain = not self.options and set(own.values()) == {self.name}
        return self.name if is_plain else {**own, **self.options}

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        section = handler.resolve_ref_schema(handler(core_schema["schema"]))
        del section["properties"]["options"]
        return {"description": cls.__doc__, "anyOf": [{"type": "string"}, section]}


class DesignConfig(Component):
    """A design to run: its name alone, or `{name, label, <options of the design>}`."""

    kind = "design"

    name: Annotated[str, component_name("design")] = Field(
        description=f"one of {', '.join(names('design'))}, or package.module:Name"
    )
    label: str = setting("", "name in results; default: the name")

    @field_validator("label")
    @classmethod
    def _default_label(cls, label: str, info: ValidationInfo) -> str:
        name = str(info.data.get("name", "")).rpartition(":")[2]
        # a faulty name has been reported as such
        return result_name(label or name) if label or name else label


class TrackerConfig(Component):
    """A tracker to tell of the run: its name alone, or `{name, <options of the tracker>}`."""

    kind = "tracker"

    name: Annotated[str, component_name("tracker")] = Field(
        description=f"one of {', '.join(names('tracker'))}, or package.module:Name"
    )


# --- the test and its log ------------------------------------------------------------------------


class ExperimentConfig(Section):
    """The test: how arms are assigned, how often it is replicated, which designs are compared."""

    p_treatment: float = setting(0.5, "probability of the treatment arm", ge=0, le=1)
    assignment: Literal["user", "visit"] = setting(
        "user", "whether a user keeps one arm or each visit draws its own"
    )
    replications: Count = setting(20, "worlds of each design, run in lockstep")
    starts: Count = setting(
        1,
        "starting models, each with a split of users and pretraining draws of its own; "
        "replication r begins from start r mod starts, and standard errors over replications "
        "are clustered by start; with fewer replications each has a start of its own. 1: all "
        "results are given this one starting model",
    )
    aa: bool = setting(False, "an A/A test: the control ranks with the treatment's alphas")
    intervals: (
        Annotated[
            tuple[Annotated[str, component_name("interval method", *names("estimator"))], ...],
            Field(strict=False),
        ]
        | None
    ) = setting(
        None,
        f"interval methods: {', '.join(names('interval method'))}; estimators: "
        f"{', '.join(names('estimator'))}; or package.module:Name; null: all of the package that "
        "apply, but for paired, paired_visit, aipw and cupac, which have more recorded",
    )
    detectors: (
        Annotated[tuple[Annotated[str, component_name("detector")], ...], Field(strict=False)]
        | None
    ) = setting(
        None,
        f"detectors of training interference: {', '.join(names('detector'))}, or "
        "package.module:Name; null: all of the package",
    )
    designs: Annotated[tuple[DesignConfig, ...], Field(strict=False, min_length=1)] = setting(
        tuple(DesignConfig(name=name) for name in COMPARED), "the designs that mode compare runs"
    )

    @property
    def n_starts(self) -> int:
        """Starting models that some replication begins from."""
        return min(self.starts, self.replications)

    @field_validator("intervals", "detectors")
    @classmethod
    def _tables_tell_them_apart(
        cls, asked: tuple[str, ...] | None, info: ValidationInfo
    ) -> tuple[str, ...] | None:
        own = [name.rpartition(":")[2] for name in dict.fromkeys(asked or ())]
        if taken := repeated(own):
            what = "methods" if info.field_name == "intervals" else info.field_name
            raise ValueError(f"{taken[0]} stands for two {what} in tables: rename one")
        return asked

    @field_validator("designs")
    @classmethod
    def _unique_labels(cls, designs: tuple[DesignConfig, ...]) -> tuple[DesignConfig, ...]:
        if twice := alike([design.label for design in designs]):
            raise ValueError(
                f"{', '.join(twice)} stands more than once (in upper or lower case): give each a "
                "label of its own"
            )
        return designs


class LogConfig(Section):
    """What is logged, and where run folders are made."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = setting("INFO", "log level")
    log_dir: Text = setting("results", "folder in which run folders are made")
    pictures: bool | None = setting(
        None,
        "whether plot.svg and report.html are written at the end; null: of a run of its own, not "
        "of a point of a sweep. `realdataexp report RUN_DIR` writes them at any time",
    )


class LoggingConfig(LogConfig):
    """What is logged, and where run folders are made."""

    trackers: Annotated[tuple[TrackerConfig, ...], Field(strict=False)] = setting(
        (), f"what else follows a run: {', '.join(names('tracker'))}"
    )

    @field_validator("trackers")
    @classmethod
    def _each_once(cls, trackers: tuple[TrackerConfig, ...]) -> tuple[TrackerConfig, ...]:
        if twice := repeated([tracker.name for tracker in trackers]):
            raise ValueError(f"{', '.join(twice)} stands more than once: keep one")
        return trackers
