"""A run spread over processes is the run in one, to the bit, and leaves no process behind."""

from __future__ import annotations

import gc
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

import polars as pl
import psutil
import pytest
import torch
import yaml
from safetensors.torch import load_file
from support import TABLES, assert_same_answer, result_of

from realdataexp import cli
from realdataexp.api import run
from realdataexp.config import load_config
from realdataexp.designs.pooling import Pooling
from realdataexp.errors import InputError, RunError
from realdataexp.runs import experiment, looping, results, sharing
from realdataexp.runs.experiment import resume_experiment
from realdataexp.runs.messages import join
from realdataexp.runs.monitor import FILE, Monitor
from realdataexp.runs.recorder import Recorder
from realdataexp.runs.sharing import shares
from realdataexp.runs.workers import Workers

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux")

Settings = Callable[..., dict[str, Any]]
PATIENCE = 300.0  # seconds that no test should come near, on a machine with other work too

LOOP = {
    "batch_size": 8, "n_candidate": 4, "n_steps": 11, "validate_every": 5, "save_every": 4,
    "retrain_every": 3, "keep_last": 99,
}  # fmt: skip
DESIGNS = [
    "pooling", "snapshot", "splitting", "weighting", "shadow", "codiverted", "data_diverted",
    {"name": "cluster", "n_clusters": 4}, {"name": "switchback", "block_steps": 2},
    {"name": "weighting", "label": "refitted", "model": "svm", "refit_every": 3},
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
        _OTHERS.update(children())
        yield
        assert children() == []
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture(autouse=True, scope="module")
def _no_plot() -> Iterator[None]:
    """Plots and pages are made from the tables, and take longer than all else."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("write_plot", "write_report"):
            patch.setattr(results, name, lambda folder: None)
        yield


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
    assert set(result["weights"]) == {"weighting", "refitted"}
    assert set(TABLES) <= {path.name for path in spread(n).iterdir()}


def joined_state(tensors: dict[str, torch.Tensor], n_processes: int) -> dict[str, torch.Tensor]:
    """A checkpoint of several processes as one of a single process would be."""
    own = shares(7, n_processes)
    shards: list[dict[str, torch.Tensor]] = [{} for _ in own]
    found = {}
    for name, x in tensors.items():
        of_shard = re.fullmatch(r"shard_(\d+)\.(.+)", name)
        if of_shard is None:
            found[name] = x
        else:
            shards[int(of_shard[1])][of_shard[2]] = x
    for name in [*shards[0]]:
        # a refitted G's history is each replication's, under its number
        of_one = re.fullmatch(r"(design\.\d+)\.(\d+)\.(x|z|n_rows|fit)", name)
        if of_one is not None:
            assert int(of_one[2]) < len(own[0])
        elif shards[0][name].dim() == 0:
            assert len({int(shard.pop(name)) for shard in [dict(s) for s in shards]}) == 1
            found[name] = shards[0][name]
        elif ".since." in name:  # steps in front
            parts = [{"x": shard[name].transpose(0, 1)} for shard in shards]
            found[name] = join(parts, [len(r) for r in own])["x"].transpose(0, 1)
        else:
            parts = [{"x": shard[name]} for shard in shards]
            found[name] = join(parts, [len(r) for r in own])["x"]
    for replications, shard in zip(own, shards, strict=True):
        for name, x in shard.items():
            of_one = re.fullmatch(r"(design\.\d+)\.(\d+)\.(x|z|n_rows|fit)", name)
            if of_one is not None:
                found[f"{of_one[1]}.{replications[int(of_one[2])]}.{of_one[3]}"] = x
    return found


@pytest.mark.parametrize("n", [2, 3])
@pytest.mark.parametrize(("step", "n_since_look", "n_waiting"), [(4, 4, 1), (8, 3, 2), (11, 0, 2)])
def test_checkpoints_of_processes_hold_what_that_of_one_does(
    step: int, n_since_look: int, n_waiting: int, n: int, spread: Callable[[int], Path]
):
    place = Path("checkpoints") / f"step_{step}" / "state.safetensors"
    whole = load_file(spread(1) / place)
    found = joined_state(load_file(spread(n) / place), n)
    assert found.keys() == whole.keys()
    for name, x in whole.items():
        assert (found[name].dtype, found[name].shape) == (x.dtype, x.shape), name
        assert found[name].contiguous().numpy().tobytes() == x.contiguous().numpy().tobytes(), name
    assert {len(x) for name, x in whole.items() if ".since." in name} == {n_since_look}
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


@pytest.mark.parametrize("n_threads", [1, 3])
def test_it_goes_on_with_as_many_processes_as_it_began_whatever_the_threads(
    n_threads: int,
    settings: dict[str, Any],
    spread: Callable[[int], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    with at_step(6, interrupt), pytest.raises(KeyboardInterrupt):
        run(with_processes(settings, "auto"), out=tmp_path / "r")
    monkeypatch.setattr(torch, "get_num_threads", lambda: n_threads)
    resume_experiment(tmp_path / "r")
    assert n_started(tmp_path / "r") == [2, 2]
    assert_same_answer(tmp_path / "r", spread(1))


@pytest.mark.parametrize("kind", ["more than replications allow", "a GPU is seen now"])
def test_a_checkpoint_of_more_processes_than_can_be_here_is_refused_and_kept(
    kind: str,
    settings: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    with at_step(6, interrupt), pytest.raises(KeyboardInterrupt):
        run(with_processes(settings, 3), out=tmp_path / "r")
    if kind == "a GPU is seen now":
        monkeypatch.setattr(sharing, "available_devices", lambda: ("cuda", "cpu"))
        config = yaml.safe_load((tmp_path / "r/config.yaml").read_text())
        assert config["simulation"]["processes"] == 3
        said = "simulation.processes = 3: only on a CPU under Linux where PyTorch sees no GPU"
    else:
        monkeypatch.setattr(sharing, "fault_of_processes", lambda n, R, device: None)
        monkeypatch.setattr(experiment, "fault_of_processes", lambda n, R, device: f"R = {R}")
        said = "made by 3 processes: R = 7; run the config again"
    before = (tmp_path / "r/result.json").read_bytes()
    capsys.readouterr()
    assert cli.main(["resume", "--quiet", str(tmp_path / "r")]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and said in err
    assert (tmp_path / "r/result.json").read_bytes() == before


def kill_second() -> None:
    max(children(), key=lambda process: process.pid).kill()


def test_a_killed_process_ends_the_run_in_one_line_and_nothing_is_lost(
    settings: dict[str, Any],
    spread: Callable[[int], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(with_processes(settings, 2)))
    out = tmp_path / "r"
    words = ["run", str(tmp_path / "config.yaml"), "--quiet", "--out", str(out)]
    with at_step(6, kill_second):
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
    "input": InputError("design Raises: the file is missing; give it"),
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


@contextmanager
def started(
    config: Path, out: Path
) -> Iterator[tuple[subprocess.Popen[str], list[psutil.Process]]]:
    """A run of the command line, in its loop, in a process group of its own; and its processes."""
    words = [sys.executable, "-m", "realdataexp", "run", str(config), "--out", str(out)]
    process = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    own: list[psutil.Process] = []
    try:
        assert process.stderr
        assert any("[loop] step 5:" in line for line in process.stderr), "ended before"
        own += psutil.Process(process.pid).children(recursive=True)
        yield process, own
    finally:
        for each in (process, *own):
            with suppress(psutil.Error):
                each.kill()
        process.communicate()


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
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    real, own = looping.logger.info, []

    def info(text: str, *args: object, **options: Any) -> None:
        if "processes for the loop" in text:
            own.extend(children())
            raise KeyboardInterrupt
        real(text, *args, **options)

    monkeypatch.setattr(looping.logger, "info", info)
    config = small_config(simulation={"processes": 2}, experiment={"replications": 4})
    assert cli.main(["run", str(config), "--quiet", "--out", str(tmp_path / "r")]) == 130
    assert capsys.readouterr().err.count("\n") == 1
    gc.collect()
    assert_gone(own, 2)


class Busy:
    """In place of a shard: holds memory, and computes until it is told to stop."""

    def __init__(self, n_bytes: int, stop: Any) -> None:
        self.memory, self._stop = os.urandom(1 << 20) * (n_bytes >> 20), stop

    def updates(self) -> list[Any]:
        while not self._stop.is_set():
            sum(range(1000))
        return []


def test_the_monitor_counts_what_the_processes_use(tmp_path: Path):
    stop = multiprocessing.get_context("fork").Event()
    with Monitor(tmp_path / FILE, every=60) as monitor:
        monitor.sample()
        workers = Workers([lambda: Busy(64 << 20, stop)] * 2, [1, 1], 1)  # type: ignore[misc]
        asked = threading.Thread(target=workers.updates)
        try:
            asked.start()
            monitor.sample()  # they count from here
            until = time.monotonic() + 20
            while monitor.table()["cpu_percent"][-1] < 30 or monitor.table().height < 3:
                assert time.monotonic() < until
                time.sleep(0.5)
                monitor.sample()
        finally:
            stop.set()
            asked.join()
            workers.close()
        monitor.sample()
    idle, *_, busy, after = monitor.table().iter_rows(named=True)
    assert monitor.n_errors == 0
    # theirs, and not what they share with this process
    assert 128 < busy["memory_mb"] - idle["memory_mb"] < 228
    assert abs(after["memory_mb"] - idle["memory_mb"]) < 64
    assert monitor.peak_memory_mb() >= busy["memory_mb"]


THREADS = """
import torch
from realdataexp.runs.workers import Workers

torch.set_num_threads(4)
x = torch.ones(2000, 2000)

class Shard:
    def updates(self):
        assert float((x + 1).exp().sum()) > 0 and torch.get_num_threads() == 1
        return []

(x @ x).exp_()  # with threads that do not survive a fork
workers = Workers([Shard, Shard], [1, 1], 1)
assert workers.updates() == []
workers.close()
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
