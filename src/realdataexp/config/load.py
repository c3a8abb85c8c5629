"""Loading a config, checking it, and its JSON schema."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from realdataexp.config.blocks import alike
from realdataexp.config.dataset import takes_features
from realdataexp.config.draft import Draft, apply_override, read_draft, set_value
from realdataexp.config.schema import LABEL_TWICE, Config
from realdataexp.errors import InputError
from realdataexp.options import faults_of
from realdataexp.registry import find, names


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
    draft = read_draft(source)
    if data is not None and draft.values.get("base_dir", ".") != ".":
        data = Path(data).absolute()  # base_dir moves the paths in the config, not this one
    given = {"--mode": mode, "--data": data and str(data), "--seed": seed, "--device": device}
    for option, value in given.items():
        if value is not None:
            keys = ["dataset", "path"] if option == "--data" else [option.removeprefix("--")]
            _collect(draft, set_value, keys, value, option)
    for text in overrides:
        _collect(draft, apply_override, text)
    try:
        config = Config.model_validate(draft.values)
    except ValidationError as error:
        has_features = takes_features(draft.values.get("dataset"))
        draft.faults += [
            draft.line(loc, fault)
            for loc, fault in faults_of(error, Config)
            # a faulty block is hidden from the check of what depends on its name
            if has_features or loc != ("feature",) or "missing" not in fault
        ]
        draft.faults += _hidden_faults(draft)
    if draft.faults:
        raise InputError(*dict.fromkeys(draft.faults))
    return config


def _collect(draft: Draft, change: Callable[..., None], *args: Any) -> None:
    """Make a change to a draft, or note why it cannot be made."""
    try:
        change(draft, *args)
    except InputError as error:
        draft.faults += error.faults


def _hidden_faults(draft: Draft) -> list[str]:
    """Label names that stand twice; pydantic looks only where every label is right."""
    labels = draft.values.get("labels")
    if not isinstance(labels, list):
        return []
    names = [label["name"] for label in labels if isinstance(label, dict) and "name" in label]
    twice = dict.fromkeys(alike([name for name in names if isinstance(name, str)]))
    return [draft.line(("labels",), f": {LABEL_TWICE.format(', '.join(twice))}")] if twice else []


def json_schema() -> dict[str, Any]:
    """The JSON schema of a config file."""
    schema = Config.model_json_schema()
    properties = schema["properties"]
    properties["global"] = properties["simulation"]
    for name, own in design_blocks().items():
        properties[name] |= own.model_json_schema()
    labels = schema["$defs"]["LabelConfig"]["properties"]
    params = [find("model", name, name).Params.model_json_schema() for name in names("model")]
    labels["model_params"]["anyOf"] = [*params, {"type": "object", "title": "of others"}]
    return schema


def without_faults(source: str, data: Any, overrides: Sequence[str] = ()) -> Config | None:
    """A config without its faulty settings, so that the rest can be checked; None if none is.

    Args:
        source: A YAML file or the name of a built-in config.
        data: Replaces `dataset.path`.
        overrides: ``key.sub=value`` each; those that cannot be made are left out.
    """
    try:
        draft = read_draft(source)
    except InputError:
        return None
    for text in overrides:
        with suppress(InputError):
            apply_override(draft, text)
    values = draft.values
    if data is not None and isinstance(values.get("dataset"), dict):
        values["dataset"]["path"] = str(data)
    for _ in range(3):  # leaving one setting out can show another fault
        try:
            return Config.model_validate(values)
        except ValidationError as error:
            for item in error.errors():
                if not _leave_out(values, item["loc"]):
                    return None
    return None


def _leave_out(values: Any, loc: tuple[Any, ...]) -> bool:
    """Take a setting out, or the block it is in; whether that is possible."""
    path = []
    for part in loc:
        is_there = part in values if isinstance(values, dict) else False
        if isinstance(values, list) and isinstance(part, int):
            is_there = part < len(values)
        if not is_there:
            break
        path.append((values, part))
        values = values[part]
    for parent, part in reversed(path):
        if isinstance(parent, dict):
            del parent[part]
            return True
    return False


def design_blocks() -> dict[str, type[BaseModel]]:
    """The designs that have a block of the config, which holds their options in every mode."""
    known = [name for name in names("design") if name in Config.model_fields]
    return {name: find("design", name, name) for name in known}
