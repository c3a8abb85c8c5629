"""The features, the labels, what the arms do with them, and what is measured."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from realdataexp.errors import did_you_mean
from realdataexp.options import (
    Decay,
    Names,
    Number,
    Options,
    Rate,
    Text,
    checked,
    component_name,
    repeated,
)
from realdataexp.registry import find, is_outside, names

NO_MODEL = "none"
ARMS = ("control", "treatment")

_LONGEST_NAME = 64
_TRUTH = ("global", "global_t", "global_c", "truth (gte)")  # its names in tables and on pages


class Section(Options):
    """A section of the config; a default is checked like what is given."""

    model_config = ConfigDict(validate_default=True)


def setting(default: Any, meaning: str, **bounds: Any) -> Any:
    """A key of a section that need not be given."""
    return Field(default, description=meaning, **bounds)


class ByKind(Section):
    """A section whose keys act with some kinds only: there they have a default, or must be set."""

    _acts: ClassVar[dict[str, dict[str, float | None]]] = {}

    @field_validator("*")
    @classmethod
    def _only_where_it_acts(cls, value: Any, info: ValidationInfo) -> Any:
        kind, name = info.data.get("kind"), str(info.field_name)
        if kind is None:  # it comes first
            return value
        acts = cls._acts.get(kind, {})
        if value is not None and name not in acts:
            raise ValueError(f"has no effect with kind {kind}: leave it out")
        if value is None and name in acts and acts[name] is None:
            raise ValueError(f"missing: kind {kind} needs it")
        return acts.get(name) if value is None else value


def alike(names: Sequence[str]) -> list[str]:
    """The names that stand more than once, but for case and for how Unicode writes them, once."""
    keys = [_key(name) for name in names]
    twice = [name for name, key in zip(names, keys, strict=True) if keys.count(key) > 1]
    return list(dict.fromkeys(twice))


def _key(name: str) -> str:
    return unicodedata.normalize("NFKC", name).casefold()


def _short(name: str) -> str:
    if len(name) > _LONGEST_NAME:
        raise ValueError(f"must have at most {_LONGEST_NAME} characters, not {len(name)}")
    return name


def _identifier(name: str) -> str:
    if not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", name):
        raise ValueError("must be letters, digits and _, not starting with a digit")
    return _short(name)


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
    if _key(_short(name)) in _TRUTH:
        raise ValueError("stands for the truth; use another label")
    return name


def refuse_relative(names: Sequence[str], what: str) -> None:
    """Refuse names that results need for relative effects."""
    if clash := [name for name in names if f"{name}_relative" in names]:
        raise ValueError(
            f"{clash[0]}_relative: results call the relative effect on {clash[0]} so: give that "
            f"{what} another name"
        )


Identifier = Annotated[Text, AfterValidator(_identifier)]

# --- features and labels -------------------------------------------------------------------------


class LabelFeatures(Section):
    """The features that the network of a label sees, in place of those of the section `feature`."""

    _place: ClassVar[str] = "features"

    numerical: Names = setting((), "columns used as numbers, standardised")
    categorical: Names = setting((), "columns used as categories or lists of tags")

    @property
    def names(self) -> tuple[str, ...]:
        """All of them."""
        return (*self.numerical, *self.categorical)

    @field_validator("numerical", "categorical")
    @classmethod
    def _no_name_twice(cls, names: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if twice := repeated(names):
            raise ValueError(f"each feature once: remove the second {', '.join(twice)}")
        numerical = info.data.get("numerical")  # known where the others are checked
        if both := [name for name in names if name in (numerical or ())]:
            raise ValueError(f"{', '.join(both)} is also in {cls._place}.numerical: keep one")
        if numerical == () and not names:
            where = f"{cls._place}.numerical and {cls._place}.categorical"
            raise ValueError(f"{where} are empty: list a feature")
        return names


class FeatureConfig(LabelFeatures):
    """The features; only what is listed is used."""

    _place: ClassVar[str] = "feature"

    missing: Literal["mean", "zero", "predicted"] = setting(
        "mean",
        "what a missing number becomes: the mean over training rows, zero, or what the row's other "
        "numbers predict (scikit-learn's IterativeImputer, fitted on training rows)",
    )
    missing_indicator: bool = setting(
        False, "whether a missing number gets an indicator of its own"
    )
    history: int = setting(
        0,
        "the user's last items, so many, that models of sequences see",
        ge=0,
        le=1000,
    )


class LabelConfig(Section):
    """An outcome, the model that predicts it, and its weight in each arm's score."""

    name: Identifier = Field(description="name in results and overrides, an identifier")
    target: Text = Field(description="log column that holds the outcome")
    type: Literal["numerical", "binary", "categorical"] = Field(description="kind of outcome")
    n_classes: Annotated[int, Field(ge=2, le=10**6)] | None = setting(
        None, "number of classes of a categorical label"
    )
    model: Annotated[str, component_name("model", NO_MODEL)] = setting(
        "MLP",
        f"one of {', '.join(names('model'))}, or package.module:Name; none: an outcome "
        "that is measured, but neither predicted nor ranked by",
    )
    loss_function: Annotated[str, component_name("loss")] | None = setting(
        None, f"one of {', '.join(names('loss'))}, or package.module:Name"
    )
    model_params: dict[str, Any] = setting({}, "settings of the model")
    learning_rate: Rate | None = setting(None, "of a phase that gives no rate of its own")
    weight_decay: Decay | None = setting(None, "of a phase that gives none of its own; null: 0")
    features: LabelFeatures | None = setting(
        None, "the features that its network sees; null: those of the section feature"
    )
    alpha_T: Number | None = setting(
        None, "weight in the treatment arm's score, without arms; null: 1"
    )
    alpha_C: Number | None = setting(
        None, "weight in the control arm's score, without arms; null: 1"
    )
    arms: Annotated[tuple[Literal["control", "treatment"], ...], Field(strict=False)] | None = (
        setting(
            None,
            "the arms whose score it may enter, for which alone its networks are "
            "trained and reported; null: those whose score has it, or both without arms",
        )
    )
    score_unit: Literal["standard", "raw"] = setting(
        "standard", "whether predictions enter the score standardised or as they are"
    )

    def alpha(self, arm: str) -> float:
        """Its weight in an arm's score, where there is no section `arms`."""
        given = self.alpha_C if arm == ARMS[0] else self.alpha_T
        return float(arm in (self.arms or ARMS)) if given is None else given

    @field_validator("loss_function", "features", "arms")
    @classmethod
    def _of_a_model(cls, value: Any, info: ValidationInfo) -> Any:
        if value is not None and info.data.get("model") == NO_MODEL:
            raise ValueError("has no effect without a model: leave it out")
        return value

    @field_validator("arms")
    @classmethod
    def _arms_with_weights(
        cls, arms: tuple[str, ...] | None, info: ValidationInfo
    ) -> tuple[str, ...] | None:
        if arms is None:
            return None
        if not arms or repeated(arms):
            raise ValueError("must be control, treatment or both, each once")
        for arm in ARMS:
            alpha = f"alpha_{arm[0].upper()}"
            if arm not in arms and info.data.get(alpha):
                raise ValueError(f"lacks {arm}, but {alpha} is not 0: leave it out, or add the arm")
        return tuple(arm for arm in ARMS if arm in arms)

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
        kind, known = info.data.get("type"), names("loss")
        if loss is None and info.data.get("model") != NO_MODEL:
            raise ValueError(f"missing: use one of {', '.join(known)}")
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


