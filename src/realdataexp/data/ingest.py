"""The import of any source: blocks of rows become the files of a cache entry, in bounded memory.

A source (KuaiRand's files, one's own tables, synthetic data) yields the log and the feature tables
in typed blocks. The blocks are spilled to disk, each sorted by its key (a user; an id's number),
and read back a range of keys at a time: an external sort, whose result is the same whatever the
sizes and the order of the blocks.

Axes: N rows, U users.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
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

_COUNTS_HELD = 1 << 22
_DENSE = 1 << 26  # ids below are looked up in a table, those above by bisection


# ---- ids, arrays and tables on disk -------------------------------------------------------------


class IdSet:
    """Collects ids (whole numbers >= 0); then numbers them from 0 in ascending order.

    Attributes:
        members: the ids, int64, ascending; once it is frozen.
    """

    def __init__(self) -> None:
        """Start empty."""
        self._is_in_I = np.zeros(min(1 << 16, _DENSE), dtype=bool)
        self._high_H = np.zeros(0, dtype=np.int64)
        self._number_I = np.zeros(0, dtype=np.int32)
        self._n_low = 0
        self.members = np.zeros(0, dtype=np.int64)

    def add(self, ids_N: np.ndarray) -> None:
        """Add ids, in any order, repeated or not."""
        is_high_N = ids_N >= _DENSE
        if is_high_N.any():
            high = np.unique(ids_N[is_high_N]).astype(np.int64)
            self._high_H = np.union1d(self._high_H, high)
            ids_N = ids_N[~is_high_N]
        if not ids_N.size:
            return
        lacking = int(ids_N.max()) + 1 - len(self._is_in_I)  # low ids, so at most _DENSE in all
        if lacking > 0:
            size = len(self._is_in_I)
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


class NpyWriter:
    """Appends to a NumPy file of one axis; closing it writes the final length into the header."""

    def __init__(self, path: Path, dtype: type[np.generic]) -> None:
        """Begin a file."""
        self._file = path.open("wb")
        self._dtype, self._n = np.dtype(dtype), 0
        self._write_header()

    def append(self, values_N: np.ndarray) -> None:
        """Write values after those that are there."""
        assert values_N.dtype == self._dtype
        self._file.write(np.ascontiguousarray(values_N).data)
        self._n += len(values_N)

    def __enter__(self) -> NpyWriter:
        """Begin a block that ends with closing the file."""
        return self

    def __exit__(self, *_: object) -> None:
        """Write the length and close the file."""
        with self._file:
            self._file.seek(0)
            self._write_header()

    def _write_header(self) -> None:
        """The header; NumPy leaves room in it for any length."""
        described = npy_format.dtype_to_descr(self._dtype)
        header = {"descr": described, "fortran_order": False, "shape": (self._n,)}
        npy_format.write_array_header_1_0(self._file, header)


class Spill:
    """Batches of rows on disk, each sorted by a whole-numbered key without gaps (no nulls).

    Columns and their types may differ between batches: each combination has a file of its own.
    Ranges may be read by several threads at once, once ``seal`` was called.
    """

    def __init__(self, directory: Path, name: str, key: str) -> None:
        """Spill into ``directory`` under names that start with ``name``."""
        self._directory, self._name, self._key = directory, name, key
        self._paths: list[Path] = []
        self._writers: dict[pa.Schema, pa.RecordBatchFileWriter] = {}
        self._bounds: list[list[tuple[int, int]]] = []  # per file: each batch's least and greatest

    def append(self, frame: pl.DataFrame) -> None:
        """Write a batch, sorted by the key."""
        if frame.is_empty():
            return
        table = frame.to_arrow(compat_level=pl.CompatLevel.oldest())
        if table.schema not in self._writers:
            path = self._directory / f"{self._name}-{len(self._paths)}.arrow"
            self._paths.append(path)
            self._bounds.append([])
            self._writers[table.schema] = pa.ipc.new_file(path, table.schema)
        bounds = self._bounds[list(self._writers).index(table.schema)]
        for batch in table.combine_chunks().to_batches():
            self._writers[table.schema].write_batch(batch)
            key = batch.column(self._key)
            bounds.append((key[0].as_py(), key[-1].as_py()))

    def seal(self) -> None:
        """End writing; from here on ranges can be read."""
        for writer in self._writers.values():
            writer.close()

    def read(self, low: int, high: int) -> pl.DataFrame | None:
        """All rows with low <= key < high, in no particular order; None where there is none."""
        frames = []
        for path, bounds in zip(self._paths, self._bounds, strict=True):
            wanted = [i for i, (first, last) in enumerate(bounds) if last >= low and first < high]
            if not wanted:
                continue
            reader = pa.ipc.open_file(pa.memory_map(str(path)))
            for i in wanted:
                batch = reader.get_batch(i)
                key = batch.column(self._key).to_numpy()
                start, end = key.searchsorted((low, high))
                if start < end:
                    frames.append(pl.DataFrame(batch.slice(start, end - start)))
        return pl.concat(frames, how="diagonal_relaxed", rechunk=True) if frames else None

    def __enter__(self) -> Spill:
        """Begin a block that ends with deleting the files."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close and delete the files."""
        self.seal()
        for path in self._paths:
            path.unlink(missing_ok=True)


