"""Laws of the import: what is in the tables, what is refused and how, what the cache may do."""

from __future__ import annotations

import errno
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from kuairand_folder import (
    EARLY,
    LATE,
    RANDOM,
    KuaiRandFolder,
    log_row,
    statistic_row,
    user_row,
    whole,
    write_csv,
)
from polars.testing import assert_frame_equal

from realdataexp.config import load_config
from realdataexp.data import cache, kuairand, schema
from realdataexp.data.ingest import Spill
from realdataexp.data.kuairand import ImportRequest, find_files, prepare
from realdataexp.data.log import DataSet
from realdataexp.errors import DiskError, InputError, Warnings
from realdataexp.runs.setup import set_up
from realdataexp.worlds import world_of

USERS, BASIC, STATISTIC = schema.USER_FEATURES, schema.VIDEO_BASIC, schema.VIDEO_STATISTIC
REAL = Path(__file__).parents[2] / "../shared/data/KuaiRand-Pure"


@pytest.fixture
def folder(tmp_path: Path) -> KuaiRandFolder:
    return KuaiRandFolder(tmp_path / "KuaiRand")


class Importer:
    """Imports a folder with a request that a test can change, and keeps the warnings."""

    def __init__(self, folder: KuaiRandFolder, cache_path: Path) -> None:
        self.cache_path = cache_path
        self.warnings = Warnings()
        self.request = ImportRequest(
            path=folder.path,
            logs=schema.LOGS,
            numerical=("follow_user_num", "video.follow_user_num", "video_duration"),
            categorical=("user_active_degree", "onehot_feat4", "tag"),
            targets=("play_time_ms", "is_click"),
        )

    def __call__(self, force: bool = False, **changes: Any) -> DataSet:
        self.warnings = Warnings()
        request = replace(self.request, **changes)
        return prepare(request, self.cache_path, self.warnings, force)

    def codes(self) -> list[str]:
        return [item["code"] for item in self.warnings]


@pytest.fixture
def importer(folder: KuaiRandFolder, tmp_path: Path) -> Importer:
    return Importer(folder, tmp_path / "cache")


def log_tuples(data: DataSet) -> list[tuple[int, int, bool, float, float]]:
    """(user id, video id, early, play time, click) of every log row, in the table's order."""
    log, rows = data.log, []
    videos = whole(data.videos)["video_id"].to_list()
    for u, user in enumerate(data.users["user_id"].to_list()):
        for n in range(log.offset_U1[u], log.offset_U1[u + 1]):
            early = n < log.offset_U1[u] + log.n_early_U[u]
            values = (float(log.targets[name][n]) for name in ("play_time_ms", "is_click"))
            rows.append((user, videos[log.video_N[n]], bool(early), *values))
    return rows


def assert_same(a: DataSet, b: DataSet) -> None:
    assert_frame_equal(a.users, b.users)
    assert_frame_equal(whole(a.videos), whole(b.videos))
    assert np.array_equal(a.log.offset_U1, b.log.offset_U1)
    assert np.array_equal(a.log.n_early_U, b.log.n_early_U)
    assert np.array_equal(a.log.video_N, b.log.video_N)
    assert list(a.log.targets) == list(b.log.targets)
    for name, values in a.log.targets.items():
        assert np.array_equal(values, b.log.targets[name], equal_nan=True)


# ---- the tables -------------------------------------------------------------------------------


def test_rows_are_by_user_then_early_first_then_time(folder, importer):
    folder.write()
    data = importer()
    assert log_tuples(data) == [
        (10, 1, True, 1000.0, 1.0),
        (10, 2, True, 1000.0, 0.0),
        (10, 3, False, 1000.0, 1.0),
        (10, 4, False, 1000.0, 0.0),
        (10, 3, False, 1000.0, 0.0),
        (20, 1, False, 1000.0, 1.0),
        (20, 2, False, 1000.0, 0.0),
        (30, 4, True, 1000.0, 0.0),
        (30, 3, False, 1000.0, 0.0),
    ]
    assert data.stats["n_early_rows"] == 3


def test_early_rows_come_first_even_when_their_clock_is_later(folder, importer):
    folder.rows[EARLY].append(log_row(20, 3, 30 * 86_400_000))
    folder.write()
    rows = [row[:3] for row in log_tuples(importer()) if row[0] == 20]
    assert rows == [(20, 3, True), (20, 1, False), (20, 2, False)]


