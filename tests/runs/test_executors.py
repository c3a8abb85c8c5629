"""A run spread over processes is the run in one, to the bit, and leaves no process behind."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import polars as pl
import psutil
import pytest
import yaml
from processes import start_server, started
from safetensors.torch import load_file
from support import TABLES, assert_same_answer, result_of

from realdataexp import cli
from realdataexp.api import run
from realdataexp.config import load_config
from realdataexp.designs.pooling import Pooling
from realdataexp.errors import InputError, RunError
from realdataexp.runs.executors.local import Forked
from realdataexp.runs.experiment import resume_experiment
from realdataexp.runs.machine import MONITOR_FILE, Monitor
from realdataexp.runs.recorder import Recorder

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux")

Settings = Callable[..., dict[str, Any]]
PATIENCE = 300.0  # seconds that no test should come near, on a machine with other work too

LOOP = {
    "batch_size": 8, "n_candidate": 4, "n_steps": 11, "validate_every": 5, "save_every": 4,
    "retrain_every": 3, "keep_last": 99,
}  # fmt: skip
DESIGNS = [
    "pooling", "weighting", "shadow", "codiverted", "data_diverted",
    {"name": "cluster", "n_clusters": 4}, {"name": "switchback", "block_steps": 2},
    {"name": "shadow", "label": "launched", "steps": "launched", "keep": 0.5},
    {"name": "weighting", "label": "refitted", "model": "svm", "refit_every": 3},
    "holdout", "rollout",
]  # fmt: skip


_OTHERS: set[psutil.Process] = set()  # what earlier tests may have left


def children() -> list[psutil.Process]:
    """The processes that the test has started."""
    return [x for x in psutil.Process().children(recursive=True) if x not in _OTHERS]


@pytest.fixture(autouse=True)
def _ends_and_leaves_no_process() -> Iterator[None]:
    """Fails a test that hangs, and one behind which a process is left."""

    def give_up(*_: object) -> NoReturn:
        for process in children():
            process.kill()
        pytest.fail(f"still at it after {PATIENCE:g} s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, PATIENCE)
    try:
        start_server()
        _OTHERS.update(children())
        yield
        assert children() == []
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def with_processes(settings: dict[str, Any], n: int | str) -> dict[str, Any]:
    return {**settings, "simulation": {**settings["simulation"], "processes": n}}


def n_started(folder: Path) -> list[int]:
    """How many processes the loop had each time that it began; 1 is not told."""
    return [
        int(n) for n in re.findall(r"(\d+) processes for the", (folder / "run.log").read_text())
    ]


@contextmanager
def at_step(n: int, what: Callable[[], object]) -> Iterator[None]:
    """While this is open, something happens in the run's own process as it hears of step n."""
    real = Recorder.add

    def add(self: Recorder, step: Any) -> None:
        real(self, step)
        if step.visits.step == n:
            what()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Recorder, "add", add)
        yield


def interrupt() -> NoReturn:
    raise KeyboardInterrupt


@pytest.fixture(scope="module")
def settings(small_settings: Settings) -> dict[str, Any]:
    return small_settings(
        simulation=LOOP,
        pretrain={"batch_size": 1024, "epochs": 1},
        experiment={"replications": 7, "designs": DESIGNS},
    )


@pytest.fixture(scope="module")
def spread(
    settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[int], Path]:
    """The folder of the run with so many processes: do not change it."""
    root, made = tmp_path_factory.mktemp("spread"), {}

    def get(n: int) -> Path:
        if n not in made:
            made[n] = run(with_processes(settings, n), out=root / str(n)).folder
            assert n_started(made[n]) == ([] if n == 1 else [n])
        return made[n]

    return get


# --- the same results ----------------------------------------------------------------------------


@pytest.mark.parametrize("n", [2, 3])
def test_a_run_over_processes_is_that_in_one_to_the_bit(n: int, spread: Callable[[int], Path]):
    assert_same_answer(spread(n), spread(1))
    result = result_of(spread(n))
    assert result["n_steps_done"] == LOOP["n_steps"] and result["status"] == "complete"
    assert set(result["weights"]) == {"weighting", "refitted", "launched"}
    assert set(TABLES) <= {path.name for path in spread(n).iterdir()}


