"""The page of a sweep, made from tables by hand: what it draws is what they say."""

from __future__ import annotations

import html
from itertools import product
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from browser import needs_browser, opened
from page_reader import Element, charts_of, read_page
from scipy import stats
from test_browser import found_by
from test_page import section

from realdataexp.errors import InputError
from realdataexp.report.page import write_sweep
from realdataexp.report.sweeps import print_sweep

LABELS = [
    {"name": "play_time", "target": "play_time_ms"},
    {"name": "<click>", "target": "is_click"},
]
DESIGNS = ["pooling", "shadow"]
Point = dict[str, Any]


def row(point: int, keys: Point, design: str, label: str) -> dict[str, Any]:
    """Figures of which each tells its point, design and label."""
    gte = 10.0 + point if label == "play_time" else 3.0 - (point - 2) ** 2
    bias = (-1.0) ** point * (1 + DESIGNS.index(design))
    return {
        **keys, "design": design, "label": label, "gte": gte, "estimate": gte + bias, "bias": bias,
        "bias_mc_se": 0.1 + point / 10, "bias_df": 9, "rmse": 2.0, "coverage": 0.9, "n_worlds": 10,
        "sd": 4.0 - (-1.0) ** point * DESIGNS.index(design) - point / 10,
        "gte_low": gte - 1, "gte_high": gte + 2, "estimate_low": gte, "estimate_high": gte + 9,
        "coverage_low": 0.8, "coverage_high": 0.95, "point": point, "warnings": "no_number",
        "fault": None,
    }  # fmt: skip


def write(folder: Path, points: list[Point], failed: dict[int, str] | None = None) -> Path:
    rows = [
        row(i, keys, design, label["name"])
        for i, keys in enumerate(points)
        for design, label in product(DESIGNS, LABELS)
    ]
    table = pl.DataFrame(rows, infer_schema_length=None)
    for i, fault in (failed or {}).items():
        is_own = pl.col("point") == i
        kept = [*points[0], "design", "label", "point", "fault"]
        table = table.with_columns(
            pl.when(is_own).then(pl.lit(fault)).otherwise("fault").alias("fault"),
            *(pl.when(~is_own).then(x).alias(x) for x in table.columns if x not in kept),
        )
    (folder / "points" / "0").mkdir(parents=True)
    (folder / "points" / "0" / "config.yaml").write_text(yaml.safe_dump({"labels": LABELS}))
    asked = {"schema_version": 1, "keep_going": False, "config": {}, "points": points}
    (folder / "sweep.yaml").write_text(yaml.safe_dump(asked))
    table.write_parquet(folder / "sweep.parquet")
    return folder


GRID = [{"a.x": x, "b.y": y} for x in (1, 2, 100) for y in ("l", "<m>")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("s") / "sweep", GRID)


@pytest.fixture(scope="module")
def page(folder: Path) -> Element:
    path = write_sweep(folder)
    assert path == folder / "sweep.html"
    return read_page(path)


@pytest.fixture(scope="module")
def charts(page: Element) -> dict[str, dict[str, Any]]:
    return {chart["key"]: chart for chart in charts_of(page)}


def test_every_point_stands_in_a_table_for_each_label(page: Element):
    for label in ("play_time", "<click>"):
        (own,) = section(page, "points").all("div", data_label=label)
        rows = own.all("tbody")[0].all("tr")
        assert len(rows) == len(GRID) * len(DESIGNS)
        for i, line in enumerate(rows):
            point, design = divmod(i, len(DESIGNS))
            known = row(point, GRID[point], DESIGNS[design], label)
            cells = line.all("td")
            assert line.all("th")[0].text == str(point)
            assert [x.text for x in cells[:3]] == [*map(str, GRID[point].values()), DESIGNS[design]]
            told = [float(str(x.attributes["data-sort"])) for x in cells[3:6]]
            assert told == [known["gte"], known["estimate"], known["bias"]]