def sorted_by(frame: pl.DataFrame, key: str) -> pl.DataFrame:
    """The rows in the order of a column, as they are where they are in it."""
    key_N = frame[key].to_numpy()
    return frame if (key_N[1:] >= key_N[:-1]).all() else frame.sort(key)


# ---- the log ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LogLayout:
    """The columns of a log's blocks, besides `LATE`.

    Attributes:
        user, video: of whole numbers >= 0.
        time: of whole numbers.
        targets: of each label target, its column and the range of its valid values.
        content: two rows that agree in these (those that a source has) are one row, and rows of
            one user and time are sorted by them, in this order.
    """

    user: str
    video: str
    time: str
    targets: Mapping[str, tuple[str, float, float]]
    content: Sequence[str]


@dataclass
class TargetSums:
    """What is said of a label's values; adding up in another order gives the same."""

    totals: list[float] = field(default_factory=list)
    n_valid: int = 0
    n_empty: int = 0
    n_out_of_range: int = 0

    def add(self, other: TargetSums) -> None:
        """Add those of other rows."""
        self.totals += other.totals
        self.n_valid += other.n_valid
        self.n_empty += other.n_empty
        self.n_out_of_range += other.n_out_of_range

    def stats(self) -> dict[str, float | int | None]:
        """The label's part of the stats."""
        return {
            "mean": math.fsum(self.totals) / self.n_valid if self.n_valid else None,
            "n_missing": self.n_empty + self.n_out_of_range,
            "n_empty": self.n_empty,
            "n_out_of_range": self.n_out_of_range,
        }


@dataclass(frozen=True)
class _SortedRows:
    """Distinct rows of some users, in the order of the `LogTable`.

    Attributes:
        user_U: ids, int64, ascending.
        n_rows_U, n_early_U: each user's rows, and early rows, int64.
        video_N: int32, numbers of the videos.
        targets: float32 N, NaN = missing.
        sums: of the targets.
        n_dropped, n_across: rows that repeated another one; of them, one of another log.
    """

    user_U: np.ndarray
    n_rows_U: np.ndarray
    n_early_U: np.ndarray
    video_N: np.ndarray
    targets: dict[str, np.ndarray]
    sums: dict[str, TargetSums]
    n_dropped: int
    n_across: int


