"""Loading a config: YAML and overrides, then the schema; every fault as a line, all at once."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from realdataexp.config.cluster import ClusterConfig
from realdataexp.config.dataset import takes_features
from realdataexp.config.schema import LABEL_TWICE, Config
from realdataexp.config.sections import alike
from realdataexp.config.yaml_text import parse_yaml, plain_copy, read_text
from realdataexp.configs import BUILT_IN_DIR, VARIANTS, built_in_names
from realdataexp.errors import InputError, did_you_mean
from realdataexp.options import Loc, faults_of, place, show
from realdataexp.registry import find, names

TRAIN = "train"  # the mode of a config that is another command's
EXTENDS = "extends"  # the key of the config that a config builds on
_Kind = TypeVar("_Kind", bound=BaseModel)
_LONGEST_PATH = 20  # keys; a config is less than half as deep


def load_config(
    source: str | Path | Mapping[str, Any],
    overrides: Sequence[str] = (),
    *,
    mode: str | None = None,
    data: str | Path | None = None,
    seed: int | None = None,
    device: str | None = None,
) -> Config:
    """Load and check a config.

    Args:
        source: A YAML file, the name of a built-in config, or the settings as a mapping.
        overrides: ``key.sub=value`` each, applied in order; the value is YAML, and items of a
            list go by index or by their ``name`` (``labels.click.alpha_T=1``).
        mode: Replaces `mode`.
        data: Replaces `dataset.path`; relative to the current folder.
        seed: Replaces `seed`.
        device: Replaces `device`.

    Returns:
        The whole config, every default filled in; ``to_yaml()`` writes it.

    Raises:
        InputError: With one line for every fault that was found.

    Examples:
        >>> config = load_config("demo", ["experiment.replications=5"], mode="global")
        >>> config.mode, config.experiment.replications
        ('global', 5)
        >>> load_config("demo", ["simulation.n_step=50"])
        Traceback (most recent call last):
        realdataexp.errors.InputError: --set: simulation.n_step: unknown key; did you mean n_steps?
    """
    return checked_draft(draft_of(source, overrides, data, mode=mode, seed=seed, device=device))


def checked_draft(draft: Draft) -> Config:
    """The config of a draft; InputError with one line for every fault."""
    if draft.values.get("mode") == TRAIN:
        raise InputError(
            f"{draft.source}: mode = train: trains a recommender, which `realdataexp train` does"
        )
    has_features = takes_features(draft.values.get("dataset"))
    # a faulty section is hidden from the check of what depends on its name
    hidden = () if has_features else ("feature",)
    return validated(draft, Config, hidden)


def validated(draft: Draft, kind: type[_Kind], hidden: Loc = ()) -> _Kind:
    """A config of a kind; a section that is missing where it is ``hidden`` is no fault.

    Raises:
        InputError: with one line for every fault.
    """
    try:
        config = kind.model_validate(draft.values)
    except ValidationError as error:
        draft.faults += [
            draft.line(loc, fault)
            for loc, fault in faults_of(error, kind)
            if not hidden or loc != hidden or "missing" not in fault
        ]
        draft.faults += _hidden_faults(draft)
    if draft.faults:
        raise InputError(*dict.fromkeys(draft.faults))
    return config


def draft_of(
    source: str | Path | Mapping[str, Any],
    overrides: Sequence[str],
    data: str | Path | None,
    **given: Any,
) -> Draft:
    """A config before it is checked, with what options change in it, or why they cannot."""
    draft = read_draft(source)
    if data is not None and draft.values.get("base_dir", ".") != ".":
        data = Path(data).absolute()  # base_dir moves the paths in the config, not this one
    options = {key: ([key], value) for key, value in given.items()}
    options |= {"data": (["dataset", "path"], None if data is None else str(data))}
    changes = [
        partial(set_value, draft, keys, value, f"--{option}")
        for option, (keys, value) in options.items()
        if value is not None
    ]
    for change in (*changes, *(partial(apply_override, draft, text) for text in overrides)):
        try:
            change()
        except InputError as error:
            draft.faults += error.faults
    return draft


def _hidden_faults(draft: Draft) -> list[str]:
    """Label names that stand twice; pydantic looks only where every label is right."""
    labels = draft.values.get("labels")
    items = labels if isinstance(labels, list) else []
    names = [label.get("name") for label in items if isinstance(label, dict)]
    twice = alike([name for name in names if isinstance(name, str)])
    return [draft.line(("labels",), f": {LABEL_TWICE.format(', '.join(twice))}")] if twice else []


def without_faults(
    source: str, data: Any, overrides: Sequence[str], kind: type[_Kind]
) -> _Kind | None:
    """A config without its faulty settings, so that the rest can be checked; None if none is.

    As `load_config` takes them; overrides that cannot be made are left out.
    """
    try:
        values = draft_of(source, overrides, data).values
    except InputError:
        return None
    for _ in range(3):  # leaving one setting out can show another fault
        try:
            return kind.model_validate(values)
        except ValidationError as error:
            if not all(_leave_out(values, item["loc"]) for item in error.errors()):
                return None
    return None


def _leave_out(values: Any, loc: Loc) -> bool:
    """Take a setting out, or the section it is in; whether that is possible."""
    sections = []
    for part in loc:
        if part == "options" and isinstance(values, dict) and {"name"} < {*values}:
            for key in {*values} - {"name"}:  # they stand beside the name
                del values[key]
            return True
        is_item = isinstance(values, list) and isinstance(part, int) and part < len(values)
        if not is_item and not (isinstance(values, dict) and part in values):
            break
        sections.append((values, part))
        values = values[part]
    for section, part in reversed(sections):
        if isinstance(section, dict):
            del section[part]
            return True
    return False


def json_schema() -> dict[str, Any]:
    """The JSON schema of a config file."""
    schema = Config.model_json_schema()
    properties = schema["properties"]
    properties["global"] = properties["simulation"]
    for name, own in design_sections().items():
        properties[name] |= own.model_json_schema()
    labels = schema["$defs"]["LabelConfig"]["properties"]
    params = [find("model", name, name).Params.model_json_schema() for name in names("model")]
    labels["model_params"]["anyOf"] = [*params, {"type": "object", "title": "of others"}]
    return of_file(schema)


def of_file(schema: dict[str, Any]) -> dict[str, Any]:
    """A config's JSON schema as a file must fit it: what it extends may have what is required."""
    said = "a built-in config, or a file relative to this one, that this one builds on"
    schema["properties"][EXTENDS] = {"type": "string", "minLength": 1, "description": said}
    schema["anyOf"] = [{"required": schema.pop("required")}, {"required": [EXTENDS]}]
    return schema


