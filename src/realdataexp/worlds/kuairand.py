"""The worlds `KuaiRand-Pure`, `KuaiRand-1K` and `KuaiRand-27K`: replay of a KuaiRand folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from realdataexp.config import Config
from realdataexp.data import schema
from realdataexp.data.csv_files import read_header
from realdataexp.data.integrity import check_shards
from realdataexp.data.kuairand import Files, ImportRequest, find_files, prepare
from realdataexp.data.log import DataSet
from realdataexp.errors import InputError, Warnings
from realdataexp.options import repeated
from realdataexp.worlds.logged import LoggedWorld, features_of


class KuaiRand(LoggedWorld):
    """Files in KuaiRand's format."""

    logs: Annotated[
        tuple[Literal["random", "standard_early", "standard_late"], ...],
        Field(strict=False, min_length=1),
    ] = Field(("random", "standard_early", "standard_late"), description="the logs to replay")
    leakage: Literal["allow", "forbid"] = Field(
        "allow", description="whether monthly video statistics, which see the future, may be used"
    )

    @field_validator("logs")
    @classmethod
    def _no_log_twice(cls, logs: tuple[str, ...]) -> tuple[str, ...]:
        if twice := repeated(logs):
            raise ValueError(f"each log once: remove the second {', '.join(twice)}")
        return logs

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
        targets, features, faults = named_columns(config)
        path = config.data_dir()
        if path is None:
            return [*faults, "dataset.path = null: no data; give --data DIR with a KuaiRand folder"]
        need_statistic = any(column.file == schema.VIDEO_STATISTIC for _, column in features)
        try:
            files = find_files(path, self.logs, need_statistic)
        except InputError as error:
            return [*faults, *error.faults]
        headers = {}
        for stem, shards in files.shards.items():
            try:
                headers[stem] = read_header(shards[0])
            except InputError as error:
                faults += error.faults
        logs = [schema.LOG_STEMS[log] for log in self.logs]
        wanted = [(where, name, logs) for where, name in targets]
        wanted += [(where, column.source, [column.file]) for where, column in features]
        for where, column, stems in wanted:
            faults += _lacking(where, column, [s for s in stems if s in headers], headers, files)
        return faults

    def doubts(self, config: Config) -> list[tuple[str, str]]:
        """Features that look into the future."""
        leaking = []
        for name in _names(config):
            try:
                column = schema.resolve_feature(name)
            except InputError:
                continue  # which faults() reports
            if column.file == schema.VIDEO_STATISTIC:
                leaking.append(name)
        if not leaking:
            return []
        text = f"{', '.join(leaking)}: averages over the whole month, so they look into the future"
        if self.leakage == "forbid":
            raise InputError(f"feature: {text}; leave them out or set dataset.leakage: allow")
        said = f"features {text} of every row (dataset.leakage: forbid refuses them)"
        return [("leakage", said)]

    def found(self, config: Config) -> tuple[str, list[Path]]:
        """The files, whole."""
        stems = {schema.resolve_feature(name).file for name in _names(config)}
        path = config.data_dir()
        assert path is not None  # faults() sees to it
        files = find_files(path, self.logs, schema.VIDEO_STATISTIC in stems)
        check_shards(files.shards, files.version)
        there = [file for part in files.shards.values() for file in part]
        missing = [stem for stem in schema.STEMS if stem not in files.shards]
        not_needed = f"; not asked for: {', '.join(missing)}" if missing else ""
        names = ", ".join(file.name for file in there)
        return f"{path}: KuaiRand {files.version}, found {names}{not_needed}", there

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

    def request(self, path: Path, config: Config) -> ImportRequest:
        """What a config asks of a folder."""
        feature = features_of(config)
        targets = tuple(config.targets)
        return ImportRequest(path, self.logs, feature.numerical, feature.categorical, targets)

    def prepare(
        self, config: Config, cache_path: Path, force: bool
    ) -> tuple[str, Mapping[str, Any]]:
        """Import the folder; its name and version, and the import's counts."""
        data = self.data(config, cache_path, Warnings(), force)
        return f"{config.data_dir()}: KuaiRand {data.version}", data.stats


def _names(config: Config) -> tuple[str, ...]:
    feature = features_of(config)
    return (*feature.numerical, *feature.categorical)


def named_columns(
    config: Config,
) -> tuple[list[tuple[str, str]], list[tuple[str, schema.Column]], list[str]]:
    """The label columns and the features that are known, each with its place; and the faults."""
    targets, features, faults = [], [], []
    for target, place in config.targets.items():
        where = f"{place} = {target!r}"
        if target in schema.LABEL_COLUMNS:
            targets.append((where, target))
        else:
            known = tuple(schema.LABEL_COLUMNS)
            hint = schema.nearest(target, known) or f"; there are {', '.join(known)}"
            faults.append(f"{where}: no such column in the logs{hint}")
    for kind in ("numerical", "categorical"):
        for name in getattr(config.features, kind):
            place = config.place_of_feature(name)
            where = f"{place} = {name!r}"
            try:
                column = schema.resolve_feature(name)
            except InputError as error:
                reason = str(error).replace(f" {name!r}", "", 1)
                hint = "" if ";" in reason else "; use a column of the user or the video files"
                faults.append(f"{where}: {reason}{hint}")
                continue
            if column.is_text and kind == "numerical":
                words = f"{place.partition('.numerical')[0]}.categorical"
                faults.append(f"{where}: holds words, not numbers; list it in {words}")
            features.append((where, column))
    return targets, features, faults


def _lacking(
    where: str, column: str, stems: list[str], headers: dict[str, tuple[str, ...]], files: Files
) -> Iterator[str]:
    """A fault for the first of a file's kinds whose header lacks a column."""
    lacking = [stem for stem in stems if column not in headers[stem]]
    if lacking:
        first = lacking[0]
        names = ", ".join(str(files.shards[stem][0]) for stem in lacking)
        yield (
            f"{where}: {names} has no column {column!r}{schema.nearest(column, headers[first])}; "
            "leave it out of the config or mend the file"
        )
