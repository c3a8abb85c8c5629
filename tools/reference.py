"""Write the pages of docs/ that are made from the code: the config and the command line.

`python tools/reference.py` writes docs/config.md and docs/cli.md; `--check` only says whether they
are up to date (exit code 1 where they are not). `make docs` writes them, a test checks them.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from typer.testing import CliRunner

from realdataexp.cli import app
from realdataexp.config import Config, design_sections
from realdataexp.config.dataset import DatasetConfig, any_dataset
from realdataexp.options import options_in
from realdataexp.registry import find, names
from realdataexp.train.config import TrainConfig

DOCS = Path(__file__).parents[1] / "docs"
_NOTE = "<!-- Made by tools/reference.py from {}: change that, then run `make docs`. -->\n"

# --- config.md ---------------------------------------------------------------------------------

_REMARKS = {
    "dataset.tables": "See [Your own data](own-data.md).",
    "feature": "See [What the data mean](data.md#features).",
    "arms.control": "The section `treatment` has the same keys. One of `score`, `rule` and "
    "`policy` must be there.",
    "labels": "A list: one of these sections for each label. In overrides a label goes by its "
    "place or its name: `labels.0.alpha_T`, `labels.click.alpha_T`.",
    "pretrain.scheduler": "`simulation.scheduler` is such a section too.",
    "experiment.designs": "An item of the list is a name alone, such as `pooling`, or a section "
    "such as `{name: splitting, label: raw, normalize: false}`: the options stand beside the name. "
    "A design may stand in the list more than once, under different labels.",
    "logging.trackers": "An item of the list is a name alone, or a section: the options stand "
    "beside the name.",
    "train: model": "The options of networks are the `model_params` of their names; those of "
    "recommenders that count are below. `baselines` and `mixture` are such names or sections too.",
}
# Free sections: which keys they have depends on a name that stands beside them.
_BY_NAME = {
    "labels": ("model_params", {name: find("model", name, name).Params for name in names("model")}),
    "logging.trackers": (
        "options",
        {name: find("tracker", name, name) for name in names("tracker")},
    ),
    "train: model": (
        "options",
        {
            name: found
            for name in names("recommender")
            if hasattr(found := find("recommender", name, name), "model_fields")
        },
    ),
}
_INTRO = """# Config

Every key of a config, from the schema that checks it. An unknown key is an error that names the
nearest known one. `realdataexp schema` prints the same as a JSON schema for editors;
`realdataexp validate CONFIG` checks a file. A relative path is relative to the current folder.

A config may build on another: `extends: NAME`, a built-in config or a file relative to this one
(which may extend a third). Sections merge, key by key; a list, such as `labels`, replaces the
other's whole list, and so does a section that names another component (`dataset: {name: ...}`).
`config.yaml` in a run folder has it all resolved, without `extends`.

Any key can be set on the command line, `--set simulation.n_steps=50`, and from Python,
`rx.run("demo", ["simulation.n_steps=50"])`. `config.yaml` in a run folder has every key, defaults
too.
"""
_OF_TRAINING = (
    "Of `realdataexp train`: `mode: train`; see [Next-item recommenders](sequences.md). "
    "`realdataexp schema --train` prints its JSON schema."
)
_TYPES = {
    "string": "text",
    "integer": "whole number",
    "number": "number",
    "boolean": "true or false",
    "object": "section",
}


def config_page() -> str:
    """The text of docs/config.md."""
    headings: dict[type[BaseModel], str] = {}  # a section that stands in two places is shown once
    parts = [_INTRO, "## Top level\n"]
    parts += _part(Config, "", headings)
    parts.append(f"## Top level of a training\n\n{_OF_TRAINING}\n")
    parts += _part(TrainConfig, "train: ", headings)
    return _NOTE.format("src/realdataexp/config") + "\n" + "\n".join(parts)


def _part(top: type[BaseModel], prefix: str, headings: dict[type[BaseModel], str]) -> Iterator[str]:
    """A config's top level, then those of its sections that have no heading yet."""
    known = {*headings}
    for heading, model in _sections(top, prefix):
        headings.setdefault(model, heading)
    yield _table(top, headings)
    for model, heading in headings.items():
        if model in known:
            continue
        words = [" ".join((model.__doc__ or "").split()), _REMARKS.get(heading, "")]
        yield f"## {heading}\n\n{' '.join(words).strip()}\n"
        if model.model_fields:
            yield _table(model, headings)


def _sections(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, type[BaseModel]]]:
    """Heading and model of each section inside a section, in the order of a config file."""
    for key in model.model_fields:
        if (inner := _inner(model, key)) is not None:
            yield prefix + key, inner
            yield from _sections(inner, f"{prefix}{key}.")
            of, named = _BY_NAME.get(prefix + key, ("", {}))
            for name, options in named.items():
                if options.model_fields:
                    yield f"{of} of {name}", options


def _inner(model: type[BaseModel], key: str) -> type[BaseModel] | None:
    """The class of a section inside a section; of the dataset that of all worlds together."""
    if model is Config and key in design_sections():
        return design_sections()[key]
    found = options_in(model.model_fields[key].annotation)
    return any_dataset() if found is DatasetConfig else found


