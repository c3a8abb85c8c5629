"""One's own tables as other programs leave them: read for what they say, or refused in one line."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data.test_tables import ROWS, Own, assert_same, many_views, rows_of, small_tables

from realdataexp.config import load_config
from realdataexp.data.csv_files import CHUNK_BYTES
from realdataexp.errors import InputError, Warnings
from realdataexp.runs.setup import set_up

NS = 1_700_000_000_000_000_000


@pytest.fixture
def own(tmp_path: Path) -> Own:
    return Own(tmp_path)


def csv_log(own: Own, text: str | bytes) -> None:
    """The other tables as Parquet, the log as this text."""
    own.write()
    own.mapping["log"] = ["log.csv"]
    content = text if isinstance(text, bytes) else text.encode()
    (own.path / "log.csv").write_bytes(content)


HEADER = "user,item,ts,watched,click\n"
GOOD = HEADER + "20,1,700,1.5,1\n10,2,300,2,0\n10,1,100,0,1\n"


def one_line(own: Own, *said: str) -> None:
    fault = own.fault()
    assert "\n" not in fault
    assert [text for text in said if text not in fault] == [], fault


# ---- rows with more or fewer cells than the header ------------------------------------------


@pytest.mark.parametrize(
    ("text", "row", "n"),
    [
        (GOOD + "10,3,200,5\n", 5, 4),  # the cell of the play time is missing
        (HEADER + "20,1,700,1\n" + GOOD.removeprefix(HEADER), 2, 4),
        (GOOD + "10,3,200,5,1,\n", 5, 6),  # a separator at the end
        (GOOD + "10,3,200,5", 5, 4),  # no line break at the end
        (GOOD.replace("\n", "\r\n") + "10,3,200,5\r\n", 5, 4),
        (GOOD + "\n\n10,3,200,5\n", 7, 4),  # blank lines count as lines
        (GOOD + "   \n10,3,200,5,1\n", 5, 1),
        (GOOD + "10,3,200,5,1,1\n10,3,200,5\n", 5, 6),  # as many commas as there should be
        (GOOD + "10,3,200,5\n10,3,200,5,1,1\n", 5, 4),
        (GOOD + "10\n10,3,200,5,1\n", 5, 1),
        (GOOD + '10,"3,4",200,5\n', 5, 4),  # a comma in quotes is none
        (GOOD.replace("click\n", 'click,"a\nb"\n').replace("1\n", "1,x\n"), 4, 5),
    ],
)
def test_a_ragged_row_is_named_and_never_shifts_values(text: str, row: int, n: int, own: Own):
    csv_log(own, text)
    wanted = 6 if '"a\nb"' in text else 5
    one_line(own, f"log.csv, row {row}: {n} fields where the header has {wanted}")


def test_a_ragged_row_is_found_behind_the_first_piece_of_a_file(own: Own):
    line = "10,2,{:012d},2,0,{}\n"
    n = CHUNK_BYTES // 40 + 10
    lines = [line.format(i, "x" * 14) for i in range(n)]
    lines[n - 3] = "10,2,999,2,xxxxxxxxxxxxxxxxxxxxxxxxxxx\n"
    csv_log(own, HEADER.replace("click", "click,note") + "".join(lines))
    one_line(own, f"log.csv, row {n - 1}: 5 fields where the header has 6")


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.removesuffix("\n"),
        lambda text: text.replace("\n", "\n\n"),
        lambda text: text.replace("\n", "\r\n\r\n"),
        lambda text: "\ufeff" + text,
        lambda text: text.replace("10,", '"10",').replace("item", '"item"'),
        lambda text: text.replace("\n", ",\n"),
        lambda text: text.replace("\n", ',"a\n\nb, ""c"""\n').replace("10,", " 10,"),
        lambda text: text.replace("20,", "20.0,").replace("300", "300.0").replace("2,0", "2e0,+0"),
    ],
    ids=["CRLF", "no last line break", "blank lines", "blank CRLF lines", "BOM", "quotes",
         "a column without a name", "line breaks in quotes", "numbers in other clothes"],
)  # fmt: skip
def test_a_rectangular_file_is_read_however_it_is_written(change: Callable[[str], str], own: Own):
    csv_log(own, GOOD)
    plain = own.read()
    csv_log(own, change(GOOD))
    assert_same(plain, own.read())


