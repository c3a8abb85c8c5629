"""What is known about KuaiRand's files before any is opened: names, columns, kinds, ranges."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from realdataexp.errors import InputError

VERSIONS = ("pure", "1k", "27k")

LOGS = ("random", "standard_early", "standard_late")
LOG_STEMS = {
    "random": "log_random_4_22_to_5_08",
    "standard_early": "log_standard_4_08_to_4_21",
    "standard_late": "log_standard_4_22_to_5_08",
}
USER_FEATURES = "user_features"
VIDEO_BASIC = "video_features_basic"
VIDEO_STATISTIC = "video_features_statistic"
STEMS = (*LOG_STEMS.values(), USER_FEATURES, VIDEO_BASIC, VIDEO_STATISTIC)

# Totals that the data set's authors publish; "standard" is both periods together.
KNOWN_TOTALS: dict[str, dict[str, int]] = {
    version: {
        "users": users,
        "standard_videos": videos,
        "standard_rows": rows,
        "random_videos": random_videos,
        "random_rows": random_rows,
    }
    for version, users, videos, rows, random_videos, random_rows in (
        ("pure", 27_285, 7_551, 1_436_609, 7_583, 1_186_059),
        ("1k", 1_000, 4_369_953, 11_713_045, 7_388, 43_028),
        ("27k", 27_285, 32_038_725, 322_278_385, 7_583, 1_186_059),
    )
}

# Files that come in several parts, and how a part is told by its name.
KNOWN_PARTS = {
    "27k": {LOG_STEMS["standard_early"]: 2, LOG_STEMS["standard_late"]: 2, VIDEO_STATISTIC: 3}
}
PART = "_part"


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split())


LOG_COLUMNS = _names(
    "user_id video_id date hourmin time_ms is_click is_like is_follow is_comment is_forward "
    "is_hate long_view play_time_ms duration_ms profile_stay_time comment_stay_time "
    "is_profile_enter is_rand tab"
)
LOG_IDS = ("user_id", "video_id", "time_ms")  # a row without one of these is no row
LOG_FLAGS = _names(
    "is_click is_like is_follow is_comment is_forward is_hate long_view is_profile_enter is_rand"
)

# Log columns that a label can predict, with the range of valid values; others are missing.
LABEL_COLUMNS: dict[str, tuple[float, float]] = {
    **dict.fromkeys(LOG_FLAGS, (0.0, 1.0)),
    **dict.fromkeys(("play_time_ms", "duration_ms"), (0.0, math.inf)),
    **dict.fromkeys(("profile_stay_time", "comment_stay_time"), (0.0, math.inf)),
    "tab": (0.0, 14.0),
}

USER_COLUMNS = _names(
    "user_id user_active_degree is_lowactive_period is_live_streamer is_video_author "
    "follow_user_num follow_user_num_range fans_user_num fans_user_num_range friend_user_num "
    "friend_user_num_range register_days register_days_range"
) + tuple(f"onehot_feat{i}" for i in range(18))

BASIC_COLUMNS = _names(
    "video_id author_id video_type upload_dt upload_type visible_status video_duration "
    "server_width server_height music_id music_type tag"
)

STATISTIC_COLUMNS = _names(
    "video_id counts show_cnt show_user_num play_cnt play_user_num play_duration "
    "complete_play_cnt complete_play_user_num valid_play_cnt valid_play_user_num "
    "long_time_play_cnt long_time_play_user_num short_time_play_cnt short_time_play_user_num "
    "play_progress comment_stay_duration like_cnt like_user_num click_like_cnt "
    "double_click_cnt cancel_like_cnt cancel_like_user_num comment_cnt comment_user_num "
    "direct_comment_cnt reply_comment_cnt delete_comment_cnt delete_comment_user_num "
    "comment_like_cnt comment_like_user_num follow_cnt follow_user_num cancel_follow_cnt "
    "cancel_follow_user_num share_cnt share_user_num download_cnt download_user_num report_cnt "
    "report_user_num reduce_similar_cnt reduce_similar_user_num collect_cnt collect_user_num "
    "cancel_collect_cnt cancel_collect_user_num direct_comment_user_num reply_comment_user_num "
    "share_all_cnt share_all_user_num outsite_share_all_cnt"
)

FILE_COLUMNS = {
    USER_FEATURES: USER_COLUMNS,
    VIDEO_BASIC: BASIC_COLUMNS,
    VIDEO_STATISTIC: STATISTIC_COLUMNS,
}

# Columns that hold words; every other column holds numbers. `tag` is a comma-separated list.
TEXT_COLUMNS = frozenset(
    _names(
        "user_active_degree follow_user_num_range fans_user_num_range friend_user_num_range "
        "register_days_range video_type upload_dt upload_type tag"
    )
)

UNKNOWN = -124  # how the user file writes "unknown"


@dataclass(frozen=True)
class Column:
    """An asked feature: its name, e.g. "video.follow_user_num", whom it describes, and where it is.

    ``file`` is a stem, ``source`` the column in that file; a column of words (``is_text``) can
    only be categorical, others are read as numbers where that is asked (``is_numerical``).
    """

    name: str
    side: Literal["user", "video"]
    file: str
    source: str
    is_text: bool
    is_numerical: bool = False


def resolve_feature(name: str) -> Column:
    """Find the column that a feature name means.

    A bare name is the user file's column, else the basic video file's, else the statistic
    file's; `user.x` and `video.x` say the side. `follow_user_num` is in the user file and in the
    statistic file: bare it is the user's, `video.follow_user_num` is the video's.

    Raises:
        InputError: no such feature; names the nearest known ones.
    """
    known = {}
    for file, columns in reversed(FILE_COLUMNS.items()):
        side: Literal["user", "video"] = "user" if file == USER_FEATURES else "video"
        for source in columns[1:]:
            for asked in (f"{side}.{source}", source):
                known[asked] = Column(asked, side, file, source, source in TEXT_COLUMNS)
    if name in known:
        return known[name]
    if name.rpartition(".")[2] in ("user_id", "video_id"):
        raise InputError(f"feature {name!r} is an id, not a feature; leave it out")
    raise InputError(f"unknown feature {name!r}{nearest(name, known)}")


def nearest(name: str, known: Iterable[str]) -> str:
    """Say which known names are like `name`: "; nearest: 'a', 'b'", or "" when none is."""
    close = difflib.get_close_matches(name, sorted(known), n=3, cutoff=0.6)
    return f"; nearest: {', '.join(map(repr, close))}" if close else ""
