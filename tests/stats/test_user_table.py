"""Sums per user equal counting the visits one by one."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest

from realdataexp.stats.aggregates import USER_SCHEMA, user_table

W, X, L, U = 3, 60, 2, 9
WORLDS, LABELS = [("global", 0), ("pooling", 0), ("pooling", 4)], ["click", "play_time"]


def visits(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Users change arm from visit to visit; outcomes and covariates are missing here and there."""
    g = np.random.default_rng(seed)
    y_WXL = g.normal(3, 2, (W, X, L)).astype(np.float32)
    y_WXL[g.random((W, X, L)) < 0.3] = np.nan
    y_WXL[1, :, 0] = np.nan  # a world in which a label is never known
    covariate_UL = g.normal(size=(U, L)).astype(np.float32)
    covariate_UL[g.random((U, L)) < 0.3] = np.nan
    return g.integers(0, U - 1, (W, X)), g.random((W, X)) < 0.5, y_WXL, covariate_UL


def plain_loop(
    user_WX: np.ndarray, is_treated_WX: np.ndarray, y_WXL: np.ndarray, covariate_UL: np.ndarray
) -> dict[tuple[str, int, str, str, int], tuple[int, float, float | None]]:
    rows: dict[tuple[str, int, str, str, int], tuple[int, float, float | None]] = {}
    for w, (design, world) in enumerate(WORLDS):
        for i, label in enumerate(LABELS):
            for x in range(X):
                y, user = float(y_WXL[w, x, i]), int(user_WX[w, x])
                if math.isnan(y):
                    continue
                key = (design, world, "CT"[int(is_treated_WX[w, x])], label, user)
                before = float(covariate_UL[user, i])
                n, total, _ = rows.get(key, (0, 0.0, None))
                rows[key] = (n + 1, total + y, None if math.isnan(before) else before)
    return rows


def test_user_sums_equal_counting_one_by_one() -> None:
    table = user_table(*visits(), WORLDS, LABELS)
    assert dict(table.schema) == dict(USER_SCHEMA)
    rows = {row[:5]: row[5:] for row in table.iter_rows()}
    expected = plain_loop(*visits())
    assert len(rows) == table.height and rows.keys() == expected.keys()
    for key, (n, total, before) in rows.items():
        assert (n, before) == (expected[key][0], expected[key][2])
        assert total == pytest.approx(expected[key][1], rel=1e-12)
    assert any(row[2] is None for row in expected.values())
    assert not any(key[:4:3] == ("pooling", "click") and key[1] == 0 for key in expected)


def test_the_table_survives_a_parquet_file(tmp_path) -> None:  # type: ignore[no-untyped-def]
    table = user_table(*visits(), WORLDS, LABELS)
    table.write_parquet(tmp_path / "users.parquet")
    back = pl.read_parquet(tmp_path / "users.parquet")
    assert dict(back.schema) == dict(USER_SCHEMA) and back.equals(table)


def test_without_a_pre_period_nobody_has_a_covariate() -> None:
    user_WX, is_treated_WX, y_WXL, covariate_UL = visits()
    table = user_table(user_WX, is_treated_WX, y_WXL, None, WORLDS, LABELS)
    assert table["covariate"].null_count() == table.height
    same = user_table(user_WX, is_treated_WX, y_WXL, covariate_UL, WORLDS, LABELS)
    assert table.drop("covariate").equals(same.drop("covariate"))


def test_without_outcomes_the_table_is_empty_with_its_columns() -> None:
    user_WX, is_treated_WX, y_WXL, covariate_UL = visits()
    table = user_table(user_WX, is_treated_WX, y_WXL * np.nan, covariate_UL, WORLDS, LABELS)
    assert table.height == 0 and dict(table.schema) == dict(USER_SCHEMA)


def test_a_user_number_matters_only_where_there_is_an_outcome() -> None:
    user_WX, is_treated_WX, y_WXL, covariate_UL = visits()
    table = user_table(user_WX, is_treated_WX, y_WXL, covariate_UL, WORLDS, LABELS)
    nobody = user_WX.copy()
    nobody[np.isnan(y_WXL).all(2)] = -1
    assert user_table(nobody, is_treated_WX, y_WXL, covariate_UL, WORLDS, LABELS).equals(table)
    user_WX[2, np.flatnonzero(np.isfinite(y_WXL[2, :, 0]))[0]] = U
    with pytest.raises(ValueError, match=r"\('pooling', 4\): users 0 to 9, must be 0 to 8"):
        user_table(user_WX, is_treated_WX, y_WXL, covariate_UL, WORLDS, LABELS)
