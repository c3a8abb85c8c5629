"""The run folder's files: whole or not at all, never over another run's."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from safetensors import SafetensorError

from realdataexp.data.parquet import write_parquet
from realdataexp.errors import DiskError, InputError, Warnings
from realdataexp.files import disk_faults, write_atomically, write_json, write_text
from realdataexp.runs.folder import RunLog, check_place, finite, make_folder


def test_a_file_that_fails_half_way_leaves_the_old_one(tmp_path: Path):
    path = tmp_path / "x.txt"
    write_text(path, "old")

    def fail(temporary: Path) -> None:
        temporary.write_text("ne")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, fail)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_files_hold_what_was_written(tmp_path: Path):
    frame = pl.DataFrame({"a": [1, 2]})
    write_parquet(tmp_path / "x.parquet", frame)
    write_json(tmp_path / "x.json", {"ä": [1.5, None]})
    assert pl.read_parquet(tmp_path / "x.parquet").equals(frame)
    assert json.loads((tmp_path / "x.json").read_text(encoding="utf-8")) == {"ä": [1.5, None]}


def test_a_number_that_is_not_finite_becomes_null_with_a_warning():
    warnings = Warnings()
    value = finite(
        {"a": [1.0, math.nan], "b": [{"d": "click", "c": -math.inf}], "e": "inf"}, warnings
    )
    assert value == {"a": [1.0, None], "b": [{"d": "click", "c": None}], "e": "inf"}
    assert [w["message"] for w in warnings] == [
        "a[1] is nan; null in result.json",
        "b[click].c is -inf; null in result.json",
    ]


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (OSError(28, "No space left on device"), DiskError, "no space left"),
        (
            pl.exceptions.ComputeError("No space left on device (os error 28)"),
            DiskError,
            "no space left",
        ),
        (SafetensorError("IoError(Os { code: 28, kind: StorageFull })"), DiskError, "no space"),
        (OSError(27, "File too large"), DiskError, "larger than a file may be here.*ulimit -f"),
        (pl.exceptions.ComputeError("os error 27"), DiskError, "larger than a file may be here"),
        (OSError(5, "Input/output error"), DiskError, "cannot be written: Input/output error"),
        (PermissionError(13, "denied"), InputError, "cannot be written: denied"),
        (OSError(30, "Read-only file system"), InputError, "cannot be written: Read-only"),
    ],
    ids=[
        "full", "full in Polars' words", "full in safetensors' words", "too large",
        "too large in Polars' words", "broken", "not allowed", "read-only",
    ],
)  # fmt: skip
def test_what_the_disk_refuses_is_one_line_about_the_path(
    error: Exception, kind: type[Exception], said: str
):
    with pytest.raises(kind, match=f"^a/b: {said}.*--out$"), disk_faults(Path("a/b")):
        raise error


def test_a_folder_that_vanished_is_named():
    with pytest.raises(DiskError, match=r"^a/b: cannot be written: its folder is gone$"):
        write_text(Path("a/b"), "x")


def test_two_runs_in_one_second_get_two_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("time.strftime", lambda *_: "20260101-120000")
    made = [make_folder(None, tmp_path / "results", "compare").path.name for _ in range(3)]
    stem = "20260101-120000-compare"
    assert made == [stem, f"{stem}-2", f"{stem}-3"]


def test_an_outside_design_names_its_folder_after_the_class(tmp_path: Path):
    assert make_folder(None, tmp_path, "a.b:Mine").path.name.endswith("-Mine")


def test_an_empty_folder_may_be_given_and_only_one_run_gets_it(tmp_path: Path):
    out = tmp_path / "out"
    out.mkdir()
    assert make_folder(out, tmp_path, "global").path == out
    RunLog("INFO").open(out / "run.log")
    with pytest.raises(InputError, match=r"run\.log: cannot be written: File exists"):
        RunLog("INFO").open(out / "run.log")
    with pytest.raises(InputError, match="exists"):
        make_folder(out, tmp_path, "global")


def test_discarding_removes_what_was_made_and_nothing_else(tmp_path: Path):
    made = make_folder(tmp_path / "a" / "b" / "c", tmp_path, "global")
    (made.path / "checkpoints").mkdir()
    (made.path / "checkpoints" / "x").write_text("x")
    (tmp_path / "a" / "another").write_text("mine")
    made.discard()
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a", "another"]


def test_checking_a_place_makes_nothing(tmp_path: Path):
    check_place(tmp_path / "a" / "b", tmp_path)
    check_place(None, tmp_path / "results")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"logging\.log_dir = .*is a file"):
        check_place(None, tmp_path / "file" / "results")


def test_the_log_waits_for_its_file_and_each_line_starts_with_who_speaks(tmp_path: Path):
    log = RunLog("INFO")
    logger = logging.Logger("test")
    logger.addHandler(log)
    logger.info("[data] %d rows", 3)
    logger.debug("[data] too much")
    log.open(tmp_path / "run.log")
    logger.info("nobody says\ntwo lines")
    log.stop()
    logger.info("[data] late")
    lines = (tmp_path / "run.log").read_text().splitlines()
    stamp = len("2026-01-01 12:00:00 ")
    assert [line.split(" ")[0] for line in lines] == ["[data]", "[run]"]
    words = [line.partition(" ")[2][stamp:] for line in lines]
    assert words == ["3 rows", r"nobody says\ntwo lines"]


def test_a_log_whose_disk_is_full_stops_the_run(tmp_path: Path, monkeypatch: Any):
    log = RunLog("INFO")
    log.open(tmp_path / "run.log")
    logger = logging.Logger("test")
    logger.addHandler(log)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(DiskError, match="no space left"):
        logger.info("[loop] on it goes")


def test_a_folder_that_holds_a_run_is_refused_and_resume_is_named(tmp_path: Path):
    out = tmp_path / "r"
    (out / "checkpoints").mkdir(parents=True)
    said = f"{out}: exists; a run never overwrites another: choose another --out"
    with pytest.raises(InputError) as caught:
        check_place(out, tmp_path)
    assert str(caught.value) == said
    (out / "checkpoints" / "index.json").write_text("{}")
    with pytest.raises(InputError) as caught:
        check_place(out, tmp_path)
    assert str(caught.value) == f"{said}, or, where it was interrupted, realdataexp resume {out}"
