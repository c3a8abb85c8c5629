"""The import of any source: blocks of rows become the files of a cache entry, in bounded memory.

A source (KuaiRand's files, one's own tables, synthetic data) yields the log and the feature tables
in typed blocks. The blocks are spilled to disk, each sorted by its key (a user; an id's number),
and read back a range of keys at a time: an external sort, whose result is the same whatever the
sizes and the order of the blocks.

A log's blocks have the columns `user_id` and `video_id` (whole numbers >= 0), `time_ms` (a whole
number), `LATE`, and the source's own.

Axes: N rows, U users.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.lib import format as npy_format

from realdataexp.data.csv_files import in_order
from realdataexp.errors import InputError, RunError

BUCKET_ROWS = 1 << 20
"""Log rows in memory at a time when they are sorted; more where one user has more."""
BLOCK_ROWS = 1 << 18
"""Users or videos in a block of a Parquet file, which is how many are in memory at a time."""

LATE = "_late"
"""Column of the log, Int8: 0 in the early period, else 1, 2, ... by the log a row comes from."""
PLACE = "_place"
"""Column of a feature table, Int32: an id's number among those of the log."""

Target = tuple[str, float, float]
"""A label target's column in the log, and the range of its valid values."""

_COUNTS_HELD = 1 << 22
_DENSE = 1 << 26  # ids below are looked up in a table, those above by bisection
_OLDEST = pl.CompatLevel.oldest()


# ---- ids, arrays and tables on disk -------------------------------------------------------------


class IdSet:
    """Collects ids (whole numbers >= 0); then numbers them from 0 in ascending order.

    Once it is frozen, ``members`` are the ids, int64, ascending.
    """

    def __init__(self) -> None:
        self._is_in_I = np.zeros(min(1 << 16, _DENSE), dtype=bool)
        self._number_I = np.zeros(0, dtype=np.int32)
        self._high_H = self.members = np.zeros(0, dtype=np.int64)
        self._n_low = 0

    def add(self, ids_N: np.ndarray) -> None:
        """Add ids, in any order, repeated or not."""
        is_high_N = ids_N >= _DENSE
        if is_high_N.any():
            high = np.unique(ids_N[is_high_N]).astype(np.int64)
            self._high_H = np.union1d(self._high_H, high)
            ids_N = ids_N[~is_high_N]
        if not ids_N.size:
            return
        size = len(self._is_in_I)
        lacking = int(ids_N.max()) + 1 - size  # low ids, so at most _DENSE in all
        if lacking > 0:
            more = np.zeros(max(lacking, min(size, _DENSE - size)), dtype=bool)
            self._is_in_I = np.concatenate([self._is_in_I, more])
        self._is_in_I[ids_N] = True

    def freeze(self) -> IdSet:
        """Number the members; from here on none is added."""
        low = np.flatnonzero(self._is_in_I)
        self._number_I = np.full(len(self._is_in_I), -1, dtype=np.int32)
        self._number_I[low] = np.arange(len(low), dtype=np.int32)
        self._is_in_I = self._is_in_I[:0]
        self._n_low = len(low)
        self.members = np.concatenate([low, self._high_H]) if self._high_H.size else low
        return self

    def numbers(self, ids_N: np.ndarray) -> np.ndarray:
        """The ids' numbers, int32; -1 for one that is not in the set."""
        size = len(self._number_I)
        if not ids_N.size or int(ids_N.max()) < size:
            return self._number_I[ids_N]
        number_N = self._number_I[np.minimum(ids_N, size - 1)]
        is_beyond_N = ids_N >= size
        beyond = ids_N[is_beyond_N]
        place = np.searchsorted(self._high_H, beyond)
        is_in = place < len(self._high_H)
        is_in[is_in] = self._high_H[place[is_in]] == beyond[is_in]
        number_N[is_beyond_N] = np.where(is_in, place + self._n_low, -1)
        return number_N


@contextmanager
def npy_writer(path: Path, dtype: type[np.generic]) -> Iterator[Callable[[np.ndarray], None]]:
    """Appends to a NumPy file of one axis; closing it writes the final length into the header."""
    n = 0

    def write_header() -> None:
        descr = npy_format.dtype_to_descr(np.dtype(dtype))
        header = {"descr": descr, "fortran_order": False, "shape": (n,)}
        npy_format.write_array_header_1_0(file, header)  # which leaves room for any length

    def append(values_N: np.ndarray) -> None:
        nonlocal n
        assert values_N.dtype == dtype
        file.write(np.ascontiguousarray(values_N).data)
        n += len(values_N)

    with path.open("wb") as file:
        write_header()
        yield append
        file.seek(0)
        write_header()


