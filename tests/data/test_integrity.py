"""Files that are not whole are named, and an import that is killed leaves nothing half done."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import pytest
from kuairand_folder import EARLY, LATE, RANDOM, KuaiRandFolder, log_row

from realdataexp import files
from realdataexp.data import cache, schema
from realdataexp.data.kuairand import MARKER, ImportRequest, prepare
from realdataexp.data.log import DataSet
from realdataexp.data.synthetic import SyntheticConfig, write_synthetic
from realdataexp.errors import InputError, Warnings


@pytest.fixture
def folder(tmp_path: Path) -> KuaiRandFolder:
    return KuaiRandFolder(tmp_path / "KuaiRand")


def open_data(
    path: Path,
    logs: tuple[str, ...] = schema.LOGS,
    numerical: tuple[str, ...] = ("video_duration",),
) -> tuple[DataSet, dict[str, str]]:
    """The data set and its warnings, by code."""
    request, warnings = ImportRequest(path, logs, numerical, (), ("is_click",)), Warnings()
    data = prepare(request, path.parent / "cache", warnings)
    return data, {item["code"]: item["message"] for item in warnings}


def refused(path: Path, *said: object) -> None:
    with pytest.raises(InputError) as caught:
        open_data(path)
    message = str(caught.value)
    assert "\n" not in message
    for part in said:
        assert str(part) in message, message
    assert not list((path.parent / "cache").iterdir())


# ---- before an import -------------------------------------------------------------------------


@pytest.mark.parametrize("stem", [LATE, schema.VIDEO_BASIC])
def test_the_same_part_under_two_names_is_refused(folder, stem):
    folder.write(n_parts=2)
    part = folder.file(stem, "_part2")
    shutil.copy(folder.file(stem, "_part1"), part)
    refused(folder.path, part, "same file as", f"{stem}_pure_part1.csv")


def test_parts_without_rows_are_not_the_same_part(folder):
    folder.rows[RANDOM] = folder.rows[RANDOM][:1]
    folder.write(n_parts=3)
    assert open_data(folder.path)[0].log.n_rows == 8


def test_a_last_part_that_is_missing_is_noticed_where_their_number_is_known(tmp_path):
    folder = KuaiRandFolder(tmp_path / "KuaiRand", "27k")
    folder.write(n_parts=2)
    folder.file(LATE, "_part2").unlink()
    refused(folder.path, f"{LATE} has 2 parts in KuaiRand-27K", "only", f"{LATE}_27k_part1.csv")


@pytest.mark.parametrize("stem", [EARLY, schema.VIDEO_BASIC])
@pytest.mark.parametrize("n_bytes", [6, 12])
def test_a_file_cut_in_its_last_row_is_refused(folder, stem, n_bytes):
    folder.write()
    text = folder.file(stem).read_bytes()
    folder.file(stem).write_bytes(text[:-n_bytes])
    refused(folder.path, folder.file(stem), "cut in its last row", "fetch the file again")


def test_a_last_row_without_its_line_break_is_read_and_reported(folder):
    folder.write()
    whole, said = open_data(folder.path)
    assert said == {}
    folder.file(LATE).write_bytes(folder.file(LATE).read_bytes()[:-1])
    data, said = open_data(folder.path)
    assert data.log.n_rows == whole.log.n_rows
    assert list(said) == ["unended_file"] and folder.file(LATE).name in said["unended_file"]


def test_files_that_nobody_asked_for_may_be_broken(folder):
    folder.write()
    folder.file(LATE).write_bytes(folder.file(LATE).read_bytes()[:-6])
    assert open_data(folder.path, logs=("random",))[0].log.n_rows == 2


def test_a_disk_that_is_too_small_is_an_input_error_before_anything_is_read(folder, monkeypatch):
    folder.rows[LATE] += [log_row(20, 3, i) for i in range(10_000)]
    folder.write()
    usage = namedtuple("usage", "total used free")
    rows_and_arrays = 10_009 * (50 + 4 + 4)
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: usage(0, 0, rows_and_arrays))
    refused(folder.path, folder.path.parent / "cache", "GB are free", "are needed")
    free = 2 * rows_and_arrays
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: usage(0, 0, free))
    assert open_data(folder.path)[0].log.n_rows == 10_009


# ---- totals -----------------------------------------------------------------------------------


def test_totals_other_than_the_known_ones_are_reported(folder):
    folder.write()
    (folder.path / MARKER).unlink()
    _, said = open_data(folder.path, numerical=("follow_user_num",))
    (message,) = said.values()
    assert list(said) == ["other_totals"]
    for part in (
        "known totals of KuaiRand-PURE",
        "1,436,609 standard rows, found 7",
        "1,186,059 random rows, found 2",
        "27,285 users in the user file, found 4",
        "27,285 users in the log, found 3",
    ):
        assert part in message


@pytest.mark.parametrize(
    ("logs", "said"),
    [
        (("standard_late",), ""),
        (("random",), "7,583 random videos, found 1"),
        (("standard_early", "standard_late"), "7,551 standard videos, found 4"),
        (("standard_late", "random"), "1,186,059 random rows, found 2"),
    ],
)
def test_only_what_was_read_in_full_is_compared(folder, logs, said):
    folder.write()
    (folder.path / MARKER).unlink()
    message = open_data(folder.path, logs=logs)[1].get("other_totals", "")
    assert said in message and bool(said) == bool(message)
    assert "users in" not in message


def test_rows_are_counted_before_repeated_ones_are_dropped(folder, monkeypatch):
    folder.rows[RANDOM] += folder.rows[RANDOM]
    folder.write()
    (folder.path / MARKER).unlink()
    known = dict(standard_rows=7, random_rows=4, users=3, standard_videos=4, random_videos=1)
    monkeypatch.setitem(schema.KNOWN_TOTALS, "pure", known)
    assert list(open_data(folder.path)[1]) == ["duplicate_rows"]


def test_synthetic_data_are_compared_with_what_was_written(tmp_path):
    path = tmp_path / "synthetic"
    write_synthetic(path, SyntheticConfig(version="27k", users=30, videos=20, rows=900))
    _, said = open_data(path, numerical=("follow_user_num", "show_cnt", "video_duration"))
    assert "other_totals" not in said
    made = json.loads((path / MARKER).read_text())
    assert sum(made[stem] for stem in (EARLY, LATE, RANDOM)) == 900
    log = path / "data" / f"{LATE}_27k_part2.csv"
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:-3]))
    _, said = open_data(path)
    assert f"{made[LATE]:,} rows in {LATE}, found {made[LATE] - 3:,}" in said["other_totals"]


def test_a_marker_that_cannot_be_read_is_an_input_error(folder):
    folder.write()
    (folder.path / MARKER).write_text("[1")
    refused(folder.path, folder.path / MARKER, "remove it")


# ---- an import that is killed -----------------------------------------------------------------

SLOWLY = """
import sys
from pathlib import Path
from realdataexp.data import csv_files, ingest
csv_files.CHUNK_BYTES, ingest.BUCKET_ROWS, ingest.BLOCK_ROWS = 20_000, 500, 20
sys.path.insert(0, sys.argv[2])
from test_integrity import open_data
print("begin", flush=True)
open_data(Path(sys.argv[1]))
print("end", flush=True)
"""


def importing(path: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SLOWLY, str(path), str(Path(__file__).parent)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "begin\n"
    return process


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_after_a_kill_at_any_moment_the_next_import_is_whole_and_leaves_nothing_else(tmp_path):
    path, entries = tmp_path / "data", tmp_path / "cache"
    write_synthetic(path, SyntheticConfig(users=200, videos=400, rows=20_000))
    start = time.perf_counter()
    assert importing(path).communicate()[0] == "end\n"
    seconds = time.perf_counter() - start
    (whole,) = entries.iterdir()
    expected = {p.name: p.read_bytes() for p in whole.iterdir() if p.name != "meta.json"}
    rng, n_killed = random.Random(0), 0
    for _ in range(6):
        shutil.rmtree(whole, ignore_errors=True)
        with importing(path) as process:
            time.sleep(rng.random() * seconds * 0.6)
            process.kill()
            n_killed += process.communicate()[0] != "end\n"
        for entry in entries.glob("[!.]*"):  # what has its name is whole
            assert cache.read(entry) is not None
        data, said = open_data(path)
        assert "cache_damaged" not in said
        assert [entry.name for entry in entries.iterdir()] == [data.fingerprint]
        found = {p.name: p.read_bytes() for p in whole.iterdir() if p.name in expected}
        assert {k: v for k, v in found.items() if k.endswith(".npy")} == {
            k: v for k, v in expected.items() if k.endswith(".npy")
        }
        assert found.keys() == expected.keys()
    assert n_killed >= 3
