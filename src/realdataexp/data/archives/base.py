"""What an archive is: files that their authors publish, and what a config reads instead."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Annotated

import polars as pl
from pydantic import AfterValidator, Field
from pydantic.dataclasses import dataclass


def _below(path: str) -> str:
    if path != str(PurePosixPath(path)) or path.startswith("/") or ".." in path.split("/"):
        raise ValueError("must be a path below the folder, such as data/log.csv")
    return path


def _digits(checksum: str) -> str:
    if ":" in checksum and not re.fullmatch(r"md5:[0-9a-f]{32}|sha256:[0-9a-f]{64}", checksum):
        raise ValueError("must be md5: with 32 or sha256: with 64 hexadecimal digits, or a path")
    return checksum


_Below = Annotated[str, AfterValidator(_below), Field(pattern=r"[^.]")]
_Address = Annotated[str, Field(pattern=r"^https?://[^/]+(/[^/]+)*$")]
_Checksum = Annotated[str, AfterValidator(_digits)]


@dataclass(frozen=True)
class File:
    """A file that is published.

    Attributes:
        path: below `Archive.base`, and in the reader's folder.
        checksum: ``md5:…`` or ``sha256:…``; or the path below the base of a file that holds its
            md5; empty where none is known.
    """

    path: _Below
    checksum: _Checksum = ""

    @property
    def is_packed(self) -> bool:
        """Whether what is in it is wanted, not itself."""
        return self.path.endswith((".tar.gz", ".zip"))


@dataclass(frozen=True)
class Tables:
    """What a config reads where the published files lack a column that a replay needs.

    Attributes:
        write: takes the folder of the files, a folder to write into, and which users to keep:
            every so many-th (`some_users`).
        every: so many-th, unless the command says otherwise.
    """

    write: Callable[[Path, Path, int], None]
    every: Annotated[int, Field(ge=1)]


@dataclass(frozen=True)
class Archive:
    """A public data set.

    Attributes:
        name: what it is called; a folder holds one.
        home, licence: where its authors describe it, and their terms.
        base: the address below which the files lie.
        files: what is fetched. One that is packed is unpacked, and removed.
        checked_by: who states the checksums; empty where none is known.
        holds: a file without which the archive is another, as a path below its own top folder,
            which becomes the reader's folder; ``*`` stands for any name.
        members: what is unpacked: patterns of paths as they stand in the archive.
        unpacked_bytes: about what lies in the folder in the end.
        tables: what a config reads instead of the files; None: the files.
        run: the command that comes next; ``{}`` stands for the folder.
    """

    name: str
    home: str
    licence: str
    base: _Address
    files: Annotated[tuple[File, ...], Field(min_length=1)]
    checked_by: str
    holds: _Below
    unpacked_bytes: Annotated[int, Field(ge=0)]
    run: str
    members: tuple[str, ...] = ("*",)
    tables: Tables | None = None


def some_users(log: pl.LazyFrame, user: str, every: int) -> pl.LazyFrame:
    """The rows of every so many-th user, in the order of their numbers; their order is kept."""
    if every == 1:
        return log
    users = log.select(pl.col(user).unique()).collect(engine="streaming")[user].sort()
    return log.filter(pl.col(user).is_in(users.gather_every(every).implode()))
