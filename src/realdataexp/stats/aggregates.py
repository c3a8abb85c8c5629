"""Sufficient statistics of outcomes: the seam between a run and every inference from it.

Axes: W worlds, B visits of a step, X visits of a whole run, A arms (0 = control, 1 = treatment),
L labels, U users, R replications.

A *unit* is what was randomised as one: a user, a cluster of users, a block of steps.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from scipy.stats import binomtest

ARMS = ("C", "T")
LEAST_P_VALUE = 1e-4  # how often a right assignment is called a mismatch, at most

OUTCOME_SCHEMA = pl.Schema(
    {
        "design": pl.String, "world": pl.Int32, "step": pl.Int32, "arm": pl.String,
        "label": pl.String, "n": pl.Int32, "sum": pl.Float64, "sum_sq": pl.Float64,
    }
)  # fmt: skip
TOTALS_SCHEMA = pl.Schema(
    {
        "design": pl.String, "world": pl.Int32, "arm": pl.String, "label": pl.String,
        "n": pl.Int64, "sum": pl.Float64,
    }
)  # fmt: skip
# Names repeat in millions of rows: categories hold them as numbers.
UNIT_SCHEMA = pl.Schema(
    {
        "design": pl.Categorical(), "world": pl.Int32(), "arm": pl.Categorical(),
        "label": pl.Categorical(), "unit": pl.Int32(), "n": pl.Int32(), "sum": pl.Float64(),
        "covariate": pl.Float64(), "ahead": pl.Float64(),
    }
)  # fmt: skip
# further columns of units, where a method that reads both arms' picks is asked for
PICKS_SCHEMA = pl.Schema(
    {
        "n_differ": pl.Int32(), "sum_differ": pl.Float64(),
        "n_parted": pl.Int32(), "sum_parted": pl.Float64(),
    }
)  # fmt: skip
# and where one is that reads what the models predicted of these picks
FORETOLD_SCHEMA = pl.Schema(
    {"foretold": pl.Float64(), "foretold_C": pl.Float64(), "foretold_T": pl.Float64()}
)


def arm_sums(is_treated_WB: np.ndarray, y_WBL: np.ndarray) -> np.ndarray:
    """Count, sum and sum of squares of the known outcomes of each arm: float64 W, A, L, 3.

    An outcome is NaN where a label is missing or there was no visit.
    """
    known = np.isfinite(y_WBL)
    y = np.where(known, y_WBL, 0.0).astype(np.float64)
    W, B, L = y.shape
    powers_WBX = np.stack([known, y, y * y], axis=-1).reshape(W, B, L * 3)
    arm_WAB = np.stack([~is_treated_WB, is_treated_WB], axis=1).astype(np.float64)
    # not by a BLAS, which adds up in an order that depends on its threads
    return np.einsum("wab,wbx->wax", arm_WAB, powers_WBX).reshape(W, len(ARMS), L, 3)


def outcome_table(
    sums_TWAL3: np.ndarray,
    steps: list[int],
    worlds: list[tuple[str, int]],
    labels: list[str],
) -> pl.DataFrame:
    """Rows of outcomes.parquet: one for each world, step, arm with outcomes, and label.

    The sums are ``arm_sums`` of the steps; a world is its design and replication.
    """
    T, W, A, L, _ = sums_TWAL3.shape
    index = [x.ravel() for x in np.indices((T, W, A, L))]
    flat = sums_TWAL3.reshape(-1, 3)
    frame = pl.DataFrame(
        {
            "design": np.array([name for name, _ in worlds])[index[1]],
            "world": np.array([replication for _, replication in worlds])[index[1]],
            "step": np.array(steps)[index[0]],
            "arm": np.array(ARMS)[index[2]],
            "label": np.array(labels)[index[3]],
            "n": flat[:, 0],
            "sum": flat[:, 1],
            "sum_sq": flat[:, 2],
        },
    )
    return frame.cast(OUTCOME_SCHEMA).filter(pl.col("n") > 0)


def world_totals(tables: Iterable[pl.DataFrame]) -> pl.DataFrame:
    """Sums over steps of outcomes, or of totals: a row for each design, world, arm and label."""
    parts = [table.select(TOTALS_SCHEMA.names()).cast(TOTALS_SCHEMA) for table in tables]
    keys = ["design", "world", "arm", "label"]
    return pl.concat(parts).group_by(keys, maintain_order=True).agg(pl.col("n", "sum").sum())


def unit_table(
    unit_WX: np.ndarray,
    user_WX: np.ndarray,
    is_treated_WX: np.ndarray,
    y_WXL: np.ndarray,
    covariates: Sequence[np.ndarray] | None,
    worlds: list[tuple[str, int]],
    labels: list[str],
    picks: Mapping[str, np.ndarray] | None = None,
    foretold_WXAL: np.ndarray | None = None,
) -> pl.DataFrame:
    """What each unit did in each arm: the seam for inference that takes units as independent.

    A unit whose visits change arm has a row in each.

    Args:
        unit_WX: which unit a visit belongs to: whole numbers from 0 (any number where there was
            no visit).
        user_WX: whose visit it was, as rows of ``covariates``; not looked at without these.
        is_treated_WX: each visit's arm.
        y_WXL: as for ``arm_sums``.
        covariates: for each world a table U, L of each user's mean outcome of each label before
            the experiment, NaN where unknown; None where nobody's is known.
        worlds: each world's design and replication.
        labels: the labels' names.
        picks: which visits are "differ" and "parted" (see ``parted``): bool W, X each; None where
            the arms' picks are not known. "y", if given, is summed over them in place of y_WXL.
        foretold_WXAL: what was predicted at the visit for what each arm would have picked, NaN
            where nothing was; None where that is not known, or ``picks`` are not.

    Returns:
        One row per design, world, label, unit and arm with a known outcome, in this order: n
        (visits with a known outcome), sum (of the outcome), covariate: the mean over these visits,
        in both arms, of the visitors' known covariates (null where there is none); ahead: the sum
        over these visits of ``outcomes_ahead`` (null where all units of the world keep one arm).
        With ``picks`` also PICKS_SCHEMA: n and sum again, of such visits only. With
        ``foretold_WXAL`` also FORETOLD_SCHEMA: foretold: the mean over these visits of both arms'
        prediction at the visitor's first visit; foretold_C, foretold_T: the sums over "parted"
        visits of each arm's at the visitor's first such visit (null where there is none).

    Raises:
        ValueError: a visit with an outcome has a unit below 0, or a user without a row in
            the world's table.
    """
    parts: list[tuple[Any, ...]] = []  # world, label, then a column each
    for w in range(len(worlds)):
        of_picks = _OfPicks.of_world(picks, foretold_WXAL, user_WX, w)
        for i in range(len(labels)):
            known_X = np.isfinite(y_WXL[w, :, i])
            unit_x = unit_WX[w, known_X].astype(np.int64)
            if unit_x.size == 0:
                continue
            _check(f"unit_WX of world {worlds[w]}: units", unit_x, None)
            n_units = int(unit_x.max()) + 1
            covariate_G = np.full(n_units, np.nan)
            if covariates is not None:
                user_x = user_WX[w, known_X]
                _check(f"user_WX of world {worlds[w]}: users", user_x, len(covariates[w]))
                covariate_G = _mean_by_unit(covariates[w][user_x, i], unit_x, n_units)
            key_x = 2 * unit_x + is_treated_WX[w, known_X]
            n = np.bincount(key_x, minlength=2 * n_units)
            total = np.bincount(key_x, weights=y_WXL[w, known_X, i], minlength=2 * n_units)
            row = np.flatnonzero(n)
            ahead = np.full(len(n), np.nan)
            if n.reshape(-1, 2).all(1).any():
                ahead_x = outcomes_ahead(unit_x, y_WXL[w, known_X, i])
                ahead = np.bincount(key_x, weights=ahead_x, minlength=2 * n_units)
            own = [n[row], total[row], covariate_G[row // 2], ahead[row]]
            if of_picks is not None:
                y_X = (picks or {}).get("y", y_WXL)[w, :, i]
                own += of_picks.columns(i, known_X, y_X, key_x, row)
            parts.append((w, i, row, *own))
    more = {} if picks is None else {**PICKS_SCHEMA}
    if picks is not None and foretold_WXAL is not None:
        more |= FORETOLD_SCHEMA
    schema = pl.Schema({**UNIT_SCHEMA, **more})
    if not parts:
        return pl.DataFrame(schema=schema)
    sizes = [len(part[2]) for part in parts]
    w_N = np.repeat([part[0] for part in parts], sizes)
    i_N = np.repeat([part[1] for part in parts], sizes)
    key_N, n_N, sum_N, covariate_N, ahead_N, *more_N = (
        np.concatenate(x) for x in list(zip(*parts, strict=True))[2:]
    )
    columns = {
        "design": _repeated([name for name, _ in worlds], w_N),
        "world": np.array([replication for _, replication in worlds], np.int32)[w_N],
        "arm": _repeated(list(ARMS), key_N % 2),
        "label": _repeated(labels, i_N),
        "unit": (key_N // 2).astype(np.int32),
        "n": n_N.astype(np.int32),
        "sum": sum_N,
        "covariate": covariate_N,
        "ahead": ahead_N,
        **{
            name: x.astype(np.int32) if name.startswith("n_") else x
            for name, x in zip(more, more_N, strict=True)
        },
    }
    frame = pl.DataFrame(columns, schema=schema)
    may_lack = [x for x in ("covariate", "ahead", *FORETOLD_SCHEMA) if x in schema]
    known = (pl.when(pl.col(x).is_finite()).then(x).alias(x) for x in may_lack)
    return frame.with_columns(*known)


@dataclass(frozen=True)
class _OfPicks:
    """What is known of both arms' picks at the visits of a world."""

    differs_X: np.ndarray
    parted_X: np.ndarray
    at_first_XL: np.ndarray | None = None  # both arms' prediction at the user's first visit
    at_parting_XAL: np.ndarray | None = None  # each arm's at the first where the picks differ

    @classmethod
    def of_world(
        cls,
        picks: Mapping[str, np.ndarray] | None,
        foretold_WXAL: np.ndarray | None,
        user_WX: np.ndarray,
        w: int,
    ) -> _OfPicks | None:
        """See ``unit_table``."""
        if picks is None:
            return None
        own = picks["differ"][w], picks["parted"][w]
        if foretold_WXAL is None:
            return cls(*own)
        own_XAL = foretold_WXAL[w].astype(np.float64)
        is_told_X = np.isfinite(own_XAL).any((1, 2))
        at_first_XL = own_XAL[first_where(user_WX[w], is_told_X)].mean(1)
        return cls(*own, at_first_XL, own_XAL[first_where(user_WX[w], own[1])])

    def columns(
        self, label: int, known_X: np.ndarray, y_X: np.ndarray, key_x: np.ndarray, row: np.ndarray
    ) -> list[np.ndarray]:
        """PICKS_SCHEMA, and FORETOLD_SCHEMA where it is known, of some keys (unit and arm)."""

        def sums(on_X: np.ndarray, x_X: np.ndarray | None = None) -> np.ndarray:
            on_x = on_X[known_X]
            weights = None if x_X is None else x_X[known_X][on_x]
            return np.bincount(key_x[on_x], weights, minlength=row[-1] + 1)[row]

        found = [sums(on_X, x) for on_X in (self.differs_X, self.parted_X) for x in (None, y_X)]
        if self.at_first_XL is not None and self.at_parting_XAL is not None:
            first_x = self.at_first_XL[known_X, label]
            found.append(_mean_by_unit(first_x, key_x // 2, row[-1] // 2 + 1)[row // 2])
            found += [sums(self.parted_X, self.at_parting_XAL[:, a, label]) for a in (0, 1)]
        return found


def outcomes_ahead(unit_x: np.ndarray, y_x: np.ndarray) -> np.ndarray:
    """What each unit's outcomes sum to from a visit on, each minus the mean of all: float64 x.

    The visits are in the order of time. It is what a visit is worth to its unit, if the mean is
    what any visit brings: the Q-value of a Markov reward process on average, with one draw of its
    future (Farias et al. 2022, arXiv 2206.02371, section 2).

    Examples:
        Two visits of unit 5, with one of unit 7 between them; the mean is 2:

        >>> outcomes_ahead(np.array([5, 7, 5]), np.array([0.0, 3.0, 3.0])).tolist()
        [-1.0, 1.0, 1.0]
    """
    order = np.argsort(unit_x, kind="stable")[::-1]  # from each unit's last visit back
    y_x = y_x.astype(np.float64)
    sums = np.cumsum((y_x - y_x.mean())[order])
    is_first = np.ones(len(order), dtype=bool)
    is_first[1:] = np.diff(unit_x[order]) != 0
    before = np.concatenate([[0.0], sums])[np.flatnonzero(is_first)]
    out = np.empty_like(sums)
    out[order] = sums - before[np.cumsum(is_first) - 1]
    return out


def parted(user_X: np.ndarray, differs_X: np.ndarray) -> np.ndarray:
    """Whether the arms' picks have differed in any of the user's visits up to this one: bool X.

    The visits are in the order of time. Until then a user has been shown the same whatever the
    arm, so that neither the visit's slate nor its outcome depends on it.

    Examples:
        User 5's first visit differs, and so its second counts; user 7's visits all agree:

        >>> parted(np.array([7, 5, 7, 5]), np.array([False, True, False, False])).tolist()
        [False, True, False, True]
    """
    return first_where(user_X, differs_X) >= 0


def first_where(user_X: np.ndarray, on_X: np.ndarray) -> np.ndarray:
    """The place of the first of the user's visits up to this one that is on, or -1: int64 X.

    The visits are in the order of time.

    Examples:
        >>> first_where(np.array([7, 5, 7, 5]), np.array([False, True, True, False])).tolist()
        [-1, 1, 2, 1]
    """
    n = len(user_X)
    order = np.argsort(user_X, kind="stable")
    is_first = np.ones(n, dtype=bool)
    is_first[1:] = np.diff(user_X[order]) != 0
    group, begins = np.cumsum(is_first) - 1, np.flatnonzero(is_first)
    place_on = np.where(on_X[order], np.arange(n), n)
    first = np.minimum.reduceat(place_on, begins)[group] if n else place_on
    out = np.empty(n, dtype=np.int64)
    out[order] = np.where(first <= np.arange(n), order[first.clip(max=n - 1)], -1)
    return out


def _check(whose: str, number_x: np.ndarray, end: int | None) -> None:
    """Refuse numbers below 0, or not below the end where there is one."""
    first, last = number_x.min(), number_x.max()
    if first < 0 or (end is not None and last >= end):
        limit = "0 or more" if end is None else f"0 to {end - 1}"
        raise ValueError(f"{whose} {first} to {last}, must be {limit}")


def _mean_by_unit(x_x: np.ndarray, unit_x: np.ndarray, n_units: int) -> np.ndarray:
    """The mean over each unit's visits of what is known; NaN where nothing is."""
    # as distances from one of the values, so that the mean of equal ones is exactly theirs
    known_x = np.isfinite(x_x)
    unit_k, x_k = unit_x[known_x], x_x[known_x].astype(np.float64)
    one_G = np.full(n_units, np.nan)
    one_G[unit_k] = x_k
    n_G = np.bincount(unit_k, minlength=n_units)
    return one_G + np.bincount(unit_k, x_k - one_G[unit_k], minlength=n_units) / n_G.clip(1)


def _repeated(names: list[str], index: np.ndarray) -> pl.Series:
    """The names at these places, as categories."""
    return pl.Series(names, dtype=pl.Categorical()).gather(index)


def units_by_arm(unit_RX: np.ndarray, is_treated_RX: np.ndarray) -> dict[str, int]:
    """How many units had the treatment (T), and the control (C), over all replications.

    A unit is a number from 0, or less for what is no visit. Where visits of one unit have both
    arms, they were not randomised as one: the visits are counted then.
    """
    n_units, n_visits = np.zeros(2, dtype=int), np.zeros(2, dtype=int)
    is_mixed = False
    for unit_X, is_treated_X in zip(unit_RX, is_treated_RX, strict=True):
        on_X = unit_X >= 0
        arm_x = is_treated_X[on_X].astype(np.int64)
        key_u = np.unique(2 * unit_X[on_X].astype(np.int64) + arm_x)
        is_mixed |= len(np.unique(key_u // 2)) < len(key_u)
        n_units += np.bincount(key_u % 2, minlength=2)
        n_visits += np.bincount(arm_x, minlength=2)
    n_C, n_T = (n_visits if is_mixed else n_units).tolist()
    return {"T": n_T, "C": n_C}


def ratio_p_value(n_T: int, n_C: int, p: float) -> float:
    """Exact binomial test of the number of treated units against the share p; 1 without units.

    Where the arms did not get the share of units that was planned (sample-ratio mismatch), what
    assigns the arms is broken, or it lost some of them, and no estimate from such a test is to be
    trusted: Fabijan et al., KDD 2019.

    Examples:
        >>> ratio_p_value(1920, 1280, 0.5) < 1e-28, round(ratio_p_value(52, 48, 0.5), 2)
        (True, 0.76)
    """
    return float(binomtest(n_T, n_T + n_C, p).pvalue) if n_T + n_C else 1.0
