"""The cache of imported data sets: one directory an import, named by its fingerprint.

    <cache_path>/<fingerprint>/
        meta.json         format version, request, source files, stats, warnings, own files
        users.parquet     videos.parquet
        offset_U1.npy     n_early_U.npy     video_N.npy     target_<name>.npy
        time_N.npy        where times were asked for

An entry is written beside its place under a temporary name and renamed when it is whole, so that
what carries a fingerprint is complete, whoever was interrupted.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import socket
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from realdataexp.data.log import DataSet, LogTable
from realdataexp.data.parquet import StoredTable, read_parquet
from realdataexp.errors import RunError, Warnings
from realdataexp.files import (
    disk_faults,
    is_working,
    locked,
    require_regular,
    sync,
    sync_names,
)

logger = logging.getLogger("realdataexp")

FORMAT_VERSION = 3  # raise it when the files, or what an import makes of the CSVs, change

_TEMPORARY = ".importing-"
_OTHER_CACHE = "set dataset.cache_path (--cache) to another folder"
_ABANDONED_AFTER_S = 3600.0
_HASHED_BYTES = 64 * 1024
_N_PAGES, _PAGE_BYTES = 64, 4096
_IN_MEMORY_BYTES = 64 << 20
_ALWAYS = {"offset_U1": np.int64, "n_early_U": np.int64, "video_N": np.int32}
_DTYPES = {**_ALWAYS, "time_N": np.int64}


# ---- what tells whether a file is what it was ---------------------------------------------------


def file_key(path: Path) -> dict[str, Any]:
    """Return a file's name, size in bytes, and a hash of its first and last 64 KiB."""
    size = path.stat().st_size
    digest = hashlib.sha256()
    with path.open("rb") as file:
        digest.update(file.read(_HASHED_BYTES))
        file.seek(max(0, size - _HASHED_BYTES))
        digest.update(file.read())
    return {"name": path.name, "size": size, "ends": digest.hexdigest()}


def source_key(path: Path) -> dict[str, Any]:
    """Return what tells whether a source file changed: `file_key` and its time of change."""
    return {**file_key(path), "mtime_ns": path.stat().st_mtime_ns}


