"""A file over HTTP: fetched piece by piece, and resumed where an earlier attempt stopped."""

from __future__ import annotations

import hashlib
import logging
import re
import socket
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from realdataexp.errors import RunError
from realdataexp.files import require_space

logger = logging.getLogger("realdataexp")

Progress = Callable[[str, int, int | None], None]
"""Told the phase, and its bytes so far and in all (None: unknown)."""

BLOCK = 1 << 20
_NETWORK_BLOCK = 1 << 16
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")
_TRANSIENT = (408, 425, 429)
_ATTEMPTS_TO_FIND_THE_HOST = 3


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


PATIENCE = Patience()


def digest(path: Path, kind: str, progress: Progress) -> str:
    """The checksum of a file, in hexadecimal digits; ``kind``: md5 or sha256."""
    found, done, size = hashlib.new(kind, usedforsecurity=False), 0, path.stat().st_size
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            found.update(block)
            done += len(block)
            progress("check", done, size)
    return found.hexdigest()


class _BrokenError(Exception):
    """An attempt failed in a way that another may not."""

    def __init__(self, reason: str, wait_s: float = 0.0, attempts: int | None = None) -> None:
        super().__init__(reason)
        self.wait_s, self.attempts = wait_s, attempts  # at most so many of this kind


def is_address(url: str) -> bool:
    """Whether something can be fetched there, by http or https."""
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
        if not is_address(newurl):
            raise ValueError(f"{newurl} is no http or https address")
        return super().redirect_request(req, fp, code, msg, headers, newurl)

    def http_error_302(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any
    ) -> Any:
        try:
            return super().http_error_302(req, fp, code, msg, headers)
        except ValueError:  # of an address that is none
            fp.close()
            raise

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


class Transfer:
    """The part file, and attempts to fill it over HTTP; proxies are taken from the environment.

    Whatever the server has in its place meanwhile, the checksum tells in the end; where none is
    known, nothing is taken up that an earlier program left.

    Args:
        url: of the file.
        part: takes it.
        checksum: ``kind:digits``, or empty.
        more_bytes: that must be free on the disk besides.
        progress, patience: told of every block; when to give up.
    """

    def __init__(
        self,
        url: str,
        part: Path,
        checksum: str,
        more_bytes: int,
        progress: Progress,
        patience: Patience,
    ) -> None:
        self._url, self._part = url, part
        self._checksum, self._more_bytes = checksum, more_bytes
        self._progress, self._patience = progress, patience
        if not checksum:
            part.unlink(missing_ok=True)
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
            require_space(self._part.parent, missing + self._more_bytes)
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
                if self._is_whole(error.headers.get("Content-Range", "")):
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

    def _is_whole(self, said: str) -> bool:
        """Whether a part behind which the server has nothing is all of the file."""
        kind, _, digits = self._checksum.partition(":")
        if kind:
            return digest(self._part, kind, self._progress) == digits
        return said.strip() == f"bytes */{self._size}"

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
