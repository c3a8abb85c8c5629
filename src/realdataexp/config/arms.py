"""The arms' policies, and the outcomes: what is measured, apart from what is predicted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from realdataexp.config.blocks import (
    ARMS,
    NO_MODEL,
    LabelConfig,
    alike,
    identifier,
)
from realdataexp.errors import did_you_mean
from realdataexp.options import Number, Options, Rate, Text, component_name
from realdataexp.registry import is_outside

_Kind = Literal["none", "epsilon_greedy", "softmax", "thompson"]
_ACTS = {"epsilon_greedy": "epsilon", "softmax": "temperature"}


class ExploreConfig(Options):
    """How an arm departs from showing the candidate with the best score."""

    kind: _Kind = Field(
        "none",
        description="none: the best; epsilon_greedy: at times any candidate, each as likely; "
        "softmax: a candidate with probability proportional to exp(score / temperature); thompson: "
        "the best by scores that are drawn with the networks' dropout",
    )
    epsilon: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None, validate_default=True, description="epsilon_greedy: how often any candidate is shown"
    )
    temperature: Rate | None = Field(
        None, validate_default=True, description="softmax: in units of the score"
    )

    @field_validator("epsilon", "temperature")
    @classmethod
    def _only_where_it_acts(cls, value: float | None, info: ValidationInfo) -> float | None:
        kind, name = info.data.get("kind"), info.field_name
        if kind is not None and value is not None and _ACTS.get(kind) != name:
            raise ValueError(f"has no effect with kind {kind}: leave it out")
        if kind is not None and value is None and _ACTS.get(kind) == name:
            raise ValueError(f"missing: kind {kind} needs it")
        return value


class ArmConfig(Options):
    """An arm's policy: a score that fuses labels, a rule, or a policy from outside."""

    score: dict[str, Number] | None = Field(
        None, description="the labels that the arm ranks by, each with its weight"
    )
    rule: Literal["random", "most_popular"] | None = Field(
        None,
        description="random: any candidate; most_popular: the video with the most pretraining rows",
    )
    policy: Annotated[str, component_name("policy")] | None = Field(
        None, description="a realdataexp.arms.Policy as package.module:Name"
    )
    options: dict[str, Any] = Field(default_factory=dict, description="of the policy")
    explore: ExploreConfig = Field(
        ExploreConfig(), description="how the arm departs from the best score"
    )

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
            raise ValueError(f"{found}: give one of them")
        if self.options and self.policy is None:
            raise ValueError("options have no effect without a policy: leave them out")
        kind = self.explore.kind
        if kind != "none" and self.rule == "random":
            raise ValueError(f"explore: {kind} has no effect on rule: random: leave it out")
        if kind == "thompson" and self.score is None:
            raise ValueError("explore: thompson draws from networks: give a score")
        return self


class ArmsConfig(Options):
    """What the two arms of the test do; in place of the labels' alpha_T and alpha_C."""

    control: ArmConfig = Field(description="the arm as it is")
    treatment: ArmConfig = Field(description="the arm that is tested")

    def check(self, labels: Sequence[LabelConfig]) -> None:
        """See whether the arms and the labels fit.

        Raises:
            ValueError: they do not; the message begins with the arm and the label.
        """
        by_name = {label.name: label for label in labels}
        known = [label.name for label in labels if label.model != NO_MODEL]
        for arm in ARMS:
            for name in getattr(self, arm).score or ():
                where = f"{arm}.score.{name}"
                if name not in by_name:
                    raise ValueError(
                        f"{where}: no such label{did_you_mean(name, known)}; those with a model "
                        f"are {', '.join(known)}"
                    )
                if by_name[name].model == NO_MODEL:
                    raise ValueError(f"{where}: the label has no model to score by: give it one")
                if arm not in (by_name[name].arms or ARMS):
                    raise ValueError(
                        f"{where}: the label has arms [{', '.join(by_name[name].arms or ())}]: add "
                        f"{arm} there, or leave the label out here"
                    )
        if twice := [x.name for x in labels if (x.alpha_T, x.alpha_C) != (None, None)]:
            raise ValueError(
                f"stand beside alpha_T or alpha_C of {', '.join(twice)}: keep either arms or these"
            )
        is_open = any(getattr(self, arm).policy is not None for arm in ARMS)
        used = {*(self.control.score or ()), *(self.treatment.score or ())}
        if unused := [name for name in known if name not in used and not is_open]:
            raise ValueError(
                f"no arm's score has the label {', '.join(unused)}: add it to one, or set the "
                f"label's model to {NO_MODEL}"
            )


class OutcomeConfig(Options):
    """An outcome: its name alone, that of a label; or `{name, target, unit}`."""

    name: Text = Field(description="name in results, an identifier")
    target: Text | None = Field(None, description="log column that holds it; null: the label's")
    unit: Text | None = Field(None, description="its unit in tables and plots; null: the column's")

    @model_validator(mode="before")
    @classmethod
    def _name_alone(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @field_validator("name")
    @classmethod
    def _identifier(cls, name: str) -> str:
        return identifier(name)


def outcomes_of(
    given: Sequence[OutcomeConfig] | None, labels: Sequence[LabelConfig]
) -> tuple[OutcomeConfig, ...]:
    """The outcomes with their targets; by default the labels' targets, each once.

    Raises:
        ValueError: a target is missing or not the label's, or two outcomes are the same.
    """
    if given is None:
        first: dict[str, OutcomeConfig] = {}
        for label in sorted(labels, key=lambda label: label.model == NO_MODEL):
            first.setdefault(label.target, OutcomeConfig(name=label.name, target=label.target))
        return tuple(first.values())
    targets = {label.name: label.target for label in labels}
    filled = []
    for i, outcome in enumerate(given):
        of_label = targets.get(outcome.name)
        if outcome.target is None and of_label is None:
            near = did_you_mean(outcome.name, list(targets))
            raise ValueError(f"{i}.name = {outcome.name}: no such label{near}; or give a target")
        if of_label is not None and outcome.target not in (None, of_label):
            raise ValueError(
                f"{i}.target = {outcome.target}: the label {outcome.name} has the target "
                f"{of_label}: give the outcome another name"
            )
        filled.append(outcome.model_copy(update={"target": outcome.target or of_label}))
    for what in ("name", "target"):
        if twice := alike([getattr(x, what) for x in filled]):
            raise ValueError(f"the {what} {twice[0]} stands more than once: keep one")
    names = [outcome.name for outcome in filled]
    if clash := [name for name in names if f"{name}_relative" in names]:
        raise ValueError(
            f"{clash[0]}_relative: results call the relative effect on {clash[0]} so: give that "
            "outcome another name"
        )
    return tuple(filled)