class Spill:
    """Batches of rows on disk, each sorted by a whole-numbered key without gaps (no nulls).

    Columns and their types may differ between batches: each combination has a file of its own.
    Ranges may be read by several threads at once, once ``seal`` was called. Leaving the context
    deletes the files.
    """

    def __init__(self, directory: Path, name: str, key: str) -> None:
        self._directory, self._name, self._key = directory, name, key
        self._files: dict[pa.Schema, tuple[Path, pa.RecordBatchFileWriter]] = {}
        self._bounds: dict[pa.Schema, list[tuple[int, int]]] = {}  # of each batch's keys

    def append(self, frame: pl.DataFrame) -> None:
        """Write a batch, sorted by the key."""
        if frame.is_empty():
            return
        table = frame.to_arrow(compat_level=_OLDEST)
        schema = table.schema
        if schema not in self._files:
            path = self._directory / f"{self._name}-{len(self._files)}.arrow"
            self._files[schema] = path, pa.ipc.new_file(path, schema)
            self._bounds[schema] = []
        for batch in table.combine_chunks().to_batches():
            self._files[schema][1].write_batch(batch)
            key = batch.column(self._key)
            self._bounds[schema].append((key[0].as_py(), key[-1].as_py()))

    def seal(self) -> None:
        """End writing; from here on ranges can be read."""
        for _, writer in self._files.values():
            writer.close()

    def read(self, low: int, high: int) -> pl.DataFrame | None:
        """All rows with low <= key < high, in no particular order; None where there is none."""
        frames = []
        for schema, (path, _) in self._files.items():
            bounds = enumerate(self._bounds[schema])
            wanted = [i for i, (first, last) in bounds if last >= low and first < high]
            if not wanted:
                continue
            reader = pa.ipc.open_file(pa.memory_map(str(path)))
            for batch in map(reader.get_batch, wanted):
                start, end = batch.column(self._key).to_numpy().searchsorted((low, high))
                if start < end:
                    frames.append(pl.DataFrame(batch.slice(start, end - start)))
        return pl.concat(frames, how="diagonal_relaxed", rechunk=True) if frames else None

    def __enter__(self) -> Spill:
        return self

    def __exit__(self, *_: object) -> None:
        self.seal()
        for path, _ in self._files.values():
            path.unlink(missing_ok=True)


def sorted_by(frame: pl.DataFrame, key: str) -> pl.DataFrame:
    """The rows in the order of a column, as they are where they are in it."""
    key_N = frame[key].to_numpy()
    return frame if (key_N[1:] >= key_N[:-1]).all() else frame.sort(key)


# ---- the log ------------------------------------------------------------------------------------


def write_log(
    blocks: Iterable[tuple[str, pl.DataFrame]],
    files: Sequence[str],
    targets: Mapping[str, Target],
    content: Sequence[str],
    directory: Path,
    times: bool = False,
) -> tuple[IdSet, IdSet, dict[str, Any]]:
    """Write the arrays of a `LogTable` from blocks of rows in any order, each sorted by user.

    A block comes with the name of its file, one of ``files``. Two rows that agree in the columns
    ``content`` (those that a source has) are one row, and rows of one user and time are sorted by
    them, in this order. The directory takes `<field>.npy` per field of `LogTable` (`time_N` where
    ``times`` are asked for), `target_<name>.npy` per target, and meanwhile the blocks.

    Returns:
        The users and the videos that occur, and the log's part of the stats; no users where there
        is no row.
    """
    counts = [pl.DataFrame(schema={"user_id": pl.Int64, "n": pl.Int64})]
    users, videos, n_rows = IdSet(), IdSet(), dict.fromkeys(files, 0)
    with Spill(directory, ".log", "user_id") as spill:
        for name, frame in blocks:
            n_rows[name] += frame.height
            spill.append(frame)
            videos.add(frame["video_id"].to_numpy())
            counts.append(_count_users(frame["user_id"].to_numpy()))
            if sum(map(len, counts)) > _COUNTS_HELD:
                counts = [_add_up(counts)]
        spill.seal()
        videos.freeze()
        total = _add_up(counts).sort("user_id")
        if not total.height:
            return users.freeze(), videos, {"files": n_rows, "n_rows_read": 0}
        asked = videos, targets, content, directory, times
        user_U, stats = _write_arrays(spill, total, *asked)
    n_read = sum(n_rows.values())
    if stats["n_rows"] + stats["duplicate_rows"] != n_read:
        raise RunError(f"of {n_read} rows only {stats['n_rows']} were written")
    users.add(user_U)
    stats = {"files": n_rows, "n_rows_read": n_read, **stats, "n_videos": len(videos.members)}
    return users.freeze(), videos, stats


