"""Closed, full, narrow and lost streams: no run fails for them, and nothing shows a traceback."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from realdataexp.runs import ENDING, Interrupts, is_ignored
from realdataexp.terminal import LastingStream, lasting_streams

pytestmark = pytest.mark.skipif(os.name != "posix", reason="descriptors are POSIX's")

PROGRAM = f"{sys.executable} -m realdataexp"
ASCII = {"PYTHONIOENCODING": "ascii", "LC_ALL": "POSIX", "MPLBACKEND": "nonsense"}


def shell(line: str, **environment: str) -> subprocess.CompletedProcess[str]:
    words = ["sh", "-c", line]
    return subprocess.run(
        words, capture_output=True, text=True, env=os.environ | environment, check=False
    )


@pytest.mark.parametrize(
    ("redirected", "environment"),
    [(">&- 2>&- <&-", {}), (">/dev/full 2>/dev/full", {}), ("", ASCII)],
    ids=["closed", "full", "ascii, and a backend that is none"],
)
def test_a_run_is_complete_whatever_its_streams_are(
    redirected: str,
    environment: dict[str, str],
    small_config: Callable[..., Path],
    small_run: Path,  # so that the data are imported
    tmp_path: Path,
):
    is_drawn = "MPLBACKEND" in environment
    config = small_config(mode="pooling", simulation={"n_steps": 2}, logging={"pictures": is_drawn})
    if redirected.startswith(">/dev/full") and not Path("/dev/full").exists():
        pytest.skip("not on this system")
    done = shell(f"{PROGRAM} run {config} --out {tmp_path}/out {redirected}", **environment)
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    assert json.loads((tmp_path / "out/result.json").read_text())["status"] == "complete"
    assert all((tmp_path / "out" / x).exists() == is_drawn for x in ("report.html", "plot.svg"))


def test_a_pipe_whose_reader_had_enough_is_no_failure():
    done = shell(f"{PROGRAM} schema | head -1; {PROGRAM} --help | true")
    assert (done.stdout, done.stderr) == ("{\n", "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="not on this system")
def test_an_answer_that_is_printed_only_must_not_be_lost():
    done = shell(f"{PROGRAM} schema > /dev/full")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith("stdout: No space left on device: what was printed is incom")


class Broken(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    def flush(self) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_a_stream_whose_terminal_is_gone_swallows_what_is_written(
    monkeypatch: pytest.MonkeyPatch,
):
    broken = Broken()
    monkeypatch.setattr(sys, "stderr", broken)
    with lasting_streams() as stdout:
        assert print("lost", file=sys.stderr, flush=True) is None
        assert isinstance(sys.stderr, LastingStream) and sys.stderr.error is not None
        assert stdout.error is None
    assert sys.stderr is broken


def test_a_lost_terminal_ends_a_run_as_ctrl_c_does_unless_that_is_ignored():
    assert signal.SIGHUP in ENDING
    with Interrupts(), pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGHUP)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        assert is_ignored(signal.SIGHUP) and not is_ignored(signal.SIGTERM)
        with Interrupts():
            os.kill(os.getpid(), signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
