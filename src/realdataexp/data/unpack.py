"""Unpacking a tar archive that nobody vouches for: files and folders only, inside one folder."""

from __future__ import annotations

import gzip
import tarfile
import zlib
from pathlib import Path

from realdataexp.data.disk import require_space
from realdataexp.data.transfer import Progress
from realdataexp.errors import RunError
from realdataexp.files import sync

_BLOCK = 1 << 20


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
