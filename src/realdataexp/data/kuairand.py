"""Import of a KuaiRand folder (CSV files) into columnar tables, once, through the cache."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from realdataexp.data import cache, schema
from realdataexp.data.doubts import doubts_of
from realdataexp.data.feature_files import AskedFeature, write_features
from realdataexp.data.integrity import (
    check_shards,
    expected_rows,
    require_import_space,
    total_faults,
)
from realdataexp.data.kuairand_files import Files as Files
from realdataexp.data.kuairand_files import find_files as find_files
from realdataexp.data.log import DataSet
from realdataexp.data.log_files import write_log
from realdataexp.errors import InputError, Warnings

logger = logging.getLogger("realdataexp")


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
    about = {"request": {"path": str(request.path), **names}, "sources": sources}
    fill = partial(_import, request, asked, files, about)
    return cache.open_or_import(entry, request.path, fill, warnings, force)


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
        raise InputError(*faults)
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
    stems = {*(schema.LOG_STEMS[log] for log in request.logs), *(x.column.file for x in asked)}
    unended = check_shards({stem: files.shards[stem] for stem in sorted(stems)}, files.version)
    made = expected_rows(logs[request.logs[0]][0].parent)
    require_import_space(
        directory.parent,
        [path for paths in logs.values() for path in paths],
        files.shards[schema.VIDEO_BASIC],
        len(request.targets),
        [feature.is_numerical for feature in asked if feature.column.side == "video"],
    )
    ids, stats = write_log(logs, request.targets, directory)
    stats = {"version": files.version, **stats, "without_features": {}, "features": {}}
    for side, of_log in (("user", ids.users), ("video", ids.videos)):
        features = [feature for feature in asked if feature.column.side == side]
        path = directory / f"{side}s.parquet"
        counts = write_features(f"{side}_id", of_log, features, files.shards, path)
        for key, values in counts.items():
            stats[key] |= values
    faults = total_faults(files.version, request.logs, stats, made)
    stats["official"] = schema.KNOWN_TOTALS[files.version]
    return {
        **about,
        "version": files.version,
        "targets": list(request.targets),
        "stats": stats,
        "warnings": doubts_of(stats, unended, faults),
    }
