"""What stands beside pyproject.toml says the same: conda recipe, container, citation, workflows."""

from __future__ import annotations

import json
import re
import tomllib
from itertools import pairwise
from pathlib import Path
from typing import Any

import jinja2
import pytest
import yaml

from realdataexp import __version__
from realdataexp.config import load_config
from tools.project_urls import with_urls

ROOT = Path(__file__).parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
ON_CONDA_FORGE = {"matplotlib": "matplotlib-base", "torch": "pytorch"}
MAKEFILE = (ROOT / "Makefile").read_text()
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def recipe() -> dict[str, Any]:
    text = (ROOT / "conda" / "meta.yaml").read_text()
    return yaml.safe_load(jinja2.Template(text).render(PYTHON="python"))


def split(requirement: str) -> tuple[str, str]:
    """The name and the bounds of a requirement, written either way."""
    name, bounds = re.fullmatch(r"([\w.-]+)\s*(.*)", requirement).groups()  # type: ignore[union-attr]
    return name, bounds.replace(" ", "")


def test_the_conda_recipe_asks_for_what_the_package_asks_for() -> None:
    asked = dict(map(split, PROJECT["dependencies"]))
    expected = {ON_CONDA_FORGE.get(name, name): bounds for name, bounds in asked.items()}
    requirements = recipe()["requirements"]
    assert dict(map(split, requirements["run"])) == {
        "python": PROJECT["requires-python"],
        **expected,
    }
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    host = dict(map(split, requirements["host"]))
    assert host == {"python": PROJECT["requires-python"], "pip": "", **dict(map(split, build))}


def test_the_conda_recipe_builds_this_version_and_tries_it() -> None:
    read = recipe()
    assert read["package"] == {"name": PROJECT["name"], "version": __version__}
    assert Path(read["source"]["path"]).name == f"{PROJECT['name']}-{__version__}.tar.gz"
    scripts = [f"{name} = {target}" for name, target in PROJECT["scripts"].items()]
    assert read["build"]["entry_points"] == scripts
    about = read["about"]
    assert (about["license"], about["summary"]) == (PROJECT["license"], PROJECT["description"])
    # conda-build looks for it in the unpacked source, where PEP 639 has pyproject's files
    assert [about["license_file"]] == PROJECT["license-files"]
    (command,) = read["test"]["commands"]
    words = command.split()
    assert words[:3] == ["realdataexp", "run", "demo"]
    load_config("demo", [y for x, y in pairwise(words) if x == "--set"])


def test_the_container_copies_what_there_is_and_installs_extras_that_exist() -> None:
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    (base,) = [line.split()[1] for line in lines if line.startswith("FROM")]
    assert base.startswith("python:3.11")  # whose versions constraints.txt pins
    copied = [word for line in lines if line.startswith("COPY") for word in line.split()[1:-1]]
    assert copied and all((ROOT / name).exists() for name in copied)
    assert {"pyproject.toml", PROJECT["readme"], *PROJECT["license-files"]} <= set(copied)
    (install,) = [line for line in lines if "pip install" in line]
    (extras,) = re.findall(r'"\.\[(.*?)\]"', install)
    assert set(extras.split(",")) <= PROJECT["optional-dependencies"].keys()
    (constraints,) = re.findall(r"-c (\S+)", install)
    assert constraints in copied
    (entry,) = [
        json.loads(line.split(" ", 1)[1]) for line in lines if line.startswith("ENTRYPOINT")
    ]
    assert entry == [*PROJECT["scripts"]]


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    changes = (ROOT / "CHANGELOG.md").read_text()
    said = re.search(r"^## (\S+) \((\S+)\)", changes, re.MULTILINE)
    assert said is not None
    assert (citation["version"], str(citation["date-released"])) == said.groups()
    assert citation["version"] == __version__


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_run_what_there_is(path: Path) -> None:
    """Targets of the Makefile, and files; on Pythons that the package takes."""
    workflow = yaml.safe_load(path.read_text())
    assert True in workflow or "on" in workflow  # YAML 1.1 reads `on` as true
    targets = re.findall(r"^([\w-]+):", MAKEFILE, re.MULTILINE)
    pythons = {x.rpartition(" ")[2] for x in PROJECT["classifiers"] if "Python :: 3." in x}
    n_run = 0
    for job in workflow["jobs"].values():
        for step in job["steps"]:
            for target in re.findall(r"\bmake ([\w-]+)", step.get("run", "")):
                assert target in targets
            for file in re.findall(r"(?:^|\s)(\.?[\w]+/[\w./-]+\.?\w*)", step.get("run", "")):
                assert (ROOT / file).exists() or file.startswith("build/"), file
            asked = str(step.get("with", {}).get("python-version", "3.11"))
            assert asked in pythons or asked.startswith("${{ matrix."), asked
            n_run += "run" in step or "uses" in step
        for asked in job.get("strategy", {}).get("matrix", {}).get("python", []):
            assert asked in pythons
    assert n_run >= 2


def test_a_release_states_the_addresses_of_the_repository_that_it_is_made_from() -> None:
    before = (ROOT / "pyproject.toml").read_text()
    after = tomllib.loads(with_urls(before, "https://github.com", "Some-Lab/realdataexp"))
    urls = after["project"].pop("urls")
    assert after == tomllib.loads(before)
    assert urls["Source"] == "https://github.com/Some-Lab/realdataexp"
    assert urls["Documentation"] == "https://some-lab.github.io/realdataexp/"
    assert urls.keys() == {"Documentation", "Source", "Changelog", "Issues"}
    assert (ROOT / "CHANGELOG.md").exists()