def _own_key(path: Path) -> dict[str, Any]:
    """`file_key` of a file of an entry, and a hash of pages spread over it: some may be lost."""
    require_regular(path)
    key, digest = file_key(path), hashlib.sha256()
    with path.open("rb") as file:
        for i in range(_N_PAGES):
            file.seek(key["size"] * i // _N_PAGES)
            digest.update(file.read(_PAGE_BYTES))
    return {**key, "pages": digest.hexdigest()}


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


# ---- entries ------------------------------------------------------------------------------------


class DamagedEntryError(Exception):
    """A cache entry is there but not whole."""


def read(entry: Path) -> tuple[DataSet, list[dict[str, str]]] | None:
    """A data set and its warnings: users are read, large arrays mapped, videos left in their file.

    None when there is no such entry.

    Raises:
        DamagedEntryError: the entry lacks a file, or one is not what was written.
    """
    if not entry.is_dir():
        return None
    try:
        return _read(entry)
    except DamagedEntryError:
        raise
    except Exception as error:  # whatever stands in its files
        reason = " ".join(str(error).split())
        raise DamagedEntryError(f"{type(error).__name__}: {reason}") from error


def _read(entry: Path) -> tuple[DataSet, list[dict[str, str]]]:
    require_regular(entry / "meta.json")
    meta = json.loads((entry / "meta.json").read_text(encoding="utf-8"))
    if meta["format_version"] != FORMAT_VERSION:
        raise DamagedEntryError(f"format {meta['format_version']}, wanted {FORMAT_VERSION}")
    if meta.pop("digest") != _digest(meta):
        raise DamagedEntryError("meta.json is not what was written")
    for key in meta["files"]:
        if _own_key(entry / key["name"]) != key:
            raise DamagedEntryError(f"{key['name']} is not what was written")
    # what is small is read: a file that is cut while it is mapped ends the process
    is_mapped = sum(key["size"] for key in meta["files"]) > _IN_MEMORY_BYTES

    def array(name: str) -> np.ndarray:
        path = entry / f"{name}.npy"
        values: np.ndarray = np.load(path, mmap_mode="r" if is_mapped else None, allow_pickle=False)
        if values.ndim != 1 or values.dtype != _DTYPES.get(name, np.float32):
            raise DamagedEntryError(f"{path.name} holds {values.dtype} of {values.ndim} axes")
        values.flags.writeable = False
        return values

    targets = {name: array(f"target_{name}") for name in meta["targets"]}
    has_times = any(key["name"] == "time_N.npy" for key in meta["files"])
    data = DataSet(
        version=meta["version"],
        fingerprint=entry.name,
        log=LogTable(
            **{name: array(name) for name in _ALWAYS},
            targets=targets,
            time_N=array("time_N") if has_times else None,
        ),
        users=read_parquet(entry / "users.parquet"),
        videos=StoredTable(entry / "videos.parquet"),
        stats=meta["stats"],
    )
    return data, meta["warnings"]


def write(
    cache_path: Path, name: str, fill: Callable[[Path], dict[str, Any]], replace: bool = False
) -> None:
    """Make the cache entry `name`, whole or not at all; another process may be first.

    ``fill`` writes the entry's data files into a directory and returns the meta data (`version`,
    `targets`, `stats`, `warnings`, ...). With ``replace`` the new entry takes the place of one that
    is there.

    Raises:
        InputError: the folder cannot be written.
        DiskError: the disk is full.
    """
    cache_path = cache_path.absolute()  # Polars takes a leading ~ for the user's home
    entry, temporary = cache_path / name, _temporary(cache_path, name)
    with disk_faults(cache_path, _OTHER_CACHE):
        try:
            _remove_leftovers(cache_path)
            temporary.mkdir(parents=True)
            meta = fill(temporary)
            files = sorted(temporary.iterdir())
            meta = {"format_version": FORMAT_VERSION, **meta, "files": [_own_key(p) for p in files]}
            meta = json.loads(json.dumps(meta, allow_nan=False))
            text = json.dumps({**meta, "digest": _digest(meta)}, indent=1)
            (temporary / "meta.json").write_text(text, encoding="utf-8")
            for path in (*files, temporary / "meta.json"):
                sync(path)
            sync_names(temporary)
            if replace and entry.is_dir():
                _remove(entry)
            try:
                os.rename(temporary, entry)
            except OSError:
                if not entry.is_dir():  # else another process's, with the same content
                    raise
            sync_names(cache_path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _temporary(cache_path: Path, name: str) -> Path:
    me = f"{socket.gethostname()}-{os.getpid()}".replace("/", "_")
    return cache_path / f"{_TEMPORARY}{name}-{me}-{uuid.uuid4().hex[:8]}"


def _remove(entry: Path) -> None:
    """Take an entry away: renamed first, so that nobody opens it half removed."""
    trash = _temporary(entry.parent, "removed")
    try:
        os.rename(entry, trash)
    except FileNotFoundError:
        return  # another process was first
    shutil.rmtree(trash, ignore_errors=True)


def _remove_leftovers(cache_path: Path) -> None:
    """Remove what interrupted imports left: of dead processes here, or an hour old elsewhere."""
    host = socket.gethostname().replace("/", "_")
    for path in cache_path.glob(f"{_TEMPORARY}*"):
        owner, _, pid = path.name.rpartition("-")[0].rpartition("-")
        if owner.endswith(f"-{host}"):
            is_abandoned = pid.isdigit() and not is_working(int(pid))
        else:
            is_abandoned = time.time() - _newest_change_s(path) > _ABANDONED_AFTER_S
        if is_abandoned:
            shutil.rmtree(path, ignore_errors=True)


def _newest_change_s(path: Path) -> float:
    try:
        return max(p.stat().st_mtime for p in (path, *path.iterdir()))
    except OSError:
        return time.time()  # it is being removed


def open_or_import(
    cache_path: Path,
    asked: dict[str, Any],
    source: Path,
    sources: Sequence[dict[str, Any]],
    fill: Callable[[Path], dict[str, Any]],
    warnings: Warnings,
    force: bool,
) -> DataSet:
    """Open a cache entry, importing the data first where it is missing, damaged or not wanted.

    Args:
        cache_path: folder of all entries.
        asked: what of the data is wanted, JSON-able.
        source: the folder of the data.
        sources: JSON-able; what the data's content is a function of, such as `source_key`.
        fill: as ``write`` takes it.
        warnings: takes what is doubtful in the data; a warm start reports it again.
        force: import again even if it is there.

    Several processes that miss the same entry, such as the parts of a run on a machine with a cache
    of its own, import it once: the others wait.
    """
    entry = cache_path / _digest([FORMAT_VERSION, asked, list(sources)])[:24]
    opened = None
    if not force:
        try:
            opened = read(entry)
        except DamagedEntryError as error:
            force = True
            warnings.add("cache_damaged", f"{entry}: {error}; the data were imported again")
    if opened is None:
        about = {"request": {"path": str(source), **asked}, "sources": sources}
        with disk_faults(cache_path, _OTHER_CACHE):
            cache_path.mkdir(parents=True, exist_ok=True)
        try:
            with locked(cache_path, waits=True):
                opened = None if force else read(entry)  # another may have been first
                if opened is None:
                    logger.info("[data] importing %s", source)
                    write(
                        cache_path, entry.name, lambda folder: {**about, **fill(folder)},
                        replace=force,
                    )  # fmt: skip
                    opened = read(entry)
        except DamagedEntryError as error:
            raise RunError(f"{entry}: just written, but damaged: {error}") from error
        if opened is None:
            raise RunError(f"{entry}: just written, but gone; does something clean this folder?")
    data, doubts = opened
    for item in doubts:
        warnings.add(item["code"], item["message"])
    return data
