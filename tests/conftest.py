"""That this file is here puts tests/ on the path: tests in its folders can import support.

The fixtures make a tiny data set and one run of it, once for all tests that look at runs.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import processes
import pytest
import yaml

# a small run waits longer for the disk than for all else
processes.trust_memory()
# the tensors and tables of the tests are far too small to be worth sharing out among threads
for _name in ("OMP_NUM_THREADS", "POLARS_MAX_THREADS"):
    os.environ.setdefault(_name, "1")
# what nohup, or a shell's &, makes programs ignore, the runs that tests interrupt would too
for _name, _usual in (("SIGINT", signal.default_int_handler), ("SIGHUP", signal.SIG_DFL)):
    if (_number := getattr(signal, _name, None)) and signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _usual)

Settings = dict[str, Any]

LABELS = [
    {
        "name": "play_time",
        "target": "play_time_ms",
        "type": "numerical",
        "loss_function": "logMAE",
        "model_params": {"hidden_layers": [8]},
        "alpha_T": 1.0,
        "alpha_C": 0.0,
    },
    {
        "name": "click",
        "target": "is_click",
        "type": "binary",
        "loss_function": "BCE",
        "model_params": {"hidden_layers": [8], "embedding_dim": 4},
        "alpha_T": 0.0,
        "alpha_C": 1.0,
    },
]


@pytest.fixture(scope="session")
def small_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A KuaiRand folder with 300 users, 200 videos and 6,000 rows."""
    from realdataexp.data.synthetic import SyntheticConfig, write_synthetic

    path = tmp_path_factory.mktemp("small") / "data_set"
    write_synthetic(path, SyntheticConfig(version="pure", users=300, videos=200, rows=6000, seed=0))
    return path


@pytest.fixture(scope="session")
def small_settings(
    small_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Settings]:
    """Makes the settings of a small run; keyword arguments replace blocks or add to them."""
    cache = tmp_path_factory.mktemp("cache")

    def make(**changes: Any) -> Settings:
        settings: Settings = {
            "mode": "compare",
            "dataset": {
                "name": "KuaiRand-Pure",
                "path": str(small_data),
                "cache_path": str(cache),
            },
            "feature": {
                "numerical": ["video_duration", "fans_user_num"],
                "categorical": ["user_active_degree", "tag"],
            },
            "labels": LABELS,
            "pretrain": {"batch_size": 256},
            "simulation": {
                "batch_size": 16,
                "n_candidate": 5,
                "n_steps": 10,
                "validate_every": 5,
                "save_every": 5,
            },
            "experiment": {"replications": 3, "designs": ["pooling", "snapshot", "splitting"]},
            # drawing would take most of the time of a small run
            "logging": {"log_dir": str(cache / "results"), "pictures": False},
        }
        for key, value in changes.items():
            block = settings.get(key)
            is_block = isinstance(block, dict) and isinstance(value, dict)
            settings[key] = {**block, **value} if is_block else value
        return settings

    return make


@pytest.fixture
def small_config(small_settings: Callable[..., Settings], tmp_path: Path) -> Callable[..., Path]:
    """Writes the settings of a small run to a file."""

    def write(**changes: Any) -> Path:
        path = tmp_path / "experiment.yaml"
        path.write_text(yaml.safe_dump(small_settings(**changes)), encoding="utf-8")
        return path

    return write


@pytest.fixture(scope="session")
def small_run(
    small_settings: Callable[..., Settings], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The folder of a run of mode compare: do not change it."""
    from realdataexp.api import run

    drawn = small_settings(logging={"pictures": True})
    return run(drawn, out=tmp_path_factory.mktemp("run") / "compare").folder
