"""From one's own tables to the files of a cache entry: ids to indices, rows by user and time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl

from realdataexp.config.blocks import TablesConfig
from realdataexp.data.features import MULTI_HOT
from realdataexp.data.table_files import TableFile, is_whole, parse_dates
from realdataexp.errors import InputError

Stats = dict[str, Any]
Doubts = list[dict[str, str]]
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
    """Write the files of a data set into a directory; all in memory.

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
    for name in ("user", "video"):
        columns = [part[name] for part in parts]
        columns += [features[name]["id"]] if name in features else []
        dtype = pl.Int64 if all(is_whole(column) for column in columns) else pl.String
        parts = [part.with_columns(pl.col(name).cast(dtype)) for part in parts]
        if name in features:
            features[name] = features[name].with_columns(pl.col("id").cast(dtype))
    log = pl.concat(parts, how="vertical_relaxed")
    stats: Stats = {
        "files": {name: part.height for name, part in zip(logs, parts, strict=True)},
        "n_rows_read": log.height,
        "rows_without_time": log["time"].null_count(),
    }
    log = _distinct_in_order(log.drop_nulls("time"), tables, unit)
    if not log.height:
        raise InputError(f"{', '.join(map(str, logs.values()))}: no row with a time; give some")
    stats["n_rows"] = log.height
    stats["n_early_rows"] = int(log["is_early"].sum())
    stats["duplicate_rows"] = stats["n_rows_read"] - stats["rows_without_time"] - log.height
    ids = {name: log[name].unique().sort() for name in ("user", "video")}
    _write_log(log, ids["video"], directory)
    stats["targets"] = {}
    for name in targets:
        values = log[_target(name)]
        stats["targets"][name] = {"mean": values.mean(), "n_missing": values.null_count()}
        _save(directory, f"target_{name}", values.fill_null(float("nan")).to_numpy())
    stats |= {"features": {}, "without_features": {}}
    for name, known in ids.items():
        frame = known.rename(f"{name}_id").to_frame()
        stats[f"n_{name}s"] = frame.height
        if name in features:
            frame = _looked_up(frame, features[name], sides[name], stats)
        frame.write_parquet(directory / f"{name}s.parquet")
    return stats, _doubts(stats, sides)


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


def _distinct_in_order(
    log: pl.DataFrame, tables: TablesConfig, unit: TimeUnit | None
) -> pl.DataFrame:
    """Each row once, by user and time, with `is_early`."""
    order = ["user", "time", *(name for name in log.columns if name not in ("user", "time"))]
    log = log.sort(order)
    repeats = log.select(
        pl.all_horizontal(pl.col(name).eq_missing(pl.col(name).shift(1)) for name in order)
    ).to_series()
    log = log.filter(~repeats)
    bound = _early_bound(tables, unit)
    if bound is None or not log.height:
        return log.with_columns(is_early=pl.lit(False))
    log = log.with_columns(is_early=_is_before(log["time"], bound))
    n_early = int(log["is_early"].sum())
    if n_early in (0, log.height):
        low, high = log.select(low=pl.col("time").min(), high=pl.col("time").max()).row(0)
        if unit is not None:
            dates = pl.Series([low, high]).cast(pl.Datetime(unit))
            low, high = dates.dt.to_string("%Y-%m-%d %H:%M:%S%.f")
        raise InputError(
            f"dataset.tables.early_before = {tables.early_before!r}: {n_early:,} of {log.height:,} "
            f"rows are earlier; the times go from {low} to {high}: choose one between"
        )
    return log


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


def _write_log(log: pl.DataFrame, video_ids: pl.Series, directory: Path) -> None:
    """Write the arrays of users' rows and of videos."""
    is_first = log["user"].ne_missing(log["user"].shift(1))
    starts = is_first.arg_true().to_numpy()
    n_early = np.add.reduceat(log["is_early"].to_numpy(), starts, dtype=np.int64)
    index = video_ids.to_frame().with_row_index("index")
    video = log.select("video").join(index, on="video", how="left", maintain_order="left")
    _save(directory, "offset_U1", np.append(starts, log.height).astype(np.int64))
    _save(directory, "n_early_U", n_early)
    _save(directory, "video_N", video["index"].to_numpy().astype(np.int32))


def _save(directory: Path, name: str, array: np.ndarray) -> None:
    np.save(directory / f"{name}.npy", array, allow_pickle=False)


def _looked_up(ids: pl.DataFrame, table: pl.DataFrame, side: Side, stats: Stats) -> pl.DataFrame:
    """The features of these ids, null for those that the table lacks."""
    name = ids.columns[0]
    found = table.with_columns(pl.lit(True).alias("found in table"))
    frame = ids.join(found, left_on=name, right_on="id", how="left", maintain_order="left")
    n_unknown = frame["found in table"].null_count()
    if n_unknown == frame.height:
        raise InputError(
            f"{side.path}: has no {side.id_name} of the log's (the log has {ids[name][0]!r}, the "
            f"table {table['id'].head(1).to_list()}); name the columns that belong together"
        )
    stats["files"][side.file] = table.height
    stats["without_features"][side.file] = n_unknown
    for feature in side.features:
        stats["features"][feature.name] = {"n_missing": frame[feature.name].null_count()}
    return frame.drop("found in table")


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
