"""What a run makes of Slurm's answers; on a real one, see tests/cluster."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from realdataexp import doctor
from realdataexp.config import load_config
from realdataexp.config.cluster import ClusterConfig
from realdataexp.errors import DiskError, InputError, RunError
from realdataexp.runs.executors import slurm
from realdataexp.runs.executors.slurm import SCRIPT, NotSubmittedError, Slurm, job_name
from realdataexp.runs.parts import parts_of
from realdataexp.runs.setup import require_executor


class Queue:
    """Answers as Slurm does; ``rows`` are what squeue shows, ``arrays`` what was submitted."""

    def __init__(self) -> None:
        self.rows: list[str] = []
        self.arrays: list[str] = []
        self.commands: list[list[str]] = []
        self.is_up = True

    def __call__(self, command: Sequence[str], text: str | None = None) -> str:
        self.commands.append([*command])
        if not self.is_up:
            raise RunError("squeue: error: Unable to contact slurm controller")
        if command[0] == "squeue":
            return "".join(f"{row}|\n" for row in self.rows)
        if command[0] == "sinfo":
            return "cpu\ngpu\n"
        if command[0] == "scancel":
            self.rows = [row.replace("RUNNING", "CANCELLED") for row in self.rows]
        if command[:2] == ["sbatch", "--parsable"]:
            assert text is not None and text.startswith("#!/bin/bash")
            self.arrays.append(command[2])
            return "8\n"
        return ""

    def set(self, **states: str) -> None:
        """What each part's job is: number, state, wait status and reason."""
        self.rows = [
            f"{said.split()[0]}|{part[1:]}|{'|'.join(said.split()[1:])}"
            for part, said in states.items()
        ]


@pytest.fixture
def queue(monkeypatch: pytest.MonkeyPatch) -> Queue:
    pytest.importorskip("submitit")
    found = Queue()
    monkeypatch.setattr(slurm, "ask", found)
    monkeypatch.setattr(slurm, "_LOOK_SECONDS", 0.0)
    return found


@pytest.fixture
def parts(tmp_path: Path) -> list[Path]:
    made = [tmp_path / "shards" / str(i) for i in range(3)]
    for part in made:
        part.mkdir(parents=True)
    return made


def note(part: Path, **said: Any) -> None:
    (part / "status.json").write_text(json.dumps({"step": 0, "state": "running"} | said))


def look(executor: Slurm, times: int = 2) -> None:
    for _ in range(times):
        executor.watch()


def test_jobs_that_are_alive_are_kept_and_parts_without_one_are_submitted(
    queue: Queue, tmp_path: Path, parts: list[Path]
) -> None:
    queue.set(p0="7 RUNNING 0 None", p1="7 FAILED 256 NonZeroExitCode")
    Slurm(tmp_path, ClusterConfig()).start(parts)
    assert queue.arrays == ["--array=1-2"]
    queue.set(p0="7 RUNNING 0 None", p1="8 PENDING 0 Priority", p2="8 RUNNING 0 None")
    Slurm(tmp_path, ClusterConfig()).start(parts)
    assert len(queue.arrays) == 1


def test_the_newest_job_of_a_part_counts_and_one_that_is_alive_before_any(
    queue: Queue, tmp_path: Path
) -> None:
    queue.rows = ["7|0|TIMEOUT|0|None", "9|0|FAILED|256|None", "8|0|CANCELLED|15|None"]
    assert slurm.jobs_of(tmp_path)["0"] == slurm.Job(9, "FAILED", 1, "None")
    queue.rows.append("6|0|RUNNING|0|None")
    assert slurm.jobs_of(tmp_path)["0"].number == 6


def test_a_lost_part_is_submitted_again_once_it_was_missing_twice(
    queue: Queue, tmp_path: Path, parts: list[Path]
) -> None:
    executor = Slurm(tmp_path, ClusterConfig())
    executor.start(parts)
    for part in parts[1:]:
        note(part, state="done")
    queue.set(p0="8 NODE_FAIL 0 None", p1="8 COMPLETED 0 None")  # and 2 is forgotten
    look(executor, 1)
    assert queue.arrays == ["--array=0-2"]
    look(executor, 1)
    assert queue.arrays == ["--array=0-2", "--array=0"]


def test_a_part_lost_too_often_ends_the_run_unless_it_got_on(
    queue: Queue, tmp_path: Path, parts: list[Path]
) -> None:
    executor = Slurm(tmp_path, ClusterConfig(retries=2))
    executor.start(parts[:1])
    queue.set(p0="8 FAILED 35072 NonZeroExitCode")
    for step in (5, 10, 10):  # the second loss at step 10 is the second in a row there
        note(parts[0], step=step)
        look(executor)
    assert len(queue.arrays) == 4
    (parts[0] / "part.log").write_text("first\nModuleNotFoundError: No module named 'x'\n")
    with pytest.raises(RunError, match=r"0: lost 3 times in a row at step 10, .*code 137.*'x'"):
        look(executor)


