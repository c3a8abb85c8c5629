"""The worlds that replay rows in KuaiRand's format.

`KuaiRand-Pure`, `KuaiRand-1K` and `KuaiRand-27K` are in a KuaiRand folder; those of `synthetic` are
made on first use.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import polars as pl
from pydantic import Field

from realdataexp.config import Config
from realdataexp.data import schema
from realdataexp.data.csv_files import read_header
from realdataexp.data.kuairand import Files, ImportRequest, find_files, prepare
from realdataexp.data.log import DataSet, LogTable, Split
from realdataexp.data.synthetic import SyntheticConfig, SyntheticTables, made_bytes
from realdataexp.errors import InputError, Warnings
from realdataexp.options import EachOnce
from realdataexp.worlds.base import WorldConfig
from realdataexp.worlds.logged import LoggedWorld, UnknownPropensity, features_of


class KuaiRand(LoggedWorld):
    """Files in KuaiRand's format."""

    logs: Annotated[
        tuple[Literal["random", "standard_early", "standard_late"], ...],
        Field(strict=False, min_length=1),
        EachOnce,
    ] = Field(("random", "standard_early", "standard_late"), description="the logs to replay")
    leakage: Literal["allow", "forbid"] = Field(
        "allow", description="whether monthly video statistics, which see the future, may be used"
    )

    @property
    def version(self) -> str:
        """pure, 1k or 27k."""
        return self.name.rpartition("-")[2].lower()

    @property
    def n_videos(self) -> int:
        """Of the standard logs."""
        known = schema.KNOWN_TOTALS.get(self.version, {})
        return known.get("standard_videos", super().n_videos)

    def side_of(self, feature: str) -> str:
        """As KuaiRand's files have it."""
        return schema.resolve_feature(feature).side

    # --- before the import -------------------------------------------------------------------

    def faults(self, config: Config) -> list[str]:
        """What is wrong with names, files and columns, as far as file headers tell."""
        columns, faults = _named(config)
        if config.data_dir() is None:
            return [*faults, "dataset.path = null: no data; pass --data DIR with a KuaiRand folder"]
        try:
            files = self._files(config)
        except InputError as error:
            return [*faults, *error.faults]
        headers: dict[str, tuple[str, ...]] = {}
        for stem, shards in files.shards.items():
            try:
                headers[stem] = read_header(shards[0])
            except InputError as error:
                faults += error.faults
        logs = [schema.LOG_STEMS[log] for log in self.logs]
        for where, column in columns.items():
            if isinstance(column, str):
                stems, name = logs, column
            else:
                stems, name = [column.file], column.source
            lacking = [x for x in stems if x in headers and name not in headers[x]]
            if lacking:
                paths = ", ".join(str(files.shards[stem][0]) for stem in lacking)
                hint = schema.nearest(name, headers[lacking[0]])
                faults.append(
                    f"{where}: {paths} has no column {name!r}{hint}; leave it out of the config or "
                    "mend the file"
                )
        return faults

    def _files(self, config: Config) -> Files:
        path = config.data_dir()
        assert path is not None  # faults() sees to it
        return find_files(path, self.logs, bool(_of_the_future(config)))

    def doubts(self, config: Config) -> list[tuple[str, str]]:
        """Features that look into the future."""
        leaking = ", ".join(_of_the_future(config))
        if not leaking:
            return []
        text = f"{leaking}: averages over the whole month, so they look into the future"
        if self.leakage == "forbid":
            raise InputError(f"feature: {text}; leave them out or set dataset.leakage: allow")
        said = f"features {text} of every row (dataset.leakage: forbid refuses them)"
        return [("leakage", said)]

    def found(self, config: Config) -> tuple[str, list[Path]]:
        """The files, whole."""
        files = self._files(config)
        files.check(files.shards)
        there = [file for part in files.shards.values() for file in part]
        missing = [stem for stem in schema.STEMS if stem not in files.shards]
        not_needed = f"; not asked for: {', '.join(missing)}" if missing else ""
        names = ", ".join(file.name for file in there)
        return f"{config.data_dir()}: KuaiRand {files.version}, found {names}{not_needed}", there

    # --- the import --------------------------------------------------------------------------

    def data(
        self, config: Config, cache_path: Path, warnings: Warnings, force: bool = False
    ) -> DataSet:
        """Import the folder, or open its cache."""
        path = config.data_dir()
        assert path is not None  # faults() sees to it
        data = prepare(self.request(path, config), cache_path, warnings, force)
        if self.version != data.version:
            warnings.add(
                "other_version",
                f"dataset.name = {self.name!r} but {path} holds the files of {data.version!r}",
            )
        return data

    def propensities(self, log: LogTable, split: Split) -> np.ndarray:
        """Of the random log: one of its videos, each as likely; it may be mixed with the early log.

        Once imported, its rows are not told from those of the late standard log.
        """
        if "random" not in self.logs or "standard_late" in self.logs:
            raise UnknownPropensity(
                f"dataset.logs = [{', '.join(self.logs)}]: only the random log's exposures have a "
                "known chance, and only without standard_late are its rows told from others"
            )
        late_from_N = np.repeat(log.offset_U1[:-1] + log.n_early_U, np.diff(log.offset_U1))
        is_random_N = np.arange(log.n_rows) >= late_from_N
        n_pool = len(np.unique(log.video_N[is_random_N]))
        return np.where(is_random_N, 1.0 / max(1, n_pool), np.nan)

    def rows(self, config: Config) -> Iterator[pl.DataFrame]:
        """All rows of the logs with the official columns that their files have, in blocks."""
        targets = tuple(x for x in config.measured.values() if x in schema.LABEL_COLUMNS)
        for _, frame in self._files(config).read_log({log: 1 for log in self.logs}, targets):
            yield frame

    def request(self, path: Path, config: Config) -> ImportRequest:
        """What a config asks of a folder."""
        feature, faults = features_of(config), _named(config)[1]
        if faults:
            raise InputError(*faults)
        targets = tuple(config.targets)
        asked = feature.numerical, feature.categorical, targets
        return ImportRequest(path, self.logs, *asked, config.simulation.order == "time")

    def prepare(
        self, config: Config, cache_path: Path, force: bool
    ) -> tuple[str, Mapping[str, Any]]:
        """Import the folder; its name and version, and the import's counts."""
        data = self.data(config, cache_path, Warnings(), force)
        return f"{config.data_dir()}: KuaiRand {data.version}", data.stats


