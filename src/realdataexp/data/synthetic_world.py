"""The users and videos of the synthetic data: what is true of them, and what files say of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from statistics import NormalDist
from typing import Any

import numpy as np
import polars as pl
from numpy.random import Generator, Philox, SeedSequence
from numpy.typing import NDArray

from realdataexp.data.schema import (
    STATISTIC_COLUMNS,
)

Array = NDArray[Any]

# ---- numbers of KuaiRand-Pure that the data are calibrated to, measured on its real rows --------

# tab: share, P(play = 0), shift of w, P(click | no valid play), P(click | valid play), measured
TABS = np.array([
    [1, .7583, .0061, .00, .020, 1.0], [0, .0887, .9185, .42, .034, 1.0],
    [4, .0598, .0300, .27, .027, 1.0], [6, .0491, .0004, -1.03, .005, 1.0],
    [2, .0303, .0062, -.03, .025, 1.0], [8, .0047, .9668, .30, .012, 1.0],
    [5, .0029, .0030, -.65, .010, 1.0], [12, .0023, .8443, .40, .000, .85],
    [3, .0015, .9800, -.50, .000, 1.0], [11, .0010, .6778, .30, .000, 0.0],
    [9, .0006, .2162, .00, .990, 1.0], [7, .0006, .6812, .30, .140, 1.0],
    [13, .0004, .0000, .45, .010, 1.0], [10, .0003, .0678, 1.0, 1.00, 1.0],
    [14, .0002, .1579, -.20, .000, 0.0],
])  # fmt: skip
FALSE_CLICK_ZERO_PLAY = 0.27  # P(click | play = 0) in tab 1

# log play time over log 7 s, as a function of w (tab 1, videos of 60-130 s)
LOG_7S = float(np.log(7000.0))
W = np.array([-3.2, -2.2, -1.5, -1.15, -.71, -.39, -.12, 0, .4, .8, 1.6, 3.5])  # fmt: skip
G = np.array([-3.4, -2.5, -1.85, -1.62, -1.25, -.79, -.3, 0, 1.12, 2.12, 3.2, 5.0])  # fmt: skip
SD_USER, SD_MATCH, SD_NOISE = 0.44, 0.30, 0.78
SD_DEPTH_USER, SD_DEPTH_MATCH = 0.15, 0.25
LOG_SCALE, LOG_SHIFT = np.array([1, 1, 0.72]), np.array([-0.09, -0.09, -0.64])
POP_SLOPE, POP_BEND = 2.1, 0.12
REPEAT_SHARE, DUPLICATE_SHARE = 0.0085, 0.0239

# label: P(label | no click), P(label | click), whether users and videos differ in it
RARE = {
    "is_like": (.0054, .0308, True), "is_follow": (.00034, .0026, True),
    "is_comment": (.00012, .0056, True), "is_forward": (.00013, .0018, True),
    "is_hate": (.00084, .00082, False), "is_profile_enter": (.0022, .0391, True),
}  # fmt: skip

QUANTILES = np.array([0, .01, .05, .1, .25, .5, .75, .9, .95, .99, 1])  # fmt: skip
FOLLOW = (0, 1, 7, 16, 50, 155, 430, 1021, 1744, 4128, 5003)
FANS = (0, 0, 1, 2, 10, 48, 221, 660, 1159, 4373, 1986249)
FRIENDS = (0, 0, 0, 0, 3, 16, 83, 295, 550, 1625, 4995)
REGISTER = (14, 42, 124, 265, 683, 1188, 1701, 2108, 2381, 2700, 3624)
DURATION = (5000, 7440, 10724, 14583, 31966, 81241, 148216, 237900, 303466, 510066, 1177720)
EDGES: dict[str, tuple[list[int], list[str]]] = {
    "follow_user_num": ([0, 10, 50, 100, 150, 250, 500], ["0", "(0,10]", "(10,50]", "(50,100]",
                        "(100,150]", "(150,250]", "(250,500]", "500+"]),
    "fans_user_num": ([0, 9, 99, 999, 4999, 9999, 99999, 999999], ["0", "[1,10)", "[10,100)",
                      "[100,1k)", "[1k,5k)", "[5k,1w)", "[1w,10w)", "[10w,100w)", "[100w,1000w)"]),
    "friend_user_num": ([0, 4, 29, 59, 119, 249], ["0", "[1,5)", "[5,30)", "[30,60)", "[60,120)",
                        "[120,250)", "250+"]),
    "register_days": ([14, 30, 60, 90, 180, 365, 730], ["8-14", "15-30", "31-60", "61-90",
                      "91-180", "181-365", "366-730", "730+"]),
}  # fmt: skip
DEGREES = {"full_active": 17959, "high_active": 6158, "middle_active": 2133, "2_14_day_new": 635,
            "low_active": 300, "single_low_active": 68, "30day_retention": 15, "day_new": 11,
            "UNKNOWN": 6}  # fmt: skip
DEGREE_EFFECT = np.array([-.05, .12, .2, .12, .2, .2, .2, .2, 0])  # fmt: skip
FEAT1 = np.array([848, 6006, 5096, 3432, 7221, 2759, 1923])
FEAT1_EFFECT = np.array([.32, .13, .02, -.07, -.07, -.1, -.1])  # fmt: skip
FEAT2 = {2: 6877, 19: 5525, 29: 5410, 10: 5097, 31: 1632, 28: 816, 9: 762, 48: 309, 33: 143}
FEAT4 = [3039, 10083, 5061, 3184, 2021, 1062, 862, 379, 401, 120, 90, 60, 30, 12, 5, 2]
FEAT9, FEAT10 = [260, 6082, 1427, 6233, 3177, 4019, 6087], [4308, 36, 7973, 10904, 4064]
FEAT2_IDS = [*FEAT2, *sorted(set(range(50)) - set(FEAT2))]
FEAT2_P = [*FEAT2.values(), *[614 / 41] * 41]
DEGREES_P = list(DEGREES.values())
BINARY = {"onehot_feat12": .724, "onehot_feat13": .068, "onehot_feat14": .119,
           "onehot_feat15": .0227, "onehot_feat16": .0404, "onehot_feat17": .0145}  # fmt: skip

TAGS = {39: 1446, 3: 732, 20: 675, 12: 606, 9: 419, 6: 400, 7: 383, 2: 296, 1: 254, 15: 245,
         17: 220, 67: 206, 11: 181, 4: 177, 8: 177, 28: 145, 62: 90, 25: 136, 5: 102, 18: 102,
         19: 99, 10: 89, 26: 82, 42: 75, 27: 58, 38: 54, 36: 46, 14: 43, 24: 41, 21: 41, 34: 40,
         22: 37, 29: 35, 13: 33, 35: 33, 65: 33, 30: 31, 60: 30, 43: 20, 68: 20, 16: 16, 37: 11,
         54: 10, 40: 5, 56: 4, 23: 3}  # fmt: skip
TAG_IDS = np.array(list(TAGS))
SECOND_TAGS, SECOND_P = np.array([43, 68, 62, 60, 67]), [.3, .3, .28, .07, .05]  # fmt: skip
LONG_TAGS = {39: .5, 3: .5, 20: .1, 12: .4, 9: .1, 6: -.35, 7: -.3, 2: -.3, 1: -.9, 15: -.3,
              17: -.4, 8: -1.6, 25: -1.0, 26: -1.9, 19: -1.0, 10: .6, 29: .6}  # fmt: skip
TAG_P = np.array(list(TAGS.values())) / sum(TAGS.values())
TAG_Z = np.array([LONG_TAGS.get(tag, -0.2) for tag in TAGS])
DURATION_Z = np.array([NormalDist().inv_cdf(min(max(q, 1e-4), 1 - 1e-4)) for q in QUANTILES])
DURATION_BINS = np.log2([16_000, 45_000, 100_000, 200_000])
PICTURES = {"LongPicture": .0189, "PictureSet": .0096}  # fmt: skip
UPLOADS = {"LongImport": 2925, "Web": 2416, "Kmovie": 879, "LongCamera": 64, "ShortCamera": 43,
            "ShareFromOtherApp": 29, "FollowShoot": 10, "UNKNOWN": 4}  # fmt: skip
SIZES = np.array([[720, 1280], [1280, 720], [720, 1440], [720, 1282], [960, 720], [720, 960],
                   [1080, 1440], [540, 960], [576, 1024], [1080, 1080]])  # fmt: skip
SIZES_P = [.665, .185, .02, .016, .022, .012, .016, .004, .004, .056]  # fmt: skip
MUSIC_P = [.8790, .0866, .0054, .0018, .0004, .0268]  # of types 9, 4, 8, 7, 11, none # fmt: skip
# shift of w by log2(duration): probit of tab 1's click rate
SHIFT_AT = np.arange(12.5, 20)
SHIFT = np.array([-.35, -.13, -.06, .08, .14, -.02, -.10, -.22])  # fmt: skip

# statistic: the column that it is a part of, its mean share of that column, sd of the log share
STATISTIC_SHARES = """
show_user_num show_cnt .877 .03;play_user_num play_cnt .892 .03
complete_play_user_num complete_play_cnt .96 .02;valid_play_user_num valid_play_cnt .948 .02
long_time_play_user_num long_time_play_cnt .956 .02
short_time_play_user_num short_time_play_cnt .91 .03;comment_stay_duration play_cnt 760 .6
like_user_num like_cnt .983 .01;click_like_cnt like_cnt .455 .15;double_click_cnt like_cnt .545 .15
cancel_like_cnt like_cnt .082 .3;cancel_like_user_num cancel_like_cnt .87 .05
comment_cnt play_cnt .001 1.;comment_user_num comment_cnt .84 .05
direct_comment_cnt comment_cnt .69 .2;reply_comment_cnt comment_cnt .29 .4
delete_comment_cnt comment_cnt .05 .6;delete_comment_user_num delete_comment_cnt .8 .1
comment_like_cnt comment_cnt 2.4 .8;comment_like_user_num comment_like_cnt .55 .3
follow_cnt play_cnt .0017 .8;follow_user_num follow_cnt .996 .002
cancel_follow_cnt follow_cnt .15 .6;cancel_follow_user_num cancel_follow_cnt .99 .005
share_cnt play_cnt .0004 1.;share_user_num share_cnt .9 .05
download_cnt play_cnt .00035 1.3;download_user_num download_cnt .9 .08
report_cnt play_cnt .0000006 .8;report_user_num report_cnt .9 .05
reduce_similar_cnt play_cnt .0008 .5;reduce_similar_user_num reduce_similar_cnt .95 .03
collect_cnt play_cnt .0031 .7;collect_user_num collect_cnt .96 .02
cancel_collect_cnt collect_cnt .26 .3;cancel_collect_user_num cancel_collect_cnt .94 .03
direct_comment_user_num direct_comment_cnt .92 .03;reply_comment_user_num reply_comment_cnt .8 .1
share_all_cnt share_cnt 1.7 .3;share_all_user_num share_all_cnt .87 .05
outsite_share_all_cnt share_all_cnt .62 .2
"""


# ---- random numbers -----------------------------------------------------------------------------


def stream(seed: int, purpose: int, block: int = 0) -> Generator:
    """The random numbers of one purpose and block, a function of the seed alone."""
    return Generator(Philox(SeedSequence((seed, purpose, block))))


TASTES, USERS, VIDEOS, COUNTS, ROWS = range(5)  # purposes of random numbers


def pick(rng: Generator, weights: object, n: int) -> Array:
    """Draw n indices with probabilities proportional to ``weights``."""
    cumulative = np.cumsum(np.asarray(weights, dtype=float))
    cumulative /= cumulative[-1]
    return np.searchsorted(cumulative, rng.random(n), side="right").astype(np.int32)


def unit(values: Array) -> Array:
    """Centre and scale columns to variance 1 (left at 0 where they do not vary)."""
    centred = values - values.mean(axis=0)
    return centred / np.maximum(centred.std(axis=0), 1e-9)


def _hashed_normal(ids: Array, salt: int) -> Array:
    """A standard normal per integer id: the same id gives the same number in every block."""
    x = ids.astype(np.uint64) + np.uint64((salt * 0x9E3779B97F4A7C15) % 2**64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
    x ^= x >> np.uint64(31)
    u, v = (x >> np.uint64(32)) + 0.5, (x & np.uint64(0xFFFFFFFF)) + 0.5
    return np.sqrt(-2 * np.log(u / 2**32)) * np.cos(2 * np.pi * v / 2**32)


# ---------------------------------------------------------------- users and videos


@dataclass(frozen=True)
class Users:
    """What is true of the users (axis U)."""

    hook: Array  # U: shift of w
    depth: Array  # U: log stretch of long plays
    taste: Array  # U x 6: three dimensions for the hook, three for the depth
    liking: Array  # U: factor of the rare labels' rates, mean 1
    weight_standard: Array  # U: shares of the standard logs' rows
    weight_random: Array


@dataclass(frozen=True)
class Videos:
    """What is true of the videos (axis V)."""

    hook: Array  # V
    depth: Array  # V
    kind: Array  # V: index into World.attributes
    duration_ms: Array  # V: 0 where unknown
    liking: Array  # V: factor of the rare labels' rates
    popularity: Array  # V: standard normal score


@dataclass(frozen=True)
class World:
    """What is true of users and videos; ``attributes`` is kinds x 6, ``order`` rank -> video."""

    users: Users
    videos: Videos
    attributes: Array
    order: Array
    rank_table: Array


def taste_tables(seed: int) -> tuple[list[Array], Array]:
    """What each level of the five user features likes, and each (tag, duration bin) offers."""
    rng = stream(seed, TASTES)
    tables = [rng.normal(size=(n, 6)) for n in (len(FEAT1), len(FEAT9), len(FEAT10), 9, 8)]
    by_tag, by_bin = rng.normal(size=(len(TAG_IDS), 6)), rng.normal(size=(6, 6))
    offers = (by_tag[:, None, :] + 0.8 * by_bin[None, :, :]).reshape(-1, 6)
    bins = np.array([0.03, 0.11, 0.23, 0.22, 0.26, 0.15])
    weight = np.outer(TAG_P, bins).ravel()
    weight = weight[:, None]
    offers -= (weight * offers).sum(0)
    offers /= np.sqrt((weight * offers**2).sum(0)) * np.sqrt(3.0)
    return tables, offers.astype(np.float32)


def make_users(seed: int, n: int) -> tuple[Users, pl.DataFrame]:
    """N users: what is true of them, and their features as the user file has them."""
    rng = stream(seed, USERS)
    levels = [pick(rng, weights, n) for weights in (FEAT1, FEAT9, FEAT10, DEGREES_P)]
    social = rng.normal(size=n)
    numbers = {
        name: _from_ranks(0.8 * social + 0.6 * rng.normal(size=n), quantiles)
        for name, quantiles in (("follow_user_num", FOLLOW), ("fans_user_num", FANS),
                                ("friend_user_num", FRIENDS))
    }  # fmt: skip
    numbers["register_days"] = _from_ranks(rng.normal(size=n), REGISTER)
    tenure = np.searchsorted(EDGES["register_days"][0], numbers["register_days"])
    feat2, feat11 = pick(rng, FEAT2_P, n), pick(rng, (20333, 264, 6685, 2, 1), n)
    feat6 = pick(rng, (14731, 12395, 159), n)

    tables, _ = taste_tables(seed)
    seen = sum(t[i] for t, i in zip(tables, [*levels, tenure], strict=True))
    taste = np.sqrt(0.75) * unit(seen) + np.sqrt(0.25) * rng.normal(size=(n, 6))
    visible = (
        FEAT1_EFFECT[levels[0]] + DEGREE_EFFECT[levels[3]] + 0.08 * (feat6 == 1)
        + 0.15 * (feat11 == 2) + 0.12 * (feat2 == 2) + 0.1 * (tenure < 7)
    )  # fmt: skip
    hook = 0.6 * unit(visible) + 0.8 * rng.normal(size=n)
    activity = rng.gamma(1.2, size=n) + 1e-6
    rest = np.exp(1.4 * np.minimum(0.5 * unit(np.log(activity)) + 0.87 * rng.normal(size=n), 3.2))
    users = Users(
        hook=SD_USER * hook,
        depth=SD_DEPTH_USER * rng.normal(size=n),
        taste=taste.astype(np.float32),
        liking=rng.gamma(0.7, 1 / 0.7, size=n),
        weight_standard=activity / activity.sum(),
        weight_random=0.23 / n + 0.77 * rest / rest.sum(),
    )
    return users, _user_frame(rng, levels, feat2, feat6, feat11, numbers)


def _user_frame(
    rng: Generator,
    levels: list[Array],
    feat2: Array,
    feat6: Array,
    feat11: Array,
    numbers: dict[str, Array],
) -> pl.DataFrame:
    """The user file: what users are known by, and columns that say nothing of them."""
    n = len(feat2)
    columns: dict[str, object] = {
        "user_id": np.arange(n),
        "user_active_degree": np.array(list(DEGREES))[levels[3]],
        "is_lowactive_period": np.zeros(n, np.int8),
        "is_live_streamer": np.where(rng.random(n) < 0.2257, 1, -124),
        "is_video_author": (rng.random(n) < 0.8164).astype(np.int8),
    }
    for name in numbers:
        columns[name] = numbers[name]
        columns[f"{name}_range"] = _range_labels(name, numbers[name])
    feat4 = pick(rng, FEAT4, n).astype(float)
    zipf = {k: 1 / np.arange(2, k + 2) ** 0.8 for k in (1471, 118, 454)}
    onehot = {
        0: pick(rng, (0.437, 0.563), n), 1: levels[0], 2: np.array(FEAT2_IDS)[feat2],
        3: _scatter(pick(rng, zipf[1471], n), 1471), 4: feat4,
        5: pick(rng, [0.9942, *[0.0058 / 33] * 33], n), 6: feat6,
        7: _scatter(pick(rng, zipf[118], n), 118), 8: _scatter(pick(rng, zipf[454], n), 454),
        9: levels[1], 10: levels[2], 11: feat11,
    }  # fmt: skip
    columns |= {f"onehot_feat{i}": values for i, values in onehot.items()}
    columns |= {name: (rng.random(n) < p).astype(float) for name, p in BINARY.items()}
    no_feat4, no_binary = rng.random(n) < 874 / 27285, rng.random(n) < 714 / 27285
    return pl.DataFrame(columns).with_columns(
        pl.when(pl.lit(pl.Series(~no_feat4))).then("onehot_feat4").alias("onehot_feat4"),
        *[pl.when(pl.lit(pl.Series(~no_binary))).then(name).alias(name) for name in BINARY],
    )


def _range_labels(name: str, numbers: Array) -> Array:
    """The label of each number's range, as the user file writes it."""
    edges, labels = EDGES[name]
    return np.array(labels)[np.searchsorted(edges, numbers)]


