"""One's own data: tables in two formats become the same data set; every fault is one line."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml
from kuairand_folder import whole
from polars.testing import assert_frame_equal

from realdataexp import cli
from realdataexp.config import Config, load_config
from realdataexp.data.log import DataSet
from realdataexp.errors import InputError, Warnings
from realdataexp.worlds import tables

Tables = dict[str, pl.DataFrame]


def small_tables() -> Tables:
    """3 users of the log's 4 have features, 4 videos of 5; 8 views, one of them twice."""
    return {
        "users": pl.DataFrame(
            {
                "user": [30, 10, 20, 99],
                "age": [31.5, None, 20.0, 1.0],
                "country": ["de", "fr", None, "xx"],
                "size": [1, 2, 3, 4],
            }
        ),
        "videos": pl.DataFrame(
            {
                "item": [1, 2, 3, 4],
                "length": [10, 20, 30, None],
                "kind": ["a,b", "b", None, "c"],
                "genres": [["x", "y"], ["y"], [], None],
                "year": [2020.0, 2021.0, None, 2020.0],
                "size": [5, 6, 7, 8],
            }
        ),
        "log": pl.DataFrame(
            {
                "user": [20, 10, 10, 30, 40, 10, 20, 10],
                "item": [1, 2, 1, 4, 5, 3, 2, 2],
                "ts": [700, 300, 100, 500, 400, 200, 600, 300],
                "watched": [1.5, 2.0, 0.0, None, 4.0, 5.0, 6.0, 2.0],
                "click": [True, False, True, False, None, True, True, False],
            }
        ),
    }


SETTINGS: dict[str, Any] = {
    "dataset": {
        "name": "tables",
        "tables": {"users": "users.parquet", "videos": "videos.parquet", "log": ["log.parquet"],
                   "user_id": "user", "video_id": "item", "time": "ts", "lists": ["kind"]},
    },
    "feature": {
        "numerical": ["age", "length", "video.size"],
        "categorical": ["country", "kind", "genres", "year", "user.size"],
    },
    "labels": [
        {"name": "watched", "target": "watched", "type": "numerical", "loss_function": "MSE",
         "model": "Linear", "alpha_T": 1.0, "alpha_C": 0.0},
        {"name": "click", "target": "click", "type": "binary", "loss_function": "BCE",
         "model": "Linear", "alpha_T": 0.0, "alpha_C": 1.0},
    ],
}  # fmt: skip


def imported(config: Config, cache: Path, warnings: Warnings, force: bool = False) -> DataSet:
    assert isinstance(config.dataset, tables.Tables)
    return config.dataset.data(config, cache, warnings, force)


class Own:
    """Tables on disk that a test can change, and their import."""

    def __init__(self, folder: Path) -> None:
        self.path, self.cache = folder / "mine", folder / "cache"
        self.path.mkdir()
        self.tables = small_tables()
        self.settings = copy.deepcopy(SETTINGS)
        self.mapping = self.settings["dataset"]["tables"]
        self.settings["dataset"] |= {"path": str(self.path), "cache_path": str(self.cache)}
        self.warnings = Warnings()

    def write(self, form: str = "parquet") -> None:
        """Write all tables, as Parquet or CSV; a list is a text with commas in CSV."""
        for name, frame in self.tables.items():
            file = f"{name}.{form}"
            if form == "parquet":
                frame.write_parquet(self.path / file)
            else:
                lists = [c for c in frame.columns if frame[c].dtype == pl.List]
                joined = frame.with_columns(pl.col(lists).list.join(",") if lists else [])
                joined.write_csv(self.path / file)
            self.mapping[name] = [file] if name == "log" else file
        if form == "csv":
            self.mapping["lists"] = ["kind", "genres"]

    def read(self, *overrides: str, force: bool = False) -> DataSet:
        self.warnings = Warnings()
        return imported(load_config(self.settings, overrides), self.cache, self.warnings, force)

    def codes(self) -> dict[str, str]:
        return {item["code"]: item["message"] for item in self.warnings}

    def fault(self, *overrides: str) -> str:
        fault = self.fault_again(*overrides)
        assert not self.cache.exists() or not list(self.cache.iterdir())
        return fault

    def fault_again(self, *overrides: str) -> str:
        """A fault where something was imported before."""
        with pytest.raises(InputError) as caught:
            self.read(*overrides)
        return str(caught.value)


@pytest.fixture
def own(tmp_path: Path) -> Own:
    return Own(tmp_path)


