"""Options: what a component or a part of the config takes, with bounds, meaning and clear faults.

A component has its options in its own file, as a class of `Options`; the config puts them together.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

from realdataexp.errors import InputError, did_you_mean, one_line
from realdataexp.registry import Kind, calling, name_fault

_MOST_NAME_BYTES, _MOST_PATH_BYTES = 255, 4095


class Options(BaseModel):
    """Options: immutable, no unknown keys, no silent conversion, finite numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


_Some = TypeVar("_Some", bound=BaseModel)


def changed_in(options: BaseModel) -> list[str]:
    """The options that have another value than their default; a dumped config names all."""
    fields = type(options).model_fields
    return [k for k, field in fields.items() if getattr(options, k) != field.get_default()]


# --- types of options ----------------------------------------------------------------------------


def usable_path(text: str) -> str:
    """Refuse a path that no system call takes; what it names is not looked at.

    Raises:
        ValueError: it holds NUL, is no UTF-8, is too long, or begins with an unknown user's home.
    """
    if "\0" in text:
        raise ValueError("no path can hold a NUL character: mend it")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("is not UTF-8, so no file of the run could name it: rename it") from None
    longest = max(len(os.fsencode(part)) for part in (*Path(text).parts, ""))
    if longest > _MOST_NAME_BYTES or len(os.fsencode(text)) > _MOST_PATH_BYTES:
        raise ValueError(
            f"too long for a path ({_MOST_NAME_BYTES} bytes a name, {_MOST_PATH_BYTES} in all): "
            "shorten it"
        )
    try:
        Path(text).expanduser()
    except RuntimeError:
        raise ValueError("begins with ~, but there is no such user: write it in full") from None
    return text


Text = Annotated[str, Field(min_length=1)]
PathText = Annotated[Text, AfterValidator(usable_path)]
# What a number may be at most: products of counts stay whole, and networks compute in float32.
MOST = 10**9
LARGEST = 1e30
Count = Annotated[int, Field(ge=1, le=MOST)]
Width = Annotated[int, Field(ge=1, le=10**6)]
Depth = Annotated[int, Field(ge=1, le=100)]
Number = Annotated[float, Field(ge=-LARGEST, le=LARGEST)]
Share = Annotated[float, Field(gt=0, lt=1)]
Rate = Annotated[float, Field(gt=0, le=LARGEST)]
Decay = Annotated[float, Field(ge=0, le=LARGEST)]
# YAML has lists only; they are kept as tuples so that a config cannot change.
Names = Annotated[tuple[Text, ...], Field(strict=False)]
Widths = Annotated[tuple[Width, ...], Field(strict=False, max_length=100)]


def component_name(kind: Kind, *others: str, called: str = "") -> AfterValidator:
    """The type of a text that names a component."""

    def check_name(name: str) -> str:
        if fault := name_fault(kind, name, *others, called=called):
            raise ValueError(fault)
        return name

    return AfterValidator(check_name)


def repeated(names: Sequence[str]) -> list[str]:
    """The names that stand more than once, each once."""
    return [name for name in dict.fromkeys(names) if list(names).count(name) > 1]


def _each_once(names: tuple[str, ...]) -> tuple[str, ...]:
    if twice := repeated(names):
        raise ValueError(f"each name once: remove the second {', '.join(twice)}")
    return names


EachOnce = AfterValidator(_each_once)
"""Of a list of names: no name stands twice."""


# --- checking, and faults as lines ---------------------------------------------------------------

Loc = tuple[str | int, ...]
"""Where in a config: keys and list positions."""


Fault = tuple[Loc, str]
"""Where something is wrong, and the rest of the line that says so."""


