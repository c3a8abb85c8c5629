"""Runs on a local Ray cluster: whatever is killed, the result is the same (`make test-ray`)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from processes import SLOW, until
from support import assert_same_answer

import realdataexp as rx
from realdataexp.config.cluster import ClusterConfig
from realdataexp.errors import InputError, RunError
from realdataexp.runs.executors import ray as ray_executor
from realdataexp.runs.executors.ray import Ray

pytest.importorskip("ray", reason="make test-ray")

PATIENCE = 120.0  # seconds


def said(part: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((part / "status.json").read_text()))
    except (OSError, ValueError):
        return {}


class Place:
    """A folder with a config, whose loop is slow while there is the file SLOWLY."""

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self.folder, self.slowly = folder, folder / "slowly"
        (folder / "slow.py").write_text(SLOW)
        (folder / "config.yaml").write_text(yaml.safe_dump(settings))
        self.path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])

        self.env = {**os.environ, "PYTHONPATH": self.path, "SLOWLY": str(self.slowly)}
        self.env["RAY_AUTH_MODE"] = "token"  # Ray 2.59 makes one for the clusters of this machine

    def command(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "realdataexp", *words], env=self.env, cwd=self.folder,
            text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip


def done(process: subprocess.Popen[str]) -> None:
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, output


@pytest.fixture(scope="module")
def place(
    tmp_path_factory: pytest.TempPathFactory, small_settings: Callable[..., dict[str, Any]]
) -> Place:
    settings = small_settings(
        experiment={"replications": 4, "designs": ["splitting", {"name": "slow:Slow"}]},
        simulation={"batch_size": 8, "n_steps": 60, "validate_every": 10, "save_every": 20},
    )
    return Place(tmp_path_factory.mktemp("ray"), settings)


@pytest.fixture(scope="module")
def one(place: Place) -> Path:
    """The run in one process."""
    done(place.command("run", "config.yaml", "--out", "one", "--set", "simulation.processes=1"))
    return place.folder / "one"


def running(process: subprocess.Popen[str], out: Path) -> list[int]:
    """The processes of both parts of a run, once each has done a step."""
    parts = [out / "shards" / name for name in ("0", "1")]
    until(lambda: all(said(part).get("step", 0) > 0 for part in parts) or process.poll())
    assert process.poll() is None, process.communicate()[0]
    return [int(said(part)["process"]) for part in parts]


def test_a_killed_command_and_a_killed_worker_change_no_result(place: Place, one: Path) -> None:
    place.slowly.touch()
    two = place.command("run", "config.yaml", "--out", "two", "--executor", "ray", "--shards", "2")
    out = place.folder / "two"
    try:
        killed = running(two, out)
        worker = psutil.Process(killed[1]).ppid()
        os.kill(killed[0], signal.SIGKILL)
        os.kill(worker, signal.SIGKILL)
        place.slowly.unlink()
        done(two)
    finally:
        two.kill()
    assert [int(said(out / "shards" / x)["process"]) for x in ("0", "1")] != killed
    assert_same_answer(one, out)


@pytest.fixture
def head(place: Place) -> Iterator[str]:
    """The address of a cluster that is no run's own; its workers find what runs import."""
    ray = [sys.executable, "-m", "ray.scripts.scripts"]
    port = ["--port=6399", "--num-cpus=2", "--include-dashboard=false"]
    begin = [*ray, "start", "--head", *port]
    for words in ([*ray, "get-auth-token", "--generate"], begin):
        subprocess.run(words, check=True, capture_output=True, env=place.env)
    yield "127.0.0.1:6399"
    subprocess.run([*ray, "stop"], check=True, capture_output=True)


def test_a_run_that_is_killed_on_a_cluster_goes_on_there(
    place: Place, one: Path, head: str
) -> None:
    place.slowly.touch()
    asked = ("--executor", "ray", "--shards", "2", "--set", f"cluster.address={head}")
    run = place.command("run", "config.yaml", "--out", "three", *asked)
    out = place.folder / "three"
    try:
        left = [psutil.Process(number) for number in running(run, out)]
    finally:
        run.kill()  # whose parts end with it, and not the cluster
    assert psutil.wait_procs(left, timeout=PATIENCE)[1] == []
    place.slowly.unlink()
    run.communicate()
    done(place.command("resume", "three"))
    assert_same_answer(one, out)


def test_what_no_node_has_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cluster.cpus = 4096: no node has so much"):
        Ray(tmp_path, ClusterConfig(cpus=4096)).check()


def test_where_no_cluster_answers_it_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cluster.address = '127.0.0.1:9': no Ray cluster"):
        Ray(tmp_path, ClusterConfig(address="127.0.0.1:9")).check()


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A cluster of two CPUs and a GPU, by its word."""
    import ray

    ray.init(num_cpus=2, num_gpus=1, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def started(
    code: str, folders: list[Path], monkeypatch: pytest.MonkeyPatch, **asked: Any
) -> ray_executor.Ray:
    """Parts whose command is a program."""
    monkeypatch.setattr(
        ray_executor, "command_of", lambda part: [sys.executable, "-c", code, str(part)]
    )
    executor = Ray(Path(), ClusterConfig(**asked))
    executor.start(folders)
    return executor


def test_two_parts_share_a_gpu_at_the_same_time(
    cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = (
        "import os, sys, time; from pathlib import Path; own = Path(sys.argv[1])\n"
        "(own / 'gpu').write_text(os.environ['CUDA_VISIBLE_DEVICES'])\n"
        "while len([*own.parent.glob('*/gpu')]) < 2: time.sleep(.1)\n"
        "(own / 'met').touch()"
    )
    folders = [tmp_path / name for name in ("0", "1")]
    for folder in folders:
        folder.mkdir()
    executor = started(code, folders, monkeypatch, gpus=0.5)
    until(lambda: executor.watch() or all((folder / "met").exists() for folder in folders))
    assert [(folder / "gpu").read_text() for folder in folders] == ["0", "0"]
    executor.cancel()


def test_what_is_lost_again_and_again_ends_in_one_line(
    cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "import os, sys; open(sys.argv[1] + '/tries', 'a').write('x')\nos.kill(os.getpid(), 9)"
    executor = started(code, [tmp_path], monkeypatch, retries=1)
    with pytest.raises(RunError, match=r"lost more than 1 times .*exit code -9") as caught:
        until(executor.watch)
    assert "\n" not in str(caught.value) and (tmp_path / "tries").read_text() == "xx"
    executor.cancel()


def test_a_folder_that_a_worker_does_not_see_and_a_fault_are_said(
    cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor = started("", [tmp_path / "elsewhere"], monkeypatch)
    with pytest.raises(InputError, match=r"elsewhere: not seen on the node .*storage that all"):
        until(executor.watch)
    executor.cancel()
    executor = started("raise SystemExit(3)", [tmp_path], monkeypatch)
    with pytest.raises(RunError, match=r"ended with exit code 3 on .*part.log"):
        until(executor.watch)
    executor.cancel()


def test_the_points_of_a_sweep_are_tasks_and_its_table_is_the_same(
    cluster: None, tmp_path: Path, small_settings: Callable[..., dict[str, Any]]
) -> None:
    settings = small_settings(experiment={"replications": 2, "designs": ["pooling"]})
    grid = {"experiment.p_treatment": [0.3, 0.5]}
    tables = [
        rx.sweep(settings, grid=grid, executor=name, out=tmp_path / str(name)).folder
        for name in (None, "ray")
    ]
    assert (tables[0] / "sweep.parquet").read_bytes() == (tables[1] / "sweep.parquet").read_bytes()
