"""A config before it is checked: reading YAML, and overrides.

Knows nothing of the settings themselves.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from realdataexp.config.faults import Loc, did_you_mean, show
from realdataexp.errors import InputError

BUILT_IN_DIR = Path(__file__).parent.parent / "configs"
# Built-in configs that are another one with changes: Tables 1 and 3 of arXiv 2310.17496 vary p.
VARIANTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "si2023-aa": ("si2023", ("experiment.aa=true",)),
    "si2023-p20": ("si2023", ("experiment.p_treatment=0.2",)),
}

# YAML 1.1 reads 1e-4 as a text; everybody who writes it means a number.
_EXPONENT = re.compile(r"^[-+]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9]+)[eE][-+]?[0-9]+$")


class _Loader(yaml.SafeLoader):
    """The safe loader, which also notes keys given twice and reads ``1e-4`` as a number."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.duplicates: list[tuple[int, str, int]] = []  # line, key, line of the first

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        first_line: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            line = key.start_mark.line + 1
            if key.value in first_line:
                self.duplicates.append((line, key.value, first_line[key.value]))
            first_line.setdefault(key.value, line)
        return super().construct_mapping(node, deep=deep)


class _Dumper(yaml.SafeDumper):
    """Quotes the texts that `_Loader` would read as numbers."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


for _class in (_Loader, _Dumper):
    _class.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("-+.0123456789"))


def to_yaml(values: Mapping[str, Any]) -> str:
    """The mapping as YAML text, in its own order, that `read_draft` reads back unchanged."""
    return yaml.dump(dict(values), Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def parse_yaml(text: str, source: str) -> tuple[Any, list[str]]:
    """The value of a YAML text, and one line for every key that is given twice.

    Raises:
        InputError: The text is not YAML; the message names the source and the line.
    """
    try:
        loader = _Loader(text)
        value = loader.get_single_data()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise InputError(f"{source}: {line}not YAML: {error.problem}; correct this line") from None
    except yaml.YAMLError as error:
        raise InputError(f"{source}: not YAML: {' '.join(str(error).split())}") from None
    faults = [
        f"{source}: line {line}: key {key} is given twice (first in line {first}): keep one"
        for line, key, first in loader.duplicates
    ]
    return value, faults


def built_in_names() -> tuple[str, ...]:
    """The names of the configs that come with the package."""
    return tuple(sorted({*(path.stem for path in BUILT_IN_DIR.glob("*.yaml")), *VARIANTS}))


@dataclass
class Draft:
    """Plain values of a config, and what is needed to say where a fault in them comes from."""

    values: dict[str, Any]
    source: str
    faults: list[str] = field(default_factory=list)
    given_by: dict[Loc, str] = field(default_factory=dict)
    loop_block: str = "simulation"  # as the user spells it: "simulation" or "global"

    def line(self, loc: Loc, fault: str) -> str:
        """One fault as a line: ``file: path<fault>``, the path in the user's spelling."""
        prefixes = (loc[:n] for n in range(len(loc), 0, -1))
        source = next((self.given_by[p] for p in prefixes if p in self.given_by), self.source)
        if loc[:1] == ("simulation",):
            loc = (self.loop_block, *loc[1:])
        return f"{source}: {'.'.join(str(part) for part in loc)}{fault}"


def read_draft(source: str | Path | Mapping[str, Any]) -> Draft:
    """Read a config file, a built-in config by its name, or a mapping.

    Raises:
        InputError: There is no such file or name, or it is not a YAML mapping.
    """
    variant: tuple[str, ...] = ()
    if isinstance(source, Mapping):
        values: Any = source
        draft = Draft({}, "config")
    else:
        if isinstance(source, str) and source in VARIANTS:
            source, variant = VARIANTS[source]
        text, name = _read_text(source)
        values, faults = parse_yaml(text, name)
        draft = Draft({}, name, faults)
    if values is None:
        values = {}
    if not isinstance(values, Mapping):
        raise InputError(f"{draft.source}: must hold `key: value` settings, not one {show(values)}")
    draft.values = _own_copy(values)
    if "global" in draft.values:
        if "simulation" in draft.values:
            draft.faults.append(
                f"{draft.source}: global and simulation are two names of one block: keep one"
            )
        else:
            draft.loop_block = "global"
            draft.values["simulation"] = draft.values["global"]
        del draft.values["global"]
    for change in variant:
        apply_override(draft, change)
    return draft


