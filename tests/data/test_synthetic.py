"""The synthetic data have KuaiRand's layout, its statistics, and a taste that can be learned."""

from __future__ import annotations

import csv
import errno
import os
from collections import namedtuple
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from kuairand_folder import whole

from realdataexp.data import schema, synthetic, synthetic_world
from realdataexp.data.kuairand import ImportRequest, prepare
from realdataexp.data.synthetic import (
    SyntheticConfig,
    SyntheticTables,
    write_synthetic,
)
from realdataexp.errors import DiskError, InputError, Warnings
from realdataexp.options import check

REAL = Path(__file__).parents[3] / "shared/data/KuaiRand-Pure/data"
EARLY, LATE, RANDOM = (
    f"{name}_pure.csv"
    for name in (
        "log_standard_4_08_to_4_21",
        "log_standard_4_22_to_5_08",
        "log_random_4_22_to_5_08",
    )
)
LOG_COLUMNS = (
    "user_id,video_id,date,hourmin,time_ms,is_click,is_like,is_follow,is_comment,is_forward,"
    "is_hate,long_view,play_time_ms,duration_ms,profile_stay_time,comment_stay_time,"
    "is_profile_enter,is_rand,tab"
)
HEADERS = {
    EARLY: LOG_COLUMNS,
    LATE: LOG_COLUMNS,
    RANDOM: LOG_COLUMNS,
    "user_features_pure.csv": (
        "user_id,user_active_degree,is_lowactive_period,is_live_streamer,is_video_author,"
        "follow_user_num,follow_user_num_range,fans_user_num,fans_user_num_range,friend_user_num,"
        "friend_user_num_range,register_days,register_days_range,"
        + ",".join(f"onehot_feat{i}" for i in range(18))
    ),
    "video_features_basic_pure.csv": (
        "video_id,author_id,video_type,upload_dt,upload_type,visible_status,video_duration,"
        "server_width,server_height,music_id,music_type,tag"
    ),
    "video_features_statistic_pure.csv": (
        "video_id,counts,show_cnt,show_user_num,play_cnt,play_user_num,play_duration,"
        "complete_play_cnt,complete_play_user_num,valid_play_cnt,valid_play_user_num,"
        "long_time_play_cnt,long_time_play_user_num,short_time_play_cnt,short_time_play_user_num,"
        "play_progress,comment_stay_duration,like_cnt,like_user_num,click_like_cnt,"
        "double_click_cnt,cancel_like_cnt,cancel_like_user_num,comment_cnt,comment_user_num,"
        "direct_comment_cnt,reply_comment_cnt,delete_comment_cnt,delete_comment_user_num,"
        "comment_like_cnt,comment_like_user_num,follow_cnt,follow_user_num,cancel_follow_cnt,"
        "cancel_follow_user_num,share_cnt,share_user_num,download_cnt,download_user_num,"
        "report_cnt,report_user_num,reduce_similar_cnt,reduce_similar_user_num,collect_cnt,"
        "collect_user_num,cancel_collect_cnt,cancel_collect_user_num,direct_comment_user_num,"
        "reply_comment_user_num,share_all_cnt,share_all_user_num,outsite_share_all_cnt"
    ),
}
USERS, VIDEOS, ROWS = 2_080, 3_000, 200_000  # Pure's 96 rows a user, 53 of them standard


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("synthetic") / "Pure"
    counts = write_synthetic(
        directory, SyntheticConfig(users=USERS, videos=VIDEOS, rows=ROWS, seed=1)
    )
    assert (counts["users"], counts["videos"], counts["rows"]) == (USERS, VIDEOS, ROWS)
    return directory / "data"


@pytest.fixture(scope="module")
def standard(folder: Path) -> pl.DataFrame:
    return pl.concat([pl.read_csv(folder / EARLY), pl.read_csv(folder / LATE)])


@pytest.fixture(scope="module")
def random_log(folder: Path) -> pl.DataFrame:
    return pl.read_csv(folder / RANDOM)


def read_features(folder: Path, name: str) -> pl.DataFrame:
    return pl.read_csv(folder / f"{name}_pure.csv", infer_schema_length=None)


