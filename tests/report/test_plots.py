"""plot.svg shows what there is, and can be drawn from whatever a run leaves."""

from __future__ import annotations

import shutil
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from realdataexp.errors import DiskError, InputError
from realdataexp.report import verdicts
from realdataexp.report.files import RunResult, read_result, read_table
from realdataexp.report.panels import Panels
from realdataexp.report.plots import draw, style, write_plot


def parts(run: Path) -> tuple[dict[str, Any], dict[str, pl.DataFrame]]:
    names = ("outcomes", "estimates", "metrics")
    return read_result(run), {name: read_table(run, name) for name in names}


def drawn(result: dict[str, Any], tables: dict[str, pl.DataFrame]) -> Figure:
    with style():
        return draw(Panels(RunResult.of(result), **tables))


def titles(figure: Figure) -> list[str]:
    return [ax.get_title(loc="left") for ax in figure.axes]


def test_a_row_of_answers_and_a_row_of_curves_for_each_label(small_run: Path):
    assert titles(drawn(*parts(small_run))) == [
        "play_time (ms): estimates", "play_time (ms): bias", "play_time (ms): coverage",
        "click: estimates", "click: bias", "click: coverage",
        "play_time (ms): total so far", "play_time (ms): relative error", "play_time (ms): loss",
        "click: total so far", "click: AUC", "click: loss",
        "data left: too little for a full slate",
    ]  # fmt: skip


def panel(figure: Figure, title: str) -> Axes:
    (ax,) = [ax for ax in figure.axes if ax.get_title(loc="left") == title]
    return ax


def test_the_curves_are_the_arms_mean_totals(small_run: Path):
    result, tables = parts(small_run)
    ax = panel(drawn(result, tables), "click: total so far")
    ends = {line.get_label(): line.get_ydata()[-1] for line in ax.get_lines()}
    gte = result["gte_results"]
    assert ends["everybody in treatment"] == pytest.approx(gte["GT_click"])
    assert ends["everybody in control"] == pytest.approx(gte["GC_click"])


def test_the_line_among_the_designs_is_the_truth(small_run: Path):
    result, tables = parts(small_run)
    ax = panel(drawn(result, tables), "click: estimates")
    (line,) = [line for line in ax.get_lines() if line.get_label() == "true effect (GTE)"]
    (truth,) = {e["gte"] for e in result["comparison"] if e["label"] == "click"}
    assert line.get_xdata()[0] == pytest.approx(truth)
    names = [tick.get_text() for tick in ax.get_yticklabels()]
    assert names == ["pooling", "snapshot", "splitting"]


def test_a_panel_names_its_designs_where_they_are_not_those_of_the_first(small_run: Path):
    result, tables = parts(small_run)
    for e in result["comparison"]:
        if (e["design"], e["label"]) == ("snapshot", "click"):
            e.update(bias=None, bias_mc_se=None)
    figure = drawn(result, tables)
    shown = {
        title: [tick.get_text() for tick in panel(figure, f"click: {title}").get_yticklabels()]
        for title in ("estimates", "bias", "coverage")
    }
    assert shown == {
        "estimates": ["pooling", "splitting"],
        "bias": ["", ""],
        "coverage": ["pooling", "snapshot", "splitting"],
    }


def test_bias_and_coverage_are_those_of_the_result(small_run: Path):
    result, tables = parts(small_run)
    figure = drawn(result, tables)
    biases = [e["bias"] for e in result["comparison"] if e["label"] == "click"]
    covers = [
        100 * e["coverage"]
        for e in result["inference"]
        if e["label"] == "click" and e["se_method"] == "welch"
    ]
    for title, expected in (("click: bias", biases), ("click: coverage", covers)):
        drawn_lines = panel(figure, title).get_lines()
        points = [x for x in drawn_lines if len(x.get_xdata()) == 1 and x.get_marker() in "oxs"]
        found = sorted(float(x.get_xdata()[0]) for x in points)
        assert found == pytest.approx(sorted(expected))


