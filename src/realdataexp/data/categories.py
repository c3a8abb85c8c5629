"""Categorical features: their levels, and the numbers of a table's entries.

Axes: X rows of a table, K category slots, T distinct values.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from realdataexp.data.table import StoredTable, blocks

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


def fit_fields(
    table: pl.DataFrame | StoredTable, names: list[str], is_training_X: np.ndarray
) -> list[CategoricalField]:
    """Levels and places of categorical features; a slot for each of the most entries in a row."""
    seen: dict[str, pl.Series] = {name: pl.Series(name, [], pl.String) for name in names}
    n_slots = dict.fromkeys(names, 1)
    for rows, block in blocks(table, names):
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