# ---------------------------------------------------------------- files


def file_bytes(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((directory / "data").iterdir())}


def test_same_seed_same_bytes_and_another_seed_other_bytes(tmp_path: Path) -> None:
    size = {"users": 50, "videos": 40, "rows": 3_000}
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        write_synthetic(tmp_path / name, SyntheticConfig(seed=seed, **size))
    a, b, c = (file_bytes(tmp_path / name) for name in "abc")
    assert a == b
    assert set(a) == set(HEADERS)
    assert all(a[name] != c[name] for name in HEADERS)


def test_global_random_state_is_neither_read_nor_moved(tmp_path: Path) -> None:
    size = {"users": 20, "videos": 30, "rows": 500}
    np.random.seed(1)
    before = np.random.get_state()[1].tolist()
    write_synthetic(tmp_path / "a", SyntheticConfig(**size))
    assert np.random.get_state()[1].tolist() == before
    np.random.seed(2)
    write_synthetic(tmp_path / "b", SyntheticConfig(**size))
    assert file_bytes(tmp_path / "a") == file_bytes(tmp_path / "b")


@pytest.mark.parametrize("name", HEADERS)
def test_header_is_the_published_one(folder: Path, name: str) -> None:
    with (folder / name).open(newline="") as file:
        assert file.readline() == HEADERS[name] + "\n"


def test_rows_of_each_file_are_the_counts(folder: Path) -> None:
    rows = {name: (folder / name).read_bytes().count(b"\n") - 1 for name in HEADERS}
    assert rows[EARLY] + rows[LATE] + rows[RANDOM] == ROWS
    assert rows[EARLY] == round(ROWS * 1_141_112 / 2_622_668)
    assert rows[LATE] == round(ROWS * 295_497 / 2_622_668)
    assert rows["user_features_pure.csv"] == USERS
    assert rows["video_features_basic_pure.csv"] == VIDEOS
    assert rows["video_features_statistic_pure.csv"] == VIDEOS


def field_kind(text: str) -> str:
    """How a field is written: whole, whole with ".0", decimal, word, empty."""
    if text == "":
        return "empty"
    try:
        float(text)
    except ValueError:
        return "word with a comma" if "," in text else "word"
    return "whole" if "." not in text else "whole.0" if text.endswith(".0") else "decimal"


def kinds_of(path: Path, rows: int = 6_000) -> dict[str, set[str]]:
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        kinds: dict[str, set[str]] = {name: set() for name in reader.fieldnames or []}
        for _, row in zip(range(rows), reader, strict=False):
            for name, text in row.items():
                kinds[name].add(field_kind(text))
    return kinds


@pytest.mark.parametrize("name", [name for name in HEADERS if name not in (EARLY, RANDOM)])
def test_layout_is_that_of_the_real_file(folder: Path, name: str) -> None:
    if not (REAL / name).exists():
        pytest.skip(f"the real rows are not at {REAL}")
    real, ours = kinds_of(REAL / name), kinds_of(folder / name)
    assert list(ours) == list(real)
    # a field kind that the real column lacks would be read as another type
    assert not {name: ours[name] - real[name] for name in real if ours[name] - real[name]}


def test_fields_are_quoted_only_where_they_hold_a_comma(folder: Path) -> None:
    text = (folder / "user_features_pure.csv").read_text()
    assert ',"(250,500]",' in text and ",500+," in text and ',"[100,1k)",' in text
    basic = (folder / "video_features_basic_pure.csv").read_text().splitlines()[1:]
    assert all(line.endswith('"') == (line.count('"') == 2) for line in basic)
    assert {line.count('"') for line in basic} == {0, 2}
    assert b'"' not in (folder / LATE).read_bytes()


