"""The cache of imported data sets: one directory an import, named by its fingerprint.

    <cache_path>/<fingerprint>/
        meta.json         format version, request, source files, stats, warnings, own files
        users.parquet     videos.parquet
        offset_U1.npy     n_early_U.npy     video_N.npy     target_<name>.npy

An entry is written beside its place under a temporary name and renamed when it is whole, so that
what carries a fingerprint is complete, whoever was interrupted.
"""

from __future__ import annotations

import errno
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
from typing import Any, Literal

import numpy as np
import polars as pl

from realdataexp.data.log import DataSet, LogTable
from realdataexp.data.parquet import StoredTable, read_parquet
from realdataexp.errors import DiskError, InputError, RunError, Warnings
from realdataexp.files import sync, sync_names

logger = logging.getLogger("realdataexp")

FORMAT_VERSION = 3  # raise it when the files, or what an import makes of the CSVs, change

_TEMPORARY = ".importing-"
_ABANDONED_AFTER_S = 3600.0
_HASHED_BYTES = 64 * 1024
_N_PAGES, _PAGE_BYTES = 64, 4096
_IN_MEMORY_BYTES = 64 << 20
_DTYPES = {"offset_U1": np.int64, "n_early_U": np.int64, "video_N": np.int32}
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class DamagedEntryError(Exception):
    """A cache entry is there but not whole."""


def file_key(path: Path) -> dict[str, Any]:
    """Return a file's name, size in bytes, and a hash of its first and last 64 KiB."""
    size = path.stat().st_size
    digest = hashlib.sha256()
    with path.open("rb") as file:
        digest.update(file.read(_HASHED_BYTES))
        file.seek(max(0, size - _HASHED_BYTES))
        digest.update(file.read())
    return {"name": path.name, "size": size, "ends": digest.hexdigest()}