def test_types_are_the_promised_ones_and_arrays_cannot_be_written(folder, importer):
    folder.write()
    log = importer().log
    assert (log.offset_U1.dtype, log.n_early_U.dtype) == (np.int64, np.int64)
    assert log.video_N.dtype == np.int32
    assert {values.dtype for values in log.targets.values()} == {np.dtype(np.float32)}
    for array in (log.offset_U1, log.n_early_U, log.video_N, *log.targets.values()):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


def test_features_are_columns_named_as_asked_for_the_ids_in_the_log_only(folder, importer):
    folder.write()
    data = importer()
    assert data.users.rows() == [(user, 100.0 + user, "full_active", "1") for user in (10, 20, 30)]
    assert data.users.columns == [
        "user_id",
        "follow_user_num",
        "user_active_degree",
        "onehot_feat4",
    ]
    assert data.videos.columns == ["video_id", "video.follow_user_num", "video_duration", "tag"]
    assert whole(data.videos).rows() == [(v, 0.25 * v, 9000.0, "3,11") for v in (1, 2, 3, 4)]
    assert data.users.dtypes == [pl.Int64, pl.Float32, pl.String, pl.String]


def test_bare_follow_user_num_is_the_users_and_video_dot_is_the_videos():
    bare, video = map(schema.resolve_feature, ("follow_user_num", "video.follow_user_num"))
    assert (bare.side, bare.file) == ("user", USERS)
    assert (video.side, video.file, video.source) == ("video", STATISTIC, "follow_user_num")
    assert schema.resolve_feature("user.follow_user_num").file == USERS


def test_the_order_of_rows_in_the_files_changes_nothing(folder, importer):
    folder.rows[LATE] += [log_row(10, 3, 0, hourmin=hour, play_time_ms=hour) for hour in (2, 1)]
    folder.write()
    before = importer()
    for rows in folder.rows.values():
        rows.reverse()
    folder.write()
    assert_same(before, importer())


def test_parts_give_the_same_tables_as_one_file(folder, importer, tmp_path):
    folder.write()
    parts = KuaiRandFolder(tmp_path / "parts")
    parts.rows = folder.rows
    parts.write(n_parts=3)
    assert_same(importer(), importer(path=parts.path))


@pytest.mark.parametrize("name", ["{stem}_27k_part{i}.csv", "{stem}_part{i}_27k.csv"])
def test_parts_may_stand_before_or_after_the_version_and_sort_as_numbers(tmp_path, name):
    for i in range(1, 12):
        (tmp_path / name.format(stem=LATE, i=i)).touch()
    for stem in (USERS, BASIC):
        (tmp_path / f"{stem}_27k.csv").touch()
    files = find_files(tmp_path, ["standard_late"], need_statistic=False)
    assert files.shards[LATE][9].name == name.format(stem=LATE, i=10)


@pytest.mark.parametrize("version", schema.VERSIONS)
def test_the_version_is_read_from_the_names(tmp_path, version):
    folder = KuaiRandFolder(tmp_path, version)
    folder.write()
    assert find_files(tmp_path, schema.LOGS, True).version == version
    assert find_files(tmp_path / "data", schema.LOGS, True).version == version


def test_only_the_chosen_logs_are_read(folder, importer):
    folder.write()
    folder.file(RANDOM).unlink()
    data = importer(logs=("standard_late",))
    assert data.log.n_rows == 4 and not data.log.n_early_U.any()


def test_cells_that_nobody_asked_for_are_not_parsed(folder, importer):
    folder.rows[USERS][0]["register_days"] = "long"
    folder.write()
    assert importer().log.n_users == 3


def test_a_column_can_be_asked_as_number_and_as_category(folder, importer):
    folder.rows[USERS][1]["onehot_feat4"] = ""
    folder.write()
    data = importer(numerical=("user.onehot_feat4",), categorical=("onehot_feat4",))
    assert data.users.rows() == [(10, None, None), (20, 1.0, "1"), (30, 1.0, "1")]


def test_whole_numbers_may_be_written_with_fractions(folder, importer):
    folder.write()
    plain = importer()
    for rows in (folder.rows[LATE], folder.rows[USERS]):
        for row in rows:
            row |= {name: f"{value}.0" for name, value in row.items() if isinstance(value, int)}
    folder.write()
    assert_same(plain, importer())


# ---- duplicates and missing values ------------------------------------------------------------


def test_exact_duplicates_are_dropped_and_repeated_views_stay(folder, importer):
    folder.rows[LATE] += [
        log_row(20, 2, 77),  # the same video at another time is another view
        log_row(20, 2, 77),
        log_row(20, 2, 77),
        log_row(20, 2, 77, hourmin=100),  # differs in a column that nobody asked for
    ]
    folder.write()
    data = importer()
    assert (data.stats["n_rows_read"], data.stats["n_rows"]) == (13, 11)
    assert data.stats["duplicate_rows"] == 2
    assert importer.codes() == ["duplicate_rows"]