def test_27k_is_sharded_as_published(tmp_path: Path) -> None:
    counts = write_synthetic(
        tmp_path / "27k", SyntheticConfig(version="27k", users=30, videos=100, rows=4_001)
    )
    names = {path.name for path in (tmp_path / "27k/data").iterdir()}
    logs = [f"log_standard_{p}_27k_part{i}.csv" for p in ("4_08_to_4_21", "4_22_to_5_08")
            for i in (1, 2)]  # fmt: skip
    statistics = [f"video_features_statistic_27k_part{i}.csv" for i in (1, 2, 3)]
    assert names == {*logs, *statistics, "log_random_4_22_to_5_08_27k.csv",
                     "user_features_27k.csv", "video_features_basic_27k.csv"}  # fmt: skip
    parts = [pl.read_csv(tmp_path / "27k/data" / name) for name in logs[:2]]
    assert sum(part.height for part in parts) == counts["log_standard_4_08_to_4_21"]
    assert abs(parts[0].height - parts[1].height) <= 1
    ids = [pl.read_csv(tmp_path / "27k/data" / name)["video_id"] for name in statistics]
    assert pl.concat(ids).to_list() == list(range(100))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"version": "2k"}, 'version = "2k": must be one of pure, 1k or 27k'),
        ({"users": 0}, "users = 0: must be at least 1"),
        ({"videos": -3}, "videos = -3: must be at least 1"),
        ({"rows": 0}, "rows = 0: must be at least 1"),
        ({"seed": -1}, "seed = -1: must be at least 0"),
        ({"users": 10, "rows": 9}, "rows = 9: must be at least users = 10: ask for more or for"),
        ({"users": 200_000}, "rows = 120000: must be at least users = 200000"),
    ],
)
def test_a_wrong_size_names_the_value_and_the_bound(
    arguments: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError) as error:
        check(SyntheticConfig, arguments, "synth")
    assert f"synth: {message}" in str(error.value)


def test_a_directory_with_files_is_refused_and_an_empty_one_is_used(tmp_path: Path) -> None:
    target = tmp_path / "x"
    target.mkdir()
    write_synthetic(target, SyntheticConfig(users=1, videos=1, rows=1))
    before = file_bytes(target)
    with pytest.raises(InputError, match="not an empty directory"):
        write_synthetic(target, SyntheticConfig(users=1, videos=1, rows=1, seed=5))
    assert file_bytes(target) == before


def test_a_full_disk_is_said_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(synthetic.os, "fsync", full)
    with pytest.raises(DiskError, match=r"no space left on the device; .* fewer rows"):
        write_synthetic(tmp_path / "x", SyntheticConfig(users=5, videos=5, rows=50))
    assert list(tmp_path.iterdir()) == []


def test_a_block_holds_no_more_than_its_rows_or_one_user() -> None:
    counts = np.random.default_rng(0).geometric(1e-5, size=(3, 400))
    blocks = list(synthetic._user_blocks(counts))
    assert [first for first, _ in blocks[1:]] == [last for _, last in blocks[:-1]]
    assert (blocks[0][0], blocks[-1][1]) == (0, 400)
    for first, last in blocks:
        rows = counts[:, first:last].sum()
        assert rows <= synthetic.BLOCK_ROWS or last - first == 1


# ------------------------------------------------------- calibration, against the real rows


def tab1(log: pl.DataFrame) -> pl.DataFrame:
    return log.filter(pl.col("tab") == 1).with_columns(
        log_play=pl.col("play_time_ms").log1p(), click=pl.col("is_click").cast(pl.Float64)
    )


def between_sd(log: pl.DataFrame, group: str, value: str) -> float:
    """Standard deviation of a group's true means (one-way random effects, ANOVA estimator)."""
    groups = log.group_by(group).agg(
        pl.len().alias("n"), pl.col(value).mean().alias("mean"), pl.col(value).var().alias("var")
    )
    n, mean, var = groups.filter(pl.col("n") > 1).select("n", "mean", "var").to_numpy().T
    within = ((n - 1) * var).sum() / (n - 1).sum()
    grand = (n * mean).sum() / n.sum()
    between = (n * (mean - grand) ** 2).sum() / (len(n) - 1)
    n0 = (n.sum() - (n**2).sum() / n.sum()) / (len(n) - 1)
    return float(np.sqrt(max(0.0, (between - within) / n0)))


