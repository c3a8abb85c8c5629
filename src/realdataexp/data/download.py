"""The official KuaiRand archives: fetched, checked and unpacked, each step whole or not at all.

DIR/KuaiRand-Pure.tar.gz.part    what has come so far (and .part.json: what it belongs to)
DIR/KuaiRand-Pure.tar.gz         the whole archive, its md5 checked
DIR/.unpacking/                  being unpacked
DIR/.download.json               the files that were put in place, with their sizes
DIR/data/*.csv                   the data
"""

from __future__ import annotations

import gzip
import hashlib
import json
import logging
import shutil
import tarfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from realdataexp.data.disk import locked, require_space
from realdataexp.data.transfer import PATIENCE, Patience, Progress, fetch
from realdataexp.errors import InputError, RunError
from realdataexp.files import disk_faults, sync

logger = logging.getLogger("realdataexp")

_MARKER = ".download.json"
_UNPACKING = ".unpacking"
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Archive:
    """An official archive.

    Attributes:
        name: of the data set; the archive is `<name>.tar.gz` and unpacks to a folder `<name>`.
        md5: of the archive, as Zenodo gives it.
        unpacked_bytes: about what its files take.
    """

    name: str
    md5: str
    unpacked_bytes: int

    @property
    def url(self) -> str:
        """Where its authors keep it."""
        return f"https://zenodo.org/records/10439422/files/{self.name}.tar.gz?download=1"


ARCHIVES = {
    "pure": Archive("KuaiRand-Pure", "0820331067a3784d9691136f772b35a7", 210_000_000),
    "1k": Archive("KuaiRand-1K", "6b0b9c8222d67fcd4c676218edca3f1f", 4_700_000_000),
    "27k": Archive("KuaiRand-27K", "3e3c799a24e2d23a4d2c757fbf9adf59", 50_000_000_000),
}


def download(
    version: str,
    folder: Path,
    *,
    url: str | None = None,
    keep_archive: bool = False,
    progress: Progress = lambda phase, done, total: None,
    patience: Patience = PATIENCE,
) -> bool:
    """Fetch, check and unpack an official archive; go on where an earlier call stopped.

    Args:
        version: one of `ARCHIVES`.
        folder: takes the data; afterwards it is what `dataset.path` names.
        url: a mirror of the archive; its md5 must be the official one all the same.
        keep_archive: keep the archive beside the data.
        progress: told the phase, and its bytes so far and in all (None: unknown).
        patience: when to give up.

    Returns:
        Whether anything had to be done: False when the folder was complete.

    Raises:
        InputError: the folder, the URL or the disk cannot be used.
        RunError: the archive could not be fetched, or is not the official one.
        KeyboardInterrupt: with how to go on.
    """
    archive = ARCHIVES.get(version)
    if archive is None:
        raise InputError(f"{version}: no version of KuaiRand; there are {', '.join(ARCHIVES)}")
    try:
        with disk_faults(folder, "give another folder"):
            folder.mkdir(parents=True, exist_ok=True)
            with locked(folder):
                if _is_complete(archive, folder):
                    return False
                _download(archive, folder, url or archive.url, progress, patience)
                if not keep_archive:
                    (folder / f"{archive.name}.tar.gz").unlink()
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"interrupted; the same command goes on where it stopped ({folder})"
        ) from None
    return True


def _download(
    archive: Archive, folder: Path, url: str, progress: Progress, patience: Patience
) -> None:
    ours = _refuse_other_files(archive, folder)
    temporary = folder / _UNPACKING
    shutil.rmtree(temporary, ignore_errors=True)
    require_space(folder, archive.unpacked_bytes)
    path = folder / f"{archive.name}.tar.gz"
    if path.exists():
        found = _md5(path, progress)
        if found != archive.md5:
            raise InputError(
                f"{path}: is not the official archive: its md5 is {found}, not {archive.md5}; "
                "remove it and run the command again"
            )
    else:
        _fetch_archive(archive, path, url, progress, patience)
    logger.info("[download] unpacking %s", path)
    try:
        unpack(path, temporary, progress)
        _put_in_place(archive, temporary, folder, ours)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _fetch_archive(
    archive: Archive, path: Path, url: str, progress: Progress, patience: Patience
) -> None:
    """Fetch into `<path>.part`; rename it when its md5 is right, remove it when it is not."""
    part = path.with_name(f"{path.name}.part")
    logger.info("[download] %s", url)

    def check_space(missing: int) -> None:
        require_space(path.parent, missing + archive.unpacked_bytes)

    note = fetch(url, part, check_space, progress, patience)
    found = _md5(part, progress)
    if found != archive.md5:
        part.unlink()
        note.unlink(missing_ok=True)
        raise RunError(
            f"{url}: gave a file with md5 {found}, not {archive.md5}; it was removed: run the "
            "command again, or name another mirror with --url"
        )
    sync(part)
    part.replace(path)
    note.unlink(missing_ok=True)


