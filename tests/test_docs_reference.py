"""The reference pages say what the code says: config, command line, result files, messages."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import polars as pl
import pytest
from pydantic import BaseModel

from realdataexp.report.files import Detected, Learned
from realdataexp.report.page import all_advice
from realdataexp.runs.experiment import run_experiment
from realdataexp.runs.machine import MONITOR_SCHEMA
from realdataexp.runs.recorder import METRIC_SCHEMA
from realdataexp.stats.aggregates import OUTCOME_SCHEMA, UNIT_SCHEMA
from realdataexp.stats.detection import DETECTION_SCHEMA
from realdataexp.stats.inference import INFERENCE_SCHEMA
from realdataexp.stats.ledger import LEDGER_SCHEMA
from realdataexp.stats.performance import PLAN_SCHEMA

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


def load_tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("reference", ROOT / "tools" / "reference.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


REFERENCE = load_tool()


@pytest.mark.parametrize("page", REFERENCE.PAGES)
def test_a_made_page_is_what_its_maker_makes(page: str) -> None:
    made = REFERENCE.PAGES[page]()
    assert (DOCS / page).read_text(encoding="utf-8") == made, "out of date: run `make docs`"


def test_every_key_of_the_config_has_a_meaning() -> None:
    rows = re.findall(r"^\| (?!key|---)(.*) \|$", (DOCS / "config.md").read_text(), re.MULTILINE)
    assert len(rows) > 100
    for row in rows:
        key, _, default, meaning = re.split(r"(?<!\\) ?\| ?", row)
        assert key and meaning and (default or key == "`…`"), row


def test_every_command_has_an_example_with_options_that_it_knows() -> None:
    for name in REFERENCE.commands():
        words = REFERENCE.example_of(name).split()
        assert words[:2] == ["realdataexp", name]
        text = REFERENCE.help_of(name)
        for word in words:
            assert not word.startswith("--") or re.search(rf"{word}\b", text), f"{name}: {word}"


# --- results.md --------------------------------------------------------------------------------


def section(page: str, heading: str) -> str:
    """What stands below a heading, up to the next one of any level."""
    text = (DOCS / page).read_text(encoding="utf-8")
    return re.split(r"^#+ ", text.partition(f"\n{heading}\n")[2], flags=re.MULTILINE)[0]


def rows_of(page: str, heading: str) -> list[list[str]]:
    """The cells of a section's table, without its head."""
    lines = [x for x in section(page, heading).splitlines() if x.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


@pytest.mark.parametrize(
    ("name", "schema"),
    [
        ("outcomes", {**OUTCOME_SCHEMA, "p": pl.Float64()}),
        ("units", UNIT_SCHEMA),
        ("ledger", LEDGER_SCHEMA),
        ("estimates", INFERENCE_SCHEMA),
        ("detections", DETECTION_SCHEMA),
        ("metrics", METRIC_SCHEMA),
        ("monitor", MONITOR_SCHEMA),
        ("plan", PLAN_SCHEMA),
    ],
)
def test_the_dictionary_lists_the_columns_and_types_of_each_table(name: str, schema: Any) -> None:
    listed = {
        cells[0].strip("`"): cells[1] for cells in rows_of("results.md", f"## {name}.parquet")
    }
    assert list(listed.items()) == [(k, str(t)) for k, t in pl.Schema(schema).items()]


def keys_of(heading: str) -> list[str]:
    return [k for cells in rows_of("results.md", heading) for k in re.findall(r"`(\w+)`", cells[0])]


@pytest.fixture(scope="module")
def result(small_settings: Callable[..., dict[str, Any]], tmp_path_factory: Any) -> dict[str, Any]:
    from realdataexp.config import load_config

    settings = small_settings(experiment={"replications": 2, "designs": ["pooling", "weighting"]})
    folder = run_experiment(load_config(settings), tmp_path_factory.mktemp("dictionary") / "run")
    return json.loads((folder / "result.json").read_text(encoding="utf-8"))


def test_the_dictionary_lists_the_keys_of_the_result(result: dict[str, Any]) -> None:
    assert sorted(keys_of("## result.json")) == sorted(result)
    assert sorted(keys_of("### diagnostics")) == sorted(result["diagnostics"])


@pytest.mark.parametrize(
    "name", ["estimates", "comparison", "inference", "family", "regret", "plan"]
)
def test_the_dictionary_lists_the_keys_of_each_part(result: dict[str, Any], name: str) -> None:
    assert sorted(keys_of(f"### {name}")) == sorted(result[name][0])


@pytest.mark.parametrize(("name", "row"), [("ledger", Learned), ("detectors", Detected)])
def test_the_dictionary_lists_the_keys_that_an_entry_may_have(
    result: dict[str, Any], name: str, row: type[BaseModel]
) -> None:
    listed = keys_of(f"### {name}")
    assert sorted(listed) == sorted(row.model_fields)
    assert result[name] and all({*entry} <= {*listed} for entry in result[name])


# --- faq.md ------------------------------------------------------------------------------------


def texts(node: ast.AST) -> Iterator[str]:
    """The texts below a node as patterns: what an f-string fills in may be anything."""
    for found in ast.walk(node):
        if isinstance(found, ast.JoinedStr):
            yield "".join(
                re.escape(str(x.value)) if isinstance(x, ast.Constant) else ".*?"
                for x in found.values
            )
        elif isinstance(found, ast.Constant) and isinstance(found.value, str):
            yield re.escape(found.value)


def patterns() -> list[str]:
    """The texts of the package that say something of their own: ten letters and more."""
    files = sorted((ROOT / "src").rglob("*.py"))
    found = (x for file in files for x in texts(ast.parse(file.read_text(encoding="utf-8"))))
    return [x for x in dict.fromkeys(found) if len(re.sub(r"\W|\.\*\?", "", x)) >= 10]


def test_every_message_of_the_faq_is_one_that_the_code_says() -> None:
    known = [re.compile(x) for x in patterns()]
    shown = re.findall(r"```text\n(.*?)\n```", (DOCS / "faq.md").read_text(), re.DOTALL)
    messages = [" ".join(message.split()) for message in shown]
    assert len(messages) > 15
    for message in messages:
        covered = [False] * len(message)
        for found in (match for x in known for match in x.finditer(message)):
            covered[slice(*found.span())] = [True] * (found.end() - found.start())
        for value in re.finditer(r"\S*(['/_\d]|\.\w)\S*", message):  # names, paths, numbers
            covered[slice(*value.span())] = [True] * (value.end() - value.start())
        unsaid = re.findall(
            r"\w{3,}", "".join(" " if x else c for c, x in zip(message, covered, strict=True))
        )
        assert len(unsaid) <= 3, f"the code does not say {unsaid} of: {message}"


def test_the_faq_lists_every_warning_with_the_reports_advice() -> None:
    listed = {code.strip("`"): text for code, text in rows_of("faq.md", "## Every warning")}
    assert listed == all_advice()
