"""Runs on a real Slurm, which `make test-slurm` starts: whatever is killed, the result is the same.

Where no sbatch answers, nothing of this runs.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from processes import SLOW, until
from support import assert_same_answer

from realdataexp.config.cluster import ClusterConfig
from realdataexp.runs.executors.slurm import Job, Slurm, job_name, jobs_of


def _answers() -> bool:
    if shutil.which("sbatch") is None or not Path(os.environ.get("SLURM_CONF", "")).is_file():
        return False
    return subprocess.run(["sinfo"], capture_output=True, timeout=10).returncode == 0


pytestmark = pytest.mark.skipif(not _answers(), reason="no Slurm: make test-slurm")

ROOT = Path(__file__).parents[2]
PATIENCE = 150.0  # seconds
Settings = Callable[..., dict[str, Any]]


def step_of(part: Path) -> int:
    try:
        return int(json.loads((part / "status.json").read_text())["step"])
    except (OSError, ValueError):
        return 0


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, small_settings: Settings) -> Path:
    """A folder with a config, whose loop is slow while there is the file SLOWLY."""
    path = tmp_path_factory.mktemp("slurm")
    (path / "slow.py").write_text(SLOW)
    settings = small_settings(
        experiment={"replications": 4, "designs": ["splitting", {"name": "slow:Slow"}]},
        simulation={"batch_size": 8, "n_steps": 300, "validate_every": 10, "save_every": 50},
        cluster={"memory_gb": 2, "partition": "test"},
    )
    (path / "config.yaml").write_text(yaml.safe_dump(settings))
    return path


class Command(subprocess.Popen[str]):
    """A command of realdataexp in a folder; while ``slowly`` exists, its loop is slow."""

    def __init__(self, place: Path, out: str, *words: object) -> None:
        self.out, self.slowly = place / out, place / f"{out}.slowly"
        self.parts = [self.out / "shards" / name for name in ("0", "1")]
        path = os.pathsep.join([str(place), os.environ.get("PYTHONPATH", "")])
        super().__init__(
            [sys.executable, "-m", "realdataexp", *map(str, words)],
            env={**os.environ, "PYTHONPATH": path, "SLOWLY": str(self.slowly)},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=place,
        )  # fmt: skip

    def done(self, code: int = 0) -> str:
        """What it has printed by its end, which should be with this code."""
        said, _ = self.communicate(timeout=PATIENCE)
        assert self.returncode == code, said
        return said

    @property
    def log(self) -> str:
        path = self.out / "run.log"
        return path.read_text() if path.exists() else ""


@pytest.fixture(scope="module")
def command(place: Path) -> Iterator[Callable[..., Command]]:
    """Starts commands; in the end they are gone, and the jobs of their runs."""
    started: list[Command] = []

    def start(*given: object) -> Command:
        started.append(Command(place, *given))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()
        subprocess.run(["scancel", "--me", f"--name={job_name(process.out)}"], check=True)


@pytest.fixture(scope="module")
def run(command: Callable[..., Command], place: Path) -> Callable[..., Command]:
    """Starts a run on Slurm, in two parts."""
    on_slurm = ("simulation.executor=slurm", "simulation.processes=2")

    def start(out: str, *settings: str, is_slow: bool = True) -> Command:
        if is_slow:
            (place / f"{out}.slowly").touch()
        given = [word for x in (*on_slurm, *settings) for word in ("--set", x)]
        return command(out, "run", "config.yaml", "--out", out, *given)

    return start


@pytest.fixture(scope="module")
def limited(run: Callable[..., Command]) -> Command:
    """A run whose jobs may take a minute; Slurm warns up to 30 seconds too early."""
    return run("limited", "cluster.hours=0.0167", "cluster.warn_seconds=5")


@pytest.fixture(scope="module")
def whole(command: Callable[..., Command]) -> Path:
    """The run in one process."""
    one = command(
        "whole", "run", "config.yaml", "--out", "whole", "--set", "simulation.processes=1"
    )
    one.done()
    return one.out


def test_whatever_is_killed_the_result_is_the_same(
    run: Callable[..., Command], command: Callable[..., Command], limited: Command, whole: Path
) -> None:
    killed = run("killed")
    until(lambda: all(step_of(part) > 0 for part in killed.parts))
    killed.kill()  # its jobs go on without it
    killed.wait()
    before = jobs_of(killed.out)
    assert {name: job.state for name, job in before.items()} == {"0": "RUNNING", "1": "RUNNING"}

    resumed = command("killed", "resume", "killed")
    until(lambda: "2 of 2 parts have a job already" in resumed.log)
    assert jobs_of(killed.out) == before

    worker = json.loads((killed.parts[0] / "status.json").read_text())["process"]
    os.kill(worker, signal.SIGKILL)
    subprocess.run(["scancel", f"{before['1'].number}_1"], check=True)
    until(lambda: resumed.log.count("it is submitted again") == 2)
    resumed.slowly.unlink()
    resumed.done()
    number = before["0"].number
    assert f"shards/0: job {number}: FAILED, exit code 137; it is submitted" in resumed.log
    assert f"shards/1: job {number}: CANCELLED" in resumed.log
    assert_same_answer(whole, killed.out)


def test_a_job_warned_of_its_time_limit_queues_itself_again_and_the_result_is_the_same(
    limited: Command, whole: Path
) -> None:
    logs = [part / "part.log" for part in limited.parts]
    until(lambda: all(x.exists() and "queued again" in x.read_text() for x in logs))
    limited.slowly.unlink()
    limited.done()
    assert "submitted again" not in limited.log
    # each element of the array has queued itself again, and not the other one with it
    assert not any("pending execution" in x.read_text() for x in logs)
    assert_same_answer(whole, limited.out)


def test_the_points_of_a_sweep_are_jobs_and_its_table_is_the_same(
    command: Callable[..., Command],
) -> None:
    asked = ("--grid", "experiment.p_treatment=0.3,0.5", "--set", "simulation.n_steps=20")
    tables = []
    for out, how in (("here", ()), ("jobs", ("--executor", "slurm"))):
        done = command(out, "sweep", "config.yaml", *asked, *how, "--out", out)
        done.done()
        tables.append((done.out / "sweep.parquet").read_bytes())
    assert tables[0] == tables[1]
    assert {name: job.state for name, job in jobs_of(done.out).items()} == {
        "0": "COMPLETED", "1": "COMPLETED"
    }  # fmt: skip


def test_a_part_that_needs_more_memory_than_its_job_has_says_so(
    run: Callable[..., Command],
) -> None:
    line = run("small", "cluster.memory_gb=0.1", is_slow=False).done(1).splitlines()[-1]
    assert "out of memory" in line and "raise cluster.memory_gb, which is 0.1" in line


def test_cancelled_jobs_do_not_come_again(tmp_path: Path) -> None:
    part = tmp_path / "shards" / "0"
    part.mkdir(parents=True)
    (part / "shard.json").write_text("{")
    executor = Slurm(tmp_path, ClusterConfig(memory_gb=1, setup=("sleep 60",)))
    executor.start([part])
    job = until(lambda: jobs_of(tmp_path).get("0"))
    until(lambda: jobs_of(tmp_path)["0"].state == "RUNNING")
    executor.cancel()
    assert jobs_of(tmp_path)["0"] == Job(job.number, "CANCELLED", 15, "None")
    executor.start([part])
    assert until(lambda: jobs_of(tmp_path)["0"].is_alive)
    executor.cancel()


def test_the_commands_of_the_docs_work(command: Callable[..., Command]) -> None:
    page = (ROOT / "docs" / "cluster.md").read_text()
    (block,) = re.findall(r"```console\n(.*?)```", page, re.DOTALL)
    for line in block.splitlines():  # with the tests' small config in place of the demo
        _, name, *words = shlex.split(line.replace(" demo ", " config.yaml "))
        said = command("results/first", name, *words).done()
        if name == "doctor":
            said = " ".join(said.split())
            assert "what a job wrote there is seen here" in said
            assert "none is asked for (cluster.gpus = 0)" in said


def test_the_example_of_a_whole_run_in_one_job_works(place: Path, whole: Path) -> None:
    script, out = ROOT / "examples" / "cluster" / "whole_run.sbatch", place / "alone"
    small = ("--gpus-per-node=0", "--cpus-per-task=1", "--mem=2G", "--time=5", "--wait",
             "--signal=B:USR1@60")  # fmt: skip
    path = os.pathsep.join([str(place), os.environ.get("PYTHONPATH", "")])
    programs = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    subprocess.run(
        ["sbatch", *small, script, "config.yaml", out, "--set", "simulation.processes=1"],
        check=True, cwd=place, timeout=PATIENCE,
        env={**os.environ, "PYTHONPATH": path, "PATH": programs},
    )  # fmt: skip
    assert_same_answer(whole, out)