def write_log(
    blocks: Iterable[tuple[str, pl.DataFrame]],
    files: Sequence[str],
    layout: LogLayout,
    directory: Path,
) -> tuple[IdSet, IdSet, dict[str, Any]]:
    """Write the arrays of a `LogTable` from blocks of rows in any order.

    Args:
        blocks: each sorted by user, with the name of the file that it comes from.
        files: their names; each is in the stats, with the number of its rows.
        layout: the blocks' columns.
        directory: takes `<field>.npy` per field of `LogTable`, `target_<name>.npy` per target,
            and meanwhile the blocks.

    Returns:
        The users and the videos that occur, and the log's part of the stats; no users where there
        is no row.
    """
    counts = [pl.DataFrame(schema={"user": pl.Int64, "n": pl.Int64})]
    users, videos, n_rows = IdSet(), IdSet(), dict.fromkeys(files, 0)
    with Spill(directory, ".log", layout.user) as spill:
        for name, frame in blocks:
            n_rows[name] += frame.height
            spill.append(frame)
            videos.add(frame[layout.video].to_numpy())
            counts.append(_count_users(frame[layout.user].to_numpy()))
            if sum(map(len, counts)) > _COUNTS_HELD:
                counts = [_add_up(counts)]
        spill.seal()
        videos.freeze()
        total = _add_up(counts).sort("user")
        if not total.height:
            return users.freeze(), videos, {"files": n_rows, "n_rows_read": 0}
        user_U, stats = _write_arrays(spill, total, videos, layout, directory)
    if not np.array_equal(user_U, total["user"]):
        raise RunError(f"the log has {total.height} users, of whom {len(user_U)} were written")
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
    return pl.DataFrame({"user": user_N[starts].astype(np.int64), "n": n.astype(np.int64)})


def _add_up(counts: list[pl.DataFrame]) -> pl.DataFrame:
    return pl.concat(counts).group_by("user").agg(pl.col("n").sum())


def _ranges(users: pl.DataFrame) -> Iterator[tuple[int, int]]:
    """Ranges of users with at most BUCKET_ROWS rows together (one user at least)."""
    user_U, last_U = users["user"].to_numpy(), users["n"].cum_sum().to_numpy()
    first = 0
    while first < len(user_U):
        done = last_U[first - 1] if first else 0
        end = max(first + 1, int(np.searchsorted(last_U, done + BUCKET_ROWS, side="right")))
        yield int(user_U[first]), int(user_U[end - 1]) + 1
        first = end


def _write_arrays(
    spill: Spill, users: pl.DataFrame, videos: IdSet, layout: LogLayout, directory: Path
) -> tuple[np.ndarray, dict[str, Any]]:
    """Sort the rows a range of users at a time and write them; return users and stats."""

    def bucket(bounds: tuple[int, int]) -> _SortedRows:
        rows = spill.read(*bounds)
        assert rows is not None  # each range has a user, each user a row
        return _sort_rows(rows, videos, layout)

    parts: list[_SortedRows] = []
    sums = {name: TargetSums() for name in layout.targets}
    with ExitStack() as stack:
        video_N = stack.enter_context(NpyWriter(directory / "video_N.npy", np.int32))
        target_N = {
            name: stack.enter_context(NpyWriter(directory / f"target_{name}.npy", np.float32))
            for name in layout.targets
        }
        for rows in in_order(bucket, _ranges(users)):
            video_N.append(rows.video_N)
            for name, values in rows.targets.items():
                target_N[name].append(values)
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


def _sort_rows(frame: pl.DataFrame, videos: IdSet, layout: LogLayout) -> _SortedRows:
    """Sort rows by user, early first, then time, then content; drop those equal in content."""
    order_N, n_across = _distinct_in_order(frame, layout)
    user_N = frame[layout.user].to_numpy()[order_N].astype(np.int64)
    is_early_N = frame[LATE].to_numpy()[order_N] == 0
    starts = np.flatnonzero(np.diff(user_N, prepend=-1) != 0)
    values = {
        name: _target(frame[column].gather(order_N), low, high)
        for name, (column, low, high) in layout.targets.items()
    }
    return _SortedRows(
        user_U=user_N[starts],
        n_rows_U=np.diff(starts, append=len(user_N)),
        n_early_U=np.add.reduceat(is_early_N, starts, dtype=np.int64),
        video_N=videos.numbers(frame[layout.video].to_numpy()[order_N]),
        targets={name: value for name, (value, _) in values.items()},
        sums={name: sums for name, (_, sums) in values.items()},
        n_dropped=frame.height - len(order_N),
        n_across=n_across,
    )


