"""From one's own tables to the files of a cache entry: ids to indices, rows by user and time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl

from realdataexp.data.features import MULTI_HOT
from realdataexp.data.ingest import (
    BUCKET_ROWS,
    LATE,
    PLACE,
    FeatureBlock,
    FeatureSource,
    LogLayout,
    sorted_by,
    write_features,
    write_log,
)
from realdataexp.data.table_files import TableFile, is_whole, parse_dates
from realdataexp.data.table_options import TablesConfig
from realdataexp.errors import InputError

Stats = dict[str, Any]
Doubts = list[dict[str, str]]
SIDES = ("user", "video")
TimeUnit = Literal["us", "ns"]


@dataclass(frozen=True)
class Feature:
    """A feature: its name in the config, its side and column, and how it is read."""

    name: str
    side: str
    column: str
    is_numerical: bool
    is_list: bool


@dataclass(frozen=True)
class Side:
    """The users' or the videos' file as the config names it, its column of ids, its features."""

    file: str
    path: Path
    id_name: str
    features: tuple[Feature, ...]


def import_tables(
    tables: TablesConfig,
    logs: Mapping[str, Path],
    sides: Mapping[str, Side],
    targets: Sequence[str],
    directory: Path,
) -> tuple[Stats, Doubts]:
    """Write the files of a data set into a directory.

    What the config names of the files is in memory, typed; the sort is not.

    Args:
        tables: names the columns.
        logs: the log's files, by their names in the config.
        sides: "video", and "user" where users have features.
        targets: the log's columns to predict.
        directory: takes users.parquet, videos.parquet and the arrays of a `LogTable`.

    Returns:
        The counts, and what in them deserves a warning.

    Raises:
        InputError: a cell is wrong, an id has two rows, or log and tables do not belong together.
    """
    features = {name: _read_side(side) for name, side in sides.items()}
    parts, unit = _read_logs(tables, logs, targets)
    for name in SIDES:
        columns = [part[name] for part in parts]
        columns += [features[name]["id"]] if name in features else []
        dtype = pl.Int64 if all(is_whole(column) for column in columns) else pl.String
        parts = [part.with_columns(pl.col(name).cast(dtype)) for part in parts]
        if name in features:
            features[name] = features[name].with_columns(pl.col("id").cast(dtype))
    stats: Stats = {
        "files": {name: part.height for name, part in zip(logs, parts, strict=True)},
        "n_rows_read": sum(part.height for part in parts),
        "rows_without_time": sum(part["time"].null_count() for part in parts),
    }
    parts = [part.drop_nulls("time") for part in parts]
    ids = {name: pl.concat([part[name] for part in parts]).unique().sort() for name in SIDES}
    if not len(ids["user"]):
        raise InputError(f"{', '.join(map(str, logs.values()))}: no row with a time; give some")
    stats |= _import_log(tables, dict(zip(logs, parts, strict=True)), ids, targets, unit, directory)
    for name, known in ids.items():
        side = sides.get(name)
        made = {side.file: _feature_source(features[name], known, side)} if side else {}
        order = [feature.name for feature in side.features] if side else []
        path = directory / f"{name}s.parquet"
        counts = write_features(known.rename(f"{name}_id"), made, order, path)
        if side and counts["without_features"][side.file] == len(known):
            raise InputError(
                f"{side.path}: has no {side.id_name} of the log's (the log has {known[0]!r}, the "
                f"table {features[name]['id'].head(1).to_list()}); name the columns that belong "
                "together"
            )
        for key in ("files", "without_features"):
            stats[key] |= counts[key]
        for feature, count in counts["features"].items():
            stats["features"][feature] = {"n_missing": count["n_missing"]}
    return stats, _doubts(stats, sides)


def _import_log(
    tables: TablesConfig,
    parts: Mapping[str, pl.DataFrame],
    ids: Mapping[str, pl.Series],
    targets: Sequence[str],
    unit: TimeUnit | None,
    directory: Path,
) -> Stats:
    """Write the log's arrays; its part of the stats."""
    bound = _early_bound(tables, unit)

    def blocks() -> Iterator[tuple[str, pl.DataFrame]]:
        for file, part in parts.items():
            for rows in part.iter_slices(BUCKET_ROWS):
                times = rows["time"]
                is_late = pl.lit(True) if bound is None else ~_is_before(times, bound)
                frame = rows.with_columns(
                    *(_number(rows[name], ids[name]) for name in SIDES),
                    _ordered(times),
                    is_late.cast(pl.Int8).alias(LATE),
                )
                yield file, sorted_by(frame, "user")

    columns = [_target(name) for name in targets]
    ranges = {name: (_target(name), -math.inf, math.inf) for name in targets}
    layout = LogLayout("user", "video", "time", ranges, ["user", "time", "video", *columns])
    _, _, stats = write_log(blocks(), list(parts), layout, directory)
    if bound is not None and stats["n_early_rows"] in (0, stats["n_rows"]):
        times = pl.concat([part.select("time") for part in parts.values()])
        low, high = times.select(low=pl.first().min(), high=pl.first().max()).row(0)
        if unit is not None:
            dates = pl.Series([low, high]).cast(pl.Datetime(unit))
            low, high = dates.dt.to_string("%Y-%m-%d %H:%M:%S%.f")
        raise InputError(
            f"dataset.tables.early_before = {tables.early_before!r}: {stats['n_early_rows']:,} of "
            f"{stats['n_rows']:,} rows are earlier; the times go from {low} to {high}: choose one "
            "between"
        )
    own = ("n_rows", "n_early_rows", "duplicate_rows", "n_users", "n_videos")
    return {
        **{name: stats[name] for name in own},
        "targets": {
            name: {key: stats["targets"][name][key] for key in ("mean", "n_missing")}
            for name in targets
        },
        "features": {},
        "without_features": {},
    }