STANDARD = {  # name: (expression, real value, relative tolerance)
    "click": (pl.col("is_click").mean(), 0.4419, 0.08),
    "long view": (pl.col("long_view").mean(), 0.3108, 0.10),
    "like": (pl.col("is_like").mean(), 0.01715, 0.25),
    "follow": (pl.col("is_follow").mean(), 0.00133, 0.35),
    "comment": (pl.col("is_comment").mean(), 0.00254, 0.35),
    "forward": (pl.col("is_forward").mean(), 0.00085, 0.4),
    "hate": (pl.col("is_hate").mean(), 0.00083, 0.4),
    "profile enter": (pl.col("is_profile_enter").mean(), 0.0185, 0.25),
    "zero play": ((pl.col("play_time_ms") == 0).mean(), 0.0975, 0.06),
    "play mean": (pl.col("play_time_ms").mean(), 21_495, 0.15),
    "play p25": (pl.col("play_time_ms").quantile(0.25), 1_535, 0.15),
    "play p50": (pl.col("play_time_ms").quantile(0.5), 4_611, 0.2),
    "play p75": (pl.col("play_time_ms").quantile(0.75), 21_715, 0.2),
    "play p90": (pl.col("play_time_ms").quantile(0.9), 62_368, 0.2),
    "play p95": (pl.col("play_time_ms").quantile(0.95), 100_528, 0.15),
    "play p99": (pl.col("play_time_ms").quantile(0.99), 209_161, 0.2),
    "log play mean": (pl.col("play_time_ms").filter(pl.col("play_time_ms") > 0).log().mean(),
                      8.92, 0.02),
    "log play sd": (pl.col("play_time_ms").filter(pl.col("play_time_ms") > 0).log().std(),
                    1.54, 0.06),
    "play given click": (pl.col("play_time_ms").filter(pl.col("is_click") == 1).mean(),
                         45_752, 0.15),
    "play given no click": (pl.col("play_time_ms").filter(pl.col("is_click") == 0).mean(),
                            2_288, 0.15),
    "duration mean": (pl.col("duration_ms").mean(), 107_438, 0.2),
    "duration median": (pl.col("duration_ms").median(), 70_600, 0.25),
    "tab 1 share": ((pl.col("tab") == 1).mean(), 0.758, 0.02),
}  # fmt: skip


@pytest.mark.parametrize("name", STANDARD)
def test_standard_log_has_the_real_statistic(standard: pl.DataFrame, name: str) -> None:
    expression, fact, tolerance = STANDARD[name]
    assert standard.select(expression).item() == pytest.approx(fact, rel=tolerance)


@pytest.mark.parametrize(
    ("tab", "share", "click", "zero"),
    [(1, 0.758, 0.494, 0.006), (0, 0.089, 0.086, 0.918), (4, 0.060, 0.596, 0.030),
     (6, 0.049, 0.149, 0.000), (2, 0.030, 0.481, 0.006)],
)  # fmt: skip
def test_tabs_have_their_own_rates(
    standard: pl.DataFrame, tab: int, share: float, click: float, zero: float
) -> None:
    rows = standard.filter(pl.col("tab") == tab)
    assert rows.height / standard.height == pytest.approx(share, abs=0.005)
    assert rows["is_click"].mean() == pytest.approx(click, abs=0.045)
    assert (rows["play_time_ms"] == 0).mean() == pytest.approx(zero, abs=0.012)


def test_watch_ratio_is_the_real_one(standard: pl.DataFrame) -> None:
    ratio = (standard["play_time_ms"] / standard["duration_ms"]).fill_nan(None)
    assert ratio.median() == pytest.approx(0.092, abs=0.03)
    assert ratio.quantile(0.75) == pytest.approx(0.549, abs=0.15)
    known = standard.filter(pl.col("duration_ms") > 0)
    finished = (known["play_time_ms"] >= known["duration_ms"]).sum() / standard.height
    assert finished == pytest.approx(0.137, abs=0.04)


