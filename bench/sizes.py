"""How much is measured, and the experiment that is: the main job of the prototype's config."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from realdataexp.data.schema import LOG_STEMS

DESIGNS = ("pooling", "splitting", "weighting", "shadow")
"""Compared one more at a time."""

_NUMERICAL = """
    video_duration server_width server_height show_cnt play_cnt play_user_num complete_play_cnt
    like_cnt comment_cnt share_cnt collect_cnt is_live_streamer is_video_author follow_user_num
    fans_user_num friend_user_num register_days
"""
_LABELS = [
    {
        "name": "play_time",
        "target": "play_time_ms",
        "type": "numerical",
        "loss_function": "logMAE",
        "model_params": {"hidden_layers": [128, 64, 32], "dropout": 0.2, "embedding_dim": 16},
        "alpha_T": 1.0,
        "alpha_C": 0.5,
    },
    {
        "name": "click",
        "target": "is_click",
        "type": "binary",
        "loss_function": "BCE",
        "model_params": {"hidden_layers": [64, 32, 16], "dropout": 0.1, "embedding_dim": 8},
        "alpha_T": 1.0,
        "alpha_C": 0.8,
    },
]


@dataclass(frozen=True)
class Size:
    """How much is measured.

    Attributes:
        n_users, n_videos, n_rows: of the synthetic KuaiRand-Pure.
        n_repeats: of what is cheap; the median counts.
        n_pretrain, n_loaded: rows that the pretraining and the DataLoader's loop train on, in
            batches of ``pretrain_batch``.
        replications, n_steps: of the main job; n_steps_varied: where one of its sizes varies.
        many_replications, many_designs, many_candidates, many_visits: the sizes that vary.
        compared_replications: of mode compare.
        loop_users, loop_rows, loop_steps: the table that the pandas loop can manage, and how long.
        platform: replications, steps, visits and candidates of the simulated platform.
        big_rows: rows of the big measurement, in millions; big_steps: of its runs.
        big_worlds: of its comparison, at least, and of that with many worlds.
        n_parts: that are merged.
    """

    name: str
    n_users: int
    n_videos: int
    n_rows: int
    n_repeats: int
    n_pretrain: int
    n_loaded: int
    pretrain_batch: int
    replications: int
    n_steps: int
    n_steps_varied: int
    many_replications: tuple[int, ...]
    many_designs: tuple[int, ...]
    many_candidates: tuple[int, ...]
    many_visits: tuple[int, ...]
    compared_replications: int
    loop_users: int
    loop_rows: int
    loop_steps: int
    platform: tuple[int, int, int, int]
    big_rows: tuple[float, ...]
    big_steps: int
    big_worlds: tuple[int, int]
    n_parts: int


SMALL = Size(
    "small",
    n_users=300,
    n_videos=200,
    n_rows=9000,
    n_repeats=1,
    n_pretrain=512,
    n_loaded=512,
    pretrain_batch=128,
    replications=1,
    n_steps=4,
    n_steps_varied=2,
    many_replications=(2,),
    many_designs=(4,),
    many_candidates=(),
    many_visits=(),
    compared_replications=1,
    loop_users=60,
    loop_rows=1500,
    loop_steps=1,
    platform=(1, 2, 16, 5),
    big_rows=(0.02,),
    big_steps=3,
    big_worlds=(7, 14),
    n_parts=3,
)
PROTOTYPE = Size(
    "prototype",
    n_users=27_285,
    n_videos=7_583,
    n_rows=2_622_668,
    n_repeats=3,
    n_pretrain=500_000,
    n_loaded=81_920,
    pretrain_batch=4096,
    replications=20,
    n_steps=200,
    n_steps_varied=60,
    many_replications=(1, 5, 50),
    many_designs=(1, 2, 3, 4),
    many_candidates=(5, 50),
    many_visits=(16, 256),
    compared_replications=5,
    loop_users=1000,
    loop_rows=100_000,
    loop_steps=3,
    platform=(8, 60, 128, 100),
    big_rows=(1, 10, 50),
    big_steps=50,
    big_worlds=(20, 200),
    n_parts=1000,
)
SIZES = {size.name: size for size in (SMALL, PROTOTYPE)}


@dataclass(frozen=True)
class Place:
    """Where a suite measures.

    Attributes:
        size: how much.
        data: a KuaiRand folder: the user's own or a synthetic one.
        is_own: whether it is the user's own.
        scratch: an empty folder for whatever is written.
        big_rows: rows of the big measurement, in millions.
    """

    size: Size
    data: Path
    is_own: bool
    scratch: Path
    big_rows: tuple[float, ...]

    @property
    def cache(self) -> Path:
        """Where the data are imported to."""
        return self.scratch / "cache"

    def config(self, *, data: Path | None = None, **blocks: Any) -> dict[str, Any]:
        """The main job; ``blocks`` replace settings of a block, or plain settings."""
        size, data = self.size, data or self.data
        settings: dict[str, Any] = {
            "mode": "global",
            "device": "cpu",
            "dataset": {
                "name": "KuaiRand-Pure",
                "path": str(data.absolute()),
                "cache_path": str(self.cache.absolute()),
                "logs": logs_in(data),
            },
            "feature": {
                "numerical": _NUMERICAL.split(),
                "categorical": ["user_active_degree", "video_type", "tag"],
            },
            "labels": _LABELS,
            "pretrain": {"batch_size": size.pretrain_batch, "max_rows": size.pretrain_batch},
            "simulation": {
                "batch_size": 64,
                "n_candidate": 10,
                "n_steps": size.n_steps,
                "save_every": 10**6,
                "validate_every": 10**6,
            },
            "experiment": {"replications": size.replications},
        }
        for name, value in blocks.items():
            settings[name] = {**settings[name], **value} if isinstance(value, dict) else value
        return settings


def logs_in(data: Path) -> list[str]:
    """The logs that a KuaiRand folder has; all where it has none, so that the fault is told."""
    names = [path.name for folder in (data, data / "data") for path in folder.glob("log_*.csv")]
    there = [log for log, stem in LOG_STEMS.items() if any(x.startswith(stem) for x in names)]
    return there or list(LOG_STEMS)