def _count_users(user_N: np.ndarray) -> pl.DataFrame:
    """How many rows each user has, from rows sorted by user."""
    starts = np.flatnonzero(np.diff(user_N, prepend=-1))
    n = np.diff(starts, append=len(user_N))
    return pl.DataFrame({"user_id": user_N[starts].astype(np.int64), "n": n.astype(np.int64)})


def _add_up(counts: list[pl.DataFrame]) -> pl.DataFrame:
    return pl.concat(counts).group_by("user_id").agg(pl.col("n").sum())


def _ranges(users: pl.DataFrame) -> Iterator[tuple[int, int]]:
    """Ranges of users with at most BUCKET_ROWS rows together (one user at least)."""
    user_U, last_U = users["user_id"].to_numpy(), users["n"].cum_sum().to_numpy()
    first = 0
    while first < len(user_U):
        done = last_U[first - 1] if first else 0
        end = max(first + 1, int(np.searchsorted(last_U, done + BUCKET_ROWS, side="right")))
        yield int(user_U[first]), int(user_U[end - 1]) + 1
        first = end


@dataclass(frozen=True)
class _Bucket:
    """Distinct rows of some users in order: their users, and what is to be said of them."""

    users: pl.DataFrame  # user_id, n, n_early
    n_dropped: int
    n_across: int  # of the dropped, those that repeat a row of another log
    sums: dict[str, tuple[float, int, int, int]]  # of a target: total, n valid, empty, odd


def _write_arrays(
    spill: Spill,
    users: pl.DataFrame,
    videos: IdSet,
    targets: Mapping[str, Target],
    content: Sequence[str],
    directory: Path,
    times: bool,
) -> tuple[np.ndarray, dict[str, Any]]:
    """Sort the rows a range of users at a time and write them; return users and stats."""

    def sort(bounds: tuple[int, int]) -> tuple[dict[str, np.ndarray], _Bucket]:
        rows = spill.read(*bounds)
        assert rows is not None  # each range has a user, each user a row
        return _sort_rows(rows, videos, targets, content, times)

    dtypes: dict[str, type[np.generic]] = {"video_N": np.int32}
    if times:
        dtypes["time_N"] = np.int64
    dtypes |= {f"target_{name}": np.float32 for name in targets}
    buckets: list[_Bucket] = []
    with ExitStack() as stack:
        append = {
            name: stack.enter_context(npy_writer(directory / f"{name}.npy", dtype))
            for name, dtype in dtypes.items()
        }
        for arrays, bucket in in_order(sort, _ranges(users)):
            for name, values in arrays.items():
                append[name](values)
            buckets.append(bucket)
    written = pl.concat([bucket.users for bucket in buckets])
    n_early_U = written["n_early"].to_numpy()
    offset_U1 = np.append(0, np.cumsum(written["n"].to_numpy())).astype(np.int64)
    np.save(directory / "offset_U1.npy", offset_U1, allow_pickle=False)
    np.save(directory / "n_early_U.npy", n_early_U, allow_pickle=False)
    return written["user_id"].to_numpy(), {
        "n_rows": int(offset_U1[-1]),
        "n_early_rows": int(n_early_U.sum()),
        "n_users": written.height,
        "duplicate_rows": sum(bucket.n_dropped for bucket in buckets),
        "duplicate_rows_across_logs": sum(bucket.n_across for bucket in buckets),
        "targets": {name: _said([bucket.sums[name] for bucket in buckets]) for name in targets},
    }


def _said(sums: Sequence[tuple[float, int, int, int]]) -> dict[str, float | int | None]:
    """A label's part of the stats; buckets in another order make the same."""
    totals, *counts = zip(*sums, strict=True)
    n_valid, n_empty, n_odd = map(sum, counts)
    return {
        "mean": math.fsum(totals) / n_valid if n_valid else None,
        "n_missing": n_empty + n_odd,
        "n_empty": n_empty,
        "n_out_of_range": n_odd,
    }


