"""The log files: read, freed of duplicates, put in order, and written as arrays by user."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from realdataexp.data import schema
from realdataexp.data.csv_files import read_csv, require_columns, shared_header
from realdataexp.errors import InputError

_DTYPES: dict[str, type[pl.DataType]] = {
    **dict.fromkeys((*schema.LOG_FLAGS, "tab"), pl.Int8),
    **dict.fromkeys(("user_id", "video_id", "date", "play_time_ms", "duration_ms"), pl.Int32),
    **dict.fromkeys(("profile_stay_time", "comment_stay_time"), pl.Int32),
    "hourmin": pl.Int16,
    "time_ms": pl.Int64,
}

# The early period is 0: it sorts first, and of a row found in two logs its copy is kept.
_CODES = {"standard_early": 0, "standard_late": 1, "random": 2}
_LOG = "_log"


def write_log(
    logs: Mapping[str, Sequence[Path]], targets: Sequence[str], directory: Path
) -> tuple[pl.Series, pl.Series, dict[str, Any]]:
    """Write the arrays of a `LogTable` from the CSV shards of the chosen logs.

    All in memory: about 300 bytes a row at the peak. This is the function to replace for logs
    that do not fit; nothing else depends on how the arrays come to be.

    Args:
        logs: paths of the shards per log name.
        targets: label columns to write.
        directory: takes `<field>.npy` per field of `LogTable`, `target_<name>.npy` per target.

    Returns:
        The ids of users ("user_id") and videos ("video_id") that occur, ascending, and the
        log's part of the stats.

    Raises:
        InputError: see `read_csv`; and no rows in any log.
    """
    frame, rows = _read_logs(logs, targets)
    n_read = frame.height
    frame, n_across = _distinct_in_order(frame)
    user_ids = frame["user_id"].unique().sort()
    video_ids = frame["video_id"].unique().sort()
    starts = frame["user_id"].search_sorted(user_ids, side="left").to_numpy()
    is_early = (frame[_LOG] == _CODES["standard_early"]).to_numpy()
    n_early = np.add.reduceat(is_early, starts, dtype=np.int64)
    _save(directory, "offset_U1", np.append(starts, frame.height).astype(np.int64))
    _save(directory, "n_early_U", n_early)
    video = np.searchsorted(video_ids.to_numpy(), frame["video_id"].to_numpy())
    _save(directory, "video_N", video.astype(np.int32))
    stats: dict[str, Any] = {
        "files": rows,
        "n_rows_read": n_read,
        "n_rows": frame.height,
        "n_early_rows": int(n_early.sum()),
        "n_users": len(user_ids),
        "n_videos": len(video_ids),
        "duplicate_rows": n_read - frame.height,
        "duplicate_rows_across_logs": n_across,
        "targets": {},
    }
    for name in targets:
        values, stats["targets"][name] = _target(frame[name])
        _save(directory, f"target_{name}", values)
    return user_ids, video_ids, stats


def _read_logs(
    logs: Mapping[str, Sequence[Path]], targets: Sequence[str]
) -> tuple[pl.DataFrame, dict[str, int]]:
    """Read every official column: all of them tell whether two rows are the same."""
    parts, rows = [], {}
    for log, paths in logs.items():
        header = shared_header(paths)
        require_columns(paths[0], header, [*schema.LOG_IDS, *targets])
        dtypes = {name: _DTYPES[name] for name in schema.LOG_COLUMNS if name in header}
        for path in paths:
            part = read_csv(path, dtypes, schema.LOG_IDS)
            rows[path.name] = part.height
            parts.append(part.with_columns(pl.lit(_CODES[log], pl.Int8).alias(_LOG)))
    if not any(rows.values()):
        raise InputError(f"{', '.join(rows)}: no rows below the header; fetch the files again")
    return pl.concat(parts, how="diagonal_relaxed"), rows


def _distinct_in_order(frame: pl.DataFrame) -> tuple[pl.DataFrame, int]:
    """Drop repeated rows and sort by user, early period first, time, then everything else.

    Returns:
        The rows, and how many of the dropped ones repeated a row of another log.
    """
    content = [name for name in frame.columns if name != _LOG]
    order = dict.fromkeys(("user_id", "time_ms", *content, _LOG))
    frame = frame.sort(list(order))
    repeats = frame.select(
        row=pl.all_horizontal(pl.col(name).eq_missing(pl.col(name).shift(1)) for name in content),
        log=pl.col(_LOG) != pl.col(_LOG).shift(1),
    )
    n_across = (repeats["row"] & repeats["log"]).sum()
    frame = frame.filter(~repeats["row"])
    early_first = [pl.col("user_id"), pl.col(_LOG) != _CODES["standard_early"]]
    return frame.sort(early_first, maintain_order=True), int(n_across)


def _target(column: pl.Series) -> tuple[np.ndarray, dict[str, float | int | None]]:
    """Return a label's values as float32, NaN where missing or out of range, and its stats."""
    low, high = schema.LABEL_COLUMNS[column.name]
    is_valid = column.is_between(low, high) & column.cast(pl.Float64).is_finite()
    n_empty, n_out_of_range = column.null_count(), int((~is_valid).sum())
    valid = column.set(~is_valid, None)
    mean = valid.mean()
    return valid.cast(pl.Float32).fill_null(float("nan")).to_numpy(), {
        "mean": float(mean) if isinstance(mean, int | float) else None,
        "n_missing": n_empty + n_out_of_range,
        "n_empty": n_empty,
        "n_out_of_range": n_out_of_range,
    }


def _save(directory: Path, name: str, array: np.ndarray) -> None:
    np.save(directory / f"{name}.npy", array, allow_pickle=False)
