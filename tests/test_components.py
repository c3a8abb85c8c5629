"""A component is found by its name or its import path; what is not found names the way out."""

from __future__ import annotations

from pathlib import Path

import pytest

from realdataexp.components import resolve
from realdataexp.errors import InputError
from realdataexp.models import LOSSES, build_loss, build_model
from realdataexp.models.base import FeatureSchema, SideSchema

TABLE = {"pooling": 1, "snapshot": 2, "splitting": 3}


def message(name: str) -> str:
    with pytest.raises(InputError) as caught:
        resolve(name, TABLE, "designs[0].kind")
    text = str(caught.value)
    assert "\n" not in text and text.startswith(f"designs[0].kind = {name!r}: ")
    return text


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "outside_component.py").write_text("Design = 'mine'\n")
    (tmp_path / "outside_needs.py").write_text("import not_installed_anywhere\nDesign = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    return "outside_component"


def test_a_name_in_the_table_is_its_entry() -> None:
    assert [resolve(name, TABLE, "x") for name in TABLE] == [1, 2, 3]


def test_an_import_path_is_the_attribute(outside: str) -> None:
    assert resolve(f"{outside}:Design", TABLE, "x") == "mine"


def test_the_table_comes_before_an_import(outside: str) -> None:
    name = f"{outside}:Design"
    assert resolve(name, {name: "table"}, "x") == "table"


def test_an_unknown_name_lists_all_and_the_nearest() -> None:
    text = message("spliting")
    assert "use one of pooling, snapshot, splitting (nearest: splitting)" in text
    assert "package.module:Name" in text
    assert "(nearest: " in message("????")


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
    assert build_loss("realdataexp.models.losses:LOSSES", "x") is LOSSES
    with pytest.raises(InputError, match="nearest: BCE"):
        build_loss("BCEE", "labels.click.loss_function")
    side = SideSchema(1, (), 0)
    with pytest.raises(InputError, match=r"labels\.click\.model = 'MPL'"):
        build_model("MPL", FeatureSchema(side, side), 1, {}, "labels.click.model")
