"""The effect of an A/B test as it grew, with bands that hold at every look at once."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import polars as pl

from realdataexp.errors import InputError
from realdataexp.stats.analysis import analyze, as_frame, is_treated, require_known
from realdataexp.stats.clustered import confidence_sequence

_TOO_FEW = "an arm has too few units or rows, or outcomes that do not vary"
LOOK_SCHEMA = pl.Schema(
    {
        "look": pl.Int64, "outcome": pl.String, "share": pl.Float64,
        **dict.fromkeys(("value", "se", "ci_low", "ci_high", "p_value"), pl.Float64),
        "n_T": pl.Int64, "n_C": pl.Int64, "why": pl.String,
    }
)  # fmt: skip
_ORDER = ["look", "time", *[*LOOK_SCHEMA][1:]]


def analyze_looks(
    table: Any,
    *,
    time: str,
    arm: str,
    looks: int = 20,
    planned_rows: int | None = None,
    treatment: Any = None,
    **settings: Any,
) -> pl.DataFrame:
    """The effect of all rows up to each of some points in time, with always-valid 95 % bands.

    Whoever watches a test and stops at the first look whose interval excludes 0 errs far more
    often than in 5 %. These intervals are ``clustered.confidence_sequence``'s, with the standard
    error of "user_cluster": all of them together exclude the true effect
    in 5 % of tests at most, in large samples. They are narrowest at the planned end.

    Args:
        table: as for ``analyze``.
        time: the column that puts rows in order; rows of one value are looked at together.
        arm: as for ``analyze``.
        looks: how many looks, at about as many new rows each; fewer where there are fewer times.
        planned_rows: how many rows were planned; None: as many as there are.
        treatment: as for ``analyze``.
        settings: the rest of ``analyze``'s, but for methods and share.

    Returns:
        A row per look and outcome, in this order, of LOOK_SCHEMA and ``time``: the last one that
        is looked at, of the column's own type. ``share``: of the planned rows. Null where an arm
        has too few units, with the cause in ``why``, which is empty elsewhere.

    Raises:
        InputError: as ``analyze``; or a look, its number or the plan cannot be.

    Examples:
        The last of two looks has all rows:

        >>> table = {"day": [1] * 4 + [2] * 4, "arm": [0, 1] * 4, "y": [1, 2, 2, 4, 1, 3, 2, 4]}
        >>> found = analyze_looks(table, time="day", arm="arm", outcomes="y", looks=2)
        >>> found.select("look", "time", "share", "value").rows()
        [(1, 1, 0.5, 1.5), (2, 2, 1.0, 1.75)]
    """
    frame = as_frame(table, time=time, arm=arm)
    for name in ("methods", "share"):
        if name in settings:
            raise InputError(f"{name}: is no argument of looks; leave it out")
    if looks < 1:
        raise InputError(f"looks = {looks}: must be at least 1")
    planned = frame.height if planned_rows is None else planned_rows
    if planned < 1:
        raise InputError(f"planned_rows = {planned}: must be at least 1")
    is_treated_N = is_treated(frame, arm, treatment)
    treated = frame[arm].filter(pl.Series(is_treated_N))[0]
    column = require_known(frame, time, "time")
    ends = column.sort().gather(_last_rows(frame.height, looks)).unique(maintain_order=True)
    asked = {**settings, "arm": arm, "treatment": treated, "methods": ["always_valid"]}
    last = analyze(frame, **asked)  # raises for what is wrong in every look
    parts = []
    for look, end in enumerate(ends.to_list()[:-1]):
        so_far = frame.filter(column <= end)
        parts.append(_at(so_far, look, last["outcome"], asked))
    last = last.with_columns(look=pl.lit(len(ends) - 1), why=pl.lit(None, pl.String))
    parts.append(last)
    found = pl.concat(parts, how="diagonal_relaxed")
    rows = np.searchsorted(column.sort().to_numpy(), ends.to_numpy(), side="right")
    place = found["look"].to_numpy()
    share = rows[place] / planned
    value, se = (found[x].cast(pl.Float64).fill_null(np.nan).to_numpy() for x in ("value", "se"))
    bands = confidence_sequence(value, se, share).columns()
    is_known = pl.col("ci_low").is_not_null()
    why = pl.when(is_known).then(pl.lit("")).otherwise(pl.col("why").fill_null(_TOO_FEW))
    found = found.with_columns(*bands, share=share, time=ends.gather(place), look=place + 1)
    typed = (pl.col(name).cast(kind) for name, kind in LOOK_SCHEMA.items())
    return found.with_columns(why=why).select("time", *typed).select(_ORDER)


def _at(
    so_far: pl.DataFrame, look: int, outcomes: pl.Series, asked: dict[str, Any]
) -> pl.DataFrame:
    """What the rows so far say; nulls, and why, where they cannot be analysed yet."""
    try:
        with warnings.catch_warnings():  # the last look warns
            warnings.simplefilter("ignore", UserWarning)
            found = analyze(so_far, **asked)
    except InputError as error:
        found = pl.DataFrame({"outcome": outcomes}).with_columns(why=pl.lit(str(error)))
    return found.with_columns(look=pl.lit(look))


def _last_rows(n_rows: int, looks: int) -> np.ndarray:
    """The places of the last rows of so many looks, as even as can be."""
    return np.unique(np.linspace(0, n_rows, looks + 1).round().astype(int)[1:].clip(1)) - 1
