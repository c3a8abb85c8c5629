"""What is known of items: texts, categories, codes and vectors, one row an item.

Axes: V items, D numbers of a vector.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from realdataexp.errors import InputError, did_you_mean

_TOKEN = re.compile(r"<[^>]*>|[^,|\[\]'\"]+")  # <a_1><b_2>, 1,2, [1, 2], |one|two


@dataclass(frozen=True)
class Items:
    """An item table in the order of the histories' items.

    Attributes:
        names: as the histories call them.
        table: V rows, null where the table has no such item; not the names.
        source: what a message calls it.
        row_V: int64, each item's row in the file, -1 where it has none; None without a file.
        n_rows: rows of the file.
    """

    names: Sequence[str]
    table: pl.DataFrame
    source: str
    row_V: np.ndarray | None = None
    n_rows: int = 0

    def column(self, name: str) -> pl.Series:
        """A column; InputError where there is none."""
        if name not in self.table.columns:
            known = self.table.columns
            there = did_you_mean(name, known) or f"; it has {', '.join(known) or 'no columns'}"
            raise InputError(f"{self.source}: no column {name!r}{there}")
        return self.table[name]

    def texts(self, name: str) -> list[str]:
        """A column of texts, empty where there is none."""
        column = self.column(name)
        if column.dtype.is_nested():
            raise InputError(f"{self.source}: column {name!r} must hold texts, not {column.dtype}")
        return column.cast(pl.String).fill_null("").to_list()

    def lists(self, name: str) -> list[list[str]]:
        """A column of categories or codes: a list, or a text such as ``a,b``; may be empty."""
        column = self.column(name)
        if isinstance(column.dtype, pl.List | pl.Array):
            return [[str(x) for x in row or []] for row in column.to_list()]
        found = (_TOKEN.findall(text) for text in self.texts(name))
        return [[token.strip() for token in row if token.strip()] for row in found]

    def codes(self, name: str) -> list[list[str]]:
        """A column of codes, which every item must have."""
        codes = self.lists(name)
        self._require(name, [not row for row in codes], "has no codes; add them or make others")
        return codes

    def vectors(self, name: str) -> np.ndarray:
        """A column of lists of numbers: float32 V, D."""
        column = self.column(name)
        if not isinstance(column.dtype, pl.List | pl.Array):
            raise InputError(
                f"{self.source}: column {name!r} must hold lists of numbers, not {column.dtype}"
            )
        lists = column.cast(pl.List(pl.Float32))
        length = lists.list.len()
        self._require(name, [*length.is_null()], "has no vector; add it")
        self._require(name, [*(length != length[0])], f"has not {length[0]} numbers as one")
        vector_VD = np.array(lists.to_list(), dtype=np.float32)
        is_wrong = [not np.isfinite(vector_D).all() for vector_D in vector_VD]
        self._require(name, is_wrong, "has a number that is not finite; mend it")
        return vector_VD

    def _require(self, name: str, is_wrong_V: Sequence[bool | None], fault: str) -> None:
        """Name the first wrong item and count all, where there is one."""
        wrong = [v for v, is_wrong in enumerate(is_wrong_V) if is_wrong]
        if wrong:
            raise InputError(
                f"{self.source}: column {name!r}: item {self.names[wrong[0]]!r} (one of "
                f"{len(wrong):,}) {fault}"
            )


def no_items(names: Sequence[str], source: str) -> Items:
    """A table without columns."""
    return Items(names, pl.DataFrame(height=len(names)), source)


def aligned(names: Sequence[str], ids: pl.Series, table: pl.DataFrame, source: str) -> Items:
    """Put a table's rows into the order of the histories' items; further items are left out.

    Raises:
        InputError: an item has two rows, or no item has one.
    """
    ids = ids.cast(pl.String)
    if ids.is_duplicated().any():
        twice = ids.filter(ids.is_duplicated())
        raise InputError(
            f"{source}: item {twice[0]!r} (one of {twice.n_unique():,}) has two rows; remove one"
        )
    if not ids.is_in(pl.Series(names, dtype=pl.String).implode()).any():
        raise InputError(
            f"{source}: has none of the histories' items, such as {names[0]!r}, but items such as "
            f"{ids[0] if len(ids) else 'none'!r}; name its column of items, or another file"
        )
    wanted = pl.DataFrame({"": pl.Series(names, dtype=pl.String)})
    rows = pl.DataFrame({"": ids, " row": np.arange(len(ids))})
    row = wanted.join(rows, on="", how="left", maintain_order="left")[" row"]
    return Items(names, table[row], source, row.fill_null(-1).to_numpy(), len(ids))
