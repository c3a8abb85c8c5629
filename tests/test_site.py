"""The documentation's site builds without a warning, and opens without a network."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

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
    for page in (ROOT / "docs").glob("*.md"):
        assert (built[0] / page.with_suffix(".html").name).is_file(), page.name


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
