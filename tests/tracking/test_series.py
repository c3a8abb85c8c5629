"""Names and values of series, by hand; and that the docs say which names there are."""

from __future__ import annotations

import re
from pathlib import Path

import polars as pl
import pytest

from realdataexp.errors import InputError
from realdataexp.report.files import read_result, read_table
from realdataexp.tracking import Point
from realdataexp.tracking.session import (
    check_names,
    metric_points,
    name_of,
    outcome_points,
    parameters,
    result_points,
    tags,
    training_points,
)

PAGE = Path(__file__).parents[2] / "docs" / "tracking.md"
COLUMNS = ["phase", "step", "design", "world", "model", "label", "split", "metric", "value", "n"]


def metrics(*rows: tuple[object, ...]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=COLUMNS, orient="row", infer_schema_length=None)


def test_metrics_are_means_over_worlds_and_pretraining_has_names_of_its_own():
    table = metrics(
        ("pretrain", 7, "", None, "start", "click", "validation", "auc", 0.5, 9),
        ("loop", 5, "pooling", 0, "shared", "click", "validation", "auc", 0.5, 9),
        ("loop", 5, "pooling", 1, "shared", "click", "validation", "auc", 0.75, 9),
        ("loop", 5, "splitting", 0, "T", "click", "validation", "auc", 0.25, 9),
        ("loop", 5, "weighting", None, "G", "", "weights", "auc", 0.125, 9),
        ("loop", 3, "", None, "", "", "data", "users_short", 1.0, 9),
    )
    assert set(metric_points(table, {})) == {
        Point("pretrain/validation/click/auc/start", 7, 0.5),
        Point("validation/click/auc/pooling/shared", 5, 0.625),
        Point("validation/click/auc/splitting/T", 5, 0.25),
        Point("weights/auc/weighting/G", 5, 0.125),
        Point("data/users_short", 3, 1.0),
    }
    later = list(metric_points(table, {"pretrain": 8, "loop": 5}))
    assert len(later) == 3 and all(point.step == 5 for point in later)


def test_a_mean_has_the_same_bits_in_whatever_order_the_rows_come():
    values = [1e16, 1.0, -1e16, 0.1, 3.0]
    rows = [("loop", 1, "d", i, "m", "y", "train", "loss", v, 1) for i, v in enumerate(values)]
    found = [next(metric_points(metrics(*order), {})) for order in (rows, rows[::-1])]
    assert found[0] == found[1] == Point("train/y/loss/d/m", 1, pytest.approx(4.1 / 5))


def test_outcomes_are_means_per_visit_of_all_worlds_by_steps_done():
    table = pl.DataFrame(
        {
            "design": "global", "world": [0, 1, 0], "step": [0, 0, 1], "arm": "T",
            "label": "click", "n": [1, 3, 2], "sum": [1.0, 2.0, 1.0], "sum_sq": 0.0,
        }
    )  # fmt: skip
    wanted = [Point("outcome/click/global_T", 1, 0.75), Point("outcome/click/global_T", 2, 0.5)]
    assert list(outcome_points(table, {})) == wanted
    assert list(outcome_points(table, {"loop": 2})) == wanted[1:]


def test_results_that_are_no_numbers_are_no_points():
    result = {
        "n_steps_done": 9,
        "gte_results": {"GTE_click": 2},
        "estimates": [{"design": "pooling", "label": "click", "value": 0.5, "se": None}],
        "comparison": [{"design": "shadow", "label": "click", "bias": -0.25}],
        "timing": {"total_seconds": 1.5, "device_peak_memory_mb": None},
    }
    assert result_points(result) == [
        ("gte/GTE_click", 9, 2.0),
        ("estimate/click/value/pooling", 9, 0.5),
        ("comparison/click/bias/shadow", 9, -0.25),
        ("timing/total_seconds", 9, 1.5),
    ]


def test_what_a_tracker_may_refuse_in_a_name_is_replaced_but_never_mixed_up():
    assert name_of("outcome", "", "../p = 1", "加权-2") == "outcome/___p___1/加权-2"
    check_names(["p=1", "p=2", "p_3"])
    with pytest.raises(InputError, match=r"'p=1' and 'p_1': both are 'p_1'.*another label"):
        check_names(["p=1", "pooling", "p_1"])


def test_parameters_are_the_settings_by_their_paths():
    config = {
        "seed": 3,
        "labels": [{"name": "click", "hidden": [8, 4], "rate": None}],
        "logging": {"level": "INFO", "trackers": ["mlflow"]},
    }
    assert parameters(config) == {
        "seed": "3", "labels.0.name": "click", "labels.0.hidden": "[8, 4]",
        "labels.0.rate": "null", "logging.level": "INFO",
    }  # fmt: skip
    assert tags("compare", 3, {"torch": "2.6", "git_revision": None}) == {
        "mode": "compare", "seed": "3", "version.torch": "2.6",
    }  # fmt: skip


def test_a_training_has_series_over_updates_and_what_it_came_to():
    table = pl.DataFrame(
        [(4, "train", "loss", None, 2.5), (4, "validation", "ndcg", 10, 0.25)],
        schema=["step", "split", "metric", "k", "value"], orient="row",
    )  # fmt: skip
    common = {"metric": "ndcg", "k": 10}
    result = {
        "n_steps_done": 8,
        "results": [
            {**common, "model": "GRU4Rec", "split": "test", "value": 0.5},
            {"metric": "mrr", "k": None, "model": "my.models:X", "split": "test", "value": None},
        ],
        "compared": [
            {**common, "against": "Markov", "difference": 0.1, "ci_low": -0.1, "ci_high": 0.3}
        ],
        "timing": {"total_seconds": 9},
    }
    assert training_points(table, result) == [
        Point("train/loss", 4, 2.5),
        Point("validation/ndcg_10", 4, 0.25),
        Point("result/test/ndcg_10/GRU4Rec", 8, 0.5),
        Point("compared/ndcg_10/difference/Markov", 8, 0.1),
        Point("compared/ndcg_10/ci_low/Markov", 8, -0.1),
        Point("compared/ndcg_10/ci_high/Markov", 8, 0.3),
        Point("timing/total_seconds", 8, 9.0),
    ]


def documented() -> list[str]:
    """The names of the page's table as regular expressions."""
    rows = re.findall(r"^\| (`.*?`) \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    names = [name for row in rows for name in re.findall(r"`(.*?)`", row) if "/" in name]
    return [re.sub(r"<(\w+)>", r"[\\w-]+?", name) for name in names]


def test_every_name_of_a_run_is_documented_and_every_documented_name_occurs(small_run: Path):
    points = [
        *metric_points(read_table(small_run, "metrics"), {}),
        *outcome_points(read_table(small_run, "outcomes"), {}),
        *result_points(read_result(small_run)),
    ]
    names = {point.name for point in points}
    patterns = documented()
    assert len(patterns) >= 8
    assert [x for x in names if not any(re.fullmatch(p, x) for p in patterns)] == []
    unused = [p for p in patterns if not any(re.fullmatch(p, x) for x in names)]
    assert all(pattern.startswith("weights/") for pattern in unused)  # small_run weighs nothing
    assert len({(point.name, point.step) for point in points}) == len(points)
