"""What is told about the machine."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import psutil
import pytest

from realdataexp.runs import machine
from realdataexp.runs.machine import _linux_peak_kib, peak_memory_mb, versions


def test_the_peak_is_at_least_what_the_process_holds_now():
    held = psutil.Process().memory_info().rss / 2**20
    assert 0.5 * held < peak_memory_mb() < 1000 * held


def test_linux_tells_the_programs_own_peak(tmp_path: Path):
    status = tmp_path / "status"
    assert _linux_peak_kib(status) is None
    status.write_text("VmPeak:\t  900 kB\nVmHWM:\t  512 kB\nVmRSS:\t  100 kB\n")
    assert _linux_peak_kib(status) == 512


@pytest.mark.parametrize(("system", "mb"), [("linux", 2048.0), ("darwin", 2.0)])
def test_macos_counts_bytes_and_others_kib(system: str, mb: float, monkeypatch: pytest.MonkeyPatch):
    usage = types.SimpleNamespace(ru_maxrss=2 * 2**20)
    fake = types.SimpleNamespace(RUSAGE_SELF=0, getrusage=lambda _: usage)
    monkeypatch.setitem(sys.modules, "resource", fake)
    monkeypatch.setattr("sys.platform", system)
    monkeypatch.setattr(machine, "_linux_peak_kib", lambda _: None)
    assert peak_memory_mb() == mb


def test_windows_has_its_own_counter(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "resource", None)
    monkeypatch.setattr(machine, "_linux_peak_kib", lambda _: None)
    memory = types.SimpleNamespace(rss=1, peak_wset=3 * 2**20)
    process = types.SimpleNamespace(memory_info=lambda: memory)
    monkeypatch.setattr(psutil, "Process", lambda: process)
    assert peak_memory_mb() == 3.0


def test_versions_name_what_computes():
    assert {"realdataexp", "python", "platform", "torch", "numpy"} <= versions().keys()
    revision = versions().pop("git_revision")
    assert revision is None or len(revision.rstrip("+")) == 40
    assert all(isinstance(v, str) for name, v in versions().items() if name != "git_revision")
