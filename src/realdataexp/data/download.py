"""Public data sets: fetched, checked, unpacked and prepared, each step whole or not at all.

DIR/KuaiRand-Pure.tar.gz.part    what has come so far
DIR/KuaiRand-Pure.tar.gz         the whole archive, its checksum compared
DIR/.unpacking/                  being unpacked, or prepared
DIR/.download.json               the files that were put in place, with their sizes
DIR/data/*.csv                   the data
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from realdataexp.data.archives.base import Archive, File
from realdataexp.data.transfer import PATIENCE, Patience, Progress, Transfer, digest, is_address
from realdataexp.data.unpacking import unpack
from realdataexp.errors import InputError, RunError
from realdataexp.files import disk_faults, require_space, sync
from realdataexp.registry import find, reason

logger = logging.getLogger("realdataexp")

_MARKER = ".download.json"
_MD5 = re.compile(r"\b[0-9a-fA-F]{32}\b")
_LONGEST = 4096  # bytes of a file that states one


def find_archive(name: str) -> Archive:
    """The archive called ``name``, or what ``package.module:NAME`` names.

    Raises:
        InputError: there is none, or it is no `Archive`.
    """
    archive = find("archive", name, "download")
    if not isinstance(archive, Archive):
        raise InputError(f"download {name}: is no realdataexp.data.archives.base.Archive")
    return archive


def download(
    archive: Archive,
    folder: Path,
    *,
    every: int | None = None,
    url: str | None = None,
    keep_archive: bool = False,
    progress: Progress = lambda phase, done, total: None,
    patience: Patience = PATIENCE,
) -> bool:
    """Fetch, check, unpack and prepare a data set; resume where an earlier call stopped.

    Args:
        archive: the data set.
        folder: takes the data.
        every: keep every so many-th user in the tables that are made of the files.
        url: a mirror of the file; of the folder that they lie in, where there are several. The
            checksums must be the same.
        keep_archive: keep what was unpacked beside the data.
        progress: told of every block.
        patience: when to give up.

    Returns:
        Whether anything had to be done: False when the folder was complete.

    Raises:
        InputError: the folder, the URL or the disk cannot be used.
        RunError: a file could not be fetched, or is not the official one.
        KeyboardInterrupt: with how to go on.
    """
    every = _every(archive, every)
    if url is not None and not is_address(url):
        raise InputError(f"--url {url}: is no http or https address; pass one of the archive")
    if url is not None and len(archive.files) > 1:
        archive = replace(archive, base=url.rstrip("/"))
        url = None
    try:
        with disk_faults(folder, "choose another folder"):
            folder.mkdir(parents=True, exist_ok=True)
            with locked(folder):
                content = _Content.read(folder, archive)
                is_new = not content.has_files
                if is_new:
                    content.refuse_strangers(_first_names(archive))
                    require_space(folder, archive.unpacked_bytes)
                    for file in archive.files:
                        _provide(archive, file, folder, url, progress, patience)
                    content = _fill(archive, folder, content, progress)
                    for file in archive.files:
                        if file.is_packed and not keep_archive:
                            (folder / file.path).unlink()
                if archive.tables and content.every != every:
                    content, is_new = _prepare(archive, folder, content, every), True
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"interrupted; the same command resumes where it stopped ({folder})"
        ) from None
    return is_new


def _every(archive: Archive, every: int | None) -> int:
    if every is None:
        return archive.tables.every if archive.tables else 1
    if archive.tables is None:
        raise InputError(f"--every {every}: {archive.name} is kept as it is; leave it out")
    if every < 1:
        raise InputError(f"--every {every}: must be at least 1; every second user is --every 2")
    return every


def _first_names(archive: Archive) -> set[str]:
    """Names at the top of the folder that are known before anything is unpacked."""
    is_packed = any(file.is_packed for file in archive.files)
    return {archive.holds.split("/")[0]} if is_packed else set()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep a second download out of the folder; the system frees it with the process."""
    if sys.platform == "win32":
        yield
        return
    import fcntl

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"{folder}: another download is writing here; wait for it or choose another folder"
            ) from None
        except OSError:
            logger.debug("[download] %s: this file system has no locks", folder)
        yield
    finally:
        os.close(descriptor)


# ---- a file -----------------------------------------------------------------------------------


def _provide(
    archive: Archive,
    file: File,
    folder: Path,
    url: str | None,
    progress: Progress,
    patience: Patience,
) -> None:
    """See to it that a file is at its path, its checksum the one that is known."""
    path, url = folder / file.path, url or f"{archive.base}/{file.path}"
    path.parent.mkdir(parents=True, exist_ok=True)
    checksum = file.checksum
    if checksum and ":" not in checksum:
        checksum = _published(f"{archive.base}/{checksum}", path, progress, patience)
    if path.exists():
        if wrong := _fault(path, checksum, progress):
            raise InputError(
                f"{path}: is not the official file: its {wrong}; remove it and run the command "
                "again"
            )
    else:
        logger.info("[download] %s", url)
        part = path.with_name(f"{path.name}.part")
        Transfer(url, part, checksum, archive.unpacked_bytes, progress, patience).run()
        if wrong := _fault(part, checksum, progress):
            part.unlink()
            raise RunError(
                f"{url}: gave a file whose {wrong}; it was removed: run the command again, or name "
                "another mirror with --url"
            )
        sync(part)
        part.replace(path)
    if checksum:
        logger.info("[download] %s: %s, as stated by %s", path.name, checksum, archive.checked_by)
    else:
        found = digest(path, "sha256", progress)
        logger.info("[download] %s: no checksum is known; its sha256 is %s", path.name, found)