def test_rows_a_user_have_the_real_quantiles(standard: pl.DataFrame) -> None:
    rows = standard.group_by("user_id").len()["len"]
    assert rows.mean() == pytest.approx(53, rel=0.03)
    facts = {0.1: 8, 0.25: 18, 0.5: 39, 0.75: 72, 0.9: 115, 0.95: 148, 0.99: 234}
    for quantile, fact in facts.items():
        assert rows.quantile(quantile) == pytest.approx(fact, rel=0.15, abs=1.5), quantile


def test_popularity_is_as_skewed_as_the_real_one(standard: pl.DataFrame) -> None:
    rows = standard.group_by("video_id").len()["len"].sort(descending=True).to_numpy()
    shares = [rows[: int(len(rows) * top)].sum() / rows.sum() for top in (0.01, 0.1, 0.5)]
    assert shares == pytest.approx([0.17, 0.60, 0.947], abs=0.045)


def test_users_and_videos_differ_as_much_as_the_real_ones(standard: pl.DataFrame) -> None:
    rows = tab1(standard)
    assert rows["log_play"].std() == pytest.approx(1.69, rel=0.05)
    assert between_sd(rows, "user_id", "log_play") == pytest.approx(0.63, abs=0.07)
    assert between_sd(rows, "video_id", "log_play") == pytest.approx(0.41, abs=0.12)
    # this estimator gives .190 (users) and .133 (videos) on the real rows of tab 1
    assert 0.111 < between_sd(rows, "user_id", "click") < 0.21
    assert 0.10 < between_sd(rows, "video_id", "click") < 0.185


def test_repeats_are_as_rare_as_the_real_ones(folder: Path) -> None:
    log = pl.read_csv(folder / EARLY)
    distinct = log.unique()
    assert 1 - distinct.height / log.height == pytest.approx(0.0239, abs=0.003)
    pairs = distinct.select("user_id", "video_id").unique().height
    assert 1 - pairs / distinct.height == pytest.approx(0.0089, abs=0.003)


def test_random_log_is_the_poorer_and_uniform_one(
    standard: pl.DataFrame, random_log: pl.DataFrame
) -> None:
    assert random_log["is_click"].mean() == pytest.approx(0.1762, abs=0.02)
    assert random_log["long_view"].mean() == pytest.approx(0.0850, abs=0.025)
    assert random_log["play_time_ms"].median() == pytest.approx(2_115, rel=0.2)
    assert random_log["play_time_ms"].mean() == pytest.approx(6_470, rel=0.25)
    assert random_log["is_rand"].unique().to_list() == [1]
    assert standard["is_rand"].unique().to_list() == [0]
    rows = random_log.group_by("video_id").len()["len"]
    assert rows.len() == VIDEOS
    assert rows.var() < 2 * rows.mean()  # uniform: about Poisson
    users = random_log.group_by("user_id").len()["len"]
    for quantile, fact in {0.05: 10, 0.25: 14, 0.5: 22, 0.75: 45, 0.9: 96, 0.95: 152}.items():
        assert users.quantile(quantile) == pytest.approx(fact, rel=0.2), quantile


def test_labels_follow_from_play_time_as_in_the_real_rows(standard: pl.DataFrame) -> None:
    play, duration = pl.col("play_time_ms"), pl.col("duration_ms")

    def rule(at_ms: int, past: pl.Expr) -> pl.Expr:
        return pl.when(duration.is_between(1, at_ms)).then(play >= duration).otherwise(past)

    rows = tab1(standard).with_columns(
        valid=rule(7_000, play > 7_000), long=rule(18_000, play >= 18_000)
    )
    agree = (rows["valid"] == (rows["is_click"] == 1)).mean()
    assert agree == pytest.approx(0.986, abs=0.005)  # measured on the real rows
    assert (rows["long"] == (rows["long_view"] == 1)).all()


