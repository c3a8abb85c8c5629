"""What the parts of a run say of themselves, going on where they were stopped, and ending them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import processes
import psutil
import pytest
import yaml
from processes import started, until
from support import assert_same_answer, result_of

from realdataexp import cli
from realdataexp.api import run
from realdataexp.errors import InputError
from realdataexp.files import is_working
from realdataexp.runs.executors import work
from realdataexp.runs.experiment import resume_experiment
from realdataexp.runs.parts import ERROR, STATUS, Status, cancel, parts_of

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux")

Settings = Callable[..., dict[str, Any]]
PATIENCE_SECONDS = 120.0
LOOP = {
    "batch_size": 8, "n_candidate": 4, "n_steps": 12, "validate_every": 5, "save_every": 4,
    "retrain_every": 3,
}  # fmt: skip


@pytest.fixture(scope="module")
def settings(small_settings: Settings) -> dict[str, Any]:
    designs = ["pooling", "weighting", "shadow", {"name": "switchback", "block_steps": 2}]
    return small_settings(
        simulation=LOOP | {"scheduler": {"kind": "plateau", "patience": 1}},
        pretrain={"batch_size": 1024, "epochs": 1},
        experiment={"replications": 5, "designs": designs},
    )


@pytest.fixture(scope="module")
def whole(settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run in one piece: do not change it."""
    return run(spread(settings, 1), out=tmp_path_factory.mktemp("whole") / "r").folder


def spread(settings: dict[str, Any], n: int) -> dict[str, Any]:
    return {**settings, "simulation": {**settings["simulation"], "processes": n}}


class Stopped:
    """Runs parts one after the other in this process; some are stopped at a step, once."""

    outlives = False
    at: ClassVar[dict[str, list[int]]] = {}

    def start(self, parts: list[Path]) -> None:
        for part in parts:
            steps = self.at.setdefault(part.name, [])
            n = steps.pop(0) if steps else None
            asked = iter(range(n, -1, -1)) if n is not None else None
            is_done = work.work(part, is_stopped=lambda a=asked: a is not None and next(a) == 0)
            assert is_done == (n is None)

    def watch(self) -> None:
        raise InterruptedError("a part is stopped")

    def cancel(self) -> None:
        pass


@pytest.mark.parametrize("stops", [[0], [3], [4, 1], [5, 0, 2], [11]])
def test_a_part_that_is_stopped_goes_on_to_the_same_bits(
    stops: list[int],
    settings: dict[str, Any],
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(Stopped, "at", {"1": [*stops]})
    changed = spread(settings, 2)
    changed["simulation"]["executor"] = f"{__name__}:Stopped"
    with pytest.raises(Exception, match="a part is stopped"):
        run(changed, out=tmp_path / "r")
    one, other, stopped = parts_of(tmp_path / "r")
    assert (one["state"], other["state"], stopped["state"]) == ("failed", "done", "queued")
    assert (other["step"], stopped["step"]) == (12, stops[0])
    began = (tmp_path / "r/shards/0/shard.json").stat().st_mtime_ns
    for _ in stops[1:]:
        with pytest.raises(Exception, match="a part is stopped"):
            resume_experiment(tmp_path / "r")
    resume_experiment(tmp_path / "r")
    assert_same_answer(tmp_path / "r", whole)
    assert (tmp_path / "r/shards/0/shard.json").stat().st_mtime_ns == began  # done but once


@pytest.mark.parametrize("n", [1, 2])
def test_what_commands_began_goes_on_in_this_process_to_the_same_bits(
    n: int,
    settings: dict[str, Any],
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    """A command has its starting models from a file, where parameters are in another order."""
    monkeypatch.setattr(Stopped, "at", {"0": [5], "1": [6]})
    changed = spread(settings, 2)
    changed["simulation"]["executor"] = f"{__name__}:Stopped"
    with pytest.raises(Exception, match="a part is stopped"):
        run(changed, out=tmp_path / "r")
    path = tmp_path / "r/config.yaml"
    path.write_text(yaml.safe_dump(spread(settings, n)))
    resume_experiment(tmp_path / "r")
    assert_same_answer(tmp_path / "r", whole)


def test_a_part_that_is_stopped_twice_before_its_first_step_says_so(tmp_path: Path):
    for _ in range(2):
        status = Status(tmp_path, 7, 10)
        status.note(7)
        if _:
            with pytest.raises(InputError, match=r"stopped twice .* \(cluster.hours\)"):
                status.stop(7)
        else:
            status.stop(7)
    status = Status(tmp_path, 7, 10)
    status.note(8)
    assert json.loads((tmp_path / STATUS).read_text())["n_stops_in_vain"] == 0


@pytest.fixture
def long_run(settings: dict[str, Any], tmp_path: Path) -> Path:
    changed = spread(settings, 2)
    changed["simulation"] |= {"n_steps": 30, "save_every": 10}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(changed))
    return tmp_path / "config.yaml"


def test_what_was_killed_goes_on_from_what_its_parts_have(long_run: Path, tmp_path: Path):
    """SIGKILL to the run and its parts; one part's folder is lost as well."""
    with started(long_run, tmp_path / "r") as (process, own):
        for each in (process, *own):
            os.kill(each.pid, signal.SIGKILL)
        process.wait()
        until(lambda: not any(is_working(each.pid) for each in own))
    whole = run(yaml.safe_load(long_run.read_text()), out=tmp_path / "whole").folder
    shutil.rmtree(tmp_path / "r/shards/1")
    began = (tmp_path / "r/shards/0/shard.json").stat().st_mtime_ns
    parts = {part["part"]: part for part in parts_of(tmp_path / "r")}
    assert parts["run"]["state"] == parts["shards/0"]["state"] == "failed"
    assert parts["shards/0"]["reason"] == "its process is gone"
    resume_experiment(tmp_path / "r")
    assert_same_answer(tmp_path / "r", whole)
    assert (tmp_path / "r/shards/0/shard.json").stat().st_mtime_ns == began
    assert [part["state"] for part in parts_of(tmp_path / "r")] == ["done"] * 3


def test_a_process_that_died_and_nobody_waited_for_does_not_work():
    """As in a container whose first process waits for none."""
    with subprocess.Popen(["sleep", "60"]) as process:
        assert is_working(process.pid)
        process.kill()
        until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_ZOMBIE)
        assert psutil.pid_exists(process.pid) and not is_working(process.pid)
    assert not is_working(process.pid)