def test_the_number_of_distinct_rows_does_not_depend_on_what_is_asked(folder, importer):
    folder.rows[LATE] += [log_row(20, 2, 77, hourmin=hour) for hour in (0, 100)]
    folder.write()
    assert importer(targets=()).log.n_rows == importer().log.n_rows == 11


def test_a_row_found_in_two_logs_counts_once_and_as_early(folder, importer):
    folder.rows[EARLY].append(folder.rows[LATE][0])
    folder.write()
    data = importer()
    assert data.stats["duplicate_rows"] == data.stats["duplicate_rows_across_logs"] == 1
    assert [row[:3] for row in log_tuples(data)][5:7] == [(20, 2, True), (20, 1, False)]


def test_a_request_without_features_needs_only_ids(folder, importer):
    folder.write()
    data = importer(numerical=(), categorical=())
    assert data.users.columns == ["user_id"] and data.videos.columns == ["video_id"]
    assert (data.users.height, data.videos.height) == (3, 4)


@pytest.mark.parametrize(
    ("target", "value"),
    [("play_time_ms", -5), ("play_time_ms", -124), ("is_click", 2), ("tab", 15), ("tab", 999)],
)
def test_values_out_of_range_are_missing_counted_and_reported(folder, importer, target, value):
    folder.rows[RANDOM][0][target] = value
    folder.write()
    data = importer(targets=(target,))
    assert np.isnan(data.log.targets[target]).sum() == 1
    assert data.stats["targets"][target]["n_out_of_range"] == 1
    assert importer.codes() == ["out_of_range_values"]
    assert target in importer.warnings.items[0]["message"]


def test_empty_targets_are_missing_counted_and_reported(folder, importer):
    folder.rows[LATE][0]["is_click"] = ""
    folder.write()
    stats = importer().stats["targets"]["is_click"]
    assert (stats["n_missing"], stats["n_empty"], stats["mean"]) == (1, 1, 3 / 8)
    assert importer.codes() == ["empty_values"]


def test_minus_124_is_unknown_for_users_in_both_kinds_and_a_number_for_videos(folder, importer):
    folder.rows[USERS][0] |= {"follow_user_num": -124, "onehot_feat4": "-124.0"}  # user 20
    folder.rows[BASIC][1]["video_duration"] = -124
    folder.write()
    data = importer()
    assert data.users.rows()[1] == (20, None, "full_active", None)
    assert data.stats["features"]["follow_user_num"] == {"n_missing": 1, "n_unknown": 1}
    assert data.stats["features"]["onehot_feat4"] == {"n_missing": 1, "n_unknown": 1}
    assert whole(data.videos)["video_duration"][0] == -124.0


def test_missing_features_are_null_in_both_kinds(folder, importer):
    folder.rows[BASIC][1] |= {"video_duration": "", "tag": ""}
    folder.rows[BASIC][2] |= {"video_duration": "nan"}
    folder.write()
    videos = whole(importer().videos)
    assert videos["video_duration"].to_list() == [None, None, 9000.0, 9000.0]
    assert videos["tag"].null_count() == 1


def test_users_and_videos_without_features_stay_and_are_reported(folder, importer):
    del folder.rows[USERS][0], folder.rows[STATISTIC][2]
    folder.write()
    data = importer()
    assert data.users.rows()[1] == (20, None, None, None)
    assert whole(data.videos).rows()[2] == (3, None, 9000.0, "3,11")
    assert data.stats["without_features"] == {USERS: 1, BASIC: 0, STATISTIC: 1}
    assert importer.codes() == ["users_without_features", "videos_without_features"]


def test_blank_lines_and_a_byte_order_mark_do_no_harm(folder, importer):
    folder.write()
    before = importer()
    text = folder.file(LATE).read_text()
    folder.file(LATE).write_text("\ufeff" + text.replace("\n", "\r\n") + "\r\n", encoding="utf-8")
    assert_same(before, importer())


# ---- what is refused, and how -----------------------------------------------------------------