def _fault(path: Path, checksum: str, progress: Progress) -> str:
    """How a file's checksum differs from the one that is known; empty where it does not."""
    kind, _, digits = checksum.partition(":")
    if not kind or (found := digest(path, kind, progress)) == digits:
        return ""
    return f"{kind} is {found}, not {digits}"


def _published(url: str, path: Path, progress: Progress, patience: Patience) -> str:
    """The md5 that a file beside the archive states.

    Raises:
        RunError: it could not be fetched, or states none.
    """
    part = path.with_name(f"{path.name}.md5.part")
    Transfer(url, part, "", 0, progress, patience).run()
    found = _MD5.search(part.read_bytes()[:_LONGEST].decode("ascii", "replace"))
    part.unlink()
    if found is None:
        raise RunError(f"{url}: states no md5; try again later")
    return f"md5:{found[0].lower()}"


# ---- the folder -------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Content:
    """What earlier downloads put, or began to put, into the folder.

    Attributes:
        name: of the archive; None where there was none.
        files: paths and sizes of what was published.
        tables: of what was made of it, for every `every`-th user.
    """

    folder: Path
    name: str | None = None
    files: dict[str, int] = field(default_factory=dict)
    tables: dict[str, int] = field(default_factory=dict)
    every: int | None = None

    @classmethod
    def read(cls, folder: Path, archive: Archive) -> _Content:
        try:
            given = json.loads((folder / _MARKER).read_text(encoding="utf-8"))
            files, tables = dict(given["files"]), dict(given.get("prepared", {}))
            content = cls(folder, str(given["name"]), files, tables, given.get("every"))
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return cls(folder)
        if content.name != archive.name:
            raise InputError(
                f"{folder}: holds {content.name}; choose another folder for {archive.name}"
            )
        return content if content._is_there(tables) else replace(content, every=None)

    def _is_there(self, files: dict[str, int]) -> bool:
        paths = [(self.folder / name, size) for name, size in files.items()]
        return all(path.is_file() and path.stat().st_size == size for path, size in paths)

    @property
    def has_files(self) -> bool:
        """Whether all that was published is in place."""
        return self.name is not None and self._is_there(self.files)

    def refuse_strangers(self, names: set[str]) -> None:
        """Refuse to mix the data with files of the same names, at the top of the folder."""
        ours = {name.split("/")[0] for name in (*self.files, *self.tables)}
        for path in sorted(self.folder / name for name in names - ours):
            if path.exists():
                raise InputError(
                    f"{path}: exists, and not from a download; choose another folder or move it"
                )

    def place(self, root: Path) -> None:
        """Write this content down, then rename what ``root`` has of it into the folder."""
        marker: dict[str, Any] = {"name": self.name, "files": self.files}
        if self.tables:
            marker |= {"prepared": self.tables, "every": self.every}
        listed = root / _MARKER
        listed.write_text(json.dumps(marker, indent=1), encoding="utf-8")
        sync(listed)
        listed.replace(self.folder / _MARKER)
        for path in sorted(path for path in root.rglob("*") if path.is_file()):
            target = self.folder / path.relative_to(root)
            target.parent.mkdir(parents=True, exist_ok=True)
            path.replace(target)


def _sizes(root: Path) -> dict[str, int]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): path.stat().st_size for path in files}


@contextmanager
def _temporary(folder: Path) -> Iterator[Path]:
    temporary = folder / ".unpacking"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _fill(archive: Archive, folder: Path, content: _Content, progress: Progress) -> _Content:
    """Unpack what is packed and put it in place; what the folder holds then."""
    with _temporary(folder) as temporary:
        plain = [file.path for file in archive.files if not file.is_packed]
        packed = [folder / file.path for file in archive.files if file.is_packed]
        for path in packed:
            logger.info("[download] unpacking %s", path)
            unpack(path, temporary, archive.members, progress)
        root = _root(archive, temporary, packed[0]) if packed else temporary
        files = {name: (folder / name).stat().st_size for name in plain} | _sizes(root)
        content.refuse_strangers({name.split("/")[0] for name in _sizes(root)})
        content = replace(content, name=archive.name, files=files, tables={}, every=None)
        content.place(root)
    return content


def _root(archive: Archive, temporary: Path, packed: Path) -> Path:
    """The folder of an unpacked archive that holds what the archive is known by."""
    depth = archive.holds.count("/")
    found = [
        path.parents[depth]
        for path in sorted(temporary.rglob(archive.holds))
        if path.is_file() and path.stat().st_size
    ]
    if not found:
        text = f"{packed}: holds no file of data ({archive.holds})"
        raise RunError(f"{text}; remove it, and name another mirror with --url")
    return min(found, key=lambda path: len(path.parts))


def _prepare(archive: Archive, folder: Path, content: _Content, every: int) -> _Content:
    """Make the tables that a config reads, and put them in place."""
    assert archive.tables is not None
    logger.info("[download] preparing %s", folder)
    with _temporary(folder) as temporary:
        with _reading(archive, folder):
            archive.tables.write(folder.absolute(), temporary.absolute(), every)
        tables = _sizes(temporary)
        content.refuse_strangers(set(tables))
        for name in tables:
            sync(temporary / name)
        content = replace(content, tables=tables, every=every)
        content.place(temporary)
    return content


@contextmanager
def _reading(archive: Archive, folder: Path) -> Iterator[None]:
    """Turn whatever goes wrong with files that are not as published into one line."""
    try:
        yield
    except (InputError, RunError):
        raise
    except Exception as error:
        is_of_disk = isinstance(error, OSError) or "(os error" in str(error)
        if is_of_disk and not isinstance(error, FileNotFoundError):
            raise
        raise RunError(
            f"{folder}: {archive.name} could not be prepared: {reason(error)}; compare its files "
            f"with what {archive.home} describes"
        ) from error
