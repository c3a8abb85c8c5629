"""The estimate of a run's memory, and what the doctor says of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from realdataexp.config import load_config
from realdataexp.device import Device
from realdataexp.runs import doctor_config, memory_need

CPU = Device(torch.device("cpu"), "a test", chunk_bytes=8 << 20, name="cpu: a test")
META = Device(torch.device("meta"), "a test", chunk_bytes=1 << 30, name="meta: a test")


@pytest.mark.parametrize(
    ("free", "status"), [(100 << 30, "ok"), (800 << 20, "warning"), (100 << 20, "stop")]
)
def test_the_need_of_memory(free: int, status: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(doctor_config, "free_memory", lambda: free)
    monkeypatch.setattr(doctor_config, "choose_device", lambda _: CPU)
    assert doctor_config.check_need(load_config("demo")).status == status


def test_the_need_of_device_memory(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(doctor_config, "choose_device", lambda _: META)
    monkeypatch.setattr(doctor_config, "free_memory", lambda: 100 << 30)
    assert doctor_config.device_free(META) == math.inf
    monkeypatch.setattr(doctor_config, "device_free", lambda _: float(1 << 20))
    found = doctor_config.check_need(load_config("demo"))
    assert (found.status, "device memory" in found.text) == ("stop", True)


def test_a_need_that_cannot_be_estimated_is_a_warning(monkeypatch: pytest.MonkeyPatch):
    def fail(*_: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(doctor_config, "memory_need", fail)
    assert doctor_config.check_need(load_config("demo")).status == "warning"


def test_the_estimate_counts_networks_and_parameters_as_a_run_does(
    small_config: Callable[..., Path],
):
    from realdataexp.errors import Warnings
    from realdataexp.runs.setup import set_up

    features = {"numerical": ["video_duration"], "categorical": ["user_active_degree"]}
    config = load_config(small_config(feature=features))
    need = memory_need.memory_need(config, CPU)
    setup = set_up(config, Warnings())
    n_models = sum(block.design.n_models for block in setup.blocks)
    key = torch.tensor(1)
    real = [sum(x.numel() for x in network.model.init(key).values()) for network in setup.networks]
    assert need.networks == n_models * config.experiment.replications * len(setup.networks)
    assert need.parameters == pytest.approx(sum(real) / len(real), rel=0.5)
    on_gpu = memory_need.memory_need(config, META)
    assert (need.device, on_gpu.device > 0) == (0, True)


def test_a_shared_network_is_counted_once():
    values = load_config("demo").resolved()
    for label in values["labels"]:
        label.update(model="MMoE", model_params={})
    assert len(memory_need.label_groups(load_config(values))) == 1


def test_many_categories_cost_what_their_embeddings_cost():
    few = load_config("demo")
    many = load_config("demo", ["feature.categorical=[user_active_degree, video_type, author_id]"])
    sizes = [memory_need.memory_need(config, CPU).parameters for config in (few, many)]
    assert sizes[1] - sizes[0] == pytest.approx((1500 - 80) * 8, rel=0.1)