def _from_ranks(scores: Array, quantiles: tuple[int, ...]) -> Array:
    """Integers with the given quantiles (log-linear between them), in the order of the scores."""
    ranks = np.empty(len(scores))
    ranks[np.argsort(scores, kind="stable")] = (np.arange(len(scores)) + 0.5) / len(scores)
    return np.rint(np.expm1(np.interp(ranks, QUANTILES, np.log1p(quantiles)))).astype(np.int64)


def _scatter(levels: Array, n_levels: int) -> Array:
    """Rename levels so that the frequent ones are not the small numbers."""
    return (levels.astype(np.int64) * 787 + 13) % n_levels


def make_videos(
    seed: int, block: int, lo: int, hi: int, n_videos: int
) -> tuple[Videos, pl.DataFrame, Callable[[], pl.DataFrame]]:
    """Videos lo..hi-1: what is true of them, their basic features, and what makes the statistics.

    The statistics are made on demand, and once, since they take most of the time.
    """
    rng, n = stream(seed, VIDEOS, block), hi - lo
    tag = pick(rng, TAG_P, n)
    z_duration = TAG_Z[tag] - (TAG_P * TAG_Z).sum() + 0.92 * rng.normal(size=n)
    duration = np.rint(np.exp(np.interp(z_duration, DURATION_Z, np.log(DURATION))))
    picture = pick(rng, [1 - sum(PICTURES.values()), *PICTURES.values()], n)
    short = (picture == 0) & (rng.random(n) < np.where(duration < 22_000, 0.62, 0.02))
    unknown = (picture > 0) | (short & (rng.random(n) < 0.025))
    duration_ms = np.where(unknown, 0, duration).astype(np.int32)
    advert, music = rng.random(n) < 0.01, pick(rng, MUSIC_P, n)
    author = rng.integers(0, 33 * n_videos // 10 + 1, n)

    log2 = np.log2(np.maximum(duration_ms, 1))
    bins = np.where(unknown, 0, 1 + np.searchsorted(DURATION_BINS, log2))
    shift = np.where(unknown, -0.71, np.interp(log2, SHIFT_AT, SHIFT))
    bait, own = rng.normal(size=(2, n))
    popularity = rng.normal(size=n) - 0.05 * z_duration - 0.5 * unknown
    hook = (
        shift + 0.06 * popularity + 0.18 * bait + 0.13 * own + 0.12 * _hashed_normal(author, 1)
        - 0.15 * short - 0.15 * (music == 1)
    )  # fmt: skip
    depth = (
        -0.3 * bait + 0.12 * _hashed_normal(author, 2) + 0.15 * rng.normal(size=n) - 0.6 * unknown
    )
    liking = 0.8 * rng.normal(size=n)
    liking = np.exp(liking - 0.32).astype(np.float32)
    videos = Videos(
        hook=hook.astype(np.float32),
        depth=depth.astype(np.float32),
        kind=(tag * 6 + bins).astype(np.int16),
        duration_ms=duration_ms,
        liking=liking,
        popularity=popularity.astype(np.float32),
    )

    upload = np.array(list(UPLOADS))[pick(rng, list(UPLOADS.values()), n)]
    upload = np.where(short, "ShortImport", np.where(advert, "UNKNOWN", upload))
    upload = np.where(picture > 0, np.array(["", *PICTURES])[picture], upload)
    ids, step = np.arange(lo, hi), 5_170_000_000 // (10 * n_videos)
    music_id = np.where(music == 5, 0, 4_000_000_000 + step * rng.integers(0, 10 * n_videos, n))
    size = SIZES[pick(rng, SIZES_P, n)]
    columns = {
        "video_id": ids,
        "author_id": author * max(1, 8_733_984 // (33 * n_videos // 10 + 1)),
        "video_type": np.where(advert, "AD", "NORMAL"),
        "upload_dt": np.array(["2022-04-09", "2022-04-10", "2022-04-11"])[
            pick(rng, (2832, 3424, 1327), n)
        ],
        "upload_type": upload,
        "visible_status": np.zeros(n),
        "video_duration": pl.Series(duration_ms.astype(float)).replace(0.0, None),
        "server_width": size[:, 0].astype(float),
        "server_height": size[:, 1].astype(float),
        "music_id": music_id,
        "music_type": pl.Series(np.array([9.0, 4, 8, 7, 11, 0])[music]).replace(0.0, None),
        "tag": _tag_strings(rng, tag),
    }
    return videos, pl.DataFrame(columns), partial(_statistics, rng, ids, videos)


def _tag_strings(rng: Generator, tag: Array) -> pl.Series:
    """Comma-separated tags: the first one, often a second one, seldom a third; 1.27 % missing."""
    n = len(tag)
    second = SECOND_TAGS[pick(rng, SECOND_P, n)]
    extra = pl.Series(np.where((rng.random(n) < 0.26) & (second != TAG_IDS[tag]), second, -1))
    third = pl.Series(rng.random(n) < 0.018)
    return (
        pl.DataFrame({"first": TAG_IDS[tag].astype(str), "extra": extra, "third": third,
                      "missing": rng.random(n) < 96 / 7583})
        .select(
            pl.when("missing").then(None).when(pl.col("extra") < 0).then("first")
            .when("third").then(pl.format("{},{},65", "first", "extra"))
            .otherwise(pl.format("{},{}", "first", "extra"))
        ).to_series()
    )  # fmt: skip


def _statistics(rng: Generator, ids: Array, videos: Videos) -> pl.DataFrame:
    """Monthly averages as a real month would give them: exposure times the video's true rates."""
    n = len(ids)
    counts = np.clip(181 - rng.gamma(1.3, 30, n), 1, 181).astype(np.int64)
    play = expected_play(videos.hook + 0.22, videos.depth, videos.duration_ms, sd=0.95)
    show = np.exp(8.35 + 1.25 * (0.67 * videos.popularity + 0.74 * rng.normal(size=n)))
    played = show * np.clip(0.63 + 0.3 * videos.hook + 0.2 * rng.normal(size=n), 0.05, 2.4)
    values: dict[str, Array] = {
        "show_cnt": show,
        "play_cnt": played,
        "play_duration": played * play["play_ms"] * 1.35,
        "complete_play_cnt": played * play["complete"],
        "valid_play_cnt": played * play["click"],
        "long_time_play_cnt": played * play["long_view"],
        "short_time_play_cnt": played * play["short"],
        "like_cnt": played * 0.03 * videos.liking * np.exp(0.3 * rng.normal(size=n)),
    }
    for row in STATISTIC_SHARES.replace("\n", ";").strip(";").split(";"):
        name, parent, share, sd = row.split()
        noise = np.exp(float(sd) * rng.normal(size=n))
        factor = noise if not name.endswith("_user_num") else np.minimum(noise, 1 / float(share))
        values[name] = values[parent] * float(share) * factor
    averages = {name: np.rint(value * counts) / counts for name, value in values.items()}
    averages["play_progress"] = play["progress"]
    frame = pl.DataFrame({"video_id": ids, "counts": counts, **averages})
    return frame.select(
        "video_id", "counts",  # the real file writes whole numbers without ".0"
        *[pl.col(name).cast(pl.String).str.strip_suffix(".0") for name in STATISTIC_COLUMNS[2:]],
    )  # fmt: skip


# ---------------------------------------------------------------- what a viewer does


def play_ms(w: Array, depth: Array, duration_ms: Array, replay: Array | float) -> Array:
    """Play time (ms) of engagement w; ``replay`` is the share of the duration played again."""
    log_play = np.interp(w, W, G)
    log_play = LOG_7S + np.where(w > 0, log_play * np.exp(depth), log_play)
    cap = np.where(duration_ms > 0, duration_ms * (1.0 + replay), 900_000.0)
    return np.floor(np.minimum(np.exp(np.minimum(log_play, 13.7)), cap))


def valid_play(play_ms: Array, duration_ms: Array, at_ms: int, strict: bool) -> Array:
    """KuaiRand's rule: to the end where the video is short, else at least (over) ``at_ms``."""
    known_short = (duration_ms > 0) & (duration_ms <= at_ms)
    past = play_ms > at_ms if strict else play_ms >= at_ms
    return np.where(known_short, play_ms >= duration_ms, past)


_GRID = np.array([NormalDist().inv_cdf((i + 0.5) / 41) for i in range(41)])


def expected_play(hook: Array, depth: Array, duration_ms: Array, sd: float) -> dict[str, Array]:
    """Expectations over normal noise in w (41 quantiles): play_ms, click, long_view, ..."""
    names = ("play_ms", "click", "long_view", "complete", "short", "progress")
    total = {name: np.zeros(len(hook)) for name in names}
    for z in _GRID:
        play = play_ms(hook + sd * z, depth, duration_ms, 0.1)
        total["play_ms"] += play
        total["click"] += valid_play(play, duration_ms, 7_000, True)
        total["long_view"] += valid_play(play, duration_ms, 18_000, False)
        total["complete"] += (play >= duration_ms) & (duration_ms > 0)
        total["short"] += play < 3_000
        total["progress"] += np.minimum(1.0, play / np.maximum(duration_ms, 1_000))
    return {name: values / len(_GRID) for name, values in total.items()}


def engagement(world: World, user: Array, video: Array) -> tuple[Array, Array]:
    """(w without tab, log and noise; depth) of user-video pairs."""
    match = world.users.taste[user] * world.attributes[world.videos.kind[video]]
    w = world.users.hook[user] + world.videos.hook[video] + SD_MATCH * match[:, :3].sum(axis=1)
    depth = world.users.depth[user] + world.videos.depth[video]
    return w, depth + SD_DEPTH_MATCH * match[:, 3:].sum(axis=1)


# ---------------------------------------------------------------- all of it


def _rank_table(popularity: Array) -> tuple[Array, Array]:
    """Videos by falling popularity, and the rank (fractional) below which j/65536 of draws fall."""
    order = np.argsort(-popularity, kind="stable").astype(np.int32)
    z = np.maximum(popularity[order].astype(float), -4)
    weight = np.exp(POP_SLOPE * z - POP_BEND * np.maximum(z, 0) ** 2)
    cumulative = np.concatenate([[0.0], np.cumsum(weight)])
    grid = np.linspace(0, cumulative[-1], 2**16 + 1)
    return order, np.interp(grid, cumulative, np.arange(len(cumulative)))


VIDEO_BLOCK = 200_000


def video_blocks(
    seed: int, n_videos: int
) -> Iterator[tuple[Videos, pl.DataFrame, Callable[[], pl.DataFrame]]]:
    """All videos, as `make_videos` makes them, a block at a time."""
    for block, lo in enumerate(range(0, n_videos, VIDEO_BLOCK)):
        yield make_videos(seed, block, lo, min(lo + VIDEO_BLOCK, n_videos), n_videos)


def make_world(seed: int, users: Users, blocks: list[Videos]) -> World:
    """All users and videos."""
    names = Videos.__dataclass_fields__
    videos = Videos(**{k: np.concatenate([getattr(b, k) for b in blocks]) for k in names})
    order, rank_table = _rank_table(videos.popularity)
    return World(users, videos, taste_tables(seed)[1], order, rank_table)