def _sort_rows(
    frame: pl.DataFrame,
    videos: IdSet,
    targets: Mapping[str, Target],
    content: Sequence[str],
    times: bool,
) -> tuple[dict[str, np.ndarray], _Bucket]:
    """Sort rows by user, early first, then time, then content; drop those equal in content."""
    order_N, n_across = _distinct_in_order(frame, content)
    user_N = frame["user_id"].to_numpy()[order_N].astype(np.int64)
    is_early_N = frame[LATE].to_numpy()[order_N] == 0
    starts = np.flatnonzero(np.diff(user_N, prepend=-1))
    n_early_U = np.add.reduceat(is_early_N, starts, dtype=np.int64)
    users = _count_users(user_N).with_columns(n_early=n_early_U)
    arrays, sums = {"video_N": videos.numbers(frame["video_id"].to_numpy()[order_N])}, {}
    if times:
        arrays["time_N"] = frame["time_ms"].to_numpy()[order_N].astype(np.int64)
    for name, (column, low, high) in targets.items():
        y = frame[column].gather(order_N)
        arrays[f"target_{name}"], sums[name] = _target(y, low, high)
    return arrays, _Bucket(users, frame.height - len(order_N), n_across, sums)


def _distinct_in_order(frame: pl.DataFrame, content: Sequence[str]) -> tuple[np.ndarray, int]:
    """Which rows stay, in their order; and how many of the others repeat a row of another log.

    Few rows agree in user and time, so only those are sorted, and compared, by all columns.
    """
    order_N = _by_user_and_time(frame)
    user_N, time_N = (frame[name].to_numpy()[order_N] for name in ("user_id", "time_ms"))
    is_tied_N = np.zeros(len(order_N), dtype=bool)
    is_like_last = (user_N[1:] == user_N[:-1]) & (time_N[1:] == time_N[:-1])
    is_tied_N[1:] |= is_like_last
    is_tied_N[:-1] |= is_like_last
    places = np.flatnonzero(is_tied_N)
    content = [name for name in content if name in frame.columns]
    keys = dict.fromkeys(("user_id", "time_ms", *content, LATE))
    ties = frame[order_N[places]].with_columns(_row=order_N[places]).sort(list(keys))
    repeats = ties.select(
        row=pl.all_horizontal(pl.col(name).eq_missing(pl.col(name).shift(1)) for name in content),
        log=pl.col(LATE) != pl.col(LATE).shift(1),
    )
    order_N[places] = ties["_row"].to_numpy()
    stays_N = np.ones(len(order_N), dtype=bool)
    stays_N[places] = ~repeats["row"].to_numpy()
    n_across = int((repeats["row"] & repeats["log"]).sum())
    return _early_first(frame, order_N[stays_N]), n_across


def _by_user_and_time(frame: pl.DataFrame) -> np.ndarray:
    """The rows' order by user and time.

    A stable sort merges what is in order already, as each file's rows mostly are; it takes one
    key, so user and time must fit into 63 bits together.
    """
    user_N, time_N = (frame[name].to_numpy().astype(np.int64) for name in ("user_id", "time_ms"))
    least, most = int(time_N.min()), int(time_N.max())
    bits = (most - least).bit_length()
    user_N -= user_N.min()
    if int(user_N.max()).bit_length() + bits <= 63:
        return np.argsort(user_N << bits | (time_N - least), kind="stable")
    return np.lexsort((time_N, user_N))


def _early_first(frame: pl.DataFrame, order_N: np.ndarray) -> np.ndarray:
    """Move each user's early rows to the front, where they are not there by their time."""
    user_N = frame["user_id"].to_numpy()[order_N]
    is_late_N = frame[LATE].to_numpy()[order_N] != 0
    if ((user_N[1:] == user_N[:-1]) & is_late_N[:-1] & ~is_late_N[1:]).any():
        return order_N[np.lexsort((is_late_N, user_N))]
    return order_N


def _target(
    column: pl.Series, low: float, high: float
) -> tuple[np.ndarray, tuple[float, int, int, int]]:
    """A label's values as float32, NaN where missing or out of range; and their sums."""
    is_valid = column.is_between(low, high) & column.cast(pl.Float64).is_finite()
    n_empty, n_odd = column.null_count(), int((~is_valid).sum())
    valid = column.set(~is_valid, None) if n_odd else column
    sums = float(valid.cast(pl.Float64).sum()), len(column) - n_empty - n_odd, n_empty, n_odd
    return valid.cast(pl.Float32).fill_null(float("nan")).to_numpy(), sums


# ---- the features -------------------------------------------------------------------------------

FeatureBlock = tuple[str, tuple[int, pl.DataFrame, Mapping[str, int]]]
"""Some rows of a feature table: the file that they come from; how many were read; `PLACE` and the
features of the ids that the log has, sorted by `PLACE`; how many rows say "unknown", by feature."""


