"""The documentation's site builds without a warning, and opens without a network."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from browser import audited, needs_browser

ROOT = Path(__file__).parents[1]
# what a page fetches by itself; a plain link (a, and link rel=next and the like) is followed
FETCHED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "object": "data"}


class Requests(HTMLParser):
    """Collects the addresses that a browser fetches to show a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        if tag in FETCHED:
            self.found.append(attributes.get(FETCHED[tag]) or "")
        if tag == "link" and re.search("stylesheet|icon|preload", attributes.get("rel") or ""):
            self.found.append(attributes.get("href") or "")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The site's folder, and what building it said."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    return folder, said


def test_the_site_builds_without_a_warning(built: tuple[Path, str]) -> None:
    """Links and anchors that lead nowhere, and pages that the menu lacks, are warnings."""
    assert not re.search("WARNING|ERROR", built[1]), built[1]


def test_every_page_of_the_docs_is_in_the_site(built: tuple[Path, str]) -> None:
    pages = [x.name for x in (ROOT / "docs").glob("*.md")]
    notebooks = [f"notebooks/{x.name}" for x in (ROOT / "docs" / "notebooks").glob("*.ipynb")]
    assert notebooks
    for page in (*pages, *notebooks):
        assert (built[0] / page).with_suffix(".html").is_file(), page


def test_a_notebook_s_page_shows_what_its_cells_did(built: tuple[Path, str]) -> None:
    """And no link leads to a file of the folder in which it ran."""
    text = (built[0] / "notebooks" / "first_look.html").read_text(encoding="utf-8")
    assert "Biased: snapshot, pooling." in text
    assert text.count('src="data:image/png;base64,') == 2
    for page in (built[0] / "notebooks").glob("*.html"):
        for link in re.findall(r'href="([^"#?]+)', page.read_text(encoding="utf-8")):
            assert re.match("https?:|mailto:", link) or (page.parent / link).exists(), link


@needs_browser
@pytest.mark.parametrize("is_dark", [False, True], ids=["light", "dark"])
def test_a_reader_with_a_phone_can_read_and_use_the_site(
    is_dark: bool, built: tuple[Path, str], tmp_path: Path
) -> None:
    """Contrast, names of links, controls and pictures, no requests, no scrolling sideways."""
    names = ("index", "gallery", "start", "designs", "results", "notebooks/own_data")
    pages = {name: built[0] / f"{name}.html" for name in names}
    found = audited(pages, tmp_path / "home", is_dark=is_dark)
    assert found.keys() == pages.keys()
    for name, own in found.items():
        assert own.pop("n_texts") > 50, name
        whole, seen = own.pop("width")
        assert whole <= seen <= 375, name
        assert (own.pop("language"), own.pop("headings")) == ("en", 1), name
        assert not any(own.values()), (name, own)


@needs_browser
def test_the_audit_finds_what_it_looks_for(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text(
        "<!doctype html><p style='color:#888'>pale</p><p style='color:#767676'>enough</p>"
        "<a href=x></a><img src='http://localhost/x.png'>"
        "<p id=a style='width:900px'>wide</p><p id=a>again</p>"
    )
    own = audited({"page": page}, tmp_path / "home")["page"]
    assert [x[0] for x in own["contrast"]] == ["pale"]
    assert len(own["names"]) == 2 and own["ids"] == ["a"]
    assert own["requests"] == ["http://localhost/x.png"]
    assert own["width"][0] > own["width"][1] and own["headings"] == 0


def test_no_page_asks_the_network_for_anything(built: tuple[Path, str]) -> None:
    pages = sorted(built[0].rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        requests = Requests()
        requests.feed(page.read_text(encoding="utf-8"))
        assert requests.found
        assert not [x for x in requests.found if re.match(r"(https?:)?//", x)], page.name
    for style in built[0].rglob("*.css"):
        text = style.read_text(encoding="utf-8")
        assert not re.search(r"(url\(|@import)\s*[\"']?(https?:)?//", text), style.name


def test_the_python_page_documents_the_public_functions(built: tuple[Path, str]) -> None:
    text = (built[0] / "api.html").read_text(encoding="utf-8")
    for name in ("api.run", "config.load_config", "api.plan", "api.Result.comparison"):
        assert f'id="realdataexp.{name}"' in text, name
