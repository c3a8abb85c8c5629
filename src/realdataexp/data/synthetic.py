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
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from datetime import date, timedelta
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeVar

import numpy as np
import polars as pl
from numpy.random import Generator
from pydantic import Field, ValidationInfo, field_validator

from realdataexp.data.csv_files import DTypes
from realdataexp.data.ingest import LATE
from realdataexp.data.kuairand import DTYPES as LOG_DTYPES
from realdataexp.data.kuairand import MARKER, Files, Then
from realdataexp.data.schema import LOG_STEMS, USER_FEATURES, VIDEO_BASIC, VIDEO_STATISTIC
from realdataexp.data.synthetic_world import (
    COUNTS,
    DUPLICATE_SHARE,
    FALSE_CLICK_ZERO_PLAY,
    LOG_SCALE,
    LOG_SHIFT,
    RARE,
    REPEAT_SHARE,
    ROWS,
    SD_NOISE,
    TABS,
    Array,
    World,
    engagement,
    make_users,
    make_world,
    pick,
    play_ms,
    stream,
    valid_play,
    video_blocks,
)
from realdataexp.errors import InputError
from realdataexp.files import disk_faults, require_space, sync_names
from realdataexp.options import Count, Options

BLOCK_ROWS = 1_000_000
"""Log rows made and written at a time; about 1 GB of memory at the peak."""

_IN_FILES = (120, 900, 60)  # least bytes of a user, a video and a row in the files
_MEMORY_USER, _MEMORY_VIDEO = 1_000, 50
FORMAT_VERSION = 2
"""Raise it when the same seed writes other files: cached data are then made anew."""

_T = TypeVar("_T")
_LOGS = ("log_standard_4_08_to_4_21", "log_standard_4_22_to_5_08", "log_random_4_22_to_5_08")
_RANDOM = 2  # its index in _LOGS
_PERIODS = ((date(2022, 4, 8), 14), (date(2022, 4, 22), 17), (date(2022, 4, 22), 17))


# Of each version: rows of its logs, as in _LOGS; files of each standard log, and of the statistics.
# 1k: how its standard rows divide over the two periods is not published; the share is 27k's.
_VERSIONS = {
    "pure": ((1_141_112, 295_497, 1_186_059), 1, 1),
    "1k": ((4_953_630, 6_759_415, 43_028), 1, 1),
    "27k": ((136_296_576, 185_981_809, 1_186_059), 2, 3),
}
_POOL = 7_583  # videos of the random log


class SyntheticConfig(Options):
    """Size of generated data (`dataset.name: synthetic`)."""

    version: Literal["pure", "1k", "27k"] = Field("pure", description="whose file names to use")
    users: Count = Field(2000, description="number of users")
    videos: Count = Field(1500, description="number of videos")
    rows: Count = Field(120_000, validate_default=True, description="log rows over all logs")
    seed: int = Field(
        0, ge=0, le=2**63 - 1, description="seed of the generated data, apart from the run's seed"
    )

    @field_validator("rows")
    @classmethod
    def _one_for_each_user(cls, rows: int, info: ValidationInfo) -> int:
        users = info.data.get("users", 0)
        if rows < users:
            raise ValueError(f"must be at least users = {users}: ask for more or for fewer users")
        return rows


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


# ---------------------------------------------------------------- the tables


def _user_blocks(counts: Array) -> Iterator[tuple[int, int]]:
    """Ranges of users with about BLOCK_ROWS rows together (one user at least)."""
    total, first = np.cumsum(counts.sum(axis=0)), 0
    while first < len(total):
        done = total[first - 1] if first else 0
        last = max(first + 1, int(np.searchsorted(total, done + BLOCK_ROWS, side="right")))
        yield first, last
        first = last


def made_bytes(n_users: int, n_videos: int) -> int:
    """About how much memory tables of this size take while they are made."""
    return _MEMORY_USER * n_users + _MEMORY_VIDEO * n_videos