@dataclass(frozen=True)
class FeatureSource:
    """A feature table of a source: its files' names, each feature's type, its rows in any order.

    ``folder`` is where its files are; None where the source has seen to it that no id has two rows.
    """

    files: Sequence[str]
    features: Mapping[str, pl.DataType | type[pl.DataType]]
    blocks: Iterable[FeatureBlock]
    folder: Path | None = None


def write_features(
    ids: pl.Series, tables: Mapping[str, FeatureSource], order: Sequence[str], path: Path
) -> dict[str, Any]:
    """Look up the features of users or videos and write them as a Parquet file.

    The file has one row per id of the log, by their numbers: the id, then a column per feature in
    the given order; null where it is missing.

    Returns:
        The stats: `files` (rows per file name), `without_features` (ids without a row, per
        table), `features` (n_missing and n_unknown per feature).

    Raises:
        InputError: an id has two rows.
    """
    stats: dict[str, Any] = {"files": {}, "without_features": dict.fromkeys(tables, len(ids))}
    stats["features"] = {name: {"n_missing": 0, "n_unknown": 0} for name in order}
    types = {name: dtype for table in tables.values() for name, dtype in table.features.items()}
    types = {ids.name: ids.dtype, **{name: types[name] for name in order}}
    schema = pl.DataFrame(schema=types).to_arrow(compat_level=_OLDEST).schema
    with ExitStack() as stack:
        spills: dict[str, Spill] = {}
        for key, table in tables.items():
            spill = stack.enter_context(Spill(path.parent, f".features-{len(spills)}", PLACE))
            stats["files"] |= dict.fromkeys(table.files, 0)
            for file, (n_rows, frame, n_unknown) in table.blocks:
                stats["files"][file] += n_rows
                spill.append(frame)
                for name, n in n_unknown.items():
                    stats["features"][name]["n_unknown"] += n
            spill.seal()
            spills[key] = spill
        with pq.ParquetWriter(path, schema) as writer:
            for first in range(0, len(ids), BLOCK_ROWS):
                block = ids[first : first + BLOCK_ROWS].to_frame()
                for key, spill in spills.items():
                    rows = spill.read(first, first + block.height)
                    if rows is not None:
                        stats["without_features"][key] -= rows.height
                        block = _look_up(block, first, rows, tables[key])
                lacking = (pl.lit(None, types[x]).alias(x) for x in types.keys() - block.columns)
                block = block.with_columns(*lacking).select(list(types))
                for name in order:
                    stats["features"][name]["n_missing"] += block[name].null_count()
                writer.write_table(block.to_arrow(compat_level=_OLDEST))
    return stats


def _look_up(
    block: pl.DataFrame, first: int, rows: pl.DataFrame, table: FeatureSource
) -> pl.DataFrame:
    """Put a table's features beside the ids whose numbers count from ``first``."""
    twice = np.flatnonzero(np.bincount(rows[PLACE].to_numpy() - first) > 1)
    if table.folder is not None and twice.size:
        ids = block.to_series()
        raise InputError(
            f"{table.folder}: {ids.name} {ids[int(twice[0])]} has more than one row in "
            f"{', '.join(table.files)}; keep one row an id"
        )
    place = pl.int_range(first, first + block.height, dtype=pl.Int32, eager=True)
    block = block.with_columns(place.alias(PLACE))
    return block.join(rows, on=PLACE, how="left", maintain_order="left").drop(PLACE)


def doubts(
    stats: Mapping[str, Any], texts: Mapping[str, str], sides: Mapping[str, str], empty: str
) -> list[dict[str, str]]:
    """Warnings of an import, as code and message; none of what there are 0.

    A code of ``texts`` is the name of its count in the stats. ``sides`` says whether a feature
    table is of "users" or "videos", ``empty`` which count of a target's is of rows without a value.
    """
    found = [(code, stats[code], text.format(**stats)) for code, text in texts.items()]
    for name, target in stats["targets"].items():
        said = f"{name}: {target[empty]:,} rows have no value"
        found.append(("empty_values", target[empty], said))
    for table, who in sides.items():
        n = stats["without_features"][table]
        said = (
            f"{n:,} of {stats[f'n_{who}']:,} {who} in the log have no row in {table}; their "
            "features are missing"
        )
        found.append((f"{who}_without_features", n, said))
    return [{"code": code, "message": message} for code, n, message in found if n]