class NestedFaults(ValueError):
    """Faults of a free section that a class of its own has checked inside a validator."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = tuple(faults)
        text = "; ".join(f"{place(loc)}{fault}" for loc, fault in self.faults)
        super().__init__(one_line(text))  # pydantic takes no text that is not UTF-8


def checked(model: type[_Some], values: Mapping[str, Any]) -> _Some:
    """The options that a validator finds in a free section; raises `NestedFaults`."""
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        raise NestedFaults(faults_of(error, model)) from None


def check(model: type[_Some], values: Mapping[str, Any], where: str) -> _Some:
    """Options by themselves; ``where`` is what a fault's line starts with.

    Raises:
        InputError: With one line for every fault.
    """
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        lines = (f"{where}: {place(loc)}{fault}" for loc, fault in faults_of(error, model))
        raise InputError(*lines) from None


def construct(component: type[_Some], name: str, options: Mapping[str, Any], where: str) -> _Some:
    """A component, its fields passed as options; it may be from outside the package.

    Raises:
        InputError: it refuses an option, a line each, or fails; ``where`` is the config path.
    """
    with calling(f"{where} = {name!r}", "its constructor", InputError):
        try:
            return component(**options)
        except ValidationError as error:
            faults = faults_of(error, component)
            raise InputError(*(f"{where}.{place(loc)}{fault}" for loc, fault in faults)) from error


def place(loc: Loc) -> str:
    """A place in a config as the user writes it."""
    return ".".join(map(str, loc))


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
    "dict_type": "must be a section of settings",
    "model_type": "must be a section of settings",
    "literal_error": "must be one of {expected}",
    "too_short": "must not be empty",
    "too_long": "must have at most {max_length} items",
}
_LOADER = (
    "data are memory-mapped and batches gathered in the main process, so there is nothing to set: "
    "remove it"
)
_POINTLESS = {"num_workers": _LOADER, "pin_memory": _LOADER}


def faults_of(error: ValidationError, model: type[BaseModel]) -> Iterator[Fault]:
    """Where each fault is, and the rest of its line: value, bound and what is meant."""
    for item in error.errors():
        # A component's options stand beside its name, not in a section `options`.
        loc = tuple(part for part in item["loc"] if part != "options")
        owner, setting = _find(model, item["loc"])
        meaning = f" ({setting.description})" if setting and setting.description else ""
        context = item.get("ctx", {})
        cause = context.get("error")
        if isinstance(cause, NestedFaults):
            yield from (((*loc, *inner), fault) for inner, fault in cause.faults)
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
            yield loc, of_value(item["input"], str(cause or item["msg"]))


def of_value(value: Any, fault: str) -> str:
    """What is wrong with a value, as the rest of a line; of a section the fault says what in it."""
    return f": {fault}" if isinstance(value, list | dict) else f" = {show(value)}: {fault}"


def _find(model: type[BaseModel], loc: tuple[Any, ...]) -> tuple[type[BaseModel], FieldInfo | None]:
    """The class that a location's last name belongs to, and that name's setting, if known."""
    owner, setting = model, None
    inner: type[BaseModel] | None = model
    for part in loc:
        if isinstance(part, str) and inner is not None:
            owner, setting = inner, inner.model_fields.get(part)
            inner = options_in(setting.annotation) if setting else None
    return owner, setting


def options_in(annotation: Any) -> type[BaseModel] | None:
    """The pydantic class inside an annotation such as ``tuple[Model, ...]`` or ``Model | None``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for arg in get_args(annotation) if (found := options_in(arg))), None)


def _nearest_key(key: str, owner: type[BaseModel]) -> str:
    if key in _POINTLESS:
        return f"; {_POINTLESS[key]}"
    known = list(owner.model_fields)
    if not known:
        return "; there are no settings here: remove it"
    return did_you_mean(key, known) or f"; the keys here are {', '.join(known)}"


def show(value: Any) -> str:
    """A value as the user would write it, cut to a readable length."""
    text = json.dumps(value, default=str, ensure_ascii=False, skipkeys=True)
    return text if len(text) <= 60 else text[:57] + "..."


def damaged(path: Path, error: ValidationError, writer: str, remedy: str) -> InputError:
    """What to say of a file that is not as a command wrote it: its first fault, and the remedy."""
    fault = error.errors()[0]
    where = ".".join(map(str, fault["loc"]))
    return InputError(f"{path}: {where}: not what {writer} writes ({fault['msg']}); {remedy}")
