"""The natural experiment in KuaiRand's logs: random exposures among standard ones, since a date.

From 22 April 2022 on, some places of each user's feed showed a video at random (Gao et al., CIKM
2022). Two contrasts follow, both of users with themselves, so that who they are cancels:

- *standard against random*: what the platform's recommender adds to a random video, after the date;
- *before against after*: whether standard exposures changed at the date, the week after against the
  week before. The same at dates at which nothing happened is the placebo: how much weeks differ
  anyway.

Users count the same, and are what the standard error counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date, timedelta
from typing import Any

import numpy as np
import polars as pl
from scipy import stats

from realdataexp.data.schema import LABEL_COLUMNS

START = date(2022, 4, 22)
"""The first day with random exposures."""

BALANCED = 0.1
"""Largest standardised mean difference that passes as balanced (Austin 2009, Stat. Med. 28)."""

MOST_CHANGE = 1.5
"""By how much exposures a day may grow or fall at the date for the logs to pass as alike."""

_WEEK = timedelta(days=7)
_DAY = timedelta(days=1)
_KEYS = ["user_id", "day", "is_rand", "tab"]
_NEEDED = ("user_id", "date", "hourmin", "tab", "is_rand")
_MOST_CELLS = 4_000_000
Found = dict[str, Any]


def natural_experiment(
    blocks: Iterable[pl.DataFrame], outcomes: Mapping[str, str], start: date = START
) -> Found:
    """Both contrasts of each outcome with what speaks for and against them; JSON-able.

    Args:
        blocks: rows of the logs, with KuaiRand's columns; exact repeats within a block are dropped.
        outcomes: their columns, by name.
        start: the first day with random exposures.

    Returns:
        ``standard_against_random`` and ``before_against_after``: each with its effects, and the
        checks of its assumptions; or ``cannot_tell`` with the reason.
    """
    cells = _cells(blocks, outcomes)
    lacking = [x for x in (*_NEEDED, *outcomes.values()) if cells is None or x not in cells[1]]
    if cells is None or lacking:
        reason = f"the logs lack {', '.join(lacking)}"
        return {
            name: {"cannot_tell": reason}
            for name in ("standard_against_random", "before_against_after")
        }
    return {
        "start": start.isoformat(),
        "standard_against_random": _standard_against_random(cells[0], [*outcomes], start),
        "before_against_after": _before_against_after(cells[0], [*outcomes], start),
    }


def _cells(
    blocks: Iterable[pl.DataFrame], outcomes: Mapping[str, str]
) -> tuple[pl.DataFrame, set[str]] | None:
    """Counts and sums by user, day, kind of exposure and tab; and the columns that there are."""
    parts: list[pl.DataFrame] = []
    columns: set[str] | None = None
    for block in blocks:
        own = set(block.columns)
        columns = own if columns is None else columns & own
        if not {*_NEEDED, *outcomes.values()} <= own:
            continue
        parts.append(_counted(block.unique(), outcomes))
        if sum(x.height for x in parts) > _MOST_CELLS:
            parts = [_added(parts)]
    if columns is None:
        return None
    return (_added(parts) if parts else pl.DataFrame()), columns


def _counted(rows: pl.DataFrame, outcomes: Mapping[str, str]) -> pl.DataFrame:
    hour = pl.col("hourmin") // 100
    sums = [pl.len().cast(pl.Int64).alias("n"), hour.sum().cast(pl.Int64).alias("hour")]
    sums.append((hour.cast(pl.Int64) ** 2).sum().alias("hour_sq"))
    for name, column in outcomes.items():
        y = pl.col(column).cast(pl.Float64)
        y = pl.when(y.is_between(*LABEL_COLUMNS[column]) & y.is_finite()).then(y)
        sums += [y.sum().alias(f"sum {name}"), y.count().cast(pl.Int64).alias(f"n {name}")]
    day = pl.col("date").cast(pl.String).str.to_date("%Y%m%d").alias("day")
    return rows.with_columns(day).group_by(_KEYS).agg(sums)


def _added(parts: Sequence[pl.DataFrame]) -> pl.DataFrame:
    return pl.concat(parts).group_by(_KEYS).agg(pl.exclude(_KEYS).sum()).sort(_KEYS)


# --- a contrast of users with themselves ---------------------------------------------------------


def paired(one: pl.DataFrame, other: pl.DataFrame, outcome: str, *, within: str = "") -> Found:
    """The mean over users of their mean in one set of cells less that in another.

    ``within`` names a key in which both must agree: a user's differences are averaged over it.
    """
    keys = ["user_id", *([within] if within else [])]
    mean = (pl.col(f"sum {outcome}").sum() / pl.col(f"n {outcome}").sum()).alias("y")
    both = [
        cells.filter(pl.col(f"n {outcome}") > 0).group_by(keys).agg(mean) for cells in (one, other)
    ]
    users = both[0].join(both[1], on=keys).group_by("user_id").agg(pl.col("y", "y_right").mean())
    users = users.sort("user_id")
    n = users.height
    if n < 2:
        return {"cannot_tell": f"{n} users have exposures of both kinds: it takes two"}
    y, x = (users[name].to_numpy() for name in ("y", "y_right"))
    value, se = float((y - x).mean()), float((y - x).std(ddof=1) / np.sqrt(n))
    half = float(stats.t.ppf(0.975, n - 1)) * se
    return {
        "value": value, "se": se, "ci_low": value - half, "ci_high": value + half, "n_users": n,
        "mean": float(y.mean()), "mean_other": float(x.mean()),
    }  # fmt: skip


# --- standard against random ---------------------------------------------------------------------


def _standard_against_random(cells: pl.DataFrame, outcomes: Sequence[str], start: date) -> Found:
    late = cells.filter(pl.col("day") >= start)
    standard, random = (late.filter(pl.col("is_rand") == kind) for kind in (0, 1))
    for name, found in (("random", random), ("standard", standard)):
        if found.is_empty():
            return {"cannot_tell": f"no {name} exposure since {start}: dataset.logs lacks its log"}
    shared = standard.join(random.select("user_id").unique(), on="user_id", how="semi")
    paired_random = random.join(standard.select("user_id").unique(), on="user_id", how="semi")
    n_standard = standard["user_id"].n_unique()
    return {
        "effects": {name: paired(standard, random, name) for name in outcomes},
        "effects_within_tab": {
            name: paired(standard, random, name, within="tab") for name in outcomes
        },
        "share_of_users_with_both": shared["user_id"].n_unique() / n_standard,
        "balance": list(_balance(shared, paired_random, start)),
        "balanced_up_to": BALANCED,
    }


def _balance(one: pl.DataFrame, other: pl.DataFrame, start: date) -> Iterator[Found]:
    """When and where both kinds were shown: means, and their difference in standard deviations."""
    tab = other.group_by("tab").agg(pl.col("n").sum()).sort("n", "tab")["tab"][-1]
    numbers = {
        "day": (pl.col("day") - start).dt.total_days().cast(pl.Float64),
        f"share in tab {tab}": (pl.col("tab") == tab).cast(pl.Float64),
    }
    moments = {
        name: [
            cells.select(
                mean=(x * pl.col("n")).sum() / pl.col("n").sum(),
                square=(x**2 * pl.col("n")).sum() / pl.col("n").sum(),
            ).row(0)
            for cells in (one, other)
        ]
        for name, x in numbers.items()
    }
    hours = [pl.col("hour").sum() / pl.col("n").sum(), pl.col("hour_sq").sum() / pl.col("n").sum()]
    moments["hour"] = [cells.select(*hours).row(0) for cells in (one, other)]
    for name, ((mean, square), (mean_other, square_other)) in moments.items():
        variance = max(0.0, (square - mean**2 + square_other - mean_other**2) / 2)
        # where neither varies, another mean is no finite number of standard deviations away
        is_alike = abs(mean - mean_other) <= BALANCED * np.sqrt(variance) + 1e-9
        apart = (mean - mean_other) / np.sqrt(variance) if variance > 1e-12 else None
        yield {
            "name": name, "standard": mean, "random": mean_other, "difference_sd": apart,
            "is_balanced": bool(is_alike),
        }  # fmt: skip


# --- before against after ------------------------------------------------------------------------


def _before_against_after(cells: pl.DataFrame, outcomes: Sequence[str], start: date) -> Found:
    standard = cells.filter(pl.col("is_rand") == 0)
    if standard.is_empty():
        return {"cannot_tell": "no standard exposure: dataset.logs lacks their logs"}
    first, last = standard["day"].min(), standard["day"].max()
    assert isinstance(first, date) and isinstance(last, date)
    before, after = standard.filter(pl.col("day") < start), standard.filter(pl.col("day") >= start)
    days = [first + i * _DAY for i in range((last - first).days + 1)]
    # a placebo's two weeks lie on one side of the date
    placebos = [d for d in days if _has_weeks(d, first, min(last, start - _DAY))]
    placebos += [d for d in days if _has_weeks(d, max(first, start), last)]
    at_date = _has_weeks(start, first, last)
    users = [x.select("user_id").unique() for x in (before, after)]
    n_stay = users[0].join(users[1], on="user_id").height
    lacks = (
        f"the standard logs have {first} to {last}, not the weeks before and after {start}: "
        "dataset.logs needs standard_early and standard_late"
    )
    found: Found = {
        "days": [first.isoformat(), last.isoformat()],
        "share_of_users_who_stay": n_stay / users[0].height if users[0].height else None,
        "exposures_per_day": _per_day(before, after) if before.height and after.height else None,
        "effects": {
            name: _at(standard, start, name) if at_date else {"cannot_tell": lacks}
            for name in outcomes
        },
        "placebos": {
            name: [{"day": d.isoformat(), **_at(standard, d, name)} for d in placebos]
            for name in outcomes
        },
    }
    return {**found, "beyond_placebos": {x: _is_beyond_placebos(found, x) for x in outcomes}}


def _per_day(before: pl.DataFrame, after: pl.DataFrame) -> Found:
    """Standard exposures a day; a log that keeps another part of them is another log."""
    n, n_after = (int(x["n"].sum()) / x["day"].n_unique() for x in (before, after))
    is_alike = 1 / MOST_CHANGE <= n_after / n <= MOST_CHANGE
    return {"before": n, "after": n_after, "is_alike": is_alike}


def _has_weeks(day: date, first: date, last: date) -> bool:
    return day - _WEEK >= first and day + _WEEK - _DAY <= last


def _at(cells: pl.DataFrame, day: date, outcome: str) -> Found:
    """The week from a day on less the week before it, of users who are in both."""
    after, before = (
        cells.filter(pl.col("day").is_between(first, first + _WEEK, closed="left"))
        for first in (day, day - _WEEK)
    )
    return paired(after, before, outcome)


def _is_beyond_placebos(found: Found, outcome: str) -> bool | None:
    """Whether the change at the date is larger than at all placebo dates; None: not to be told."""
    sizes = [abs(x["value"]) for x in found["placebos"][outcome] if "value" in x]
    effect = found["effects"][outcome]
    return abs(effect["value"]) > max(sizes) if sizes and "value" in effect else None