@pytest.mark.parametrize(
    ("job", "kind", "words"),
    [
        (
            "8 OUT_OF_MEMORY 9 None",
            RunError,
            r"out of memory .*cluster.memory_gb, which is 4",
        ),
        ("8 FAILED 18944 NonZeroExitCode", DiskError, r"nothing can be written there .*code 74"),
        (
            "8 PENDING 0 PartitionTimeLimit",
            InputError,
            r"not start job 8 \(PartitionTimeLimit\)",
        ),
    ],
)
def test_what_would_only_come_again_ends_the_run_at_once(
    queue: Queue, tmp_path: Path, parts: list[Path], job: str, kind: type[Exception], words: str
) -> None:
    executor = Slurm(tmp_path, ClusterConfig(memory_gb=4))
    executor.start(parts[:1])
    queue.set(p0=job)
    with pytest.raises(kind, match=words):
        look(executor)
    assert len(queue.arrays) == 1


def test_a_silent_slurm_is_waited_for(
    queue: Queue, tmp_path: Path, parts: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    executor = Slurm(tmp_path, ClusterConfig())
    executor.start(parts)
    queue.is_up = False
    with caplog.at_level("WARNING", logger="realdataexp"):  # whatever a command left behind
        look(executor, 5)
    assert caplog.text.count("Unable to contact slurm controller") == 1
    with pytest.raises(RunError, match="Unable to contact"):
        executor.cancel()


def test_a_part_that_says_what_was_wrong_is_not_submitted_again(
    queue: Queue, tmp_path: Path, parts: list[Path]
) -> None:
    executor = Slurm(tmp_path, ClusterConfig())
    executor.start(parts[:1])
    (parts[0] / "error.json").write_text("{}")
    queue.set(p0="8 FAILED 256 NonZeroExitCode")
    look(executor)
    assert len(queue.arrays) == 1


def test_cancel_ends_what_is_left_and_nothing_where_all_is_done(
    queue: Queue, tmp_path: Path, parts: list[Path]
) -> None:
    executor = Slurm(tmp_path, ClusterConfig())
    executor.start(parts[:1])
    queue.set(p0="8 RUNNING 0 None")
    executor.cancel()
    assert ["scancel", "--me", f"--name={job_name(tmp_path)}"] in queue.commands
    assert not (tmp_path / "shards" / "jobs.json").exists()
    note(parts[0], state="done")
    before = len(queue.commands)
    executor.cancel()
    assert len(queue.commands) == before


def test_status_tells_what_a_part_waits_for_and_how_it_was_lost(
    queue: Queue, tmp_path: Path, parts: list[Path]
) -> None:
    (tmp_path / "config.yaml").touch()
    Slurm(tmp_path, ClusterConfig()).start(parts)
    queue.set(p0="8 PENDING 0 Resources", p1="8 RUNNING 0 None", p2="8 TIMEOUT 0 None")
    _, *found = parts_of(tmp_path)
    assert [(x["state"], x["reason"]) for x in found] == [
        ("queued", "Resources"), ("running", ""), ("failed", "job 8: TIMEOUT"),
    ]  # fmt: skip


# --- what doctor has a job say -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("device", "gpus", "text"),
    [
        ("cpu", 1, "cluster.gpus = 1, but a job with so many computes on none"),
        ("cpu", 0, "none is asked for"),
        ("cuda", 1, ""),
    ],
)
def test_doctor_asks_for_a_gpu_that_computes_where_one_is_asked_for(
    queue: Queue, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, device: str, gpus: int, text: str
) -> None:
    def start(job: Slurm, parts: Sequence[Path]) -> None:
        found = [{"check": f"device {device}", "status": "ok", "text": "it multiplies"}]
        (parts[0] / doctor._FINDINGS).write_text(json.dumps(found))

    monkeypatch.setattr(Slurm, "start", start)
    log_dir = f"logging.log_dir={tmp_path}"
    found = {x.check: x for x in doctor.check_slurm(on_slurm(f"cluster.gpus={gpus}", log_dir))}
    assert found["storage"].status == found[f"node: device {device}"].status == "ok"
    if text:
        assert found["node: gpu"].text.startswith(text)
        assert found["node: gpu"].status == ("stop" if gpus else "ok")
    assert ("node: gpu" in found) == bool(text)


