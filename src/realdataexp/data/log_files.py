"""The log files: read, freed of duplicates, put in order, and written as arrays by user.

Twice through the rows, in bounded memory: the files are read in pieces, spilled to disk by user,
and read back a range of users at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from realdataexp.data import schema
from realdataexp.data.csv_chunks import Piece, in_order, pieces
from realdataexp.data.csv_files import DTypes, parse, require_columns, shared_header
from realdataexp.data.ids import IdSet
from realdataexp.data.log_order import EARLY, LOG, SortedRows, TargetSums, sort_rows
from realdataexp.data.npy import NpyWriter
from realdataexp.data.spill import Spill
from realdataexp.errors import InputError, RunError

BUCKET_ROWS = 1 << 20
"""Rows in memory at a time when they are sorted; more where one user has more."""

DTYPES: dict[str, type[pl.DataType]] = {
    **dict.fromkeys((*schema.LOG_FLAGS, "tab"), pl.Int8),
    **dict.fromkeys(("user_id", "video_id", "date", "play_time_ms", "duration_ms"), pl.Int32),
    **dict.fromkeys(("profile_stay_time", "comment_stay_time"), pl.Int32),
    "hourmin": pl.Int16,
    "time_ms": pl.Int64,
}
ROW_BYTES = 50
"""What a row takes on disk between the two passes: the above, the log, and what is null."""

# The early period is 0: it sorts first, and of a row found in two logs its copy is kept.
_CODES = {"standard_early": EARLY, "standard_late": 1, "random": 2}
_COUNTS_HELD = 1 << 22


@dataclass(frozen=True)
class LogIds:
    """Who and what occurs in the log."""

    users: IdSet
    videos: IdSet


def write_log(
    logs: Mapping[str, Sequence[Path]], targets: Sequence[str], directory: Path
) -> tuple[LogIds, dict[str, Any]]:
    """Write the arrays of a `LogTable` from the CSV shards of the chosen logs.

    Args:
        logs: paths of the shards per log name.
        targets: label columns to write.
        directory: takes `<field>.npy` per field of `LogTable`, `target_<name>.npy` per target,
            and meanwhile `ROW_BYTES` a row.

    Returns:
        The ids that occur, and the log's part of the stats.

    Raises:
        InputError: see `parse`; and no rows in any log.
    """
    spill = Spill(directory, ".log", "user_id")
    try:
        users, videos, files = _spill_rows(logs, targets, spill)
        spill.seal()
        videos.freeze()
        user_U, stats = _write_arrays(spill, users, videos, targets, directory)
    finally:
        spill.remove()
    if not np.array_equal(user_U, users["user_id"]):
        raise RunError(f"the log has {users.height} users, of whom {len(user_U)} were written")
    n_read = sum(files.values())
    if stats["n_rows"] + stats["duplicate_rows"] != n_read:
        raise RunError(f"of {n_read} rows only {stats['n_rows']} were written")
    user_ids = IdSet()
    user_ids.add(user_U)
    user_ids.freeze()
    stats = {"files": files, "n_rows_read": n_read, **stats, "n_videos": len(videos.members)}
    return LogIds(user_ids, videos), stats


def _spill_rows(
    logs: Mapping[str, Sequence[Path]], targets: Sequence[str], spill: Spill
) -> tuple[pl.DataFrame, IdSet, dict[str, int]]:
    """Spill every official column (all tell whether two rows are the same), sorted by user.

    Returns:
        Rows n of each user_id, ascending; the videos; rows per file name.
    """
    counts, videos, files = [pl.DataFrame(schema={"user_id": pl.Int64, "n": pl.Int64})], IdSet(), {}
    for log, paths in logs.items():
        header = shared_header(paths)
        require_columns(paths[0], header, [*schema.LOG_IDS, *targets])
        dtypes = {name: DTYPES[name] for name in schema.LOG_COLUMNS if name in header}
        for path in paths:
            files[path.name] = 0
            read = partial(_read_piece, dtypes=dtypes, code=_CODES[log])
            for frame in in_order(read, pieces(path)):
                files[path.name] += frame.height
                spill.append(frame)
                videos.add(frame["video_id"].to_numpy())
                counts.append(_count_users(frame))
                if sum(map(len, counts)) > _COUNTS_HELD:
                    counts = [_add_up(counts)]
    if not any(files.values()):
        raise InputError(f"{', '.join(files)}: no rows below the header; fetch the files again")
    return _add_up(counts).sort("user_id"), videos, files


def _read_piece(piece: Piece, dtypes: DTypes, code: int) -> pl.DataFrame:
    frame = parse(piece, dtypes, schema.LOG_IDS).with_columns(pl.lit(code, pl.Int8).alias(LOG))
    user_N = frame["user_id"].to_numpy()
    is_sorted = bool((user_N[1:] >= user_N[:-1]).all())
    return frame if is_sorted else frame.sort("user_id")


def _count_users(frame: pl.DataFrame) -> pl.DataFrame:
    user_N = frame["user_id"].to_numpy()
    starts = np.flatnonzero(np.diff(user_N, prepend=-1))
    n = np.diff(starts, append=len(user_N))
    return pl.DataFrame({"user_id": user_N[starts].astype(np.int64), "n": n.astype(np.int64)})


def _add_up(counts: list[pl.DataFrame]) -> pl.DataFrame:
    return pl.concat(counts).group_by("user_id").agg(pl.col("n").sum())


def _ranges(users: pl.DataFrame) -> Iterator[tuple[int, int]]:
    """Ranges of user ids with at most BUCKET_ROWS rows together (one user at least)."""
    user_U, last_U = users["user_id"].to_numpy(), users["n"].cum_sum().to_numpy()
    first = 0
    while first < len(user_U):
        done = last_U[first - 1] if first else 0
        end = max(first + 1, int(np.searchsorted(last_U, done + BUCKET_ROWS, side="right")))
        yield int(user_U[first]), int(user_U[end - 1]) + 1
        first = end


def _write_arrays(
    spill: Spill, users: pl.DataFrame, videos: IdSet, targets: Sequence[str], directory: Path
) -> tuple[np.ndarray, dict[str, Any]]:
    """Sort the rows a range of users at a time and write them; return user ids and stats."""

    def bucket(bounds: tuple[int, int]) -> SortedRows:
        rows = spill.read(*bounds)
        assert rows is not None  # each range has a user, each user a row
        return sort_rows(rows, videos, targets)

    parts: list[SortedRows] = []
    sums = {name: TargetSums() for name in targets}
    with ExitStack() as stack:
        video_N = stack.enter_context(NpyWriter(directory / "video_N.npy", np.int32))
        target_N = {
            name: stack.enter_context(NpyWriter(directory / f"target_{name}.npy", np.float32))
            for name in targets
        }
        for rows in in_order(bucket, _ranges(users)):
            video_N.append(rows.video_N)
            for name in targets:
                target_N[name].append(rows.targets[name])
                sums[name].add(rows.sums[name])
            parts.append(replace(rows, video_N=rows.video_N[:0], targets={}))
    n_rows_U = np.concatenate([part.n_rows_U for part in parts])
    n_early_U = np.concatenate([part.n_early_U for part in parts])
    offset_U1 = np.append(0, np.cumsum(n_rows_U))
    np.save(directory / "offset_U1.npy", offset_U1.astype(np.int64), allow_pickle=False)
    np.save(directory / "n_early_U.npy", n_early_U.astype(np.int64), allow_pickle=False)
    return np.concatenate([part.user_U for part in parts]), {
        "n_rows": int(offset_U1[-1]),
        "n_early_rows": int(n_early_U.sum()),
        "n_users": len(n_rows_U),
        "duplicate_rows": sum(part.n_dropped for part in parts),
        "duplicate_rows_across_logs": sum(part.n_across for part in parts),
        "targets": {name: total.stats() for name, total in sums.items()},
    }