def design_sections() -> dict[str, type[BaseModel]]:
    """The designs that have a section of the config, which holds their options in every mode."""
    known = [
        name
        for name in names("design")
        if name in Config.model_fields and Config.model_fields[name].annotation is not ClusterConfig
    ]
    return {name: find("design", name, name) for name in known}


# --- before it is checked ------------------------------------------------------------------------


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
        if source is None:  # a list or section may be at fault by what an option set within it
            within = (by for at, by in self.given_by.items() if at[: len(loc)] == loc)
            source = " with ".join([self.source, *dict.fromkeys(within)])
        if loc[:1] == ("simulation",):
            loc = (self.loop_block, *loc[1:])
        return f"{source}: {place(loc)}{fault}"


def read_draft(source: str | Path | Mapping[str, Any]) -> Draft:
    """Read a config file, a built-in config by its name, or a mapping, and what it extends.

    Raises:
        InputError: There is no such file or name, it is not a YAML mapping, or it extends itself.
    """
    return _read(source, ())


def _read(source: str | Path | Mapping[str, Any], extending: tuple[Path, ...]) -> Draft:
    """``read_draft`` of what the files ``extending`` it, the outermost first, lead to."""
    variant: tuple[str, ...] = ()
    faults: list[str] = []
    path = Path("config")
    if isinstance(source, Mapping):
        name, values = "config", plain_copy(source, "config")
    else:
        if isinstance(source, str) and source in VARIANTS:
            source, variant = VARIANTS[source]
        text, name = _text_of(source)
        values, faults = parse_yaml(text, name)
        path = Path(source)
    if not isinstance(values, Mapping | None):
        raise InputError(f"{name}: must hold `key: value` settings, not one {show(values)}")
    draft = Draft(dict(values or {}), name, faults)
    if "global" in draft.values:
        old = draft.values.pop("global")
        if "simulation" in draft.values:
            faults.append(f"{name}: global and simulation are two names of one section: keep one")
        else:
            draft.loop_block, draft.values["simulation"] = "global", old
    if EXTENDS in draft.values:
        draft = _extended(draft, path.parent, (*extending, path))
    for change in variant:
        apply_override(draft, change)
    return draft


