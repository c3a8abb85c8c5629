"""Standard output and error that outlive their terminal, pipe or disk: a run goes on without."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO


class LastingStream:
    """A text stream; once it cannot be written any more, what is written is dropped.

    Attributes:
        error: what the first write that failed said.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.error: OSError | None = None

    def write(self, text: str) -> int:
        """Write a text, if that can be."""
        try:
            return self._stream.write(text)
        except OSError as error:
            self._drop(error)
            return len(text)

    def flush(self) -> None:
        """Hand over what was written, if that can be."""
        try:
            self._stream.flush()
        except OSError as error:
            self._drop(error)

    def _drop(self, error: OSError) -> None:
        """Let what is still in the stream, and all that comes, go nowhere."""
        self.error = self.error or error
        with suppress(OSError):  # it may have no descriptor
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def lasting_streams() -> Iterator[LastingStream]:
    """Keep sys.stdout and sys.stderr from ending a command; yields the former.

    A descriptor that is closed leads nowhere meanwhile, lest the next file that is opened gets it.
    What an encoding has no character for is replaced.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest that is free
    before = sys.stdout, sys.stderr
    made = []
    for stream in before:
        # Python has no stream where the descriptor was closed
        own = stream or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
        if stream is not None and hasattr(own, "reconfigure"):
            own.reconfigure(errors="backslashreplace" if stream is sys.stderr else "replace")
        made.append(LastingStream(own))
    sys.stdout, sys.stderr = made
    try:
        yield made[0]
    finally:
        for lasting in made:
            lasting.flush()
        sys.stdout, sys.stderr = before
