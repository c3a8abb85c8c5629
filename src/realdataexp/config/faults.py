"""Pydantic's faults as lines that say the place, the value, the bound and what is meant."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

Loc = tuple[str | int, ...]
"""Where in a config: keys and list positions."""


class NestedFaults(ValueError):
    """Faults of a free block that a model of its own has checked inside a validator."""

    def __init__(self, error: ValidationError, model: type[BaseModel]) -> None:
        super().__init__(str(error))
        self.error, self.model = error, model


_RULES = {
    "greater_than": "must be more than {gt:g}",
    "greater_than_equal": "must be at least {ge:g}",
    "less_than": "must be less than {lt:g}",
    "less_than_equal": "must be at most {le:g}",
    "finite_number": "must be a finite number",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
    "string_type": "must be a text",
    "string_too_short": "must not be empty",
    "tuple_type": "must be a list",
    "dict_type": "must be a block of settings",
    "model_type": "must be a block of settings",
    "literal_error": "must be one of {expected}",
    "too_short": "must not be empty",
    "too_long": "must have at most {max_length} items",
}


_LONGEST_NAME = 100
_LOADER = (
    "data are memory-mapped and batches gathered in the main process, so there is nothing to set: "
    "remove it"
)
_POINTLESS = {"num_workers": _LOADER, "pin_memory": _LOADER}


def faults_of(
    error: ValidationError, model: type[BaseModel], prefix: Loc = ()
) -> Iterator[tuple[Loc, str]]:
    """Where each fault is, and the rest of its line."""
    for item in error.errors():
        # A design's options stand beside its name, not in a block `options`.
        loc = tuple(part for part in (*prefix, *item["loc"]) if part != "options")
        owner, setting = _find(model, item["loc"])
        meaning = f" ({setting.description})" if setting and setting.description else ""
        context = item.get("ctx", {})
        cause = context.get("error")
        if isinstance(cause, NestedFaults):
            yield from faults_of(cause.error, cause.model, loc)
        elif item["type"] == "missing":
            yield loc, f": missing: must be given{meaning}"
        elif item["type"] in ("extra_forbidden", "invalid_key"):
            yield loc, f": unknown key{_nearest_key(str(loc[-1]), owner)}"
        elif item["type"] == "too_short" and item["input"]:
            pass  # only the right items count there, and the wrong ones have their own faults
        elif item["type"] in _RULES:
            rule = _RULES[item["type"]].format(**context).replace("'", "")
            yield loc, f" = {show(item['input'])}: {rule}{meaning}"
        else:
            whole = isinstance(item["input"], list | dict)  # the fault says what in it is wrong
            value = "" if whole else f" = {show(item['input'])}"
            yield loc, f"{value}: {cause or item['msg']}"


def _find(model: type[BaseModel], loc: tuple[Any, ...]) -> tuple[type[BaseModel], FieldInfo | None]:
    """The block that a location's last name belongs to, and that name's setting, if known."""
    owner, setting = model, None
    inner: type[BaseModel] | None = model
    for part in loc:
        if isinstance(part, str) and inner is not None:
            owner, setting = inner, inner.model_fields.get(part)
            inner = _block_in(setting.annotation) if setting else None
    return owner, setting


def _block_in(annotation: Any) -> type[BaseModel] | None:
    """The pydantic model inside an annotation such as ``tuple[Model, ...]`` or ``Model | None``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for arg in get_args(annotation) if (found := _block_in(arg))), None)


def _nearest_key(key: str, owner: type[BaseModel]) -> str:
    if key in _POINTLESS:
        return f"; {_POINTLESS[key]}"
    known = list(owner.model_fields)
    if not known:
        return "; there are no settings here: remove it"
    return did_you_mean(key, known) or f"; the keys here are {', '.join(known)}"


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """``; did you mean X?`` for the nearest known name, or nothing where none is near."""
    if len(name) > _LONGEST_NAME:  # the time of a comparison grows with the lengths' product
        return ""
    by_lower = {item.lower(): item for item in known}
    near = get_close_matches(name.lower(), by_lower, n=1, cutoff=0.5)
    return f"; did you mean {by_lower[near[0]]}?" if near else ""


def unknown_name(what: str, name: str, known: tuple[str, ...]) -> str:
    """The fault of a name that is not registered: the nearest one, and all there are."""
    near = did_you_mean(name, known)
    return f"unknown {what}{near}; known are {', '.join(known)}, or give package.module:Name"


def show(value: Any) -> str:
    """A value as the user would write it, cut to a readable length."""
    text = json.dumps(value, default=str, ensure_ascii=False, skipkeys=True)
    return text if len(text) <= 60 else text[:57] + "..."
