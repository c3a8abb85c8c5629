"""A component is found by its name or its import path; what is not found names the way out."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from realdataexp.errors import InputError
from realdataexp.models import LOSSES, FeatureSchema, SideSchema, build_loss, build_model
from realdataexp.registry import Kind, find, is_outside, names

KINDS = get_args(Kind)


def message(name: str) -> str:
    with pytest.raises(InputError) as caught:
        find("design", name, "designs[0].kind")
    text = str(caught.value)
    assert "\n" not in text and text.startswith(f"designs[0].kind = {name!r}: ")
    return text


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "outside_component.py").write_text("Design = 'mine'\n")
    (tmp_path / "outside_needs.py").write_text("import not_installed_anywhere\nDesign = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    return "outside_component"


@pytest.mark.parametrize("kind", KINDS)
def test_every_registered_name_is_found_and_is_no_import_path(kind: Kind) -> None:
    assert names(kind) or kind == "subject"  # these come from outside only
    for name in names(kind):
        assert not is_outside(name)
        component = find(kind, name, "x")
        if inspect.isclass(component) or inspect.isfunction(component):
            assert component.__module__.startswith("realdataexp.")


def test_the_registry_imports_nothing_heavy() -> None:
    code = (
        "import sys, realdataexp.registry\n"
        "heavy = {'torch', 'polars', 'numpy', 'scipy', 'pydantic'}\n"
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_an_import_path_is_the_attribute(outside: str) -> None:
    assert is_outside(f"{outside}:Design")
    assert find("design", f"{outside}:Design", "x") == "mine"


def test_an_unknown_name_lists_all_and_the_nearest() -> None:
    text = message("spliting")
    assert "known are pooling, snapshot, splitting" in text and "did you mean splitting?" in text
    assert "package.module:Name" in text


def test_a_missing_module_says_how_to_mend_it() -> None:
    assert "cannot import module 'no_such_module_here'" in message("no_such_module_here:Design")
    assert "PYTHONPATH" in message("no_such_module_here.deeper:Design")


def test_a_module_that_lacks_what_it_needs_names_that(outside: str) -> None:
    assert "not_installed_anywhere" in message("outside_needs:Design")


def test_a_missing_attribute_names_module_and_attribute(outside: str) -> None:
    assert f"'{outside}' has no 'Desing'" in message(f"{outside}:Desing")


@pytest.mark.parametrize("name", [":Design", ".relative:Design", "os:"])
def test_half_an_import_path_is_refused_as_input(name: str) -> None:
    message(name)


def test_losses_and_models_are_found_the_same_way() -> None:
    assert build_loss("MSE", "x") is LOSSES["MSE"]
    assert build_loss("realdataexp.models.losses:MSE", "x") is LOSSES["MSE"]
    with pytest.raises(InputError, match="unknown loss; did you mean BCE"):
        build_loss("BCEE", "labels.click.loss_function")
    side = SideSchema(1, (), 0)
    with pytest.raises(InputError, match=r"labels\.click\.model = 'MPL'"):
        build_model("MPL", FeatureSchema(side, side), 1, {}, "labels.click.model")
