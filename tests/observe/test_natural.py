"""The natural experiment: against SciPy, and in logs with planted effects."""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np
import polars as pl
import pytest
from scipy import stats

from realdataexp.observe.natural import START, natural_experiment

PLAY = {"play": "play_time_ms"}


def logs(
    seed: int = 0,
    *,
    random_costs: float = 0.0,
    jump: float = 0.0,
    first: date = date(2022, 4, 8),
    last: date = date(2022, 5, 8),
    late_tab: int = 1,
) -> pl.DataFrame:
    """200 users with 3 standard exposures a day, and since the date one at random."""
    rng = np.random.default_rng(seed)
    days = [first + timedelta(days=i) for i in range((last - first).days + 1)]
    level_U = rng.normal(5_000, 500, 200)
    frames = []
    for day in days:
        is_late = day >= START
        is_rand = np.tile([0, 0, 0, 1] if is_late else [0, 0, 0], 200)
        user = np.repeat(np.arange(200), 4 if is_late else 3)
        y = level_U[user] + rng.normal(0, 300, len(user)) - random_costs * is_rand
        y += jump * (is_late & (is_rand == 0))
        frames.append(
            pl.DataFrame(
                {
                    "user_id": user, "date": int(f"{day:%Y%m%d}"), "is_rand": is_rand,
                    "hourmin": rng.integers(0, 24, len(user)) * 100,
                    "tab": np.where(is_rand == 1, late_tab, 1), "play_time_ms": y.round(),
                    "video_id": np.arange(len(user)),
                }
            )
        )  # fmt: skip
    return pl.concat(frames)


def halves(rows: pl.DataFrame) -> list[pl.DataFrame]:
    """As a file's pieces come: a user's and a day's rows in both."""
    return [rows[::2], rows[1::2]]


def test_standard_against_random_is_scipy_s_paired_t_of_users():
    rows = logs(1, random_costs=150.0)
    found = natural_experiment(halves(rows), PLAY)["standard_against_random"]
    late = rows.filter(pl.col("date") >= 20220422)
    means = late.group_by("user_id", "is_rand").agg(pl.col("play_time_ms").mean())
    y, x = (
        means.filter(pl.col("is_rand") == kind).sort("user_id")["play_time_ms"].to_numpy()
        for kind in (0, 1)
    )
    expected = stats.ttest_rel(y, x)
    effect = found["effects"]["play"]
    assert effect["value"] == pytest.approx((y - x).mean())
    assert effect["value"] / effect["se"] == pytest.approx(expected.statistic)
    low, high = expected.confidence_interval()
    assert (effect["ci_low"], effect["ci_high"]) == pytest.approx((low, high))
    assert found["share_of_users_with_both"] == 1.0
    # planted: 150; the standard error is about 6, so it is seen and told from 100
    assert abs(effect["value"] - 150) < 5 * effect["se"] < 50
    assert all(x["is_balanced"] for x in found["balance"])


def test_a_tab_with_random_exposures_of_its_own_is_out_of_balance():
    found = natural_experiment([logs(2, late_tab=4)], PLAY)["standard_against_random"]
    unbalanced = [x["name"] for x in found["balance"] if not x["is_balanced"]]
    assert unbalanced == ["share in tab 4"]
    # and no user has both kinds in one tab
    assert found["effects_within_tab"]["play"] == {
        "cannot_tell": "0 users have exposures of both kinds: it takes two"
    }


@pytest.mark.parametrize("jump", [0.0, 200.0])
def test_a_planted_change_at_the_date_is_beyond_the_placebo_dates(jump: float):
    """A jump of 200 is 20 standard errors; without one all changes are noise."""
    found = natural_experiment([logs(3, jump=jump)], PLAY)["before_against_after"]
    effect, placebos = found["effects"]["play"], found["placebos"]["play"]
    assert abs(effect["value"] - jump) < 5 * effect["se"]
    assert [x["day"] for x in placebos] == [
        "2022-04-15", "2022-04-29", "2022-04-30", "2022-05-01", "2022-05-02"
    ]  # fmt: skip
    assert all(abs(x["value"]) < 5 * x["se"] < 60 for x in placebos)
    assert found["share_of_users_who_stay"] == 1.0
    assert found["exposures_per_day"] == {"before": 600.0, "after": 600.0, "is_alike": True}
    if jump:
        assert found["beyond_placebos"]["play"] is True


def test_a_log_that_keeps_another_part_of_the_exposures_is_told():
    rows = logs(6).filter((pl.col("date") < 20220422) | (pl.col("video_id") % 4 == 0))
    found = natural_experiment([rows], PLAY)["before_against_after"]["exposures_per_day"]
    assert found == {"before": 600.0, "after": 200.0, "is_alike": False}


def test_what_the_logs_lack_is_named():
    late = logs(4, first=date(2022, 4, 25)).filter(pl.col("is_rand") == 0)
    found = natural_experiment([late], PLAY)
    assert "no random exposure since 2022-04-22" in found["standard_against_random"]["cannot_tell"]
    after = found["before_against_after"]
    assert "2022-04-25 to 2022-05-08" in after["effects"]["play"]["cannot_tell"]
    assert [x["day"] for x in after["placebos"]["play"]] == ["2022-05-02"]
    assert after["beyond_placebos"]["play"] is None
    without = natural_experiment([late.drop("tab")], PLAY)
    assert without["before_against_after"] == {"cannot_tell": "the logs lack tab"}


def test_values_out_of_range_and_repeated_rows_do_not_count():
    rows = logs(5)
    odd = rows.with_columns(play_time_ms=pl.lit(-5.0))
    expected = natural_experiment([rows], PLAY)
    assert (
        natural_experiment([rows, odd], PLAY)["before_against_after"]["effects"]
        == (expected["before_against_after"]["effects"])
    )
    assert natural_experiment([pl.concat([rows, rows])], PLAY) == expected
