"""Columns that are derived from a log: the rule, row by row, and who may read them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from realdataexp.config import load_config
from realdataexp.data import derived
from realdataexp.data.derived import with_derived
from realdataexp.data.log import DataSet, LogTable
from realdataexp.data.parquet import StoredTable, write_parquet
from realdataexp.errors import InputError, Warnings
from realdataexp.runs.setup import set_up

CASES = [  # y, x, y / x, the same cut to 2, y >= x, y >= min(x, 18)
    (9.0, 3.0, 3.0, 2.0, 1.0, 1.0),
    (18.0, 60.0, 0.3, 0.3, 0.0, 1.0),
    (17.0, 60.0, 17 / 60, 17 / 60, 0.0, 0.0),
    (0.0, 5.0, 0.0, 0.0, 0.0, 0.0),
    (5.0, 5.0, 1.0, 1.0, 1.0, 1.0),
    *((y, x, *[np.nan] * 4) for y, x in [(4.0, 0.0), (np.nan, 3.0), (3.0, np.nan), (1.0, -2.0)]),
]
RULES = [("quotient", None), ("quotient", 2.0), ("reached", None), ("reached", 18.0)]


def log_of(y: list[float], x: list[float], videos: StoredTable | None = None) -> DataSet:
    n, nothing = len(y), np.zeros(1, dtype=np.int64)
    columns = {"y": np.array(y, np.float32), "x": np.array(x, np.float32)}
    log = LogTable(np.array([0, n]), nothing, np.zeros(n, np.int32), columns)
    return DataSet("tables", "test", log, None, videos, {"targets": {"y": {"mean": 1.0}}})  # type: ignore[arg-type]


@pytest.mark.parametrize("is_stored", [False, True])
def test_each_row_follows_the_rule_and_unknown_ones_are_missing(
    is_stored: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(derived, "_BLOCK_ROWS", 4)
    write_parquet(tmp_path / "videos.parquet", pl.DataFrame({"video_id": [0]}))
    videos = StoredTable(tmp_path / "videos.parquet") if is_stored else None
    y, x, *expected = (list(column) for column in zip(*CASES, strict=True))
    asked = [(f"c{i}", rule, ("y", "x"), bound) for i, (rule, bound) in enumerate(RULES)]
    found = with_derived(log_of(y, x, videos), asked)
    for i, column in enumerate(expected):
        wanted = np.array(column, np.float32)
        np.testing.assert_array_equal(found.log.targets[f"c{i}"], wanted)
        said = found.stats["targets"][f"c{i}"]
        assert said["mean"] == pytest.approx(np.nanmean(wanted)) and said["n_missing"] == 4
    assert found.stats["targets"]["y"] == {"mean": 1.0}


def test_nothing_that_is_asked_changes_nothing():
    data = log_of([1.0], [2.0])
    assert with_derived(data, []) is data


SMALL = [
    "dataset.synthetic.users=60", "dataset.synthetic.videos=40", "dataset.synthetic.rows=2000",
    "experiment.replications=2", "experiment.starts=1", "experiment.designs=[pooling]",
]  # fmt: skip
LONG_VIEW = "{name: long, reached: [play_time_ms, duration_ms], at_most: 18000}"


def test_the_log_s_own_long_view_is_play_time_against_duration_and_18_seconds():
    config = load_config("demo", [*SMALL, f"derived=[{LONG_VIEW}]",
        "outcomes=[click, long, {name: logged, target: long_view}]"])  # fmt: skip
    environment = set_up(config, Warnings()).environment
    ours, theirs = (next(iter(environment.label_values(x))) for x in ("long", "long_view"))
    play, length = (
        next(iter(environment.label_values(x))) for x in ("play_time_ms", "duration_ms")
    )
    is_known = length > 0  # a duration of 0 is unknown: of such rows the log's own column says more
    assert ours.tolist() == theirs[is_known].tolist() and 0 < ours.mean() < 1
    assert 500 < len(ours) < len(play) == len(theirs)


def test_a_label_may_learn_a_derived_column():
    changes = [f"derived=[{LONG_VIEW}]", "labels.1.target=long", "labels.1.name=long"]
    config = load_config("demo", [*SMALL, *changes])
    assert list(config.measured) == ["play_time", "long"]
    assert {*config.targets} == {"play_time_ms", "duration_ms"}
    setup = set_up(config, Warnings())
    assert setup.labels[1].head.scale.unit_sd == pytest.approx(
        next(iter(setup.environment.label_values("long"))).std()
    )


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("derived=[{name: a, quotient: [x, y], reached: [x, y]}]", "derived.0: must have one of"),
        ("derived=[{name: a}]", "derived.0: must have one of"),
        ("derived=[{name: a, quotient: [x, x]}]", "names x twice"),
        ("derived=[{name: a, quotient: [x, y]}, {name: b, reached: [a, y]}]", "derived itself"),
        ("derived=[{name: a, quotient: [x, y]}, {name: A, reached: [x, y]}]", "more than once"),
        ("derived=[{name: a, quotient: [x, y], at_most: 0}]", "derived.0.at_most"),
        ("derived=[{name: click, quotient: [x, y]}]", "outcomes = null: the name click stands"),
        ("derived=[{name: click_relative, quotient: [x, y]}]", "click_relative: results call"),
        ("outcomes=[{name: r, ratio: [click, is_click]}]", "both are is_click"),
        ("outcomes=[{name: r, ratio: [click, click]}]", "names click twice"),
        ("outcomes=[{name: r, ratio: [a, b]}]", "are ratios alone"),
        ("outcomes=[click, {name: play_time, ratio: [click, b]}]", "give the ratio another name"),
        ("outcomes=[{name: r, target: is_click, ratio: [a, b]}]", "stands next to a target"),
        ("outcomes=[click, {name: r, ratio: [a, b]}, {name: s, ratio: [a, b]}]", "the ratio a / b"),
    ],
)
def test_what_cannot_be_derived_is_one_line(override: str, said: str):
    with pytest.raises(InputError) as caught:
        load_config("demo", [override])
    (line,) = str(caught.value).splitlines()
    assert said in line


def test_a_derived_column_that_nothing_reads_is_refused():
    with pytest.raises(InputError, match="derived column long is neither a label's target"):
        load_config("demo", [f"derived=[{LONG_VIEW}]", "outcomes=[click]"])


def test_a_world_without_a_log_derives_nothing():
    with pytest.raises(InputError, match="has no effect in the world si2023"):
        load_config("si2023", ["derived=[{name: a, quotient: [stay_time, finish]}]"])


@pytest.mark.parametrize(
    ("derived", "said"),
    [
        ("{name: long_view, reached: [play_time_ms, duration_ms]}", "the logs have a column of"),
        ("{name: a, reached: [play_time, duration_ms]}", "derived.0.reached.0 = 'play_time'"),
    ],
)
def test_columns_must_be_in_the_logs_and_names_must_not(derived: str, said: str):
    with pytest.raises(InputError, match=said):
        set_up(load_config("demo", [f"derived=[{derived}]"]), Warnings())