def test_status_and_cancel_of_a_run_that_is_under_way(
    long_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    with started(long_run, tmp_path / "r") as (process, _):
        assert cli.main(["status", str(tmp_path / "r"), "--json"]) == 0
        parts = json.loads(capsys.readouterr().out)
        assert [part["part"] for part in parts] == ["run", "shards/0", "shards/1"]
        assert parts[0]["state"] == "running" and parts[0]["n_steps"] == 30
        assert all(part["step"] >= 5 for part in parts[1:])
        assert cli.main(["cancel", str(tmp_path / "r")]) == 0
        assert "has saved and ended; realdataexp resume" in capsys.readouterr().out
        assert process.wait(PATIENCE_SECONDS) == 130
    assert result_of(tmp_path / "r")["status"] == "partial"
    assert cli.main(["status", str(tmp_path / "r")]) == 0
    said = capsys.readouterr().out
    assert "failed" in said and "interrupted; realdataexp resume" in said
    assert cancel(tmp_path / "r") == [f"{tmp_path / 'r'}: nothing works there"]


def test_a_folder_of_no_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for command in ("status", "cancel"):
        assert cli.main([command, str(tmp_path)]) == 2
        err = capsys.readouterr().err
        assert err == f"{tmp_path}: holds no run and no sweep; pass the folder of one\n"


def test_a_part_of_another_version_config_or_data_is_refused_in_a_line_for_each(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(Stopped, "at", {"1": [0]})
    changed = spread(settings, 2)
    changed["simulation"]["executor"] = f"{__name__}:Stopped"
    with pytest.raises(Exception, match="a part is stopped"):
        run(changed, out=tmp_path / "r")
    shard = tmp_path / "r/shards/1"
    job = json.loads((shard / "shard.json").read_text())
    job["of"]["versions"]["torch"] = "0.0"
    job["of"]["config"]["seed"] = 77
    (shard / "shard.json").write_text(json.dumps(job))
    with pytest.raises(InputError) as caught:
        work.work(shard)
    lines = str(caught.value).splitlines()
    assert [line.partition(" is ")[0] for line in lines] == [
        f"{shard}: config.seed", f"{shard}: versions.torch"
    ]  # fmt: skip
    assert all("make them the same on all nodes" in line for line in lines)
    assert (shard / ERROR).exists()


def test_a_part_that_another_process_works_on_is_left_alone(
    settings: dict[str, Any], tmp_path: Path
):
    shard = tmp_path / "shards/0"
    shard.mkdir(parents=True)
    (shard / "shard.json").write_text("{}")
    with (shard / ".lock").open("w") as file:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX)
        words = [sys.executable, "-m", "realdataexp.runs.executors", str(shard)]
        done = processes.run(words, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == f"{shard}: another process works there; wait for its end\n"


def test_commands_take_the_gpus_in_turn_and_end_with_the_run(
    settings: dict[str, Any], whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from realdataexp.runs import executors
    from realdataexp.runs.executors import local

    seen = (
        "import os, sys; print(os.environ['CUDA_VISIBLE_DEVICES'], os.environ['OMP_NUM_THREADS'])"
    )
    monkeypatch.setattr(local, "command_of", lambda part: [sys.executable, "-c", seen])
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    folders = [tmp_path / str(i) for i in range(3)]
    for folder in folders:
        folder.mkdir()
    for given, wanted in ((None, ["0", "1", "0"]), ("4,7", ["4", "7", "4"])):
        if given:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
        commands = local.Commands(n_gpus=2)
        commands.start(folders)
        for _, process in commands._processes:
            assert process.wait(PATIENCE_SECONDS) == 0
        commands.watch()
        logs = [(folder / "part.log").read_text().splitlines()[-1] for folder in folders]
        assert logs == [f"{gpu} 1" for gpu in wanted]
    monkeypatch.setattr(local, "command_of", executors.command_of)
    monkeypatch.setattr(local, "can_fork", lambda device: False)
    folder = run(spread(settings, 2), out=tmp_path / "r").folder
    assert_same_answer(folder, whole)
    assert (folder / "shards/1/part.log").exists()