def test_an_empty_row_is_no_blank_line(own: Own):
    csv_log(own, GOOD + ",,,,\n")
    one_line(own, "log.csv, row 5, column 'user': no id")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (GOOD.encode("utf-16"), ["log.csv: is not UTF-8 text (UTF-16"]),
        (GOOD.encode("utf-16-le"), ["log.csv: is not UTF-8 text (UTF-16"]),
        (GOOD.replace("item", "ité").encode("latin-1"), ["log.csv, row 1: byte 0xe9 is not UTF-8"]),
        (GOOD.replace("\n", "\r").encode(), ["log.csv: its lines end with carriage returns alone"]),
        (GOOD.replace(",", ";").encode(), ["separated by ';'", "'user;item;ts;watched;click'"]),
        (GOOD.replace(",", "\t").encode(), ["separated by a tab", "user\\titem"]),
        (GOOD.replace(",", "|").encode(), ["separated by '|'"]),
        (b"\n" + GOOD.encode(), ["log.csv: its first line is blank"]),
        (HEADER.encode(), ["log.csv: the log has no rows"]),
        (HEADER.strip().encode(), ["log.csv: the log has no rows"]),
        (b"", ["log.csv: is empty"]),
        (b"\xef\xbb\xbf", ["log.csv: is empty"]),
        (b"PAR1" + bytes(100), ["log.csv: is not UTF-8 text"]),
        (GOOD.replace("click", "item").encode(), ["log.csv: has two columns item"]),
    ],
)  # fmt: skip
def test_a_file_of_another_kind_is_named_as_that(content: bytes, said: list[str], own: Own):
    csv_log(own, content)
    one_line(own, *said)


@pytest.mark.parametrize("cell", ["１", "1_000", "0x10", '"1,5"', "1e400", "--1", "1 2", "١"])
@pytest.mark.parametrize("column", ["watched", "ts", "user"])
def test_a_number_in_another_script_or_notation_is_refused(cell: str, column: str, own: Own):
    places = {"user": "{},1,1,1,1\n", "ts": "10,1,{},1,1\n", "watched": "10,1,1,{},1\n"}
    if (cell, column) == ("--1", "user"):
        pytest.skip("a text, as ids may be")
    csv_log(own, GOOD + places[column].format(cell))
    value = cell.strip('"')
    one_line(own, f"log.csv, row 5, column '{column}': '{value}' is ")


def test_ids_in_the_notation_of_floats_are_those_of_whole_numbers(own: Own):
    own.write("csv")
    path = own.path / "log.csv"
    path.write_text(path.read_text().replace("\n10,", "\n10.0,"))
    assert rows_of(own.read()) == ROWS


# ---- times --------------------------------------------------------------------------------


def near(own: Own, times: list[Any], form: str, dtype: Any = None) -> None:
    """A log of three views at these times."""
    own.tables["log"] = own.tables["log"][:3].with_columns(pl.Series("ts", times, dtype=dtype))
    own.write(form)


@pytest.mark.parametrize("form", ["csv", "parquet"])
@pytest.mark.parametrize("dtype", [pl.Int64, pl.UInt64, pl.Decimal(38, 0)])
def test_times_one_nanosecond_apart_are_told_apart(form: str, dtype: Any, own: Own):
    near(own, [NS, NS + 1, NS + 2], form, dtype)
    for n in (1, 2):
        assert own.read(f"dataset.tables.early_before={NS + n}").stats["n_early_rows"] == n
    assert "0 of 3 rows are earlier" in own.fault_again(f"dataset.tables.early_before={NS}")


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_dates_one_nanosecond_apart_are_told_apart(form: str, own: Own):
    near(own, [NS, NS + 1, NS + 2], form, pl.Int64)
    own.tables["log"] = own.tables["log"].cast({"ts": pl.Datetime("ns")})
    own.write(form)
    for n in (1, 2):
        bound = f"'2023-11-14T22:13:20.00000000{n}'"
        assert own.read(f"dataset.tables.early_before={bound}").stats["n_early_rows"] == n


