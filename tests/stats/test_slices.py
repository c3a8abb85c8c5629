"""A slice gets what its rows alone get; all slices are one family of tests."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from statsmodels.stats.multitest import multipletests

from realdataexp.errors import InputError
from realdataexp.stats import analyze
from realdataexp.stats.slices import SLICE_SCHEMA, analyze_slices

METHODS = ["welch", "user_cluster"]
ASKED = {"arm": "arm", "unit": "user", "outcomes": ["minutes", "click"], "methods": METHODS}


def visits() -> pl.DataFrame:
    g = np.random.default_rng(5)
    user = g.integers(0, 300, 1500)
    arm = user % 2
    minutes = 5 + g.normal(size=300)[user] + 0.4 * arm * (user < 100) + g.normal(size=1500)
    since = np.where(user < 100, "new", np.where(user < 200, "old", "older"))
    columns = {"user": user, "arm": arm, "minutes": minutes, "click": minutes > 5, "since": since}
    return pl.DataFrame(columns)


def test_a_slice_gets_what_its_rows_alone_get():
    found = analyze_slices(visits(), by="since", **ASKED)
    assert found.schema == SLICE_SCHEMA
    assert found["slice"].unique(maintain_order=True).to_list() == ["new", "old", "older"]
    for name in ("new", "old", "older"):
        wanted = analyze(visits().filter(pl.col("since") == name), **ASKED).drop("p_adjusted")
        ours = found.filter(pl.col("slice") == name).drop("slice", "why", "p_adjusted")
        assert ours.equals(wanted)


def test_holm_is_over_outcomes_and_slices():
    found = analyze_slices(visits(), by="since", **ASKED)
    for (method,), rows in found.group_by("method"):
        oracle = multipletests(rows["p_value"].to_numpy(), method="holm")[1]
        assert len(oracle) == 6
        assert rows["p_adjusted"].to_numpy() == pytest.approx(oracle), method


def test_a_slice_without_rows_is_null_and_says_why():
    since = pl.Enum(["new", "older", "gone", "old"])
    table = visits().with_columns(pl.col("since").cast(since))
    table = table.filter((pl.col("since") != "old") | (pl.col("arm") == 0))
    found = analyze_slices(table, by="since", **ASKED)
    assert found["slice"].unique(maintain_order=True).to_list() == ["new", "older", "gone", "old"]
    empty = found.filter(pl.col("method").is_null())
    assert empty["why"].to_list() == [
        "no row of the treatment or the control", "no row of the treatment",
    ]  # fmt: skip
    assert empty["value"].null_count() == 2 and empty["n_T"].to_list() == [0, 0]
    assert found.filter(pl.col("why") == "")["value"].null_count() == 0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"by": "sinse"}, "by = 'sinse': the table has no such column; it has user, arm"),
        ({"by": "holes"}, "by = 'holes': 1 of 1500 rows have no value"),
        ({"by": "since", "outcomes": "gap"}, "slice 'older' of since: outcomes = 'gap': has no"),
    ],
)
def test_what_cannot_be_sliced_is_one_line(changes: dict, said: str):
    table = visits().with_columns(
        holes=pl.when(pl.int_range(pl.len()) > 0).then("since"),
        gap=pl.when(pl.col("since") != "older").then("minutes"),
    )
    with pytest.raises(InputError, match=said) as error:
        analyze_slices(table, **{**ASKED, **changes})
    assert "\n" not in str(error.value)