def videos_of(data: DataSet) -> pl.DataFrame:
    return whole(data.videos)


def rows_of(data: DataSet) -> list[tuple[Any, ...]]:
    """(user, video, early, watched, click) of every row in the table's order; -1 is missing."""
    rows, log = [], data.log
    videos = videos_of(data)["video_id"].to_list()
    for u, user in enumerate(data.users["user_id"].to_list()):
        for n in range(log.offset_U1[u], log.offset_U1[u + 1]):
            is_early = bool(n < log.offset_U1[u] + log.n_early_U[u])
            values = (float(np.nan_to_num(log.targets[t][n], nan=-1)) for t in ("watched", "click"))
            rows.append((user, videos[log.video_N[n]], is_early, *values))
    return rows


def assert_same(a: DataSet, b: DataSet) -> None:
    assert_frame_equal(a.users, b.users)
    assert_frame_equal(videos_of(a), videos_of(b))
    for name in ("offset_U1", "n_early_U", "video_N"):
        first, second = getattr(a.log, name), getattr(b.log, name)
        assert first.dtype == second.dtype
        assert np.array_equal(first, second)
    for name, values in a.log.targets.items():
        assert np.array_equal(values, b.log.targets[name], equal_nan=True)


ROWS = [
    (10, 1, False, 0.0, 1.0),
    (10, 3, False, 5.0, 1.0),
    (10, 2, False, 2.0, 0.0),
    (20, 2, False, 6.0, 1.0),
    (20, 1, False, 1.5, 1.0),
    (30, 4, False, -1.0, 0.0),
    (40, 5, False, 4.0, -1.0),
]

# ---- what becomes of the tables ---------------------------------------------------------------


@pytest.mark.parametrize("form", ["parquet", "csv"])
def test_rows_are_by_user_and_time_without_repeats(form: str, own: Own):
    own.write(form)
    data = own.read()
    assert rows_of(data) == ROWS
    assert data.version == "tables"
    assert data.log.offset_U1.dtype == np.int64
    assert data.log.video_N.dtype == np.int32
    assert data.log.targets["click"].dtype == np.float32


@pytest.mark.parametrize("form", ["parquet", "csv"])
def test_features_are_those_of_the_users_and_videos_of_the_log(form: str, own: Own):
    own.write(form)
    data = own.read()
    assert data.users.to_dict(as_series=False) == {
        "user_id": [10, 20, 30, 40],
        "age": [None, 20.0, 31.5, None],
        "country": ["fr", None, "de", None],
        "user.size": ["2", "3", "1", None],
    }
    assert videos_of(data).to_dict(as_series=False) == {
        "video_id": [1, 2, 3, 4, 5],
        "length": [10.0, 20.0, 30.0, None, None],
        "video.size": [5.0, 6.0, 7.0, 8.0, None],
        "kind": [["a", "b"], ["b"], None, ["c"], None],
        "genres": [["x", "y"], ["y"], None, None, None],
        "year": ["2020", "2021", None, "2020", None],
    }
    assert videos_of(data)["length"].dtype == pl.Float32


def test_both_formats_give_the_same_data_set(own: Own):
    own.write("parquet")
    parquet = own.read()
    own.write("csv")
    assert_same(parquet, own.read())


def test_a_log_in_several_files_of_both_formats_is_one_log(own: Own):
    own.write()
    whole = own.read()
    log = own.tables["log"]
    log[:3].write_csv(own.path / "a.csv")
    log[3:6].write_parquet(own.path / "b.parquet")
    log[6:].select(reversed(log.columns)).write_csv(own.path / "c.csv")
    own.mapping["log"] = ["c.csv", "a.csv", "b.parquet"]
    assert_same(whole, own.read())


def test_what_is_doubtful_is_counted_and_said(own: Own):
    own.tables["log"] = own.tables["log"].with_columns(ts=pl.when(pl.col("ts") != 600).then("ts"))
    own.write()
    stats = own.read().stats
    assert (stats["n_rows_read"], stats["n_rows"]) == (8, 6)
    assert (stats["duplicate_rows"], stats["rows_without_time"]) == (1, 1)
    assert (stats["n_users"], stats["n_videos"]) == (4, 5)
    assert stats["without_features"] == {"users.parquet": 1, "videos.parquet": 1}
    assert stats["targets"]["watched"] == {"mean": 2.5, "n_missing": 1}
    assert stats["features"]["age"] == {"n_missing": 2}
    assert set(own.codes()) == {
        "duplicate_rows",
        "rows_without_time",
        "empty_values",
        "users_without_features",
        "videos_without_features",
    }
    assert own.codes()["users_without_features"] == (
        "1 of 4 users in the log have no row in users.parquet; their features are missing"
    )
    own.read()  # from the cache
    assert len(own.codes()) == 5


