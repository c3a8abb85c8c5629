"""Columns of a log that no file has: each is computed from two others, row by row.

Axes: N log rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

import numpy as np

from realdataexp.data.features import Rows
from realdataexp.data.log import DataSet
from realdataexp.data.parquet import StoredTable

_BLOCK_ROWS = 1 << 22

Rule = Callable[[np.ndarray, np.ndarray, float], np.ndarray]


def quotient(y_N: np.ndarray, x_N: np.ndarray, at_most: float = np.inf) -> np.ndarray:
    """The quotient y / x, at most ``at_most``; NaN where x is not above 0, or one is missing.

    Examples:
        >>> quotient(np.array([3.0, 5.0, 1.0]), np.array([6.0, 2.0, 0.0]), 2.0).tolist()
        [0.5, 2.0, nan]
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(x_N > 0, np.minimum(y_N / x_N, at_most), np.nan)


def reached(y_N: np.ndarray, x_N: np.ndarray, at_most: float = np.inf) -> np.ndarray:
    """1 where y is at least min(x, at_most), else 0; NaN where x is not above 0, or one is missing.

    With a play time, its video's duration and 18 seconds it is KuaiRand's `long_view`: watched to
    the end, or for 18 seconds.

    Examples:
        >>> reached(np.array([7.0, 17.0, 18.0]), np.array([7.0, 60.0, 60.0]), 18.0).tolist()
        [1.0, 0.0, 1.0]
    """
    is_known_N = (x_N > 0) & ~np.isnan(y_N)
    return np.where(is_known_N, y_N >= np.minimum(x_N, at_most), np.nan)


RULES: dict[str, Rule] = {"quotient": quotient, "reached": reached}


def with_derived(
    data: DataSet, derived: Iterable[tuple[str, str, tuple[str, str], float | None]]
) -> DataSet:
    """The data with further targets, of name, rule, columns y and x, and ``at_most``.

    They are float32 N like any; on disk where the videos are. Their means and missing rows are in
    ``stats``.
    """
    targets: dict[str, np.ndarray] = {**data.log.targets}
    said: dict[str, Mapping[str, float | int | None]] = {}
    for name, rule, columns, at_most in derived:
        y_N, x_N = (data.log.targets[column] for column in columns)
        bound, total, n = np.inf if at_most is None else at_most, 0.0, 0
        folder = data.videos.folder if isinstance(data.videos, StoredTable) else None
        n_rows = len(y_N) if folder is None else _BLOCK_ROWS
        with Rows(folder if len(y_N) > _BLOCK_ROWS else None) as rows:
            for first in range(0, len(y_N), n_rows):
                block = slice(first, first + n_rows)
                y, x = (column[block].astype(np.float64) for column in (y_N, x_N))
                found_N = RULES[rule](y, x, bound).astype(np.float32)
                rows.append(found_N[:, None], np.float32)
                known = found_N[~np.isnan(found_N)].astype(np.float64)
                total, n = total + float(known.sum()), n + known.size
            targets[name] = rows.array()[:, 0]
        said[name] = {"mean": total / n if n else None, "n_missing": len(y_N) - n}
    if not said:
        return data
    stats = {**data.stats, "targets": {**data.stats.get("targets", {}), **said}}
    return replace(data, log=replace(data.log, targets=targets), stats=stats)
