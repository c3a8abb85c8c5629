"""Feature tables: one for users, one for videos; a user x video matrix is never built.

Numerical features are standardised and categories numbered with what the training users' rows
show, each row counted as often as it occurs in their logs, so that held-out users do not
influence what a model sees.

Axes: X rows of a table (users U or videos V), D numerical features, K category slots.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from realdataexp.data.log import DataSet
from realdataexp.data.split import training_blocks
from realdataexp.errors import InputError, Warnings

MISSING_ID = 0
UNSEEN_ID = 1
MULTI_HOT = ("tag", "video.tag")


@dataclass(frozen=True)
class CategoricalField:
    """A categorical feature's place in its table.

    Attributes:
        name: the feature.
        first_slot, end_slot: its columns in ``cat_XK``; several for a multi-hot feature.
        first_id: where its vocabulary starts: missing, unseen, then its levels.
        levels: the categories seen in training users' rows, sorted.
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
        num_XD: float32, standardised; 0 where missing.
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
        if not self.fields:
            return 0
        last = self.fields[-1]
        return last.first_id + 2 + len(last.levels)


@dataclass(frozen=True)
class Features:
    """The user table and the video table."""

    user: FeatureTable
    video: FeatureTable


def training_counts(data: DataSet, is_training_U: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How many rows of training users each user and each video has: float64 U and V."""
    rows_U = np.where(is_training_U, np.diff(data.log.offset_U1), 0).astype(np.float64)
    count_V = np.zeros(data.videos.height)
    for rows, is_training in training_blocks(data.log, is_training_U):
        videos = data.log.video_N[rows][is_training]
        count_V += np.bincount(videos, minlength=len(count_V))
    return rows_U, count_V


def fit_features(
    data: DataSet,
    numerical: tuple[str, ...],
    categorical: tuple[str, ...],
    is_training_U: np.ndarray,
    *,
    missing_indicator: bool,
    warnings: Warnings,
) -> Features:
    """Build both feature tables.

    Args:
        data: the imported data; its tables have one column per feature, named as asked.
        numerical: features to standardise; a missing value becomes 0 after scaling.
        categorical: features to number; missing values and unseen levels are categories.
        is_training_U: bool, whose rows the scaling and the levels are fitted on.
        missing_indicator: add a 0/1 column for each numerical feature with missing values.
        warnings: told of features that never vary.

    Raises:
        InputError: no feature is left for either side's model.
    """
    rows_U, count_V = training_counts(data, is_training_U)
    sides = {}
    for side, frame, weight_X in (("user", data.users, rows_U), ("video", data.videos, count_V)):
        ours = [name for name in numerical if name in frame.columns]
        num_XD, names = _standardise(frame, ours, weight_X, missing_indicator, warnings)
        fields, cat_XK, slot_weight_XK = [], [], []
        slot = first_id = 0
        for name in categorical:
            if name not in frame.columns:
                continue
            lists = _as_lists(frame[name], is_multi_hot=name in MULTI_HOT)
            levels, ids_XK, weight_XK = _number(lists, weight_X > 0)
            fields.append(CategoricalField(name, slot, slot + ids_XK.shape[1], first_id, levels))
            cat_XK.append(ids_XK + first_id)
            slot_weight_XK.append(weight_XK)
            slot += ids_XK.shape[1]
            first_id += 2 + len(levels)
        empty = np.zeros((frame.height, 0))
        sides[side] = FeatureTable(
            tuple(names),
            tuple(fields),
            num_XD,
            np.concatenate([*cat_XK, empty], axis=1).astype(np.int32),
            np.concatenate([*slot_weight_XK, empty], axis=1).astype(np.float32),
        )
    if not (sides["video"].numerical or sides["video"].fields):
        raise InputError(
            "feature: no video feature is listed, so a model cannot tell videos apart; "
            "add one, such as video_duration or tag"
        )
    return Features(sides["user"], sides["video"])


def _standardise(
    frame: pl.DataFrame,
    names: list[str],
    weight_X: np.ndarray,
    missing_indicator: bool,
    warnings: Warnings,
) -> tuple[np.ndarray, list[str]]:
    """Weighted z-scores, float32 X, D, and each column's feature."""
    columns, kept = [], []
    total = weight_X.sum()
    for name in names:
        x = frame[name].cast(pl.Float64).to_numpy().copy()
        known = np.isfinite(x)
        weight = weight_X * known
        if weight.sum() == 0:
            warnings.add(
                "feature_without_values",
                f"feature {name}: no training user's row has a value; it is 0 everywhere",
            )
            columns.append(np.zeros(len(x)))
        else:
            mean = np.average(x[known], weights=weight[known])
            sd = np.sqrt(np.average((x[known] - mean) ** 2, weights=weight[known]))
            if sd <= 1e-12 * max(1.0, abs(mean)):
                warnings.add(
                    "constant_feature",
                    f"feature {name}: has the same value {mean:g} in every training row",
                )
                sd = 1.0
            columns.append(np.where(known, (np.where(known, x, mean) - mean) / sd, 0.0))
        kept.append(name)
        if missing_indicator and 0 < (weight_X * ~known).sum() < total:
            columns.append((~known).astype(np.float64))
            kept.append(name)
    stacked = np.stack(columns, axis=1) if columns else np.zeros((frame.height, 0))
    return stacked.astype(np.float32), kept


def _as_lists(column: pl.Series, *, is_multi_hot: bool) -> pl.Series:
    """Each row's categories as a list; a missing value is an empty list."""
    text = column.cast(pl.String)
    lists = (
        text.str.split(",")
        if is_multi_hot
        else text.to_frame().select(pl.concat_list(pl.first()).list.drop_nulls()).to_series()
    )
    return lists.list.eval(pl.element().str.strip_chars().replace("", None).drop_nulls()).fill_null(
        []
    )


def _number(
    lists: pl.Series, is_training_X: np.ndarray
) -> tuple[tuple[str, ...], np.ndarray, np.ndarray]:
    """Levels, ids X, K and weights X, K of one feature; K is the most entries in a row."""
    seen = lists.filter(pl.Series(is_training_X)).explode().drop_nulls().unique().sort()
    levels = tuple(seen.to_list())
    lengths = lists.list.len().to_numpy()
    n_slots = max(1, int(lengths.max()) if len(lengths) else 1)
    ids = np.full((len(lists), n_slots), MISSING_ID, dtype=np.int64)
    entries = lists.explode()
    numbered = (
        entries.replace_strict(
            list(levels), range(2, 2 + len(levels)), default=UNSEEN_ID, return_dtype=pl.Int64
        )
        if levels
        else pl.Series([UNSEEN_ID] * len(entries))
    )
    slots = np.arange(n_slots)
    filled = slots < lengths[:, None]
    ids[filled] = numbered.filter(entries.is_not_null()).to_numpy()
    # a row without any entry is the category "missing", in its first slot
    weights = (filled | (slots == 0)).astype(np.float32)
    return levels, ids, weights
