"""The page of a plan begins with the shortest test that shows the effect."""

from __future__ import annotations

from typing import Any

import pytest

from realdataexp.report import plans
from realdataexp.report.files import Plan


def a_plan(*rows: dict[str, Any]) -> Plan:
    """A plan of two designs of one outcome in ms."""
    own = {"label": "play_time", "p": 0.5, "retrain_every": 1, "effect": -20.0, "detects": False}
    config = {
        "labels": [{"name": "play_time", "unit": "ms"}], "experiment": {"replications": 4},
    }  # fmt: skip
    return Plan.model_validate(
        {"settings": {"config": config, "power": 0.8}, "rows": [own | row for row in rows],
         "warnings": []}
    )  # fmt: skip


ROWS = (
    {"design": "pooling", "steps": 50, "mde_honest": 30.0},
    {"design": "pooling", "steps": 100, "mde_honest": 18.0, "detects": True},
    {"design": "shadow", "steps": 100, "mde_honest": 15.0, "detects": True},
    {"design": "shadow", "steps": 200, "mde_honest": 9.0, "detects": True, "p": 0.1},
)


def test_the_headline_names_the_shortest_test_and_of_equal_ones_the_sharpest() -> None:
    (said,) = plans.headline(a_plan(*ROWS))
    assert "100 steps with shadow show the effect (50 % treated, training every step)" in said
    (none,) = plans.headline(a_plan(ROWS[0]))
    assert none.endswith("no test of this plan shows the effect")


def test_the_chart_has_a_curve_for_each_design_and_share_treated() -> None:
    (panel,) = plans.panels(a_plan(*ROWS))
    drawn = {(c.name, c.where[:4]): c.table["mean"].to_list() for c in panel.curves}
    assert drawn == {("pooling", "50 %"): [30.0, 18.0], ("shadow", "50 %"): [15.0],
                     ("shadow", "10 %"): [9.0]}  # fmt: skip
    assert panel.level == pytest.approx(20.0) and len(panel.choices["where"]) == 2
    assert plans.panels(a_plan({**ROWS[0], "mde_honest": None})) == []