def test_a_changed_file_or_mapping_is_imported_again(own: Own):
    own.write()
    first = own.read()
    assert own.read().fingerprint == first.fingerprint
    assert own.read("dataset.tables.early_before=350").fingerprint != first.fingerprint
    own.tables["users"] = own.tables["users"].with_columns(age=pl.lit(7.0))
    own.write()
    assert own.read().users["age"].to_list() == [7.0, 7.0, 7.0, None]
    assert_same(own.read(), own.read(force=True))


def test_a_damaged_cache_is_mended(own: Own):
    own.write()
    data = own.read()
    (own.cache / data.fingerprint / "users.parquet").write_bytes(b"")
    assert_same(data, own.read())
    assert "cache_damaged" in own.codes()


def test_users_need_no_table(own: Own):
    own.write()
    del own.mapping["users"]
    own.settings["feature"] = {"numerical": ["length", "size"]}
    own.mapping["lists"] = []
    data = own.read()
    assert data.users.columns == ["user_id"]
    assert rows_of(data) == ROWS


def test_ids_may_be_texts(own: Own):
    for name, column in (("users", "user"), ("log", "user"), ("videos", "item"), ("log", "item")):
        text = pl.format("k{}", column).alias(column)
        own.tables[name] = own.tables[name].with_columns(text)
    own.write()
    data = own.read()
    assert data.users["user_id"].to_list() == ["k10", "k20", "k30", "k40"]
    assert rows_of(data) == [(f"k{u}", f"k{v}", *rest) for u, v, *rest in ROWS]


def test_ids_that_are_numbers_in_one_file_and_texts_in_another_are_the_same(own: Own):
    own.tables["log"] = own.tables["log"].cast({"user": pl.Float64, "item": pl.String})
    own.tables["users"] = own.tables["users"].cast({"user": pl.String})
    own.write()
    assert rows_of(own.read()) == ROWS


def test_leading_zeros_belong_to_an_id(own: Own):
    for name in ("log", "users"):
        text = pl.format("0{}", "user").alias("user")
        own.tables[name] = own.tables[name].with_columns(text)
    own.write("csv")
    assert own.read().users["user_id"].to_list() == ["010", "020", "030", "040"]


# ---- times ------------------------------------------------------------------------------------


def as_dates(own: Own) -> None:
    """Hundreds in the times become days of May."""
    day = pl.col("ts") // 100
    own.tables["log"] = own.tables["log"].with_columns(ts=pl.datetime(2024, 5, day, 12))


@pytest.mark.parametrize(
    ("dates", "bound", "form"),
    [
        (False, "350", "parquet"),
        (False, "350.5", "csv"),
        (True, "2024-05-04", "parquet"),
        (True, "2024-05-04 11:59:59.5", "csv"),
        (True, "'2024-05-04T12:00:00+00:30'", "csv"),
    ],
)
def test_the_rows_before_a_time_are_the_early_log(dates: bool, bound: str, form: str, own: Own):
    if dates:
        as_dates(own)
    own.write(form)
    data = own.read(f"dataset.tables.early_before={bound}")
    assert rows_of(data) == [(u, v, u == 10, *rest) for u, v, _, *rest in ROWS]
    assert data.stats["n_early_rows"] == 3


@pytest.mark.parametrize("form", ["%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M:%S%.f", "%+"])
def test_dates_as_texts_are_those_of_the_calendar(form: str, own: Own):
    as_dates(own)
    own.write()
    dates = own.read()
    zoned = own.tables["log"].with_columns(pl.col("ts").dt.replace_time_zone("UTC"))
    own.tables["log"] = zoned.with_columns(pl.col("ts").dt.to_string(form))
    own.write()
    assert_same(dates, own.read())


def test_a_config_with_a_date_is_written_and_read_again(own: Own):
    own.settings["dataset"]["tables"]["early_before"] = datetime(2024, 5, 4, tzinfo=UTC)
    config = load_config(own.settings)
    assert config.dataset.tables.early_before == "2024-05-04T00:00:00+00:00"
    assert load_config(yaml.safe_load(config.to_yaml())) == config


