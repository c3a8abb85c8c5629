"""Reads a page as a tree of elements, and makes run folders with made-up content."""

from __future__ import annotations

import base64
import gzip
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

VOID = {"meta", "input", "br", "img", "link", "hr"}


@dataclass
class Element:
    """An element: its name, attributes and content."""

    name: str
    attributes: dict[str, str | None]
    content: list[Element | str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """All text inside."""
        return "".join(x if isinstance(x, str) else x.text for x in self.content)

    def all(self, name: str = "", **attributes: str) -> list[Element]:
        """Elements inside of a name and with attributes; an underscore stands for a hyphen."""
        wanted = {key.rstrip("_").replace("_", "-"): v for key, v in attributes.items()}
        return [
            x
            for x in self.inner()
            if name in ("", x.name) and wanted.items() <= x.attributes.items()
        ]

    def inner(self) -> Iterator[Element]:
        """All elements inside, in the page's order."""
        for x in self.content:
            if isinstance(x, Element):
                yield x
                yield from x.inner()


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open = [Element("", {})]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, dict(attrs))
        assert len(element.attributes) == len(attrs), f"<{tag}> names an attribute twice"
        self.open[-1].content.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop().name == tag

    def handle_data(self, data: str) -> None:
        self.open[-1].content.append(data)


def read_page(path: Path) -> Element:
    """The page; elements that are not closed, or in the wrong order, fail."""
    reader = _Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    reader.close()
    assert len(reader.open) == 1
    return reader.open[0]


def charts_of(page: Element) -> list[dict[str, Any]]:
    """What the page's script draws."""
    packed = page.all("script", id="charts-data")
    found: list[dict[str, Any]] = []
    for data in packed:
        found += json.loads(gzip.decompress(base64.b64decode(data.text)))
    return found


def copy_run(
    run: Path, to: Path, change: Callable[[dict[str, Any]], object] = lambda result: None
) -> Path:
    """A copy of a run folder's result and tables, the result changed."""
    to.mkdir(parents=True)
    for path in run.glob("*.parquet"):
        shutil.copy(path, to)
    result = json.loads((run / "result.json").read_text(encoding="utf-8"))
    change(result)
    (to / "result.json").write_text(json.dumps(result), encoding="utf-8")
    return to
