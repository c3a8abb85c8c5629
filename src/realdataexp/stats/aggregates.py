"""Sufficient statistics of outcomes: the seam between a run and every inference from it.

Axes: W worlds, B visits of a step, X visits of a whole run, A arms (0 = control, 1 = treatment),
L labels, U users.
"""

from __future__ import annotations

import numpy as np
import polars as pl

ARMS = ("C", "T")

OUTCOME_SCHEMA = pl.Schema(
    {
        "design": pl.String,
        "world": pl.Int32,
        "step": pl.Int32,
        "arm": pl.String,
        "label": pl.String,
        "n": pl.Int32,
        "sum": pl.Float64,
        "sum_sq": pl.Float64,
    }
)

# Names repeat in millions of rows: categories hold them as numbers.
USER_SCHEMA = pl.Schema(
    {
        "design": pl.Categorical(),
        "world": pl.Int32(),
        "arm": pl.Categorical(),
        "label": pl.Categorical(),
        "user": pl.Int32(),
        "n": pl.Int32(),
        "sum": pl.Float64(),
        "covariate": pl.Float64(),
    }
)


def arm_sums(is_treated_WB: np.ndarray, y_WBL: np.ndarray) -> np.ndarray:
    """Count, sum and sum of squares of the known outcomes of each arm: float64 W, A, L, 3.

    Args:
        is_treated_WB: bool, each visit's arm.
        y_WBL: outcomes; NaN where a label is missing or there was no visit.
    """
    known = np.isfinite(y_WBL)
    y = np.where(known, y_WBL, 0.0).astype(np.float64)
    sums = []
    for is_treated in (False, True):
        on = known & (is_treated_WB == is_treated)[..., None]
        value = y * on
        sums.append(np.stack([on.sum(1), value.sum(1), (value * value).sum(1)], axis=-1))
    return np.stack(sums, axis=1).astype(np.float64)


def outcome_table(
    sums_TWAL3: np.ndarray,
    steps: list[int],
    worlds: list[tuple[str, int]],
    labels: list[str],
) -> pl.DataFrame:
    """Rows of outcomes.parquet: one for each world, step, arm with outcomes, and label.

    Args:
        sums_TWAL3: ``arm_sums`` of several steps.
        steps: their numbers.
        worlds: each world's design and replication.
        labels: the labels' names.
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


def user_table(
    user_WX: np.ndarray,
    is_treated_WX: np.ndarray,
    y_WXL: np.ndarray,
    covariate_UL: np.ndarray | None,
    worlds: list[tuple[str, int]],
    labels: list[str],
) -> pl.DataFrame:
    """What each user did in each arm: the seam for inference that takes users as the units.

    ``user`` is whatever was randomised as one: where clusters of users got an arm together, pass
    clusters. A user whose visits change arm has a row in each.

    Args:
        user_WX: whose visit it was: whole numbers from 0 (any number where there was no visit).
        is_treated_WX: bool, each visit's arm.
        y_WXL: outcomes; NaN where a label is missing or there was no visit.
        covariate_UL: each user's mean outcome of each label before the experiment, NaN where
            unknown; None where nobody's is known.
        worlds: each world's design and replication.
        labels: the labels' names.

    Returns:
        One row per design, world, label, user and arm with a known outcome, in this order: n
        (visits with a known outcome), sum (of the outcome), covariate (null where unknown).

    Raises:
        ValueError: a visit with an outcome belongs to a user without a row in ``covariate_UL``.
    """
    n_users = len(covariate_UL) if covariate_UL is not None else int(user_WX.max(initial=-1)) + 1
    parts: list[tuple[int, int, np.ndarray, np.ndarray, np.ndarray]] = []
    for w in range(len(worlds)):
        for i in range(len(labels)):
            y_X = y_WXL[w, :, i]
            known_X = np.isfinite(y_X)
            user_x = user_WX[w, known_X].astype(np.int64)
            if user_x.size == 0:
                continue
            if user_x.min() < 0 or user_x.max() >= n_users:
                raise ValueError(
                    f"user_WX of world {worlds[w]}: users {user_x.min()} to {user_x.max()}, "
                    f"must be 0 to {n_users - 1}"
                )
            key_x = 2 * user_x + is_treated_WX[w, known_X]
            n = np.bincount(key_x, minlength=2 * n_users)
            total = np.bincount(key_x, weights=y_X[known_X], minlength=2 * n_users)
            row = np.flatnonzero(n)
            parts.append((w, i, row, n[row], total[row]))
    if not parts:
        return pl.DataFrame(schema=USER_SCHEMA)
    sizes = [len(part[2]) for part in parts]
    w_N = np.repeat([part[0] for part in parts], sizes)
    i_N = np.repeat([part[1] for part in parts], sizes)
    key_N = np.concatenate([part[2] for part in parts])
    unknown = np.full((n_users, len(labels)), np.nan)
    x_UL = unknown if covariate_UL is None else covariate_UL.astype(np.float64)
    columns = {
        "design": _repeated([name for name, _ in worlds], w_N),
        "world": np.array([replication for _, replication in worlds], np.int32)[w_N],
        "arm": _repeated(list(ARMS), key_N % 2),
        "label": _repeated(labels, i_N),
        "user": (key_N // 2).astype(np.int32),
        "n": np.concatenate([part[3] for part in parts]).astype(np.int32),
        "sum": np.concatenate([part[4] for part in parts]),
        "covariate": x_UL[key_N // 2, i_N],
    }
    frame = pl.DataFrame(columns, schema=USER_SCHEMA)
    return frame.with_columns(
        pl.when(pl.col("covariate").is_finite()).then(pl.col("covariate")).alias("covariate")
    )


def _repeated(names: list[str], index: np.ndarray) -> pl.Series:
    """The names at these places, as categories."""
    return pl.Series(names, dtype=pl.Categorical()).gather(index)
