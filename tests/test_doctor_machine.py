"""What the doctor finds on a machine made up for each finding."""

from __future__ import annotations

import importlib.metadata
import math
import sys
import types
from collections import namedtuple
from collections.abc import Iterable
from pathlib import Path

import psutil
import pytest
import torch

from realdataexp import doctor
from realdataexp.config import load_config
from realdataexp.device import Device, choose_device
from realdataexp.doctor import Finding, examine, would_stop
from realdataexp.errors import InputError
from realdataexp.runs import machine

Space = namedtuple("Space", "total used free")
CPU = Device(torch.device("cpu"), "a test", chunk_bytes=8 << 20, name="cpu: a test")


def one(findings: Iterable[Finding], check: str) -> Finding:
    (found,) = [finding for finding in findings if finding.check == check]
    return found


def test_a_sound_machine_has_nothing_that_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    findings = examine()
    checks = [finding.check for finding in findings]
    assert checks[:3] == ["python", "torch", "driver"]
    assert {"device cpu", "amp cpu", "threads", "cache", "results", "memory"} <= set(checks)
    assert not would_stop(findings)
    assert all(finding.remedy for finding in findings if finding.status != "ok")


def test_a_driver_whose_gpus_torch_cannot_use_is_a_warning(monkeypatch: pytest.MonkeyPatch):
    fake = types.ModuleType("pynvml")
    fake.nvmlInit = fake.nvmlShutdown = lambda: None  # type: ignore[attr-defined]
    fake.nvmlSystemGetDriverVersion = lambda: "580.1"  # type: ignore[attr-defined]
    fake.nvmlDeviceGetCount = lambda: 2  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    monkeypatch.setattr(doctor, "available_devices", lambda: ("cpu",))
    found = one(doctor.check_versions(), "driver")
    assert (found.status, "580.1 has 2 GPUs" in found.text) == ("warning", True)
    monkeypatch.setattr(doctor, "available_devices", lambda: ("cuda", "cpu"))
    assert one(doctor.check_versions(), "driver").status == "ok"
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert doctor.nvidia_driver() == (None, 0)


@pytest.mark.parametrize("is_used", [True, False])
def test_a_device_that_computes_wrongly_or_not_at_all(
    is_used: bool, monkeypatch: pytest.MonkeyPatch
):
    status = "stop" if is_used else "warning"
    for error in (0.5, math.nan):
        monkeypatch.setattr(doctor, "prove", lambda _, error=error: (error, 1.0))
        assert doctor.check_device("cpu", is_used).status == status
        assert doctor.check_device("cpu", is_used, use_amp=True).status == status

    def fail(_: Device) -> None:
        raise RuntimeError("no kernel image is\navailable")

    monkeypatch.setattr(doctor, "prove", fail)
    found = doctor.check_device("cpu", is_used)
    assert (found.status, "no kernel image is available" in found.text) == (status, True)
    assert doctor.check_device("cpu", is_used, use_amp=True).status == status


def test_the_proof_compares_with_the_right_product(monkeypatch: pytest.MonkeyPatch):
    error, gflops = doctor.prove(choose_device("cpu"), n=64)
    assert (error < 1e-5, gflops > 0) == (True, True)
    wrong = types.SimpleNamespace(
        tensor=lambda x: x.flip(0), autocast=CPU.autocast, synchronize=lambda: None
    )
    assert doctor.prove(wrong, n=64)[0] > 0.5  # type: ignore[arg-type]


def test_a_device_without_mixed_precision_stops_only_a_run_that_wants_it(
    monkeypatch: pytest.MonkeyPatch,
):
    def choose(kind: str, use_amp: bool = False) -> Device:
        raise InputError("use_amp = true: none here; set use_amp: false")

    monkeypatch.setattr(doctor, "choose_device", choose)
    assert doctor.check_device("dml", is_used=False, use_amp=True).status == "ok"
    found = doctor.check_device("dml", is_used=True, use_amp=True)
    assert (found.status, found.remedy) == ("stop", "set use_amp: false")


def test_a_device_that_is_asked_for_and_not_there_stops(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(doctor, "prove", lambda _: (0.0, 1.0))
    config = load_config("demo", device="dml")
    found = one(doctor.check_devices(config), "device")
    assert (found.status, "not on this machine" in found.text) == ("stop", True)


@pytest.mark.parametrize(
    ("threads", "usable", "load", "status"),
    [(1, 2, 9.0, "ok"), (2, 2, 0.1, "ok"), (2, 2, 1.5, "warning"), (8, 2, 0.0, "warning")],
)
def test_threads(
    threads: int, usable: int, load: float, status: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    cores = lambda _: set(range(usable))  # noqa: E731
    monkeypatch.setattr(doctor.os, "sched_getaffinity", cores, raising=False)
    monkeypatch.setattr(psutil, "getloadavg", lambda: (load, 0.0, 0.0))
    found = doctor.check_threads()
    assert (found.status, "OMP_NUM_THREADS" in found.remedy) == (status, status != "ok")


@pytest.mark.parametrize(
    ("free", "status"), [(10 << 30, "ok"), (500 << 20, "warning"), (10 << 20, "stop")]
)
def test_disk_space(free: int, status: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: Space(0, 0, free))
    found = doctor.check_disk("cache", tmp_path / "not" / "there", "go elsewhere")
    assert (found.status, "go elsewhere" in found.remedy) == (status, status != "ok")


def test_a_folder_that_cannot_be_written_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "file").touch()
    assert doctor.check_disk("results", tmp_path / "file" / "x", "").status == "stop"
    monkeypatch.setattr(doctor.os, "access", lambda *_: False)
    assert doctor.check_disk("results", tmp_path, "").status == "stop"


def test_memory_is_that_of_the_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    host = types.SimpleNamespace(available=8 << 30, total=16 << 30)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: host)
    monkeypatch.setattr(machine, "_CGROUP", tmp_path)
    assert doctor.check_memory().status == "ok"
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text(f"{3 << 30}\n")
    (tmp_path / "memory.stat").write_text(f"anon {1 << 30}\nactive_file {2 << 30}\n")
    assert machine.free_memory() == 8 << 30
    (tmp_path / "memory.max").write_text(f"{3 << 29}\n")
    assert machine.free_memory() == 1 << 29
    assert doctor.check_memory().status == "warning"


def test_what_is_lost_without_the_optional_packages(monkeypatch: pytest.MonkeyPatch):
    def none(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", none)
    for devices, status in ((("cpu",), "ok"), (("cuda", "cpu"), "warning")):
        monkeypatch.setattr(doctor, "available_devices", lambda d=devices: d)
        findings = list(doctor.check_packages())
        assert one(findings, "nvidia-ml-py").status == status
        sklearn = one(findings, "scikit-learn")
        assert (sklearn.status, "cluster" in sklearn.text) == ("warning", True)
