"""The page in a real browser: charts are drawn, controls work, nothing is asked of a network.

The page's own policy forbids every request, and the browser reports one that is tried on its
console; so does it an error of a script. A page without either tries and breaks nothing.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from page_reader import charts_of, copy_run, read_page
from test_page import EVIL, evil_run

from realdataexp.report.page import write_comparison, write_report

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")


def opened(path: Path, home: Path, width: int = 1280) -> tuple[str, list[str]]:
    """The page as it is once its scripts ran, and what its console says."""
    done = subprocess.run(
        [
            str(BROWSER), "--headless", "--disable-gpu", "--no-first-run",
            *(["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []),
            f"--user-data-dir={home}", "--virtual-time-budget=10000", f"--window-size={width},900",
            "--enable-logging=stderr", "--v=0", "--dump-dom", f"{path.as_uri()}#selftest",
        ],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


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


def test_a_phone_shows_the_page_without_scrolling_sideways(small_run: Path, tmp_path: Path):
    """In a frame, as a browser's own window may not be as narrow."""
    page = write_report(copy_run(small_run, tmp_path / "r"))
    frame = tmp_path / "phone.html"
    frame.write_text(
        f"<iframe src='{page.as_uri()}#selftest' style='width:375px;height:800px'></iframe><script>"
        "onmessage = (x) => { document.title = x.data; }</script>"
    )
    dom, _ = opened(frame, tmp_path / "home")
    (whole, seen) = json.loads(unescape(dom.split("<title>")[1].split("</title>")[0]))["page"]
    assert whole <= seen <= 375


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