# --- arms ----------------------------------------------------------------------------------------


class ExploreConfig(ByKind):
    """How an arm departs from showing the candidate with the best score."""

    _acts: ClassVar = {"epsilon_greedy": {"epsilon": None}, "softmax": {"temperature": None}}

    kind: Literal["none", "epsilon_greedy", "softmax", "thompson"] = setting(
        "none",
        "none: the best; epsilon_greedy: at times any candidate, each as likely; "
        "softmax: a candidate with probability proportional to exp(score / temperature); thompson: "
        "the best by scores that are drawn with the networks' dropout",
    )
    epsilon: Annotated[float, Field(gt=0, le=1)] | None = setting(
        None, "epsilon_greedy: how often any candidate is shown"
    )
    temperature: Rate | None = setting(None, "softmax: in units of the score")


class ArmConfig(Section):
    """An arm's policy: a score that fuses labels, a rule, or a policy from outside."""

    score: dict[str, Number] | None = setting(
        None, "labels that the arm ranks by, with their weights"
    )
    rule: Literal["random", "most_popular"] | None = setting(
        None, "random: any candidate; most_popular: the video with the most pretraining rows"
    )
    policy: Annotated[str, component_name("policy")] | None = setting(
        None, "a realdataexp.arms.Policy as package.module:Name"
    )
    options: dict[str, Any] = setting({}, "of the policy")
    explore: ExploreConfig = setting(ExploreConfig(), "how the arm departs from the best score")

    @field_validator("policy")
    @classmethod
    def _from_outside(cls, policy: str | None) -> str | None:
        if policy is not None and not is_outside(policy):
            raise ValueError(f"is a rule of the package: write rule: {policy}")
        return policy

    @field_validator("score")
    @classmethod
    def _some_label(cls, score: dict[str, float] | None) -> dict[str, float] | None:
        if score == {}:
            raise ValueError("is empty: name a label and its weight")
        return score

    @model_validator(mode="after")
    def _one_way_to_score(self) -> ArmConfig:
        given = [name for name in ("score", "rule", "policy") if getattr(self, name) is not None]
        if len(given) != 1:
            found = f"has {' and '.join(given)}" if given else "has neither score, rule nor policy"
            raise ValueError(f"{found}: keep one of them")
        if self.options and self.policy is None:
            raise ValueError("options have no effect without a policy: leave them out")
        kind = self.explore.kind
        if kind != "none" and self.rule == "random":
            raise ValueError(f"explore: {kind} has no effect on rule: random: leave it out")
        if kind == "thompson" and self.score is None:
            raise ValueError("explore: thompson draws from networks: set a score")
        return self


