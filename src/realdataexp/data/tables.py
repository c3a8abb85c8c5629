"""One's own data: a log and tables of users and videos, Parquet or CSV, as the same `DataSet`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import polars as pl
from pydantic import Field, ValidationInfo, field_validator

from realdataexp.data import cache
from realdataexp.data.features import MULTI_HOT
from realdataexp.data.ingest import (
    BUCKET_ROWS,
    LATE,
    PLACE,
    FeatureSource,
    doubts,
    sorted_by,
    write_features,
    write_log,
)
from realdataexp.data.log import DataSet
from realdataexp.data.schema import nearest
from realdataexp.data.table_files import TableFile, columns_of, is_whole, log_files, parse_dates
from realdataexp.errors import InputError, Warnings
from realdataexp.options import EachOnce, Names, Options, PathText, Text

VERSION = "tables"
TimeUnit = Literal["us", "ns"]
_TEXTS = {
    "duplicate_rows": "{duplicate_rows:,} of {n_rows_read:,} log rows repeat another one's user, "
    "video, time and labels and were dropped",
    "rows_without_time": "{rows_without_time:,} of {n_rows_read:,} log rows have no time and were "
    "dropped",
}
_ID = {"user": "user_id", "video": "video_id"}  # in what is written, however the files call them


# ---- what is asked ------------------------------------------------------------------------------


class TablesConfig(Options):
    """Files and columns of one's own data (`dataset.name: tables`); paths are within its folder."""

    log: Annotated[tuple[PathText, ...], Field(strict=False, min_length=1), EachOnce] = Field(
        description="the log's files, .parquet or .csv; or folders of such parts, or patterns"
    )
    videos: PathText = Field(description="file with a row for each video, .parquet or .csv")
    users: PathText | None = Field(
        None, description="file with a row for each user; null: users have no features"
    )
    user_id: Text = Field("user_id", description="column of the user, in the log and in users")
    video_id: Text = Field(
        "video_id",
        validate_default=True,
        description="column of the video, in the log and in videos",
    )
    time: Text = Field(
        "time",
        validate_default=True,
        description="column of the log: a number, or an ISO date and time",
    )
    early_before: int | float | Text | None = Field(
        None, description="rows of an earlier time are the early log; null: there is none"
    )
    lists: Annotated[Names, EachOnce] = Field(
        (), description="categorical features whose texts hold several categories, as a,b,c"
    )
    propensity: Text | None = Field(
        None,
        description="column of the log: the chance with which the row's video was shown to the "
        "row's user, above 0 and at most 1; for observe",
    )

    @field_validator("early_before", mode="before")
    @classmethod
    def _date_as_text(cls, value: Any) -> Any:
        return value.isoformat() if isinstance(value, date) else value  # YAML reads dates

    @field_validator("video_id", "time")
    @classmethod
    def _columns_of_their_own(cls, name: str, info: ValidationInfo) -> str:
        for other in ("user_id", "video_id"):
            if info.field_name != other and name == info.data.get(other):
                raise ValueError(f"is {other} too: name the column of each")
        return name


@dataclass(frozen=True)
class _Feature:
    """A feature: its name in the config, its side and column, and how it is read."""

    name: str
    side: str
    column: str
    is_numerical: bool
    is_list: bool


