"""One's own data: a log and tables of users and videos, Parquet or CSV, as the same `DataSet`."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from realdataexp.data import cache
from realdataexp.data.log import DataSet
from realdataexp.data.schema import nearest
from realdataexp.data.table_files import columns_of, log_files
from realdataexp.data.table_import import Feature, Side, import_tables
from realdataexp.data.table_options import TablesConfig
from realdataexp.errors import InputError, Warnings

logger = logging.getLogger("realdataexp")

VERSION = "tables"


@dataclass(frozen=True)
class TablesRequest:
    """What to read from where.

    Attributes:
        path: folder that the files' paths are relative to.
        tables: the files and columns.
        numerical, categorical: features, each a column of users or videos; `user.x` and
            `video.x` say of which.
        targets: the log's columns that are labels or outcomes, and where the config names them.
        places: where the config lists each feature.
    """

    path: Path
    tables: TablesConfig
    numerical: tuple[str, ...]
    categorical: tuple[str, ...]
    targets: Mapping[str, str]
    places: Mapping[str, str]

    def logs(self) -> dict[str, tuple[int, Path]]:
        """The log's files by their paths within the folder; and to which entry each belongs.

        Raises:
            InputError: there is none for an entry of the config, or one for two entries.
        """
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
    def sides(self) -> dict[str, tuple[Path, str]]:
        """The file of each side that has one, and its column of ids."""
        videos = (self.path / self.tables.videos, self.tables.video_id)
        if self.tables.users is None:
            return {"video": videos}
        return {"user": (self.path / self.tables.users, self.tables.user_id), "video": videos}


def table_faults(request: TablesRequest) -> list[str]:
    """What is wrong with a request, as far as the files' headers tell: a line each."""
    return _check(request)[2]


def _check(request: TablesRequest) -> tuple[dict[str, Path], list[Feature], list[str]]:
    """Find the log's files and every feature's column; and the faults of files and columns."""
    if not request.path.is_dir():
        return {}, [], [f"dataset.path = {str(request.path)!r}: no such folder; give --data DIR"]
    faults: list[str] = []
    tables, logs = request.tables, {}
    try:
        logs = request.logs()
    except InputError as error:
        faults += error.faults
    columns = {
        side: _columns(f"dataset.tables.{side}s", path, [id_name], faults)
        for side, (path, id_name) in request.sides.items()
    }
    wanted = (tables.user_id, tables.video_id, tables.time)
    for entry, path in logs.values():
        header = _columns(f"dataset.tables.log.{entry}", path, wanted, faults)
        faults += [
            f"{where} = {target!r}: {path} has no column {target!r}"
            f"{nearest(target, header)}; name one of the log's"
            for target, where in request.targets.items()
            if header and target not in header
        ]
    for i, name in enumerate(tables.lists):
        if name not in request.categorical:
            faults.append(
                f"dataset.tables.lists.{i} = {name!r}: not in feature.categorical"
                f"{nearest(name, request.categorical)}; list it there, or leave it out here"
            )
    paths = {name: path for name, (_, path) in logs.items()}
    return paths, _features(request, columns, faults), faults


def _features(
    request: TablesRequest, columns: dict[str, tuple[str, ...]], faults: list[str]
) -> list[Feature]:
    """Where each feature is; none where a table cannot be read, since all would be missing."""
    features = []
    kinds = {"numerical": request.numerical, "categorical": request.categorical}
    for kind, names in kinds.items() if all(columns.values()) else ():
        for name in names:
            try:
                side, column = _find(name, columns, request)
            except InputError as error:
                faults.append(f"{request.places[name]} = {name!r}: {error}")
                continue
            is_list = name in request.tables.lists
            features.append(Feature(name, side, column, kind == "numerical", is_list))
    return features


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


def _find(
    name: str, columns: dict[str, tuple[str, ...]], request: TablesRequest
) -> tuple[str, str]:
    """A feature's side and column."""
    prefix, dot, bare = name.partition(".")
    if dot and prefix in ("user", "video"):
        sides, column = [prefix], bare
    else:
        sides, column = list(columns), name
    found = [side for side in sides if column in columns.get(side, ())]
    if len(found) == 2:
        raise InputError(f"users and videos both have it; write user.{name} or video.{name}")
    if not found:
        known = {name for header in columns.values() for name in header}
        files = " and ".join(str(path) for path, _ in request.sides.values())
        raise InputError(f"no such column in {files}{nearest(column, known)}; name one of theirs")
    if column == request.sides[found[0]][1]:
        raise InputError("is the id, not a feature; leave it out")
    return found[0], column


def prepare_tables(
    request: TablesRequest, cache_path: Path, warnings: Warnings, force: bool = False
) -> DataSet:
    """Open a data set of tables, from the cache or by importing the files into it.

    Rows of the log that agree in user, video, time and all targets are one row. Rows without a
    time are dropped. Users and videos of the log without a row in their table stay, with missing
    features. All of these are counted in `stats` and reported as warnings.

    Args:
        request: what to read.
        cache_path: folder of the cache.
        warnings: takes what is doubtful in the data; a warm start reports it again.
        force: import again even if the cache has it.

    Raises:
        InputError: something is wrong with the request, the files or the cache folder.
    """
    logs, features, faults = _check(request)
    if faults:
        raise InputError(*faults)
    asked = {
        "tables": request.tables.model_dump(mode="json"),
        "numerical": request.numerical,
        "categorical": request.categorical,
        "targets": tuple(request.targets),
    }
    files = [*logs.values(), *(path for path, _ in request.sides.values())]
    sources = [cache.source_key(path) for path in files]
    entry = cache_path / cache.fingerprint(asked, sources)
    about = {"request": {"path": str(request.path), **asked}, "sources": sources}
    fill = partial(_import, request, logs, features, about)
    return cache.open_or_import(entry, request.path, fill, warnings, force)


def _import(
    request: TablesRequest,
    logs: dict[str, Path],
    features: Sequence[Feature],
    about: dict[str, Any],
    directory: Path,
) -> dict[str, Any]:
    """Write a data set's tables into a directory; return the cache's meta data."""
    files = {"user": request.tables.users or "", "video": request.tables.videos}
    sides = {
        name: Side(files[name], path, id_name, tuple(f for f in features if f.side == name))
        for name, (path, id_name) in request.sides.items()
    }
    targets = tuple(request.targets)
    stats, doubts = import_tables(request.tables, logs, sides, targets, directory)
    return {
        **about,
        "version": VERSION,
        "targets": list(targets),
        "stats": {"version": VERSION, **stats},
        "warnings": doubts,
    }
