"""Progress: a bar on a terminal that leaves the log lines whole, plain lines elsewhere."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from realdataexp import terminal
from realdataexp.runs import progress
from realdataexp.runs.progress import PhaseProgress

RUN = [sys.executable, "-m", "realdataexp", "run"]
CONTROL = re.compile(r"\x1b|\r|[\x00-\x08]")


def on_a_terminal(command: list[str]) -> str:
    """What a command writes on a terminal of 80 columns."""
    fcntl, pty, termios = (pytest.importorskip(name) for name in ("fcntl", "pty", "termios"))
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, b"\x18\x00\x50\x00\x00\x00\x00\x00")
    env = {**os.environ, "TERM": "xterm"}
    env.pop("COLUMNS", None)
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=env)
    os.close(theirs)
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
    assert process.wait(timeout=60) == 0
    return b"".join(parts).decode().replace("\r\n", "\n")


def screen(text: str) -> str:
    """What stays of a text when the lines that were erased again are gone."""
    lines = [re.split(r"\x1b\[2K", line)[-1] for line in text.split("\n")]
    return re.sub(r"\x1b\[[?0-9;]*[A-Za-z]|\r", "", "\n".join(lines))


def test_a_bar_appears_on_a_terminal_below_whole_log_lines(
    small_config: Callable[..., Path], small_run: Path, tmp_path: Path
):
    text = on_a_terminal([*RUN, str(small_config()), "--out", str(tmp_path / "out")])
    assert re.search(r"loop.*━.*10/10", text)
    assert re.search(r"pretrain.*━", text)
    shown = screen(text)
    log = (tmp_path / "out" / "run.log").read_text().splitlines()
    for line in log:
        part, _, message = line.partition(" ")
        message = message[len("2026-01-01 12:00:00 ") :]
        # rich folds long lines at the terminal's width
        pattern = r"\s+".join(re.escape(word) for word in f"{part} {message}".split())
        assert re.search(rf"^{pattern}$", shown, re.MULTILINE), line


def test_quiet_shows_no_bar(small_config: Callable[..., Path], small_run: Path, tmp_path: Path):
    text = on_a_terminal([*RUN, str(small_config()), "--out", str(tmp_path / "out"), "--quiet"])
    assert "━" not in text
    assert "[loop]" not in text
    assert "duplicate_rows" in text


def test_redirected_output_has_no_control_characters(
    small_config: Callable[..., Path], small_run: Path, tmp_path: Path
):
    command = [*RUN, str(small_config()), "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert not CONTROL.search(done.stderr + done.stdout)
    assert "[loop] step 10" in done.stderr
    assert max(map(len, done.stdout.splitlines()[:-1])) <= 80  # the last line is the folder


def test_plain_lines_come_now_and_then(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    caplog.set_level(logging.INFO, logger="realdataexp")
    with PhaseProgress("loop", 100, "steps") as shown:
        for _ in range(100):
            now[0] += 0.25
            shown.advance(1)
    assert [record.getMessage() for record in caplog.records] == [
        "[loop] 40 of 100 steps, 4 steps/s, 15 s left",
        "[loop] 80 of 100 steps, 4 steps/s, 5 s left",
    ]


def test_log_lines_follow_stderr_where_it_goes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    logger = logging.getLogger("realdataexp")
    monkeypatch.setattr(logger, "handlers", [])
    monkeypatch.setattr(logger, "level", logger.level)
    terminal.log_lines("INFO")

    class Elsewhere:
        text = ""

        def write(self, text: str) -> None:
            self.text += text

        def flush(self) -> None: ...

    elsewhere = Elsewhere()
    logger.info("here")
    with monkeypatch.context() as patch:
        patch.setattr("sys.stderr", elsewhere)
        logger.info("there")
    assert (capsys.readouterr().err, elsewhere.text) == ("here\n", "there\n")
