"""Features are fitted on what training users saw: scikit-learn on the joined rows as an oracle."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest
from sklearn.preprocessing import StandardScaler

from realdataexp.data import log as split_module
from realdataexp.data.features import (
    MISSING_ID,
    UNSEEN_ID,
    Features,
    FeatureTable,
    _fit_numbers,
    _warn_of_extremes,
    fit_features,
    training_counts,
)
from realdataexp.data.log import DataSet, LogTable
from realdataexp.errors import InputError, Warnings
from realdataexp.worlds.replay import schema_of

LENGTHS = np.array([4, 0, 9, 2, 6, 5])
IS_TRAINING = np.array([True, True, False, True, False, True])
N_VIDEOS = 8


def data_set(**columns: list[Any]) -> DataSet:
    """A small log; ``user_...`` and ``video_...`` columns go to their tables, in full name."""
    offset_U1 = np.concatenate([[0], np.cumsum(LENGTHS)])
    # video 6 occurs in validation users' rows only, video 7 in none
    video_N = np.random.default_rng(0).integers(0, 6, offset_U1[-1]).astype(np.int32)
    user_N = np.repeat(np.arange(len(LENGTHS)), LENGTHS)
    video_N[np.flatnonzero(~IS_TRAINING[user_N])[::3]] = 6
    log = LogTable(offset_U1, np.zeros(len(LENGTHS), dtype=np.int64), video_N, {})
    users = {"user_id": list(range(len(LENGTHS)))}
    videos = {"video_id": list(range(N_VIDEOS))}
    for name, values in columns.items():
        (users if name.startswith("user_") else videos)[name] = values
    frames = [
        pl.DataFrame(
            [
                pl.Series(name, values, dtype=pl.Int64 if name.endswith("_id") else None)
                for name, values in table.items()
            ],
            strict=False,
        )
        for table in (users, videos)
    ]
    frames = [frame.with_columns(pl.col(pl.Float64).cast(pl.Float32)) for frame in frames]
    return DataSet("pure", "test", log, *frames, {})


def fit(
    data: DataSet,
    numerical: tuple[str, ...] = (),
    categorical: tuple[str, ...] = (),
    *,
    indicator: bool = False,
    warnings: Warnings | None = None,
) -> Features:
    return fit_features(
        data,
        numerical,
        categorical,
        IS_TRAINING,
        missing_indicator=indicator,
        warnings=warnings if warnings is not None else Warnings(),
    )


def training_rows(data: DataSet) -> tuple[np.ndarray, np.ndarray]:
    """User and video of every row of a training user, one by one."""
    pairs = [
        (user, int(data.log.video_N[row]))
        for user in range(len(LENGTHS))
        for row in range(int(data.log.offset_U1[user]), int(data.log.offset_U1[user + 1]))
        if IS_TRAINING[user]
    ]
    users, videos = zip(*pairs, strict=True)
    return np.array(users), np.array(videos)


def same(a: FeatureTable, b: FeatureTable, rows: slice | np.ndarray) -> bool:
    return all(
        np.array_equal(getattr(a, name)[rows], getattr(b, name)[rows])
        for name in ("num_XD", "cat_XK", "weight_XK")
    )


AGE = [20.0, 90.0, 55.0, 31.0, None, 47.0]
FANS = [1e6, 5.0, 2e7, 3.5e6, 0.0, 4e3]
LENGTH = [7.0, 1.5, None, 3.0, 12.0, 0.5, 100.0, 1000.0]
TYPE = ["ad", "normal", None, "normal", "live", "ad", "only_validation", "never"]
TAG = ["1,2,3", "2", None, "3,11", "1", "2,1", "1,99", "77"]
CITY = ["b", "only_user_1", "only_validation", "a", "b", None]


def standard_data() -> DataSet:
    return data_set(user_age=AGE, user_fans=FANS, user_city=CITY, length=LENGTH, type=TYPE, tag=TAG)


NUMBERS, CATEGORIES = ("user_age", "length", "user_fans"), ("tag", "user_city", "type")


# --- which rows count ------------------------------------------------------------------------


@pytest.mark.parametrize("block_rows", [1, 4, 7, 1 << 22])
def test_training_counts_equal_counting_row_by_row(
    monkeypatch: pytest.MonkeyPatch, block_rows: int
) -> None:
    monkeypatch.setattr(split_module, "_BLOCK_ROWS", block_rows)
    data = standard_data()
    rows_U, count_V = training_counts(data, IS_TRAINING)
    users, videos = training_rows(data)
    assert rows_U.tolist() == np.bincount(users, minlength=len(LENGTHS)).tolist()
    assert count_V.tolist() == np.bincount(videos, minlength=N_VIDEOS).tolist()
    assert count_V[6] == count_V[7] == 0


def test_validation_users_and_their_videos_influence_nothing() -> None:
    data = standard_data()
    before = fit(data, NUMBERS, CATEGORIES, indicator=True)
    changed_user = pl.Series([*IS_TRAINING[:-1].tolist(), True])
    users = data.users.with_columns(
        pl.when(changed_user).then("user_age").otherwise(pl.lit(-1e9)).alias("user_age"),
        pl.when(changed_user).then("user_fans").otherwise(None).alias("user_fans"),
        pl.when(changed_user).then("user_city").otherwise(pl.lit("new")).alias("user_city"),
    )
    seen = pl.Series([i < 6 for i in range(N_VIDEOS)])
    videos = data.videos.with_columns(
        pl.when(seen).then("length").otherwise(pl.lit(1e9)).alias("length"),
        pl.when(seen).then("tag").otherwise(pl.lit("5,6")).alias("tag"),
        pl.when(seen).then("type").otherwise(pl.lit("new")).alias("type"),
    )
    changed = replace(data, users=users, videos=videos)
    after = fit(changed, NUMBERS, CATEGORIES, indicator=True)
    assert before.user.numerical == after.user.numerical
    assert before.user.fields == after.user.fields and before.video.fields == after.video.fields
    assert same(before.user, after.user, IS_TRAINING)
    assert same(before.video, after.video, slice(0, 6))
    assert not same(before.user, after.user, ~IS_TRAINING)  # the change was there to be seen


def test_training_users_do_influence() -> None:
    before = fit(standard_data(), NUMBERS, CATEGORIES)
    data = data_set(
        user_age=[25.0, *AGE[1:]], user_fans=FANS, user_city=CITY, length=LENGTH, type=TYPE, tag=TAG
    )
    assert not same(before.user, fit(data, NUMBERS, CATEGORIES).user, slice(2, 3))


# --- numbers ---------------------------------------------------------------------------------


def test_standardisation_equals_scikit_learn_on_the_joined_training_rows() -> None:
    data = standard_data()
    features = fit(data, NUMBERS, ())
    assert features.user.numerical == ("user_age", "user_fans")
    assert features.video.numerical == ("length",)
    users, videos = training_rows(data)
    for table, frame, rows in (
        (features.user, data.users, users),
        (features.video, data.videos, videos),
    ):
        raw_XD = frame.select(table.numerical).cast(pl.Float64).to_numpy()
        scaler = StandardScaler().fit(raw_XD[rows])
        expected_XD = np.nan_to_num(scaler.transform(raw_XD), nan=0.0)
        assert table.num_XD.dtype == np.float32
        np.testing.assert_allclose(table.num_XD, expected_XD, rtol=1e-5, atol=1e-6)
        assert np.ptp(expected_XD) > 1


def test_standardised_training_rows_have_mean_0_and_sd_1() -> None:
    data = standard_data()
    users, _ = training_rows(data)
    z_N = fit(data, ("user_fans", "length")).user.num_XD[users, 0]
    assert z_N.mean() == pytest.approx(0, abs=1e-6) and z_N.std() == pytest.approx(1, rel=1e-6)
    # users weigh by their rows: not each user the same
    z_U = fit(data, ("user_fans", "length")).user.num_XD[IS_TRAINING, 0]
    assert abs(z_U.mean()) > 0.01


def test_a_missing_number_is_0_and_its_indicator_1() -> None:
    features = fit(standard_data(), NUMBERS, indicator=True)
    # user 4, whose age is missing, does not train: no training row ever shows the indicator
    assert features.user.numerical == ("user_age", "user_fans")
    assert features.user.num_XD[4, 0] == 0.0
    assert features.video.numerical == ("length", "length")
    assert features.video.num_XD[:, 1].tolist() == [0, 0, 1, 0, 0, 0, 0, 0]
    assert features.video.num_XD[2, 0] == 0.0
    plain = fit(standard_data(), NUMBERS)
    assert plain.video.numerical == ("length",)
    assert np.array_equal(plain.video.num_XD[:, 0], features.video.num_XD[:, 0])


def test_the_schema_says_which_columns_and_ids_are_a_features() -> None:
    schema = schema_of(fit(standard_data(), NUMBERS, CATEGORIES, indicator=True))
    assert schema.user.numerical == ("user_age", "user_fans")
    assert schema.video.numerical == ("length", "length")
    assert schema.names == ("user_age", "user_fans", "user_city", "length", "tag", "type")
    assert schema.video.first_ids == (0, 2 + 4)  # missing, unseen, and the tags 1, 11, 2, 3
    assert schema.user.first_ids == (0,)


def test_features_that_never_vary_or_are_empty_warn_and_stay_finite() -> None:
    data = data_set(
        user_same=[3.0, 3.0, 8.0, 3.0, 9.0, 3.0],
        user_empty=[None, 1.0, 2.0, None, 3.0, None],
        user_large=[1e8] * 6,
        length=LENGTH,
    )
    warnings = Warnings()
    features = fit(
        data,
        ("user_same", "user_empty", "user_large", "length"),
        indicator=True,
        warnings=warnings,
    )
    assert [(w["code"], w["message"].split(":")[0]) for w in warnings] == [
        ("constant_feature", "feature user_same"),
        ("feature_without_values", "feature user_empty"),
        ("constant_feature", "feature user_large"),
    ]
    assert features.user.numerical == ("user_same", "user_empty", "user_large")
    assert features.user.num_XD[IS_TRAINING].tolist() == [[0, 0, 0]] * 4
    assert np.isfinite(features.user.num_XD).all()
    assert features.user.num_XD[:, 1].tolist() == [0] * 6


@pytest.mark.parametrize("value", [1e30, -1e30, 1e7])
def test_a_value_beside_which_the_others_are_all_alike_is_warned_of(value: float) -> None:
    ages = [20.0 + i % 50 for i in range(1000)]
    ages[137] = value
    data = replace(standard_data(), users=pl.DataFrame({"user_age": ages}).cast(pl.Float32))
    warnings, weights = Warnings(), np.ones(1000)
    scales = _fit_numbers(data.users, ["user_age"], weights, False, warnings)
    _warn_of_extremes(data.users, scales, warnings)
    (item,) = warnings
    assert item["code"] == "extreme_feature"
    assert f"feature user_age: 1 of 1,000 values, such as {value:g}," in item["message"]
    ages[137] = 70.0 * 20
    plain = pl.DataFrame({"user_age": ages})
    warnings = Warnings()
    _warn_of_extremes(plain, _fit_numbers(plain, ["user_age"], weights, False, warnings), warnings)
    assert not list(warnings)


# --- categories ------------------------------------------------------------------------------


def test_levels_are_those_of_training_rows_and_ids_their_places() -> None:
    data = standard_data()
    features = fit(data, (), CATEGORIES)
    _, videos = training_rows(data)
    assert set(videos.tolist()) == {0, 1, 2, 3, 4, 5}  # else the levels below are not all
    (city,) = features.user.fields
    # users 0, 3 and 5 train and have rows; user 1 trains, but has none
    assert (city.name, city.levels, city.first_id) == ("user_city", ("a", "b"), 0)
    a, b = 2, 3
    expected = [b, UNSEEN_ID, UNSEEN_ID, a, b, MISSING_ID]
    assert features.user.cat_XK[:, 0].tolist() == expected
    assert features.user.n_ids == 4
    tag, kind = features.video.fields
    assert tag.levels == ("1", "11", "2", "3") and kind.levels == ("ad", "live", "normal")
    assert (tag.first_slot, tag.end_slot, kind.first_slot, kind.end_slot) == (0, 3, 3, 4)
    assert kind.first_id == 2 + 4 and features.video.n_ids == (2 + 4) + (2 + 3)
    ad, live, normal = 8, 9, 10
    expected = [ad, normal, 6 + MISSING_ID, normal, live, ad, 6 + UNSEEN_ID, 6 + UNSEEN_ID]
    assert features.video.cat_XK[:, 3].tolist() == expected
    assert features.video.weight_XK[:, 3].tolist() == [1] * 8


def test_a_multi_hot_feature_has_a_slot_for_each_entry() -> None:
    video = fit(standard_data(), (), ("tag",)).video
    one, eleven, two, three = range(2, 6)
    rows = [
        [i for i, w in zip(ids, weights, strict=True) if w]
        for ids, weights in zip(video.cat_XK.tolist(), video.weight_XK.tolist(), strict=True)
    ]
    assert rows == [
        [one, two, three],
        [two],
        [MISSING_ID],
        [three, eleven],
        [one],
        [two, one],
        [one, UNSEEN_ID],
        [UNSEEN_ID],
    ]
    assert set(np.unique(video.weight_XK)) == {0.0, 1.0}
    assert video.cat_XK.dtype == np.int32 and video.weight_XK.dtype == np.float32
    assert int(video.cat_XK.min()) >= 0 and int(video.cat_XK.max()) < video.n_ids


def test_only_tags_are_split_at_commas_and_spaces_do_not_count() -> None:
    data = data_set(type=["a,b"] * 8, tag=[" 1, 2 "] * 4 + ["2,1"] * 4)
    features = fit(data, (), ("type", "tag"))
    kind, tag = features.video.fields
    assert kind.levels == ("a,b",) and kind.end_slot - kind.first_slot == 1
    assert tag.levels == ("1", "2")
    offset = tag.first_id
    assert features.video.cat_XK[0, 1:].tolist() == [offset + 2, offset + 3]
    assert features.video.cat_XK[7, 1:].tolist() == [offset + 3, offset + 2]


def test_an_empty_entry_of_a_list_is_no_category() -> None:
    data = data_set(tag=["1,", ",2", "", ",", None, "1,,2", "1", "2"])
    video = fit(data, (), ("tag",)).video
    assert video.fields[0].levels == ("1", "2")
    filled = [
        [i for i, w in zip(ids, weights, strict=True) if w]
        for ids, weights in zip(video.cat_XK.tolist(), video.weight_XK.tolist(), strict=True)
    ]
    assert filled == [[2], [3], [0], [0], [0], [2, 3], [2], [3]]


@pytest.mark.parametrize("column", [[None] * 8, [None] * 6 + ["x", "y"]])
@pytest.mark.parametrize("name", ["type", "tag"])
def test_a_category_without_a_level_in_training_rows_is_missing_or_unseen(
    name: str, column: list[str | None]
) -> None:
    data = data_set(**{name: pl.Series(column, dtype=pl.String)})
    video = fit(data, (), (name,)).video
    assert video.fields[0].levels == () and video.n_ids == 2
    expected = [MISSING_ID if x is None else UNSEEN_ID for x in column]
    assert video.cat_XK.tolist() == [[i] for i in expected]
    assert video.weight_XK.tolist() == [[1.0]] * 8


def test_a_model_needs_a_video_feature() -> None:
    data = standard_data()
    with pytest.raises(InputError, match="no video feature is listed"):
        fit(data, ("user_age",), ("user_city",))
    features = fit(data, ("length",), ())
    assert features.user.num_XD.shape == (6, 0) and features.user.cat_XK.shape == (6, 0)
    assert features.user.n_ids == 0 and features.user.fields == ()


def test_features_do_not_depend_on_the_order_of_their_names_but_for_their_place() -> None:
    data = standard_data()
    one, other = fit(data, (), ("tag", "type")).video, fit(data, (), ("type", "tag")).video
    assert [f.levels for f in one.fields] == [f.levels for f in other.fields][::-1]
    assert np.array_equal(one.cat_XK[:, 3] - one.fields[1].first_id, other.cat_XK[:, 0])
