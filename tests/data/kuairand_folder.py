"""A tiny, well-formed KuaiRand folder on disk, of which a test can change any part."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from realdataexp.data import schema
from realdataexp.data.kuairand import MARKER
from realdataexp.data.parquet import StoredTable

Row = dict[str, Any]

RANDOM, EARLY, LATE = (schema.LOG_STEMS[log] for log in schema.LOGS)
DAY_MS = 86_400_000
START_MS = 1_649_376_000_000


def log_row(user: int, video: int, at_ms: int, **values: Any) -> Row:
    """One view with all 19 columns; `at_ms` counts from the start of the log."""
    row: Row = dict.fromkeys(schema.LOG_COLUMNS, 0)
    row |= {"user_id": user, "video_id": video, "time_ms": START_MS + at_ms, "date": 20220408}
    return row | {"play_time_ms": 1000, "duration_ms": 9000, "tab": 1} | values


def user_row(user: int, **values: Any) -> Row:
    """One user with all 31 columns."""
    row: Row = dict.fromkeys(schema.USER_COLUMNS, 1)
    row |= {"user_id": user, "user_active_degree": "full_active", "follow_user_num": 100 + user}
    return row | {"follow_user_num_range": "(0,10]", "onehot_feat4": "1.0"} | values


def basic_row(video: int, **values: Any) -> Row:
    """One video with its 12 basic columns."""
    row: Row = dict.fromkeys(schema.BASIC_COLUMNS, "1.0")
    row |= {"video_id": video, "video_type": "NORMAL", "upload_dt": "2022-04-08"}
    return row | {"video_duration": "9000.0", "tag": "3,11"} | values


def statistic_row(video: int, **values: Any) -> Row:
    """One video with its 52 statistics."""
    row: Row = dict.fromkeys(schema.STATISTIC_COLUMNS, 0.5)
    return row | {"video_id": video, "follow_user_num": 0.25 * video} | values


class KuaiRandFolder:
    """The rows of each file (by stem), and how they are laid out on disk."""

    def __init__(self, path: Path, version: str = "pure") -> None:
        """Start with 3 users, 4 videos and 9 views; nothing is written yet."""
        self.path, self.version = path, version
        self.rows: dict[str, list[Row]] = {
            EARLY: [log_row(30, 4, 5), log_row(10, 2, 9), log_row(10, 1, 3, is_click=1)],
            LATE: [
                log_row(user, video, 14 * DAY_MS + 10 * video + user, is_click=video % 2)
                for user, video in ((20, 2), (10, 4), (10, 3), (20, 1))
            ],
            RANDOM: [log_row(u, 3, 15 * DAY_MS + u, is_rand=1) for u in (30, 10)],
            schema.USER_FEATURES: [user_row(user) for user in (20, 10, 30, 40)],
            schema.VIDEO_BASIC: [basic_row(video) for video in (5, 1, 2, 3, 4)],
            schema.VIDEO_STATISTIC: [statistic_row(video) for video in (1, 2, 3, 4, 5)],
        }

    def file(self, stem: str, part: str = "") -> Path:
        """Return where a file is, e.g. file(LATE, "_part1")."""
        return self.path / "data" / f"{stem}_{self.version}{part}.csv"

    def write(self, n_parts: int = 1) -> Path:
        """Write all files, each in `n_parts` shards when there is more than one."""
        (self.path / "data").mkdir(parents=True, exist_ok=True)
        for stem, rows in self.rows.items():
            columns = schema.FILE_COLUMNS.get(stem, schema.LOG_COLUMNS)
            for i in range(n_parts):
                part = "" if n_parts == 1 else f"_part{i + 1}"
                write_csv(self.file(stem, part), columns, rows[i::n_parts])
        made = {stem: len(rows) for stem, rows in self.rows.items()}
        (self.path / MARKER).write_text(json.dumps(made))
        return self.path


def write_csv(path: Path, columns: Sequence[str], rows: Sequence[Row]) -> None:
    """Write rows under a header; columns that a row lacks stay empty, others are left out."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def whole(table: StoredTable | pl.DataFrame) -> pl.DataFrame:
    """All of a stored table in memory."""
    return table if isinstance(table, pl.DataFrame) else pl.concat(table.blocks())
