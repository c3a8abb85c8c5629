"""The world `synthetic`: replay of generated rows in KuaiRand's format, made on first use."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from realdataexp.config import Config
from realdataexp.data.log import DataSet
from realdataexp.data.synthetic import SyntheticTables, made_bytes, prepare_synthetic
from realdataexp.errors import Warnings
from realdataexp.options import Count, Options
from realdataexp.worlds.base import WorldConfig
from realdataexp.worlds.kuairand import KuaiRand, named_columns


class SyntheticConfig(Options):
    """Size of generated data (`dataset.name: synthetic`)."""

    version: Literal["pure", "1k", "27k"] = Field("pure", description="whose file names to use")
    users: Count = Field(2000, description="number of users")
    videos: Count = Field(1500, description="number of videos")
    rows: Count = Field(120_000, description="log rows over all logs")
    seed: int = Field(
        0, ge=0, le=2**63 - 1, description="seed of the generated data, apart from the run's seed"
    )


class Synthetic(KuaiRand):
    """Generated rows."""

    has_folder: ClassVar[bool] = False

    synthetic: SyntheticConfig = Field(
        SyntheticConfig(), description="size of the data of the data set synthetic"
    )

    @property
    def n_videos(self) -> int:
        """As many as are made."""
        return self.synthetic.videos

    def faults(self, config: Config) -> list[str]:
        """Names that no file of this format has."""
        return named_columns(config)[2]

    def found(self, config: Config) -> tuple[str, list[Path]]:
        """Nothing is needed."""
        return WorldConfig.found(self, config)

    def data(
        self, config: Config, cache_path: Path, warnings: Warnings, force: bool = False
    ) -> DataSet:
        """Make the rows, or open their cache."""
        own = self.synthetic
        made = SyntheticTables(own.version, own.users, own.videos, own.rows, own.seed)
        request = self.request(Path("synthetic"), config)
        return prepare_synthetic(made, request, cache_path, warnings, force)

    def made_bytes(self, config: Config, n_inputs: int) -> int:
        """Of the rows while they are made; a validation has no more visits than rows."""
        return made_bytes(self.synthetic.users, self.synthetic.videos)

    def sizes(self) -> list[tuple[str, int, int]]:
        """Users and videos."""
        return [
            ("dataset.synthetic.users", self.synthetic.users, 2_000),
            ("dataset.synthetic.videos", self.synthetic.videos, 2_000),
        ]
