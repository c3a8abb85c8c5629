"""The import in pieces: the same as all in memory, whatever the sizes of pieces and buckets."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from kuairand_folder import EARLY, LATE, RANDOM, KuaiRandFolder, basic_row, log_row, user_row, whole
from polars.testing import assert_frame_equal

from realdataexp.data import csv_files, features, ingest, schema
from realdataexp.data.csv_files import in_order, pieces
from realdataexp.data.features import fit_features
from realdataexp.data.ingest import IdSet, Spill, npy_writer
from realdataexp.data.kuairand import ImportRequest, prepare
from realdataexp.data.log import DataSet
from realdataexp.errors import DiskError, InputError, Warnings

TARGETS = ("play_time_ms", "is_click", "tab")
CODES = {EARLY: 0, LATE: 1, RANDOM: 2}


def messy_folder(path: Path, seed: int, n_rows: int = 600) -> KuaiRandFolder:
    """Rows in no order, with ties in time, repeats within and across logs, gaps, odd values."""
    rng, folder = random.Random(seed), KuaiRandFolder(path)
    users = [3, 10, 11, 2**31 + 5, 2**40, *range(100, 130)]
    videos = [0, 7, 2**26 - 1, 2**26, 2**33, *range(1000, 1040)]
    for stem in (EARLY, LATE, RANDOM):
        folder.rows[stem] = []
    for _ in range(n_rows):
        row = log_row(
            rng.choice(users[: rng.randrange(1, len(users))]),
            rng.choice(videos),
            rng.randrange(12) * 1000,
            hourmin=rng.choice([0, 100]),
            is_click=rng.choice([0, 1, 1, "", 2]),
            play_time_ms=rng.choice([0, 1000, 2500, -5, "", "12.5" if seed % 2 else "12.0"]),
            tab=rng.choice([1, 1, 14, 15]),
        )
        for _ in range(rng.choice([1, 1, 1, 2, 3])):
            folder.rows[rng.choice((EARLY, LATE, RANDOM))].append(dict(row))
    folder.rows[schema.USER_FEATURES] = [user_row(u) for u in reversed(users) if u != 11]
    folder.rows[schema.VIDEO_BASIC] = [
        basic_row(v, tag=rng.choice(["3,11", "", "5", "3, 7 ,9"]), video_duration=rng.choice(
            ["", "9000.0", v % 977])) for v in rng.sample([*videos, *range(5000, 5050)], 90)
        if v != 7
    ]  # fmt: skip
    return folder


def open_data(folder: KuaiRandFolder, cache: Path) -> DataSet:
    request = ImportRequest(
        folder.path, schema.LOGS, ("follow_user_num", "video_duration"),
        ("user_active_degree", "tag"), TARGETS,
    )  # fmt: skip
    return prepare(request, cache, Warnings())


def contents(data: DataSet, cache: Path) -> dict[str, Any]:
    """Bytes of the arrays, the tables, and the counts."""
    files = {p.name: p.read_bytes() for p in (cache / data.fingerprint).glob("*.npy")}
    tables = {"users": data.users, "videos": whole(data.videos)}
    return {**files, **{k: t.write_json() for k, t in tables.items()}, "stats": data.stats}


def in_memory(folder: KuaiRandFolder) -> pl.DataFrame:
    """The distinct rows in their order, by sorting whole rows."""
    parts = []
    for stem, code in CODES.items():
        frame = pl.read_csv(folder.file(stem), infer_schema=False)
        parts.append(frame.with_columns(pl.all().cast(pl.Float64), _log=pl.lit(code)))
    frame = pl.concat(parts)
    content = [name for name in frame.columns if name != "_log"]
    frame = frame.sort("user_id", "time_ms", *content, "_log")
    frame = frame.unique(content, keep="first", maintain_order=True)
    return frame.sort(pl.col("user_id"), pl.col("_log") != 0, maintain_order=True)


@pytest.mark.parametrize("seed", range(4))
def test_arrays_equal_those_of_a_sort_of_all_whole_rows(tmp_path, seed):
    folder = messy_folder(tmp_path / "data", seed)
    folder.write()
    data, rows = open_data(folder, tmp_path / "cache"), in_memory(folder)
    assert data.log.n_rows == rows.height
    users, starts = np.unique(rows["user_id"].to_numpy(), return_index=True)
    assert data.users["user_id"].to_list() == users.tolist()
    assert data.log.offset_U1.tolist() == [*starts, rows.height]
    n_early = rows.group_by("user_id", maintain_order=True).agg((pl.col("_log") == 0).sum())
    assert data.log.n_early_U.tolist() == n_early["_log"].to_list()
    videos = whole(data.videos)["video_id"].to_numpy()
    assert np.array_equal(videos, np.unique(rows["video_id"].to_numpy()))
    assert np.array_equal(videos[data.log.video_N], rows["video_id"].to_numpy())
    for name in TARGETS:
        low, high = schema.LABEL_COLUMNS[name]
        y = rows[name].fill_null(float("nan")).to_numpy()
        y = np.where((y >= low) & (y <= high), y, np.nan).astype(np.float32)
        assert np.array_equal(data.log.targets[name], y, equal_nan=True)


@pytest.mark.parametrize("seed", range(2))
def test_sizes_of_pieces_buckets_and_blocks_change_nothing(tmp_path, monkeypatch, seed):
    folder = messy_folder(tmp_path / "data", seed)
    folder.write()
    whole = contents(open_data(folder, tmp_path / "whole"), tmp_path / "whole")
    for n_bytes, n_rows, n_block in ((300, 1, 1), (1_000, 50, 7), (5_000, 3, 1000)):
        monkeypatch.setattr(csv_files, "CHUNK_BYTES", n_bytes)
        monkeypatch.setattr(ingest, "BUCKET_ROWS", n_rows)
        monkeypatch.setattr(ingest, "_COUNTS_HELD", n_rows)
        monkeypatch.setattr(ingest, "BLOCK_ROWS", n_block)
        cache = tmp_path / f"cache {n_bytes}"
        assert contents(open_data(folder, cache), cache) == whole
        assert not list(cache.glob("*/.*"))


def test_every_user_of_the_files_is_in_the_tables(tmp_path, monkeypatch):
    """Also one whose rows all repeat those of another log, and one without features."""
    folder = messy_folder(tmp_path / "data", 0)
    twin = log_row(77, 7, 5)
    folder.rows[EARLY].append(twin)
    folder.rows[RANDOM].append(twin)
    folder.write()
    data = open_data(folder, tmp_path / "cache")
    said = {row["user_id"] for stem in CODES for row in folder.rows[stem]}
    assert set(data.users["user_id"]) == said
    assert data.stats["n_users"] == len(said) == data.log.n_users
    assert data.stats["without_features"][schema.USER_FEATURES] == len(said & {11, 77})
    assert data.stats["n_rows_read"] == sum(len(folder.rows[stem]) for stem in CODES)


def test_a_bad_cell_far_into_a_file_is_named_by_its_row(tmp_path, monkeypatch):
    monkeypatch.setattr(csv_files, "CHUNK_BYTES", 500)
    folder = messy_folder(tmp_path / "data", 0)
    folder.rows[LATE][150]["play_time_ms"] = "soon"
    folder.rows[LATE][160]["play_time_ms"] = "later"
    folder.write()
    with pytest.raises(InputError, match=r"row 152, column 'play_time_ms': 'soon'"):
        open_data(folder, tmp_path / "cache")


# ---- the parts --------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 7, 20, 1000])
@pytest.mark.parametrize("end", ["\n", "", "\r\n"])
def test_pieces_are_whole_lines_and_all_of_them(tmp_path, monkeypatch, size, end):
    monkeypatch.setattr(csv_files, "CHUNK_BYTES", size)
    text = 'a,b\n1,"x\ny,\n"\n2,plain\n\n3,"q""\n"\n4,last' + end
    path = tmp_path / "file.csv"
    path.write_bytes(text.encode())
    found = list(pieces(path))
    assert b"".join(piece.text.removeprefix(b"a,b\n") for piece in found).decode() == text[4:]
    rows = [row for piece in found for _, row in list(piece.rows())[1:] if row]
    assert [row[0] for row in rows] == ["1", "2", "3", "4"]
    numbers = [n for piece in found for n, row in list(piece.rows())[1:] if row]
    assert numbers == [4, 5, 8, 9]  # the last line of each row


def test_a_quote_that_is_never_closed_is_read_in_time(tmp_path, monkeypatch):
    monkeypatch.setattr(csv_files, "CHUNK_BYTES", 1 << 20)
    path = tmp_path / "file.csv"
    path.write_bytes(b"a,b\n" + b'1,"x\n' + b"2,y\n" * 500_000)
    assert sum(len(piece.text) - 4 for piece in pieces(path)) == path.stat().st_size - 4


def test_a_file_without_rows_has_no_pieces(tmp_path):
    for text in (b"", b"a,b", b"a,b\n"):
        (tmp_path / "file.csv").write_bytes(text)
        assert list(pieces(tmp_path / "file.csv")) == []


def test_results_come_in_order_and_a_fault_ends_the_work():
    assert list(in_order(lambda x: x * x, range(50))) == [x * x for x in range(50)]
    taken = []

    def items():
        for i in range(100):
            taken.append(i)
            yield i

    with pytest.raises(ZeroDivisionError):
        list(in_order(lambda x: 1 // (x - 3), items()))
    assert len(taken) < 10


@pytest.mark.parametrize("dense", [1, 100, 1 << 26])
def test_ids_are_numbered_in_ascending_order(monkeypatch, dense):
    monkeypatch.setattr(ingest, "_DENSE", dense)
    rng = np.random.default_rng(0)
    members = [rng.integers(0, 10**k, 50) for k in (1, 2, 5, 12)]
    known = IdSet()
    for part in members:
        known.add(part)
    known.freeze()
    expected = np.unique(np.concatenate(members))
    assert np.array_equal(known.members, expected)
    assert np.array_equal(known.numbers(expected[::-1]), np.arange(len(expected))[::-1])
    others = np.setdiff1d(np.arange(2000), expected)
    assert (known.numbers(np.append(others, 10**13)) == -1).all()


def test_a_spill_gives_back_the_rows_of_a_range_with_their_types(tmp_path):
    with Spill(tmp_path, "x", "k") as spill:
        spill.append(pl.DataFrame({"k": [1, 4, 4], "y": [1, None, 3]}))
        spill.append(pl.DataFrame({"k": [4, 9], "y": [0.5, 1.0], "z": ["a", None]}))
        spill.append(pl.DataFrame({"k": [], "y": []}))
        spill.seal()
        assert spill.read(2, 4) is None
        rows = spill.read(4, 9)
    expected = pl.DataFrame(
        {"k": [4, 4, 4], "y": [None, 3.0, 0.5], "z": pl.Series([None, None, "a"], dtype=pl.String)}
    )
    assert_frame_equal(rows, expected)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("sizes", [(), (0,), (3, 0, 100_000), (1,) * 50])
def test_an_array_written_in_pieces_is_the_file_that_numpy_writes(tmp_path, sizes):
    parts = [np.arange(n, dtype=np.float32) for n in sizes]
    with npy_writer(tmp_path / "a.npy", np.float32) as append:
        for part in parts:
            append(part)
    np.save(tmp_path / "b.npy", np.concatenate([np.zeros(0, np.float32), *parts]))
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()


def test_features_fitted_block_by_block_are_those_of_the_whole_table(tmp_path, monkeypatch):
    folder = messy_folder(tmp_path / "data", 0)
    folder.write()
    monkeypatch.setattr(ingest, "BLOCK_ROWS", 9)
    data = open_data(folder, tmp_path / "cache")
    is_training_U = np.arange(data.log.n_users) % 3 > 0
    fitted = []
    for videos in (data.videos, whole(data.videos)):
        changed = DataSet(data.version, data.fingerprint, data.log, data.users, videos, {})
        fitted.append(fit_features(
            changed, ("follow_user_num", "video_duration"), ("user_active_degree", "tag"),
            is_training_U, missing_indicator=True, warnings=Warnings(),
        ))  # fmt: skip
    blocks, at_once = (f.video for f in fitted)
    assert isinstance(blocks.num_XD, np.memmap) and not isinstance(at_once.num_XD, np.memmap)
    assert (blocks.numerical, blocks.fields) == (at_once.numerical, at_once.fields)
    assert at_once.numerical == ("video_duration", "video_duration")
    assert np.allclose(blocks.num_XD, at_once.num_XD, atol=1e-6)
    assert np.array_equal(blocks.cat_XK, at_once.cat_XK)
    assert np.array_equal(blocks.weight_XK, at_once.weight_XK)


def test_a_full_disk_while_features_are_fitted_is_one_line(tmp_path, monkeypatch):
    class Full:
        def write(self, _: bytes) -> None:
            raise OSError(28, "No space left on device")

        def close(self) -> None:
            pass

    monkeypatch.setattr(features.Rows.__init__.__globals__["tempfile"], "TemporaryFile",
                        lambda **_: Full())  # fmt: skip
    with features.Rows(tmp_path) as rows, pytest.raises(DiskError, match="no space left"):
        for _ in range(2):
            rows.append(np.zeros((3, 2)), np.float32)
