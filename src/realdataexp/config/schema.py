"""The config as a whole."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, PrivateAttr, SerializeAsAny, ValidationInfo, field_validator

from realdataexp.config import yaml_text
from realdataexp.config.cluster import ClusterConfig
from realdataexp.config.dataset import DatasetConfig, dataset_of
from realdataexp.config.experiment import (
    DesignConfig,
    ExperimentConfig,
    LogConfig,
    LoggingConfig,
    PretrainConfig,
    SimulationConfig,
    ValidationConfig,
)
from realdataexp.config.sections import (
    ARMS,
    NO_MODEL,
    ArmConfig,
    ArmsConfig,
    DerivedConfig,
    FeatureConfig,
    LabelConfig,
    LabelFeatures,
    OutcomeConfig,
    Section,
    alike,
    derived_of,
    outcomes_of,
    refuse_relative,
    result_name,
    setting,
)
from realdataexp.errors import InputError
from realdataexp.options import PathText, checked, component_name
from realdataexp.registry import find, is_outside, names

_KINDS = ("numerical", "categorical")
MODES = ("global", "compare", *names("design"))
LABEL_TWICE = (
    "the name {} stands more than once (in upper or lower case): give each label a name of its own"
)


class RunSettings(Section):
    """What the config of any run has: its seed, its device, and where its paths lead."""

    _folder: Path = PrivateAttr(Path())
    _data: Path | None = PrivateAttr(None)

    base_dir: PathText = setting(".", "what relative paths of the config are relative to")
    mode: str
    seed: int = setting(0, "seed of every random draw", ge=0, le=2**63 - 1)
    device: Literal["auto", "cpu", "cuda", "xpu", "mps", "dml"] = setting(
        "auto", "where to compute"
    )
    use_amp: bool = setting(False, "whether to compute in bf16, or in fp16 where there is no bf16")
    if TYPE_CHECKING:  # each kind has them in a place of its own
        dataset: Any
        logging: LogConfig

    def resolved(self) -> dict[str, Any]:
        """Every setting, defaults too, as plain values; loading them gives this config again."""
        return self.model_dump(mode="json")

    def to_yaml(self) -> str:
        """`resolved` as YAML text."""
        return yaml_text.to_yaml(self.resolved())

    @property
    def folder(self) -> Path:
        """What a relative `base_dir` is relative to; the current folder, but for `at`."""
        return self._folder

    def at(self, folder: Path, data: Path | None = None) -> Self:
        """This config, paths relative to another folder, and its data, if given, in ``data``."""
        moved = self.model_copy()
        moved._folder, moved._data = folder, data
        return moved

    def path(self, text: str) -> Path:
        """A path of this config: absolute, or relative to `base_dir`.

        Raises:
            InputError: it begins with the home folder of a user who does not exist.
        """
        return self._folder / _at_home(self.base_dir) / _at_home(text)

    def data_dir(self) -> Path | None:
        """The folder with the data set's files, or None where none was given."""
        given = self.dataset.path
        return self._data or (None if given is None else self.path(given))

    @property
    def has_data(self) -> bool:
        """Whether it says where its data are, or needs no files."""
        return bool(self.dataset.path or not self.dataset.has_folder)