def _number(column: pl.Series, ids: pl.Series) -> pl.Series:
    """Each id's number among the known ones, Int32; null for one that is none of them."""
    index = ids.rename(column.name).to_frame().with_row_index("number")
    joined = column.to_frame().join(index, on=column.name, how="left", maintain_order="left")
    return joined["number"].cast(pl.Int32).alias(column.name)


def _ordered(times: pl.Series) -> pl.Series:
    """Times as whole numbers in the same order."""
    if times.dtype == pl.Int64:
        return times
    bits = (times.to_numpy() + 0.0).view(np.int64)  # so that there is one zero
    bits = np.where(bits < 0, bits ^ np.int64(2**63 - 1), bits)
    return pl.Series(times.name, bits)


def _feature_source(table: pl.DataFrame, ids: pl.Series, side: Side) -> FeatureSource:
    """The rows of a feature table whose ids the log has."""
    number = _number(table["id"], ids).alias(PLACE)
    rows = table.drop("id").with_columns(number).drop_nulls(PLACE)
    types = {feature.name: table[feature.name].dtype for feature in side.features}
    block = FeatureBlock(side.file, table.height, sorted_by(rows, PLACE))
    return FeatureSource([side.file], types, [block])


def _target(name: str) -> str:
    return f"target {name}"


def _read_side(side: Side) -> pl.DataFrame:
    """A feature table: "id", then a column for each feature, named as asked."""
    file = TableFile(side.path, [side.id_name, *(feature.column for feature in side.features)])
    columns = [file.ids(side.id_name).alias("id")]
    for feature in side.features:
        if feature.is_numerical:
            values = file.numbers(feature.column)
        else:
            values = file.categories(feature.column, is_list=feature.is_list)
            if feature.name in MULTI_HOT and values.dtype == pl.String:
                # elsewhere a text of this name is taken apart at its commas
                values = values.to_frame().select(
                    pl.when(pl.first().is_not_null()).then(pl.concat_list(pl.first()))
                )[values.name]
        columns.append(values.alias(feature.name))
    frame = pl.DataFrame(columns)
    if not frame.height:
        raise InputError(f"{side.path}: the table has no rows; give one for each {side.id_name}")
    twice = frame["id"].filter(frame["id"].is_duplicated())
    if len(twice):
        raise InputError(
            f"{side.path}: {side.id_name} {twice[0]} has more than one row "
            f"({twice.n_unique():,} such); keep one row an id"
        )
    return frame


def _read_logs(
    tables: TablesConfig, logs: Mapping[str, Path], targets: Sequence[str]
) -> tuple[list[pl.DataFrame], TimeUnit | None]:
    """Each log file's user, video, time and targets; and the unit of the times that are dates."""
    parts = []
    for path in logs.values():
        file = TableFile(path, [tables.user_id, tables.video_id, tables.time, *targets])
        columns = [file.ids(tables.user_id).alias("user"), file.ids(tables.video_id).alias("video")]
        columns += [file.times(tables.time).alias("time")]
        columns += [file.numbers(name).alias(_target(name)) for name in targets]
        parts.append(pl.DataFrame(columns))
    if not any(part.height for part in parts):
        raise InputError(f"{', '.join(map(str, logs.values()))}: the log has no rows; give some")
    return _alike(parts, tables.time, list(logs.values()))


