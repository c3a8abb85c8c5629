"""The monitor: what it writes, that it ends, goes on, and never harms a run."""

from __future__ import annotations

import logging
import sys
import threading
import time
import types
from pathlib import Path

import polars as pl
import psutil
import pytest
import torch

from realdataexp.device import Device
from realdataexp.runs import machine as module
from realdataexp.runs.machine import MONITOR_FILE, MONITOR_SCHEMA, Monitor, gpu_reader

GPU = Device(torch.device("cuda"), "a test", chunk_bytes=1 << 20)


class FakeNvml(types.ModuleType):
    """What pynvml answers on a machine with one GPU."""

    class NVMLError(Exception):
        pass

    class NVMLError_NotSupported(NVMLError):
        pass

    def __init__(self) -> None:
        super().__init__("pynvml")
        self.asked: list[str] = []

    def nvmlInit(self) -> None:
        pass

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        self.asked.append(uuid)
        return uuid

    def nvmlDeviceGetUtilizationRates(self, handle: str) -> types.SimpleNamespace:
        return types.SimpleNamespace(gpu=42, memory=1)

    def nvmlDeviceGetMemoryInfo(self, handle: str) -> types.SimpleNamespace:
        return types.SimpleNamespace(used=3 << 30)

    def nvmlDeviceGetPowerUsage(self, handle: str) -> int:
        return 250_000


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> FakeNvml:
    fake = FakeNvml()
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    properties = types.SimpleNamespace(uuid="1-2-3")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
    return fake


def test_rows_tell_phase_time_cpu_and_memory(tmp_path: Path):
    with Monitor(tmp_path / MONITOR_FILE, every=0.02) as monitor:
        for phase in ("pretrain", "loop"):
            monitor.phase = phase
            until = time.monotonic() + 10  # a sample asks after every process of the machine
            while time.monotonic() < until and phase not in monitor.table()["phase"][1:]:
                sum(range(1000))
    rows = pl.read_parquet(tmp_path / MONITOR_FILE)
    assert rows.equals(monitor.table())
    assert dict(rows.schema) == MONITOR_SCHEMA
    assert rows["phase"].unique(maintain_order=True).to_list() == ["pretrain", "loop"]
    assert rows["seconds"].is_sorted()
    assert rows["seconds"].diff().drop_nulls().min() >= 0.02
    assert rows["cpu_percent"].mean() > 5
    assert rows["memory_mb"].min() > 1
    assert rows["gpu_percent"].null_count() == rows.height


def test_a_run_shorter_than_a_second_has_one_row(tmp_path: Path):
    with Monitor(tmp_path / MONITOR_FILE):
        pass
    assert pl.read_parquet(tmp_path / MONITOR_FILE).height == 1


def test_rows_of_an_earlier_process_stay_and_time_goes_on(tmp_path: Path):
    for _ in range(3):
        with Monitor(tmp_path / MONITOR_FILE, every=0.01):
            time.sleep(0.05)
    rows = pl.read_parquet(tmp_path / MONITOR_FILE)
    assert rows["process"].unique(maintain_order=True).to_list() == [0, 1, 2]
    assert rows["seconds"].is_sorted()


def test_rows_are_on_the_disk_before_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "_SECONDS_BETWEEN_WRITES", 0.02)
    with Monitor(tmp_path / MONITOR_FILE, every=0.01):
        until = time.monotonic() + 10
        while not (tmp_path / MONITOR_FILE).exists() and time.monotonic() < until:
            time.sleep(0.01)
        assert pl.read_parquet(tmp_path / MONITOR_FILE).height > 0


def test_the_thread_ends_with_the_run_also_with_a_failed_one(tmp_path: Path):
    with pytest.raises(ZeroDivisionError), Monitor(tmp_path / MONITOR_FILE):
        assert "monitor" in {thread.name for thread in threading.enumerate()}
        _ = 1 / 0
    assert "monitor" not in {thread.name for thread in threading.enumerate()}
    assert (tmp_path / MONITOR_FILE).exists()


def test_failed_samples_are_counted_and_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def refuse(*_: object) -> float:
        raise psutil.AccessDenied(1)

    monkeypatch.setattr(psutil, "cpu_percent", refuse)
    with (
        caplog.at_level(logging.WARNING, "realdataexp"),
        Monitor(tmp_path / MONITOR_FILE, every=0.01) as m,
    ):
        time.sleep(0.1)
    assert m.n_errors > 2
    assert m.table().height == 0
    assert len(caplog.records) == 1
    assert f"monitor: {m.n_errors} samples" in caplog.text


def test_a_damaged_file_or_a_missing_folder_ends_nothing(tmp_path: Path):
    (tmp_path / MONITOR_FILE).write_bytes(b"PAR1 is not all of it")
    with Monitor(tmp_path / MONITOR_FILE):
        pass
    assert pl.read_parquet(tmp_path / MONITOR_FILE).height == 1
    with Monitor(tmp_path / "gone" / MONITOR_FILE) as monitor:
        pass
    assert monitor.n_errors == 1
    assert not (tmp_path / "gone").exists()


def test_a_driver_that_hangs_does_not_hold_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    free = threading.Event()
    monkeypatch.setattr(module, "_PATIENCE", 0.05)
    monkeypatch.setattr(module, "gpu_reader", lambda _: lambda: {"gpu_percent": free.wait(20)})
    try:
        with (
            caplog.at_level(logging.WARNING, "realdataexp"),
            Monitor(tmp_path / MONITOR_FILE, every=0.01),
        ):
            time.sleep(0.05)
    finally:
        free.set()
    assert "took more than" in caplog.text


def test_the_runs_gpu_is_asked_by_its_uuid(nvml: FakeNvml, tmp_path: Path):
    with Monitor(tmp_path / MONITOR_FILE, GPU):
        pass
    assert nvml.asked == ["GPU-1-2-3"]
    (row,) = pl.read_parquet(tmp_path / MONITOR_FILE).iter_rows(named=True)
    assert (row["gpu_percent"], row["gpu_memory_mb"], row["gpu_watts"]) == (42.0, 3072.0, 250.0)


def test_what_a_gpu_does_not_tell_is_null(nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch):
    def refuse(_: object) -> None:
        raise nvml.NVMLError_NotSupported

    monkeypatch.setattr(nvml, "nvmlDeviceGetUtilizationRates", refuse)
    assert gpu_reader(GPU)() == {"gpu_percent": None, "gpu_memory_mb": 3072.0, "gpu_watts": 250.0}


@pytest.mark.parametrize("lacks", ["package", "driver"])
def test_without_nvml_the_rest_is_monitored(
    lacks: str, nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    if lacks == "package":
        monkeypatch.setitem(sys.modules, "pynvml", None)
    else:

        def refuse() -> None:
            raise nvml.NVMLError("Driver Not Loaded")

        monkeypatch.setattr(nvml, "nvmlInit", refuse)
    with Monitor(tmp_path / MONITOR_FILE, GPU) as monitor:
        pass
    assert monitor.n_errors == 0
    assert monitor.table()["gpu_percent"].to_list() == [None]


def test_a_run_on_the_cpu_asks_no_gpu(nvml: FakeNvml):
    assert gpu_reader(Device(torch.device("cpu"), "a test", chunk_bytes=1))() == {}
    assert gpu_reader(None)() == {}
    assert not nvml.asked
