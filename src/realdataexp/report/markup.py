"""HTML from plain values: whatever is not made here is text, and is escaped."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


@dataclass(frozen=True)
class Cell:
    """A table cell: what it shows, the number to sort by, and a CSS class."""

    shown: str
    sort: float | None = None
    kind: str = ""


def text(value: object) -> Html:
    """A value as HTML; what is HTML already stays as it is."""
    return value if isinstance(value, Html) else Html(escape(str(value)))


def tag(name: str, *content: object, **attributes: object) -> Html:
    """An element; an underscore in an attribute's name stands for a hyphen.

    ``class_`` is the attribute class; an attribute that is None or False is left out, and one that
    is True has no value.
    """
    parts = [name]
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        attribute = key.rstrip("_").replace("_", "-")
        parts.append(attribute if value is True else f'{attribute}="{escape(str(value))}"')
    end = "" if name == "input" else f"</{name}>"
    return Html(f"<{' '.join(parts)}>{joined(content)}{end}")


def joined(parts: Iterable[object]) -> Html:
    """Several pieces, one after the other."""
    return Html("".join(text(part) for part in parts))


def section(key: str, title: str, *content: object) -> Html:
    """A section of the page, a landmark named by its heading."""
    heading = tag("h2", title, id=f"{key}-title")
    return tag("section", heading, *content, id=key, aria_labelledby=f"{key}-title")


def table(
    caption: str,
    header: Sequence[str],
    rows: Sequence[Sequence[Cell | object]],
    *,
    keys: Sequence[str] = (),
    sortable: bool = False,
    **attributes: object,
) -> Html:
    """A table that scrolls by itself where it is too wide; each row's first cell is its header.

    Args:
        caption: its name.
        header: names of the columns.
        rows: cells, or values that are shown as text.
        keys: for each row the design it is about, for the page's filters.
        sortable: whether a click on a header sorts.
        attributes: of the element around it.
    """
    names = [
        tag("th", tag("button", name, type="button") if sortable and name else name, scope="col")
        for name in header
    ]
    body = [_row(row, keys[i] if keys else None) for i, row in enumerate(rows)]
    whole = tag(
        "table",
        tag("caption", caption),
        tag("thead", tag("tr", *names)),
        tag("tbody", *body),
        class_="sortable" if sortable else None,
    )
    return tag(
        "div", whole, class_="wide", tabindex="0", role="region", aria_label=caption, **attributes
    )


def _row(row: Sequence[Cell | object], key: str | None) -> Html:
    cells = []
    for i, value in enumerate(row):
        cell = value if isinstance(value, Cell) else Cell(text(value))
        said = {"data_sort": cell.sort, "class_": cell.kind or None}
        if i == 0:
            cells.append(tag("th", text(cell.shown), scope="row", **said))
        else:
            cells.append(tag("td", text(cell.shown), **said))
    return tag("tr", *cells, data_design=key)


def pairs(caption: str, values: Iterable[tuple[str, object]]) -> Html:
    """A table of names and values."""
    return table(caption, ["", "value"], list(values))


def fold(title: str, *content: object) -> Html:
    """Content that opens on a click."""
    return tag("details", tag("summary", title), *content)


def _numbers(value: Any) -> Any:
    """The value with None for every number in it that is not finite."""
    if isinstance(value, dict):
        return {key: _numbers(x) for key, x in value.items()}
    if isinstance(value, list | tuple):
        return [_numbers(x) for x in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def script_json(value: Any) -> str:
    """JSON that can stand in a script element, whatever texts are in it; null for no number."""
    packed = json.dumps(_numbers(value), separators=(",", ":"), allow_nan=False)
    return packed.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
