"""The table that an experiment reads, opened without the experiment.

Axes: U users, V videos, N rows of the pretraining.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from realdataexp.bench.importing import request_of
from realdataexp.config import Config
from realdataexp.data.features import Features, fit_features
from realdataexp.data.kuairand import prepare
from realdataexp.data.log import DataSet
from realdataexp.data.split import Split
from realdataexp.device import choose_device
from realdataexp.errors import Warnings
from realdataexp.models import LOSSES, FeatureSchema, LabelScale
from realdataexp.runs.setup import fit_scale, split_users_and_rows
from realdataexp.worlds.replay import ReplayEnvironment


@dataclass(frozen=True)
class Table:
    """A data set with its features, split as the experiment splits it."""

    config: Config
    data: DataSet
    split: Split
    features: Features
    environment: ReplayEnvironment

    @property
    def schema(self) -> FeatureSchema:
        """What a model sees."""
        return self.environment.schema

    def scales(self) -> list[LabelScale]:
        """Location and scale of each label."""
        return [
            fit_scale(
                label,
                label.name,
                self.environment.label_values(label.target),
                LOSSES[label.loss_function or ""],
                Warnings(),
            )
            for label in self.config.labels
        ]

    def pretraining_rows(self, n_rows: int) -> tuple[np.ndarray, np.ndarray]:
        """Users and log rows of the first ``n_rows`` rows of the pretraining, or of all: N."""
        rows = self.split.pretrain
        return rows.locate(np.arange(min(n_rows, rows.n_rows)))


def open_table(config: Config) -> Table:
    """Open a config's data on the CPU.

    Raises:
        InputError: something is wrong with them.
    """
    assert config.feature is not None  # the suite's configs replay logs
    data = prepare(request_of(config), config.cache_dir(), Warnings())
    split = split_users_and_rows(config, data, Warnings())
    features = fit_features(
        data,
        config.feature.numerical,
        config.feature.categorical,
        split.is_training_U,
        missing_indicator=config.feature.missing_indicator,
        warnings=Warnings(),
    )
    environment = ReplayEnvironment(data, [split], features, choose_device("cpu"), config.seed)
    return Table(config, data, split, features, environment)
