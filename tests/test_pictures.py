"""The pictures of the docs are made from what they show, and by nothing else.

Digests are compared, not pixels: another machine has other fonts, and last digits.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tools import pictures
from tools.pictures import PICTURES, Picture

REMEDY = "run python tools/pictures.py"


@pytest.mark.parametrize("picture", PICTURES, ids=lambda x: x.name)
def test_a_picture_is_as_new_as_what_it_shows(picture: Picture) -> None:
    made, content = pictures.known()[picture.name], (pictures.FOLDER / picture.name).read_bytes()
    assert made["shows"] == picture.digest(), f"{picture.name} is out of date: {REMEDY}"
    assert made["file"] == hashlib.sha256(content).hexdigest(), f"{picture.name}: {REMEDY}"
    assert made["command"] == picture.command
    assert len(content) <= pictures.MOST_BYTES


def test_there_is_no_other_picture_in_their_folder() -> None:
    names = {path.name for path in pictures.FOLDER.iterdir()}
    assert names == {"made.json", *(x.name for x in PICTURES)}


def test_a_change_of_what_a_picture_shows_makes_it_out_of_date(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a file that it names, of its run, of how it is drawn."""
    (first,) = [x for x in PICTURES if x.name == "designs.svg"]
    before = first.digest()
    for name in first.files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text((pictures.PACKAGE / name).read_text() + "\n")
    with monkeypatch.context() as patch:
        patch.setattr(pictures, "PACKAGE", tmp_path)
        assert first.digest() != before
    with monkeypatch.context() as patch:
        patch.setitem(pictures.RUNS, "platform", ["run", "si2023", "--seed", "1"])
        assert first.digest() != before
    with monkeypatch.context() as patch:
        patch.setattr(pictures, "STYLE", "")
        assert first.digest() != before
    assert first.digest() == before


@pytest.mark.parametrize(("xs", "expected"), [([0.0, 1.0, 2.0, 9.0], [0, 1, -1, 0]), ([], [])])
def test_dots_of_a_lane_do_not_overlap(xs: list[float], expected: list[int]) -> None:
    assert pictures.lanes(xs, 5.0) == expected
