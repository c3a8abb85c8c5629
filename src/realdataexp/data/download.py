"""The official KuaiRand archives: fetched, checked and unpacked, each step whole or not at all.

DIR/KuaiRand-Pure.tar.gz.part    what has come so far
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
import os
import re
import shutil
import socket
import ssl
import sys
import tarfile
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from realdataexp.errors import InputError, RunError
from realdataexp.files import disk_faults, require_space, sync

logger = logging.getLogger("realdataexp")

Progress = Callable[[str, int, int | None], None]
"""Told the phase, and its bytes so far and in all (None: unknown)."""

_MARKER = ".download.json"
_BLOCK, _NETWORK_BLOCK = 1 << 20, 1 << 16
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")
_TRANSIENT = (408, 425, 429)
_ATTEMPTS_TO_FIND_THE_HOST = 3


@dataclass(frozen=True)
class Archive:
    """An official archive, `<name>.tar.gz`, which unpacks to a folder `<name>`.

    ``md5`` is as Zenodo gives it; its files take about ``unpacked_bytes``.
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


@dataclass(frozen=True)
class Patience:
    """When to give up.

    Attributes:
        attempts: failed ones in a row, without `progress_bytes` more than ever before.
        first_wait_s, max_wait_s: between two attempts; the wait doubles.
        timeout_s: without a byte.
        progress_bytes: what counts as progress.
    """

    attempts: int = 8
    first_wait_s: float = 1.0
    max_wait_s: float = 30.0
    timeout_s: float = 30.0
    progress_bytes: int = 1 << 20