def _own_key(path: Path) -> dict[str, Any]:
    """`file_key` of a file of an entry, and a hash of pages spread over it: some of it may be lost.

    Raises:
        OSError: it cannot be read, or is no file; a pipe would never end.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path.name} is not there")
    key, digest = file_key(path), hashlib.sha256()
    with path.open("rb") as file:
        for i in range(_N_PAGES):
            file.seek(key["size"] * i // _N_PAGES)
            digest.update(file.read(_PAGE_BYTES))
    return {**key, "pages": digest.hexdigest()}


def _meta_digest(meta: dict[str, Any]) -> str:
    text = json.dumps({k: v for k, v in meta.items() if k != "digest"}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def source_key(path: Path) -> dict[str, Any]:
    """Return what tells whether a source file changed: `file_key` and its time of change."""
    return {**file_key(path), "mtime_ns": path.stat().st_mtime_ns}


def fingerprint(request: dict[str, Any], sources: Sequence[dict[str, Any]]) -> str:
    """Return the name of the cache entry for a request (order-sensitive) on source files."""
    text = json.dumps([FORMAT_VERSION, request, list(sources)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def read(entry: Path) -> tuple[DataSet, dict[str, Any]] | None:
    """Open a cache entry: users are read, large log arrays mapped, videos left in their file.

    Returns:
        The data set and the entry's meta data; None when there is no such entry.

    Raises:
        DamagedEntryError: the entry lacks a file, or one is not what was written.
    """
    if not entry.is_dir():
        return None
    try:
        return _read(entry)
    except (
        OSError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        ArithmeticError,
        RecursionError,
        NotImplementedError,
        pl.exceptions.PolarsError,
    ) as error:
        reason = " ".join(str(error).split())
        raise DamagedEntryError(f"{type(error).__name__}: {reason}") from error


def _read(entry: Path) -> tuple[DataSet, dict[str, Any]]:
    _own_key(entry / "meta.json")
    meta = json.loads((entry / "meta.json").read_text(encoding="utf-8"))
    if meta["format_version"] != FORMAT_VERSION:
        raise DamagedEntryError(f"format {meta['format_version']}, wanted {FORMAT_VERSION}")
    if meta["digest"] != _meta_digest(meta):
        raise DamagedEntryError("meta.json is not what was written")
    for key in meta["files"]:
        if _own_key(entry / key["name"]) != key:
            raise DamagedEntryError(f"{key['name']} is not what was written")
    # what is small is read: a file that is cut while it is mapped ends the process
    is_mapped = sum(key["size"] for key in meta["files"]) > _IN_MEMORY_BYTES
    arrays = {name: _open_array(entry, name, is_mapped) for name in _DTYPES}
    targets = {name: _open_array(entry, f"target_{name}", is_mapped) for name in meta["targets"]}
    data = DataSet(
        version=meta["version"],
        fingerprint=entry.name,
        log=LogTable(**arrays, targets=targets),
        users=read_parquet(entry / "users.parquet"),
        videos=StoredTable(entry / "videos.parquet"),
        stats=meta["stats"],
    )
    return data, meta


def _open_array(entry: Path, name: str, is_mapped: bool) -> np.ndarray:
    """An array of an entry, which nobody may change."""
    mode: Literal["r"] | None = "r" if is_mapped else None
    array: np.ndarray = np.load(entry / f"{name}.npy", mmap_mode=mode, allow_pickle=False)
    if array.ndim != 1 or array.dtype != _DTYPES.get(name, np.float32):
        raise ValueError(f"{name}.npy holds {array.dtype} of {array.ndim} axes")
    array.flags.writeable = False
    return array


def write(
    cache_path: Path, name: str, fill: Callable[[Path], dict[str, Any]], replace: bool = False
) -> Path:
    """Make the cache entry `name`, whole or not at all.

    Args:
        cache_path: folder of all entries; made when it is not there.
        name: the entry's fingerprint.
        fill: writes the entry's data files into the directory it is given and returns the meta
            data (`version`, `targets`, `stats`, ...).
        replace: put the new entry in the place of one that is there.

    Returns:
        The entry's directory; another process's, when that one was done first.

    Raises:
        InputError: the disk is full or the folder cannot be written.
    """
    cache_path = cache_path.absolute()  # Polars takes a leading ~ for the user's home
    temporary = cache_path / f"{_TEMPORARY}{name}-{_host()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    try:
        remove_leftovers(cache_path)
        temporary.mkdir(parents=True)
        meta = fill(temporary)
        files = sorted(temporary.iterdir())
        meta = {"format_version": FORMAT_VERSION, **meta, "files": [_own_key(p) for p in files]}
        meta = json.loads(json.dumps(meta, allow_nan=False))
        meta["digest"] = _meta_digest(meta)
        text = json.dumps(meta, indent=1, allow_nan=False)
        (temporary / "meta.json").write_text(text, encoding="utf-8")
        for path in (*files, temporary / "meta.json"):
            sync(path)
        sync_names(temporary)
        if replace:
            _remove(cache_path / name)
        return _publish(temporary, cache_path / name)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise _explained(error, cache_path) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _remove(entry: Path) -> None:
    """Take an entry away: renamed first, so that nobody opens it half removed."""
    trash = entry.with_name(f"{_TEMPORARY}removed-{_host()}-{os.getpid()}-{uuid.uuid4().hex[:8]}")
    try:
        os.rename(entry, trash)
    except FileNotFoundError:
        return  # there is none, or another process was first
    shutil.rmtree(trash, ignore_errors=True)


def remove_leftovers(cache_path: Path) -> None:
    """Remove what interrupted imports left: of dead processes here, or an hour old elsewhere."""
    for path in cache_path.glob(f"{_TEMPORARY}*"):
        host, _, pid = path.name.rpartition("-")[0].rpartition("-")
        if host.endswith(f"-{_host()}"):
            abandoned = not _is_alive(pid)
        else:
            abandoned = time.time() - _newest_change_s(path) > _ABANDONED_AFTER_S
        if abandoned:
            shutil.rmtree(path, ignore_errors=True)


def _publish(temporary: Path, entry: Path) -> Path:
    try:
        os.rename(temporary, entry)
    except OSError:
        if not entry.is_dir():
            raise
        return entry  # another process was first; its entry has the same content
    sync_names(entry.parent)
    return entry


def _explained(error: Exception, cache_path: Path) -> Exception:
    """Turn a failure to write into one line with the remedy; leave other errors alone."""
    number = error.errno if isinstance(error, OSError) else None
    # Polars reports a full disk in words only.
    if number in _FULL or "os error 28" in str(error):
        return DiskError(
            f"{cache_path}: the disk is full while the cache is written; free space there or set "
            "dataset.cache_path (--cache) to another disk"
        )
    if number in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
        return InputError(
            f"{cache_path}: the cache cannot be written here ({error}); set dataset.cache_path "
            "(--cache) to a folder you may write"
        )
    return error


def _host() -> str:
    return socket.gethostname().replace("/", "_")


def _is_alive(pid: str) -> bool:
    if os.name == "nt" or not pid.isdigit():
        return True  # os.kill(pid, 0) would end the process on Windows
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _newest_change_s(path: Path) -> float:
    try:
        return max(p.stat().st_mtime for p in (path, *path.iterdir()))
    except OSError:
        return time.time()  # it is being removed


def open_or_import(
    entry: Path,
    source: Path,
    fill: Callable[[Path], dict[str, Any]],
    warnings: Warnings,
    force: bool,
) -> DataSet:
    """Open a cache entry, importing the data first where it is missing, damaged or not wanted.

    Args:
        entry: where it is, or will be.
        source: the folder of the data, for the log.
        fill: as ``write`` takes it.
        warnings: takes what is doubtful in the data; a warm start reports it again.
        force: import again even if it is there.

    Raises:
        InputError: something is wrong with the files or the cache folder.
    """
    opened = None
    if not force:
        try:
            opened = read(entry)
        except DamagedEntryError as error:
            force = True
            warnings.add("cache_damaged", f"{entry}: {error}; the data were imported again")
    if opened is None:
        logger.info("[data] importing %s", source)
        write(entry.parent, entry.name, fill, replace=force)
        try:
            opened = read(entry)
        except DamagedEntryError as error:
            raise RunError(f"{entry}: just written, but damaged: {error}") from error
        if opened is None:
            raise RunError(f"{entry}: just written, but gone; does something clean this folder?")
    data, meta = opened
    for item in meta["warnings"]:
        warnings.add(item["code"], item["message"])
    return data