def test_date_and_hour_are_those_of_the_time_in_china(folder: Path) -> None:
    china = timezone(timedelta(hours=8))
    for name, first, last in ((EARLY, 20220408, 20220421), (LATE, 20220422, 20220508),
                              (RANDOM, 20220422, 20220508)):  # fmt: skip
        log = pl.read_csv(folder / name)
        assert (log["date"].min(), log["date"].max()) == (first, last)
        for day, hour, ms in log.select("date", "hourmin", "time_ms").head(2_000).rows():
            moment = datetime.fromtimestamp(ms / 1000, tz=UTC).astimezone(china)
            assert (day, hour) == (int(f"{moment:%Y%m%d}"), moment.hour * 100)
        order = log.select("user_id", "time_ms")
        assert order.equals(order.sort("user_id", "time_ms"))


def test_missing_and_unknown_values_have_the_real_shares(folder: Path) -> None:
    users = read_features(folder, "user_features")
    videos = read_features(folder, "video_features_basic")
    assert users["onehot_feat4"].null_count() / USERS == pytest.approx(874 / 27_285, abs=0.012)
    gaps = [users[f"onehot_feat{i}"].is_null() for i in range(12, 18)]
    assert gaps[0].mean() == pytest.approx(714 / 27_285, abs=0.012)
    assert all((gap == gaps[0]).all() for gap in gaps)
    assert (users["is_live_streamer"] == -124).mean() == pytest.approx(0.774, abs=0.03)
    assert (users["user_active_degree"] == "full_active").mean() == pytest.approx(0.658, abs=0.04)
    assert users["follow_user_num"].median() == pytest.approx(155, rel=0.05)
    assert users["fans_user_num"].median() == pytest.approx(48, rel=0.05)
    assert users["friend_user_num"].median() == pytest.approx(16, rel=0.07)
    assert users["register_days"].median() == pytest.approx(1_188, rel=0.02)
    for column, missing in (("video_duration", 239), ("music_type", 203), ("tag", 96)):
        share = videos[column].null_count() / VIDEOS
        assert share == pytest.approx(missing / 7_583, abs=0.011), column


def test_log_durations_are_those_of_the_video_file(folder: Path, standard: pl.DataFrame) -> None:
    videos = read_features(folder, "video_features_basic").select("video_id", "video_duration")
    joined = standard.join(videos, on="video_id", how="left")
    assert joined.height == standard.height
    assert (joined["video_duration"].fill_null(0) == joined["duration_ms"]).all()


def test_monthly_statistics_know_popularity_and_quality(
    folder: Path, standard: pl.DataFrame
) -> None:
    rates = read_features(folder, "video_features_statistic").select(
        "video_id", "show_cnt", valid=pl.col("valid_play_cnt") / pl.col("play_cnt"),
        mean_play=(pl.col("play_duration") / pl.col("play_cnt")).log(),
        like=pl.col("like_cnt") / pl.col("play_cnt"),
    )  # fmt: skip
    seen = tab1(standard).group_by("video_id").agg(
        n=pl.len(), click=pl.col("click").mean(), play=pl.col("play_time_ms").mean().log(),
        liked=pl.col("is_like").mean(),
    ).join(rates, on="video_id")  # fmt: skip
    often = seen.filter(pl.col("n") >= 50)
    assert often.height > 200
    show = seen.select(pl.corr(pl.col("n").log(), pl.col("show_cnt").log())).item()
    # the real rows: .67, .87, .93, .80
    assert show == pytest.approx(0.67, abs=0.15)
    assert often.select(pl.corr("click", "valid")).item() > 0.75
    assert often.select(pl.corr("play", "mean_play")).item() > 0.8
    assert often.select(pl.corr("liked", "like")).item() > 0.5


# ---------------------------------------------------------------- taste


def one_hot(values: pl.Series, least: int) -> np.ndarray:
    """Columns of the levels with at least ``least`` values, the others together in one."""
    counts = values.value_counts().filter(pl.col("count") >= least)
    codes = {level: i + 1 for i, level in enumerate(counts[values.name].sort().to_list())}
    index = np.array([codes.get(value, 0) for value in values.to_list()])
    return np.eye(len(codes) + 1, dtype=np.float32)[index]


