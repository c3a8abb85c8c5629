"""How replications are shared out among processes, and what is said where they cannot be."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from realdataexp import cli, device
from realdataexp.config import load_config
from realdataexp.config.cluster import ClusterConfig
from realdataexp.device import Device
from realdataexp.errors import InputError
from realdataexp.registry import names
from realdataexp.runs import setup
from realdataexp.runs.executors.local import Commands, Forked, local
from realdataexp.runs.setup import processes_of, shares

Settings = Callable[..., dict[str, Any]]
CPU, CUDA = (Device(torch.device(kind), "a test", chunk_bytes=1 << 20) for kind in ("cpu", "cuda"))


@pytest.fixture(autouse=True)
def _linux_without_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device.sys, "platform", "linux")
    monkeypatch.setattr(device, "available_devices", lambda: ("cpu",))


@pytest.fixture
def found(small_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """How many processes a config gets that asks for some, on a machine with 4 threads."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)

    def find(asked: int | str, n_replications: int, device: Device = CPU) -> int:
        settings = small_settings(
            simulation={"processes": asked}, experiment={"replications": n_replications}
        )
        return processes_of(load_config(settings), device)

    return find


@pytest.mark.parametrize("n_replications", range(1, 30))
def test_each_replication_is_somebodys_in_their_order_and_shares_are_even(n_replications: int):
    for n_processes in range(1, n_replications + 1):
        found = shares(n_replications, n_processes)
        assert len(found) == n_processes
        assert [r for share in found for r in share] == [*range(n_replications)]
        sizes = [len(share) for share in found]
        assert min(sizes) > 0 and max(sizes) - min(sizes) <= 1


def test_as_many_processes_as_are_allowed_leave_two_replications_to_each():
    assert all(min(map(len, shares(R, R // 2))) >= 2 for R in range(2, 200))


@pytest.mark.parametrize(
    ("n_replications", "n"), [(1, 1), (2, 1), (3, 1), (4, 2), (7, 3), (8, 4), (9, 4), (400, 4)]
)
def test_auto_is_a_process_a_thread_but_two_replications_for_each(
    n_replications: int, n: int, found: Callable[..., int]
):
    assert found("auto", n_replications) == n


@pytest.mark.parametrize("asked", [1, 2, 7, 10])
def test_who_asks_for_a_number_gets_it_whatever_the_threads(asked: int, found: Callable[..., int]):
    assert found(asked, 20) == asked


@pytest.mark.parametrize("n", [1, 3])
def test_on_gpus_auto_is_a_process_for_each(
    n: int, found: Callable[..., int], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(setup, "n_gpus", lambda: n)
    assert found("auto", 20, CUDA) == n
    assert found("auto", 3, CUDA) == 1 and found(7, 20, CUDA) == 7


def test_where_nothing_can_be_forked_auto_is_one_and_others_are_commands(
    found: Callable[..., int], monkeypatch: pytest.MonkeyPatch
):
    basis: Any = (SimpleNamespace(device=CPU), None, None)
    assert isinstance(local(Path(), ClusterConfig(), basis), Forked)
    monkeypatch.setattr(device.sys, "platform", "darwin")
    assert (found("auto", 20), found(2, 20)) == (1, 2)
    assert isinstance(local(Path(), ClusterConfig(), basis), Commands)
    monkeypatch.setattr(device.sys, "platform", "linux")
    monkeypatch.setattr(device, "available_devices", lambda: ("cuda", "cpu"))
    assert (found("auto", 20), found(2, 20)) == (1, 2)  # beside a GPU autograd does not fork
    assert isinstance(local(Path(), ClusterConfig(), basis), Commands)


@pytest.mark.parametrize("name", ["slurm", "ray"])
def test_a_cluster_is_told_over_how_many_parts(name: str, small_settings: Settings):
    if name not in names("executor"):
        pytest.skip(f"no executor {name}")
    settings = small_settings(
        simulation={"executor": name, "processes": "auto"}, experiment={"replications": 9}
    )
    with pytest.raises(InputError, match=rf"simulation.executor = '{name}': .*pass --shards N"):
        processes_of(load_config(settings), CPU)


def test_an_executor_of_ones_own_runs_on_any_device_and_must_be_one(
    small_settings: Settings, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(device, "available_devices", lambda: ("cuda", "cpu"))
    name = "realdataexp.runs.executors.local:Forked"
    settings = small_settings(
        simulation={"processes": 4, "executor": name}, experiment={"replications": 9}
    )
    assert processes_of(load_config(settings), CUDA) == 4
    settings["simulation"]["executor"] = f"{__name__}:CPU"
    with pytest.raises(InputError, match=r"is no executor: it lacks start, watch, cancel"):
        processes_of(load_config(settings), CPU)


@pytest.mark.parametrize(("n_replications", "most"), [(7, 3), (2, 1), (1, 1)])
def test_too_many_processes_are_refused_with_every_value(
    n_replications: int, most: int, found: Callable[..., int]
):
    with pytest.raises(InputError) as caught:
        found(9, n_replications)
    assert str(caught.value) == (
        "simulation.processes = 9: each needs two replications or more, and "
        f"experiment.replications = {n_replications}; use at most {most}, or auto"
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["simulation.processes=9"], r"simulation\.processes = 9: .*replications = 3; .*most 1,"),
        (["simulation.processes=0"], r"simulation\.processes = 0: must be auto or .* from 1 to"),
        (["simulation.processes=many"], r'simulation\.processes = "many": must be auto or'),
    ],
)
def test_the_command_line_says_it_in_one_line_and_leaves_nothing(
    changes: list[str],
    said: str,
    small_config: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
):
    out = tmp_path / "r"
    words = [word for change in changes for word in ("--set", change)]
    assert cli.main(["run", str(small_config()), "--quiet", "--out", str(out), *words]) == 2
    seen = capsys.readouterr()
    assert seen.out == "" and seen.err.count("\n") == 1
    assert re.search(said, seen.err), seen.err
    assert not out.exists()
