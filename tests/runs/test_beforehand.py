"""The estimate of a run's memory, and what the doctor says of it."""

from __future__ import annotations

import errno
import math
import os
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from realdataexp import cli, doctor
from realdataexp.config import load_config
from realdataexp.device import Device
from realdataexp.errors import InputError, Warnings, is_out_of_memory
from realdataexp.runs import beforehand, experiment, machine
from realdataexp.runs.beforehand import memory_need
from realdataexp.runs.labels import network_groups
from realdataexp.runs.setup import make_blocks, set_up

CPU = Device(torch.device("cpu"), "a test", chunk_bytes=8 << 20, name="cpu: a test")
META = Device(torch.device("meta"), "a test", chunk_bytes=1 << 30, name="meta: a test")


@pytest.mark.parametrize(
    ("free", "status"), [(100 << 30, "ok"), (800 << 20, "warning"), (100 << 20, "stop")]
)
def test_the_need_of_memory(free: int, status: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(doctor, "free_memory", lambda: free)
    monkeypatch.setattr(doctor, "choose_device", lambda _: CPU)
    assert doctor.check_need(load_config("demo")).status == status


def test_the_need_of_device_memory(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(doctor, "choose_device", lambda _: META)
    monkeypatch.setattr(doctor, "free_memory", lambda: 100 << 30)
    assert doctor.device_free(META) == math.inf
    monkeypatch.setattr(doctor, "device_free", lambda _: float(1 << 20))
    found = doctor.check_need(load_config("demo"))
    assert (found.status, "device memory" in found.text) == ("stop", True)


def test_a_need_that_cannot_be_estimated_is_a_warning(monkeypatch: pytest.MonkeyPatch):
    def fail(*_: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(doctor, "memory_need", fail)
    assert doctor.check_need(load_config("demo")).status == "warning"


def test_the_estimate_counts_networks_and_parameters_as_a_run_does(
    small_config: Callable[..., Path],
):
    features = {"numerical": ["video_duration"], "categorical": ["user_active_degree"]}
    config = load_config(small_config(feature=features))
    need = memory_need(config, CPU, make_blocks(config))
    setup = set_up(config, Warnings())
    n_models = sum(block.design.n_models for block in setup.blocks)
    key = torch.tensor(1)
    real = [sum(x.numel() for x in network.model.init(key).values()) for network in setup.networks]
    assert need.networks == n_models * config.experiment.replications * len(setup.networks)
    assert need.parameters == pytest.approx(sum(real) / len(real), rel=0.5)
    on_gpu = memory_need(config, META, make_blocks(config))
    assert (need.device, on_gpu.device > 0) == (0, True)


def test_a_shared_network_is_counted_once():
    values = load_config("demo").resolved()
    for label in values["labels"]:
        label.update(model="MMoE", model_params={})
    assert len(network_groups(load_config(values))) == 1


def test_many_categories_cost_what_their_embeddings_cost():
    few = load_config("demo")
    many = load_config("demo", ["feature.categorical=[user_active_degree, video_type, author_id]"])
    sizes = [memory_need(config, CPU, make_blocks(config)).parameters for config in (few, many)]
    assert sizes[1] - sizes[0] == pytest.approx((1500 - 80) * 8, rel=0.1)


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("demo", "experiment.replications=1000000000"),
        ("demo", "simulation.batch_size=1000000000"),
        ("demo", "simulation.n_candidate=1000000000"),
        ("demo", "pretrain.batch_size=1000000000"),
        ("demo", "dataset.synthetic.users=1000000000"),
        ("demo", "dataset.synthetic.videos=1000000000"),
        ("demo", "labels.0.model_params.hidden_layers=[1000000, 1000000]"),
        ("demo", "labels.1.model_params.embedding_dim=1000000"),
        ("si2023", "experiment.replications=1000000000"),
        ("si2023", "dataset.si2023.pretrain_rows=1000000000"),
        ("si2023", "validation.validation_batches=1000000000"),
    ],
)
def test_a_run_that_no_memory_holds_is_refused_with_the_key_before_anything_is_made(
    name: str, setting: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(beforehand, "memory_limit", lambda: 16 << 30)
    key, _, value = setting.partition("=")
    with pytest.raises(InputError) as caught:
        rows = ["dataset.synthetic.rows=1000000000"] * (name == "demo")
        set_up(load_config(name, [*rows, setting, "device=cpu"]), Warnings())
    (line,) = caught.value.faults
    assert line.startswith(
        f"{key} = {int(value.strip('[]').split(', ')[0]):,}: the run needs about"
    )
    assert line.endswith(f"there are 16.0 GiB: lower {key}")


def test_a_small_run_where_there_is_nearly_no_memory_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(beforehand, "memory_limit", lambda: 100 << 20)
    with pytest.raises(InputError, match="there are 100 MiB: give it more, see ulimit -v"):
        config = load_config("si2023", ["experiment.replications=2"])
        beforehand.require_memory(config, CPU, make_blocks(config))


def test_a_run_that_the_memory_holds_is_not_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(beforehand, "memory_limit", lambda: 4 << 30)
    for name in ("demo", "si2023"):
        config = load_config(name)
        beforehand.require_memory(config, CPU, make_blocks(config))


def test_the_memory_that_there_is_at_most_is_the_least_of_all_limits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(machine, "_CGROUP", tmp_path)
    resource = pytest.importorskip("resource")
    host = types.SimpleNamespace(available=8 << 30, total=16 << 30)
    own = types.SimpleNamespace(rss=1 << 30, vms=3 << 30)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: host)
    monkeypatch.setattr(psutil.Process, "memory_info", lambda _: own)
    limits = [resource.RLIM_INFINITY, resource.RLIM_INFINITY]
    monkeypatch.setattr(resource, "getrlimit", lambda _: tuple(limits))
    assert (machine.memory_limit(), machine.free_memory()) == (16 << 30, 8 << 30)
    limits[0] = 8 << 30
    assert (machine.memory_limit(), machine.free_memory()) == (5 << 30, 4 << 30)
    (tmp_path / "memory.max").write_text(f"{4 << 30}")
    (tmp_path / "memory.current").write_text(f"{1 << 30}")
    (tmp_path / "memory.stat").write_text("anon 1")
    assert (machine.memory_limit(), machine.free_memory()) == (4 << 30, 3 << 30)


def test_every_library_s_word_for_no_memory_is_understood():
    def error_of(make: Callable[[], object]) -> Exception:
        with pytest.raises(Exception) as caught:
            make()
        return caught.value

    errors = [
        error_of(lambda: torch.empty(1 << 58)),
        error_of(lambda: np.empty(1 << 58)),
        error_of(lambda: np.empty(1 << 62)),
        error_of(lambda: bytearray(1 << 62)),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"),
        RuntimeError("MemoryError: Unable to allocate 9 GiB"),  # of a process of the loop
        OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)),
    ]
    assert [str(error) for error in errors if not is_out_of_memory(error)] == []
    assert not is_out_of_memory(ValueError("size mismatch"))


def test_a_run_whose_memory_runs_out_says_which_setting_to_lower(
    small_config: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    text = "[enforce fail at alloc_cpu.cpp:119] . DefaultCPUAllocator: can't allocate memory"

    def fail(*_: Any) -> None:
        raise RuntimeError(f"{text}: you tried to allocate 9 bytes. Error code 12 (Cannot)")

    monkeypatch.setattr(experiment.LoopPhase, "run", fail)
    config = small_config(simulation={"n_candidate": 1000})
    assert cli.main(["run", str(config), "--quiet", "--out", str(tmp_path / "out")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("out of memory on cpu: lower simulation.n_candidate, which is 1,000")
    monkeypatch.setattr(experiment, "set_up", fail)
    assert cli.main(["run", str(config), "--quiet", "--out", str(tmp_path / "other")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("out of memory: [enforce fail") and "doctor" in line
