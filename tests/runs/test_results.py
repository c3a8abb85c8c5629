"""What a result cannot say is said in a warning."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest

from realdataexp.errors import Warnings
from realdataexp.runs.results import (
    warn_of_arms,
    warn_of_design,
    warn_of_intervals,
    warn_of_nulls,
    warn_of_weights,
)
from realdataexp.stats.estimates import summarise, world_estimates
from realdataexp.stats.inference import inference_table
from realdataexp.stats.performance import judge, section

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
    inference = inference_table(table, None, ["welch"])
    is_true = "global" in table["design"].to_list()
    return {
        "gte_results": {},
        "estimates": summarise(inference),
        "comparison": section(judge(inference), "comparison") if is_true else [],
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
    assert "comparison: bias_mc_se, sd, se_ratio null for pooling of click" in said
    assert "experiment.replications" in said


def test_without_a_truth_of_a_label_there_is_no_bias():
    rows = [row for w in (0, 1) for row in both_arms("pooling", w)]
    only_T = [("global", w, "T", 10, 4.0) for w in (0, 1)]
    said = said_of(result_of(outcomes(*only_T, *rows)))
    assert said == [
        "comparison: gte, bias, bias_mc_se, bias_df, rmse, coverage, sign_error_rate, regret null "
        "for pooling of click: the truth has no value of it"
    ]


def test_a_starting_model_for_each_replication_has_no_spread_of_a_single_test():
    rows = [row for w in (0, 1) for d in ("global", "pooling") for row in both_arms(d, w)]
    inference = inference_table(outcomes(*rows), None, ["welch"])
    judged = section(judge(inference, n_starts=2), "comparison")
    (said,) = said_of(result_of(outcomes(*rows), comparison=judged))
    assert said.startswith(
        "comparison: sd, se_ratio null for pooling of click: no two replications"
    )
    assert said.endswith("raise experiment.replications, or lower experiment.starts")


def test_an_a_a_test_has_no_sign_to_miss():
    rows = [row for w in (0, 1) for row in both_arms("pooling", w)]
    same = [("global", w, arm, 10, 4.0 + w) for w in (0, 1) for arm in "TC"]
    no_test, no_end, no_sign = said_of(result_of(outcomes(*same, *rows)))
    assert no_test == (
        "estimates: p_value, p_adjusted null for global of click: both arms do the same in every "
        "replication, so there is nothing to test"
    )
    assert no_end == (
        "estimates: percent_low, percent_high null for global of click: control's mean cannot be "
        "told from 0, so Fieller's set has no end"
    )
    assert no_sign == "comparison: sign_error_rate null for pooling of click: no effect has no sign"


def test_outcomes_that_do_not_vary_have_no_p_value():
    said = said_of(result_of(outcomes(("pooling", 0, "T", 5, 5.0), ("pooling", 0, "C", 5, 0.0))))
    assert said == [
        "estimates: p_value, p_adjusted null for pooling of click: the label's outcomes do not "
        "vary, so nothing can be said; choose another target",
        "estimates: percent, percent_se, percent_low, percent_high null for pooling of click: "
        "control's mean is 0, of which nothing is a percentage",
    ]


def test_a_single_outcome_in_an_arm_has_no_interval():
    said = said_of(result_of(outcomes(("pooling", 0, "T", 1, 1.0), ("pooling", 0, "C", 5, 2.0))))
    assert said == [
        "estimates: se, ci_low, ci_high, p_value, p_adjusted null for pooling of click: fewer than "
        "two outcomes in an arm",
        "estimates: percent_se, percent_low, percent_high null for pooling of click: too few "
        "outcomes or units for a standard error, or they do not vary",
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
    ("share", "short", "lost", "steps", "codes"),
    [
        (0.5, 0.2, 0.01, 3, []),
        (0.05, 0.2, 0.0, 3, ["arms_hardly_differ"]),
        (0.5, 0.6, 0.0, 3, ["data_running_out"]),
        (0.5, 0.2, 0.02, 3, ["visits_lost"]),
        (None, 0.0, None, 0, ["no_steps"]),
    ],
)
def test_a_test_that_can_show_little_is_warned_of(
    share: float | None, short: float, lost: float | None, steps: int, codes: list[str]
):
    diagnostics = {
        "share_of_visits_where_arms_differ": {"pooling": share},
        "share_of_visits_lost": {"pooling": 0.0, "codiverted": lost},
        "exhaustion": [{"step": 4, "users_short": short, "slates_short": 0.0}],
    }
    warnings = Warnings()
    warn_of_design(diagnostics, 10, steps, warnings)
    assert [item["code"] for item in warnings] == codes


def test_lost_visits_are_told_with_their_design_and_a_remedy():
    diagnostics = {
        "share_of_visits_where_arms_differ": {},
        "share_of_visits_lost": {"pooling": 0.0, "codiverted": 0.0346, "mine": 0.5},
        "exhaustion": [],
    }
    warnings = Warnings()
    warn_of_design(diagnostics, 10, 3, warnings)
    (item,) = warnings.items
    assert "(codiverted 3.5 %, mine 50.0 %)" in item["message"]
    assert "simulation.n_candidate or simulation.min_candidates" in item["message"]


def verdict(design: str, label: str, method: str, is_trusted: bool | None) -> dict[str, Any]:
    return {"design": design, "label": label, "se_method": method, "trustworthy": is_trusted}


def test_a_design_without_any_trustworthy_interval_is_told_once_with_its_labels():
    entries = [
        verdict("pooling", "play_time", "welch", False),
        verdict("pooling", "play_time", "block", False),
        verdict("pooling", "play_time", "bootstrap", None),
        verdict("pooling", "click", "welch", False),
        verdict("pooling", "like", "welch", False),
        verdict("pooling", "like", "block", True),
        verdict("shadow", "play_time", "welch", True),
        verdict("shadow", "click", "welch", False),
        verdict("snapshot", "click", "welch", None),
    ]
    warnings = Warnings()
    warn_of_intervals(entries, warnings)
    assert [item["code"] for item in warnings] == ["intervals_not_trustworthy"] * 2
    first, second = (item["message"] for item in warnings)
    assert first.startswith(
        "design pooling, labels play_time, click: none of the interval methods run "
    )
    assert second.startswith("design shadow, label click: none of the interval methods run (welch)")
    assert "(welch, block) covers the true effect as often as it claims" in first


def test_weights_of_an_outside_design_may_have_other_figures():
    diagnostics = {"share_of_visits_where_arms_differ": {"mine": 0.5}}
    warnings = Warnings()
    warn_of_weights({"mine": {"temperature": 2.0}}, diagnostics, warnings)
    assert warnings.items == []
    warn_of_weights({"mine": {"mean_weight_T": 1.5}}, diagnostics, warnings)
    assert [w["code"] for w in warnings.items] == ["weights_off"]


def _result_without_numbers(se: float | None, method: str) -> dict[str, Any]:
    """A result of two methods, of which one has no interval."""
    design = {"design": "pooling", "label": "watched"}
    return {
        "gte_results": {},
        "estimates": [{**design, "se": se, "n_worlds": 4}],
        "comparison": [],
        "inference": [
            {**design, "se_method": "welch", "se_mean": None if se == 0 else 1.0, "gte": 1.0},
            {**design, "se_method": method, "se_mean": None, "gte": 1.0},
            {**design, "n_worlds": 4, "trustworthy": True},  # an entry of another kind
        ],
        "n_steps_done": 0,
    }


@pytest.mark.parametrize(
    ("se", "method", "said"),
    [
        (0.0, "user_cluster", "pooling of watched: the label's outcomes do not vary"),
        (1.0, "cuped", "pooling of watched: the covariate of cuped"),
        (1.0, "user_cluster", "some designs: too few worlds or outcomes tell"),
    ],
)
def test_a_missing_number_is_explained_by_its_true_cause(se: float, method: str, said: str):
    warnings = Warnings()
    warn_of_nulls(_result_without_numbers(se, method), warnings)
    assert [w["code"] for w in warnings] == ["no_number"]
    assert f"inference: se_mean null for {said}" in next(iter(warnings))["message"]


def test_replications_are_not_asked_for_where_an_arm_has_nobody():
    result = _result_without_numbers(1.0, "user_cluster")
    result["estimates"][0]["n_worlds"] = 0  # warn_of_arms has said why
    result["family"] = [{"design": "pooling", "se_method": "welch", "any_reject_share": None}]
    warnings = Warnings()
    warn_of_nulls(result, warnings)
    assert warnings.items == []