def download(
    version: str,
    folder: Path,
    *,
    url: str | None = None,
    keep_archive: bool = False,
    progress: Progress = lambda phase, done, total: None,
    patience: Patience = Patience(),
) -> bool:
    """Fetch, check and unpack an official archive; resume where an earlier call stopped.

    Args:
        version: one of `ARCHIVES`.
        folder: takes the data; afterwards it is what `dataset.path` names.
        url: a mirror of the archive; its md5 must be the official one all the same.
        keep_archive: keep the archive beside the data.
        progress: told of every block.
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
    path = folder / f"{archive.name}.tar.gz"
    try:
        with disk_faults(folder, "choose another folder"):
            folder.mkdir(parents=True, exist_ok=True)
            with locked(folder):
                marker = _marker(folder)
                if marker["name"] == archive.name and all(
                    (folder / name).is_file() and (folder / name).stat().st_size == size
                    for name, size in marker["files"].items()
                ):
                    return False
                ours = _refuse_other_files(archive, folder, marker)
                temporary = folder / ".unpacking"
                shutil.rmtree(temporary, ignore_errors=True)
                require_space(folder, archive.unpacked_bytes)
                _provide(archive, path, url or archive.url, progress, patience)
                logger.info("[download] unpacking %s", path)
                try:
                    _unpack(path, temporary, progress)
                    _put_in_place(archive, temporary, folder, ours)
                finally:
                    shutil.rmtree(temporary, ignore_errors=True)
                if not keep_archive:
                    path.unlink()
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"interrupted; the same command resumes where it stopped ({folder})"
        ) from None
    return True


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


def _provide(
    archive: Archive, path: Path, url: str, progress: Progress, patience: Patience
) -> None:
    """See to it that the archive is at its path, its md5 the official one."""
    if path.exists():
        if (found := _md5(path, progress)) != archive.md5:
            raise InputError(
                f"{path}: is not the official archive: its md5 is {found}, not {archive.md5}; "
                "remove it and run the command again"
            )
        return
    logger.info("[download] %s", url)
    part = path.with_name(f"{path.name}.part")
    _Transfer(archive, url, part, progress, patience).run()
    if (found := _md5(part, progress)) != archive.md5:
        part.unlink()
        raise RunError(
            f"{url}: gave a file with md5 {found}, not {archive.md5}; it was removed: run the "
            "command again, or name another mirror with --url"
        )
    sync(part)
    part.replace(path)


def _md5(path: Path, progress: Progress) -> str:
    digest, done, size = hashlib.md5(usedforsecurity=False), 0, path.stat().st_size
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
            done += len(block)
            progress("check", done, size)
    return digest.hexdigest()


# ---- the transfer -----------------------------------------------------------------------------


class _BrokenError(Exception):
    """An attempt failed in a way that another may not."""

    def __init__(self, reason: str, wait_s: float = 0.0, attempts: int | None = None) -> None:
        super().__init__(reason)
        self.wait_s, self.attempts = wait_s, attempts  # at most so many of this kind


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        is_good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        (parts.hostname or "").encode("idna")
    except ValueError:
        return False
    return bool(is_good) and url.isascii() and url.isprintable() and " " not in url


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows a server to http and https addresses only."""

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        if not _is_address(newurl):
            raise ValueError(f"{newurl} is no http or https address")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class _Transfer:
    """The part file, and attempts to fill it over HTTP; proxies are taken from the environment.

    Whatever the server has in its place meanwhile, the archive's md5 tells in the end.
    """

    def __init__(
        self, archive: Archive, url: str, part: Path, progress: Progress, patience: Patience
    ) -> None:
        if not _is_address(url):
            raise InputError(f"--url {url}: is no http or https address; pass one of the archive")
        self._archive, self._url, self._part = archive, url, part
        self._progress, self._patience = progress, patience
        self._size = part.stat().st_size if part.exists() else 0

    def run(self) -> None:
        """Fill the part.

        Raises:
            RunError: the server refuses, or every attempt failed.
        """
        patience, failed, mark = self._patience, 0, self._size
        while True:
            try:
                return self._attempt()
            except _BrokenError as error:
                if self._size >= mark + patience.progress_bytes:
                    failed, mark = 0, self._size
                failed += 1
                if failed >= min(patience.attempts, error.attempts or patience.attempts):
                    raise RunError(
                        f"{self._url}: gave up after {failed} attempts, {self._size:,} bytes have "
                        f"come: {error}; run the command again to resume, or name a mirror with "
                        "--url"
                    ) from error
                wait = max(patience.first_wait_s * 2 ** (failed - 1), error.wait_s)
                wait = min(wait, patience.max_wait_s)
                logger.info("[download] %s; attempt %d in %.0f s", error, failed + 1, wait)
                time.sleep(wait)

    def _attempt(self) -> None:
        """Ask for what is missing and write it; return when the file is whole."""
        response = self._open()
        if response is None:
            return
        with response:
            total = self._total(response)
            missing = max(0, (total or 0) - self._size)
            require_space(self._part.parent, missing + self._archive.unpacked_bytes)
            self._copy(response, total)
        if total is not None and self._size != total:
            raise _BrokenError(f"the connection ended after {self._size:,} of {total:,} bytes")

    def _open(self) -> HTTPResponse | None:
        """The server's answer; None where all is there already."""
        headers = {"User-Agent": "realdataexp", "Accept-Encoding": "identity"}
        if self._size:
            headers["Range"] = f"bytes={self._size}-"
        request = urllib.request.Request(self._url, headers=headers)
        try:
            # an opener of its own: the shared one keeps the proxies of its first use
            opener = urllib.request.build_opener(_Redirects)
            response: HTTPResponse = opener.open(request, timeout=self._patience.timeout_s)
            return response
        except urllib.error.HTTPError as error:
            error.close()
            said = " ".join(f"the server answers {error.code} {error.reason}".split())
            if error.code == 416:  # nothing lies behind what is here
                if _md5(self._part, self._progress) == self._archive.md5:
                    return None
                raise self._start_over(said) from error
            if error.code in _TRANSIENT or error.code >= 500:
                after = error.headers.get("Retry-After", "")
                raise _BrokenError(said, float(after) if after.isdecimal() else 0.0) from error
            raise RunError(f"{self._url}: {said}; name a mirror with --url") from error
        except ValueError as error:
            text = f"{self._url}: redirects to an address that cannot be used: {_said(error)}"
            raise RunError(f"{text}; name a mirror with --url") from error
        except (OSError, HTTPException) as error:
            reason = getattr(error, "reason", error)
            if isinstance(reason, ssl.SSLCertVerificationError):
                raise RunError(
                    f"{self._url}: its certificate cannot be verified; check this machine's clock "
                    "and proxy"
                ) from error
            if isinstance(reason, socket.gaierror):
                host = urlsplit(self._url).hostname
                said = f"the host {host} is not found ({_said(reason)}): is there a network?"
                raise _BrokenError(said, attempts=_ATTEMPTS_TO_FIND_THE_HOST) from error
            raise _BrokenError(f"no answer: {_said(reason)}") from error

    def _total(self, response: HTTPResponse) -> int | None:
        """The file's size, where it is said; the part ends where the answer begins."""
        if response.status != 206:
            self._start_over("the server sends all of it")
            length = response.headers.get("Content-Length", "")
            return int(length) if length.isdecimal() else None
        given = response.headers.get("Content-Range", "")
        match = _CONTENT_RANGE.fullmatch(given.strip())
        if match is None or int(match[1]) != self._size:
            raise self._start_over(f"the answer does not fit ({given or 'no range'})")
        return None if match[2] == "*" else int(match[2])

    def _start_over(self, reason: str) -> _BrokenError:
        self._part.write_bytes(b"")
        self._size = 0
        return _BrokenError(f"{reason}; starting over")

    def _copy(self, response: HTTPResponse, total: int | None) -> None:
        self._progress("download", self._size, total)
        with self._part.open("ab", buffering=0) as file:
            while True:
                try:
                    block = response.read1(_NETWORK_BLOCK)
                except (OSError, HTTPException) as error:
                    raise _BrokenError(f"the connection broke: {_said(error)}") from error
                if not block:
                    return
                file.write(block)
                self._size += len(block)
                self._progress("download", self._size, total)