def _extended(draft: Draft, folder: Path, extending: tuple[Path, ...]) -> Draft:
    """A draft on top of what it extends: a built-in config, or a file relative to ``folder``."""
    given = draft.values.pop(EXTENDS)
    where = f"{draft.source}: {EXTENDS} = {show(given)}"
    if not isinstance(given, str) or not given:
        raise InputError(f"{where}: must be a built-in name, such as demo, or a YAML file")
    is_built_in, path = given in built_in_names(), folder / given
    if not is_built_in and not os.path.exists(path):
        near = did_you_mean(given, built_in_names())
        raise InputError(
            f"{where}: there is no {path}{near}; name a built-in config, or a file relative to "
            "the one that extends it"
        )
    if any(os.path.exists(x) and os.path.samefile(x, path) for x in extending if not is_built_in):
        chain = " -> ".join(x.name for x in (*extending, path))
        raise InputError(f"{where}: goes round in a circle ({chain}): remove one extends")
    base = _read(given if is_built_in else path, extending)
    return Draft(
        _merged(base.values, draft.values),
        f"{draft.source} (extends {base.source})",
        base.faults + draft.faults,
        loop_block=draft.loop_block if "simulation" in draft.values else base.loop_block,
    )


def _merged(base: Any, own: Any) -> Any:
    """Mappings merge, unless they name different components; anything else is replaced."""
    if not (isinstance(base, dict) and isinstance(own, dict)):
        return own
    if own.get("name", base.get("name")) != base.get("name"):
        return own  # whose options are others
    return base | {key: _merged(base.get(key), value) for key, value in own.items()}


def _text_of(source: str | Path) -> tuple[str, str]:
    """The text of a config file or built-in config, and the name to call it by."""
    path, name, known = Path(source), str(source), ", ".join(built_in_names())
    if isinstance(source, str) and source in built_in_names():
        path, name = BUILT_IN_DIR / f"{source}.yaml", f"{source} (built-in)"
    if not name:
        raise InputError(f"CONFIG is empty: pass a YAML file or a built-in name: {known}")
    try:
        return read_text(path, name), name
    except FileNotFoundError:
        near = did_you_mean(name, built_in_names())
        raise InputError(
            f"{source}: no such config file{near}; pass a YAML file or a built-in name: {known}"
        ) from None


def apply_override(draft: Draft, text: str) -> None:
    """Set one value of a draft from ``key.sub=value``; the value is YAML.

    Items of a list go by index or by their ``name``; a missing section is created. Whether the
    path exists is the schema's affair.

    Raises:
        InputError: The text has no ``=``, or the path cannot be followed.
    """
    path, equals, value_text = text.partition("=")
    path = path.strip()
    if not equals:
        raise InputError(f"--set {text[:60]}: must be key.sub=value, such as simulation.n_steps=50")
    value, faults = parse_yaml(value_text, f"--set {path}")
    draft.faults.extend(faults)
    apply_to(draft, path, value, "--set")


def apply_to(draft: Draft, path: str, value: Any, option: str) -> None:
    """Set the value at ``key.sub``, as ``set_value`` does."""
    keys = path.split(".")
    if len(keys) > _LONGEST_PATH:
        raise InputError(f"{option} {show(path)}: a path of {len(keys):,} keys: none is so deep")
    if not all(keys):
        wanted = "key.sub=value, such as simulation.n_steps=50"
        raise InputError(f"{option} {path[:60]}: must be {wanted}")
    set_value(draft, keys, value, option)


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
            raise InputError(f"{option} {'.'.join(keys)}: {inside} is one value, not a section")
        loc = (*loc, part)
        if position == len(keys) - 1:
            node[part] = value
        else:
            node = _enter(node, part)
    draft.given_by[loc] = option


def _enter(node: Any, part: Any) -> Any:
    """The child of a node; a missing section is created, a bare name in a list becomes one."""
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


def setting_at(values: Any, path: str) -> Any:
    """The value at ``key.sub`` of a resolved config; None where there is nothing."""
    first, *keys = path.split(".")
    node = values.get("simulation" if first == "global" else first)
    for key in keys:
        if isinstance(node, list):
            try:
                node = node[_item_index(node, key, path)]
            except InputError:
                return None
        else:
            node = node.get(key) if isinstance(node, dict) else None
    return node