def test_the_verdicts_are_counted_by_the_rule_of_a_run(page: Element):
    """Each point has four biases; t with 9 degrees of freedom at 5 % / 4 is 3.11."""
    limit = stats.t.isf(0.05 / 2 / 4, 9)
    for label in ("play_time", "<click>"):
        (own,) = section(page, "answer").all("div", data_label=label)
        for line in own.all("tbody")[0].all("tr"):
            design = line.all("th")[0].text
            found = [row(i, x, design, label) for i, x in enumerate(GRID)]
            n = sum(abs(x["bias"]) > limit * x["bias_mc_se"] for x in found)
            counts = [int(x.text) for x in line.all("td")]
            assert sum(counts) == len(GRID)
            assert counts[1] + counts[4] == n > 0


def test_dose_response_curves_have_the_tables_numbers(charts: dict[str, dict[str, Any]]):
    limit = stats.t.isf(0.025, 9)
    for key, figure, low, high in (
        ("effect-0-0", "estimate", "estimate_low", "estimate_high"),
        ("bias-0-0", "bias", None, None),
        ("coverage-0-0", "coverage", "coverage_low", "coverage_high"),
    ):
        chart = charts[key]
        assert chart["selects"] == ["where"]
        assert chart["layout"]["xaxis"]["type"] == "log"  # 1 to 100
        own = [x for x in chart["data"] if x["meta"]["design"] == "shadow"]
        assert [x["meta"]["where"] for x in own] == ["b.y = l", "b.y = <m>"]
        for trace, y in zip(own, ("l", "<m>"), strict=True):
            rows = [row(i, x, "shadow", "play_time") for i, x in enumerate(GRID) if x["b.y"] == y]
            scale = 100 if figure == "coverage" else 1
            assert trace["x"] == [1, 2, 100]
            assert trace["y"] == pytest.approx([scale * x[figure] for x in rows])
            ends = [x[high] - x[figure] if high else limit * x["bias_mc_se"] for x in rows]
            assert trace["error_y"]["array"] == pytest.approx([scale * x for x in ends], rel=1e-6)
            ends = [x[figure] - x[low] if low else limit * x["bias_mc_se"] for x in rows]
            assert trace["error_y"]["arrayminus"] == pytest.approx(
                [scale * x for x in ends], rel=1e-6
            )
    truth = [x for x in charts["effect-0-0"]["data"] if x["name"] == "truth (GTE)"]
    assert [x["y"] for x in truth] == [[10.0, 12.0, 14.0], [11.0, 13.0, 15.0]]
    assert charts["effect-0-1"]["layout"]["xaxis"]["type"] == "category"


def test_the_pareto_plot_marks_points_that_no_other_beats(charts: dict[str, dict[str, Any]]):
    pairs = [
        tuple(row(i, x, "pooling", label["name"])["gte"] for label in LABELS)
        for i, x in enumerate(GRID)
    ]
    best = {p for p in pairs if not any(q != p and q[0] >= p[0] and q[1] >= p[1] for q in pairs)}
    others, front = charts["pareto-0"]["data"]
    assert {*zip(front["x"], front["y"], strict=True)} == best
    assert {*zip(others["x"], others["y"], strict=True)} == {*pairs} - best
    assert 0 < len(best) < len(pairs)
    assert set(front["error_x"]["array"]) == {2.0} and set(front["error_x"]["arrayminus"]) == {1.0}


def test_bias_is_drawn_against_spread_and_what_nothing_beats_in_both_is_marked(
    charts: dict[str, dict[str, Any]],
):
    rows = {
        f"{design}, a.x = {x['a.x']}, b.y = {x['b.y']}": row(i, x, design, "<click>")
        for design in DESIGNS
        for i, x in enumerate(GRID)
    }
    found = {name: (abs(x["bias"]), x["sd"]) for name, x in rows.items()}
    best = {
        name
        for name, (b, s) in found.items()
        if not any((p < b and q <= s) or (p <= b and q < s) for p, q in found.values())
    }
    others, front = charts["trade-1"]["data"]
    assert {html.unescape(x) for x in front["text"]} == best and 0 < len(best) < len(rows) / 2
    assert {html.unescape(x) for x in others["text"]} == {*rows} - best
    limit = stats.t.isf(0.025, 9)
    for trace in (others, front):
        for i, name in enumerate(map(html.unescape, trace["text"])):
            known = rows[name]
            assert (trace["x"][i], trace["y"][i]) == pytest.approx((known["sd"], known["bias"]))
            half = limit * known["bias_mc_se"]
            assert trace["error_y"]["array"][i] == pytest.approx(half, rel=1e-6)