def _said(error: object) -> str:
    """What an error says, in one line."""
    return " ".join(str(getattr(error, "strerror", None) or error).split()) or type(error).__name__


# ---- the folder -------------------------------------------------------------------------------


def _marker(folder: Path) -> dict[str, Any]:
    """What an earlier download put, or began to put, into the folder."""
    try:
        marker = json.loads((folder / _MARKER).read_text(encoding="utf-8"))
        return {"name": str(marker["name"]), "files": dict(marker["files"])}
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return {"name": None, "files": {}}


def _refuse_other_files(archive: Archive, folder: Path, marker: dict[str, Any]) -> set[str]:
    """Refuse to mix the data with others; return what an earlier download put at the top."""
    if marker["name"] not in (None, archive.name):
        raise InputError(
            f"{folder}: holds {marker['name']}; choose another folder for {archive.name}"
        )
    ours = {name.split("/")[0] for name in marker["files"]}
    _refuse_strangers(folder, {"data"} - ours)
    return ours


def _refuse_strangers(folder: Path, names: set[str]) -> None:
    for path in sorted(folder / name for name in names):
        if path.exists():
            raise InputError(
                f"{path}: exists, and not from a download; choose another folder or move it"
            )


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
    _refuse_strangers(folder, {name.split("/")[0] for name in names} - ours)
    listed = temporary / _MARKER
    text = json.dumps({"name": archive.name, "files": names}, indent=1)
    listed.write_text(text, encoding="utf-8")
    sync(listed)
    listed.replace(folder / _MARKER)
    for path in files:
        target = folder / path.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        path.replace(target)


def _unpack(archive: Path, folder: Path, progress: Progress) -> None:
    """Unpack a .tar.gz into a new folder.

    Raises:
        RunError: the archive is damaged, or holds a link, a device, a sparse file, the same file
            twice, or a path that leads out of the folder.
        InputError: a file is larger than what is free on the disk.
    """
    folder.mkdir()
    size = archive.stat().st_size
    try:
        with (
            archive.open("rb") as packed,
            gzip.open(packed) as unpacked,
            tarfile.open(fileobj=unpacked, mode="r:") as tar,
        ):
            for member in tar:
                target = folder / member.name
                is_plain = (member.isreg() and not member.issparse()) or member.isdir()
                if not is_plain or not target.resolve().is_relative_to(folder.resolve()):
                    raise RunError(
                        f"{archive}: refused: {member.name!r} in it is not a plain file or folder "
                        "inside the archive's own"
                    )
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
    except (tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error, ValueError) as error:
        raise RunError(f"{archive}: cannot be unpacked: {' '.join(str(error).split())}") from error
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise RunError(f"{archive}: cannot be unpacked: holds {error.filename} twice") from error