@pytest.mark.parametrize("n", [2, 3])
@pytest.mark.parametrize(("step", "n_since_look", "n_waiting"), [(4, 4, 1), (8, 3, 2), (11, 0, 2)])
def test_a_checkpoint_does_not_know_how_many_processes_made_it(
    step: int, n_since_look: int, n_waiting: int, n: int, spread: Callable[[int], Path]
):
    place = Path("checkpoints") / f"step_{step}" / "state.safetensors"
    whole = load_file(spread(1) / place)
    found = load_file(spread(n) / place)
    assert found.keys() == whole.keys()
    for name, x in whole.items():
        assert (found[name].dtype, found[name].shape) == (x.dtype, x.shape), name
        assert found[name].contiguous().numpy().tobytes() == x.contiguous().numpy().tobytes(), name
    assert {x.shape[1] for name, x in whole.items() if name.endswith(".since")} == {n_since_look}
    assert int(whole["loop.n_waiting"]) == n_waiting


def last_steps(folder: Path) -> list[int]:
    """Of each replication, the last step in which anybody visited it."""
    visits = pl.read_parquet(folder / "outcomes.parquet").filter(pl.col("n") > 0)
    return visits.group_by("world").agg(pl.col("step").max()).sort("world")["step"].to_list()


@pytest.mark.parametrize(("seed", "first_idle"), [(2, 0), (8, 1)])
def test_where_one_process_has_nobody_left_before_another_all_goes_on_as_in_one(
    seed: int, first_idle: int, small_settings: Settings, tmp_path: Path
):
    loop = {
        "batch_size": 2, "n_candidate": 45, "min_candidates": 45, "n_steps": 1000,
        "validate_every": 20, "save_every": 9, "keep_last": 1,
    }  # fmt: skip
    settings = small_settings(
        seed=seed,
        mode="weighting",
        simulation=loop,
        pretrain={"epochs": 1, "batch_size": 1024},
        experiment={"replications": 4},
    )
    folders = [run(with_processes(settings, n), out=tmp_path / str(n)).folder for n in (1, 2)]
    ends = last_steps(folders[0])
    of_shard = max(ends[:2]), max(ends[2:])
    assert of_shard[first_idle] < of_shard[1 - first_idle]
    assert result_of(folders[0])["n_steps_done"] == max(ends) + 1 < 200
    assert_same_answer(folders[1], folders[0])
    with at_step(of_shard[first_idle] + 1, interrupt), pytest.raises(KeyboardInterrupt):
        run(with_processes(settings, 2), out=tmp_path / "r")
    resume_experiment(tmp_path / "r")
    assert_same_answer(tmp_path / "r", folders[0])


def test_a_simulated_platform_is_spread_to_the_same_bits(tmp_path: Path):
    settings = load_config("si2023").resolved()
    settings["simulation"] |= {**LOOP, "scheduler": {"kind": "plateau", "patience": 1}}
    settings["experiment"] |= {"replications": 5, "designs": ["pooling", "switchback"]}
    settings["dataset"]["si2023"]["pretrain_rows"] = 2000
    settings["logging"]["pictures"] = False
    folders = [run(with_processes(settings, n), out=tmp_path / str(n)).folder for n in (1, 2)]
    assert_same_answer(folders[1], folders[0])


# --- stopped and gone on with --------------------------------------------------------------------


@pytest.mark.parametrize("step", [1, 9])
def test_a_spread_run_that_was_interrupted_ends_as_if_it_had_not_been(
    step: int, settings: dict[str, Any], spread: Callable[[int], Path], tmp_path: Path
):
    with at_step(step, interrupt), pytest.raises(KeyboardInterrupt):
        run(with_processes(settings, 2), out=tmp_path / "r")
    assert (result_of(tmp_path / "r")["status"], children()) == ("partial", [])
    resume_experiment(tmp_path / "r")
    assert n_started(tmp_path / "r") == [2, 2]
    assert_same_answer(tmp_path / "r", spread(1))


@pytest.mark.parametrize(("began", "goes_on"), [(2, 1), (1, 2), (2, 3)])
def test_a_run_is_resumed_with_any_number_of_processes(
    began: int,
    goes_on: int,
    settings: dict[str, Any],
    spread: Callable[[int], Path],
    tmp_path: Path,
):
    with at_step(6, interrupt), pytest.raises(KeyboardInterrupt):
        run(with_processes(settings, began), out=tmp_path / "r")
    path = tmp_path / "r/config.yaml"
    path.write_text(yaml.safe_dump(with_processes(yaml.safe_load(path.read_text()), goes_on)))
    resume_experiment(tmp_path / "r")
    assert n_started(tmp_path / "r") == [n for n in (began, goes_on) if n > 1]
    assert_same_answer(tmp_path / "r", spread(1))
    assert result_of(tmp_path / "r")["device"]["processes"] == goes_on