def _read_text(source: str | Path) -> tuple[str, str]:
    """The text of a config file or built-in config, and the name to call it by."""
    path, name = Path(source), str(source)
    if isinstance(source, str) and source in built_in_names():
        path, name = BUILT_IN_DIR / f"{source}.yaml", f"{source} (built-in)"
    try:
        return path.read_text(encoding="utf-8"), name
    except FileNotFoundError:
        known = ", ".join(built_in_names())
        near = did_you_mean(str(source), built_in_names())
        raise InputError(
            f"{source}: no such config file{near}; give a YAML file or a built-in name: {known}"
        ) from None
    except UnicodeDecodeError:
        raise InputError(f"{source}: not a text file in UTF-8: give a YAML file") from None
    except OSError as error:
        raise InputError(f"{source}: cannot be read: {error.strerror}: give a YAML file") from None


def _own_copy(value: Any) -> Any:
    """A copy without shared parts: a YAML alias must not pass an override on to its twin."""
    if isinstance(value, Mapping):
        return {key: _own_copy(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_own_copy(item) for item in value]
    return value


def apply_override(draft: Draft, text: str) -> None:
    """Set one value of a draft from ``key.sub=value``; the value is YAML.

    Items of a list go by index or by their ``name``; a missing block is created. Whether the
    path exists is the schema's affair.

    Raises:
        InputError: The text has no ``=``, or the path cannot be followed.
    """
    path, equals, value_text = text.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise InputError(f"--set {text}: must be key.sub=value, such as simulation.n_steps=50")
    value, faults = parse_yaml(value_text, f"--set {path.strip()}")
    draft.faults.extend(faults)
    set_value(draft, keys, value, "--set")


def set_value(draft: Draft, keys: list[str], value: Any, option: str) -> None:
    """Set one value of a draft and note the option that gave it.

    Raises:
        InputError: The path goes through a plain value, or names no item of a list.
    """
    if keys[0] == "global":
        keys = ["simulation", *keys[1:]]
        if "simulation" not in draft.values:
            draft.loop_block = "global"
    node: Any = draft.values
    loc: Loc = ()
    for position, key in enumerate(keys):
        if isinstance(node, dict):
            part: Any = key
        elif isinstance(node, list):
            part = _item_index(node, key, f"{option} {'.'.join(keys)}")
        else:
            inside = ".".join(keys[:position])
            raise InputError(f"{option} {'.'.join(keys)}: {inside} is one value, not a block")
        loc = (*loc, part)
        if position == len(keys) - 1:
            node[part] = value
        else:
            node = _enter(node, part)
    draft.given_by[loc] = option


def _enter(node: Any, part: Any) -> Any:
    """The child of a node; a missing block is created, a bare name in a list becomes a block."""
    child = node.get(part) if isinstance(node, dict) else node[part]
    if child is None:
        node[part] = child = {}
    elif isinstance(node, list) and isinstance(child, str):
        node[part] = child = {"name": child}
    return child


def _item_index(items: list[Any], key: str, where: str) -> int:
    """The position of the list item that ``key`` names, by index or by its ``name``."""
    if key.isdecimal() and int(key) < len(items):
        return int(key)
    names = [str(item.get("name")) if isinstance(item, dict) else str(item) for item in items]
    if key in names:
        return names.index(key)
    choices = ", ".join([f"0 to {len(items) - 1}", *names] if items else ["(the list is empty)"])
    raise InputError(f"{where}: no item {key}{did_you_mean(key, names)}; the items are {choices}")