class Config(RunSettings):
    """A whole experiment. Make one with `load_config`."""

    mode: Annotated[str, component_name("design", "global", "compare", called="mode")] = setting(
        "compare", f"one of {', '.join(MODES)}, or a design as package.module:Name"
    )
    dataset: SerializeAsAny[DatasetConfig] = Field(description="where the logs come from")
    feature: FeatureConfig | None = setting(None, "the features; none in a simulated world")
    labels: Annotated[tuple[LabelConfig, ...], Field(strict=False, min_length=1)] = Field(
        description="the outcomes, with a model for each"
    )
    arms: ArmsConfig | None = setting(
        None, "what the arms do; null: they rank by the labels' alpha_T and alpha_C"
    )
    derived: Annotated[tuple[DerivedConfig, ...], Field(strict=False)] = setting(
        (), "columns that are computed from the log's, as targets of labels and outcomes"
    )
    outcomes: Annotated[tuple[OutcomeConfig, ...], Field(strict=False, min_length=1)] | None = (
        setting(
            None,
            "what is measured: names of labels, {name, target, unit} or {name, ratio, unit}; null: "
            "each target of the labels once, named by the first label that has it, and each "
            "derived column",
        )
    )
    pretrain: PretrainConfig = setting(PretrainConfig(), "the starting models")
    simulation: SimulationConfig = setting(SimulationConfig(), "the loop (older name: global)")
    experiment: ExperimentConfig = setting(ExperimentConfig(), "the test")
    splitting: dict[str, Any] = setting({}, "options of this design, in every mode")
    sharing: dict[str, Any] = setting({}, "options of this design, in every mode")
    shadow: dict[str, Any] = setting({}, "options of this design, in every mode")
    weighting: dict[str, Any] = setting({}, "options of this design, in every mode")
    cluster: ClusterConfig = setting(ClusterConfig(), "what a run asks of Slurm or Ray")
    switchback: dict[str, Any] = setting({}, "options of this design, in every mode")
    holdout: dict[str, Any] = setting({}, "options of this design, in every mode")
    rollout: dict[str, Any] = setting({}, "options of this design, in every mode")
    validation: ValidationConfig = setting(ValidationConfig(), "validation")
    logging: LoggingConfig = setting(LoggingConfig(), "logs and run folders")

    @field_validator("mode")
    @classmethod
    def _design_that_results_can_name(cls, mode: str) -> str:
        if is_outside(mode):
            result_name(mode.rpartition(":")[2])
        return mode

    _dataset_of_its_world = field_validator("dataset", mode="before")(dataset_of)

    @field_validator(
        "splitting", "sharing", "shadow", "weighting", "switchback", "holdout", "rollout"
    )
    @classmethod
    def _options_of_design(cls, given: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        name = str(info.field_name)
        return checked(find("design", name, name), given).model_dump(mode="json")

    @field_validator("feature")
    @classmethod
    def _features_of_logs(
        cls, feature: FeatureConfig | None, info: ValidationInfo
    ) -> FeatureConfig | None:
        dataset = info.data.get("dataset")
        takes_any = dataset is None or dataset.takes_features
        if dataset is not None and feature is not None and not takes_any:
            raise ValueError(f"has no effect in the world {dataset.name}: leave it out")
        if feature is None and takes_any:
            raise ValueError("missing: list the features under numerical and categorical")
        return feature

    @field_validator("labels")
    @classmethod
    def _labels_that_fit(
        cls, labels: tuple[LabelConfig, ...], info: ValidationInfo
    ) -> tuple[LabelConfig, ...]:
        if all(label.model == NO_MODEL for label in labels):
            raise ValueError("no label has a model, so there is nothing to rank by: name one")
        names = [label.name for label in labels]
        if twice := alike(names):
            raise ValueError(LABEL_TWICE.format(", ".join(twice)))
        refuse_relative(names, "label")
        lists = [x for x in (info.data.get("feature"), *(x.features for x in labels)) if x]
        categories = {name for x in lists for name in x.categorical}
        if both := [name for x in lists for name in x.numerical if name in categories]:
            raise ValueError(
                f"{both[0]} is numerical in one list of features and categorical in another: keep "
                "one kind"
            )
        return labels

    @field_validator("arms")
    @classmethod
    def _arms_fit_labels(cls, arms: ArmsConfig | None, info: ValidationInfo) -> ArmsConfig | None:
        if arms is not None and "labels" in info.data:
            arms.check(info.data["labels"])
        return arms

    @field_validator("derived")
    @classmethod
    def _derived_from_a_log(
        cls, derived: tuple[DerivedConfig, ...], info: ValidationInfo
    ) -> tuple[DerivedConfig, ...]:
        dataset = info.data.get("dataset")
        if derived and dataset is not None and not dataset.takes_features:
            raise ValueError(
                f"has no effect in the world {dataset.name}, which has no log: leave it out"
            )
        return derived_of(derived)

    @field_validator("outcomes")
    @classmethod
    def _with_targets(
        cls, outcomes: tuple[OutcomeConfig, ...] | None, info: ValidationInfo
    ) -> tuple[OutcomeConfig, ...] | None:
        if "labels" not in info.data or "derived" not in info.data:
            return outcomes
        labels, derived = info.data["labels"], info.data["derived"]
        found = outcomes_of(outcomes, labels, derived)
        used = {label.target for label in labels}
        used |= {x for outcome in found for x in (outcome.target, *(outcome.ratio or ()))}
        if unused := [x.name for x in derived if x.name not in used]:
            raise ValueError(
                f"the derived column {unused[0]} is neither a label's target nor in an outcome: "
                "list it, or leave it out"
            )
        return None if outcomes is None else found

    @field_validator("simulation")
    @classmethod
    def _learning_rate_somewhere(cls, loop: SimulationConfig, info: ValidationInfo) -> Any:
        labels = [x for x in info.data.get("labels", ()) if x.model != NO_MODEL]
        lacking = [lab.name for lab in labels if lab.learning_rate is None]
        if loop.learning_rate is None and lacking:
            raise ValueError(f"no learning_rate, and none in the labels {', '.join(lacking)}")
        dataset = info.data.get("dataset")
        if loop.order == "time" and dataset is not None and not dataset.takes_features:
            raise ValueError(
                f"order: time walks through a log, and the world {dataset.name} has none: use any"
            )
        return loop

    def decisive(self) -> dict[str, Any]:
        """`resolved` without what changes no result: where and in how many parts a run computes."""
        values = self.resolved()
        for key in ("processes", "executor"):
            del values["simulation"][key]
        del values["logging"]["pictures"]
        values["cluster"] = self.cluster.of_design()
        return values

    @property
    def learned(self) -> tuple[LabelConfig, ...]:
        """The labels with a model."""
        return tuple(label for label in self.labels if label.model != NO_MODEL)

    @property
    def measured(self) -> dict[str, str]:
        """The target of each outcome of a visit, by name."""
        return {x.name: x.target for x in self._outcomes if x.target is not None}

    @property
    def ratios(self) -> dict[str, tuple[str, str]]:
        """Numerator and denominator of each outcome that is a ratio of sums, by name."""
        return {x.name: x.ratio for x in self._outcomes if x.ratio is not None}

    @property
    def _outcomes(self) -> tuple[OutcomeConfig, ...]:
        return self.outcomes or outcomes_of(None, self.labels, self.derived)

    @property
    def targets(self) -> dict[str, str]:
        """Every column of outcomes that data must have, each once, and what first names it."""
        places: dict[str, str] = {}
        for i, label in enumerate(self.labels):
            places.setdefault(label.target, f"labels.{i}.target")
        for i, outcome in enumerate(self._outcomes):
            if outcome.target is not None:
                places.setdefault(outcome.target, f"outcomes.{i}.target")
            for j, column in enumerate(outcome.ratio or ()):
                places.setdefault(column, f"outcomes.{i}.ratio.{j}")
        for i, x in enumerate(self.derived):
            places.pop(x.name, None)
            for j, column in enumerate(x.columns):
                places.setdefault(column, f"derived.{i}.{x.rule}.{j}")
        return places

    @property
    def features(self) -> FeatureConfig | None:
        """The features that some network sees: those of the section, then labels' own."""
        if self.feature is None:
            return None
        places = self._feature_places
        both = {
            kind: tuple(name for name, at in places.items() if f".{kind}." in at) for kind in _KINDS
        }
        return self.feature.model_copy(update=both)

    def place_of_feature(self, name: str) -> str:
        """Where the config first lists a feature."""
        return self._feature_places[name]

    @property
    def _feature_places(self) -> dict[str, str]:
        lists: list[tuple[str, LabelFeatures | None]] = [("feature", self.feature)]
        lists += [(f"labels.{i}.features", x.features) for i, x in enumerate(self.labels)]
        places: dict[str, str] = {}
        for where, features in lists:
            for kind in _KINDS if features is not None else ():
                for i, name in enumerate(getattr(features, kind)):
                    places.setdefault(name, f"{where}.{kind}.{i}")
        return places

    def policies(self) -> tuple[ArmConfig, ArmConfig]:
        """What the control and the treatment do; the same in an A/A test."""
        if self.arms is not None:
            control, treatment = self.arms.control, self.arms.treatment
        else:
            scores = ({x.name: x.alpha(arm) for x in self.learned} for arm in ARMS)
            control, treatment = (ArmConfig(score=score) for score in scores)
        return (treatment if self.experiment.aa else control), treatment

    def arms_of(self, label: LabelConfig) -> tuple[bool, bool]:
        """Whether a label's networks are trained for the control, and for the treatment."""
        arms: Sequence[str] = label.arms or ARMS
        if label.arms is None and self.arms is not None:
            both = self.arms.by_name.items()
            arms = [arm for arm, x in both if x.policy or label.name in (x.score or ())]
        is_control, is_treated = (arm in arms for arm in ARMS)
        return (is_treated if self.experiment.aa else is_control), is_treated

    def designs(self) -> tuple[DesignConfig, ...]:
        """The designs that this config's mode runs (none for global), their options filled in."""
        if self.mode == "global":
            return ()
        chosen = self.experiment.designs
        if self.mode != "compare":
            chosen = (DesignConfig(name=self.mode),)
        return tuple(self._filled(design) for design in chosen)

    def _filled(self, design: DesignConfig) -> DesignConfig:
        in_every_mode = getattr(self, design.name, {}) if design.name in names("design") else {}
        if isinstance(in_every_mode, ClusterConfig):
            in_every_mode = in_every_mode.of_design()
        return design.model_copy(update={"options": {**in_every_mode, **design.options}})

    def cache_dir(self) -> Path:
        """The folder for imported data: `dataset.cache_path`, or the user's cache folder."""
        if self.dataset.cache_path is not None:
            return self.path(self.dataset.cache_path)
        return default_cache_dir()


def _at_home(text: str) -> Path:
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise InputError(f"{text}: there is no such home folder; write the whole path") from None


def default_cache_dir() -> Path:
    """$REALDATAEXP_CACHE, or realdataexp in the user's cache folder."""
    if own := os.environ.get("REALDATAEXP_CACHE"):
        return _at_home(own)
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "realdataexp"