def test_the_heat_map_has_every_cell(charts: dict[str, dict[str, Any]]):
    chart = charts["heat-1"]
    metrics = [(x["meta"]["metric"], x["meta"]["design"]) for x in chart["data"]]
    assert metrics == [*product(("effect", "bias", "coverage"), DESIGNS)]
    bias = chart["data"][3]
    assert (bias["x"], bias["y"]) == (["1", "2", "100"], ["l", "&lt;m&gt;"])
    for i, j in product(range(2), range(3)):
        known = row(2 * j + i, {}, "shadow", "<click>")
        assert bias["z"][i][j] == known["bias"]


def test_keys_in_lockstep_have_no_heat_map_and_no_choice(tmp_path: Path):
    points = [{"a": 1, "b": x} for x in ("l", "m")] + [{"a": 1, "b": "n"}]
    points = [{**x, "c": i} for i, x in enumerate(points)]
    charts = {x["key"]: x for x in charts_of(read_page(write_sweep(write(tmp_path / "s", points))))}
    assert not any(key.startswith("heat") for key in charts)
    assert all(x["selects"] == [] for x in charts.values())
    drawn = {key.split("-", 1)[1] for key in charts if key.startswith("bias")}
    assert drawn == {"0-0", "0-1", "1-0", "1-1"}  # b and c; a does not vary


def test_a_point_that_failed_is_told_and_drawn_nowhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    folder = write(tmp_path / "s", GRID, {1: "the GPU is <gone>"})
    page = read_page(write_sweep(folder))
    assert "Point 1 failed: the GPU is <gone>" in section(page, "answer").text
    assert "5 of 6 points are done, 1 failed" in section(page, "answer").text
    (own,) = section(page, "points").all("div", data_label="play_time")
    assert "1" not in {line.all("th")[0].text for line in own.all("tbody")[0].all("tr")}
    chart = next(x for x in charts_of(page) if x["key"] == "effect-0-0")
    lengths = {(x["meta"]["design"], x["meta"]["where"]): len(x["x"]) for x in chart["data"]}
    assert lengths["shadow", "b.y = l"] == 3 and lengths["shadow", "b.y = <m>"] == 2
    assert print_sweep(folder) == (1, 6)
    assert "! point 1: the GPU is <gone>" in capsys.readouterr().out


def test_chance_over_points_is_told_of_where_there_are_several(page: Element, tmp_path: Path):
    assert "Over 6 points some verdicts" in section(page, "answer").text
    said = section(read_page(write_sweep(write(tmp_path / "s", GRID[:1]))), "answer").text
    assert "1 of 1 point is done" in said and "Over 1" not in said


def test_a_sweep_of_which_nothing_is_done_has_a_page(tmp_path: Path):
    folder = write(tmp_path / "s", GRID[:1])
    pl.read_parquet(folder / "sweep.parquet").clear().write_parquet(folder / "sweep.parquet")
    assert "0 of 1 point is done" in section(read_page(write_sweep(folder)), "answer").text


def test_what_is_no_sweep_or_a_damaged_one_is_one_line(tmp_path: Path):
    with pytest.raises(InputError, match=r"sweep\.parquet: cannot be read"):
        write_sweep(tmp_path)
    folder = write(tmp_path / "s", GRID)
    (folder / "sweep.yaml").unlink()
    with pytest.raises(InputError, match=r"sweep\.yaml: cannot be read"):
        write_sweep(folder)
    (folder / "sweep.yaml").write_text("3")
    with pytest.raises(InputError, match="holds what no run writes"):
        write_sweep(folder)


@needs_browser
def test_the_page_draws_its_charts_and_its_controls_work(
    page: Element, folder: Path, tmp_path: Path
):
    dom, console = opened(folder / "sweep.html", tmp_path / "home")
    found = found_by(dom)
    assert console == []
    assert found["charts"] == found["drawn"] == len(charts_of(page)) == 2 * 2 * 3 + 2 + 1 + 2
    assert found["design"]["shown"] < found["shown"] == found["design"]["again"]
    assert found["metrics"] == ["bias"]
    assert found["theme"] is True