@dataclass(frozen=True)
class TablesRequest:
    """What to read from where.

    Attributes:
        path: folder that the files' paths are relative to.
        tables: the files and columns.
        numerical, categorical: features, each a column of users or videos; `user.x` and
            `video.x` say of which.
        targets: the log's columns that are labels, outcomes or propensities, and where the config
            names them.
        places: where the config lists each feature.
        times: whether the rows' times are kept too.
    """

    path: Path
    tables: TablesConfig
    numerical: tuple[str, ...]
    categorical: tuple[str, ...]
    targets: Mapping[str, str]
    places: Mapping[str, str]
    times: bool = False

    def logs(self) -> dict[str, tuple[int, Path]]:
        """The log's files by their paths within the folder; and to which entry each belongs."""
        files: dict[str, tuple[int, Path]] = {}
        for i, entry in enumerate(self.tables.log):
            where = f"dataset.tables.log.{i}"
            try:
                names = log_files(self.path, entry)
            except InputError as error:
                raise InputError(f"{where}: {error}") from error
            if twice := [name for name in names if name in files]:
                raise InputError(
                    f"{where} = {entry!r}: {twice[0]} belongs to an entry before it; name each "
                    "file of the log once"
                )
            files |= {name: (i, self.path / name) for name in names}
        return files

    @property
    def sides(self) -> dict[str, tuple[str, str]]:
        """Of each side that has one, its file as the config names it, and its column of ids."""
        videos = {"video": (self.tables.videos, self.tables.video_id)}
        if self.tables.users is None:
            return videos
        return {"user": (self.tables.users, self.tables.user_id), **videos}

    def look(self) -> tuple[list[_Feature], list[str]]:
        """Where each feature is; and what is wrong with the files and their columns."""
        if not self.path.is_dir():
            return [], [f"dataset.path = {str(self.path)!r}: no such folder; pass --data DIR"]
        faults: list[str] = []
        logs: dict[str, tuple[int, Path]] = {}
        try:
            logs = self.logs()
        except InputError as error:
            faults += error.faults
        columns = {
            side: _columns(f"dataset.tables.{side}s", self.path / file, [id_name], faults)
            for side, (file, id_name) in self.sides.items()
        }
        wanted = (self.tables.user_id, self.tables.video_id, self.tables.time)
        for entry, path in logs.values():
            header = _columns(f"dataset.tables.log.{entry}", path, wanted, faults)
            faults += [
                f"{where} = {target!r}: {path} has no column {target!r}"
                f"{nearest(target, header)}; name one of the log's"
                for target, where in self.targets.items()
                if header and target not in header
            ]
        faults += [
            f"dataset.tables.lists.{i} = {name!r}: not in feature.categorical"
            f"{nearest(name, self.categorical)}; list it there, or leave it out here"
            for i, name in enumerate(self.tables.lists)
            if name not in self.categorical
        ]
        features = []
        # where a table cannot be read, all of its features would be missing
        for name in (*self.numerical, *self.categorical) if all(columns.values()) else ():
            try:
                side, column = self._find(name, columns)
            except InputError as error:
                faults.append(f"{self.places[name]} = {name!r}: {error}")
                continue
            is_numerical, is_list = name in self.numerical, name in self.tables.lists
            features.append(_Feature(name, side, column, is_numerical, is_list))
        return features, faults

    def _find(self, name: str, columns: Mapping[str, tuple[str, ...]]) -> tuple[str, str]:
        """A feature's side and column."""
        prefix, dot, bare = name.partition(".")
        is_explicit = bool(dot) and prefix in _ID
        sides, column = ([prefix], bare) if is_explicit else (list(columns), name)
        found = [side for side in sides if column in columns.get(side, ())]
        if len(found) == 2:
            raise InputError(f"users and videos both have it; write user.{name} or video.{name}")
        if not found:
            known = {name for header in columns.values() for name in header}
            files = " and ".join(str(self.path / file) for file, _ in self.sides.values())
            hint = nearest(column, known)
            raise InputError(f"no such column in {files}{hint}; name one of theirs")
        if column == self.sides[found[0]][1]:
            raise InputError("is the id, not a feature; leave it out")
        return found[0], column


def _columns(where: str, path: Path, needed: Sequence[str], faults: list[str]) -> tuple[str, ...]:
    """A file's columns; empty, with a fault, where it cannot be read."""
    try:
        columns = columns_of(path)
    except InputError as error:
        faults.append(f"{where}: {error}")
        return ()
    for name in needed:
        if name not in columns:
            is_in_path = any(part.startswith(f"{name}=") for part in path.parts)
            hint = f"; {name}=... in its path is not read: make it a column" if is_in_path else ""
            faults.append(
                f"{where}: {path} has no column {name!r}{nearest(name, columns)}{hint}; "
                f"dataset.tables names the columns, and there are {', '.join(columns)[:300]}"
            )
    return columns


