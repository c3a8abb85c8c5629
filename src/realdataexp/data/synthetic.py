"""Synthetic logs in KuaiRand's file layout, calibrated to the statistics of its real rows.

How a row comes about (every row is a function of the seed and its block of users alone):

1. A user with activity gamma(1.2) gets rows in three logs; videos are drawn by popularity (random
   log: uniformly from the pool), a video that the user has already seen is drawn again.
2. *Engagement* ``w = user + video hook + 0.3 taste match + tab + log + noise`` decides whether the
   viewer gets past 7 s (w > 0), which is what a click mostly means.
3. *Depth* ``exp(user + video + 0.25 second taste match)`` stretches the log play time of those who
   got past; the play ends near the video's duration. Clickbait raises the hook and lowers the
   depth, so that play time and click rank videos differently.
4. Labels follow from play time and duration by KuaiRand's rules; rare ones are drawn given click.

Variance of ``w`` in one tab: user 19 %, video 10 %, taste match 9 %, noise 61 %; of log depth:
video 63 %, second taste match 27 %, user 10 %. Three quarters of a user's taste are a function of
onehot_feat1/9/10, user_active_degree and register_days_range, all of what a video offers to a
taste is one of its first tag and its duration. Clicks explain play time only in part: the best of
10 videos by expected play time is another one than the best by expected click in two slates of
three, and ranking by play time instead of click raises play time by half and costs 0.1 clicks.
Real rows: KuaiRand-Pure (Gao et al., CIKM 2022, https://kuairand.com, CC BY-SA 4.0).
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import BinaryIO

import numpy as np
import polars as pl
from numpy.random import Generator

from realdataexp.data.disk import require_space
from realdataexp.data.integrity import MARKER
from realdataexp.data.schema import USER_FEATURES, VIDEO_BASIC, VIDEO_STATISTIC
from realdataexp.data.synthetic_tables import (
    DUPLICATE_SHARE,
    FALSE_CLICK_ZERO_PLAY,
    LOG_SCALE,
    LOG_SHIFT,
    RARE,
    REPEAT_SHARE,
    SD_NOISE,
    TABS,
)
from realdataexp.data.synthetic_world import (
    COUNTS,
    ROWS,
    Array,
    World,
    build_world,
    engagement,
    pick,
    play_ms,
    stream,
    valid_play,
)
from realdataexp.errors import InputError
from realdataexp.files import disk_faults, sync_names

BLOCK_ROWS = 1_000_000
"""Log rows made and written at a time; about 1 GB of memory at the peak."""

_IN_FILES = (120, 900, 60)  # least bytes of a user, a video and a row in the files
_MEMORY_USER, _MEMORY_VIDEO = 1_000, 50
FORMAT_VERSION = 2
"""Raise it when the same seed writes other files: cached data are then made anew."""

_LOGS = ("log_standard_4_08_to_4_21", "log_standard_4_22_to_5_08", "log_random_4_22_to_5_08")
_RANDOM = 2  # its index in _LOGS
_PERIODS = ((date(2022, 4, 8), 14), (date(2022, 4, 22), 17), (date(2022, 4, 22), 17))


@dataclass(frozen=True)
class _Version:
    n_users: int
    n_videos: int
    log_rows: tuple[int, int, int]  # as in _LOGS
    log_parts: int = 1  # of each standard log
    statistic_parts: int = 1


# 1k: how its standard rows divide over the two periods is not published; the share is 27k's.
VERSIONS = {
    "pure": _Version(27_285, 7_583, (1_141_112, 295_497, 1_186_059)),
    "1k": _Version(1_000, 4_369_953, (4_953_630, 6_759_415, 43_028)),
    "27k": _Version(27_285, 32_038_725, (136_296_576, 185_981_809, 1_186_059), 2, 3),
}
_POOL = 7_583  # videos of the random log

# ---------------------------------------------------------------- rows


def _draw_videos(rng: Generator, world: World, is_random: Array) -> Array:
    """A video per row: by popularity, or uniformly from the pool in the random log."""
    n_videos = len(world.order)
    cell = rng.random(len(is_random)) * 2**16
    low = cell.astype(np.int32)
    start = world.rank_table[low]
    rank = start + (world.rank_table[low + 1] - start) * (cell - low)
    by_popularity = world.order[np.minimum(rank, n_videos - 1).astype(np.int32)]
    pool = (rng.random(len(is_random)) * min(_POOL, n_videos)).astype(np.int32)
    return np.where(is_random, pool, by_popularity).astype(np.int64)


def _unseen_videos(rng: Generator, world: World, user: Array, is_random: Array) -> Array:
    """Draw videos, and draw again where the user has the video in an earlier row (4 times)."""
    n, n_videos = len(user), len(world.order)
    bits = n.bit_length()
    video, rows = _draw_videos(rng, world, is_random), np.arange(n)
    for attempt in range(5):
        keys = np.sort(((user - user.min()) * n_videos + video) << bits | rows)
        again = keys[1:][(keys[1:] >> bits) == (keys[:-1] >> bits)] & ((1 << bits) - 1)
        if len(again) == 0 or attempt == 4:
            return video
        again.sort()
        # the last attempts ignore popularity: a heavy user has seen all the popular ones
        uniform = is_random[again] | (attempt >= 2)
        video[again] = _draw_videos(rng, world, uniform)
    return video


def _times_ms(rng: Generator, user: Array, log: int) -> tuple[Array, Array, Array]:
    """(time_ms, date, hourmin) of rows, rising within each user; date and hour are UTC+8's.

    In the real rows hourmin is an hour ahead of time_ms in 17 % of the rows; here they agree.
    """
    start, n_days = _PERIODS[log]
    days = [start + timedelta(days=i) for i in range(n_days)]
    busy = [1.35 if date(2022, 4, 30) <= day <= date(2022, 5, 4) else 1.0 for day in days]
    hours = [41, 24, 16, 10, 8, 9, 16, 25, 32, 39, 45, 51, 58, 57, 52, 51, 55, 59, 57, 53, 56, 58,
             64, 62]  # fmt: skip
    cell = pick(rng, np.outer(busy, hours), len(user)).astype(np.int64)
    since = cell * 3_600_000 + (rng.random(len(user)) * 3_600_000).astype(np.int64)
    since = np.sort((user << 31) | since) & ((1 << 31) - 1)  # user is sorted already
    epoch_ms = (start - date(1970, 1, 1)).days * 86_400_000 - 8 * 3_600_000
    day, hour = since // 86_400_000, since // 3_600_000 % 24
    dates = np.array([int(f"{day:%Y%m%d}") for day in days])
    return epoch_ms + since, dates[day], hour * 100


def _rare_labels(
    rng: Generator, world: World, user: Array, video: Array, click: Array
) -> dict[str, Array]:
    liking = (world.users.liking[user] * world.videos.liking[video]).astype(np.float32)
    labels = {}
    for name, (without, given, liked) in RARE.items():
        rate = np.where(click, np.float32(given), np.float32(without))
        rate = rate * liking if liked else rate
        labels[name] = (rng.random(len(user), dtype=np.float32) < rate).astype(np.int8)
    return labels


def _stay_ms(rng: Generator, on: Array, median_ms: float, sd: float) -> Array:
    """Zero, or a lognormal time (ms, at most 300 s) where ``on``."""
    stay, where = np.zeros(len(on), dtype=np.int64), np.flatnonzero(on)
    draws = median_ms * np.exp(sd * rng.normal(size=len(where)))
    stay[where] = np.clip(draws, 8, 300_000).astype(np.int64)
    return stay


def _log_rows(rng: Generator, world: World, user: Array, video: Array, log: int) -> pl.DataFrame:
    """The rows of one log for users (sorted) and their videos, in the real file's columns."""
    n = len(user)
    time_ms, day, hourmin = _times_ms(rng, user, log)
    tab_row = pick(rng, TABS[:, 1], n)
    tab, _, zero_share, shift, false_click, true_click = TABS[tab_row].T
    w, depth = engagement(world, user, video)
    w = w + shift + SD_NOISE * rng.standard_normal(n, dtype=np.float32)
    w = LOG_SCALE[log] * w + LOG_SHIFT[log]
    duration_ms = world.videos.duration_ms[video]
    replay = 0.1 * np.exp(np.minimum(1.8 * rng.standard_normal(n, dtype=np.float32), 4.5))
    play = play_ms(w, depth, duration_ms, replay)
    play = np.where(rng.random(n) < zero_share, 0, play).astype(np.int64)

    valid = valid_play(play, duration_ms, 7_000, True)
    false_click = np.where((play == 0) & (tab == 1), FALSE_CLICK_ZERO_PLAY, false_click)
    click = rng.random(n) < np.where(valid, true_click, false_click)
    long_view = valid_play(play, duration_ms, 18_000, False)
    rare = _rare_labels(rng, world, user, video, click)
    reads = rng.random(n) < np.where(long_view, 0.118, 0.0098)
    comment_stay = _stay_ms(rng, reads | (rare["is_comment"] == 1), 6_210, 0.947)
    profile_stay = _stay_ms(
        rng, (rare["is_profile_enter"] == 1) & (rng.random(n) < 0.004), 4_155, 1.7
    )
    columns = {
        "user_id": user, "video_id": video, "date": day, "hourmin": hourmin, "time_ms": time_ms,
        "is_click": click.astype(np.int8), "is_like": rare["is_like"],
        "is_follow": rare["is_follow"], "is_comment": rare["is_comment"],
        "is_forward": rare["is_forward"], "is_hate": rare["is_hate"],
        "long_view": long_view.astype(np.int8), "play_time_ms": play, "duration_ms": duration_ms,
        "profile_stay_time": profile_stay, "comment_stay_time": comment_stay,
        "is_profile_enter": rare["is_profile_enter"],
        "is_rand": np.full(n, int(log == _RANDOM), np.int8), "tab": tab.astype(np.int8),
    }  # fmt: skip
    return pl.DataFrame(columns)


