"""A config before it is checked: reading YAML, and overrides.

Knows nothing of the settings themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from realdataexp.config.yaml_text import parse_yaml, plain_copy, read_text
from realdataexp.configs import BUILT_IN_DIR, VARIANTS, built_in_names
from realdataexp.errors import InputError, did_you_mean
from realdataexp.options import Loc, place, show

_LONGEST_PATH = 20  # keys; a config is less than half as deep


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
        source = next((self.given_by[p] for p in prefixes if p in self.given_by), None)
        if source is None:  # a list or block may be at fault by what an option set within it
            within = (by for at, by in self.given_by.items() if at[: len(loc)] == loc)
            source = " with ".join([self.source, *dict.fromkeys(within)])
        if loc[:1] == ("simulation",):
            loc = (self.loop_block, *loc[1:])
        return f"{source}: {place(loc)}{fault}"


def read_draft(source: str | Path | Mapping[str, Any]) -> Draft:
    """Read a config file, a built-in config by its name, or a mapping.

    Raises:
        InputError: There is no such file or name, or it is not a YAML mapping.
    """
    variant: tuple[str, ...] = ()
    if isinstance(source, Mapping):
        values = plain_copy(source, "config")
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
    draft.values = dict(values)
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
    if not name:
        raise InputError(f"CONFIG is empty: give a YAML file or a built-in name: {_names()}")
    try:
        return read_text(path, name), name
    except FileNotFoundError:
        near = did_you_mean(name, built_in_names())
        raise InputError(
            f"{source}: no such config file{near}; give a YAML file or a built-in name: {_names()}"
        ) from None


def _names() -> str:
    return ", ".join(built_in_names())


def apply_override(draft: Draft, text: str) -> None:
    """Set one value of a draft from ``key.sub=value``; the value is YAML.

    Items of a list go by index or by their ``name``; a missing block is created. Whether the
    path exists is the schema's affair.

    Raises:
        InputError: The text has no ``=``, or the path cannot be followed.
    """
    path, equals, value_text = text.partition("=")
    keys = path.strip().split(".")
    if len(keys) > _LONGEST_PATH:
        raise InputError(f"--set {show(path)}: a path of {len(keys):,} keys: no setting is so deep")
    if not equals or not all(keys):
        raise InputError(f"--set {text[:60]}: must be key.sub=value, such as simulation.n_steps=50")
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
    if key.isdecimal() and len(key) < 10 and int(key) < len(items):
        return int(key)
    names = [str(item.get("name")) if isinstance(item, dict) else str(item) for item in items]
    if key in names:
        return names.index(key)
    choices = ", ".join([f"0 to {len(items) - 1}", *names] if items else ["(the list is empty)"])
    raise InputError(f"{where}: no item {key}{did_you_mean(key, names)}; the items are {choices}")