def test_a_bias_is_marked_as_the_page_judges_it(small_run: Path):
    """One is beyond the limit of 2.78 for six biases, one beyond that of a single bias only."""
    result, tables = parts(small_run)
    for e in result["comparison"]:
        bias = {"pooling": 3.2, "snapshot": 2.4, "splitting": 0.1}[e["design"]]
        e.update(gte=10.0, bias=bias, bias_mc_se=1.0, bias_df=39, n_worlds=40)
    ax = panel(drawn(result, tables), "click: bias")
    legend = ax.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["no bias", "inconclusive", "biased"]
    markers = [x.get_marker() for x in ax.get_lines() if x.get_marker() in "oxsD"]
    assert markers == ["D", "D", "s"]
    judged = {v.design: v.judgement for v in verdicts.verdicts(RunResult.of(result))}
    assert list(judged.values()).count("biased") == 1


def test_no_label_lies_on_another_or_outside(small_run: Path):
    figure = drawn(*parts(small_run))
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    frames = [ax.get_tightbbox(renderer) for ax in figure.axes]
    for i, one in enumerate(frames):
        assert one.x0 >= 0
        assert one.y0 >= 0
        assert one.x1 <= figure.bbox.width + 1
        assert one.y1 <= figure.bbox.height + 1
        assert not any(one.shrunk(0.99, 0.99).overlaps(other) for other in frames[i + 1 :])


def test_a_single_design_shows_its_arms(small_run: Path):
    result, tables = parts(small_run)
    result |= {"mode": "splitting", "comparison": []}
    only = pl.col("design") == "splitting"
    tables = {name: t.filter(only | (pl.col("design") == "")) for name, t in tables.items()}
    figure = drawn(result, tables)
    assert titles(figure)[:3] == [
        "play_time (ms): total so far, splitting",
        "play_time (ms): relative error",
        "play_time (ms): loss",
    ]
    legend = figure.axes[2].get_legend()
    assert legend is not None
    assert {text.get_text() for text in legend.get_texts()} == {
        f"{arm}, {split}" for arm in ("treatment", "control") for split in ("train", "validation")
    }


def test_designs_without_estimates_leave_no_empty_panel(small_run: Path):
    result, tables = parts(small_run)
    tables["estimates"] = tables["estimates"].filter(pl.col("design") == "global")
    assert ": estimates" not in " ".join(titles(drawn(result, tables)))


def test_a_run_without_steps_is_drawn_as_that(small_run: Path):
    result, tables = parts(small_run)
    result |= {"status": "partial", "n_steps_done": 0, "comparison": []}
    figure = drawn(result, {name: t.clear() for name, t in tables.items()})
    assert figure.axes == []
    assert "before its first step" in figure.texts[0].get_text()
    assert "partial" in figure.get_suptitle()


def test_writing_again_gives_the_same_bytes_and_nothing_else(small_run: Path, tmp_path: Path):
    run = Path(shutil.copytree(small_run, tmp_path / "run"))
    before = sorted(run.rglob("*"))
    first = (run / "plot.svg").read_bytes()
    assert write_plot(run).read_bytes() == first
    assert sorted(run.rglob("*")) == before
    assert ET.fromstring(first).tag.endswith("svg")


def test_a_drawing_that_fails_leaves_the_old_one(
    small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    run = Path(shutil.copytree(small_run, tmp_path / "run"))
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}

    def fail(self: Figure, path: Path, **_: Any) -> None:
        path.write_text("<svg")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Figure, "savefig", fail)
    with pytest.raises(DiskError, match=r"plot\.svg: no space left"):
        write_plot(run)
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before


def test_a_missing_table_is_said(small_run: Path, tmp_path: Path):
    run = Path(shutil.copytree(small_run, tmp_path / "run"))
    (run / "metrics.parquet").unlink()
    with pytest.raises(InputError, match=r"metrics\.parquet: cannot be read"):
        write_plot(run)


def test_a_png_is_drawn_where_asked(small_run: Path, tmp_path: Path):
    run = Path(shutil.copytree(small_run, tmp_path / "run"))
    assert write_plot(run, png=True) == run / "plot.svg"
    assert (run / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_a_label_without_a_model_shares_a_row(small_run: Path):
    result, tables = parts(small_run)
    tables["metrics"] = tables["metrics"].filter(pl.col("label") != "click")
    assert titles(drawn(result, tables))[-2:] == [
        "click: total so far",
        "data left: too little for a full slate",
    ]


def test_data_that_do_not_run_out_have_no_panel(small_run: Path):
    result, tables = parts(small_run)
    is_data = pl.col("split") == "data"
    value = pl.when(is_data).then(0.0).otherwise(pl.col("value"))
    tables["metrics"] = tables["metrics"].with_columns(value=value)
    assert "data left" not in " ".join(titles(drawn(result, tables)))
