"""A terminal for tests: runs a command on one, and knows what every moment showed."""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import Popen
from rich.cells import cell_len

_PIECE = re.compile(r"\x1b\[[?0-9;]*[A-Za-z]|\r|\n|[^\x1b\r\n]+")


def on_a_terminal(
    command: list[str], columns: int = 80, stderr: Path | None = None, **env: str
) -> str:
    """What a command writes on a terminal; its stderr may go to a file instead."""
    fcntl, pty, termios = (pytest.importorskip(name) for name in ("fcntl", "pty", "termios"))
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    rest = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES", "NO_COLOR")}
    env = {**rest, "TERM": "xterm", **env}
    elsewhere = None if stderr is None else stderr.open("wb")
    process = Popen(command, stdin=theirs, stdout=theirs, stderr=elsewhere or theirs, env=env)
    os.close(theirs)
    if elsewhere is not None:
        elsewhere.close()
    parts = []
    while True:
        try:
            part = os.read(ours, 1 << 16)
        except OSError:  # Linux says so that nobody writes any more
            part = b""
        if not part:
            break
        parts.append(part)
    os.close(ours)
    text = b"".join(parts).decode()
    assert process.wait(timeout=60) == 0, text
    return text


class Screen:
    """Lines as a terminal shows them, those that scrolled away included."""

    def __init__(self, columns: int) -> None:
        self._columns = columns
        self.lines = [""]
        self._row = 0
        self.has_wrapped_a_bar = False

    def write(self, text: str) -> Iterator[list[str]]:
        """Show a text; yields the lines at each moment before something is erased."""
        at = 0
        while match := _PIECE.match(text, at):
            piece, at = match[0], match.end()
            if piece == "\x1b[2K":
                yield list(self.lines)
            self._show(piece)
        assert at == len(text), f"not understood: {text[at : at + 20]!r}"
        yield list(self.lines)

    def _show(self, piece: str) -> None:
        if piece == "\n":
            self._row += 1
            if self._row == len(self.lines):
                self.lines.append("")
        elif piece == "\x1b[2K":
            self.lines[self._row] = ""
        elif piece.endswith("A") and piece[0] == "\x1b":
            self._row -= int(piece[2:-1] or 1)
        elif piece[0] not in "\x1b\r":  # colours, the cursor's looks; lines are written anew
            whole = self.lines[self._row] + piece
            self.has_wrapped_a_bar |= "━" in whole and cell_len(whole) > self._columns
            self.lines[self._row] = whole
