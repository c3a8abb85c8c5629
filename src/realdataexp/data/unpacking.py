"""Archives, unpacked with care: all that is in one lands in one folder, or it is refused."""

from __future__ import annotations

import gzip
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

from realdataexp.data.transfer import BLOCK, Progress
from realdataexp.errors import RunError
from realdataexp.files import require_space, sync

_DAMAGED = (
    tarfile.TarError, gzip.BadGzipFile, zipfile.BadZipFile, EOFError, zlib.error, ValueError,
    RuntimeError,
)  # fmt: skip
"""What a file raises that is no archive, a damaged one, or one that has a password."""


class _Member(NamedTuple):
    name: str
    is_folder: bool
    is_file: bool  # and no link, device or sparse file
    n_bytes: int
    open: Callable[[], IO[bytes]]


def unpack(archive: Path, folder: Path, members: tuple[str, ...], progress: Progress) -> None:
    """Unpack a .tar.gz or a .zip into a folder that exists.

    Args:
        archive: its name tells which it is.
        folder: takes what is in it.
        members: patterns of the paths that are wanted.
        progress: told of every block.

    Raises:
        RunError: the archive is damaged, or holds a link, a device, a sparse file, the same file
            twice, or a path that leads out of the folder.
        InputError: a file is larger than what is free on the disk.
    """
    of_kind = _of_zip if archive.suffix == ".zip" else _of_tar
    size = archive.stat().st_size
    try:
        with archive.open("rb") as packed:
            for member in of_kind(packed):
                target = _target(archive, folder, member)
                if member.is_folder or not any(fnmatchcase(member.name, x) for x in members):
                    continue
                require_space(folder, member.n_bytes)
                target.parent.mkdir(parents=True, exist_ok=True)
                with member.open() as source, target.open("xb") as file:
                    while block := source.read(BLOCK):
                        file.write(block)
                        progress("unpack", packed.tell(), size)
                sync(target)
    except _DAMAGED as error:
        raise RunError(f"{archive}: cannot be unpacked: {' '.join(str(error).split())}") from error
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise RunError(f"{archive}: cannot be unpacked: holds {error.filename} twice") from error


def _target(archive: Path, folder: Path, member: _Member) -> Path:
    """Where a member goes; one that must not be there is refused."""
    target = folder / member.name
    is_plain = member.is_file or member.is_folder
    if not is_plain or not target.resolve().is_relative_to(folder.resolve()):
        raise RunError(
            f"{archive}: refused: {member.name!r} in it is not a plain file or folder inside the "
            "archive's own"
        )
    return target


def _of_tar(packed: IO[bytes]) -> Iterator[_Member]:
    with gzip.open(packed) as unpacked, tarfile.open(fileobj=unpacked, mode="r:") as tar:
        for info in tar:
            is_file = info.isreg() and not info.issparse()
            opened = partial(cast(Any, tar.extractfile), info)
            yield _Member(info.name, info.isdir(), is_file, info.size, opened)
        while unpacked.read(BLOCK):  # to its checksum, which comes last
            pass


def _of_zip(packed: IO[bytes]) -> Iterator[_Member]:
    with zipfile.ZipFile(packed) as archive:
        for info in archive.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)  # 0 where it was made without Unix
            is_file = kind in (0, stat.S_IFREG) and not info.is_dir()
            is_folder = kind in (0, stat.S_IFDIR) and info.is_dir()
            opened = partial(archive.open, info)
            yield _Member(info.filename, is_folder, is_file, info.file_size, opened)
