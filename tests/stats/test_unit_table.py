"""Sums per unit equal counting the visits one by one."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest

from realdataexp.stats.aggregates import UNIT_SCHEMA, unit_table

W, X, L, U = 3, 60, 2, 9
CLUSTER_U = np.array([3, 0, 0, 1, 3, 1, 0, 3, 1])
WORLDS, LABELS = [("global", 0), ("pooling", 0), ("pooling", 4)], ["click", "play_time"]


Visits = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]
Rows = dict[tuple[str, int, str, str, int], tuple[int, float, float | None]]


def visits(seed: int = 0, of_clusters: bool = False) -> Visits:
    """Users change arm from visit to visit; outcomes and covariates are missing here and there."""
    g = np.random.default_rng(seed)
    y_WXL = g.normal(3, 2, (W, X, L)).astype(np.float32)
    y_WXL[g.random((W, X, L)) < 0.3] = np.nan
    y_WXL[1, :, 0] = np.nan  # a world in which a label is never known
    covariate_WUL = g.normal(size=(W, U, L))
    covariate_WUL[g.random((W, U, L)) < 0.3] = np.nan
    user_WX, is_treated_WX = g.integers(0, U - 1, (W, X)), g.random((W, X)) < 0.5
    unit_WX = CLUSTER_U[user_WX] if of_clusters else user_WX.copy()
    return unit_WX, user_WX, is_treated_WX, y_WXL, covariate_WUL


def plain_loop(
    unit_WX: np.ndarray,
    user_WX: np.ndarray,
    is_treated_WX: np.ndarray,
    y_WXL: np.ndarray,
    covariate_WUL: np.ndarray,
) -> Rows:
    rows: Rows = {}
    before: dict[tuple[int, int, int], list[float]] = {}
    places = [(w, i, x) for w in range(W) for i in range(L) for x in range(X)]
    known = [place for place in places if not math.isnan(y_WXL[place[0], place[2], place[1]])]
    for w, i, x in known:
        earlier = float(covariate_WUL[w, user_WX[w, x], i])
        found = before.setdefault((w, i, int(unit_WX[w, x])), [])
        found += [] if math.isnan(earlier) else [earlier]
    for w, i, x in known:
        unit, arm = int(unit_WX[w, x]), "CT"[int(is_treated_WX[w, x])]
        key = (*WORLDS[w], arm, LABELS[i], unit)
        n, total, _ = rows.get(key, (0, 0.0, None))
        mine = before[w, i, unit]
        mean = sum(mine) / len(mine) if mine else None
        rows[key] = (n + 1, total + float(y_WXL[w, x, i]), mean)
    return rows


@pytest.mark.parametrize("of_clusters", [False, True])
def test_sums_and_covariates_of_units_equal_counting_one_by_one(of_clusters: bool) -> None:
    table = unit_table(*visits(0, of_clusters), WORLDS, LABELS)
    assert dict(table.schema) == dict(UNIT_SCHEMA)
    rows = {row[:5]: row[5:] for row in table.drop("ahead").iter_rows()}
    expected = plain_loop(*visits(0, of_clusters))
    assert len(rows) == table.height and rows.keys() == expected.keys()
    for key, (n, total, before) in rows.items():
        assert n == expected[key][0]
        assert total == pytest.approx(expected[key][1], rel=1e-12)
        mean = expected[key][2]
        assert before == (None if mean is None else pytest.approx(mean, rel=1e-12))
    assert any(row[2] is None for row in expected.values()) != of_clusters
    assert not any(key[:4:3] == ("pooling", "click") and key[1] == 0 for key in expected)


def test_values_by_hand() -> None:
    # a unit of users 0 and 1, a unit of user 2, of whom nothing is known
    user_WX, y_WXL = np.array([[0, 1, 1, 2, 0]]), np.array([[1.0, 2, 4, 8, np.nan]])[..., None]
    is_treated_WX = np.array([[True, True, False, True, True]])
    covariate_WUL = np.array([[[3.0], [6.0], [np.nan]]])
    table = unit_table(
        user_WX // 2, user_WX, is_treated_WX, y_WXL, covariate_WUL, [("cluster", 5)], ["click"]
    )
    # of the three visits with an outcome one is user 0's: (3 + 6 + 6) / 3
    assert table.select("unit", "arm", "n", "sum", "covariate").rows() == [
        (0, "C", 1, 4.0, 5.0), (0, "T", 2, 3.0, 5.0), (1, "T", 1, 8.0, None)
    ]  # fmt: skip


def test_where_units_are_users_the_covariate_is_exactly_the_users_own() -> None:
    unit_WX, user_WX, is_treated_WX, y_WXL, covariate_WUL = visits()
    table = unit_table(unit_WX, user_WX, is_treated_WX, y_WXL, covariate_WUL, WORLDS, LABELS)
    place = [LABELS.index(label) for label in table["label"]]
    world = [WORLDS.index(x) for x in table.select("design", "world").rows()]
    own = covariate_WUL[world, table["unit"].to_numpy(), place]
    np.testing.assert_array_equal(table["covariate"].to_numpy(), own)


def test_the_table_survives_a_parquet_file(tmp_path) -> None:  # type: ignore[no-untyped-def]
    table = unit_table(*visits(), WORLDS, LABELS)
    table.write_parquet(tmp_path / "units.parquet")
    back = pl.read_parquet(tmp_path / "units.parquet")
    assert dict(back.schema) == dict(UNIT_SCHEMA) and back.equals(table)


def test_without_a_pre_period_nobody_has_a_covariate() -> None:
    *seen, covariate_WUL = visits()
    table = unit_table(*seen, None, WORLDS, LABELS)
    assert table["covariate"].null_count() == table.height
    same = unit_table(*seen, covariate_WUL, WORLDS, LABELS)
    assert table.drop("covariate").equals(same.drop("covariate"))


def test_without_outcomes_the_table_is_empty_with_its_columns() -> None:
    unit_WX, user_WX, is_treated_WX, y_WXL, covariate_WUL = visits()
    nothing = (unit_WX, user_WX, is_treated_WX, y_WXL * np.nan, covariate_WUL)
    table = unit_table(*nothing, WORLDS, LABELS)
    assert table.height == 0 and dict(table.schema) == dict(UNIT_SCHEMA)


def test_a_number_matters_only_where_there_is_an_outcome() -> None:
    unit_WX, user_WX, is_treated_WX, y_WXL, covariate_WUL = visits()
    rest = (is_treated_WX, y_WXL, covariate_WUL, WORLDS, LABELS)
    table = unit_table(unit_WX, user_WX, *rest)
    is_nobody = np.isnan(y_WXL).all(2)
    nobody, nothing = np.where(is_nobody, -1, user_WX), np.where(is_nobody, -1, unit_WX)
    assert unit_table(nothing, nobody, *rest).equals(table)
    first = np.flatnonzero(np.isfinite(y_WXL[2, :, 0]))[0]
    user_WX[2, first] = U
    with pytest.raises(ValueError, match=r"\('pooling', 4\): users 0 to 9, must be 0 to 8"):
        unit_table(unit_WX, user_WX, *rest)
    unit_WX[2, first] = -1
    with pytest.raises(ValueError, match=r"\('pooling', 4\): units -1 to 7, must be 0 or more"):
        unit_table(unit_WX, user_WX, *rest)