def refused(call: Callable[[], object], *said: object) -> None:
    """The call raises one line that says all of `said`."""
    with pytest.raises(InputError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    for part in said:
        assert str(part) in message, message


def test_a_missing_folder_is_named_with_a_remedy(importer):
    refused(importer, importer.request.path, "no such folder", "realdataexp download")


def test_a_folder_without_kuairand_files_says_what_is_there(folder, importer):
    folder.path.mkdir()
    (folder.path / "holiday.jpg").touch()
    refused(importer, folder.path, "no KuaiRand files", "holiday.jpg")


def test_all_missing_files_are_named_at_once(folder, importer):
    folder.write()
    folder.file(RANDOM).unlink()
    folder.file(STATISTIC).unlink()
    there = folder.file(LATE).name
    refused(importer, folder.file(RANDOM).name, folder.file(STATISTIC).name, there)


def test_a_missing_part_is_noticed(folder, importer):
    folder.write(n_parts=3)
    folder.file(LATE, "_part2").unlink()
    refused(importer, LATE, "part3", "missing parts")


def test_two_versions_in_a_folder_are_refused(folder, importer):
    folder.write()
    folder.file(USERS).with_name(f"{USERS}_1k.csv").touch()
    refused(importer, "several versions", "1k", "pure")


def test_a_missing_column_is_named_with_the_nearest(folder, importer):
    folder.write()
    columns = [c if c != "is_click" else "is_clicked" for c in schema.LOG_COLUMNS]
    write_csv(folder.file(LATE), columns, folder.rows[LATE])
    refused(importer, folder.file(LATE), "'is_click'", "'is_clicked'")


def test_parts_with_differing_headers_are_refused(folder, importer):
    folder.write(n_parts=2)
    path = folder.file(STATISTIC, "_part2")
    write_csv(path, schema.STATISTIC_COLUMNS[:-1], [statistic_row(2)])
    refused(importer, path, "header differs", "outsite_share_all_cnt")


@pytest.mark.parametrize(
    ("stem", "index", "column", "value"),
    [
        (LATE, 2, "play_time_ms", "soon"),
        (LATE, 1, "time_ms", "2022-04-22"),
        (LATE, 0, "user_id", "1.5"),
        (LATE, 3, "video_id", ""),
        (LATE, 3, "video_id", "-124"),
        (USERS, 1, "follow_user_num", "many"),
        (USERS, 2, "user_id", ""),
        (STATISTIC, 3, "follow_user_num", "1,5"),
    ],
)
def test_a_bad_cell_is_named_by_file_row_column_and_value(
    folder, importer, stem, index, column, value
):
    folder.rows[stem][index][column] = value
    folder.write()
    said = (f"{folder.file(stem)}, row {index + 2}, column '{column}': '{value}'",)
    refused(importer, *said)


def test_a_bad_cell_is_named_also_when_its_column_is_asked_in_both_kinds(folder, importer):
    folder.rows[USERS][1]["onehot_feat4"] = "one"
    folder.write()
    refused(
        lambda: importer(numerical=("user.onehot_feat4",)),
        f"{folder.file(USERS)}, row 3, column 'onehot_feat4': 'one'",
    )


def test_a_row_with_too_many_fields_is_named(folder, importer):
    folder.write()
    with folder.file(LATE).open("a") as file:
        file.write("1," * 19 + "1\n")
    refused(importer, f"{folder.file(LATE)}, row 6", "20 fields", "19")


def test_logs_without_rows_are_refused_and_one_empty_log_is_not(folder, importer):
    folder.rows[RANDOM] = []
    folder.write()
    assert importer().log.n_rows == 7
    refused(lambda: importer(logs=("random",)), folder.file(RANDOM).name, "no rows")


def test_an_empty_file_is_refused(folder, importer):
    folder.write()
    folder.file(LATE).write_text("")
    refused(importer, folder.file(LATE), "is empty")


@pytest.mark.parametrize("n_parts", [1, 2])
def test_a_repeated_id_in_a_feature_file_is_refused(folder, importer, n_parts):
    folder.rows[USERS].append(user_row(10, follow_user_num=3))
    folder.write(n_parts)
    refused(importer, USERS, "user_id 10", "more than one row")


def test_a_text_column_as_numerical_is_refused_with_an_example(folder, importer, tmp_path):
    folder.write()
    call = lambda: importer(numerical=("user_active_degree",), categorical=())  # noqa: E731
    refused(call, "'user_active_degree'", folder.file(USERS), "'full_active'")
    features = "feature={numerical: [user_active_degree], categorical: [tag]}"
    config = load_config("kuairand-pure", [features], data=folder.path)
    said = r"'user_active_degree': holds words, not numbers; list it in feature.categorical"
    with pytest.raises(InputError, match=said):
        world_of(config).prepare(config, tmp_path / "cache", False)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"numerical": ("shwo_cnt",)}, "'show_cnt'"),
        ({"categorical": ("video.user_active_degree",)}, "'user_active_degree'"),
        ({"categorical": ("user_id",)}, "is an id"),
    ],
)
def test_a_wrong_name_in_the_request_is_named_with_the_nearest(folder, importer, changes, said):
    folder.write()
    refused(lambda: importer(**changes), said)