def test_dates_in_several_units_and_zones_are_one_time_line(own: Own):
    at = datetime(2024, 5, 1, 12, tzinfo=UTC)
    column = pl.Series("ts", [at, at + timedelta(hours=1), at + timedelta(hours=2)])
    forms = [
        column.dt.convert_time_zone("Asia/Kathmandu").cast(pl.Datetime("ns", "Asia/Kathmandu")),
        column.dt.replace_time_zone(None).cast(pl.Datetime("ms")),
        column.dt.convert_time_zone("America/New_York"),
    ]
    log = own.tables["log"][:3]
    own.write()
    for i, form in enumerate(forms):
        log.with_columns(form, user=pl.lit(i)).write_parquet(own.path / f"{i}.parquet")
    log.with_columns(column.dt.to_string("%+"), user=pl.lit(10)).write_csv(own.path / "3.csv")
    own.mapping["log"] = ["0.parquet", "1.parquet", "2.parquet", "3.csv"]
    data = own.read("dataset.tables.early_before='2024-05-01T13:00:00Z'")
    assert data.log.n_early_U.tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize(
    ("times", "dtype", "said"),
    [
        ([1.0, float("inf"), 2.0], pl.Float64, "row 2, column 'ts': inf is no time"),
        ([1.0, 2.0, -float("inf")], pl.Float64, "row 3, column 'ts': -inf is no time"),
        ([1, 2**63, 2], pl.UInt64, "row 2, column 'ts': 9223372036854775808 is too large"),
        ([1.0, float(NS), 2.0], pl.Float64, "row 2, column 'ts': 1.7e+18 has more digits than"),
        ([1.0, 1.7e9, 2.0], pl.Float32, "row 2, column 'ts': 1700000000.0 has more digits"),
        ([Decimal("1.5"), Decimal(f"{NS}.5")] * 1 + [Decimal("2.5")], pl.Decimal(38, 1),
         "row 2, column 'ts'"),
        ([timedelta(1)] * 3, pl.Duration("us"), "column 'ts' must hold times, numbers or dates"),
        ([True, False, True], pl.Boolean, "column 'ts' must hold times"),
        ([[1], [2], [3]], pl.List(pl.Int64), "column 'ts' must hold times"),
        ([None] * 3, pl.Null, "no row with a time"),
    ],
)  # fmt: skip
def test_a_time_that_is_none_is_refused(times: list[Any], dtype: Any, said: str, own: Own):
    near(own, times, "parquet", dtype)
    one_line(own, "log.parquet", said)


@pytest.mark.parametrize(
    ("times", "said"),
    [
        (["1", "inf", "2"], "log.csv, row 3, column 'ts': 'inf' is no time"),
        (["1", "2", "soon"], "log.csv, row 4, column 'ts': 'soon' is no time"),
        (["2024-05-01", "1700000000", "2024-05-02"], "log.csv, row 3, column 'ts': '1700000000'"),
        (["1.5", str(NS), "2"], f"log.csv, row 3, column 'ts': '{NS}' has more digits"),
        (["1", "2024-13-01", "2"], "log.csv, row 3, column 'ts': '2024-13-01' is no time"),
    ],
)
def test_the_row_of_the_odd_time_is_named(times: list[str], said: str, own: Own):
    near(own, times, "csv")
    one_line(own, said)


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_a_time_that_is_nan_is_missing(form: str, own: Own):
    near(own, [1.0, float("nan"), 3.0], form)
    assert own.read().stats["rows_without_time"] == 1


def test_whole_and_broken_times_of_several_files_are_told_apart_or_refused(own: Own):
    near(own, [1, 2, 3], "parquet", pl.Int64)
    log = own.tables["log"].with_columns(ts=pl.Series([0.5, 1.5, None]))
    log.write_parquet(own.path / "b.parquet")
    own.mapping["log"] = ["log.parquet", "b.parquet"]
    assert own.read("dataset.tables.early_before=1.25").stats["n_early_rows"] == 2
    near(own, [1, 2, NS], "parquet", pl.Int64)
    own.mapping["log"] = ["log.parquet", "b.parquet"]
    assert "whole numbers with more digits" in own.fault_again()


# ---- ids and other columns --------------------------------------------------------------


@pytest.mark.parametrize("dtype", [pl.UInt64, pl.Decimal(38, 0)])
def test_ids_beyond_int64_are_told_apart(dtype: Any, own: Own):
    first = 2**63 + 400
    for name in ("log", "users"):
        ids = pl.Series("user", [first + x for x in own.tables[name]["user"]], dtype=dtype)
        own.tables[name] = own.tables[name].with_columns(ids)
    own.write()
    data = own.read()
    assert data.users["user_id"].to_list() == [str(first + x) for x in (10, 20, 30, 40)]
    assert data.stats["without_features"]["users.parquet"] == 1