def _md5(path: Path, progress: Progress) -> str:
    digest, done, size = hashlib.md5(usedforsecurity=False), 0, path.stat().st_size
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
            done += len(block)
            progress("check", done, size)
    return digest.hexdigest()


# ---- the folder -------------------------------------------------------------------------------


def _marker(folder: Path) -> dict[str, Any]:
    """What an earlier download put, or began to put, into the folder; empty where none did."""
    try:
        marker = json.loads((folder / _MARKER).read_text(encoding="utf-8"))
        return {"name": str(marker["name"]), "files": dict(marker["files"])}
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return {}


def _is_complete(archive: Archive, folder: Path) -> bool:
    marker = _marker(folder)
    return marker.get("name") == archive.name and all(
        (folder / name).is_file() and (folder / name).stat().st_size == size
        for name, size in marker["files"].items()
    )


def _refuse_other_files(archive: Archive, folder: Path) -> set[str]:
    """Refuse to mix the data with others; return what an earlier download put at the top."""
    marker = _marker(folder)
    if marker and marker["name"] != archive.name:
        raise InputError(f"{folder}: holds {marker['name']}; give {archive.name} another folder")
    ours = {name.split("/")[0] for name in marker.get("files", ())}
    if "data" not in ours and (folder / "data").exists():
        raise InputError(
            f"{folder / 'data'}: exists, and not from a download; give another folder or move it"
        )
    return ours


def _put_in_place(archive: Archive, temporary: Path, folder: Path, ours: set[str]) -> None:
    """Rename what was unpacked into the folder; the list of it is written first."""
    root = temporary / archive.name
    if not root.is_dir():
        root = temporary
    files = sorted(path for path in root.rglob("*") if path.is_file())
    if not any(path.parent == root / "data" and path.stat().st_size for path in files):
        text = f"{folder / f'{archive.name}.tar.gz'}: holds no file of data"
        raise RunError(f"{text}; remove it, and name another mirror with --url")
    names = {path.relative_to(root).as_posix(): path.stat().st_size for path in files}
    strangers = {name.split("/")[0] for name in names} - ours
    there = sorted(name for name in strangers if (folder / name).exists())
    if there:
        raise InputError(
            f"{folder / there[0]}: exists, and not from a download; give another folder or move it"
        )
    text = json.dumps({"name": archive.name, "files": names}, indent=1)
    listed = temporary / _MARKER
    listed.write_text(text, encoding="utf-8")
    sync(listed)
    listed.replace(folder / _MARKER)
    for path in files:
        target = folder / path.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        path.replace(target)


# ---- the archive ------------------------------------------------------------------------------


def unpack(archive: Path, folder: Path, progress: Progress) -> None:
    """Unpack a .tar.gz into a new folder.

    Args:
        archive: the file.
        folder: made for it; on an error, what was unpacked so far is in it.
        progress: told how much of the archive was read.

    Raises:
        RunError: the archive is damaged, or holds a link, a device, a sparse file, the same file
            twice, or a path that leads out of the folder.
        InputError: a file is larger than what is free on the disk.
    """
    if not hasattr(tarfile, "data_filter"):
        raise RunError("unpacking needs Python 3.11.4 or newer, which can tell safe paths")
    folder.mkdir()
    size = archive.stat().st_size
    try:
        with (
            archive.open("rb") as packed,
            gzip.open(packed) as unpacked,
            tarfile.open(fileobj=unpacked, mode="r:") as tar,
        ):
            for member in tar:
                target = folder / _checked_name(archive, member, folder)
                if member.isdir():
                    target.mkdir(parents=True, exist_ok=True)
                    continue
                require_space(folder, member.size)
                target.parent.mkdir(parents=True, exist_ok=True)
                source = tar.extractfile(member)
                assert source is not None  # it is a regular file
                with source, target.open("xb") as file:
                    while block := source.read(_BLOCK):
                        file.write(block)
                        progress("unpack", packed.tell(), size)
                sync(target)
            while unpacked.read(_BLOCK):  # to its checksum, which comes last
                pass
    except (tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise RunError(f"{archive}: cannot be unpacked: {' '.join(str(error).split())}") from error
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise RunError(f"{archive}: cannot be unpacked: holds {error.filename} twice") from error


def _checked_name(archive: Path, member: tarfile.TarInfo, folder: Path) -> str:
    """A member's path inside the folder.

    Raises:
        RunError: it is not a plain file or folder, or its path leads elsewhere.
    """
    is_plain = (member.isreg() and not member.issparse()) or member.isdir()
    try:
        safe = tarfile.data_filter(member, str(folder))
    except tarfile.FilterError:
        safe = None
    # the filter takes the / off an absolute path; one that is absolute is not meant well
    if not is_plain or safe is None or safe.name != member.name:
        raise RunError(
            f"{archive}: refused: {member.name!r} in it is not a plain file or folder inside the "
            "archive's own"
        )
    return member.name
