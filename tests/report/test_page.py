"""report.html is one whole page whose numbers and words are those of the run folder."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from page_reader import Element, charts_of, copy_run, read_page
from plotly.offline import get_plotlyjs_version

from realdataexp.errors import InputError
from realdataexp.report import verdicts
from realdataexp.report.files import read_run
from realdataexp.report.page import advice, packed_json, write_report
from tools import plotly_bundle

EVIL = '</script><script>alert("x")</script><img src=x onerror=alert(1)>'


@pytest.fixture(scope="module")
def page(small_run: Path) -> Element:
    return read_page(small_run / "report.html")


def result_of(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "result.json").read_text(encoding="utf-8"))
    return found


def section(page: Element, key: str) -> Element:
    (found,) = page.all("section", id=key)
    return found


def test_the_page_has_landmarks_headings_and_unique_ids(page: Element):
    assert page.all("html")[0].attributes["lang"] == "en"
    assert [len(page.all(name)) for name in ("header", "nav", "main", "footer", "h1")] == [1] * 5
    levels = [int(x.name[1]) for x in page.inner() if re.fullmatch("h[1-6]", x.name)]
    assert levels[0] == 1
    assert all(b - a <= 1 for a, b in pairwise(levels))
    ids = Counter(x.attributes["id"] for x in page.inner() if "id" in x.attributes)
    assert max(ids.values()) == 1
    for x in page.all("section"):
        assert x.attributes["aria-labelledby"] in ids
    links = [x.attributes["href"] for x in page.all("nav")[0].all("a")]
    assert links == [f"#{x.attributes['id']}" for x in page.all("section")]


def test_tables_have_captions_and_headers_and_drawings_have_texts(page: Element):
    for table in page.all("table"):
        assert table.all("caption")[0].text
        heads = [x for x in table.all("th") if "scope" in x.attributes]
        assert heads == table.all("th")
        n_columns = len(table.all("thead")[0].all("th"))
        for row in table.all("tbody")[0].all("tr"):
            assert len(row.all("th")) == 1
            assert len(row.content) == n_columns
    drawings = [*page.all("img"), *page.all("svg"), *page.all(role="img")]
    assert len(drawings) == len(charts_of(page))
    assert all(x.attributes.get("aria-label") for x in drawings)
    for x in page.all("input") + page.all("select"):
        assert any(x in label.inner() for label in page.all("label"))
    assert all(x.text or x.attributes.get("aria-label") for x in page.all("button"))


def test_nothing_comes_from_elsewhere(page: Element):
    addresses = [
        x.attributes[key] for x in page.inner() for key in ("src", "href") if key in x.attributes
    ]
    assert all(str(x).startswith("#") for x in addresses)
    (policy,) = page.all("meta", http_equiv="Content-Security-Policy")
    assert str(policy.attributes["content"]).startswith("default-src 'none'; ")
    assert [x.name for x in page.inner() if x.name in ("link", "iframe", "object")] == []


def test_the_tables_numbers_are_those_of_the_result(page: Element, small_run: Path):
    result = result_of(small_run)
    tables = section(page, "comparison").all("div", class_="wide")
    keys = ("estimate", "bias", "percent", "sd", "rmse", "se_ratio", "coverage",
            "sign_error_rate", "regret")  # fmt: skip
    assert result["comparison"]
    for entry in result["comparison"]:
        (own,) = [x for x in tables if x.attributes.get("data-label") == entry["label"]]
        (row,) = own.all("tr", data_design=entry["design"])
        entry["percent"] = 100 * entry["bias"] / entry["gte"]
        for key, cell in zip(keys, row.all("td"), strict=True):
            told = cell.attributes.get("data-sort")
            assert (None if told is None else float(told)) == entry[key]
        (truth,) = own.all("tr", data_design="global")
        assert float(str(truth.all("td")[0].attributes["data-sort"])) == entry["gte"]


def test_the_answer_comes_first_in_the_words_of_the_rules(page: Element, small_run: Path):
    result = read_run(small_run)
    assert page.all("section")[0].attributes["id"] == "answer"
    said = section(page, "answer").text
    assert "ms" in result.units.values()
    for entry in result.truths:
        relative, unit = result.relative(entry.label), result.units[entry.label]
        assert verdicts.effect(entry, relative, unit).words in said
    assert all(sentence in said for sentence in verdicts.headline(result))
    for v in verdicts.verdicts(result):
        assert all(words in said for found in v.reasons.values() for words in found)


def test_the_charts_are_means_and_few_points(page: Element, small_run: Path):
    charts = {chart["key"]: chart for chart in charts_of(page)}
    assert {"estimates-0", "bias-0", "coverage-1", "effect-1", "total-0", "quality-1"} <= {*charts}
    gte = result_of(small_run)["gte_results"]
    ends = {t["name"]: t["y"][-1] for t in charts["total-1"]["data"] if "band" not in t["meta"]}
    assert ends["everybody in treatment"] == pytest.approx(gte["GT_click"], rel=1e-6)
    assert len(json.dumps(list(charts.values()))) < 300_000


def test_every_warning_says_what_to_do(small_run: Path, tmp_path: Path):
    def warn(result: dict[str, Any]) -> None:
        told = {"visits_lost": "many", "x": "y"}
        result["warnings"] = [{"code": c, "message": m} for c, m in told.items()]

    said = section(
        read_page(write_report(copy_run(small_run, tmp_path / "r", warn))), "diagnostics"
    )
    first, second = said.all("ul", class_="warnings")[0].all("li")
    assert "visits lost: many" in first.text
    assert advice("visits_lost") in first.text
    assert advice("x") in second.text


@pytest.mark.parametrize("name", ["outcomes", "estimates", "metrics", "units"])
def test_a_table_that_is_not_there_costs_its_charts_only(
    name: str, small_run: Path, tmp_path: Path
):
    run = copy_run(small_run, tmp_path / "r")
    (run / f"{name}.parquet").unlink()
    page = read_page(write_report(run))
    keys = {chart["key"] for chart in charts_of(page)}
    assert "bias-0" in keys
    gone = {"outcomes": "total-0", "estimates": "estimates-0", "metrics": "quality-0"}
    assert gone.get(name) not in keys
    assert section(page, "comparison").all("tr", data_design="pooling")


def test_a_folder_without_tables_or_extras_still_has_a_page(small_run: Path, tmp_path: Path):
    def strip(result: dict[str, Any]) -> None:
        for key in ("inference", "plan", "regret", "family", "weights", "diagnostics"):
            del result[key]

    run = copy_run(small_run, tmp_path / "r", strip)
    for path in run.glob("*.parquet"):
        path.unlink()
    page = read_page(write_report(run))
    assert {chart["key"] for chart in charts_of(page)} == {"bias-0", "bias-1"}


def test_what_is_no_run_or_damaged_is_said(small_run: Path, tmp_path: Path):
    with pytest.raises(InputError, match=r"result\.json: not there"):
        write_report(tmp_path)
    run = copy_run(small_run, tmp_path / "r")
    (run / "metrics.parquet").write_bytes(b"no")
    with pytest.raises(InputError, match=r"metrics\.parquet: cannot be read"):
        write_report(run)
    assert not (run / "report.html").exists()


def test_a_run_without_steps_says_so(small_run: Path, tmp_path: Path):
    def stop(result: dict[str, Any]) -> None:
        result.update(status="partial", n_steps_done=0, comparison=[], estimates=[], inference=[])
        result.update(plan=[], gte_results={})

    run = copy_run(small_run, tmp_path / "r", stop)
    for path in run.glob("*.parquet"):
        pl.read_parquet(path).clear().write_parquet(path)
    page = read_page(write_report(run))
    assert "Partial: the run stopped after 0 steps" in section(page, "answer").text
    assert charts_of(page) == []


def test_a_single_designs_answer_is_not_called_the_truth(small_run: Path, tmp_path: Path):
    def only(result: dict[str, Any]) -> None:
        result["estimates"] = [e for e in result["estimates"] if e["design"] == "snapshot"]
        result.update(mode="snapshot", comparison=[], inference=[], plan=[], gte_results={})

    said = section(read_page(write_report(copy_run(small_run, tmp_path / "r", only))), "answer")
    assert "what the design snapshot answers, not the truth" in said.text


def evil_run(run: Path, to: Path) -> Path:
    """A run whose label and design are named by somebody hostile."""
    names = {"click": f"click{EVIL}", "pooling": f"pooling{EVIL}"}
    text = (run / "result.json").read_text(encoding="utf-8")
    for name, evil in names.items():
        text = re.sub(rf'"((?:[A-Z]+_)?){name}((?:_relative)?)"',
                      lambda m, evil=evil: json.dumps(f"{m[1]}{evil}{m[2]}"), text)  # fmt: skip

    def change(result: dict[str, Any]) -> None:
        result.clear()
        result.update(json.loads(text))
        result["warnings"] = [{"code": EVIL, "message": EVIL}]
        result["versions"][EVIL] = EVIL

    to = copy_run(run, to, change)
    for path in to.glob("*.parquet"):
        table = pl.read_parquet(path)
        columns = [c for c in ("design", "label") if c in table.columns]
        table.with_columns(pl.col(columns).cast(pl.String).replace(names)).write_parquet(path)
    return to


def test_names_are_text_and_never_markup(small_run: Path, tmp_path: Path):
    page = read_page(write_report(evil_run(small_run, tmp_path / "<b>r")))
    assert [x.name for x in page.inner() if x.name in ("img", "b")] == []
    assert len(page.all("script")) == 3
    assert not [key for x in page.inner() for key in x.attributes if key.startswith("on")]
    assert page.all("h1")[0].text.endswith("<b>r")
    assert EVIL in section(page, "diagnostics").text
    assert f"pooling{EVIL}" in section(page, "answer").text
    (data,) = page.all("script", id="charts-data")
    assert not re.search("[<>&]", data.text)
    shown = [trace["name"] for chart in charts_of(page) for trace in chart["data"]]
    assert any("alert" in name for name in shown)
    assert not any("<" in name for name in shown)


def test_what_is_no_number_is_null_in_a_script() -> None:
    value = {"a": [1.0, float("nan"), (float("inf"), 2)], "b": "nan"}
    assert json.loads(gzip.decompress(base64.b64decode(packed_json(value)))) == {
        "a": [1.0, None, [None, 2]],
        "b": "nan",
    }


def test_early_scatter_does_not_set_the_axis_and_is_marked(small_run: Path, tmp_path: Path):
    run = copy_run(small_run, tmp_path / "r")
    table = pl.read_parquet(run / "outcomes.parquet")
    is_odd = (pl.col("step") == 0) & (pl.col("arm") == "T") & (pl.col("design") == "pooling")
    odd = pl.when(is_odd).then(1e9).otherwise(pl.col("sum"))
    later = pl.when((pl.col("step") == 1) & (pl.col("arm") == "T")
                    & (pl.col("design") == "pooling"))  # fmt: skip
    table.with_columns(sum=later.then(-1e9).otherwise(odd)).write_parquet(run / "outcomes.parquet")
    charts = {chart["key"]: chart for chart in charts_of(read_page(write_report(run)))}
    chart = charts["effect-0"]
    low, high = chart["layout"]["yaxis"]["range"]
    (curve,) = [t for t in chart["data"] if t["name"] == "pooling" and "band" not in t["meta"]]
    assert max(map(abs, curve["y"])) > 1e6
    assert -1e5 < low < high < 1e5
    points = zip(curve["x"], curve["y"], strict=True)
    beyond = [(x, high if y > high else low) for x, y in points if not low <= y <= high]
    assert beyond[0] == (1, high)
    (marks,) = [t for t in chart["data"] if t["mode"] == "markers" and t["name"] == "pooling"]
    assert list(zip(marks["x"], marks["y"], strict=True)) == beyond
    assert marks["marker"]["symbol"][0] == "triangle-up"


# --- what whoever decides looks at -----------------------------------------------------------


def test_the_verdict_comes_first_and_each_design_stands_beside_the_truth(
    page: Element, small_run: Path
) -> None:
    found = section(page, "answer")
    first, *_ = [x for x in found.inner() if x.name == "p"]
    assert first.text == verdicts.headline(read_run(small_run))[0]
    result = read_run(small_run)
    for label, card in zip(result.titles, found.all("div", class_="card"), strict=True):
        rows = card.all("div", class_="glance-row")
        entries = {e.design: e for e in result.comparison if e.label == label}
        assert [row.attributes["data-design"] for row in rows] == list(entries)
        at = [_places(row) for row in rows]
        assert len({x["truth"] for x in at}) == 1 and len({x["zero"] for x in at}) == 1
        for x, e in zip(at, entries.values(), strict=True):
            scale = (e.gte or 0.0) / (x["truth"] - x["zero"])  # of a percent of the width
            near = {"rel": 0.01, "abs": 0.05 * abs(scale)}  # places have two decimals
            assert (x["dot"] - x["zero"]) * scale == pytest.approx(e.estimate, **near)
            assert x["width"] * abs(scale) == pytest.approx(2 * (e.sd or 0.0), **near)


def _places(row: Element) -> dict[str, float]:
    """Where the marks of a row are, in percent of its width."""
    out = {}
    for mark in row.all("i"):
        name = (mark.attributes["class"] or "").split()[0]
        numbers = re.findall(r"(left|width):(-?[\d.]+)%", mark.attributes["style"] or "")
        out |= {name if key == "left" else key: float(x) for key, x in numbers}
    return out


# --- the script that draws charts ------------------------------------------------------------


def test_the_page_s_policy_allows_the_very_script_that_it_unpacks(
    small_run: Path, tmp_path: Path
) -> None:
    path = write_report(copy_run(small_run, tmp_path / "r"))
    page = read_page(path)
    (packed,) = page.all("script", id="plotly")
    code = gzip.decompress(base64.b64decode(packed.text))
    assert b"* plotly.js" in code[:200] and b"MIT license" in code[:200]
    (policy,) = page.all("meta", http_equiv="Content-Security-Policy")
    digest = base64.b64encode(hashlib.sha256(code).digest()).decode()
    assert f"'sha256-{digest}'" in (policy.attributes["content"] or "")
    rest = path.stat().st_size - len(packed.text)
    assert rest < 500_000  # with the part of plotly.js that a wheel brings: below 1.2 MB


def test_a_page_without_the_script_says_how_to_get_charts(
    small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("realdataexp.report.page._plotly", lambda: None)
    page = read_page(write_report(copy_run(small_run, tmp_path / "r")))
    assert not page.all("script", id="plotly")
    (notice,) = page.all("p", class_="notice no-charts")
    assert 'pip install "realdataexp[charts]"' in notice.text


def test_a_wheel_brings_the_plotly_js_that_the_pinned_package_has() -> None:
    assert get_plotlyjs_version() == plotly_bundle.VERSION
