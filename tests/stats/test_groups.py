"""Worlds in several states are found; estimates of one hump are not, whatever its shape."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import polars as pl
import pytest
from simulated import bounds

from realdataexp.errors import Warnings
from realdataexp.runs.results import warn_of_groups
from realdataexp.stats.inference import INFERENCE_SCHEMA
from realdataexp.stats.performance import two_groups

Law = Callable[[np.random.Generator, int], np.ndarray]


def table(
    values: np.ndarray, se: float, method: str = "welch", design: str = "shadow"
) -> pl.DataFrame:
    columns = {"world": range(len(values)), "value": values, "se": [se] * len(values)}
    same = {"design": design, "label": "click", "se_method": method}
    frame = pl.DataFrame(columns).with_columns(**{k: pl.lit(v) for k, v in same.items()})
    lacking = [pl.lit(None).alias(x) for x in INFERENCE_SCHEMA if x not in frame.columns]
    return frame.with_columns(lacking).select(INFERENCE_SCHEMA.names()).cast(INFERENCE_SCHEMA)


HUMPS: dict[str, Law] = {
    "uniform": lambda g, n: g.random(n),
    "normal": lambda g, n: g.normal(size=n),
    "t": lambda g, n: g.standard_t(2.5, n),
    "skewed": lambda g, n: np.exp(1.5 * g.normal(size=n)),
    "few values": lambda g, n: g.binomial(n, 1.5 / n, n).astype(float),
}


@pytest.mark.parametrize("law", HUMPS)
@pytest.mark.parametrize("n_worlds", [8, 32, 200])
def test_estimates_of_one_hump_give_no_warning(law: str, n_worlds: int) -> None:
    """Claimed: less than 1 in 10,000 alarms, with standard errors that are right."""
    g, n_runs = np.random.default_rng(1), 300
    size = float(HUMPS[law](g, 100_000).std())
    n_alarms = sum(len(two_groups(table(HUMPS[law](g, n_worlds), size))) for _ in range(n_runs))
    assert n_alarms <= bounds(1e-4, n_runs)[1] * n_runs


@pytest.mark.parametrize("n_worlds", [8, 32])
def test_standard_errors_three_times_too_small_rarely_look_like_groups(n_worlds: int) -> None:
    g, n_runs = np.random.default_rng(2), 500
    n_alarms = sum(len(two_groups(table(g.normal(size=n_worlds), 1 / 3))) for _ in range(n_runs))
    assert n_alarms <= bounds(0.002, n_runs)[1] * n_runs


@pytest.mark.parametrize("n_above", [3, 4, 16, 29])
@pytest.mark.parametrize("design", ["global", "shadow"])
def test_two_groups_of_worlds_are_found(n_above: int, design: str) -> None:
    g = np.random.default_rng(3)
    for _ in range(20):
        value = g.permutation(g.normal(size=32) + 14.0 * (np.arange(32) < n_above))
        (found,) = two_groups(table(value, 1.0, design=design))
        assert found[:4] == (design, "click", 32 - n_above, n_above) and 6 < found.gap_se < 14


def test_worlds_that_leave_a_state_one_after_another_are_found() -> None:
    g = np.random.default_rng(4)
    value = np.r_[-2.3 + 0.08 * g.normal(size=28), -1.5, -1.3, -1.2, -0.3]
    (found,) = two_groups(table(value, 0.05))
    assert (found.n_below, found.n_above) == (28, 4)
    # one or two stray worlds are no group
    assert two_groups(table(value[:-2], 0.05)) == []


def test_the_standard_error_is_that_of_what_was_randomised_as_one() -> None:
    value = np.r_[np.zeros(9), np.ones(9)]
    by_visit = table(value, 0.1)
    assert len(two_groups(by_visit)) == 1
    assert two_groups(pl.concat([by_visit, table(value, 0.5, "user_cluster")])) == []


def test_nothing_is_said_of_few_worlds_or_of_equal_arms() -> None:
    assert two_groups(table(np.array([0.0, 0.0, 9.0, 9.0, 9.0]), 0.1)) == []
    assert two_groups(table(np.zeros(20), 0.0)) == two_groups(table(np.zeros(20), 0.1)) == []


def test_starting_models_that_differ_are_no_groups_unless_their_own_worlds_do() -> None:
    """Of 8 starts with 4 worlds each, 3 are far above the others; then in a state of its own each.

    By hand: 12 worlds above 20, all of whole starts; one of them back below makes 1 apart, three 3.
    """
    start = np.arange(32) % 8
    values = np.where(start < 3, 50.0, 0.0) + np.linspace(0.0, 1.0, 32)
    assert len(two_groups(table(values, 1.0))) == 1
    assert two_groups(table(values, 1.0), n_starts=8) == []
    for n_back, n_found in ((1, 0), (2, 0), (3, 1)):
        moved = values.copy()
        moved[[0, 1, 2][:n_back]] -= 50.0
        found = two_groups(table(moved, 1.0), n_starts=8)
        assert [(x.n_below, x.n_above) for x in found] == [(20 + n_back, 12 - n_back)] * n_found


def test_a_warning_names_the_design_its_labels_and_how_far_apart() -> None:
    warnings = Warnings()
    warn_of_groups(table(np.r_[np.zeros(15), np.full(5, 20.0)], 2.0), 1, warnings)
    (item,) = warnings.items
    assert item["code"] == "worlds_in_groups"
    assert item["message"].startswith("shadow: the worlds' effects fall into groups")
    assert "click (15 and 5 worlds, 10.0 standard errors apart)" in item["message"]
