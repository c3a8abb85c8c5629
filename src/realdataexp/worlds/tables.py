"""The world `tables`: replay of one's own log, with tables of videos and users."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import Field, field_validator

from realdataexp.config import Config
from realdataexp.data.log import DataSet, LogTable, Split
from realdataexp.data.tables import TablesConfig, TablesRequest, prepare_tables
from realdataexp.errors import InputError, Warnings
from realdataexp.models import LOSSES
from realdataexp.worlds.logged import LoggedWorld, UnknownPropensity, features_of


class Tables(LoggedWorld):
    """One's own data."""

    leakage: Literal["allow", "forbid"] = Field(
        "allow", description="allow: nobody but you knows which columns see the future"
    )
    tables: TablesConfig | None = Field(
        None, validate_default=True, description="files and columns of the data set tables"
    )

    @field_validator("leakage")
    @classmethod
    def _not_known(cls, leakage: str) -> str:
        if leakage == "forbid":
            raise ValueError("knows KuaiRand's statistics only: leave it out")
        return leakage

    @field_validator("tables")
    @classmethod
    def _given(cls, block: TablesConfig | None) -> TablesConfig:
        if block is None:
            raise ValueError("missing: name the files under log and videos")
        return block

    def side_of(self, feature: str) -> str:
        """By the prefix; where a bare name is, the import knows."""
        return "user" if feature.startswith("user.") else "video"

    def faults(self, config: Config) -> list[str]:
        """What is wrong with files and columns, as far as file headers tell."""
        if config.data_dir() is None:
            return ["dataset.path = null: no data; pass --data DIR with the folder of the tables"]
        return self._request(config).look()[1]

    def found(self, config: Config) -> tuple[str, list[Path]]:
        """The files."""
        request = self._request(config)
        logs = request.logs()
        files = [file for _, file in logs.values()]
        files += [request.path / file for file, _ in request.sides.values()]
        names = [*logs, *(x for x in (request.tables.videos, request.tables.users) if x)]
        return f"{config.data_dir()}: found {', '.join(names)}", files

    def data(
        self, config: Config, cache_path: Path, warnings: Warnings, force: bool = False
    ) -> DataSet:
        """Import the tables, or open their cache."""
        return prepare_tables(self._request(config), cache_path, warnings, force)

    def check_values(self, config: Config, data: DataSet, warnings: Warnings) -> None:
        """Values that a label's loss cannot transform, as log1p(-1) is infinite: in any row."""
        faults = []
        for i, label in enumerate(config.labels):
            loss = LOSSES.get(label.loss_function or "")
            if loss is None or loss.transform is LOSSES["MSE"].transform:
                continue
            y = data.log.targets[label.target]
            y = y[y < 0].astype(np.float64)
            n_without = int((~torch.isfinite(loss.transform(torch.from_numpy(y)))).sum())
            least = y.min(initial=0.0)
            if n_without:
                faults.append(
                    f"labels.{i}.target = {label.target!r}: {n_without:,} values of label "
                    f"{label.name} are -1 or less, the least {least:g}, so {label.loss_function} "
                    f"has no logarithm of 1 + value; set labels.{i}.loss_function to MSE, or make "
                    "the values missing if they stand for none"
                )
            elif y.size:
                warnings.add(
                    "values_below_zero",
                    f"label {label.name}: {y.size:,} values of {label.target} are below 0, "
                    f"the least {least:g}; {label.loss_function} learns them, but never predicts "
                    "below 0",
                )
        if faults:
            raise InputError(*faults)

    def _request(self, config: Config) -> TablesRequest:
        path, feature = config.data_dir(), features_of(config)
        assert path is not None and self.tables is not None  # faults() and the schema see to it
        places = {name: config.place_of_feature(name) for name in feature.names}
        targets = config.targets
        if self.tables.propensity is not None:
            targets.setdefault(self.tables.propensity, "dataset.tables.propensity")
        return TablesRequest(
            path, self.tables, feature.numerical, feature.categorical, targets, places,
            config.simulation.order == "time",
        )  # fmt: skip

    def propensities(self, log: LogTable, split: Split) -> np.ndarray:
        """The column that names them."""
        assert self.tables is not None
        if self.tables.propensity is None:
            raise UnknownPropensity(
                "dataset.tables.propensity names no column with the chance of each exposure"
            )
        return log.targets[self.tables.propensity].astype(np.float64)
