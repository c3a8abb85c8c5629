"""Ctrl-C and SIGTERM: exit 130, and once there is a folder it holds the run so far."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl
import pytest
from processes import Popen

from realdataexp.runs import Interrupts

pytestmark = pytest.mark.skipif(os.name != "posix", reason="sends POSIX signals")

TABLES = ("outcomes", "metrics", "estimates")
# a run of the command line in which one function first says so and then takes its time
SLOW = """
import sys, time
import {module} as module
from realdataexp import cli
real = module.{function}
def slow(*args, **kwargs):
    print("NOW", file=sys.stderr, flush=True)
    time.sleep({seconds})
    return real(*args, **kwargs)
module.{function} = slow
sys.exit(cli.main(sys.argv[1:]))
"""


def slow(module: str, function: str, seconds: float) -> list[str]:
    code = SLOW.format(module=module, function=function, seconds=seconds)
    return [sys.executable, "-c", code]


PLAIN = [sys.executable, "-m", "realdataexp"]


@contextmanager
def started(command: list[str], *args: str | Path) -> Iterator[subprocess.Popen[str]]:
    """A run in a process of its own."""
    process = Popen(
        [*command, "run", *map(str, args)],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def wait_for(process: subprocess.Popen[str], text: str) -> None:
    assert process.stderr
    seen = []
    for line in process.stderr:
        seen.append(line)
        if text in line:
            return
    pytest.fail(f"ended without {text!r}: {''.join(seen)}")


def ending(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, err = process.communicate(timeout=60)
    assert "Traceback" not in err
    return process.returncode, err.splitlines()[-1]


def assert_readable(out: Path, status: str) -> dict[str, object]:
    """A whole run folder, with nothing half-made in it; returns result.json."""
    result: dict[str, object] = json.loads((out / "result.json").read_text())
    assert result["status"] == status
    for name in TABLES:
        pl.read_parquet(out / f"{name}.parquet")
    last = (out / "run.log").read_text().splitlines()[-1]
    assert last.startswith("[result]")
    assert f"{status} after {result['n_steps_done']} steps" in last
    assert [p for p in out.rglob("*") if ".tmp" in p.name] == []
    return result


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_in_the_loop_leaves_a_readable_partial_run(
    number: signal.Signals, small_config: Callable[..., Path], small_run: Path, tmp_path: Path
):
    loop = {"batch_size": 2, "n_steps": 100_000, "validate_every": 5}
    config = small_config(simulation=loop, logging={"pictures": True})
    out = tmp_path / "out"
    with started(PLAIN, config, "--out", out) as process:
        wait_for(process, "[loop] step 10:")
        process.send_signal(number)
        code, last = ending(process)
    result = assert_readable(out, "partial")
    assert (out / "plot.svg").read_text().rstrip().endswith("</svg>")
    done = result["n_steps_done"]
    assert isinstance(done, int)
    assert done >= 10
    outcomes = pl.read_parquet(out / "outcomes.parquet")
    assert outcomes["step"].max() == done - 1  # whole steps, up to the last one
    assert code == 130
    assert last == (
        f"interrupted after {done} of 100000 steps; {out} holds the run so far, with status "
        f"partial; resume it: realdataexp resume {out}"
    )


def test_a_signal_in_pretraining_leaves_a_run_of_no_steps(
    small_config: Callable[..., Path], small_run: Path, tmp_path: Path
):
    config = small_config(pretrain={"epochs": 100_000, "validate_every_iters": 1})
    with started(PLAIN, config, "--out", tmp_path / "out") as process:
        wait_for(process, "[pretrain] iteration 3:")
        process.send_signal(signal.SIGINT)
        code, _ = ending(process)
    assert code == 130
    result = assert_readable(tmp_path / "out", "partial")
    assert result["n_steps_done"] == 0
    assert result["estimates"] == []
    assert [w["code"] for w in result["warnings"]][-1] == "no_steps"  # type: ignore[attr-defined]


def test_a_signal_while_the_data_are_imported_leaves_nothing(
    small_config: Callable[..., Path], small_data: Path, tmp_path: Path
):
    config = small_config(dataset={"path": str(small_data), "cache_path": str(tmp_path / "cache")})
    command = slow("realdataexp.data.kuairand", "write_log", 60)
    with started(command, config, "--out", tmp_path / "out") as process:
        wait_for(process, "NOW")
        process.send_signal(signal.SIGTERM)
        code, last = ending(process)
    assert (code, last) == (130, "interrupted")
    assert [p for p in tmp_path.rglob("*") if p != config and p.name != "cache"] == []


def test_a_second_signal_while_saving_changes_nothing(
    small_config: Callable[..., Path], small_run: Path, tmp_path: Path
):
    config = small_config(simulation={"batch_size": 2, "n_steps": 100_000, "validate_every": 5})
    out = tmp_path / "out"
    command = slow("realdataexp.runs.results", "write_parquet", 0.3)
    with started(command, config, "--out", out) as process:
        wait_for(process, "[loop] step 5:")
        process.send_signal(signal.SIGINT)
        wait_for(process, "NOW")
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)
        code, _ = ending(process)
    assert code == 130
    assert_readable(out, "partial")


def test_a_signal_while_the_last_results_are_saved_comes_too_late(
    small_config: Callable[..., Path], small_run: Path, tmp_path: Path
):
    command = slow("realdataexp.runs.results", "write_parquet", 0.3)
    with started(command, small_config(), "--out", tmp_path / "out") as process:
        wait_for(process, "NOW")
        process.send_signal(signal.SIGINT)
        code, _ = ending(process)
    assert code == 0
    assert_readable(tmp_path / "out", "complete")


def send(number: signal.Signals = signal.SIGINT) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_raises_at_once_and_only_once(number: signal.Signals):
    with Interrupts():
        with pytest.raises(KeyboardInterrupt):
            send(number)
        send(number)


def test_a_postponed_signal_waits_for_the_check():
    with Interrupts() as interrupts:
        with interrupts.postponed():
            send()
            send()
        with pytest.raises(KeyboardInterrupt):
            interrupts.check()
        send()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_what_is_raised_where_it_is_lost_is_raised_again_by_the_check():
    class Last:
        def __del__(self) -> None:
            send()

    with Interrupts() as interrupts:
        Last()  # Python drops what a destructor raises
        with pytest.raises(KeyboardInterrupt):
            interrupts.check()


def test_who_insists_need_not_wait_except_while_something_is_saved():
    with Interrupts() as interrupts, interrupts.postponed(may_insist=True):
        send()
        with interrupts.postponed():
            send()
        with pytest.raises(KeyboardInterrupt):
            send()


def test_the_handlers_before_come_back():
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    with Interrupts():
        assert signal.getsignal(signal.SIGTERM) not in before
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before
