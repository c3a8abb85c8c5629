"""Fetching one large file over HTTP: resumed where it broke, started over where it must be."""

from __future__ import annotations

import json
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

from realdataexp.errors import InputError, RunError

logger = logging.getLogger("realdataexp")

Progress = Callable[[str, int, int | None], None]
"""Told the phase, and its bytes so far and in all (None: unknown)."""

_BLOCK = 1 << 16
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")
_TRANSIENT = (408, 425, 429)
_CERTIFICATE = "its certificate cannot be verified; check this machine's clock and proxy"


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
_ATTEMPTS_TO_FIND_THE_HOST = 3


class _BrokenError(Exception):
    """An attempt failed in a way that another may not."""

    def __init__(self, reason: str, wait_s: float = 0.0, attempts: int | None = None) -> None:
        super().__init__(reason)
        self.wait_s, self.attempts = wait_s, attempts  # at most so many of this kind


def fetch(
    url: str,
    part: Path,
    check_space: Callable[[int], None],
    progress: Progress,
    patience: Patience,
) -> Path:
    """Fetch a file into `part`, going on from what is there.

    What the part belongs to (address, ETag or date, size) is kept in `<part>.json`, so that a
    later call, of another process too, continues it only where the server still has that file.

    Args:
        url: an http or https address; proxies are taken from the environment.
        part: the file to fill.
        check_space: raises where so many bytes more do not fit.
        progress: told of every block.
        patience: when to give up.

    Returns:
        The path of `<part>.json`, for the caller to remove with the part.

    Raises:
        InputError: no such address.
        RunError: the server refuses, or every attempt failed.
    """
    _check_url(url)
    transfer = _Transfer(url, part, check_space, progress, patience)
    failed, mark = 0, transfer.size
    while not transfer.is_complete:
        try:
            transfer.attempt()
            break
        except _BrokenError as error:
            if transfer.size >= mark + patience.progress_bytes:
                failed, mark = 0, transfer.size
            failed += 1
            if failed >= min(patience.attempts, error.attempts or patience.attempts):
                raise RunError(
                    f"{url}: gave up after {failed} attempts, {transfer.size:,} bytes have come: "
                    f"{error}; run the command again to go on, or name a mirror with --url"
                ) from error
            wait = min(patience.first_wait_s * 2 ** (failed - 1), patience.max_wait_s)
            wait = min(max(wait, error.wait_s), patience.max_wait_s)
            logger.info("[download] %s; attempt %d in %.0f s", error, failed + 1, wait)
            time.sleep(wait)
    return transfer.note


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        is_good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        (parts.hostname or "").encode("idna")
    except ValueError:
        return False
    is_plain = url.isascii() and not any(c.isspace() or not c.isprintable() for c in url)
    return bool(is_good) and is_plain


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows a server to http and https addresses only."""

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        if not _is_address(newurl):
            raise ValueError(f"{newurl} is no http or https address")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _check_url(url: str) -> None:
    if not _is_address(url):
        raise InputError(f"--url {url}: is no http or https address; give one of the archive")


class _Transfer:
    """The part file, and attempts to fill it."""

    def __init__(
        self,
        url: str,
        part: Path,
        check_space: Callable[[int], None],
        progress: Progress,
        patience: Patience,
    ) -> None:
        self.note = part.with_name(f"{part.name}.json")
        self._url, self._part = url, part
        self._check_space, self._progress, self._patience = check_space, progress, patience
        self.size = part.stat().st_size if part.exists() else 0
        self._known = self._read_note()

    def _read_note(self) -> dict[str, Any]:
        """The part's address, validator (None: none was given) and total (None: unknown)."""
        known: dict[str, Any] = {"url": self._url, "validator": None, "total": None}
        try:
            note = json.loads(self.note.read_text(encoding="utf-8"))
            known["total"] = None if note["total"] is None else int(note["total"])
            if note["url"] == self._url:  # another server has validators of its own
                known["validator"] = note["validator"] and str(note["validator"])
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            pass
        return known

    @property
    def is_complete(self) -> bool:
        """Whether all bytes are there."""
        return self.size > 0 and self.size == self._known["total"]

    def attempt(self) -> None:
        """Ask for what is missing and write it; return when the file is whole.

        Raises:
            _BrokenError: something is missing still.
        """
        if self._known["total"] is not None and self.size > self._known["total"]:
            self._start_over()
        with self._open() as response:
            if response.status == 206:
                self._continue(response)
            else:
                self._start_over()
                self._learn(response, _length(response))
            total = self._known["total"]
            self._check_space(max(0, (total or 0) - self.size))
            self._copy(response, total)
        if total is not None and self.size != total:
            raise _BrokenError(f"the connection ended after {self.size:,} of {total:,} bytes")

    def _open(self) -> HTTPResponse:
        headers = {"User-Agent": "realdataexp", "Accept-Encoding": "identity"}
        if self.size:
            headers["Range"] = f"bytes={self.size}-"
            if self._known["validator"]:
                headers["If-Range"] = self._known["validator"]
        request = urllib.request.Request(self._url, headers=headers)
        try:
            # an opener of its own: the shared one keeps the proxies of its first use
            opener = urllib.request.build_opener(_Redirects)
            response: HTTPResponse = opener.open(request, timeout=self._patience.timeout_s)
        except urllib.error.HTTPError as error:
            error.close()
            raise self._refused(error) from error
        except ValueError as error:
            text = f"{self._url}: redirects to an address that cannot be used: {_said(error)}"
            raise RunError(f"{text}; name a mirror with --url") from error
        except (OSError, HTTPException) as error:
            reason = getattr(error, "reason", error)
            if isinstance(reason, ssl.SSLCertVerificationError):
                raise RunError(f"{self._url}: {_CERTIFICATE}") from error
            if isinstance(reason, socket.gaierror):
                host = urlsplit(self._url).hostname
                said = f"the host {host} is not found ({_said(reason)}): is there a network?"
                raise _BrokenError(said, attempts=_ATTEMPTS_TO_FIND_THE_HOST) from error
            raise _BrokenError(f"no answer: {_said(reason)}") from error
        return response

    def _refused(self, error: urllib.error.HTTPError) -> Exception:
        said = " ".join(f"the server answers {error.code} {error.reason}".split())
        if error.code == 416:  # nothing lies behind what is here, so it is of another file
            self._start_over()
            return _BrokenError(f"{said}; starting over")
        if error.code in _TRANSIENT or error.code >= 500:
            after = error.headers.get("Retry-After", "")
            return _BrokenError(said, float(after) if after.isdecimal() else 0.0)
        return RunError(f"{self._url}: {said}; name a mirror with --url")

    def _continue(self, response: HTTPResponse) -> None:
        """Make sure that the answer goes on exactly where the part ends, in the same file."""
        given = response.headers.get("Content-Range", "")
        match = _CONTENT_RANGE.fullmatch(given.strip())
        total = int(match[2]) if match and match[2] != "*" else None
        known, validator = self._known, _validator(response)
        fits = match and int(match[1]) == self.size
        same_size = total is None or known["total"] in (None, total)
        same_file = not (validator and known["validator"]) or validator == known["validator"]
        if not (fits and same_size and same_file):
            self._start_over()
            raise _BrokenError(f"the answer does not fit ({given or 'no range'}); starting over")
        self._learn(response, total if total is not None else known["total"])

    def _start_over(self) -> None:
        self._part.write_bytes(b"")
        self.size = 0
        self._known |= {"validator": None, "total": None}

    def _learn(self, response: HTTPResponse, total: int | None) -> None:
        self._known |= {"validator": _validator(response), "total": total}
        self.note.write_text(json.dumps(self._known), encoding="utf-8")

    def _copy(self, response: HTTPResponse, total: int | None) -> None:
        self._progress("download", self.size, total)
        with self._part.open("ab", buffering=0) as file:
            while True:
                try:
                    block = response.read1(_BLOCK)
                except (OSError, HTTPException) as error:
                    raise _BrokenError(f"the connection broke: {_said(error)}") from error
                if not block:
                    return
                file.write(block)
                self.size += len(block)
                self._progress("download", self.size, total)


def _said(error: object) -> str:
    """What an error says, in one line."""
    return " ".join(str(getattr(error, "strerror", None) or error).split()) or type(error).__name__


def _length(response: HTTPResponse) -> int | None:
    length = response.headers.get("Content-Length", "")
    return int(length) if length.isdecimal() else None


def _validator(response: HTTPResponse) -> str | None:
    """What If-Range may ask for: a strong ETag, else a date."""
    tag = response.headers.get("ETag")
    return tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified")