class ArmsConfig(Section):
    """What the two arms of the test do; in place of the labels' alpha_T and alpha_C."""

    control: ArmConfig = Field(description="the arm as it is")
    treatment: ArmConfig = Field(description="the arm that is tested")

    @property
    def by_name(self) -> dict[str, ArmConfig]:
        """Both of them."""
        return dict(zip(ARMS, (self.control, self.treatment), strict=True))

    def check(self, labels: Sequence[LabelConfig]) -> None:
        """See whether the arms and the labels fit.

        Raises:
            ValueError: they do not; the message begins with the arm and the label.
        """
        label_of = {label.name: label for label in labels}
        known = [label.name for label in labels if label.model != NO_MODEL]
        used = [(name, arm) for arm, own in self.by_name.items() for name in own.score or ()]
        for name, arm in used:
            where = f"{arm}.score.{name}"
            if name not in label_of:
                raise ValueError(
                    f"{where}: no such label{did_you_mean(name, known)}; those with a model "
                    f"are {', '.join(known)}"
                )
            if name not in known:
                raise ValueError(f"{where}: the label has no model to score by: give it one")
            if arm not in (its := label_of[name].arms or ARMS):
                raise ValueError(
                    f"{where}: the label has arms [{', '.join(its)}]: add {arm} there, or leave "
                    "the label out here"
                )
        if twice := [x.name for x in labels if (x.alpha_T, x.alpha_C) != (None, None)]:
            raise ValueError(
                f"stand next to alpha_T or alpha_C of {', '.join(twice)}: keep either arms or these"
            )
        is_open = any(arm.policy is not None for arm in self.by_name.values())
        unused = [name for name in known if name not in dict(used)]
        if unused and not is_open:
            raise ValueError(
                f"no arm's score has the label {', '.join(unused)}: add it to one, or set the "
                f"label's model to {NO_MODEL}"
            )


# --- outcomes ------------------------------------------------------------------------------------

Pair = Annotated[tuple[Text, Text], Field(strict=False)]


class DerivedConfig(Section):
    """A column that is computed from two of the log's, row by row."""

    name: Identifier = Field(description="name as a target of labels and outcomes, an identifier")
    quotient: Pair | None = setting(
        None, "[y, x]: y / x, such as play time per duration; missing where x is not above 0"
    )
    reached: Pair | None = setting(
        None, "[y, x]: 1 where y is x or more, else 0; missing where x is not above 0"
    )
    at_most: Rate | None = setting(
        None, "quotient: what larger ones are cut to; reached: what larger x are cut to; null: no"
    )

    @property
    def columns(self) -> tuple[str, str]:
        """The log's columns y and x."""
        found = self.quotient or self.reached
        assert found is not None  # as checked
        return found

    @property
    def rule(self) -> str:
        """Which of the two it is."""
        return "reached" if self.quotient is None else "quotient"

    @model_validator(mode="after")
    def _one_rule(self) -> DerivedConfig:
        if (self.quotient is None) == (self.reached is None):
            raise ValueError("must have one of quotient and reached: keep one, with two columns")
        if self.columns[0] == self.columns[1]:
            raise ValueError(f"{self.rule}: names {self.columns[0]} twice: name two columns")
        return self