# ---- the import ---------------------------------------------------------------------------------


def prepare_tables(
    request: TablesRequest, cache_path: Path, warnings: Warnings, force: bool = False
) -> DataSet:
    """Open a data set of tables, from the cache or by importing the files into it.

    Rows of the log that agree in user, video, time and all targets are one row. Rows without a
    time are dropped. Users and videos of the log without a row in their table stay, with missing
    features. All of these are counted in `stats` and reported as warnings.

    Raises:
        InputError: something is wrong with the request, the files or the cache folder.
    """
    features, faults = request.look()
    if faults:
        raise InputError(*faults)
    asked = {
        "tables": request.tables.model_dump(mode="json"),
        "numerical": request.numerical,
        "categorical": request.categorical,
        "targets": tuple(request.targets),
    }
    logs = {name: path for name, (_, path) in request.logs().items()}
    files = [*logs.values(), *(request.path / file for file, _ in request.sides.values())]
    sources = [cache.source_key(path) for path in files]
    fill = partial(_import, request, logs, features)
    return cache.open_or_import(cache_path, asked, request.path, sources, fill, warnings, force)


def _import(
    request: TablesRequest,
    logs: Mapping[str, Path],
    features: Sequence[_Feature],
    directory: Path,
) -> dict[str, Any]:
    """Write a data set's tables into a directory; return the cache's meta data.

    What the config names of the files is in memory, typed; the sort is not.
    """
    sides = request.sides
    of_side = {side: [x for x in features if x.side == side] for side in sides}
    tables = {
        side: _read_side(request.path / file, id_name, of_side[side])
        for side, (file, id_name) in sides.items()
    }
    log, n_rows, unit = _read_logs(request, logs)
    for side, name in _ID.items():
        own = [tables[side]["id"]] if side in tables else []
        dtype = pl.Int64 if all(map(is_whole, [log[name], *own])) else pl.String
        log = log.with_columns(pl.col(name).cast(dtype))
        if own:
            tables[side] = tables[side].with_columns(pl.col("id").cast(dtype))
    stats: dict[str, Any] = {
        "version": VERSION,
        "files": n_rows,
        "n_rows_read": log.height,
        "rows_without_time": log["time_ms"].null_count(),
    }
    log = log.drop_nulls("time_ms")
    if not log.height:
        raise InputError(f"{', '.join(map(str, logs.values()))}: no row with a time; add some")
    ids = {side: log[name].unique().sort() for side, name in _ID.items()}
    stats |= _import_log(request, log, ids, unit, directory)
    for side, known in ids.items():
        made = {}
        if side in sides:
            file = sides[side][0]
            made = {file: _feature_source(file, tables[side], known)}
        order = [feature.name for feature in of_side.get(side, ())]
        counts = write_features(known, made, order, directory / f"{side}s.parquet")
        if made and counts["without_features"][file] == len(known):
            raise InputError(
                f"{request.path / file}: has no {sides[side][1]} of the log's (the log has "
                f"{known[0]!r}, the table {tables[side]['id'].head(1).to_list()}); name the "
                "columns that belong together"
            )
        for key in ("files", "without_features"):
            stats[key] |= counts[key]
        for name, count in counts["features"].items():
            stats["features"][name] = {"n_missing": count["n_missing"]}
    return {
        "version": VERSION,
        "targets": list(request.targets),
        "stats": stats,
        "warnings": doubts(
            stats, _TEXTS, {file: f"{side}s" for side, (file, _) in sides.items()}, "n_missing"
        ),
    }


