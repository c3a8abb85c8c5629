"""Feature tables: one for users, one for videos; a user x video matrix is never built.

Numerical features are standardised and categories numbered with what the training users' rows
show, each row counted as often as it occurs in their logs, so that held-out users do not
influence what a model sees.

Axes: X rows of a table (users U or videos V), D numerical features, K category slots, F features.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import polars as pl

from realdataexp.data.log import DataSet, training_blocks
from realdataexp.data.parquet import StoredTable
from realdataexp.errors import InputError, Warnings
from realdataexp.files import disk_faults

MISSING_ID = 0
UNSEEN_ID = 1
MULTI_HOT = ("tag", "video.tag")
_BULK = (0.1, 0.9)  # quantiles between which most values are
_FLAT = 1e-3  # standard deviations: values that all lie this near are as good as one


@dataclass(frozen=True)
class CategoricalField:
    """A categorical feature's place in its table.

    Its columns in ``cat_XK`` are first_slot .. end_slot, several where it is multi-hot; its
    vocabulary starts at ``first_id``: missing, unseen, then its levels, the categories seen in
    training users' rows, sorted.
    """

    name: str
    first_slot: int
    end_slot: int
    first_id: int
    levels: tuple[str, ...]


@dataclass(frozen=True)
class FeatureTable:
    """One side's features, a row per user or per video.

    Attributes:
        numerical: the feature of each numerical column; an indicator's is that of its number.
        fields: the categorical features.
        num_XD: float32, standardised; where missing what was filled in, by default 0.
        cat_XK: int32 ids in the side's joint vocabulary.
        weight_XK: float32, 1, or 0 where a multi-hot feature has fewer entries than slots.
    """

    numerical: tuple[str, ...]
    fields: tuple[CategoricalField, ...]
    num_XD: np.ndarray
    cat_XK: np.ndarray
    weight_XK: np.ndarray

    @property
    def n_ids(self) -> int:
        """Size of the joint vocabulary."""
        return sum(2 + len(field.levels) for field in self.fields)


@dataclass(frozen=True)
class Features:
    """The user table and the video table, and of each number with missing ones what filled them.

    ``filled`` has ``n_rows`` (users or videos), ``with`` (mean, zero or predicted) and ``mean`` (of
    what was filled in, in the feature's own unit) by feature.
    """

    user: FeatureTable
    video: FeatureTable
    filled: dict[str, dict[str, Any]] = field(default_factory=dict)


_Table = pl.DataFrame | StoredTable


def training_counts(data: DataSet, is_training_U: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How many rows of training users each user and each video has: float64 U and V."""
    rows_U = np.where(is_training_U, np.diff(data.log.offset_U1), 0).astype(np.float64)
    count_V = np.zeros(data.videos.height)
    for rows, is_training in training_blocks(data.log, is_training_U):
        count_V += np.bincount(data.log.video_N[rows][is_training], minlength=len(count_V))
    return rows_U, count_V


def fit_features(
    data: DataSet,
    numerical: tuple[str, ...],
    categorical: tuple[str, ...],
    is_training_U: np.ndarray,
    *,
    missing_indicator: bool,
    warnings: Warnings,
    missing: str = "mean",
) -> Features:
    """Build both feature tables, scaling and levels fitted on the rows of training users.

    Numerical features are standardised. A ``missing`` value is the mean (0 after scaling), zero in
    the feature's own unit, or predicted from the row's other numbers, by what training users and
    the videos in their rows show (``missing.Predicted``). There is a 0/1 column of its own for it
    where training rows show some and ``missing_indicator`` is set. Of categorical ones, missing
    values and unseen levels are categories. Features that never vary, or but for a few extreme
    values, are warned of.

    Raises:
        InputError: there is no feature of videos.
    """
    rows_U, count_V = training_counts(data, is_training_U)
    sides: list[FeatureTable] = []
    filled: dict[str, dict[str, Any]] = {}
    for table, weight_X in ((data.users, rows_U), (data.videos, count_V)):
        ours = [name for name in numerical if name in table.columns]
        scales = _fit_numbers(table, ours, weight_X, missing_indicator, warnings)
        _warn_of_extremes(table, scales, warnings)
        numbers = _Numbers(scales, missing)
        if missing == "predicted":
            numbers.fit(table, weight_X > 0, warnings)
        ours = [name for name in categorical if name in table.columns]
        sides.append(_fill(table, numbers, fit_fields(table, ours, weight_X > 0)))
        filled |= numbers.filled()
    if not (sides[1].numerical or sides[1].fields):
        raise InputError(
            "feature: no video feature is listed, so a model cannot tell videos apart; "
            "add one, such as video_duration or tag"
        )
    return Features(sides[0], sides[1], filled)


def _blocks(table: _Table, names: list[str]) -> Iterator[tuple[slice, pl.DataFrame]]:
    """Columns of a table in blocks of rows, and where in the table each block is."""
    start = 0
    for block in [table] if isinstance(table, pl.DataFrame) else table.blocks(names):
        yield slice(start, start + block.height), block
        start += block.height


# ---- numbers -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Scale:
    """How a numerical feature is standardised; sd None: no training row has a value."""

    name: str
    mean: float
    sd: float | None
    has_indicator: bool


def _fit_numbers(
    table: _Table,
    names: list[str],
    weight_X: np.ndarray,
    missing_indicator: bool,
    warnings: Warnings,
) -> list[_Scale]:
    """Weighted means and standard deviations of numerical features."""
    sums_F3 = np.zeros((len(names), 3))  # of weights, of weighted values, of weighted squares
    for rows, block in _blocks(table, names):
        for f, name in enumerate(names):
            x, weight = _known(block[name], weight_X[rows])
            sums_F3[f, :2] += weight.sum(), np.multiply(x, weight).sum()
    means = [total / n if n else 0.0 for n, total, _ in sums_F3]
    for rows, block in _blocks(table, names):
        for f, name in enumerate(names):
            x, weight = _known(block[name], weight_X[rows])
            sums_F3[f, 2] += np.multiply((x - means[f]) ** 2, weight).sum()
    total, scales = weight_X.sum(), []
    for name, mean, (n, _, squares) in zip(names, means, sums_F3, strict=True):
        sd = float(np.sqrt(squares / n)) if n else None
        if sd is None:
            warnings.add(
                "feature_without_values",
                f"feature {name}: no training user's row has a value; it is 0 everywhere",
            )
        elif sd <= 1e-12 * max(1.0, abs(mean)):
            warnings.add(
                "constant_feature",
                f"feature {name}: has the same value {mean:g} in every training row",
            )
            sd = 1.0
        scales.append(_Scale(name, mean, sd, missing_indicator and 0 < total - n < total))
    return scales


def _warn_of_extremes(table: _Table, scales: list[_Scale], warnings: Warnings) -> None:
    """Warn of features whose values are all alike once standardised, but for a few extreme ones."""
    _, first = next(_blocks(table, [scale.name for scale in scales]), (None, pl.DataFrame()))
    for scale in scales if first.height else ():
        x, _ = _known(first[scale.name])
        low, high = np.quantile(x, _BULK).tolist() if x.size else (0.0, 0.0)
        if scale.sd is None or not 0 < high - low < _FLAT * scale.sd:
            continue
        n, n_known, most = 0, 0, low
        for _, block in _blocks(table, [scale.name]):
            x, _ = _known(block[scale.name])
            far = x[np.abs(x - low) > (high - low) / _FLAT]
            n, n_known = n + far.size, n_known + x.size
            most = max((most, *far.tolist()), key=abs)
        warnings.add(
            "extreme_feature",
            f"feature {scale.name}: {n:,} of {n_known:,} values, such as {most:g}, are so far from "
            f"the others (eight in ten lie from {low:g} to {high:g}) that standardising makes "
            "these all alike; correct them, make them missing or cut them off",
        )


def _known(column: pl.Series, weight_X: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The values that are not missing, and their weights."""
    x = column.cast(pl.Float64).to_numpy()
    known = np.isfinite(x)
    return x[known], known[known] if weight_X is None else weight_X[known]


class _Numbers:
    """A side's numerical features, standardised, with numbers in place of missing ones."""

    def __init__(self, scales: list[_Scale], missing: str) -> None:
        self.scales, self._missing = scales, missing
        self._known = [i for i, scale in enumerate(scales) if scale.sd is not None]
        self._predicted: Any = None
        self._n_D, self._sum_D = np.zeros((2, len(scales)))

    def fit(self, table: _Table, is_training_X: np.ndarray, warnings: Warnings) -> None:
        """Learn to predict missing numbers from training rows."""
        from realdataexp.data.missing import Predicted, sample_of  # few runs predict them

        names = [scale.name for scale in self.scales]
        blocks = (
            self._scores(block)[is_training_X[rows]][:, self._known]
            for rows, block in (_blocks(table, names) if names else ())
        )
        n_rows = int(is_training_X.sum())
        z_XD = sample_of(blocks, n_rows) if names else np.zeros((0, 0))
        self._predicted = Predicted(z_XD, [names[i] for i in self._known], warnings)

    def _scores(self, block: pl.DataFrame) -> np.ndarray:
        """The z-scores of a block, NaN where missing: X, D."""
        z_XD = np.full((block.height, len(self.scales)), np.nan)
        for z_X, scale in zip(z_XD.T, self.scales, strict=True):
            x = block[scale.name].cast(pl.Float64).to_numpy()
            known = np.isfinite(x)
            if scale.sd is not None:
                z_X[known] = (x[known] - scale.mean) / scale.sd
        return z_XD

    def columns(self, block: pl.DataFrame) -> Iterator[np.ndarray]:
        """Each feature of a block, and its indicator where it has one."""
        z_XD = self._scores(block)
        is_missing_XD, filled_XD = np.isnan(z_XD), np.zeros_like(z_XD)
        if self._predicted is not None and self._known:
            filled_XD[:, self._known] = self._predicted.fill(z_XD[:, self._known])
        elif self._missing == "zero":
            filled_XD[:] = [0.0 if x.sd is None else -x.mean / x.sd for x in self.scales]
        self._n_D += is_missing_XD.sum(0)
        self._sum_D += np.where(is_missing_XD, filled_XD, 0.0).sum(0)
        for d, scale in enumerate(self.scales):
            yield np.where(is_missing_XD[:, d], filled_XD[:, d], z_XD[:, d])
            if scale.has_indicator:
                yield is_missing_XD[:, d].astype(np.float64)

    def filled(self) -> dict[str, dict[str, Any]]:
        """What was filled in so far, of each feature that lacked some; see ``Features``."""
        found, is_zero = (
            zip(self.scales, self._n_D, self._sum_D, strict=True),
            self._missing == "zero",
        )
        return {
            scale.name: {
                "n_rows": int(n),
                "with": self._missing,
                "mean": 0.0 if is_zero else float(scale.mean + (scale.sd or 0.0) * total / n),
            }
            for scale, n, total in found
            if n
        }


def _fill(table: _Table, numbers: _Numbers, fields: list[CategoricalField]) -> FeatureTable:
    """Compute a side's features, a block of rows at a time."""
    scales = numbers.scales
    names = list(dict.fromkeys([*(s.name for s in scales), *(f.name for f in fields)]))
    folder = table.folder if isinstance(table, StoredTable) and table.n_blocks > 1 else None
    with Rows(folder) as num_XD, Rows(folder) as cat_XK, Rows(folder) as weight_XK:
        for _, block in _blocks(table, names):
            columns = list(numbers.columns(block))
            numbered = [number_entries(block, field) for field in fields]
            empty = np.zeros((block.height, 0))
            num_XD.append(np.stack(columns, axis=1) if columns else empty, np.float32)
            cat_XK.append(np.concatenate([*(i for i, _ in numbered), empty], axis=1), np.int32)
            weight_XK.append(np.concatenate([*(w for _, w in numbered), empty], axis=1), np.float32)
        shown = [name for s in scales for name in [s.name] * (1 + s.has_indicator)]
        arrays = num_XD.array(), cat_XK.array(), weight_XK.array()
        return FeatureTable(tuple(shown), tuple(fields), *arrays)


# ---- categories ----------------------------------------------------------------------------------


def fit_fields(
    table: _Table, names: list[str], is_training_X: np.ndarray
) -> list[CategoricalField]:
    """Levels and places of categorical features; a slot for each of the most entries in a row."""
    seen: dict[str, pl.Series] = {name: pl.Series(name, [], pl.String) for name in names}
    n_slots = dict.fromkeys(names, 1)
    for rows, block in _blocks(table, names):
        for name in names:
            column, is_multi_hot = block[name], name in MULTI_HOT
            shown, _ = _lists(column.filter(pl.Series(is_training_X[rows])), is_multi_hot)
            entries = shown.explode().drop_nulls().cast(pl.String)
            seen[name] = pl.concat([seen[name], entries]).unique()
            lengths = _lists(column, is_multi_hot)[0].list.len()
            n_slots[name] = max(n_slots[name], int(lengths.max() or 0))  # type: ignore[arg-type]
    fields, slot, first_id = [], 0, 0
    for name in names:
        levels = tuple(seen[name].sort().to_list())
        fields.append(CategoricalField(name, slot, slot + n_slots[name], first_id, levels))
        slot += n_slots[name]
        first_id += 2 + len(levels)
    return fields


def _lists(column: pl.Series, is_multi_hot: bool) -> tuple[pl.Series, np.ndarray]:
    """Categories as lists, empty for a missing value; and at which of the lists each row is."""
    if column.dtype == pl.List:
        lists, at_X = column, np.arange(len(column))
    else:  # each value is taken apart once
        column = column.cast(pl.String).fill_null("").alias("value")
        values = column.unique()
        places = values.to_frame().with_row_index("place")
        rows = column.to_frame().join(places, on="value", how="left", maintain_order="left")
        at_X = rows["place"].to_numpy()
        lists = values.str.split(",") if is_multi_hot else values.reshape((-1, 1)).arr.to_list()
    stripped = pl.element().str.strip_chars().replace("", None).drop_nulls()
    return lists.list.eval(stripped).fill_null([]), at_X


def number_entries(block: pl.DataFrame, field: CategoricalField) -> tuple[np.ndarray, np.ndarray]:
    """Ids X, K and weights X, K of one feature."""
    lists, at_X = _lists(block[field.name], field.name in MULTI_HOT)
    n_slots = field.end_slot - field.first_slot
    ids = np.full((len(lists), n_slots), MISSING_ID, dtype=np.int32)
    entries = lists.explode()
    levels = list(field.levels)
    number = (
        entries.replace_strict(
            levels, range(2, 2 + len(levels)), default=UNSEEN_ID, return_dtype=pl.Int32
        )
        if levels
        else pl.Series([UNSEEN_ID] * len(entries))
    )
    slots = np.arange(n_slots)
    filled = slots < lists.list.len().to_numpy()[:, None]
    ids[filled] = number.filter(entries.is_not_null()).to_numpy()
    # a row without any entry is the category "missing", in its first slot
    weights = (filled | (slots == 0)).astype(np.float32)
    return ids[at_X] + field.first_id, weights[at_X]


# ---- tables made in blocks -----------------------------------------------------------------------


class Rows:
    """Collects blocks of rows: one in memory, or any number in a nameless file in a folder."""

    def __init__(self, folder: Path | None) -> None:
        self._folder, self._n_rows = folder, 0
        self._last = np.zeros((0, 0))
        self._file: IO[bytes] | None = None

    def append(self, block_XD: np.ndarray, dtype: type[np.generic]) -> None:
        """Write rows after those that are there; raises a DiskError where the disk is full."""
        self._last = np.ascontiguousarray(block_XD, dtype=dtype)
        self._n_rows += len(block_XD)
        if self._folder is not None:
            with disk_faults(self._folder, "set dataset.cache_path (--cache) to another disk"):
                if self._file is None:
                    self._file = _nameless_file(self._folder)
                self._file.write(self._last.tobytes())
                self._file.flush()

    def array(self) -> np.ndarray:
        """All rows; read-only where they are on disk."""
        shape = (self._n_rows, self._last.shape[1])
        if self._file is None or 0 in shape:
            return self._last if self._file is None else np.zeros(shape, self._last.dtype)
        return np.memmap(self._file, self._last.dtype, mode="r", shape=shape)

    def __enter__(self) -> Rows:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()


def _nameless_file(folder: Path) -> IO[bytes]:
    """A file that is gone once nobody reads it; elsewhere where the folder cannot be written."""
    try:
        return tempfile.TemporaryFile(dir=folder)
    except PermissionError:
        return tempfile.TemporaryFile()