def _distinct_in_order(frame: pl.DataFrame, layout: LogLayout) -> tuple[np.ndarray, int]:
    """Which rows stay, in their order; and how many of the others repeat a row of another log.

    Few rows agree in user and time, so only those are sorted, and compared, by all columns.
    """
    order_N = _by_user_and_time(frame, layout)
    user_N = frame[layout.user].to_numpy()[order_N]
    time_N = frame[layout.time].to_numpy()[order_N]
    is_tied_N = np.zeros(len(order_N), dtype=bool)
    is_like_last = (user_N[1:] == user_N[:-1]) & (time_N[1:] == time_N[:-1])
    is_tied_N[1:] |= is_like_last
    is_tied_N[:-1] |= is_like_last
    places = np.flatnonzero(is_tied_N)
    content = [name for name in layout.content if name in frame.columns]
    keys = dict.fromkeys((layout.user, layout.time, *content, LATE))
    ties = frame[order_N[places]].with_columns(_row=order_N[places]).sort(list(keys))
    repeats = ties.select(
        row=pl.all_horizontal(pl.col(name).eq_missing(pl.col(name).shift(1)) for name in content),
        log=pl.col(LATE) != pl.col(LATE).shift(1),
    )
    order_N[places] = ties["_row"].to_numpy()
    stays_N = np.ones(len(order_N), dtype=bool)
    stays_N[places] = ~repeats["row"].to_numpy()
    order_N = order_N[stays_N]
    n_across = int((repeats["row"] & repeats["log"]).sum())
    return _early_first(frame, order_N, layout), n_across


def _by_user_and_time(frame: pl.DataFrame, layout: LogLayout) -> np.ndarray:
    """The rows' order by user and time.

    A stable sort merges what is in order already, as each file's rows mostly are; it takes one
    key, so user and time must fit into 63 bits together.
    """
    user_N, time_N = (
        frame[name].to_numpy().astype(np.int64) for name in (layout.user, layout.time)
    )
    least, most = int(time_N.min()), int(time_N.max())
    bits = (most - least).bit_length()
    user_N -= user_N.min()
    if int(user_N.max()).bit_length() + bits <= 63:
        return np.argsort(user_N << bits | (time_N - least), kind="stable")
    return np.lexsort((time_N, user_N))


def _early_first(frame: pl.DataFrame, order_N: np.ndarray, layout: LogLayout) -> np.ndarray:
    """Move each user's early rows to the front, where they are not there by their time."""
    user_N = frame[layout.user].to_numpy()[order_N]
    is_late_N = frame[LATE].to_numpy()[order_N] != 0
    if ((user_N[1:] == user_N[:-1]) & is_late_N[:-1] & ~is_late_N[1:]).any():
        return order_N[np.lexsort((is_late_N, user_N))]
    return order_N


def _target(column: pl.Series, low: float, high: float) -> tuple[np.ndarray, TargetSums]:
    """A label's values as float32, NaN where missing or out of range; and what to say of them."""
    is_valid = column.is_between(low, high) & column.cast(pl.Float64).is_finite()
    n_empty, n_out_of_range = column.null_count(), int((~is_valid).sum())
    valid = column.set(~is_valid, None) if n_out_of_range else column
    total = float(valid.cast(pl.Float64).sum())
    sums = TargetSums([total], len(column) - n_empty - n_out_of_range, n_empty, n_out_of_range)
    return valid.cast(pl.Float32).fill_null(float("nan")).to_numpy(), sums


# ---- the features -------------------------------------------------------------------------------


