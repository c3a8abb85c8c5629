"""What stands for a missing number: scikit-learn on training rows as an oracle, and no leak."""

from __future__ import annotations

import sys

import numpy as np
import polars as pl
import pytest
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer

from realdataexp.config import load_config
from realdataexp.data import missing as missing_module
from realdataexp.data.features import Features, fit_features
from realdataexp.data.log import DataSet, LogTable
from realdataexp.data.missing import Predicted, sample_of
from realdataexp.errors import InputError, Warnings
from realdataexp.runs.setup import set_up

N_USERS, NAMES = 400, ("height", "weight", "age")
IS_TRAINING = np.arange(N_USERS) % 4 > 0


def users(seed: int = 0) -> tuple[pl.DataFrame, np.ndarray]:
    """Users whose weight follows from their height but for little; and all their numbers."""
    g = np.random.default_rng(seed)
    height = g.normal(170, 10, N_USERS)
    weight, age = height - 100 + g.normal(0, 1, N_USERS), g.uniform(20, 60, N_USERS)
    table = np.column_stack([height, weight, age]).astype(np.float32)
    shown = {name: pl.Series(x) for name, x in zip(NAMES, table.T, strict=True)}
    is_missing = g.random((N_USERS, 2)) < 0.2
    is_missing[:, 0] &= ~is_missing[:, 1]
    for i, name in enumerate(NAMES[:2]):
        shown[name] = shown[name].set(pl.Series(is_missing[:, i]), None)
    return pl.DataFrame({"user_id": range(N_USERS), **shown}), table


def data_set(frame: pl.DataFrame) -> DataSet:
    """A log with one to three rows a user."""
    offset_U1 = np.concatenate([[0], np.cumsum(1 + np.arange(N_USERS) % 3)])
    nothing, video_N = np.zeros(N_USERS, np.int64), np.zeros(offset_U1[-1], np.int32)
    videos = pl.DataFrame({"video_id": [0, 1], "size": [3.0, 4.0]})
    video_N[::2] = 1
    return DataSet("tables", "test", LogTable(offset_U1, nothing, video_N, {}), frame, videos, {})


def fit(
    frame: pl.DataFrame,
    missing: str,
    numerical: tuple[str, ...] = NAMES,
    warnings: Warnings | None = None,
    indicator: bool = False,
) -> Features:
    return fit_features(
        data_set(frame), (*numerical, "size"), (), IS_TRAINING,
        missing_indicator=indicator, missing=missing,
        warnings=Warnings() if warnings is None else warnings,
    )  # fmt: skip


def missing_of(frame: pl.DataFrame) -> np.ndarray:
    return np.column_stack([frame[name].is_null().to_numpy() for name in NAMES])


def test_the_mean_is_0_and_zero_is_zero_in_the_feature_s_own_unit():
    frame, _ = users()
    is_missing, mean, zero = missing_of(frame), fit(frame, "mean"), fit(frame, "zero")
    assert (mean.user.num_XD[is_missing] == 0).all()
    assert np.array_equal(mean.user.num_XD[~is_missing], zero.user.num_XD[~is_missing])
    rows = 1 + np.arange(N_USERS) % 3
    for d, name in enumerate(NAMES[:2]):
        known = IS_TRAINING & ~is_missing[:, d]
        x = frame[name].to_numpy()[known].astype(np.float64)
        centre = np.average(x, weights=rows[known])
        sd = np.sqrt(np.average((x - centre) ** 2, weights=rows[known]))
        assert zero.user.num_XD[is_missing[:, d], d] == pytest.approx(-centre / sd, rel=1e-5)
        assert zero.filled[name] == {
            "n_rows": int(is_missing[:, d].sum()), "with": "zero", "mean": 0.0,
        }  # fmt: skip
        assert mean.filled[name]["mean"] == pytest.approx(centre)
    assert {*mean.filled} == {"height", "weight"}


def test_predicted_numbers_are_scikit_learn_s_fitted_on_training_rows_alone():
    frame, truth = users()
    is_missing, found = missing_of(frame), fit(frame, "predicted")
    plain = fit(frame, "mean").user.num_XD.astype(np.float64)
    z_XD = np.where(is_missing, np.nan, plain)
    low, high = (f(z_XD[IS_TRAINING], axis=0) for f in (np.nanmin, np.nanmax))
    oracle = IterativeImputer(max_iter=10, random_state=0, min_value=low, max_value=high)
    expected = oracle.fit(z_XD[IS_TRAINING]).transform(z_XD)
    assert found.user.num_XD == pytest.approx(expected, abs=1e-4)
    assert np.array_equal(found.user.num_XD[~is_missing], plain[~is_missing].astype(np.float32))
    # and they are near the truth, where the mean is a standard deviation away
    z_true = ((truth - truth.mean(0)) / truth.std(0))[is_missing]
    error, of_mean = (np.abs(x[is_missing] - z_true).mean() for x in (found.user.num_XD, plain))
    assert error < 0.2 < 0.6 < of_mean
    assert found.filled["weight"]["mean"] == pytest.approx(
        truth[is_missing[:, 1], 1].mean(), abs=0.5
    )


