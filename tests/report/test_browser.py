"""The page in a real browser: charts are drawn, controls work, nothing is asked of a network.

The page's own policy forbids every request, and the browser reports one that is tried on its
console; so does it an error of a script. A page without either tries and breaks nothing.
"""

from __future__ import annotations

import json
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from browser import audited, needs_browser, opened
from page_reader import charts_of, copy_run, read_page
from test_page import EVIL, evil_run

from realdataexp.report.page import write_comparison, write_report

pytestmark = needs_browser


def found_by(dom: str) -> dict[str, Any]:
    """What the page's own test of its controls found."""
    text = dom.split('<output id="selftest" hidden="">')[1].split("</output>")[0]
    found: dict[str, Any] = json.loads(unescape(text))
    return found


def test_the_console_tells_of_errors_and_of_requests(tmp_path: Path):
    page = tmp_path / "page.html"
    policy = "<meta http-equiv=Content-Security-Policy content=\"img-src 'none'\">"
    page.write_text(f"{policy}<img src='http://localhost/x.png'><script>nothing()</script>")
    _, console = opened(page, tmp_path / "home")
    assert any("nothing is not defined" in line for line in console)
    assert any("x.png" in line for line in console)


def test_a_runs_page_draws_its_charts_and_its_controls_work(small_run: Path, tmp_path: Path):
    run = copy_run(small_run, tmp_path / "r")
    charts = charts_of(read_page(write_report(run)))
    dom, console = opened(run / "report.html", tmp_path / "home")
    found = found_by(dom)
    assert console == []
    assert found["charts"] == found["drawn"] == len(charts) > 6
    assert dom.count('class="main-svg"') >= len(charts)
    for what, value in (("design", "pooling"), ("label", "play_time")):
        assert found[what]["value"] == value
        assert found[what]["hidden"] > 0
        assert found[what]["again"] == found["shown"]
    assert found["design"]["shown"] < found["shown"]
    assert found["metrics"] == ["loss"]
    biases = [x for x in found["sorted"] if isinstance(x, float)]
    assert found["sort"] == "ascending"
    assert biases == sorted(biases)
    assert len(biases) == 3
    assert found["numbers"] == 4
    assert found["theme"] is True


@pytest.mark.parametrize("is_dark", [False, True], ids=["light", "dark"])
def test_a_reader_with_a_phone_can_read_and_use_every_page(
    is_dark: bool, small_run: Path, tmp_path: Path
):
    """Of a run, of several: contrast, names of controls and pictures, no requests, no scrolling."""
    runs = [copy_run(small_run, tmp_path / name) for name in ("a", "b")]
    pages = {"run": write_report(runs[0]), "several": write_comparison(runs)}
    for name, found in audited(pages, tmp_path / "home", is_dark=is_dark).items():
        assert found.pop("n_texts") > 100, name
        whole, seen = found.pop("width")
        assert whole <= seen <= 375, name
        assert (found.pop("language"), found.pop("headings")) == ("en", 1), name
        assert not any(found.values()), (name, found)


def test_several_runs_are_drawn(small_run: Path, tmp_path: Path):
    runs = [copy_run(small_run, tmp_path / name) for name in ("a", "b")]
    dom, console = opened(write_comparison(runs), tmp_path / "home")
    assert console == []
    assert found_by(dom)["drawn"] == found_by(dom)["charts"] == 6


def test_hostile_names_are_shown_and_do_nothing(small_run: Path, tmp_path: Path):
    page = write_report(evil_run(small_run, tmp_path / "r"))
    dom, console = opened(page, tmp_path / "home")
    assert console == []
    assert "<img" not in dom
    assert found_by(dom)["drawn"] == found_by(dom)["charts"]
    assert found_by(dom)["design"]["value"] == f"pooling{EVIL}"
