"""What the worlds that replay a log have in common: features, splits, and opening.

Axes: U users.
"""

from __future__ import annotations

import logging
import math
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from realdataexp import draws
from realdataexp.config import Config, FeatureConfig
from realdataexp.data import schema
from realdataexp.data.features import fit_features
from realdataexp.data.log import DataSet, LogTable, Split, split_log
from realdataexp.device import Device
from realdataexp.errors import Warnings
from realdataexp.models import FeatureSchema, SideSchema
from realdataexp.sequences.item_options import ItemsConfig, inputs_about
from realdataexp.worlds.base import RAW_TIME, WorldConfig
from realdataexp.worlds.replay import ReplayEnvironment

logger = logging.getLogger("realdataexp")

# Categories of KuaiRand's features; others have about a thousand, or as many as there are videos
_LEVELS = {
    "user_active_degree": 9, "video_type": 4, "upload_type": 40, "visible_status": 10,
    "music_type": 20, "tag": 80, "follow_user_num_range": 9, "fans_user_num_range": 10,
    "friend_user_num_range": 8, "register_days_range": 8,
}  # fmt: skip
_PER_VIDEO = ("author_id", "music_id")
_LEVELS_ELSE, _VIDEOS_ELSE, _TAG_SLOTS = 1_000, 10_000, 4


class UnknownPropensity(Exception):
    """Nothing says how likely the log's exposures were; the message says what is missing."""


class LoggedWorld(ItemsConfig, WorldConfig):
    """A world whose candidates and outcomes are rows of a log."""

    takes_features: ClassVar[bool] = True
    has_folder: ClassVar[bool] = True

    @abstractmethod
    def data(
        self, config: Config, cache_path: Path, warnings: Warnings, force: bool = False
    ) -> DataSet:
        """Import the data set, or open its cache."""

    def check_values(self, config: Config, data: DataSet, warnings: Warnings) -> None:
        """Raise an InputError where labels have values that their losses cannot take."""

    @abstractmethod
    def propensities(self, log: LogTable, split: Split) -> np.ndarray:
        """The chance with which each row's video was shown: float64 N, NaN where it is not known.

        Raises:
            UnknownPropensity: it is of no row.
        """

    @abstractmethod
    def side_of(self, feature: str) -> str:
        """Whether a feature is of the "user" or of the "video", as far as its name tells."""

    @property
    def n_videos(self) -> int:
        """About how many videos there are."""
        return _VIDEOS_ELSE

    def open(self, config: Config, device: Device, warnings: Warnings) -> ReplayEnvironment:
        """The data, split for each start, with features fitted to the first one's users."""
        feature = features_of(config)
        data = self.data(config, config.cache_dir(), warnings)
        if config.derived:
            from realdataexp.data.derived import with_derived  # few runs derive any

            asked = ((x.name, x.rule, x.columns, x.at_most) for x in config.derived)
            data = with_derived(data, asked)
        self.check_values(config, data, warnings)
        logger.info(
            "[data] %s rows, %s users, %s videos",
            f"{data.log.n_rows:,}", f"{data.log.n_users:,}", f"{data.videos.height:,}",
        )  # fmt: skip
        starts = range(config.experiment.n_starts)
        splits = [split_users_and_rows(config, data, warnings, start) for start in starts]
        features = fit_features(
            data,
            feature.numerical,
            feature.categorical,
            splits[0].is_training_U,
            missing_indicator=feature.missing_indicator,
            warnings=warnings,
            missing=feature.missing,
        )
        shown = {}
        if self.codes is not None or self.vectors is not None:
            from realdataexp.worlds.shown_videos import shown_videos  # few runs want any

            seed = draws.start_seed(config.seed, 0)
            shown = shown_videos(self, data, splits, seed, warnings, config.path)
        environment = ReplayEnvironment(
            data, splits, features, device, config.seed, feature.history, shown
        )
        loop = config.simulation
        if loop.time_slices is not None:
            from realdataexp.worlds.calendar import require_visits  # few runs have an order

            for cuts_PU in environment.cuts_PXU(loop.time_slices).swapaxes(0, 1):
                require_visits(cuts_PU, loop.n_steps, loop.batch_size, loop.min_candidates)
        return environment

    def prepare(
        self, config: Config, cache_path: Path, force: bool
    ) -> tuple[str, Mapping[str, Any]]:
        """Import the files; their folder, and the import's counts."""
        return str(config.data_dir()), self.data(config, cache_path, Warnings(), force).stats

    def inputs(self, config: Config) -> FeatureSchema:
        """About what models will see: categories are not known before the import."""
        feature = features_of(config)
        sides: dict[str, tuple[list[str], list[str]]] = {"user": ([], []), "video": ([], [])}
        for i, names in enumerate((feature.numerical, feature.categorical)):
            for name in names:
                sides[self.side_of(name)][i].append(name)
        if feature.missing_indicator:
            sides = {side: (2 * numbers, names) for side, (numbers, names) in sides.items()}
        user, video = (_side(*sides[x], self.n_videos) for x in ("user", "video"))
        schema = FeatureSchema(user, video, inputs_about(self))
        return schema.with_history(feature.history) if feature.history else schema

    def scatter(self, target: str) -> float:
        """Of a count or a time without bound, as of a time in milliseconds."""
        high = schema.LABEL_COLUMNS.get(target, (0.0, 0.0))[1]
        return RAW_TIME if math.isinf(high) else super().scatter(target)


def features_of(config: Config) -> FeatureConfig:
    """The features that a config of a logged world lists."""
    assert config.features is not None  # the config's schema sees to it
    return config.features


def split_users_and_rows(
    config: Config, data: DataSet, warnings: Warnings, start: int = 0
) -> Split:
    """A start's split of users and rows, as a config asks for."""
    seed = draws.start_seed(config.seed, start)
    uniform_2U = draws.uniform(draws.key(seed, "split", torch.arange(2)), data.log.n_users).numpy()
    split = split_log(
        data.log,
        uniform_2U=uniform_2U,
        share_validation=config.simulation.user_p_val,
        pretrain_rows=config.pretrain.rows if config.pretrain.enabled else "none",
        pretrain_share=config.pretrain.share,
        warnings=warnings,
    )
    logger.info(
        "[data] %s training users; rows: %s pretrain (%s), %s replay, %s validation",
        f"{int(split.is_training_U.sum()):,}", f"{split.pretrain.n_rows:,}", split.kind,
        f"{split.replay.n_rows:,}", f"{split.validation.n_rows:,}",
        extra={"is_detail": start > 0},
    )  # fmt: skip
    return split


def _side(numerical: Iterable[str], categorical: Iterable[str], n_videos: int) -> SideSchema:
    numbers = tuple(numerical)
    fields, first_ids, slot, n_ids = [], [], 0, 0
    for name in categorical:
        bare = name.rpartition(".")[2]
        slots = _TAG_SLOTS if bare == "tag" else 1
        fields.append((name, slot, slot + slots))
        first_ids.append(n_ids)
        slot += slots
        n_ids += 2 + (n_videos if bare in _PER_VIDEO else _LEVELS.get(bare, _LEVELS_ELSE))
    return SideSchema(len(numbers), tuple(fields), n_ids, numbers, tuple(first_ids))