# ---- faults -----------------------------------------------------------------------------------


def with_cell(table: str, column: str, row: int, value: Any) -> Callable[[Own], None]:
    """Put a value into a table; the column becomes one of texts where it must."""

    def change(own: Own) -> None:
        values = own.tables[table][column].to_list()
        values[row] = value
        if isinstance(value, str):
            values = [None if v is None else str(v) for v in values]
        own.tables[table] = own.tables[table].with_columns(pl.Series(column, values))

    return change


def renamed(table: str, old: str, new: str) -> Callable[[Own], None]:
    def change(own: Own) -> None:
        own.tables[table] = own.tables[table].rename({old: new})

    return change


@pytest.mark.parametrize("form", ["parquet", "csv"])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (renamed("users", "user", "uid"), ["dataset.tables.users: ", "has no column 'user'"]),
        (renamed("videos", "item", "itm"), ["dataset.tables.videos: ", "nearest: 'itm'"]),
        (renamed("log", "user", "usr"), ["dataset.tables.log.0: ", "nearest: 'usr'"]),
        (renamed("log", "ts", "when"), ["dataset.tables.log.0: ", "has no column 'ts'"]),
        (renamed("log", "click", "clik"), ["labels.1.target = 'click': ", "nearest: 'clik'"]),
        (renamed("users", "age", "years"), ["feature.numerical.0 = 'age': no such column in"]),
        (renamed("users", "size", "length"), ["feature.numerical.1 = 'length': users and videos "
                                             "both have it; write user.length or video.length",
                                             "feature.categorical.4 = 'user.size': no such"]),
        (with_cell("users", "age", 2, "old"), ["users.", "column 'age': 'old' is not a number"]),
        (with_cell("log", "watched", 0, "long"), ["'watched': 'long' is not a number"]),
        (with_cell("log", "user", 3, None), ["log.", "column 'user': no id; add one"]),
        (with_cell("users", "user", 3, None), ["users.", "column 'user': no id; add one"]),
        (with_cell("users", "user", 3, 10), ["users.", "user 10 has more than one row (1 such)"]),
        (with_cell("videos", "item", 0, 2), ["videos.", "item 2 has more than one row (1 such)"]),
        (with_cell("log", "ts", 0, "soon"), ["log.", "'ts': '", "is no time; write all as"]),
        (lambda own: own.tables.update(log=own.tables["log"].clear()), ["the log has no rows"]),
        (lambda own: own.tables.update(users=own.tables["users"].clear()),
         ["users.", "the table has no rows"]),
        (lambda own: own.tables.update(users=own.tables["users"][3:]),
         ["has no user of the log's (the log has 10, the table [99])"]),
    ],
)  # fmt: skip
def test_a_fault_of_the_tables_is_a_line_that_names_the_place(
    change: Callable[[Own], None], said: list[str], form: str, own: Own
):
    change(own)
    own.write(form)
    fault = own.fault()
    assert fault.count("\n") == max(0, sum("feature." in text for text in said) - 1), fault
    assert [text for text in said if text not in fault] == [], fault


@pytest.mark.parametrize(("form", "row"), [("parquet", 3), ("csv", 4)])
def test_a_wrong_cell_is_named_by_its_row(form: str, row: int, own: Own):
    with_cell("users", "age", 2, "old")(own)
    own.write(form)
    assert f"users.{form}, row {row}, column 'age'" in own.fault()


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("dataset.path=nowhere", "dataset.path = 'nowhere': no such folder"),
        ("dataset.tables.users=user.parquet", "dataset.tables.users: "),
        ("dataset.tables.videos=videos.txt", "must be a .parquet or .csv file"),
        ("dataset.tables.log=[lg.csv]", "no such file; there is: log.parquet, users.parquet"),
        ("dataset.tables.time=when", "has no column 'when'"),
        ("dataset.tables.user_id=item", 'dataset.tables.video_id = "item": is user_id too'),
        ("dataset.tables.time=user", 'dataset.tables.time = "user": is user_id too'),
        ("feature.numerical=[genres]", "column 'genres' must hold numbers, not List"),
        ("feature.numerical=[country]", "column 'country': 'de' is not a number"),
        ("feature.numerical=[size]", "users and videos both have it; write user.size or video.s"),
        ("feature.numerical=[item]", "feature.numerical.0 = 'item': is the id, not a feature"),
        ("feature.numerical=[video.age]", "feature.numerical.0 = 'video.age': no such column"),
        ("dataset.tables.lists=[genre]", "not in feature.categorical; nearest: 'genres'"),
        ("dataset.tables.early_before=50", "0 of 7 rows are earlier; the times go from 100 to 700"),
        ("dataset.tables.early_before=900", "7 of 7 rows are earlier"),
        ("dataset.tables.early_before=2024-05-04", "the log's times are numbers; use a number"),
        ("labels.0.target=clck", "labels.0.target = 'clck': "),
    ],
)
def test_a_wrong_setting_is_one_line(setting: str, said: str, own: Own):
    own.write()
    own.mapping["lists"] = []
    if "numerical" in setting:
        own.settings["feature"]["categorical"] = ["year"]
    fault = own.fault(setting)
    assert said in fault
    assert "\n" not in fault