def test_users_who_are_held_out_influence_no_prediction():
    frame, _ = users()
    odd = frame.with_columns(
        weight=pl.when(pl.Series(~IS_TRAINING)).then(pl.lit(1e4, pl.Float32)).otherwise("weight")
    )
    one, other = (fit(x, "predicted").user.num_XD for x in (frame, odd))
    assert np.array_equal(one[IS_TRAINING], other[IS_TRAINING])
    changed = frame.with_columns(
        weight=pl.when(pl.Series(IS_TRAINING)).then(pl.col("weight") * 2).otherwise("weight")
    )
    other = fit(changed, "predicted").user.num_XD
    assert not np.array_equal(one[~IS_TRAINING], other[~IS_TRAINING])


def test_the_indicator_stands_beside_what_is_filled_in():
    frame, _ = users()
    found = fit(frame, "predicted", indicator=True).user
    assert found.numerical == ("height", "height", "weight", "weight", "age")
    is_missing = missing_of(frame)
    for column, d in ((1, 0), (3, 1)):
        assert np.array_equal(found.num_XD[:, column], is_missing[:, d].astype(np.float32))


def test_a_feature_that_nothing_predicts_is_the_mean_and_is_warned_of():
    frame, _ = users()
    warnings = Warnings()
    found = fit(frame, "predicted", ("weight",), warnings)
    assert (found.user.num_XD[missing_of(frame)[:, 1]] == 0).all()
    assert [w["code"] for w in warnings] == ["nothing_predicts_missing"]


def test_a_feature_without_any_value_takes_no_part():
    frame, _ = users()
    empty = frame.with_columns(age=pl.lit(None, pl.Float32))
    found = fit(empty, "predicted")
    assert (found.user.num_XD[:, 2] == 0).all()
    two = fit(frame.drop("age"), "predicted", NAMES[:2])
    assert np.array_equal(found.user.num_XD[:, :2], two.user.num_XD)


def test_predictions_stay_within_the_range_of_training_rows():
    g = np.random.default_rng(0)
    x = g.normal(size=(200, 1))
    fitted = Predicted(np.hstack([x, 2 * x]), ["a", "b"], Warnings())
    found = fitted.fill(np.array([[50.0, np.nan], [-50.0, np.nan]]))
    assert found[:, 1] == pytest.approx([2 * x.max(), 2 * x.min()])


def test_rounds_that_do_not_settle_are_warned_of(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(missing_module, "_ROUNDS", 1)
    warnings, (frame, _) = Warnings(), users()
    fit(frame, "predicted", warnings=warnings)
    assert [w["code"] for w in warnings] == ["imputer_not_converged"]


@pytest.mark.parametrize("sizes", [[10], [3, 4, 3], [1] * 10])
def test_rows_to_fit_to_do_not_depend_on_blocks(sizes: list[int], monkeypatch: pytest.MonkeyPatch):
    rows = np.arange(10)[:, None]
    blocks = np.split(rows, np.cumsum(sizes)[:-1])
    assert sample_of(blocks, 10)[:, 0].tolist() == list(range(10))
    monkeypatch.setattr(missing_module, "_MOST_FITTED", 4)
    assert sample_of(blocks, 10)[:, 0].tolist() == [0, 3, 6, 9]


def test_without_scikit_learn_it_is_one_line(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "sklearn.exceptions", None)
    with pytest.raises(InputError, match=r"feature\.missing = 'predicted': needs scikit-learn"):
        Predicted(np.zeros((3, 2)), ["a", "b"], Warnings())


def test_a_run_counts_what_it_filled_in():
    small = [
        "dataset.synthetic.users=200", "dataset.synthetic.videos=80", "dataset.synthetic.rows=4000",
        "experiment.starts=1", "feature.missing=predicted",
    ]  # fmt: skip
    stats = set_up(load_config("demo", small), Warnings()).environment.stats()
    filled, features = stats["filled"], stats["features"]
    assert filled and all(x["with"] == "predicted" for x in filled.values())
    assert {k: x["n_rows"] for k, x in filled.items()} == {
        k: features[k]["n_missing"] for k in filled
    }
    with pytest.raises(InputError, match=r"feature\.missing.*one of mean"):
        load_config("demo", ["feature.missing=median"])
