"""Runs on a local Ray cluster: whatever is killed, the result is the same (`make test-ray`)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from support import assert_same_answer

from realdataexp.config.cluster import ClusterConfig
from realdataexp.errors import InputError
from realdataexp.runs.executors.ray import Ray

pytest.importorskip("ray", reason="make test-ray")

PATIENCE = 120.0  # seconds
SLOW = """
import os, time
from realdataexp.designs.pooling import Pooling


class Slow(Pooling):
    def assign(self, visits, p):
        if os.path.exists(os.environ.get("SLOWLY", "")):
            time.sleep(0.2)
        return super().assign(visits, p)
"""


def until(what: Callable[[], Any]) -> Any:
    """The first true answer."""
    end = time.monotonic() + PATIENCE
    while not (found := what()):
        assert time.monotonic() < end
        time.sleep(0.1)
    return found


def said(part: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((part / "status.json").read_text()))
    except (OSError, ValueError):
        return {}


def test_a_killed_command_and_a_killed_worker_change_no_result(
    tmp_path: Path, small_settings: Callable[..., dict[str, Any]]
) -> None:
    (tmp_path / "slow.py").write_text(SLOW)
    settings = small_settings(
        experiment={"replications": 4, "designs": ["splitting", {"name": "slow:Slow"}]},
        simulation={"batch_size": 8, "n_steps": 60, "validate_every": 10, "save_every": 20},
    )
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    slowly = tmp_path / "slowly"
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    env = {**os.environ, "PYTHONPATH": path, "SLOWLY": str(slowly)}

    def command(out: str, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "realdataexp", "run", "config.yaml", "--out", out, *words],
            env=env, cwd=tmp_path, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    one = command("one", "--set", "simulation.processes=1")
    output, _ = one.communicate(timeout=PATIENCE)
    assert one.returncode == 0, output
    slowly.touch()
    two = command("two", "--executor", "ray", "--shards", "2")
    try:
        parts = [tmp_path / "two" / "shards" / name for name in ("0", "1")]
        until(lambda: all(said(part).get("step", 0) > 0 for part in parts) or two.poll())
        killed = [int(said(part)["process"]) for part in parts]
        worker = psutil.Process(killed[1]).ppid()
        os.kill(killed[0], signal.SIGKILL)
        os.kill(worker, signal.SIGKILL)
        slowly.unlink()
        output, _ = two.communicate(timeout=PATIENCE)
    finally:
        two.kill()
    assert two.returncode == 0, output
    assert all(said(part)["process"] != old for part, old in zip(parts, killed, strict=True)) or (
        not parts[0].exists()
    )
    assert_same_answer(tmp_path / "one", tmp_path / "two")


def test_what_no_node_has_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cluster.cpus = 4096: no node has so much"):
        Ray(tmp_path, ClusterConfig(cpus=4096)).check()


def test_where_no_cluster_answers_it_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cluster.address = '127.0.0.1:9': no Ray cluster"):
        Ray(tmp_path, ClusterConfig(address="127.0.0.1:9")).check()