def test_doctor_says_that_what_a_job_wrote_is_not_seen(
    queue: Queue, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(doctor, "_SEEN_SECONDS", 0.0)
    queue.set(p0="8 FAILED 256 NonZeroExitCode")
    *_, last = doctor.check_slurm(on_slurm(f"logging.log_dir={tmp_path}"))
    assert (last.check, last.status) == ("slurm job", "stop")
    assert "FAILED, exit code 1; nothing that it wrote" in last.text


# --- the script ----------------------------------------------------------------------------------


def test_the_script_asks_for_what_the_config_says(tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    asked = ClusterConfig(
        partition="gpu", account="lab", gpus=1, cpus=32, memory_gb=64, hours=23.5, warn_seconds=300,
        directives=("--constraint=a100",), setup=("module load cuda",),
    )  # fmt: skip
    folder = tmp_path / "with space, 100 %"
    parts = [folder / "shards" / str(i) for i in (0, 1, 2, 5)]
    text = Slurm(folder, asked).script(parts)
    lines = text.splitlines()
    directives = {x.removeprefix("#SBATCH ") for x in lines if x.startswith("#SBATCH ")}
    assert directives == {
        "--partition=gpu", "--account=lab", "--gpus-per-node=1", "--cpus-per-task=32",
        "--mem=65536M", "--time=1410", "--signal=B:USR1@300", "--array=0-2,5", "--requeue",
        "--nodes=1", "--open-mode=append", "--constraint=a100", f"--job-name={job_name(folder)}",
        f"--output='{tmp_path}/with space, 100 %%/shards/%a/part.log'",
    }  # fmt: skip
    is_comment = [not x or x.startswith("#") for x in lines]
    last = max(i for i, x in enumerate(lines) if x.startswith("#SBATCH"))
    assert all(is_comment[:last])  # sbatch reads none after the first command
    assert lines.index("module load cuda") > last
    subprocess.run(["bash", "-n"], input=text, text=True, check=True)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"gpus": 0.5}, r"cluster.gpus = 0.5: Slurm gives whole GPUs"),
        (
            {"hours": 0.02},
            r"cluster.warn_seconds = 120: .*cluster.hours = 0.02.* 60 seconds",
        ),
    ],
)
def test_what_slurm_cannot_give_is_refused(tmp_path: Path, asked: Any, words: str) -> None:
    pytest.importorskip("submitit")
    with pytest.raises(InputError, match=words):
        Slurm(tmp_path, ClusterConfig(**asked)).script([tmp_path / "shards" / "0"])


PART = """
import signal, sys, time, pathlib
stops = []
for name in ("SIGUSR1", "SIGTERM"):
    signal.signal(getattr(signal, name), lambda *x: stops.append(x))
pathlib.Path("ready").touch()
while not stops:
    time.sleep(0.01)
time.sleep(0.2)  # saves
sys.exit({code})
"""


@pytest.mark.parametrize(
    ("number", "code", "is_queued"),
    [
        (signal.SIGUSR1, 130, True),
        (signal.SIGUSR1, 1, False),
        (signal.SIGTERM, 130, False),
    ],
)
def test_only_a_job_that_was_warned_and_saved_queues_itself_again(
    tmp_path: Path, number: int, code: int, is_queued: bool
) -> None:
    (tmp_path / "part.py").write_text(PART.format(code=code))
    scontrol = tmp_path / "scontrol"
    scontrol.write_text('#!/bin/sh\necho "$@" > queued\n')
    scontrol.chmod(0o755)
    script = slurm._SCRIPT.format(root="shards", command="python3 part.py")
    environment = {
        **os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_ARRAY_JOB_ID": "12",
        "SLURM_ARRAY_TASK_ID": "0",
    }  # fmt: skip
    job = subprocess.Popen(["bash", "-c", script], cwd=tmp_path, env=environment)
    try:
        end = time.monotonic() + 60
        while not (tmp_path / "ready").exists():
            assert time.monotonic() < end
            time.sleep(0.01)
        job.send_signal(number)
        assert job.wait(60) == code
    finally:
        job.kill()
    queued = tmp_path / "queued"
    assert (queued.read_text() if queued.exists() else "") == (
        "requeue 12_0\n" if is_queued else ""
    )


def test_a_script_of_the_user_is_written_once_and_then_submitted(
    queue: Queue, tmp_path: Path, parts: list[Path]
) -> None:
    folder = tmp_path / "scripts"
    asked = ClusterConfig(scripts=str(folder))
    with pytest.raises(NotSubmittedError, match="written, not submitted"):
        Slurm(tmp_path, asked).start(parts)
    assert queue.commands == []
    (folder / SCRIPT).write_text("#!/bin/bash\n# edited\n")
    Slurm(tmp_path, asked).start(parts)
    assert queue.arrays == ["--array=0-2"]
    assert (folder / SCRIPT).read_text() == "#!/bin/bash\n# edited\n"


# --- what is wrong before anything runs ----------------------------------------------------------


def on_slurm(*more: str) -> Any:
    return load_config("demo", ["simulation.executor=slurm", "simulation.processes=2", *more])


def test_an_unknown_partition_is_refused_before_anything_runs(queue: Queue) -> None:
    with pytest.raises(InputError, match=r"cluster.partition = 'gpus': .* cpu, gpu; did .*gpu\?"):
        require_executor(on_slurm("cluster.partition=gpus"))
    require_executor(on_slurm("cluster.partition=gpu"))


def test_where_there_is_no_slurm_the_run_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match=r"executor = 'slurm': there is no sinfo on the PATH"):
        require_executor(on_slurm())


def test_where_submitit_is_missing_the_run_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "submitit.slurm.slurm", None)
    with pytest.raises(InputError, match=r"submitit is not .*pip install 'realdataexp\[slurm\]'"):
        require_executor(on_slurm())
