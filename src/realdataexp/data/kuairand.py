"""Import of a KuaiRand folder (CSV files) into columnar tables, once, through the cache."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from realdataexp.data import cache, schema
from realdataexp.data.feature_files import AskedFeature, join_features
from realdataexp.data.log import DataSet
from realdataexp.data.log_files import write_log
from realdataexp.errors import InputError, RunError, Warnings

logger = logging.getLogger("realdataexp")

_FILE_NAME = re.compile(
    rf"(?P<stem>{'|'.join(schema.STEMS)})(?:_part(?P<before>\d+))?"
    rf"_(?P<version>{'|'.join(schema.VERSIONS)})(?:_part(?P<after>\d+))?\.csv"
)


@dataclass(frozen=True)
class ImportRequest:
    """What to read from where.

    Attributes:
        path: KuaiRand folder; holds `data/*.csv` or the `*.csv` directly.
        logs: which of `schema.LOGS`.
        numerical: features to read as numbers, named as in the config (`schema.resolve_feature`).
        categorical: features to read as categories.
        targets: log columns to read as labels, of `schema.LABEL_COLUMNS`.
    """

    path: Path
    logs: tuple[str, ...]
    numerical: tuple[str, ...]
    categorical: tuple[str, ...]
    targets: tuple[str, ...]


@dataclass(frozen=True)
class Files:
    """The files of one KuaiRand version: the shards, in order, of each file stem."""

    version: str
    shards: dict[str, tuple[Path, ...]]


def find_files(path: Path, logs: Sequence[str], need_statistic: bool) -> Files:
    """Find the version and the files of a KuaiRand folder by their names.

    A file is whole (`<stem>_27k.csv`) or in parts (`<stem>_27k_part1.csv`, ...; the part may also
    stand before the version).

    Args:
        path: folder that holds `data/*.csv` or the `*.csv` directly.
        logs: which of `schema.LOGS` are wanted.
        need_statistic: whether the video statistics are wanted.

    Raises:
        InputError: no such folder, several versions in it, or missing files (all of them named).
    """
    if not path.is_dir():
        raise InputError(
            f"{path}: no such folder; set dataset.path (or --data) to an unpacked KuaiRand "
            "folder, or fetch one: realdataexp download pure DIR"
        )
    folder = path / "data" if _recognised(path / "data") else path
    found = _recognised(folder)
    versions = sorted({match["version"] for match in found.values()})
    there = ", ".join(sorted(p.name for p in folder.iterdir())[:20]) or "nothing"
    if not versions:
        raise InputError(
            f"{path}: no KuaiRand files such as {schema.USER_FEATURES}_pure.csv here or in its "
            f"folder data; there is: {there}"
        )
    if len(versions) > 1:
        raise InputError(f"{folder}: files of several versions ({', '.join(versions)}); keep one")
    wanted = [schema.LOG_STEMS[log] for log in logs] + [schema.USER_FEATURES, schema.VIDEO_BASIC]
    wanted += [schema.VIDEO_STATISTIC] if need_statistic else []
    shards = {stem: _shards(folder, found, stem) for stem in wanted}
    missing = [f"{stem}_{versions[0]}.csv" for stem in wanted if not shards[stem]]
    if missing:
        raise InputError(
            f"{folder}: missing {', '.join(missing)}; there is: {there}; fetch the archive again "
            "or leave out of the config what needs these files"
        )
    return Files(versions[0], shards)


def _recognised(folder: Path) -> dict[Path, re.Match[str]]:
    if not folder.is_dir():
        return {}
    matches = {path: _FILE_NAME.fullmatch(path.name) for path in sorted(folder.iterdir())}
    return {path: match for path, match in matches.items() if match and path.is_file()}


def _shards(folder: Path, found: dict[Path, re.Match[str]], stem: str) -> tuple[Path, ...]:
    """Return the whole file (as its only shard) or the parts 1..n in order."""
    numbered = sorted(
        (int(match["before"] or match["after"] or 0), path)
        for path, match in found.items()
        if match["stem"] == stem
    )
    numbers = [number for number, _ in numbered]
    if numbers not in ([], [0], list(range(1, len(numbers) + 1))):
        names = ", ".join(path.name for _, path in numbered)
        raise InputError(
            f"{folder}: {stem} is neither one file nor parts 1 to n, but {names}; fetch the "
            "missing parts or remove what is double"
        )
    return tuple(path for _, path in numbered)


def prepare(
    request: ImportRequest, cache_path: Path, warnings: Warnings, force: bool = False
) -> DataSet:
    """Open the data set of a request, from the cache or by importing the CSV files into it.

    Exact duplicates of log rows are dropped: rows equal in all 19 columns (those that the files
    have), whatever columns the request needs, also when they come from different logs. Fewer
    columns would not do: in KuaiRand-Pure 418 rows are told apart by `date` and `hourmin` alone.
    Views of one video at different times all stay. Targets outside the valid range, and empty
    ones, are missing (NaN), as is -124 in the user file (null).

    `stats` holds `version`, `files` (rows per file), `n_rows_read`, `n_rows`, `n_users`,
    `n_videos`, `n_early_rows`, `duplicate_rows`, `duplicate_rows_across_logs`, `targets`
    (per target mean, n_missing, n_empty, n_out_of_range), `features` (per feature n_missing,
    n_unknown), `without_features` (ids of the log without a row, per feature file), `official`
    (the version's published totals).

    Args:
        request: what to read.
        cache_path: folder of the cache.
        warnings: takes what is doubtful in the data; a warm start reports it again.
        force: import again even if the cache has it.

    Raises:
        InputError: something is wrong with the request, the files or the cache folder.
    """
    asked = _check(request)
    stems = {feature.column.file for feature in asked}
    files = find_files(request.path, request.logs, schema.VIDEO_STATISTIC in stems)
    stems |= {schema.LOG_STEMS[log] for log in request.logs}
    try:
        sources = [
            cache.source_key(path)
            for stem, paths in files.shards.items()
            if stem in stems
            for path in paths
        ]
    except OSError as error:
        raise InputError(f"{error.filename}: cannot be read: {error.strerror}") from error
    names = {
        "logs": request.logs,
        "numerical": request.numerical,
        "categorical": request.categorical,
        "targets": request.targets,
    }
    entry = cache_path / cache.fingerprint(names, sources)
    opened = None
    if not force:
        try:
            opened = cache.read(entry)
        except cache.DamagedEntryError as error:
            force = True
            warnings.add("cache_damaged", f"{entry}: {error}; the data were imported again")
    if opened is None:
        logger.info("[data] importing %s", request.path)
        about = {"request": {"path": str(request.path), **names}, "sources": sources}
        fill = partial(_import, request, asked, files, about)
        cache.write(cache_path, entry.name, fill, replace=force)
        opened = _reopen(entry)
    data, meta = opened
    for item in meta["warnings"]:
        warnings.add(item["code"], item["message"])
    return data


def _reopen(entry: Path) -> tuple[DataSet, dict[str, Any]]:
    try:
        opened = cache.read(entry)
    except cache.DamagedEntryError as error:
        raise RunError(f"{entry}: just written, but damaged: {error}") from error
    if opened is None:
        raise RunError(f"{entry}: just written, but gone; does something clean this folder?")
    return opened


def _check(request: ImportRequest) -> list[AskedFeature]:
    """Resolve the asked names, numerical first; raise one InputError with every fault."""
    faults, asked = [], []
    known = {"dataset.logs": schema.LOGS, "target": tuple(schema.LABEL_COLUMNS)}
    for what, names in (("dataset.logs", request.logs), ("target", request.targets)):
        for name in names:
            if name not in known[what]:
                hint = schema.nearest(name, known[what]) or f"; known: {', '.join(known[what])}"
                faults.append(f"{what}: unknown {name!r}{hint}")
    if not request.logs:
        faults.append(f"dataset.logs: empty; choose of {', '.join(schema.LOGS)}")
    for names, is_numerical in ((request.numerical, True), (request.categorical, False)):
        for name in names:
            try:
                asked.append(AskedFeature(schema.resolve_feature(name), is_numerical))
            except InputError as error:
                faults.append(f"feature: {error}")
    given = Counter((*request.numerical, *request.categorical))
    for what, counts in (
        ("feature", given),
        ("dataset.logs", Counter(request.logs)),
        ("target", Counter(request.targets)),
    ):
        faults += [f"{what}: {name!r} is listed {n} times" for name, n in counts.items() if n > 1]
    if faults:
        raise InputError("\n".join(faults))
    return asked


def _import(
    request: ImportRequest,
    asked: Sequence[AskedFeature],
    files: Files,
    about: dict[str, Any],
    directory: Path,
) -> dict[str, Any]:
    """Write a data set's tables into a directory; return the cache's meta data."""
    logs = {log: files.shards[schema.LOG_STEMS[log]] for log in request.logs}
    user_ids, video_ids, stats = write_log(logs, request.targets, directory)
    stats = {"version": files.version, **stats, "without_features": {}, "features": {}}
    for ids, side, name in ((user_ids, "user", "users"), (video_ids, "video", "videos")):
        features = [feature for feature in asked if feature.column.side == side]
        table, counts = join_features(ids, features, files.shards)
        table.write_parquet(directory / f"{name}.parquet")
        for key, values in counts.items():
            stats[key] |= values
    stats["official"] = schema.KNOWN_TOTALS[files.version]
    return {
        **about,
        "version": files.version,
        "targets": list(request.targets),
        "stats": stats,
        "warnings": _doubts(stats),
    }


def _doubts(stats: dict[str, Any]) -> list[dict[str, str]]:
    """Say what in the stats of an import deserves a warning."""
    doubts = []

    def doubt(code: str, message: str) -> None:
        doubts.append({"code": code, "message": message})

    if stats["duplicate_rows"]:
        doubt(
            "duplicate_rows",
            f"{stats['duplicate_rows']:,} of {stats['n_rows_read']:,} log rows repeat another row "
            f"exactly ({stats['duplicate_rows_across_logs']:,} of them a row of another log) and "
            "were dropped",
        )
    for name, target in stats["targets"].items():
        low, high = schema.LABEL_COLUMNS[name]
        if target["n_out_of_range"]:
            doubt(
                "out_of_range_values",
                f"{name}: {target['n_out_of_range']:,} values are outside {low:g} to {high:g} "
                "and count as missing",
            )
        if target["n_empty"]:
            doubt("empty_values", f"{name}: {target['n_empty']:,} rows have no value")
    for stem, n in stats["without_features"].items():
        who = "users" if stem == schema.USER_FEATURES else "videos"
        if n:
            doubt(
                f"{who}_without_features",
                f"{n:,} of {stats[f'n_{who}']:,} {who} in the log have no row in {stem}; "
                "their features are missing",
            )
    return doubts