@pytest.mark.parametrize(
    ("bound", "said"),
    [("5", "the log's times are dates; use an ISO date and time"), ("soon", "use an ISO date"),
     ("2023-01-01", "0 of 7 rows are earlier; the times go from 2024-05-01 12:00:00 to")],
)  # fmt: skip
def test_a_wrong_bound_among_dates_is_one_line(bound: str, said: str, own: Own):
    as_dates(own)
    own.write()
    assert said in own.fault(f"dataset.tables.early_before={bound}")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (
            b"user,age,country,size\n1,2,3,4,5\n",
            "users.csv, row 2: 5 fields where the header has 4",
        ),
        (b"user,age,age,country,size\n1,2,3,4,5\n", "has two columns age"),
        (b"user,age,country,size\n1,2,\xff,4\n", "users.csv, row 2: byte 0xff is not UTF-8"),
    ],
)
def test_a_broken_csv_file_is_one_line(content: bytes, said: str, own: Own):
    own.write()
    (own.path / "users.csv").write_bytes(content)
    own.mapping["users"] = "users.csv"
    fault = own.fault()
    assert said in fault
    assert "\n" not in fault


def test_a_broken_parquet_file_is_one_line(own: Own):
    own.write()
    (own.path / "log.parquet").write_bytes(b"PAR1")
    assert "log.parquet: cannot be read as Parquet" in own.fault()


def test_times_of_two_kinds_are_refused(own: Own):
    own.write()
    as_dates(own)
    own.tables["log"].write_parquet(own.path / "b.parquet")
    own.mapping["log"] = ["log.parquet", "b.parquet"]
    assert "column 'ts' holds dates, that of" in own.fault()


def test_blank_lines_are_no_rows(own: Own):
    own.write("csv")
    path = own.path / "log.csv"
    path.write_text(path.read_text().replace("\n", "\n\n"))
    assert rows_of(own.read()) == ROWS


def test_empty_and_endless_cells_are_missing(own: Own):
    own.write("csv")
    (own.path / "users.csv").write_text(
        'user,age,country,size\n10, inf," ",1\n20,nan,"",2.0\n30, 4 , de ,\n'
    )
    users = own.read().users
    assert users["age"].to_list() == [None, None, 4.0, None]
    assert users["country"].to_list() == [None, None, "de", None]
    assert users["user.size"].to_list() == ["1", "2", None, None]


def test_a_plain_category_named_tag_stays_whole(own: Own):
    renamed("videos", "kind", "tag")(own)
    own.write()
    own.mapping["lists"] = []
    own.settings["feature"]["categorical"] = ["tag"]
    assert videos_of(own.read())["tag"].to_list() == [["a,b"], ["b"], None, ["c"], None]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tables": None}, "dataset.tables = null: missing: name the files"),
        ({"name": "KuaiRand-Pure"}, "dataset.tables: has no effect on the data set KuaiRand-Pure"),
        ({"leakage": "forbid"}, "knows KuaiRand's statistics only"),
        ({"tables": {"videos": "v.csv"}}, "dataset.tables.log: missing"),
        ({"tables": {"log": ["a.csv"]}}, "dataset.tables.videos: missing"),
        ({"tables": {"log": [], "videos": "v.csv"}}, "dataset.tables.log = []"),
        ({"tables": {"log": ["a", "a"], "videos": "v"}}, "each name once: remove the second a"),
        ({"tables": {"log": ["a"], "videos": "v", "item_id": "x"}}, "did you mean video_id"),
    ],
)
def test_a_wrong_mapping_is_refused(changes: dict[str, Any], said: str):
    settings = copy.deepcopy(SETTINGS)
    settings["dataset"] |= changes
    with pytest.raises(InputError) as caught:
        load_config(settings)
    assert said in str(caught.value)