def _alike(
    parts: list[pl.DataFrame], name: str, paths: list[Path]
) -> tuple[list[pl.DataFrame], TimeUnit | None]:
    """Parts whose times are of one kind; dates as Int64 in the finest unit among them."""
    known = [
        (i, part["time"]) for i, part in enumerate(parts) if part["time"].null_count() < part.height
    ]
    dtypes = [times.dtype for _, times in known]
    first = dtypes[0] if dtypes else pl.Int64()
    is_date = isinstance(first, pl.Datetime)
    for i, times in known:
        if isinstance(times.dtype, pl.Datetime) != is_date:
            raise InputError(
                f"{paths[i]}: column {name!r} holds {_kind(not is_date)}, that of "
                f"{paths[known[0][0]]} {_kind(is_date)}; make them alike"
            )
        is_lossy = pl.Float64() in dtypes and times.dtype == pl.Int64
        if is_lossy and (times.abs() >= 2**53).any():
            raise InputError(
                f"{paths[i]}: column {name!r} holds whole numbers with more digits than the "
                "fractions in another file of the log keep; give all as whole numbers"
            )
    if not is_date:
        empty = pl.Int64() if pl.Float64() not in dtypes else pl.Float64()
        return [_with_time(part, part["time"].cast(empty, strict=False)) for part in parts], None
    unit: TimeUnit = "ns" if pl.Datetime("ns") in dtypes else "us"
    for i, times in known:
        if (
            unit == "ns"
            and times.dtype != pl.Datetime("ns")
            and not times.dt.year().is_between(1678, 2261).all()
        ):
            raise InputError(
                f"{paths[i]}: column {name!r} holds dates outside of 1678 to 2261, which times in "
                "nanoseconds cannot; give microseconds in all files"
            )
    wanted = pl.Datetime(unit)
    return [
        _with_time(part, part["time"].cast(wanted, strict=False).to_physical()) for part in parts
    ], unit


def _with_time(part: pl.DataFrame, times: pl.Series) -> pl.DataFrame:
    return part.with_columns(times.alias("time"))


def _kind(is_date: bool) -> str:
    return "dates" if is_date else "numbers"


def _is_before(times: pl.Series, bound: float | int) -> pl.Series:
    """Whether times are earlier; whole numbers are compared as such, as float64 keeps 53 bits."""
    if times.dtype == pl.Int64:
        info = np.iinfo(np.int64)
        return times < pl.Series([min(max(math.ceil(bound), info.min), info.max)], dtype=pl.Int64)
    return times < float(bound)


def _early_bound(tables: TablesConfig, unit: TimeUnit | None) -> float | int | None:
    """The bound as a number; of dates in their unit."""
    given = tables.early_before
    if given is None or (unit is None and not isinstance(given, str)):
        return given
    text = pl.Series([given if isinstance(given, str) else None], dtype=pl.String)
    date = parse_dates(text)
    if unit is None or date[0] is None:
        wanted = "a number" if unit is None else "an ISO date and time"
        raise InputError(
            f"dataset.tables.early_before = {given!r}: the log's times are "
            f"{_kind(unit is not None)}; give {wanted}"
        )
    number = int(date.to_physical()[0])
    nanoseconds = number * (1 if date.dtype == pl.Datetime("ns") else 1000)
    return nanoseconds if unit == "ns" else -(-nanoseconds // 1000)


def _doubts(stats: Stats, sides: Mapping[str, Side]) -> Doubts:
    """Say what in the counts deserves a warning."""
    doubts: Doubts = []

    def doubt(code: str, n: int, message: str) -> None:
        if n:
            doubts.append({"code": code, "message": message.format(f"{n:,}")})

    n_read = f"{stats['n_rows_read']:,}"
    doubt(
        "duplicate_rows",
        stats["duplicate_rows"],
        f"{{}} of {n_read} log rows repeat another one's user, video, time and labels and were "
        "dropped",
    )
    doubt(
        "rows_without_time",
        stats["rows_without_time"],
        f"{{}} of {n_read} log rows have no time and were dropped",
    )
    for name, target in stats["targets"].items():
        doubt("empty_values", target["n_missing"], f"{name}: {{}} rows have no value")
    for name, side in sides.items():
        doubt(
            f"{name}s_without_features",
            stats["without_features"][side.file],
            f"{{}} of {stats[f'n_{name}s']:,} {name}s in the log have no row in {side.file}; "
            "their features are missing",
        )
    return doubts