@pytest.mark.parametrize(
    ("ids", "dtype", "said"),
    [
        ([1.0, 2.5, 3.0], pl.Float64, "row 2, column 'user': 2.5 is no whole number"),
        ([1.0, float("nan"), 3.0], pl.Float64, "row 2, column 'user': nan is no whole number"),
        ([1.0, 2.0**60, 3.0], pl.Float64, "row 2, column 'user': 1.152921504606847e+18 is too"),
        ([1.0, 2.0**24, 3.0], pl.Float32, "row 2, column 'user': 16777216.0 is too large"),
        ([None] * 3, pl.Null, "row 1, column 'user': no id"),
        ([date(2024, 5, 1)] * 3, pl.Date, "column 'user' must hold ids, whole numbers or texts"),
        ([[1]] * 3, pl.List(pl.Int64), "column 'user' must hold ids"),
        ([b"a"] * 3, pl.Binary, "column 'user' must hold ids"),
    ],
)
def test_ids_that_are_none_are_refused(ids: list[Any], dtype: Any, said: str, own: Own):
    own.tables["log"] = own.tables["log"][:3].with_columns(pl.Series("user", ids, dtype=dtype))
    own.write()
    one_line(own, "log.parquet", said)


@pytest.mark.parametrize(
    ("column", "dtype"),
    [
        ("age", pl.Decimal(20, 2)),
        ("age", pl.Float32),
        ("country", pl.Categorical()),
        ("country", pl.Enum(["de", "fr", "xx"])),
        ("user", pl.Float64),
        ("user", pl.Decimal(20, 2)),
        ("user", pl.UInt8),
        ("size", pl.Int8),
    ],
)
def test_the_type_that_a_column_is_stored_as_changes_nothing(column: str, dtype: Any, own: Own):
    own.write()
    plain = own.read()
    own.tables["users"] = own.tables["users"].cast({column: dtype})
    own.write()
    assert_same(plain, own.read())


@pytest.mark.parametrize(
    ("value", "dtype"),
    [(timedelta(1), pl.Duration("us")), ([1.0], pl.List(pl.Float64)), (b"1", pl.Binary),
     (date(2024, 5, 1), pl.Date), ({"a": 1}, pl.Struct({"a": pl.Int64}))],
)  # fmt: skip
def test_a_label_must_be_a_number(value: Any, dtype: Any, own: Own):
    column = pl.Series("watched", [value] * own.tables["log"].height, dtype=dtype)
    own.tables["log"] = own.tables["log"].with_columns(column)
    own.write()
    one_line(own, "log.parquet: column 'watched' must hold numbers, not ", "convert it")


def test_a_number_beyond_float32_is_refused_and_not_made_missing(own: Own):
    own.tables["users"] = own.tables["users"].with_columns(age=pl.lit(1e39))
    own.write()
    one_line(own, "users.parquet, row 1, column 'age': 1e+39 is too large")


def test_a_parquet_file_with_two_columns_of_one_name_is_refused(own: Own):
    own.write()
    table = pq.read_table(own.path / "users.parquet")
    table = pa.Table.from_arrays([*table.columns, table["age"]], [*table.column_names, "age"])
    pq.write_table(table, own.path / "users.parquet")
    one_line(own, "users.parquet: cannot be read as Parquet", "age")


# ---- a log in parts -----------------------------------------------------------------------


@pytest.fixture
def parts(own: Own) -> Own:
    """The log in a folder of parts, as Spark and Hive leave it."""
    own.write()
    log = own.tables["log"]
    for i, day in enumerate(("2023-11-14", "2023-11-15")):
        folder = own.path / "views" / f"date={day}"
        folder.mkdir(parents=True)
        log[4 * i : 4 * i + 2].write_parquet(folder / "part-0.parquet")
        log[4 * i + 2 : 4 * i + 4].write_csv(folder / "part-1.csv")
        (folder / ".part-0.parquet.crc").write_bytes(b"crc")
    log.clear().write_parquet(own.path / "views" / "empty.parquet")
    (own.path / "views" / "_SUCCESS").touch()
    (own.path / "views" / "_temporary").mkdir()
    (own.path / "views" / "_temporary" / "x.parquet").write_bytes(b"half")
    return own


@pytest.mark.parametrize(
    "entries",
    [
        ["views"],
        ["views/"],
        ["views/*"],
        ["views/date=*", "views/empty.parquet"],
        ["views/*/*.parquet", "views/*/*.csv"],
        ["v*/**/*.parquet", "views/date=2023-11-1[45]/*.csv"],
    ],
)
def test_a_folder_of_parts_and_a_pattern_are_one_log(entries: list[str], parts: Own):
    parts.mapping["log"] = entries
    data = parts.read()
    assert rows_of(data) == ROWS
    assert sum(n for name, n in data.stats["files"].items() if "views" in name) == 8


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        (["views/*.csv"], "dataset.tables.log.0: "),
        (["views", "views/*/*.csv"], "part-1.csv belongs to an entry before it"),
        (["views/_temporary/y"], "no such file"),
        (["nothing"], "holds no .parquet or .csv file"),
    ],
)
def test_parts_that_are_not_there_or_twice_are_refused(entries: list[str], said: str, parts: Own):
    (parts.path / "nothing").mkdir()
    parts.mapping["log"] = entries
    one_line(parts, said, "dataset.tables.log.")