@dataclass(frozen=True)
class FeatureBlock:
    """Some rows of a feature table.

    Attributes:
        file: the file that they come from.
        n_rows: rows read.
        frame: `PLACE` and the features, of the ids that the log has, sorted by `PLACE`.
        n_unknown: of each feature, how many rows say "unknown".
    """

    file: str
    n_rows: int
    frame: pl.DataFrame
    n_unknown: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class FeatureSource:
    """A feature table of a source.

    Attributes:
        files: the names of its files.
        features: the type of each feature.
        blocks: its rows, in any order.
        repeated: what to raise for an id, by its number, that has two rows; None where the source
            has seen to it that none has.
    """

    files: Sequence[str]
    features: Mapping[str, pl.DataType | type[pl.DataType]]
    blocks: Iterable[FeatureBlock]
    repeated: Callable[[int], InputError] | None = None


def write_features(
    ids: pl.Series, tables: Mapping[str, FeatureSource], order: Sequence[str], path: Path
) -> dict[str, Any]:
    """Look up the features of users or videos and write them as a Parquet file.

    The file has one row per id: the id, then a column per feature; null where it is missing.

    Args:
        ids: those that occur in the log, by their numbers; named as the file's first column.
        tables: by the names that the stats call them.
        order: all features, in the order of the file's columns.
        path: the file; the looked-up rows are in its folder meanwhile.

    Returns:
        The stats: `files` (rows per file name), `without_features` (ids without a row, per
        table), `features` (n_missing and n_unknown per feature).

    Raises:
        InputError: an id has two rows.
    """
    stats: dict[str, Any] = {"files": {}, "without_features": {}, "features": {}}
    stats["features"] = {name: {"n_missing": 0, "n_unknown": 0} for name in order}
    with ExitStack() as stack:
        spills: dict[str, Spill] = {}
        for key, table in tables.items():
            spills[key] = stack.enter_context(Spill(path.parent, f".features-{len(spills)}", PLACE))
            stats["files"] |= dict.fromkeys(table.files, 0)
            for block in table.blocks:
                stats["files"][block.file] += block.n_rows
                spills[key].append(block.frame)
                for name, n in block.n_unknown.items():
                    stats["features"][name]["n_unknown"] += n
            spills[key].seal()
            stats["without_features"][key] = len(ids)
        _write_blocks(ids, tables, spills, order, path, stats)
    return stats


def _write_blocks(
    ids: pl.Series,
    tables: Mapping[str, FeatureSource],
    spills: Mapping[str, Spill],
    order: Sequence[str],
    path: Path,
    stats: dict[str, Any],
) -> None:
    """Put the tables' features side by side, a block of ids at a time; count what is missing."""
    schema: dict[str, Any] = {ids.name: ids.dtype}
    of_feature = {
        name: dtype for table in tables.values() for name, dtype in table.features.items()
    }
    schema |= {name: of_feature[name] for name in order}
    arrow = pl.DataFrame(schema=schema).to_arrow(compat_level=pl.CompatLevel.oldest()).schema
    n_written = 0
    with pq.ParquetWriter(path, arrow) as writer:
        for first in range(0, len(ids), BLOCK_ROWS):
            block = ids[first : first + BLOCK_ROWS].to_frame()
            place = pl.int_range(first, first + block.height, dtype=pl.Int32, eager=True)
            block = block.with_columns(place.alias(PLACE))
            for key, spill in spills.items():
                rows = spill.read(first, first + block.height)
                if rows is None:
                    continue
                repeated = tables[key].repeated
                twice = np.flatnonzero(np.bincount(rows[PLACE].to_numpy() - first) > 1)
                if repeated is not None and twice.size:
                    raise repeated(first + int(twice[0]))
                stats["without_features"][key] -= rows.height
                block = block.join(rows, on=PLACE, how="left", maintain_order="left")
            for name in schema.keys() - block.columns:
                block = block.with_columns(pl.lit(None, schema[name]).alias(name))
            for name in order:
                stats["features"][name]["n_missing"] += block[name].null_count()
            block = block.select(list(schema))
            writer.write_table(block.to_arrow(compat_level=pl.CompatLevel.oldest()))
            n_written += block.height
    if n_written != len(ids):
        raise RunError(f"{path.name}: {n_written} rows were written for {len(ids)} ids")