# ---- a run ------------------------------------------------------------------------------------


def many_views(own: Own) -> None:
    """Enough views for a run, and settings of a small one."""
    rng = np.random.default_rng(0)
    users, videos = np.arange(40), np.arange(30)
    own.tables = {
        "users": pl.DataFrame({"user": users, "age": rng.integers(18, 80, 40)}),
        "videos": pl.DataFrame(
            {"item": videos, "length": rng.exponential(30, 30),
             "genres": [[str(g) for g in rng.integers(0, 5, 1 + i % 3)] for i in range(30)]}
        ),
        "log": pl.DataFrame(
            {"user": rng.choice(users, 1200), "item": rng.choice(videos, 1200),
             "ts": np.arange(1200), "watched": rng.exponential(10, 1200),
             "click": rng.integers(0, 2, 1200)}
        ),
    }  # fmt: skip
    own.mapping["lists"] = []
    own.settings |= {
        "feature": {"numerical": ["age", "length"], "categorical": ["genres"]},
        "simulation": {"n_steps": 4, "batch_size": 8, "n_candidate": 4, "validate_every": 2},
        "experiment": {"replications": 2, "designs": ["pooling"]},
    }


@pytest.mark.parametrize("form", ["parquet", "csv"])
def test_a_run_replays_ones_own_data(form: str, own: Own, tmp_path: Path):
    from realdataexp.api import run

    many_views(own)
    own.write(form)
    if form == "csv":
        own.mapping["lists"] = ["genres"]
    result = run(own.settings, out=tmp_path / "run")
    assert result.comparison["design"].unique().to_list() == ["pooling"]
    assert result.summary["dataset_stats"]["n_rows"] == 1200


def test_a_run_needs_neither_users_nor_a_second_outcome(own: Own, tmp_path: Path):
    from realdataexp.api import run

    many_views(own)
    own.write()
    del own.mapping["users"]
    own.settings["feature"] = {"categorical": ["genres"]}
    own.settings["labels"] = [{**own.settings["labels"][1], "alpha_T": 1.0, "alpha_C": 0.0}]
    result = run(own.settings, out=tmp_path / "run")
    assert result.comparison["design"].to_list() == ["pooling"]


def test_the_commands_take_ones_own_data(
    own: Own, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    many_views(own)
    own.write()
    config = tmp_path / "own.yaml"
    config.write_text(yaml.safe_dump(own.settings))
    assert cli.main(["validate", str(config)]) == 0
    assert cli.main(["prepare", str(own.path), "-c", str(config), "--cache", str(own.cache)]) == 0
    assert "1,200" in capsys.readouterr().out
    for args in (["validate", str(config)], ["prepare", str(own.path), "-c", str(config)]):
        (own.path / "users.parquet").unlink(missing_ok=True)
        assert cli.main(args) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1
        assert "dataset.tables.users: " in err
    assert cli.main(["prepare", str(own.path), "-c", str(config), "--logs", "random"]) == 2


# ---- the page about it ------------------------------------------------------------------------

PAGE = (Path(__file__).parents[2] / "docs" / "own-data.md").read_text(encoding="utf-8")
(EXAMPLE,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)


def test_the_first_example_of_the_page_is_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    folder = Path("data/mine")
    folder.mkdir(parents=True)
    dates = [datetime(2024, 5, day) for day in (3, 5)]
    log = pl.DataFrame(
        {"user": [1, 2], "item": [1, 1], "ts": dates, "seconds": [1, 2], "clicked": [0, 1]}
    )
    log.write_parquet(folder / "log_a.parquet")
    log.with_columns(pl.col("ts").dt.to_string("%Y-%m-%d"), user=3).write_csv(folder / "log_b.csv")
    items = {"item": [1], "length": [2], "genres": [["a", "b"]], "size": ["big"]}
    pl.DataFrame(items).write_parquet(folder / "items.parquet")
    users = {"user": [1, 2, 3], "age": [1, 2, 3], "country": ["x", "y", "z"], "size": [1, 2, 3]}
    pl.DataFrame(users).write_csv(folder / "users.csv")
    data = imported(load_config(yaml.safe_load(EXAMPLE)), tmp_path / "cache", Warnings())
    assert (data.log.n_rows, data.stats["n_early_rows"]) == (4, 2)