@contextmanager
def after_the_fork(what: Callable[[list[psutil.Process]], object]) -> Iterator[None]:
    """While this is open, something happens as soon as the processes are started."""
    real = Forked.start

    def start(self: Forked, shards: Sequence[Path]) -> None:
        real(self, shards)
        what(sorted(children(), key=lambda process: process.pid))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Forked, "start", start)
        yield


def test_a_killed_process_ends_the_run_in_one_line_and_nothing_is_lost(
    settings: dict[str, Any],
    spread: Callable[[int], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(with_processes(settings, 2)))
    out = tmp_path / "r"
    words = ["run", str(tmp_path / "config.yaml"), "--quiet", "--out", str(out)]
    with after_the_fork(lambda own: own[1].kill()):
        assert cli.main(words) == 1
    seen = capsys.readouterr()
    assert seen.err.count("\n") == 1 and "Traceback" not in seen.err
    assert "process 2 of 2 of the loop ended (exit code -9)" in seen.err
    assert "memory" in seen.err and f"{out} holds the run so far" in seen.err
    assert (result_of(out)["status"], children()) == ("partial", [])
    assert cli.main(["resume", "--quiet", str(out)]) == 0
    assert_same_answer(out, spread(1))


# --- faults of what comes from outside -----------------------------------------------------------


class Missing(InputError):
    """An input error of somebody else's."""


FAULTS: dict[str, Exception] = {
    "input": InputError("design Raises: the file is missing; add it"),
    "input of another name": Missing("design Raises: the file is missing"),
    "run": RunError("design Raises: diverged"),
    "division": ZeroDivisionError("a\n  fault"),
    "its name only": type("InputError", (ValueError,), {})("of another package"),
    "no message": KeyError(),
}


class Raises(Pooling):
    """Fails in step 3 of replication 3."""

    kind: str = "run"

    def weights(self, outcome):
        if outcome.visits.step == 3 and 3 in outcome.visits.replication_R:
            raise FAULTS[self.kind]
        return super().weights(outcome)


@pytest.mark.parametrize("kind", FAULTS)
def test_what_a_design_raises_is_told_as_in_one_process(
    kind: str, small_config: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    told = []
    for n in (1, 2):
        config = small_config(
            simulation=LOOP | {"processes": n},
            pretrain={"epochs": 1, "batch_size": 1024},
            experiment={
                "replications": 4,
                "designs": [{"name": f"{__name__}:Raises", "kind": kind}],
            },
        )
        out = tmp_path / str(n)
        code = cli.main(["run", str(config), "--quiet", "--out", str(out)])
        err = capsys.readouterr().err
        assert err.count("\n") == 1
        assert "unexpected" not in err
        err = err.replace(str(out), "OUT")
        told.append((code, " ".join(err.split())))
        assert result_of(out)["n_steps_done"] == 3
    alone = told[0]
    assert alone == told[1]
    assert alone[0] == (2 if kind.startswith("input") else 1)
    assert str(FAULTS[kind]).partition("\n")[0] in alone[1] and "after 3 of 11 steps" in alone[1]


def test_where_another_fault_came_from_can_be_seen(settings: dict[str, Any], tmp_path: Path):
    def divide(*_: Any) -> Any:
        raise FAULTS["division"]

    changed = {**settings, "mode": "pooling"}
    with (
        pytest.MonkeyPatch.context() as patch,
        pytest.raises(RuntimeError, match=r"^ZeroDivisionError: a fault") as caught,
    ):
        patch.setattr(Pooling, "weights", divide)
        run(with_processes(changed, 2), out=tmp_path / "r")
    assert "in divide" in str(caught.value.__cause__)


# --- processes and signals -----------------------------------------------------------------------


@pytest.fixture
def endless(small_config: Callable[..., Path]) -> Path:
    loop = {"batch_size": 1, "n_steps": 100_000, "validate_every": 5, "processes": 2}
    return small_config(
        simulation=loop,
        pretrain={"epochs": 1},
        experiment={"replications": 4, "designs": ["pooling"]},
    )


def assert_gone(processes: Sequence[psutil.Process], n: int) -> None:
    assert len(processes) == n
    assert psutil.wait_procs(processes, timeout=PATIENCE)[1] == []


def test_when_the_run_is_killed_its_processes_are_gone_soon(endless: Path, tmp_path: Path):
    with started(endless, tmp_path / "r") as (process, own):
        process.kill()
        assert_gone(own, 2)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_whole_group_saves_and_ends_all(
    number: signal.Signals, endless: Path, tmp_path: Path
):
    with started(endless, tmp_path / "r") as (process, own):
        os.killpg(process.pid, number)
        out, err = process.communicate(timeout=PATIENCE)
        assert_gone(own, 2)
    assert process.returncode == 130 and out == ""
    assert "Traceback" not in err and "Error" not in err
    done = result_of(tmp_path / "r")["n_steps_done"]
    assert err.splitlines()[-1].startswith(f"interrupted after {done} of 100000 steps; ")
    assert result_of(tmp_path / "r")["status"] == "partial" and done >= 5
    assert (tmp_path / f"r/checkpoints/step_{done // 5 * 5}").is_dir()


def test_an_interrupt_between_the_start_and_the_first_step_leaves_no_process(
    small_config: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
):
    gone = []

    def interrupted(own: list[psutil.Process]) -> NoReturn:
        gone.extend(own)
        raise KeyboardInterrupt

    config = small_config(simulation={"processes": 2}, experiment={"replications": 4})
    words = ["run", str(config), "--quiet", "--out", str(tmp_path / "r")]
    with after_the_fork(interrupted):
        assert cli.main(words) == 130
    assert capsys.readouterr().err.count("\n") == 1
    assert_gone(gone, 2)


def keep_busy(stop: Any, folder: Path, is_wanted: Callable[[], bool]) -> None:
    """In place of a shard's work: holds memory, and computes until it is told to stop."""
    memory = os.urandom(1 << 20) * 64
    while is_wanted() and not stop.is_set() and memory:
        sum(range(1000))


def test_the_monitor_counts_what_the_processes_use(tmp_path: Path):
    def of_workers() -> float:
        """What a sample has beyond this process and the tests' own, which may grow meanwhile."""
        monitor.sample()
        busy = {process.pid for _, process in executor._processes}
        tests = [x for x in psutil.Process().children(recursive=True) if x.pid not in busy]
        others = psutil.Process().memory_info().rss
        others += sum(x.memory_full_info().uss for x in tests)
        return monitor.table()["memory_mb"][-1] - others / 2**20

    stop = multiprocessing.get_context("fork").Event()
    with Monitor(tmp_path / MONITOR_FILE, every=60) as monitor:
        executor = Forked(partial(keep_busy, stop))
        assert abs(of_workers()) < 16
        try:
            executor.start([tmp_path, tmp_path])
            monitor.sample()  # they count from here
            until, own = time.monotonic() + 20, 0.0
            while monitor.table()["cpu_percent"][-1] < 30 or own < 120:
                assert time.monotonic() < until, own
                time.sleep(0.5)
                own = of_workers()
        finally:
            stop.set()
            executor.cancel()
        assert own < 228  # 64 MiB each, and not what they share with this process
        busy = monitor.table()["memory_mb"][-1]
        assert abs(of_workers()) < 16
    assert monitor.n_errors == 0
    assert monitor.peak_memory_mb() >= busy


THREADS = """
import torch
from pathlib import Path
from realdataexp.runs.executors.local import Forked

torch.set_num_threads(4)
x = torch.ones(2000, 2000)

def work(folder, is_wanted):
    assert float((x + 1).exp().sum()) > 0 and torch.get_num_threads() == 1

(x @ x).exp_()  # with threads that do not survive a fork
executor = Forked(work)
executor.start([Path(), Path()])
for _, process in executor._processes:
    process.join()
executor.watch()
"""


def test_threads_of_pytorch_before_the_fork_hold_up_nobody():
    """Four threads for two processes: none may wait for threads that it does not have."""
    process = subprocess.Popen([sys.executable, "-c", THREADS], start_new_session=True)
    try:
        assert process.wait(PATIENCE) == 0
    finally:
        with suppress(ProcessLookupError):  # whoever waits for a thread hears of no parent's end
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
