"""Coverage, type-I errors and regret, by hand and where the truth is known."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest
from scipy import stats
from simulated import bounds, experiment

from realdataexp.stats.inference import INFERENCE_SCHEMA, inference_table
from realdataexp.stats.intervals import adjust_labels
from realdataexp.stats.performance import family_rejections, judge

Half = float | None


def rows(
    design: str, values: list[float | None], half: Half = 1.0, method: str = "welch"
) -> list[tuple[Any, ...]]:
    """A row for each world: an interval of this half width around the value."""
    out: list[tuple[Any, ...]] = []
    for world, x in enumerate(values):
        is_told = x is not None and half is not None
        limits = (x - half, x + half) if x is not None and half is not None else (None, None)
        key = (design, world, "click", "mean_per_visit", method)
        out.append((*key, x, half if is_told else None, *limits, None, 10, 10, *[None] * 7))
    return out


def table(*parts: list[tuple[Any, ...]]) -> pl.DataFrame:
    return pl.DataFrame(
        [row for part in parts for row in part], schema=INFERENCE_SCHEMA, orient="row"
    )


TRUTH = rows("global", [1.0, 3.0] * 50)  # the true effect is 2


def test_coverage_signs_and_rejections_by_hand() -> None:
    found = table(TRUTH, rows("pooling", [2.5, 0.5, -1.5, 1.0, None]))
    (entry,) = judge(found)
    assert (entry.n_worlds, entry.n_intervals, entry.gte) == (4, 4, 2.0)
    assert entry.coverage == 0.5  # 2.5 and, on its edge, 1.0
    assert entry.reject_share == 0.5  # 2.5 and -1.5; 1.0 touches 0
    assert entry.sign_error_rate == 0.25
    assert entry.sd == pytest.approx(pl.Series([2.5, 0.5, -1.5, 1.0]).std())
    assert entry.se_mean == 1.0
    for name in ("coverage", "reject"):
        interval = stats.binomtest(2, 4).proportion_ci(0.95, method="exact")
        assert getattr(entry, f"{name}_low") == pytest.approx(interval.low)
        assert getattr(entry, f"{name}_high") == pytest.approx(interval.high)
    assert entry.trustworthy is None  # four worlds say nothing


@pytest.mark.parametrize(("n_wrong", "is_trusted"), [(0, True), (2, True), (9, True), (12, False)])
def test_type_i_error_decides_under_a_a(n_wrong: int, is_trusted: bool) -> None:
    found = table(
        rows("global", [0.0] * 100), rows("pooling", [5.0] * n_wrong + [0.5] * (100 - n_wrong))
    )
    (entry,) = judge(found, is_aa=True)
    assert entry.reject_share == n_wrong / 100 and entry.trustworthy is is_trusted
    assert (entry.reject_low <= 0.05) == is_trusted
    assert entry.sign_error_rate is None  # no effect has no sign
    assert entry.coverage == 1 - n_wrong / 100


@pytest.mark.parametrize(("n_out", "is_trusted"), [(0, True), (9, True), (12, False), (100, False)])
def test_coverage_of_the_truth_decides_where_arms_differ(n_out: int, is_trusted: bool) -> None:
    found = table(TRUTH, rows("pooling", [0.5] * n_out + [2.0] * (100 - n_out)))
    (entry,) = judge(found)
    assert entry.coverage == 1 - n_out / 100 and entry.trustworthy is is_trusted


def test_methods_without_intervals_are_marked_not_trusted_nor_doubted() -> None:
    found = table(TRUTH, rows("a", [None] * 30), rows("b", [1.0] * 30, None, "block"))
    without, valued = judge(found)
    assert (without.n_worlds, without.n_intervals) == (0, 0)
    assert (valued.n_worlds, valued.n_intervals, valued.sd) == (30, 0, 0.0)
    for entry in (without, valued):
        names = ("coverage", "coverage_low", "reject_share", "reject_high", "trustworthy")
        assert [getattr(entry, name) for name in names] == [None] * 5
    assert without.sd is without.se_mean is without.sign_error_rate is None


def test_without_a_truth_only_an_a_a_test_can_be_judged() -> None:
    found = table(rows("pooling", [0.5] * 30))
    (entry,) = judge(found)
    assert entry.gte is entry.coverage is entry.trustworthy is None
    assert entry.reject_share == 0.0
    assert judge(found, is_aa=True)[0].trustworthy is True


def test_an_interval_covers_as_it_claims_or_the_result_says_that_it_does_not() -> None:
    found = inference_table(*experiment(31, 400).tables())
    found = pl.concat([table(rows("global", [0.0] * 400)), found])
    told = {e.se_method: e for e in judge(found, is_aa=True)}
    assert told["welch"].trustworthy is False and told["welch"].reject_share > 0.15
    for name in ("user_cluster", "cuped", "randomisation", "always_valid"):
        assert told[name].reject_share <= bounds(0.055, 400)[1]
        assert told[name].trustworthy is (told[name].reject_low <= 0.05)
    assert told["always_valid"].trustworthy is True
    assert told["welch"].se_mean < 0.8 * told["welch"].sd


def p_values(label: str, ps: list[float | None], method: str = "welch") -> list[tuple[Any, ...]]:
    """A row of the design pooling for each world, with its p-value and nothing but 0 otherwise."""
    key = (label, "mean_per_visit", method)
    limits = [(None, None) if p is None else (0.0, 0.0) for p in ps]
    return [
        ("pooling", w, *key, 0.0, 0.0, *limits[w], p, 10, 10, *[None] * 7) for w, p in enumerate(ps)
    ]


def test_several_labels_are_several_chances_to_be_wrong() -> None:
    clicks = p_values("click", [0.03, 0.02, 0.9, 0.04, None])
    likes = p_values("like", [0.30, 0.90, 0.01, 0.05, None])
    other = p_values("click", [None] * 5, "block") + p_values("like", [0.01] + [None] * 4, "block")
    found = adjust_labels(table(TRUTH, clicks, likes, other))
    # adjusted, click: 0.06, 0.04, 0.9, 0.08, none; like: 0.3, 0.9, 0.02, 0.08, none
    shares = {(e.se_method, e.label): e.reject_share_adjusted for e in judge(found, is_aa=True)}
    assert shares == {
        ("welch", "click"): 0.25, ("welch", "like"): 0.25, ("block", "click"): None,
        ("block", "like"): 1.0,
    }  # fmt: skip
    welch, block = family_rejections(found)
    interval = stats.binomtest(2, 4).proportion_ci(0.95, method="exact")
    assert welch == {
        "design": "pooling",
        "se_method": "welch",
        "n_worlds": 4,
        "any_reject_share": 0.5,
        "any_reject_low": pytest.approx(interval.low),
        "any_reject_high": pytest.approx(interval.high),
    }
    assert (block["n_worlds"], block["any_reject_share"]) == (1, 1.0)
    none = adjust_labels(table(p_values("click", [None, None])))
    assert family_rejections(none)[0]["any_reject_share"] is None


def test_regret_by_hand() -> None:
    # of four worlds two launch, one cannot tell, one finds the opposite, one has no interval
    values = [2.5, 1.5, 0.5, -4.0, None]
    good = table(TRUTH, rows("pooling", values))
    (entry,) = judge(good)
    assert (entry.launch_share, entry.wrong_share, entry.n_intervals) == (0.5, 0.5, 4)
    assert entry.regret == 1.0  # half of the worlds forgo 2
    bad = table(rows("global", [-3.0] * 4), rows("pooling", [2.5, -1.0, -4.0, 0.0]))
    (entry,) = judge(bad)
    assert (entry.wrong_share, entry.regret) == (0.25, 0.75)
    none = table(rows("global", [0.0] * 100), rows("pooling", [2.5, -1.0]))
    assert judge(none)[0].regret == 0.0


def test_regret_is_null_where_nobody_can_decide_or_nothing_is_true() -> None:
    found = table(TRUTH, rows("a", [1.0], None), rows("b", [3.0]))
    undecided, decided = judge(found)
    assert undecided.regret is None and decided.regret == 0.0
    alone = found.filter(pl.col("design") == "b")
    assert judge(alone)[0].regret is None