def _block(seed: int, block: int, world: World, first: int, counts: Array) -> list[pl.DataFrame]:
    """The three logs' rows of users from ``first`` on; ``counts`` is logs x users."""
    rng = stream(seed, ROWS, block)
    ids = np.arange(first, first + counts.shape[1])
    users = [np.repeat(ids, row) for row in counts]
    is_random = np.repeat(np.arange(3) == _RANDOM, [len(user) for user in users])
    videos = _unseen_videos(rng, world, np.concatenate(users), is_random)
    frames = []
    for log, user in enumerate(users):
        video, videos = videos[: len(user)], videos[len(user) :]
        follows = np.concatenate([[False], user[1:] == user[:-1]]) if len(user) else user > 0
        if log != _RANDOM:
            repeat = np.flatnonzero(follows & (rng.random(len(user)) < REPEAT_SHARE))
            video[repeat] = video[repeat - 1]
        frame = _log_rows(rng, world, user, video, log)
        if log != _RANDOM and follows.any():
            same = follows & (rng.random(len(user)) < DUPLICATE_SHARE / follows.mean())
            source = np.maximum.accumulate(np.where(same, 0, np.arange(len(user))))
            frame = frame[source]
        frames.append(frame)
    return frames


# ---------------------------------------------------------------- files


