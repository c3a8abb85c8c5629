"""What a result cannot say is said in a warning."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest

from realdataexp.errors import Warnings
from realdataexp.runs.doubts import warn_of_arms, warn_of_design, warn_of_nulls
from realdataexp.stats.comparison import compare
from realdataexp.stats.estimates import summarise, world_estimates

Row = tuple[str, int, str, int, float]


def outcomes(*rows: Row) -> pl.DataFrame:
    """Outcomes of one label, zeros and ones; each row: design, world, arm, n, sum."""
    return pl.DataFrame(
        [
            {"design": d, "world": w, "step": 0, "arm": arm, "label": "click", "n": n, "sum": s,
             "sum_sq": s}
            for d, w, arm, n, s in rows
        ]
    )  # fmt: skip


def result_of(table: pl.DataFrame, **parts: Any) -> dict[str, Any]:
    estimates = world_estimates(table)
    return {
        "gte_results": {},
        "estimates": summarise(estimates),
        "comparison": compare(estimates),
        "n_steps_done": 1,
        "diagnostics": {"label_share_of_score_variance": {}},
        **parts,
    }


def said_of(result: dict[str, Any]) -> list[str]:
    warnings = Warnings()
    warn_of_nulls(result, warnings)
    return [item["message"] for item in warnings]


def both_arms(design: str, world: int) -> list[Row]:
    return [(design, world, "T", 10, 6.0 + world), (design, world, "C", 10, 4.0)]


def test_a_result_without_nulls_needs_no_word():
    rows = [row for w in (0, 1) for d in ("global", "pooling") for row in both_arms(d, w)]
    assert said_of(result_of(outcomes(*rows))) == []


def test_one_replication_has_no_spread():
    table = outcomes(*both_arms("global", 0), *both_arms("pooling", 0))
    (said,) = said_of(result_of(table))
    assert "comparison: bias_mc_se, sd null for pooling of click" in said
    assert "experiment.replications" in said


def test_outcomes_that_do_not_vary_have_no_p_value():
    (said,) = said_of(result_of(outcomes(("pooling", 0, "T", 5, 5.0), ("pooling", 0, "C", 5, 0.0))))
    assert said == "estimates: p_value null for pooling of click: nothing varies"


def test_a_single_outcome_in_an_arm_has_no_interval():
    said = said_of(result_of(outcomes(("pooling", 0, "T", 1, 1.0), ("pooling", 0, "C", 5, 2.0))))
    assert said == [
        "estimates: se, ci_low, ci_high, p_value null for pooling of click: fewer than two "
        "outcomes in an arm"
    ]


def test_a_control_world_without_any_outcome_has_no_relative_effect():
    table = outcomes()
    empty = pl.DataFrame(schema={**dict.fromkeys(["design", "arm", "label"], pl.String),
                                 "world": pl.Int32, "n": pl.Int32, "sum": pl.Float64,
                                 "sum_sq": pl.Float64})  # fmt: skip
    assert table.height == 0
    said = said_of(result_of(empty, gte_results={"GC_click": 0.0, "GTE_click_relative": None}))
    assert said == [
        "gte_results: GTE_click_relative null for all designs: the control world's total is 0"
    ]


def test_scores_without_spread_are_told():
    shares = {"pooling": {"C": {"click": None}, "T": {"click": 1.0}}}
    result = result_of(
        outcomes(*both_arms("pooling", 0), *both_arms("pooling", 1)),
        diagnostics={"label_share_of_score_variance": shares},
    )
    (said,) = said_of(result)
    assert "pooling, arm C" in said


def test_an_empty_arm_is_told_once_for_all_designs():
    rows = [(d, w, "T", 10, 5.0) for w in (0, 1) for d in ("pooling", "snapshot")]
    estimates = world_estimates(
        outcomes(*rows, *both_arms("pooling", 2), *both_arms("snapshot", 2))
    )
    warnings = Warnings()
    warn_of_arms(estimates, warnings)
    assert [item["code"] for item in warnings] == ["one_arm_only"]
    assert (
        "pooling, snapshot: no outcome of click in the control arm in 2 of 3"
        in warnings.items[0]["message"]
    )


@pytest.mark.parametrize(
    ("share", "short", "steps", "codes"),
    [
        (0.5, 0.2, 3, []),
        (0.05, 0.2, 3, ["arms_hardly_differ"]),
        (0.5, 0.6, 3, ["data_running_out"]),
        (None, 0.0, 0, ["no_steps"]),
    ],
)
def test_a_test_that_can_show_little_is_warned_of(
    share: float | None, short: float, steps: int, codes: list[str]
):
    diagnostics = {
        "share_of_visits_where_arms_differ": {"pooling": share},
        "exhaustion": [{"step": 4, "users_short": short, "slates_short": 0.0}],
    }
    warnings = Warnings()
    warn_of_design(diagnostics, 10, steps, warnings)
    assert [item["code"] for item in warnings] == codes