def _read_side(path: Path, id_name: str, features: Sequence[_Feature]) -> pl.DataFrame:
    """A feature table: "id", then a column for each feature, named as asked."""
    file = TableFile(path, [id_name, *(feature.column for feature in features)])
    columns = [file.ids(id_name).alias("id")]
    for feature in features:
        if feature.is_numerical:
            values = file.numbers(feature.column)
        else:
            values = file.categories(feature.column, is_list=feature.is_list)
            if feature.name in MULTI_HOT and values.dtype == pl.String:
                # elsewhere a text of this name is taken apart at its commas
                one = pl.when(pl.first().is_not_null()).then(pl.concat_list(pl.first()))
                values = values.to_frame().select(one)[values.name]
        columns.append(values.alias(feature.name))
    frame = pl.DataFrame(columns)
    if not frame.height:
        raise InputError(f"{path}: the table has no rows; add one for each {id_name}")
    twice = frame["id"].filter(frame["id"].is_duplicated())
    if len(twice):
        raise InputError(
            f"{path}: {id_name} {twice[0]} has more than one row ({twice.n_unique():,} such); keep "
            "one row an id"
        )
    return frame


def _feature_source(file: str, table: pl.DataFrame, ids: pl.Series) -> FeatureSource:
    """The rows of a feature table whose ids the log has."""
    rows = table.with_columns(_number(table["id"], ids).alias(PLACE)).drop_nulls(PLACE).drop("id")
    types = {name: dtype for name, dtype in table.schema.items() if name != "id"}
    return FeatureSource([file], types, [(file, (table.height, sorted_by(rows, PLACE), {}))])


def _number(column: pl.Series, ids: pl.Series) -> pl.Series:
    """Each id's number among the known ones, Int32; null for one that is none of them."""
    index = ids.rename(column.name).to_frame().with_row_index("number")
    joined = column.to_frame().join(index, on=column.name, how="left", maintain_order="left")
    return joined["number"].cast(pl.Int32).alias(column.name)


# ---- the log ------------------------------------------------------------------------------------


def _read_logs(
    request: TablesRequest, logs: Mapping[str, Path]
) -> tuple[pl.DataFrame, dict[str, int], TimeUnit | None]:
    """User, video, time and targets; rows of each file; and the unit of times that are dates."""
    tables, times, parts = request.tables, {}, {}
    for name, path in logs.items():
        file = TableFile(path, [tables.user_id, tables.video_id, tables.time, *request.targets])
        columns = [file.ids(tables.user_id).alias("user_id")]
        columns += [file.ids(tables.video_id).alias("video_id")]
        times[name] = file.times(tables.time).alias("time_ms")
        for target in request.targets:
            read = file.propensities if target == tables.propensity else file.numbers
            columns.append(read(target).alias(_target(target)))
        parts[name] = pl.DataFrame(columns)
    if not any(part.height for part in parts.values()):
        raise InputError(f"{', '.join(map(str, logs.values()))}: the log has no rows; add some")
    wanted = _kind_of(times, logs, tables.time)
    for name, part in parts.items():
        parts[name] = part.with_columns(times[name].cast(wanted, strict=False).to_physical())
    unit: TimeUnit = "ns" if wanted == pl.Datetime("ns") else "us"
    log = pl.concat(parts.values(), how="vertical_relaxed")  # ids may be numbers or texts
    n_rows = {name: part.height for name, part in parts.items()}
    return log, n_rows, unit if isinstance(wanted, pl.Datetime) else None


def _kind_of(times: Mapping[str, pl.Series], logs: Mapping[str, Path], column: str) -> pl.DataType:
    """The type of all files' times: whole numbers, or fractions; or dates, in the finest unit."""
    known = {logs[name]: x for name, x in times.items() if x.null_count() < len(x)}
    dtypes = [x.dtype for x in known.values()]
    is_date = any(isinstance(dtype, pl.Datetime) for dtype in dtypes[:1])
    kinds = (pl.Datetime("ns"), pl.Datetime("us")) if is_date else (pl.Float64(), pl.Int64())
    wanted = kinds[0] if kinds[0] in dtypes else kinds[1]
    for path, x in known.items():
        if isinstance(x.dtype, pl.Datetime) != is_date:
            raise InputError(
                f"{path}: column {column!r} holds {_kind(not is_date)}, that of "
                f"{next(iter(known))} {_kind(is_date)}; make them alike"
            )
        if wanted == pl.Float64 and x.dtype == pl.Int64 and (x.abs() >= 2**53).any():
            raise InputError(
                f"{path}: column {column!r} holds whole numbers with more digits than the "
                "fractions in another file of the log keep; write all as whole numbers"
            )
        if wanted == pl.Datetime("ns") != x.dtype and not x.dt.year().is_between(1678, 2261).all():
            raise InputError(
                f"{path}: column {column!r} holds dates outside of 1678 to 2261, which times in "
                "nanoseconds cannot; use microseconds in all files"
            )
    return wanted


