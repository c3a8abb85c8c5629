"""The table of all methods: its shape, its order, and that worlds do not meet in it."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from simulated import experiment

from realdataexp.errors import InputError
from realdataexp.registry import names
from realdataexp.stats.aggregates import arm_sums, outcome_table, unit_table
from realdataexp.stats.estimates import world_estimates
from realdataexp.stats.inference import (
    INFERENCE_SCHEMA,
    designs_without_units,
    find_method,
    inference_table,
    needs_units,
)
from realdataexp.stats.intervals import rejects

METHODS = names("interval method")
NEEDS_UNITS = {x for x in METHODS if needs_units(find_method(x, "x"))}

WORLDS = [("global", 0), ("global", 1), ("global", 0), ("global", 1)]
WORLDS += [("pooling", 0), ("pooling", 1), ("shadow", 0), ("shadow", 1)]
LABELS = ["play_time", "click"]


def tables(n_steps: int = 25) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Two labels, the truth and two designs; one label is missing here and there."""
    W, B, U = len(WORLDS), 30, 90
    g = np.random.default_rng(0)
    user_WX = g.integers(0, U, (W, n_steps * B))
    is_treated_WX = np.take_along_axis(g.random((W, U)) < 0.5, user_WX, 1)
    is_treated_WX[:2], is_treated_WX[2:4] = True, False
    y_WXL = g.exponential(size=(*user_WX.shape, 2)) * [5e4, 1.0] + is_treated_WX[..., None]
    y_WXL[g.random(y_WXL.shape) < 0.1] = np.nan
    steps = [slice(t * B, t * B + B) for t in range(n_steps)]
    sums = np.stack([arm_sums(is_treated_WX[:, x], y_WXL[:, x]) for x in steps])
    before = [g.normal(size=(U, 2))] * len(WORLDS)
    units = unit_table(user_WX, user_WX, is_treated_WX, y_WXL, before, WORLDS, LABELS)
    return outcome_table(sums, list(range(n_steps)), WORLDS, LABELS), units


def test_each_method_has_a_row_for_each_world_and_label_and_the_truth_has_welch() -> None:
    outcomes, units = tables()
    table = inference_table(outcomes, units)
    assert dict(table.schema) == dict(INFERENCE_SCHEMA)
    keys = table.select("design", "se_method", "world", "label").rows()
    expected = [
        (design, method, world, label)
        for design in ("global", "pooling", "shadow")
        for method in (["welch"] if design == "global" else METHODS)
        for world in (0, 1)
        for label in LABELS
    ]
    assert keys == expected
    said = table["percent_why"] == ""
    assert table.filter(said).null_count().sum_horizontal().item() == 0
    assert {*table.filter(said)["se_method"]} == {"welch", "user_cluster"}
    others = table.filter(~said).drop("percent_se", "percent_low", "percent_high")
    assert others.null_count().sum_horizontal().item() == 0


def test_values_but_cupeds_and_counts_are_those_of_the_estimates() -> None:
    outcomes, units = tables()
    names = ["design", "world", "label"]
    plain = world_estimates(outcomes)
    for (method,), part in inference_table(outcomes, units).group_by(["se_method"]):
        both = part.join(plain, on=names, suffix="_plain")
        assert both["n_T"].equals(both["n_T_plain"]) and both["n_C"].equals(both["n_C_plain"])
        if method != "cuped":
            np.testing.assert_allclose(both["value"], both["value_plain"], rtol=1e-9)
    welch = inference_table(outcomes, units, ["welch"])
    assert welch.select(plain.columns).equals(plain)


def test_a_worlds_rows_do_not_depend_on_other_worlds_labels_or_designs() -> None:
    outcomes, units = tables()
    whole = inference_table(outcomes, units)
    for design, world, label in (("pooling", 1, None), ("shadow", 0, None), ("pooling", 0, LABELS)):
        keep = (pl.col("design").cast(pl.String) == design) & (pl.col("world") == world)
        keep &= pl.col("label").cast(pl.String).is_in(label or LABELS)
        alone = inference_table(outcomes.filter(keep), units.filter(keep))
        assert alone.equals(whole.filter(keep))


def test_the_order_of_the_units_rows_does_not_matter() -> None:
    outcomes, units = tables()
    mixed = units.sample(fraction=1.0, shuffle=True, seed=1)
    assert inference_table(outcomes, mixed).equals(inference_table(outcomes, units))
    text = units.with_columns(pl.col("design", "arm", "label").cast(pl.String))
    assert inference_table(outcomes, text).equals(inference_table(outcomes, units))


def test_a_design_whose_every_visit_is_a_unit_gets_the_methods_that_need_none() -> None:
    outcomes, units = tables()
    found = inference_table(outcomes, None)
    assert set(found["se_method"]) == set(METHODS) - NEEDS_UNITS
    ours = units.filter(pl.col("design").cast(pl.String) == "shadow")
    asked = ["user_cluster", "always_valid", "welch"]
    table = inference_table(outcomes, ours, asked)
    for design, methods in {"global": ["welch"], "pooling": asked[1:], "shadow": asked}.items():
        part = table.filter(pl.col("design") == design)
        assert part["se_method"].unique(maintain_order=True).to_list() == methods
    assert designs_without_units(outcomes, ours) == ["pooling"]
    assert designs_without_units(outcomes, None) == ["pooling", "shadow"]
    whole = inference_table(outcomes, units, asked)
    is_shadow = pl.col("design") == "shadow"
    assert table.filter(is_shadow).equals(whole.filter(is_shadow))


def test_p_values_are_adjusted_for_the_labels_of_a_world() -> None:
    table = inference_table(*tables(), ["welch", "block"])
    for _, part in table.group_by(["design", "world", "se_method"]):
        p = part["p_value"].to_list()
        least = min(1.0, 2 * min(p))
        assert part["p_adjusted"].to_list() == pytest.approx([max(least, x) for x in p])


def test_an_unknown_method_names_the_known_ones() -> None:
    outcomes, units = tables()
    with pytest.raises(InputError, match=r"'jackknife': unknown interval method.*known are welch"):
        inference_table(outcomes, units, ["jackknife"])


def test_without_outcomes_the_table_is_empty_with_its_columns() -> None:
    outcomes, units = tables()
    for theirs in (None, units):
        table = inference_table(outcomes.clear(), theirs)
        assert table.height == 0 and dict(table.schema) == dict(INFERENCE_SCHEMA)


@pytest.mark.parametrize("method", METHODS)
def test_an_interval_excludes_zero_exactly_where_its_p_value_is_at_most_5_percent(
    method: str,
) -> None:
    table = inference_table(*experiment(21, 400, effect=0.4).tables(), [method])
    small = table["p_value"] <= 0.05
    assert 20 < small.sum() < 380 and small.null_count() == 0
    assert rejects(table).equals(small)
    inside = (table["ci_low"] <= table["value"]) & (table["value"] <= table["ci_high"])
    assert inside.all() and (table["se"] > 0).all()