def _named(config: Config) -> tuple[dict[str, str | schema.Column], list[str]]:
    """The label columns and the features that are known, by their places; and the faults."""
    columns: dict[str, str | schema.Column] = {}
    faults = []
    for target, place in config.targets.items():
        where = f"{place} = {target!r}"
        if target in schema.LABEL_COLUMNS:
            columns[where] = target
        else:
            known = tuple(schema.LABEL_COLUMNS)
            hint = schema.nearest(target, known) or f"; there are {', '.join(known)}"
            faults.append(f"{where}: no such column in the logs{hint}")
    faults += [
        f"derived.{i}.name = {x.name!r}: the logs have a column of this name; use another"
        for i, x in enumerate(config.derived)
        if x.name in schema.LABEL_COLUMNS
    ]
    feature = features_of(config)
    for name in feature.names:
        place = config.place_of_feature(name)
        where = f"{place} = {name!r}"
        try:
            column = columns[where] = schema.resolve_feature(name)
        except InputError as error:
            reason = str(error).replace(f" {name!r}", "", 1)
            hint = "" if ";" in reason else "; use a column of the user or the video files"
            faults.append(f"{where}: {reason}{hint}")
            continue
        if column.is_text and name in feature.numerical:
            words = f"{place.partition('.numerical')[0]}.categorical"
            faults.append(f"{where}: holds words, not numbers; list it in {words}")
    return columns, faults


def _of_the_future(config: Config) -> list[str]:
    columns = _named(config)[0].values()
    return [x.name for x in columns if not isinstance(x, str) and x.file == schema.VIDEO_STATISTIC]


# --- made ----------------------------------------------------------------------------------------


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
        return _named(config)[1]

    def found(self, config: Config) -> tuple[str, list[Path]]:
        """Nothing is needed."""
        return WorldConfig.found(self, config)

    def data(
        self, config: Config, cache_path: Path, warnings: Warnings, force: bool = False
    ) -> DataSet:
        """Make the rows, or open their cache."""
        request = self.request(Path("synthetic"), config)
        return prepare(request, cache_path, warnings, force, SyntheticTables(self.synthetic))

    def _files(self, config: Config) -> Files:
        return SyntheticTables(self.synthetic)

    def made_bytes(self, config: Config, n_inputs: int) -> int:
        """Of the rows while they are made; a validation has no more visits than rows."""
        return made_bytes(self.synthetic.users, self.synthetic.videos)

    def sizes(self) -> list[tuple[str, int, int]]:
        """Users and videos."""
        return [
            ("dataset.synthetic.users", self.synthetic.users, 2_000),
            ("dataset.synthetic.videos", self.synthetic.videos, 2_000),
        ]