def _import_log(
    request: TablesRequest,
    log: pl.DataFrame,
    ids: Mapping[str, pl.Series],
    unit: TimeUnit | None,
    directory: Path,
) -> dict[str, Any]:
    """Write the log's arrays; its part of the stats."""
    times, given = log["time_ms"], request.tables.early_before
    bound = _early_bound(given, unit, times.dtype)

    def blocks() -> Iterator[tuple[str, pl.DataFrame]]:
        for rows in log.iter_slices(BUCKET_ROWS):
            ordered = _ordered(rows["time_ms"])
            is_late = pl.lit(True) if bound is None else ordered >= bound
            numbers = (_number(rows[name], ids[side]) for side, name in _ID.items())
            rows = rows.with_columns(*numbers, ordered, is_late.cast(pl.Int8).alias(LATE))
            yield "log", sorted_by(rows, "user_id")

    targets = {name: (_target(name), -math.inf, math.inf) for name in request.targets}
    content = ["user_id", "time_ms", "video_id", *map(_target, request.targets)]
    asked = targets, content, directory, request.times
    _, _, stats = write_log(blocks(), ["log"], *asked)
    if bound is not None and stats["n_early_rows"] in (0, stats["n_rows"]):
        span = pl.Series([times.min(), times.max()])
        if unit is not None:
            span = span.cast(pl.Datetime(unit)).dt.to_string("%Y-%m-%d %H:%M:%S%.f")
        raise InputError(
            f"dataset.tables.early_before = {given!r}: {stats['n_early_rows']:,} of "
            f"{stats['n_rows']:,} rows are earlier; the times go from {span[0]} to {span[1]}: "
            "choose one between"
        )
    own = ("n_rows", "n_early_rows", "duplicate_rows", "n_users", "n_videos")
    said = {
        name: {key: target[key] for key in ("mean", "n_missing")}
        for name, target in stats["targets"].items()
    }
    own_stats = {name: stats[name] for name in own}
    return {**own_stats, "targets": said, "features": {}, "without_features": {}}


def _target(name: str) -> str:
    return f"target {name}"


def _ordered(times: pl.Series) -> pl.Series:
    """Times as whole numbers in the same order."""
    if times.dtype == pl.Int64:
        return times
    bits = (times.to_numpy() + 0.0).view(np.int64)  # so that there is one zero
    return pl.Series(times.name, np.where(bits < 0, bits ^ np.int64(2**63 - 1), bits))


def _kind(is_date: bool) -> str:
    return "dates" if is_date else "numbers"


def _early_bound(
    given: float | int | str | None, unit: TimeUnit | None, dtype: pl.DataType
) -> int | None:
    """The first time that is late, in the order of `_ordered`; dates are in their unit."""
    if given is None:
        return None
    if unit is not None or isinstance(given, str):
        date = parse_dates(pl.Series([given if isinstance(given, str) else None], dtype=pl.String))
        if unit is None or date[0] is None:
            wanted = "a number" if unit is None else "an ISO date and time"
            raise InputError(
                f"dataset.tables.early_before = {given!r}: the log's times are "
                f"{_kind(unit is not None)}; use {wanted}"
            )
        scale = 1 if date.dtype == pl.Datetime("ns") else 1000
        nanoseconds = int(date.to_physical()[0]) * scale
        given = nanoseconds if unit == "ns" else -(-nanoseconds // 1000)
    elif dtype != pl.Int64:
        return int(_ordered(pl.Series([float(given)]))[0])
    info = np.iinfo(np.int64)  # whole numbers are compared as such, as float64 keeps 53 bits
    return min(max(math.ceil(given), info.min), info.max)
