"""The processes that a check starts end with it, whatever becomes of them or of it."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import PIPE

import processes
import psutil
import pytest
import torch
from torch import Tensor

from realdataexp.diagnose import processes as ours
from realdataexp.diagnose.processes import in_processes
from realdataexp.diagnose.subject import CannotTell

_DEADLINE_S = 60.0  # of a machine that has much else to do


def wait_for(what: Callable[[], bool]) -> None:
    end_s = time.monotonic() + _DEADLINE_S
    while not what():
        assert time.monotonic() < end_s
        time.sleep(0.02)


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def pids_in(folder: Path) -> list[int]:
    return [int(x.name) for x in folder.iterdir() if x.name.isdigit()]


def asleep(rank: int, folder: Path) -> Tensor:
    (folder / str(os.getpid())).touch()
    time.sleep(600)
    return torch.zeros(1)


def deaf(rank: int, folder: Path) -> Tensor:
    """As a library's code that holds the interpreter's lock: no other thread can run."""
    (folder / str(os.getpid())).touch()
    ctypes.PyDLL(None).sleep(600)
    return torch.zeros(1)


def one_gone(rank: int, folder: Path) -> Tensor:
    return os._exit(1) if rank else asleep(rank, folder)


def one_exits(rank: int, folder: Path) -> Tensor:
    return sys.exit("no licence") if rank else asleep(rank, folder)


def test_answers_come_in_the_order_of_ranks() -> None:
    found = in_processes(3, lambda rank, x: torch.full((2,), rank + x), 0.5)
    assert torch.stack(found).tolist() == [[0.5, 0.5], [1.5, 1.5], [2.5, 2.5]]


@pytest.mark.parametrize("work", [asleep, deaf])
def test_those_that_take_too_long_are_ended(
    work: Callable[..., Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ours, "_PATIENCE_S", 1)
    with pytest.raises(CannotTell):  # either side may be the first whose second is over
        in_processes(2, work, tmp_path)
    assert [x for x in pids_in(tmp_path) if not is_gone(x)] == []


@pytest.mark.parametrize(
    ("work", "said"), [(one_gone, "ended without a word"), (one_exits, "SystemExit: no licence")]
)
def test_what_becomes_of_one_is_heard_while_the_other_waits(
    work: Callable[..., Tensor], said: str, tmp_path: Path
) -> None:
    with pytest.raises(CannotTell, match=said):
        in_processes(2, work, tmp_path)
    assert [x for x in pids_in(tmp_path) if not is_gone(x)] == []


@pytest.mark.parametrize("work", [asleep, deaf])
def test_none_outlives_a_parent_that_is_killed(
    work: Callable[..., Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # the deaf one is ended by the kernel's alarm
    monkeypatch.setattr(ours, "_PATIENCE_S", 5 if work is deaf else 600)
    parent = multiprocessing.get_context("fork").Process(
        target=in_processes, args=(2, work, tmp_path)
    )
    parent.start()
    wait_for(lambda: len(pids_in(tmp_path)) == 2)
    parent.kill()
    parent.join()
    wait_for(lambda: all(map(is_gone, pids_in(tmp_path))))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_command_and_its_processes(number: int, tmp_path: Path) -> None:
    """To all of them, as a terminal sends Ctrl-C and a batch system ends a job."""
    command = [sys.executable, "-m", "realdataexp", "diagnose", "diagnose.outside:waiting"]
    with processes.Popen(
        [*command, "--check", "gradient_sync"], cwd=Path(__file__).parents[1],
        env={**os.environ, "PIDS": str(tmp_path)}, start_new_session=True,
        stdout=PIPE, stderr=PIPE, text=True,
    ) as process:  # fmt: skip
        wait_for(lambda: len(pids_in(tmp_path)) == 2)
        os.killpg(process.pid, number)
        out, err = process.communicate(timeout=_DEADLINE_S)
    assert (process.returncode, out, err) == (130, "", "interrupted\n")
    assert [x for x in pids_in(tmp_path) if not is_gone(x)] == []