def test_all_wrong_names_of_a_config_are_listed_a_line_each(folder, tmp_path):
    folder.write()
    changes = ["feature.numerical=[shwo_cnt]", "labels.1.target=is_clik"]
    config = load_config("kuairand-pure", changes, data=folder.path)
    for ask in (
        lambda: world_of(config).prepare(config, tmp_path / "cache", False),
        lambda: set_up(config, Warnings()),
    ):
        with pytest.raises(InputError) as caught:
            ask()
        target, feature = caught.value.faults[:2]
        assert "'is_click'" in target and "'show_cnt'" in feature


# ---- the cache --------------------------------------------------------------------------------


@pytest.fixture
def imports(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grows by one with every import that really happens."""
    done: list[str] = []
    real = kuairand._import

    def counted(*args: Any) -> dict[str, Any]:
        done.append("import")
        return real(*args)

    monkeypatch.setattr(kuairand, "_import", counted)
    return done


def test_a_warm_start_equals_the_cold_one_with_its_warnings(folder, importer, imports):
    folder.rows[LATE].append(folder.rows[LATE][0])
    folder.write()
    cold, said = importer(), importer.warnings.items
    warm = importer()
    assert_same(cold, warm)
    assert (cold.stats, cold.fingerprint, said) == (
        warm.stats,
        warm.fingerprint,
        importer.warnings.items,
    )
    assert said and imports == ["import"]


def test_parts_that_miss_the_same_entry_import_it_once(folder, importer, imports, monkeypatch):
    """All have looked and found nothing before the first has written anything."""
    folder.write()
    everybody, real = threading.Barrier(3), cache.read
    first_looks = threading.local()

    def read(entry: Path) -> Any:
        found = real(entry)
        if not hasattr(first_looks, "over"):
            first_looks.over = True
            everybody.wait(60)
        return found

    monkeypatch.setattr(cache, "read", read)
    with ThreadPoolExecutor(3) as pool:
        found = [x.result() for x in [pool.submit(importer) for _ in range(3)]]
    assert len(imports) == 1
    assert_same(found[0], found[1])
    assert_same(found[0], found[2])


def test_force_imports_again_in_the_same_place(folder, importer, imports):
    folder.write()
    assert_same(importer(), importer(force=True))
    assert len(imports) == 2 and len(list(importer.cache_path.iterdir())) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"numerical": ("video_duration", "video.follow_user_num", "follow_user_num")},
        {"targets": ("is_click",)},
        {"logs": ("random",)},
    ],
)
def test_another_request_is_another_entry(folder, importer, changes):
    folder.write()
    assert importer().fingerprint != importer(**changes).fingerprint


def test_a_touched_file_is_imported_again(folder, importer, imports):
    folder.write()
    importer()
    os.utime(folder.file(USERS), ns=(1, 1))
    importer()
    assert len(imports) == 2


def test_a_changed_value_is_met_even_when_size_and_time_are_kept(folder, importer):
    folder.write()
    importer()
    path = folder.file(LATE)
    times = path.stat().st_mtime_ns
    path.write_text(path.read_text().replace(",1000,", ",2000,"))
    os.utime(path, ns=(times, times))
    assert 2000.0 in importer().log.targets["play_time_ms"]


def test_a_file_that_is_not_asked_for_does_not_make_the_cache_stale(folder, importer, imports):
    folder.write()
    importer(logs=("random",))
    os.utime(folder.file(LATE), ns=(1, 1))
    importer(logs=("random",))
    assert len(imports) == 1


def test_another_format_version_is_another_entry(folder, importer, monkeypatch):
    folder.write()
    before = importer().fingerprint
    monkeypatch.setattr(cache, "FORMAT_VERSION", cache.FORMAT_VERSION + 1)
    assert importer().fingerprint != before


def test_a_moved_folder_meets_its_entry_again(folder, importer, imports, tmp_path):
    folder.write()
    importer()
    importer(path=folder.path.rename(tmp_path / "elsewhere"))
    assert len(imports) == 1


def spoil(entry: Path, how: str) -> None:
    array = entry / "target_is_click.npy"
    if how == "missing":
        array.unlink()
    elif how == "short":
        array.write_bytes(array.read_bytes()[:-4])
    elif how == "changed":
        array.write_bytes(array.read_bytes()[:-4] + b"abcd")
    elif how == "meta cut":
        (entry / "meta.json").write_text((entry / "meta.json").read_text()[:100])
    elif how == "meta not an object":
        (entry / "meta.json").write_text("[]")
    elif how == "format":
        meta = json.loads((entry / "meta.json").read_text())
        (entry / "meta.json").write_text(json.dumps(meta | {"format_version": -1}))
    elif how == "empty":
        for path in entry.iterdir():
            path.unlink()


@pytest.mark.parametrize(
    "how", ["missing", "short", "changed", "meta cut", "meta not an object", "format", "empty"]
)
def test_a_damaged_entry_is_noticed_and_made_again(folder, importer, how):
    folder.write()
    before = importer()
    whole = [np.array(before.log.video_N), np.array(before.log.targets["is_click"])]
    spoil(importer.cache_path / before.fingerprint, how)
    after = importer()
    assert importer.codes() == ["cache_damaged"]
    assert np.array_equal(after.log.video_N, whole[0])
    assert np.array_equal(after.log.targets["is_click"], whole[1])
    importer()
    assert importer.codes() == []


def _without(key: str) -> Callable[[dict[str, Any]], Any]:
    return lambda meta: {name: value for name, value in meta.items() if name != key}


@pytest.mark.parametrize(
    "change",
    [
        lambda meta: {},
        lambda meta: None,
        lambda meta: "meta",
        lambda meta: 7,
        _without("files"),
        _without("stats"),
        _without("warnings"),
        _without("digest"),
        lambda meta: meta | {"files": []},
        lambda meta: meta | {"files": {"name": "video_N.npy"}},
        lambda meta: meta | {"files": [*meta["files"], {"name": "../../x", "size": 1}]},
        lambda meta: meta | {"targets": ["is_click", "is_click"]},
        lambda meta: meta | {"targets": [["is_click"]]},
        lambda meta: meta | {"warnings": [{"code": "x"}]},
        lambda meta: meta | {"warnings": 3},
        lambda meta: meta | {"stats": []},
        lambda meta: meta | {"stats": meta["stats"] | {"n_rows": 1}},
        lambda meta: meta | {"version": 27},
        lambda meta: meta | {"more": "than was written"},
    ],
)
def test_an_odd_but_valid_meta_file_means_a_new_import(
    change: Callable[[dict[str, Any]], Any], folder, importer
):
    folder.write()
    before = importer()
    path = importer.cache_path / before.fingerprint / "meta.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    after = importer()
    assert importer.codes() == ["cache_damaged"]
    assert after.stats == before.stats
    assert_same(before, after)


@pytest.mark.parametrize(
    "make",
    [
        lambda path: path.write_bytes(bytes(path.stat().st_size)),
        lambda path: np.save(path, np.load(path).astype(np.float64)),
        lambda path: np.save(path, np.load(path)[None]),
        lambda path: np.save(path, np.array([None, {}]), allow_pickle=True),
        lambda path: path.write_bytes(b"PK\x03\x04 not an array"),
        lambda path: [path.unlink(), path.mkdir()],
        lambda path: [path.unlink(), path.symlink_to("/dev/zero")],
        lambda path: [path.unlink(), os.mkfifo(path)],
    ],
    ids=["zeroed", "type", "axes", "objects", "zip", "folder", "device", "pipe"],
)
@pytest.mark.parametrize("name", ["video_N.npy", "offset_U1.npy", "meta.json"])
def test_a_foreign_file_in_an_entry_means_a_new_import(
    make: Callable[[Path], Any], name: str, folder, importer
):
    folder.write()
    before = importer()
    path = importer.cache_path / before.fingerprint / name
    if name == "meta.json":
        np.save(path.with_suffix(".npy"), np.zeros(3))
        path.with_suffix(".npy").rename(path)
    make(path)
    assert_same(before, importer())
    assert importer.codes() == ["cache_damaged"]


def test_pages_that_are_lost_in_the_middle_of_a_large_file_are_noticed(tmp_path):
    path = tmp_path / "video_N.npy"
    path.write_bytes(os.urandom(1 << 20))
    key = cache._own_key(path)
    assert cache._own_key(path) == key
    with path.open("r+b") as file:
        file.seek(500_000)
        file.write(bytes(20_480))
    assert {**cache._own_key(path), "pages": ""} == {**key, "pages": ""}
    assert cache._own_key(path) != key


def test_what_is_large_is_mapped_and_the_same(folder, importer, monkeypatch):
    folder.write()
    data = importer()
    monkeypatch.setattr(cache, "_IN_MEMORY_BYTES", 0)
    mapped = importer()
    assert isinstance(mapped.log.video_N, np.memmap)
    assert_same(data, mapped)


def test_a_cache_file_that_is_cut_while_it_is_used_changes_nothing(folder, importer):
    folder.write()
    data = importer()
    before = log_tuples(data)
    for path in (importer.cache_path / data.fingerprint).glob("*.npy"):
        os.truncate(path, 0)
    assert log_tuples(data) == before
    with pytest.raises(ValueError, match="read-only"):
        data.log.video_N[0] = 1


@pytest.mark.parametrize("place", ["file", "file/below", "entry"])
def test_a_file_where_the_cache_should_be_is_one_line(place: str, folder, importer, tmp_path):
    folder.write()
    if place == "entry":
        name = importer().fingerprint
        importer.cache_path = tmp_path / "other"
        importer.cache_path.mkdir()
        (importer.cache_path / name).write_text("mine")
    else:
        (tmp_path / "file").write_text("mine")
        importer.cache_path = tmp_path / place
    with pytest.raises(InputError, match=r"set dataset\.cache_path") as caught:
        importer()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("where", "failing"),
    [
        (np, "save"),
        (Spill, "append"),
        (Spill, "read"),
        (pq.ParquetWriter, "write_table"),
        (cache, "sync"),
        (os, "rename"),
    ],
)
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_import_leaves_nothing(folder, importer, monkeypatch, where, failing, error):
    folder.write()

    def interrupted(*_: object, **__: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(where, failing, interrupted)
        with pytest.raises(error):
            importer()
    assert list(importer.cache_path.iterdir()) == []
    assert importer().log.n_rows == 9


def test_a_full_disk_fails_with_one_line_and_leaves_nothing(folder, importer, monkeypatch):
    folder.write()

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    said = f"^{re.escape(str(importer.cache_path))}: no space left on the device.*cache_path.*$"
    with pytest.raises(DiskError, match=said):
        importer()
    assert list(importer.cache_path.iterdir()) == []


def test_a_cache_folder_that_is_a_file_is_an_input_error(folder, importer):
    folder.write()
    importer.cache_path.write_text("not a folder")
    refused(importer, importer.cache_path, "cannot be written")


def test_the_entry_of_a_process_that_was_first_is_used(folder, importer, monkeypatch, tmp_path):
    """On a file system without locks two may import at the same time."""
    monkeypatch.setattr(cache, "locked", lambda *_, **__: nullcontext())
    folder.write()
    rival = Importer(folder, importer.cache_path)
    real = kuairand._import

    def slow(*args: Any) -> dict[str, Any]:
        meta = real(*args)
        with monkeypatch.context() as patch:
            patch.setattr(kuairand, "_import", real)
            rival()
        return meta

    monkeypatch.setattr(kuairand, "_import", slow)
    data = importer()
    assert [path.name for path in importer.cache_path.iterdir()] == [data.fingerprint]


def leftover(cache_path: Path, host: str, pid: int, age_s: float) -> Path:
    path = cache_path / f".importing-abc-{host}-{pid}-12345678"
    path.mkdir(parents=True)
    (path / "video_N.npy").touch()
    then = time.time() - age_s
    for changed in (path / "video_N.npy", path):
        os.utime(changed, (then, then))
    return path


def test_leftovers_of_the_dead_are_removed_and_imports_under_way_are_not(folder, importer):
    folder.write()
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    here = socket.gethostname()
    gone = [
        leftover(importer.cache_path, here, dead.pid, 0),
        leftover(importer.cache_path, "other-host", 1, 7200),
    ]
    kept = [
        leftover(importer.cache_path, here, os.getpid(), 7200),
        leftover(importer.cache_path, "other-host", 2, 60),
    ]
    importer()
    assert not any(path.exists() for path in gone)
    assert all(path.exists() for path in kept)


def test_the_import_needs_no_torch():
    code = "import sys, realdataexp.data.kuairand; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ})


# ---- the real rows ----------------------------------------------------------------------------


@pytest.mark.skipif(not REAL.is_dir(), reason=f"no real rows at {REAL}")
def test_the_real_rows_of_kuairand_pure(importer):
    data = importer(path=REAL, logs=("standard_late",))
    stats = data.stats
    assert (stats["n_rows_read"], stats["n_rows"]) == (228_329, 222_869)
    assert (stats["n_users"], stats["n_videos"]) == (25_156, 6_361)
    assert stats["targets"]["is_click"]["mean"] == pytest.approx(0.449008, abs=1e-6)
    assert stats["without_features"] == {USERS: 0, BASIC: 0, STATISTIC: 0}
    assert stats["features"]["video_duration"]["n_missing"] == 176
    assert importer.codes() == ["duplicate_rows"]


# ---- cells that other programs read otherwise -------------------------------------------------


def change_line(path: Path, number: int, change: Callable[[list[str]], list[str]]) -> None:
    """Change the fields of a line of a file; the header is line 1."""
    lines = path.read_text().splitlines(keepends=True)
    lines[number - 1] = ",".join(change(lines[number - 1].rstrip("\n").split(","))) + "\n"
    path.write_text("".join(lines))


@pytest.mark.parametrize("stem", [EARLY, LATE, RANDOM, USERS, BASIC, STATISTIC])
@pytest.mark.parametrize(
    ("change", "n_more"),
    [
        (lambda row: row[:3] + row[4:], -1),  # so that the values behind it would shift
        (lambda row: row[:1], None),
        (lambda row: [*row, ""], 1),
        (lambda row: [*row[:2], "7", *row[2:]], 1),
    ],
    ids=["without a cell", "one cell", "trailing separator", "one more cell"],
)
def test_a_row_with_more_or_fewer_fields_than_the_header_is_named(
    stem: str, change: Callable[[list[str]], list[str]], n_more: int | None, folder, importer
):
    for row in folder.rows[BASIC]:
        row["tag"] = "3"  # a list would have commas in quotes
    folder.write()
    change_line(folder.file(stem), 3, change)
    with pytest.raises(InputError) as caught:
        importer()
    n = len(schema.FILE_COLUMNS.get(stem, schema.LOG_COLUMNS))
    found = 1 if n_more is None else n + n_more
    fault = f"row 3: {found} fields where the header has {n}"
    # the last line of a file is looked at before, without reading the file
    assert str(caught.value).startswith(f"{folder.file(stem)}, {fault}")


def test_a_row_too_long_does_not_make_up_for_one_too_short(folder, importer):
    folder.write()
    change_line(folder.file(USERS), 2, lambda row: [*row, "7"])
    change_line(folder.file(USERS), 4, lambda row: row[:-1])
    with pytest.raises(InputError, match="row 2: 32 fields where the header has 31"):
        importer()


@pytest.mark.parametrize("cell", ["１", "1_000", "1 ", "0x10", '"1,5"', "1,5", "1e400", "ten"])
@pytest.mark.parametrize(
    ("stem", "column", "line"),
    [(LATE, "video_id", 2), (LATE, "play_time_ms", 4), (USERS, "follow_user_num", 3),
     (STATISTIC, "follow_user_num", 3)],
)  # fmt: skip
def test_a_number_in_another_notation_is_named_and_never_read_as_another(
    cell: str, stem: str, column: str, line: int, folder, importer
):
    if (cell, column) == ("1e400", "play_time_ms"):
        return  # out of range, and counted as that
    folder.write()
    place = schema.FILE_COLUMNS.get(stem, schema.LOG_COLUMNS).index(column)
    change_line(folder.file(stem), line, lambda row: [*row[:place], cell, *row[place + 1 :]])
    with pytest.raises(InputError) as caught:
        importer()
    assert f"{folder.file(stem)}, row {line}" in str(caught.value)
    if cell != "1,5":  # a row with one field more
        assert f"column {column!r}: {cell.strip(chr(34))!r} is" in str(caught.value)


def test_the_notations_of_csv_files_are_one_number(folder, importer):
    folder.rows[LATE][0]["play_time_ms"] = 2000
    folder.write()
    plain = importer()
    for cell in (" 2000", "+2000", "2000.0", "2e3", '"2000"', "02000"):
        change_line(folder.file(LATE), 2, lambda row, cell=cell: [*row[:12], cell, *row[13:]])
        assert_same(plain, importer())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda raw: raw.replace(b",", b";"), "its header is separated by ';', not by commas"),
        (lambda raw: raw.decode().encode("utf-16"), "is not UTF-8 text (UTF-16"),
        (lambda raw: raw.replace(b"full_active", b"full\xe9", 1), "row 2: byte 0xe9 is not UTF-8"),
        (lambda raw: raw.replace(b"user_active_degree", b"register_days"), "has two columns"),
    ],
)
def test_a_file_of_another_kind_is_named_as_that(
    change: Callable[[bytes], bytes], said: str, folder, importer
):
    folder.write()
    path = folder.file(USERS)
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(InputError) as caught:
        importer()
    assert str(path) in str(caught.value)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
