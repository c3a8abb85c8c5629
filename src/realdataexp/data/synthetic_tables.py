"""Numbers of KuaiRand-Pure that the synthetic data are calibrated to, measured on its real rows."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np

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
STATISTIC_COLUMNS = [
    "video_id",
    "counts",
    "show_cnt",
    "show_user_num",
    "play_cnt",
    "play_user_num",
    "play_duration",
    "complete_play_cnt",
    "complete_play_user_num",
    "valid_play_cnt",
    "valid_play_user_num",
    "long_time_play_cnt",
    "long_time_play_user_num",
    "short_time_play_cnt",
    "short_time_play_user_num",
    "play_progress",
    "comment_stay_duration",
    "like_cnt",
    "like_user_num",
    "click_like_cnt",
    "double_click_cnt",
    "cancel_like_cnt",
    "cancel_like_user_num",
    "comment_cnt",
    "comment_user_num",
    "direct_comment_cnt",
    "reply_comment_cnt",
    "delete_comment_cnt",
    "delete_comment_user_num",
    "comment_like_cnt",
    "comment_like_user_num",
    "follow_cnt",
    "follow_user_num",
    "cancel_follow_cnt",
    "cancel_follow_user_num",
    "share_cnt",
    "share_user_num",
    "download_cnt",
    "download_user_num",
    "report_cnt",
    "report_user_num",
    "reduce_similar_cnt",
    "reduce_similar_user_num",
    "collect_cnt",
    "collect_user_num",
    "cancel_collect_cnt",
    "cancel_collect_user_num",
    "direct_comment_user_num",
    "reply_comment_user_num",
    "share_all_cnt",
    "share_all_user_num",
    "outsite_share_all_cnt",
]
