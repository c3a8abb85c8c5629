"""Panels: what both engines draw is the same; curves are means over worlds, and short."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from realdataexp.report import panels
from realdataexp.report.charts import chart
from realdataexp.report.files import read_run
from realdataexp.report.panels import Panel, Panels
from realdataexp.report.plots import grid, style


def all_panels(run: Path) -> list[Panel]:
    """Every panel of a run, one metric and design at a time."""
    of = Panels.read(run, read_run(run))
    return [own for x in of.all() for own in (of.curves(x.label) if x.choices else [x])]


def test_both_engines_draw_the_same_numbers_under_the_same_names(small_run: Path):
    kinds = set()
    for panel in all_panels(small_run):
        traces = [t for t in chart(panel)["data"] if "band" not in t["meta"]]
        with style():
            (ax,) = grid([[panel]]).axes
        assert ax.get_title(loc="left") == panel.title
        kinds.add(panel.key.partition("-")[0])
        lines = {line.get_label(): line for line in ax.get_lines()}
        if panel.curves:
            assert {t["name"] for t in traces} <= set(lines)
            for t in traces:
                assert list(lines[t["name"]].get_xdata()) == t["x"]
                assert list(lines[t["name"]].get_ydata()) == pytest.approx(t["y"], rel=1e-6)
        else:
            names = [x.get_text() for x in ax.get_yticklabels()]
            assert set(names) == {t["meta"]["design"] for t in traces}
            key = "mean" if panel.boxes else "x"
            told = sorted(t[key][0] for t in traces)
            drawn = [line for line in ax.get_lines() if line.get_marker() in ("o", "s", "D", "x")]
            found = sorted(float(x) for line in drawn for x in line.get_xdata())
            assert found == pytest.approx(told, rel=1e-6)
        shapes = [s for s in chart(panel)["layout"].get("shapes", ()) if s["type"] == "line"]
        assert [s["x0"] for s in shapes] == ([] if panel.line is None else [panel.line])
    assert kinds == {
        "estimates",
        "bias",
        "coverage",
        "effect",
        "total",
        "quality",
        "data",
        "ledger",
    }


def test_a_band_is_the_middle_of_the_worlds():
    table = pl.DataFrame(
        {"step": [5] * 11, "who": ["T"] * 11, "value": [float(i) for i in range(11)]}
    )
    (row,) = panels.bands(table, ["who"]).to_dicts()
    assert row == {"who": "T", "step": 5, "mean": 5.0, "low": 1.0, "high": 9.0}


def test_two_worlds_have_no_band():
    table = pl.DataFrame({"step": [1, 1], "who": ["T", "T"], "value": [1.0, 3.0]})
    (row,) = panels.bands(table, ["who"]).to_dicts()
    assert (row["mean"], row["low"], row["high"]) == (2.0, None, None)


def test_long_curves_keep_their_ends():
    kept = panels.thinned(pl.Series(range(10_000)))
    assert len(kept) == panels.MAX_POINTS
    assert (kept[0], kept[-1]) == (0, 9_999)


def test_the_effect_so_far_is_that_of_sums_over_visits():
    outcomes = pl.DataFrame(
        {
            "design": ["pooling"] * 4, "world": [0] * 4, "step": [0, 0, 1, 1],
            "arm": ["T", "C", "T", "C"], "label": ["click"] * 4,
            "n": [2, 4, 2, 4], "sum": [1.0, 1.0, 2.0, 1.0],
        }
    )  # fmt: skip
    assert panels.effects(outcomes)["mean"].to_list() == pytest.approx([0.25, 0.5])
    assert panels.effects(outcomes)["step"].to_list() == [1, 2]


def test_the_truths_worlds_stand_under_one_name():
    row = {"phase": "loop", "step": 1, "label": "click", "split": "train", "metric": "loss",
           "value": 0.5, "model": "shared", "world": 0}  # fmt: skip
    table = pl.DataFrame([{**row, "design": d} for d in ("global_T", "global_C", "pooling")])
    found = {(r["design"], r["who"]) for r in panels.looks(table).to_dicts()}
    assert found == {("global", "T"), ("global", "C"), ("pooling", "shared")}


def late_and_early(*early: float) -> pl.DataFrame:
    """A curve of ten steps that starts anywhere and settles between 1 and 2."""
    means = [*early, *[1.0, 2.0] * 5][:10]
    nothing = pl.Series([None] * 10, dtype=pl.Float64)
    return pl.DataFrame({"design": ["pooling"] * 10, "step": list(range(1, 11)), "mean": means,
                         "low": nothing, "high": nothing})  # fmt: skip


def test_an_axis_fits_the_steps_after_the_first_fifth():
    assert panels.settled_range(late_and_early(-90.0, 70.0)) == pytest.approx((0.92, 2.08))


def test_an_axis_that_shows_all_points_is_left_alone():
    assert panels.settled_range(late_and_early(1.5)) is None
    assert panels.settled_range(late_and_early().clear()) is None


def test_the_truths_early_band_alone_does_not_set_the_axis():
    curve = late_and_early(1.5, 1.5)
    wide = pl.when(pl.col("step") == 1).then(99.0)
    truth = curve.with_columns(
        design=pl.lit("global"), low=wide.otherwise(1.0), high=wide.otherwise(2.0)
    )
    assert panels.settled_range(curve) is None
    assert panels.settled_range(pl.concat([curve, truth])) == pytest.approx((0.92, 2.08))


def test_an_axis_holds_the_band_of_the_truth_where_it_counts():
    curve = late_and_early(-90.0, 70.0)
    truth = curve.with_columns(design=pl.lit("global"), low=pl.lit(-3.0), high=pl.lit(4.0))
    early = pl.col("step") <= 2
    truth = truth.with_columns(low=pl.when(early).then(-999.0).otherwise("low"))
    ends = panels.settled_range(pl.concat([curve, truth]))
    assert ends == pytest.approx((-3.0 - 0.56, 4.0 + 0.56))


def test_two_dozen_designs_all_look_different():
    order = [f"design {i}" for i in range(24)]
    assert len({panels.look(x, order) for x in order}) == 24