def _table(model: type[BaseModel], headings: dict[type[BaseModel], str]) -> str:
    found = model.model_json_schema()
    is_component = "anyOf" in found  # a name alone, or a section with its options beside it
    found |= found["anyOf"][-1] if is_component else {}
    definitions, needed = found.get("$defs", {}), found.get("required", ())
    lines = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for key, field in found["properties"].items():
        default = "**required**" if key in needed else _default(model, key)
        meaning = _cell(field.get("description", ""))
        kind, name = _type(field, definitions), f"`{key}`"
        if (inner := _inner(model, key)) in headings:
            name = f"[{name}](#{_anchor(headings[inner])})"
        lines.append(f"| {name} | {kind} | {default} | {meaning} |")
    if is_component:
        lines.append("| `…` | section |  | the options, beside the name |")
    return "\n".join(lines) + "\n"


def _anchor(heading: str) -> str:
    """What a heading is linked by, on the site and on GitHub."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def _default(model: type[BaseModel], key: str) -> str:
    value = model.model_fields[key].get_default(call_default_factory=True)
    if isinstance(value, BaseModel) or (model is Config and key in design_sections()):
        return "its defaults"
    if isinstance(value, tuple):
        names = [getattr(x, "name", x) for x in value]
        return f"`[{', '.join(map(str, names))}]`"
    said = {None: "null", True: "true", False: "false", "": '""'}
    if isinstance(value, float) and value != int(value):
        return f"`{value:g}`"
    if isinstance(value, bool | str | None):
        return f"`{said.get(value, value)}`"
    return f"`{value}`"


def _type(field: dict[str, Any], definitions: dict[str, Any]) -> str:
    """A JSON schema in words, with its bounds."""
    if "$ref" in field:
        is_component = "anyOf" in definitions[field["$ref"].rpartition("/")[2]]
        return "text or section" if is_component else "section"
    if "anyOf" in field:
        choices = list(dict.fromkeys(_type(x, definitions) for x in field["anyOf"]))
        return " or ".join(choices)
    if "const" in field:
        return f"`{field['const']}`"
    if "enum" in field:
        return " \\| ".join(f"`{x}`" for x in field["enum"])
    if field.get("type") == "null":
        return "null"
    if "prefixItems" in field:
        places = [_type(x, definitions) for x in field["prefixItems"]]
        return f"list of {', '.join(places)}"
    if field.get("type") == "array":
        items = _type(field.get("items", {}), definitions)
        return f"list of {items}" + (", not empty" if field.get("minItems") else "")
    return _TYPES[field["type"]] + _bounds(field)


def _bounds(field: dict[str, Any]) -> str:
    said = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    bounds = [f"{sign} {_short(field[name])}" for name, sign in said.items() if name in field]
    return f" {', '.join(bounds)}" if bounds else ""


def _short(bound: float) -> str:
    return "2⁶³ − 1" if bound == 2**63 - 1 else f"{bound:g}"


def _cell(text: str) -> str:
    """A text that may stand in a cell of a table."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


# --- cli.md ------------------------------------------------------------------------------------

_CLI = """# Command line

`realdataexp COMMAND --help` says the same; `python -m realdataexp` is the same program. Exit codes:
0 done, 1 the run failed (or `doctor` found what would stop one), 2 the input is wrong (a line that
names it, the bound and the remedy), 130 interrupted after saving.

`realdataexp --version` shows the version.
"""


def cli_page() -> str:
    """The text of docs/cli.md."""
    parts = [_CLI]
    for name in commands():
        text = help_of(name)
        doc = " ".join(text.split("\n\n")[1].split())
        parts.append(f"## {name}\n\n{doc}\n\n```text\n{text}\n```\n")
    return _NOTE.format("src/realdataexp/cli.py") + "\n" + "\n".join(parts)


def commands() -> list[str]:
    """The names of the commands, as `realdataexp --help` lists them."""
    listed = help_of("").partition("Commands:\n")[2].partition("\n\n")[0]
    return re.findall(r"^  (\S+)", listed, re.MULTILINE)


def help_of(command: str) -> str:
    """What a command's `--help` prints, 80 columns wide."""
    done = CliRunner().invoke(
        app, [*command.split(), "--help"], prog_name="realdataexp", env={"COLUMNS": "80"}
    )
    return "\n".join(line.rstrip() for line in done.output.strip().splitlines())


def example_of(command: str) -> str:
    """The example that a command's help ends with."""
    text = " ".join(help_of(command).split()).partition("Example: ")[2]
    return re.split(r"\. [A-Z]", text)[0]


PAGES = {"config.md": config_page, "cli.md": cli_page}


def main() -> int:
    """Write the pages, or with --check say which are out of date."""
    stale = [name for name, make in PAGES.items() if _read(DOCS / name) != make()]
    if "--check" in sys.argv[1:]:
        for name in stale:
            print(f"docs/{name} is out of date: run `make docs`", file=sys.stderr)
        return 1 if stale else 0
    for name in stale:
        (DOCS / name).write_text(PAGES[name](), encoding="utf-8")
        print(f"wrote docs/{name}")
    return 0


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""


if __name__ == "__main__":
    sys.exit(main())
