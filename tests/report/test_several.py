"""Several runs in one page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from page_reader import Element, charts_of, copy_run, read_page
from test_page import result_of, section

from realdataexp.errors import InputError
from realdataexp.report import verdicts
from realdataexp.report.files import read_run
from realdataexp.report.page import run_names, write_comparison


def other(result: dict[str, Any]) -> None:
    result["config"]["simulation"]["n_steps"] = 77
    result["config"]["labels"][0]["alpha_T"] = 0.25
    for entry in result["comparison"]:
        entry.update(bias=5.0, bias_mc_se=1.0, bias_df=9, gte=-10.0)


@pytest.fixture(scope="module")
def runs(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("runs")
    return [copy_run(small_run, folder / "one"), copy_run(small_run, folder / "<two>", other)]


@pytest.fixture(scope="module")
def page(runs: list[Path]) -> Element:
    path = write_comparison(runs)
    assert path == runs[0] / "report-compare.html"
    return read_page(path)


def test_effects_and_biases_stand_side_by_side(page: Element, runs: list[Path]):
    results = [result_of(run) for run in runs]
    for label in ("play_time", "click"):
        (effects,) = section(page, "effects").all("div", data_label=label)
        rows = effects.all("tbody")[0].all("tr")
        assert [row.all("th")[0].text for row in rows] == ["one", "<two>"]
        for row, result in zip(rows, results, strict=True):
            (truth,) = [
                e for e in result["estimates"] if (e["design"], e["label"]) == ("global", label)
            ]
            told = [float(str(x.attributes["data-sort"])) for x in row.all("td")[1:4]]
            assert told == [truth["value"], truth["ci_low"], truth["ci_high"]]
        (biases,) = section(page, "biases").all("div", data_label=label)
        for e in results[0]["comparison"]:
            if e["label"] == label:
                (row,) = biases.all("tr", data_design=e["design"])
                told = [float(str(x.attributes["data-sort"])) for x in row.all("td")]
                assert told == [e["bias"], 5.0]
                assert row.all("td")[1].attributes["class"] == "notable"
                assert row.all("td")[1].text.endswith("(-50 %)")


def test_both_verdicts_of_each_run_are_told(page: Element, runs: list[Path]):
    rows = section(page, "runs").all("tbody")[0].all("tr")
    for row, run in zip(rows, runs, strict=True):
        assert row.all("td")[-1].text == " ".join(verdicts.headline(read_run(run)))
    assert "Biased: pooling, snapshot, splitting." in rows[1].text


def test_only_settings_that_differ_are_listed(page: Element):
    rows = section(page, "settings").all("tbody")[0].all("tr")
    told = {row.all("th")[0].text: [x.text for x in row.all("td")] for row in rows}
    assert told == {"simulation.n_steps": ["10", "77"], "labels.play_time.alpha_T": ["1.0", "0.25"]}


def test_the_runs_are_drawn_together(page: Element):
    charts = {chart["key"]: chart for chart in charts_of(page)}
    assert {"effect-0", "effect-1", "bias-0-0", "bias-1-1"} <= set(charts)
    assert [t["name"] for t in charts["effect-0"]["data"]] == ["one", "&lt;two&gt;"]


def test_equal_runs_say_so_and_the_page_may_lie_elsewhere(small_run: Path, tmp_path: Path):
    runs = [copy_run(small_run, tmp_path / name) for name in ("a", "b")]
    out = write_comparison(runs, tmp_path / "page.html")
    assert out == tmp_path / "page.html"
    assert "the same settings" in section(read_page(out), "settings").text


def test_runs_without_a_comparison_have_no_biases(small_run: Path, tmp_path: Path):
    def only(result: dict[str, Any]) -> None:
        result.update(mode="global", comparison=[], inference=[])

    runs = [copy_run(small_run, tmp_path / name, only) for name in ("a", "b")]
    page = read_page(write_comparison(runs))
    assert page.all("section", id="biases") == []
    assert len(section(page, "effects").all("table")) == 2


def test_what_is_no_run_is_said(small_run: Path, tmp_path: Path):
    with pytest.raises(InputError, match="not there"):
        write_comparison([small_run, tmp_path])


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["x/a", "x/b"], ["a", "b"]),
        (["x/run", "y/run"], ["x/run", "y/run"]),
        (["x/run", "x/run"], ["1: run", "2: run"]),
    ],
)
def test_runs_are_named_by_what_tells_them_apart(paths: list[str], names: list[str]):
    assert run_names([Path(path) for path in paths]) == names
