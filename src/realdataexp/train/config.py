"""The config of the command `train`: data, one model, counting baselines, training, evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from realdataexp.config import Component, LogConfig, RunSettings, Section, setting
from realdataexp.config.load import TRAIN, draft_of, read_draft, validated
from realdataexp.errors import InputError
from realdataexp.options import Count, component_name, repeated
from realdataexp.registry import names
from realdataexp.sequences.formats import SequenceData
from realdataexp.sequences.item_options import ItemsConfig
from realdataexp.train.trainer import Training


class Recommender(Component):
    """A recommender: its name alone, or `{name, <its options>}`."""

    kind = "recommender"

    name: Annotated[str, component_name("recommender")] = Field(
        description=f"one of {', '.join(names('recommender'))}, or package.module:Name"
    )


class EvaluationConfig(Section):
    """How recommenders are judged: every item is ranked for every question."""

    k: Annotated[tuple[Count, ...], Field(strict=False, min_length=1)] = setting(
        (5, 10), "lengths of the list that hit and NDCG look at"
    )
    validation_users: Count | None = setting(
        None, "questions that validate after each epoch, at most, spread over all users; null: all"
    )

    @field_validator("k")
    @classmethod
    def _ascending(cls, k: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(sorted(set(k)))


class TrainConfig(RunSettings):
    """A training run. Make one with `load_train`."""

    mode: Literal["train"] = Field("train", description="always train")
    dataset: SequenceData = Field(description="the histories")
    items: ItemsConfig = setting(ItemsConfig(), "what models are shown of items")
    model: Recommender = Field(description="what is trained")
    baselines: Annotated[tuple[Recommender, ...], Field(strict=False)] = setting(
        (), "what it is compared with"
    )
    mixture: Recommender | None = setting(
        None,
        "a counting recommender to average a network's probabilities with, by the weight that "
        "validates best; null: none",
    )
    training: Training = setting(Training(), "how a network is trained")
    evaluation: EvaluationConfig = setting(EvaluationConfig(), "how all of them are judged")
    logging: LogConfig = setting(LogConfig(), "logs and run folders")

    @field_validator("baselines")
    @classmethod
    def _each_once(
        cls, baselines: tuple[Recommender, ...], info: ValidationInfo
    ) -> tuple[Recommender, ...]:
        own = [info.data["model"]] if "model" in info.data else []
        if twice := repeated([x.name for x in (*own, *baselines)]):
            raise ValueError(f"{twice[0]} stands more than once: keep one")
        return baselines


def load_train(
    source: str | Path | Mapping[str, Any],
    overrides: Sequence[str] = (),
    *,
    data: str | Path | None = None,
    seed: int | None = None,
    device: str | None = None,
) -> TrainConfig:
    """Load and check a config of mode train; see ``load_config``.

    Raises:
        InputError: with one line for every fault.
    """
    draft = draft_of(source, overrides, data, seed=seed, device=device)
    mode = draft.values.get("mode", TRAIN)
    if mode != TRAIN:
        raise InputError(
            f"{draft.source}: mode = {mode}: no config for train; run it: realdataexp run {source}"
        )
    return validated(draft, TrainConfig)


def is_train(source: str | Path) -> bool:
    """Whether a config file, or a built-in config, is of mode train; False where it is unclear."""
    try:
        return read_draft(source).values.get("mode") == TRAIN
    except InputError:
        return False