class SyntheticTables(Files):
    """Users, videos and logs made from a seed: written as CSV files, or imported directly.

    The rows are divided over the logs as in the version; ``n_rows`` are those of each file stem.
    """

    def __init__(self, size: SyntheticConfig) -> None:
        log_rows, n_log, n_statistic = _VERSIONS[size.version]
        early, late, _ = (round(size.rows * rows / sum(log_rows)) for rows in log_rows)
        self.size = size
        self.n_rows = dict(zip(_LOGS, (early, late, size.rows - early - late), strict=True))
        self.n_rows[USER_FEATURES] = size.users
        self.n_rows |= dict.fromkeys((VIDEO_BASIC, VIDEO_STATISTIC), size.videos)
        n_parts = {**dict.fromkeys(_LOGS[:_RANDOM], n_log), VIDEO_STATISTIC: n_statistic}
        names = {stem: _names(stem, size.version, n_parts.get(stem, 1)) for stem in self.n_rows}
        super().__init__(size.version, names)

    def blocks(self, stems: Collection[str]) -> Iterator[tuple[str, str, pl.DataFrame]]:
        """Rows of some tables in order: their stem, the name of their file, and a block of them."""
        done = dict.fromkeys(stems, 0)
        for stem, frame in self._frames(stems):
            names = [path.name for path in self.shards[stem]]
            n_each = max(1, -(-self.n_rows[stem] // len(names)))
            while not frame.is_empty():
                part, at = divmod(done[stem], n_each)
                yield stem, names[part], frame[: n_each - at]
                done[stem] += min(frame.height, n_each - at)
                frame = frame[n_each - at :]

    def _frames(self, stems: Collection[str]) -> Iterator[tuple[str, pl.DataFrame]]:
        logs = [stem for stem in _LOGS if stem in stems]
        users, frame = make_users(self.size.seed, self.size.users)
        if USER_FEATURES in stems:
            yield USER_FEATURES, frame
        if set(stems) == {USER_FEATURES}:
            return
        videos = []
        for part, basic, statistics in video_blocks(self.size.seed, self.size.videos):
            videos += [part] if logs else []
            if VIDEO_BASIC in stems:
                yield VIDEO_BASIC, basic
            if VIDEO_STATISTIC in stems:
                yield VIDEO_STATISTIC, statistics()
        if not logs:
            return
        seed = self.size.seed
        world, rng = make_world(seed, users, videos), stream(seed, COUNTS)
        weights = (users.weight_standard, users.weight_standard, users.weight_random)
        counts = np.stack([
            rng.multinomial(self.n_rows[log], weight)
            for log, weight in zip(_LOGS, weights, strict=True)
        ])  # fmt: skip
        for block, (first, last) in enumerate(_user_blocks(counts)):
            frames = _block(seed, block, world, first, counts[:, first:last])
            yield from ((log, frames[_LOGS.index(log)]) for log in logs)

    # ---- read as files would be

    def made(self) -> Mapping[str, int]:
        """The rows of each file stem."""
        return self.n_rows

    def sources(self, stems: Collection[str]) -> list[dict[str, Any]]:
        """The sizes and the seed."""
        own = {"version": self.version, "seed": self.size.seed, "rows": self.n_rows}
        return [{"synthetic": FORMAT_VERSION, **own}]

    def n_rows_about(self, stem: str) -> int:
        """How many rows there are."""
        return self.n_rows[stem]

    def check(self, stems: Collection[str]) -> list[str]:
        """What is made is whole."""
        return []

    def read_log(
        self, logs: Mapping[str, int], targets: Sequence[str]
    ) -> Iterator[tuple[str, pl.DataFrame]]:
        """Blocks of rows of some logs."""
        codes = {LOG_STEMS[log]: pl.lit(code, pl.Int8).alias(LATE) for log, code in logs.items()}
        columns = [pl.col(name).cast(dtype) for name, dtype in LOG_DTYPES.items()]
        for stem, name, frame in self.blocks(codes):
            yield name, frame.select(*columns, codes[stem])

    def read(
        self, stem: str, dtypes: DTypes, ids: Collection[str], then: Then[_T]
    ) -> Iterator[tuple[str, _T]]:
        """What a function makes of each block of a feature table."""
        columns = [pl.col(name).cast(dtype) for name, dtype in dtypes.items()]
        for _, name, frame in self.blocks([stem]):
            yield name, then(frame.select(columns), None)


def _names(stem: str, version: str, n_parts: int) -> list[Path]:
    """The names of a stem's files, where they are written."""
    ends = [""] if n_parts == 1 else [f"_part{i + 1}" for i in range(n_parts)]
    return [Path(f"{stem}_{version}{end}.csv") for end in ends]


# ---------------------------------------------------------------- files


def _write_all(tables: SyntheticTables, folder: Path) -> None:
    """Write every table as CSV files, each with a header, and sync them."""
    with ExitStack() as stack:
        handles: dict[str, BinaryIO] = {}
        for stem, name, frame in tables.blocks(tables.n_rows):
            for path in tables.shards[stem] if name not in handles else ():
                handles[path.name] = stack.enter_context((folder / path).open("wb"))
                frame.clear().write_csv(handles[path.name])
            frame.write_csv(handles[name], include_header=False)
        for handle in handles.values():
            handle.flush()
            os.fsync(handle.fileno())


def write_synthetic(directory: Path, size: SyntheticConfig) -> dict[str, int]:
    """Write synthetic users, videos and logs as CSV files in KuaiRand's layout.

    The files go to ``directory/data``, missing or empty; ``directory/SYNTHETIC`` says how many rows
    each has. On one machine the bytes are a function of the size and its seed. They are written
    beside ``directory``, synced to the disk and moved there in one step. Memory: about 1 GB for
    blocks of rows, and ``made_bytes``; not more for more rows.

    Returns:
        Counts: "users", "videos", "rows", and the rows of each log by its name.

    Raises:
        InputError: the directory is not empty, cannot be written or has too little space.
        DiskError: the disk is full.
    """
    tables = SyntheticTables(size)
    directory = Path(directory).absolute()
    with disk_faults(directory, "ask for fewer rows"):
        if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
            raise InputError(f"{directory}: not an empty directory; choose a new one or empty it")
        directory.parent.mkdir(parents=True, exist_ok=True)
        sizes = (size.users, size.videos, size.rows)
        least = sum(n * n_bytes for n, n_bytes in zip(sizes, _IN_FILES, strict=True))
        require_space(directory.parent, least)
        scratch = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
        try:
            folder = scratch / directory.name / "data"
            folder.mkdir(parents=True)
            _write_all(tables, folder)
            marker = json.dumps(tables.n_rows, indent=1)
            (folder.parent / MARKER).write_text(marker, encoding="utf-8")
            if directory.exists():
                directory.rmdir()
            (scratch / directory.name).rename(directory)
            sync_names(directory.parent)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    counts = {"users": size.users, "videos": size.videos, "rows": size.rows}
    return counts | {log: tables.n_rows[log] for log in _LOGS}
