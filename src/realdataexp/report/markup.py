"""HTML from plain values: whatever is not made here is text, and is escaped."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from html import escape
from typing import Any

from realdataexp.report.table import Cell, Table


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


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


def table(shown: Table, *, sortable: bool = False, **attributes: object) -> Html:
    """A table that scrolls by itself where it is too wide; each row's first cell is its header.

    Args:
        shown: the table.
        sortable: whether a click on a header sorts.
        attributes: of the element around it.
    """
    names = [
        tag("th", tag("button", name, type="button") if sortable and name else name, scope="col")
        for name in (shown.first, *(column.name for column in shown.columns))
    ]
    body = [
        tag(
            "tr",
            tag("th", row.name, scope="row"),
            *(tag("td", cell.shown, data_sort=cell.sort, class_=cell.kind or None)
              for cell in row.cells),
            data_design=row.design or None,
        )
        for row in shown.rows
    ]  # fmt: skip
    whole = tag(
        "table",
        tag("caption", shown.title),
        tag("thead", tag("tr", *names)),
        tag("tbody", *body),
        class_="sortable" if sortable else None,
    )
    return tag(
        "div", whole, class_="wide", tabindex="0", role="region", aria_label=shown.title,
        data_label=shown.label or None, **attributes,
    )  # fmt: skip


def pairs(caption: str, values: Iterable[tuple[str, object]]) -> Html:
    """A table of names and values."""
    own = Table.of(caption, "value")
    for name, value in values:
        own.add(name, value if isinstance(value, Cell) else text(value))
    return table(own)


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