def derived_of(given: tuple[DerivedConfig, ...]) -> tuple[DerivedConfig, ...]:
    """The derived columns, if each has a name of its own and is made of columns of the log.

    Raises:
        ValueError: they are not.
    """
    names = [x.name for x in given]
    if twice := alike(names):
        raise ValueError(f"the name {twice[0]} stands more than once: keep one")
    for i, x in enumerate(given):
        if nested := [column for column in x.columns if column in names]:
            raise ValueError(f"{i}.{x.rule}: {nested[0]} is derived itself: name a log column")
    return given


class OutcomeConfig(Section):
    """An outcome: its name alone, that of a label; or `{name, target, unit}`, or a ratio."""

    name: Identifier = Field(description="name in results, an identifier")
    target: Text | None = setting(
        None, "log column that holds it, or a derived one; null: the label's"
    )
    ratio: Pair | None = setting(
        None,
        "[y, x], labels or columns: an arm's sum of y over its sum of x, over visits where both "
        "are known",
    )
    unit: Text | None = setting(None, "its unit in tables and plots; null: the column's")

    @model_validator(mode="before")
    @classmethod
    def _name_alone(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @field_validator("ratio")
    @classmethod
    def _two_columns(cls, ratio: Pair | None, info: ValidationInfo) -> Pair | None:
        if ratio is not None and info.data.get("target") is not None:
            raise ValueError("stands next to a target: keep one of the two")
        if ratio is not None and ratio[0] == ratio[1]:
            raise ValueError(f"names {ratio[0]} twice: name two columns")
        return ratio


def outcomes_of(
    given: Sequence[OutcomeConfig] | None,
    labels: Sequence[LabelConfig],
    derived: Sequence[DerivedConfig] = (),
) -> tuple[OutcomeConfig, ...]:
    """The outcomes with their targets, or the columns of their ratios.

    By default the labels' targets, each once, then the derived columns.

    Raises:
        ValueError: a target is missing or not the label's, or two outcomes are the same.
    """
    if given is None:
        first: dict[str, OutcomeConfig] = {}
        for label in sorted(labels, key=lambda label: label.model == NO_MODEL):
            first.setdefault(label.target, OutcomeConfig(name=label.name, target=label.target))
        for x in derived:
            first.setdefault(x.name, OutcomeConfig(name=x.name, target=x.name))
        names = [x.name for x in first.values()]
        refuse_twice("name", names)
        refuse_relative(names, "outcome")
        return tuple(first.values())
    targets = {x.name: x.name for x in derived} | {label.name: label.target for label in labels}
    filled = [
        (_as_target if outcome.ratio is None else _as_ratio)(i, outcome, targets)
        for i, outcome in enumerate(given)
    ]
    if all(outcome.ratio is not None for outcome in filled):
        raise ValueError("are ratios alone: list an outcome of a visit, such as a label, too")
    refuse_twice("name", [x.name for x in filled])
    refuse_twice("target", [x.target for x in filled if x.target is not None])
    refuse_twice("ratio", [" / ".join(x.ratio) for x in filled if x.ratio is not None])
    refuse_relative([outcome.name for outcome in filled], "outcome")
    return tuple(filled)


def _as_target(i: int, outcome: OutcomeConfig, targets: Mapping[str, str]) -> OutcomeConfig:
    """An outcome with its target; those of labels and derived columns are known by name."""
    of_label = targets.get(outcome.name)
    if outcome.target is None and of_label is None:
        near = did_you_mean(outcome.name, list(targets))
        raise ValueError(f"{i}.name = {outcome.name}: no such label{near}; or name a target")
    if of_label is not None and outcome.target not in (None, of_label):
        raise ValueError(
            f"{i}.target = {outcome.target}: the label {outcome.name} has the target "
            f"{of_label}: give the outcome another name"
        )
    return outcome.model_copy(update={"target": outcome.target or of_label})


def _as_ratio(i: int, outcome: OutcomeConfig, targets: Mapping[str, str]) -> OutcomeConfig:
    """A ratio of two columns, which may be named by their labels."""
    if outcome.name in targets:
        raise ValueError(
            f"{i}.name = {outcome.name}: is a label or a derived column: give the ratio another "
            "name"
        )
    columns = tuple(targets.get(x, x) for x in outcome.ratio or ())
    if columns[0] == columns[1]:
        raise ValueError(f"{i}.ratio: both are {columns[0]}: name two columns")
    return outcome.model_copy(update={"ratio": columns})


def refuse_twice(what: str, names: Sequence[str]) -> None:
    """Refuse names of outcomes, or their targets, that stand twice."""
    if twice := alike(names):
        raise ValueError(f"the {what} {twice[0]} stands more than once: keep one")