class _Parts:
    """One log or table in one or more CSV files, each with a header and an equal share of rows."""

    def __init__(self, folder: Path, stem: str, version: str, parts: int, n_rows: int) -> None:
        names = [f"{stem}_{version}_part{i + 1}.csv" for i in range(parts)]
        if parts == 1:
            names = [f"{stem}_{version}.csv"]
        self.handles: list[BinaryIO] = [(folder / name).open("wb") for name in names]
        self.rows_a_part = max(1, -(-n_rows // parts))
        self.rows: int | None = None  # None: the headers are not written yet

    def write(self, frame: pl.DataFrame) -> None:
        """Append rows, each to the part that it belongs to."""
        if self.rows is None:
            self.rows = 0
            for handle in self.handles:
                frame.clear().write_csv(handle)
        while not frame.is_empty():
            part, done = divmod(self.rows, self.rows_a_part)
            head, frame = frame[: self.rows_a_part - done], frame[self.rows_a_part - done :]
            head.write_csv(self.handles[part], include_header=False)
            self.rows += head.height

    def close(self) -> None:
        """Close the files, their bytes on the disk."""
        for handle in self.handles:
            with handle:
                handle.flush()
                os.fsync(handle.fileno())


def _user_blocks(counts: Array) -> Iterator[tuple[int, int]]:
    """Ranges of users with about BLOCK_ROWS rows together (one user at least)."""
    total, first = np.cumsum(counts.sum(axis=0)), 0
    while first < len(total):
        done = total[first - 1] if first else 0
        last = max(first + 1, int(np.searchsorted(total, done + BLOCK_ROWS, side="right")))
        yield first, last
        first = last


def _write_all(folder: Path, version: str, n_users: int, n_videos: int,
               log_rows: tuple[int, ...], seed: int) -> None:  # fmt: skip
    shards = VERSIONS[version]
    tables = {
        "users": _Parts(folder, "user_features", version, 1, n_users),
        "videos": _Parts(folder, "video_features_basic", version, 1, n_videos),
        "statistics": _Parts(
            folder, "video_features_statistic", version, shards.statistic_parts, n_videos
        ),
    }
    parts = (shards.log_parts, shards.log_parts, 1)
    logs = [
        _Parts(folder, name, version, n_parts, n_rows)
        for name, n_parts, n_rows in zip(_LOGS, parts, log_rows, strict=True)
    ]
    try:
        world = build_world(seed, n_users, n_videos, lambda name, rows: tables[name].write(rows))
        rng = stream(seed, COUNTS)
        weights = (world.users.weight_standard,) * 2 + (world.users.weight_random,)
        counts = np.stack([rng.multinomial(n, w) for n, w in zip(log_rows, weights, strict=True)])
        for block, (first, last) in enumerate(_user_blocks(counts)):
            frames = _block(seed, block, world, first, counts[:, first:last])
            for log, frame in zip(logs, frames, strict=True):
                log.write(frame)
    finally:
        for file in [*tables.values(), *logs]:
            file.close()


def made_bytes(n_users: int, n_videos: int) -> int:
    """About how much memory tables of this size take while they are made."""
    return _MEMORY_USER * n_users + _MEMORY_VIDEO * n_videos


def _sizes(
    version: str, n_users: int | None, n_videos: int | None, n_rows: int | None, seed: int
) -> tuple[int, int, tuple[int, int, int]]:
    """Check the sizes, and divide the rows over the logs as the version does."""
    if version not in VERSIONS:
        raise InputError(f"`version` == {version!r}, must be one of {', '.join(VERSIONS)}")
    real = VERSIONS[version]
    n_users = real.n_users if n_users is None else n_users
    n_videos = real.n_videos if n_videos is None else n_videos
    total = sum(real.log_rows) if n_rows is None else n_rows
    for name, value, least in (("n_users", n_users, 1), ("n_videos", n_videos, 1),
                               ("n_rows", total, 1), ("seed", seed, 0)):  # fmt: skip
        if value < least:
            raise InputError(f"`{name}` == {value}, must be >= {least}")
    if total < n_users:
        raise InputError(
            f"`n_rows` == {total}, must be >= `n_users` == {n_users}: "
            "ask for more rows or fewer users"
        )
    early, late, _ = (round(total * rows / sum(real.log_rows)) for rows in real.log_rows)
    return n_users, n_videos, (early, late, total - early - late)


def _write_marker(path: Path, n_users: int, n_videos: int, log_rows: tuple[int, ...]) -> None:
    """Say that the folder is synthetic and how many rows its files have."""
    rows = dict(zip(_LOGS, log_rows, strict=True)) | {
        USER_FEATURES: n_users,
        VIDEO_BASIC: n_videos,
        VIDEO_STATISTIC: n_videos,
    }
    path.write_text(json.dumps(rows, indent=1), encoding="utf-8")


def write_synthetic(
    directory: Path,
    *,
    version: str = "pure",
    n_users: int | None = None,
    n_videos: int | None = None,
    n_rows: int | None = None,
    seed: int = 0,
) -> dict[str, int]:
    """Write synthetic users, videos and logs as CSV files in KuaiRand's layout.

    The files go to ``directory/data``; ``directory/SYNTHETIC`` says how many rows each has. On one
    machine the bytes are a function of the arguments.
    They are written beside ``directory``, synced to the disk and moved there in one step. Memory:
    about 1 GB for blocks of rows, and ``made_bytes``; not more for more rows.

    Args:
        directory: where to write; missing or empty.
        version: whose file names, shards and default sizes to use: "pure", "1k" or "27k".
        n_users: number of users; default: the real version's.
        n_videos: number of videos; default: the real version's.
        n_rows: rows of the three logs together, divided as in the real version.
        seed: any integer >= 0.

    Returns:
        Counts: "users", "videos", "rows", and the rows of each log by its name.

    Raises:
        InputError: an unknown version, a size out of bounds, or a directory that is not empty,
            cannot be written or has too little space.
        DiskError: the disk is full.
    """
    n_users, n_videos, log_rows = _sizes(version, n_users, n_videos, n_rows, seed)
    directory = Path(directory).absolute()
    with disk_faults(directory, "ask for fewer rows"):
        if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
            raise InputError(f"{directory}: not an empty directory; give a new one or empty it")
        directory.parent.mkdir(parents=True, exist_ok=True)
        least = (n_users, n_videos, sum(log_rows))
        require_space(
            directory.parent, sum(n * size for n, size in zip(least, _IN_FILES, strict=True))
        )
        scratch = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
        try:
            folder = scratch / directory.name / "data"
            folder.mkdir(parents=True)
            _write_all(folder, version, n_users, n_videos, log_rows, seed)
            _write_marker(folder.parent / MARKER, n_users, n_videos, log_rows)
            if directory.exists():
                directory.rmdir()
            (scratch / directory.name).rename(directory)
            sync_names(directory.parent)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    names = dict(zip(_LOGS, log_rows, strict=True))
    return {"users": n_users, "videos": n_videos, "rows": sum(log_rows), **names}