def test_a_folder_of_parts_that_cannot_be_listed_is_refused(
    parts: Own, monkeypatch: pytest.MonkeyPatch
):
    real = os.scandir

    def denied(path: Any) -> Any:
        if "date=2023-11-15" in str(path):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", denied)
    parts.mapping["log"] = ["views"]
    one_line(parts, "date=2023-11-15: cannot be listed: Permission denied")


def test_a_file_that_has_the_name_of_a_pattern_is_that_file(parts: Own):
    (parts.path / "log.parquet").rename(parts.path / "views" / "date=*")
    os.rename(parts.path / "views" / "date=*", parts.path / "v[i]ews.parquet")
    small_tables()["log"].clear().write_parquet(parts.path / "views.parquet")
    parts.mapping["log"] = ["v[i]ews.parquet"]
    assert rows_of(parts.read()) == ROWS


def test_a_key_in_the_path_is_no_column(parts: Own):
    parts.mapping |= {"log": ["views/date=2023-11-14/part-0.parquet"], "time": "date"}
    one_line(parts, "has no column 'date'", "date=... in its path is not read: make it a column")


def test_a_new_part_is_a_new_log(parts: Own):
    parts.mapping["log"] = ["views"]
    assert parts.read().log.n_rows == 7
    new = small_tables()["log"][:1].with_columns(ts=pl.lit(9999))
    new.write_parquet(parts.path / "views" / "new.parquet")
    assert parts.read().log.n_rows == 8


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
@pytest.mark.parametrize("entries", [["log.csv"], ["views"]])
def test_a_pipe_among_the_files_does_not_hang(entries: list[str], parts: Own):
    os.mkfifo(parts.path / "log.csv")
    os.mkfifo(parts.path / "views" / "p.csv")
    parts.mapping["log"] = entries
    one_line(parts, ".csv: a pipe, a device or a folder, not a file")


# ---- values that a loss cannot take ---------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "n", "least"),
    [([-20.0], 1, "-20"), ([-1.0] * 3, 3, "-1"), ([-1.0, -0.5, -5.0], 2, "-5")],
)
@pytest.mark.parametrize("loss", ["logMAE", "logMSE"])
def test_a_log_loss_refuses_values_without_a_logarithm_whoever_has_them(
    values: list[float], n: int, least: str, loss: str, own: Own, tmp_path: Path
):
    many_views(own)
    seen = own.tables["log"]["watched"].to_list()
    own.settings["labels"][0]["loss_function"] = loss
    for at in (0, 600):  # of users who train, and of those who are held out
        rows = [*seen[:at], *values, *seen[at + len(values) :]]
        own.tables["log"] = own.tables["log"].with_columns(watched=pl.Series(rows))
        own.write()
        own.mapping["lists"] = []
        with pytest.raises(InputError) as caught:
            set_up(load_config(own.settings), Warnings())
        said = f"labels.0.target = 'watched': {n} values of label watched are -1 or less, the least"
        assert str(caught.value).startswith(f"{said} {least}, so {loss}")
        assert "\n" not in str(caught.value)
    own.settings["labels"][0]["loss_function"] = "MSE"
    set_up(load_config(own.settings), Warnings())


def test_a_log_loss_takes_values_between_minus_one_and_zero_and_says_so(own: Own):
    many_views(own)
    small = pl.when(pl.col("ts") < 2).then(-0.5).otherwise("watched")
    own.tables["log"] = own.tables["log"].with_columns(watched=small)
    own.write()
    own.settings["labels"][0]["loss_function"] = "logMAE"
    warnings = Warnings()
    setup = set_up(load_config(own.settings), warnings)
    (said,) = (w["message"] for w in warnings if w["code"] == "values_below_zero")
    assert "2 values of watched are below 0, the least -0.5" in said
    assert np.isfinite(setup.labels[0].head.scale.mean)


def test_rows_without_an_early_part_are_warned_to_leak(own: Own):
    many_views(own)
    own.write()
    for setting, is_said in (("null", True), ("600", False)):
        config = load_config(own.settings, [f"dataset.tables.early_before={setting}"])
        warnings = Warnings()
        set_up(config, warnings)
        assert any(w["code"] == "pretrain_sees_later_rows" for w in warnings) == is_said
