"""Always-valid bands over time: a look is that of the rows so far, and the last is the test's."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from realdataexp.errors import InputError
from realdataexp.stats import analyze
from realdataexp.stats.clustered import confidence_sequence
from realdataexp.stats.looks import LOOK_SCHEMA, analyze_looks

ASKED: dict[str, Any] = {"arm": "arm", "unit": "user"}


def rows(n: int = 900) -> pl.DataFrame:
    g = np.random.default_rng(0)
    user = g.integers(0, 60, n)
    hour = pl.Series(g.integers(0, 40, n)).cast(pl.Int16)
    y = g.normal(size=n) + 0.3 * (user % 2)
    return pl.DataFrame({"user": user, "arm": user % 2 == 1, "hour": hour, "y": y, "z": -y})


def test_a_look_is_the_confidence_sequence_of_the_rows_so_far():
    table = rows().sample(fraction=1.0, shuffle=True, seed=1)  # the order of rows does not matter
    found = analyze_looks(table, time="hour", outcomes=["y", "z"], looks=5, **ASKED)
    assert found.height == 5 * 2 and found.columns == ["look", "time", *[*LOOK_SCHEMA][1:]]
    assert found["time"].dtype == pl.Int16 and found["time"].is_sorted()
    for look in found.iter_rows(named=True):
        so_far = table.filter(pl.col("hour") <= look["time"])
        own = analyze(so_far, outcomes=look["outcome"], methods=["user_cluster"], **ASKED)
        share = so_far.height / table.height
        assert look["share"] == pytest.approx(share) and look["n_T"] == own["n_T"][0]
        value, se = (own[x].to_numpy() for x in ("value", "se"))
        band = confidence_sequence(value, se, share)
        for name, x in vars(band).items():
            assert look[name] == pytest.approx(x[0], rel=1e-9), name
    shares = found["share"].unique().sort().to_numpy()
    assert np.abs(np.diff(shares) - 0.2).max() < 0.06 and shares[-1] == 1.0


def test_the_last_look_is_always_valid_and_a_longer_plan_is_further_from_its_end():
    table = rows()
    last = analyze_looks(table, time="hour", outcomes="y", looks=4, **ASKED).tail(1)
    own = analyze(table, outcomes="y", methods=["always_valid"], **ASKED)
    names = ["value", "se", "ci_low", "ci_high", "p_value"]
    assert_frame_equal(last.select(names), own.select(names), check_exact=True)
    longer = analyze_looks(table, time="hour", outcomes="y", looks=4, planned_rows=9000, **ASKED)
    assert longer["share"][-1] == 0.1 and longer["ci_high"][-1] > last["ci_high"][0]


def test_looks_that_cannot_tell_yet_are_null_and_say_why():
    table = rows().with_columns(hour=pl.col("hour") + 10 * pl.col("arm").cast(pl.Int16))
    found = analyze_looks(table, time="hour", outcomes="y", looks=40, **ASKED)
    early = found.filter(pl.col("time") < 10)
    assert early.height > 3 and early["ci_low"].null_count() == early.height
    assert all("arm = 'arm': has 1 values" in x for x in early["why"])
    later = found.filter(pl.col("time") > 12)
    assert later["ci_low"].null_count() == 0 and set(later["why"]) == {""}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"time": "when"}, "time = 'when': the table has no such column; it has user, arm"),
        ({"looks": 0}, "looks = 0: must be at least 1"),
        ({"planned_rows": 0}, "planned_rows = 0: must be at least 1"),
        ({"methods": ["welch"]}, "methods: is no argument of looks; leave it out"),
        ({"outcomes": "x"}, "outcomes = 'x': the table has no such column"),
    ],
)
def test_what_cannot_be_looked_at_is_one_line(settings: dict[str, Any], said: str):
    with pytest.raises(InputError) as found:
        analyze_looks(rows(90), **{"time": "hour", "outcomes": "y", **ASKED, **settings})
    assert str(found.value).startswith(said) and "\n" not in str(found.value)