def test_crosses_of_features_beat_user_and_video_means_on_held_out_rows(
    folder: Path, standard: pl.DataFrame
) -> None:
    rows = tab1(standard.unique(maintain_order=True))
    users = read_features(folder, "user_features").with_columns(pl.col("register_days") // 365)
    videos = read_features(folder, "video_features_basic").with_columns(
        pl.col("tag").str.split(",").list.first().fill_null("none"),
        length=pl.col("video_duration").fill_null(1).log(2).round().cast(pl.Int32),
    )
    names = ("onehot_feat1", "onehot_feat9", "onehot_feat10", "user_active_degree", "register_days")
    a = np.concatenate([one_hot(users[name], 60) for name in names], axis=1)
    b = np.concatenate([one_hot(videos["tag"], 60), one_hot(videos["length"], 60)], axis=1)
    user, video = rows["user_id"].to_numpy(), rows["video_id"].to_numpy()
    y = rows.select("log_play", "click").to_numpy().astype(np.float64)
    test = np.random.default_rng(0).random(len(y)) < 0.2
    train = ~test

    base = np.tile(y[train].mean(axis=0), (len(y), 1))
    for label in range(2):
        for groups, prior in ((user, 6.0), (video, 12.0)) * 3:  # backfitting
            residual = np.where(train, y[:, label] - base[:, label], 0.0)
            total = np.bincount(groups, residual, groups.max() + 1)
            seen = np.bincount(groups, train.astype(float), groups.max() + 1)
            base[:, label] += (total / (seen + prior))[groups]

    n_crosses = a.shape[1] * b.shape[1]
    gram = 300.0 * np.eye(n_crosses)
    moment = np.zeros((n_crosses, 2))

    def crosses(index: np.ndarray) -> np.ndarray:
        product = a[user[index], :, None] * b[video[index], None, :]
        return product.reshape(len(index), n_crosses)

    for index in np.array_split(np.flatnonzero(train), 10):
        x = crosses(index)
        gram += x.T @ x
        moment += x.T @ (y - base)[index]
    coefficients = np.linalg.solve(gram, moment)
    crossed = base[test] + np.concatenate(
        [crosses(index) @ coefficients for index in np.array_split(np.flatnonzero(test), 4)]
    )

    def r2(prediction: np.ndarray) -> np.ndarray:
        error = ((y[test] - prediction) ** 2).sum(axis=0)
        return 1 - error / ((y[test] - y[train].mean(axis=0)) ** 2).sum(axis=0)

    gain = r2(crossed) - r2(base[test])
    print(r2(base[test]), r2(crossed), n_crosses)
    assert (r2(base[test]) > [0.15, 0.10]).all()
    assert (gain > [0.02, 0.01]).all()


@pytest.fixture(scope="module")
def world() -> synthetic_world.World:
    users, _ = synthetic_world.make_users(1, USERS)
    blocks = [part for part, _, _ in synthetic_world.video_blocks(1, VIDEOS)]
    return synthetic_world.make_world(1, users, blocks)


def expectations(
    world: synthetic_world.World, user: np.ndarray, video: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """True expected (play time in ms, click rate) of user-video pairs in tab 1's standard log."""
    w, depth = synthetic_world.engagement(world, user, video)
    duration_ms, sd = world.videos.duration_ms[video], synthetic_world.SD_NOISE
    play = synthetic_world.expected_play(w + synthetic_world.LOG_SHIFT[0], depth, duration_ms, sd)
    return play["play_ms"], play["click"]


def test_variance_has_the_shares_that_the_module_states(world: synthetic_world.World) -> None:
    rng = np.random.default_rng(0)
    user, video = rng.integers(0, USERS, 100_000), rng.integers(0, VIDEOS, 100_000)
    match = world.users.taste[user] * world.attributes[world.videos.kind[video]]
    hook_match, depth_match = match[:, :3].sum(axis=1), match[:, 3:].sum(axis=1)
    tables = synthetic_world
    parts = [world.users.hook.var(), world.videos.hook.var(),
             (tables.SD_MATCH * hook_match).var(), tables.SD_NOISE**2]  # fmt: skip
    assert np.array(parts) / sum(parts) == pytest.approx([0.19, 0.10, 0.09, 0.61], abs=0.025)
    parts = [world.videos.depth.var(), (tables.SD_DEPTH_MATCH * depth_match).var(),
             world.users.depth.var()]  # fmt: skip
    assert np.array(parts) / sum(parts) == pytest.approx([0.63, 0.27, 0.10], abs=0.04)


def test_play_time_and_click_disagree_on_the_best_of_ten(world: synthetic_world.World) -> None:
    rng = np.random.default_rng(0)
    slates = 2_000
    user = rng.integers(0, USERS, slates).repeat(10)
    video = rng.integers(0, VIDEOS, slates * 10)
    play, click = (x.reshape(slates, 10) for x in expectations(world, user, video))
    by_play, by_click = play.argmax(axis=1), click.argmax(axis=1)
    assert 0.25 < (by_play != by_click).mean() < 0.85
    row = np.arange(slates)
    # an A/B test has an effect to find, of opposite sign in the two labels
    assert play[row, by_play].mean() > 1.2 * play[row, by_click].mean()
    assert click[row, by_click].mean() > 1.05 * click[row, by_play].mean()
    # yet both know what is good: each beats a random pick on the other's label
    assert play[row, by_click].mean() > 1.2 * play.mean()
    assert click[row, by_play].mean() > 1.1 * click.mean()


def test_expectations_are_the_means_of_what_the_log_draws(
    world: synthetic_world.World, monkeypatch: pytest.MonkeyPatch
) -> None:
    draws, tab_1 = 20_000, synthetic.TABS[:1].copy()
    monkeypatch.setattr(synthetic, "TABS", tab_1)
    for user, video in ((0, 0), (5, 17), (300, 1_200)):
        pair = (np.full(draws, user), np.full(draws, video))
        log = synthetic._log_rows(np.random.default_rng(1), world, *pair, log=1)
        play, click = (x[0] for x in expectations(world, *(i[:1] for i in pair)))
        assert log["play_time_ms"].mean() == pytest.approx(play, rel=0.12)
        assert log["is_click"].mean() == pytest.approx(click, abs=0.03)


def test_data_that_the_disk_cannot_hold_are_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "free")(10**9)
    monkeypatch.setattr("realdataexp.files.shutil.disk_usage", lambda _: usage)
    with pytest.raises(InputError, match=r"1\.0 GB are free, about 60\.0 GB are needed"):
        write_synthetic(tmp_path / "d", SyntheticConfig(users=10, videos=10, rows=10**9))
    assert list(tmp_path.iterdir()) == []


# ---- made directly ----------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["pure", "27k"])
def test_tables_made_directly_are_those_imported_from_the_files(tmp_path, version):
    """Every column as a number and as a category, every label, the counts, in several blocks."""
    size = SyntheticConfig(version=version, users=40, videos=90, rows=3000, seed=5)
    names = [
        (name, f"{side}.{name}")
        for side, columns in (("user", schema.USER_COLUMNS), ("video", schema.BASIC_COLUMNS),
                              ("video", schema.STATISTIC_COLUMNS))
        for name in columns[1:]
    ]  # fmt: skip
    request = ImportRequest(
        path=tmp_path / "data",
        logs=schema.LOGS,
        numerical=tuple(full for name, full in names if name not in schema.TEXT_COLUMNS),
        categorical=tuple(dict.fromkeys(name for name, _ in names)),
        targets=tuple(schema.LABEL_COLUMNS),
    )
    write_synthetic(tmp_path / "data", size)
    written = prepare(request, tmp_path / "cache", Warnings())
    made = prepare(request, tmp_path / "cache", Warnings(), files=SyntheticTables(size))
    assert made.stats == written.stats
    assert made.users.equals(written.users)
    assert whole(made.videos).equals(whole(written.videos))
    entries = [tmp_path / "cache" / data.fingerprint for data in (written, made)]
    arrays = sorted(path.name for path in entries[0].glob("*.npy"))
    assert len(arrays) == 3 + len(request.targets)
    for name in arrays:
        assert (entries[1] / name).read_bytes() == (entries[0] / name).read_bytes()
