"""Metrics: values by hand, scikit-learn and SciPy as oracles, what is left out and counted."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats
from sklearn.metrics import roc_auc_score
from torch import Tensor

from realdataexp.metrics import (
    LABEL_METRICS,
    METRICS,
    _Places,
    binary_metrics,
    categorical_metrics,
    derived_metrics,
    derived_names,
    numerical_metrics,
    ranking_metrics,
)
from realdataexp.models import LOSSES, LabelScale

NAN, INF = math.nan, math.inf
Metrics = dict[str, Tensor]


def tensor(values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def floats(metrics: Metrics) -> dict[str, object]:
    """Lists as pytest.approx compares them."""
    return {k: pytest.approx(v.tolist(), abs=1e-12, nan_ok=True) for k, v in metrics.items()}


def same(a: Metrics, b: Metrics) -> bool:
    return a.keys() == b.keys() and all(a[k].tolist() == floats(b)[k] for k in a)


# --- by hand -------------------------------------------------------------------------------


def test_binary_by_hand() -> None:
    p_SN = tensor([[0.9, 0.5, 0.5, 0.25], [0.2, 0.8, 0.4, 0.6]])
    m = binary_metrics(p_SN, tensor([1, 1, 0, 0]))
    # pairs of the first network: 0.9 wins twice, 0.5 wins once and ties once
    # of the second: 0.2 loses twice, 0.8 wins twice
    assert m["auc"].tolist() == [3.5 / 4, 2 / 4]
    assert m["accuracy"].tolist() == [3 / 4, 2 / 4]
    logs = [0.9 * 0.5 * 0.5 * 0.75, 0.2 * 0.8 * 0.6 * 0.4]
    assert m["log_loss"].tolist() == pytest.approx([-math.log(x) / 4 for x in logs])
    # bins: 0.9 of a 1; 0.5 of half ones; 0.25 of a 0 -- each row of the second has its own bin
    gaps = [(0.1 + 0 + 0.25) / 4, (0.8 + 0.2 + 0.4 + 0.6) / 4]
    assert m["calibration_error"].tolist() == pytest.approx(gaps)
    assert m["n_rows"].tolist() == [4, 4]
    assert m["n_nonfinite"].tolist() == [0, 0]


def test_a_bin_has_its_lower_edge_and_the_last_one_has_1() -> None:
    # 0.5 and 0.59 share a bin (gaps cancel), 0.49 has another; 0.95 and 1 share the last
    apart = binary_metrics(tensor([[0.49, 0.5]]), tensor([0, 1]))["calibration_error"]
    together = binary_metrics(tensor([[0.5, 0.59]]), tensor([0, 1]))["calibration_error"]
    last = binary_metrics(tensor([[0.95, 1.0]]), tensor([0, 1]))["calibration_error"]
    assert apart.item() == pytest.approx((0.49 + 0.5) / 2)
    assert together.item() == pytest.approx((1.09 - 1) / 2)
    assert last.item() == pytest.approx((1.95 - 1) / 2)


def test_numerical_by_hand() -> None:
    e = math.e
    prediction_SN = tensor([[0.0, e - 1, 5.0, 3.0], [-2.0, e - 1, 1.0, 1.0]])
    m = numerical_metrics(prediction_SN, tensor([0.0, e**2 - 1, 4.0, 2.0]))
    near = [math.log(6 / 5), math.log(4 / 3)]
    far = [math.log(5 / 2), math.log(3 / 2)]
    assert m["log_mae"].tolist() == pytest.approx([(1 + sum(near)) / 4, (1 + sum(far)) / 4])
    miss = e**2 - e
    assert m["mae"].tolist() == pytest.approx([(miss + 2) / 4, (2 + miss + 3 + 1) / 4])
    relative = miss / (e**2 - 1)
    assert m["relative_error"].tolist() == pytest.approx(
        [(relative + 1 / 4 + 1 / 2) / 3, (relative + 3 / 4 + 1 / 2) / 3]
    )
    # true ranks 1 4 3 2; predicted 1 2 4 3, and 1 4 2.5 2.5
    assert m["spearman"].tolist() == pytest.approx([1 - 6 * 6 / 60, 4.5 / math.sqrt(5 * 4.5)])
    assert m["n_nonzero"].tolist() == [3, 3]


def test_categorical_by_hand() -> None:
    m = categorical_metrics(tensor([[0.5, 1.0, 1.5], [2.0, 1.0, 0.0]]), tensor([0, 1, 2]))
    assert m["mae"].tolist() == pytest.approx([1 / 3, 4 / 3])
    assert m["spearman"].tolist() == pytest.approx([1.0, -1.0])
    assert m["n_rows"].tolist() == [3, 3]


def test_ranking_by_hand() -> None:
    score_XBC = tensor([[[3, 2, 1], [1, 1, 9]], [[1, 2, 3], [2, 1, 9]]])
    outcome_BC = tensor([[6, 0, 2], [4, 1, 100]])
    is_candidate_BC = torch.tensor([[True, True, True], [True, True, False]])
    m = ranking_metrics(score_XBC, outcome_BC, is_candidate_BC)
    assert m["picked"].tolist() == [(6 + 4) / 2, (2 + 4) / 2]
    second, third = 1 / math.log2(3), 1 / 2
    best = 6 + 2 * second
    tied = (4 + 1) * (1 + second) / 2 / (4 + second)
    expected = [((6 + 2 * third) / best + tied) / 2, ((2 + 6 * third) / best + 1) / 2]
    assert m["ndcg"].tolist() == pytest.approx(expected)
    assert m["n_visits"].tolist() == m["n_ndcg"].tolist() == [2, 2]


# --- oracles -------------------------------------------------------------------------------


def stacked(kind: str, seed: int) -> tuple[Tensor, Tensor]:
    """Predictions of 6 networks with ties, and labels of their own with missing ones."""
    rng = np.random.default_rng(seed)
    shape = (6, 80)
    if kind == "binary":
        p, y = rng.integers(0, 21, shape) / 20, rng.random(shape) < 0.3
    else:
        p, y = rng.integers(-3, 30, shape) / 2, rng.integers(0, 12, shape)
    y = np.where(rng.random(shape) < 0.2, NAN, y)
    p = np.where(rng.random(shape) < 0.1, rng.choice([NAN, INF, -INF], shape), p)
    return tensor(p), tensor(y)


def used_rows(p_SN: Tensor, y_SN: Tensor, s: int) -> tuple[np.ndarray, np.ndarray]:
    p, y = p_SN[s].numpy(), y_SN[s].numpy()
    used = np.isfinite(p) & np.isfinite(y)
    return p[used], y[used]


@pytest.mark.parametrize("seed", range(5))
def test_binary_against_scikit_learn(seed: int) -> None:
    sk = pytest.importorskip("sklearn.metrics")
    p_SN, y_SN = stacked("binary", seed)
    m = binary_metrics(p_SN, y_SN)
    for s in range(len(p_SN)):
        p, y = used_rows(p_SN, y_SN, s)
        assert m["auc"][s].item() == pytest.approx(sk.roc_auc_score(y, p), abs=1e-12)
        assert m["accuracy"][s].item() == pytest.approx(sk.accuracy_score(y, p >= 0.5))
        assert m["log_loss"][s].item() == pytest.approx(sk.log_loss(y, p), abs=1e-12)
        which = np.minimum((p * 10).astype(int), 9)
        gaps = [
            (which == k).sum() * abs(p[which == k].mean() - y[which == k].mean())
            for k in set(which)
        ]
        assert m["calibration_error"][s].item() == pytest.approx(sum(gaps) / len(p), abs=1e-12)
        assert m["n_rows"][s].item() == len(p)
        assert (m["n_rows"] + m["n_nonfinite"])[s].item() == np.isfinite(y_SN[s].numpy()).sum()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_log_loss_clips_as_scikit_learn(dtype: torch.dtype) -> None:
    sk = pytest.importorskip("sklearn.metrics")
    p_SN, y_N = torch.tensor([[0.0, 1.0, 1.0, 0.0]], dtype=dtype), tensor([0, 1, 0, 1])
    expected = sk.log_loss(y_N.numpy(), p_SN[0].numpy())
    assert binary_metrics(p_SN, y_N)["log_loss"].item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_numerical_against_scipy_and_scikit_learn(seed: int) -> None:
    sk = pytest.importorskip("sklearn.metrics")
    p_SN, y_SN = stacked("numerical", seed)
    m, c = numerical_metrics(p_SN, y_SN), categorical_metrics(p_SN, y_SN)
    for s in range(len(p_SN)):
        p, y = used_rows(p_SN, y_SN, s)
        log_mae = sk.mean_absolute_error(np.log1p(y), np.log1p(np.maximum(p, 0)))
        assert m["log_mae"][s].item() == pytest.approx(log_mae, abs=1e-12)
        assert m["mae"][s].item() == pytest.approx(sk.mean_absolute_error(y, p), abs=1e-12)
        relative = sk.mean_absolute_percentage_error(y[y != 0], p[y != 0])
        assert m["relative_error"][s].item() == pytest.approx(relative, abs=1e-12)
        rho = stats.spearmanr(p, y).statistic
        assert m["spearman"][s].item() == pytest.approx(rho, abs=1e-12)
        assert m["n_nonzero"][s].item() == (y != 0).sum()
    assert same(c, {name: m[name] for name in c})


@pytest.mark.parametrize("seed", range(5))
def test_ranking_against_scikit_learn(seed: int) -> None:
    sk = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(seed)
    score = rng.integers(0, 6, (2, 3, 30, 7)) / 2
    outcome = np.where(rng.random((30, 7)) < 0.15, NAN, rng.integers(0, 4, (30, 7)))
    is_candidate = rng.random((30, 7)) < 0.7
    m = ranking_metrics(tensor(score), tensor(outcome), torch.from_numpy(is_candidate))
    for x in np.ndindex(2, 3):
        picked, ndcg = [], []
        for b in range(30):
            on = is_candidate[b] & np.isfinite(outcome[b])
            s, y = score[x][b][on], outcome[b][on]
            picked += [y[s.argmax()]] if len(y) else []
            ndcg += [sk.ndcg_score([y], [s])] if len(set(y)) > 1 else []
        assert m["picked"][x].item() == pytest.approx(np.mean(picked), abs=1e-12)
        assert m["ndcg"][x].item() == pytest.approx(np.mean(ndcg), abs=1e-12)
        assert (m["n_visits"][x].item(), m["n_ndcg"][x].item()) == (len(picked), len(ndcg))


# --- what is left out ----------------------------------------------------------------------


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_one_class_has_no_auc_but_the_rest(label: float) -> None:
    m = binary_metrics(tensor([[0.2, 0.6, 0.7]]), tensor([label] * 3))
    assert m["auc"].isnan().all()
    assert m["accuracy"].item() == pytest.approx(2 / 3 if label else 1 / 3)
    assert torch.isfinite(m["log_loss"]).all()


@pytest.mark.parametrize("kind", list(LABEL_METRICS))
@pytest.mark.parametrize(
    ("prediction_SN", "y_N"),
    [
        (torch.zeros(3, 0), torch.zeros(0)),
        (torch.full((3, 4), 0.5), torch.full((4,), NAN)),
        (torch.full((3, 4), NAN), torch.ones(4)),
    ],
    ids=["no rows", "no labels", "no predictions"],
)
def test_without_rows_nothing_is_defined(kind: str, prediction_SN: Tensor, y_N: Tensor) -> None:
    m = LABEL_METRICS[kind](prediction_SN, y_N)
    for name, value in m.items():
        assert value.shape == (3,)
        assert value.isnan().all() if name in METRICS else name == "n_nonfinite" or not value.any()
    has_labels = len(y_N) > 0 and bool(torch.isfinite(y_N).all())
    assert m["n_nonfinite"].tolist() == [4 if has_labels else 0] * 3


@pytest.mark.parametrize("kind", list(LABEL_METRICS))
def test_a_bad_row_counts_for_its_own_network_only(kind: str) -> None:
    rng = np.random.default_rng(0)
    p_SN, y_N = tensor(rng.random((3, 20))), tensor(rng.integers(0, 2, 20))
    bad_SN = p_SN.clone()
    bad_SN[1, [2, 5, 7]] = tensor([NAN, INF, -INF])
    y_N[5] = NAN  # a missing label hides what was predicted
    m = LABEL_METRICS[kind](bad_SN, y_N)
    assert m["n_nonfinite"].tolist() == [0, 2, 0]
    assert m["n_rows"].tolist() == [19, 17, 19]
    kept = [i for i in range(20) if i not in (2, 5, 7)]
    clean, short = LABEL_METRICS[kind](p_SN, y_N), LABEL_METRICS[kind](p_SN[:, kept], y_N[kept])
    for name in METRICS.keys() & m.keys():
        assert m[name].tolist() == pytest.approx(
            [clean[name][0].item(), short[name][1].item(), clean[name][2].item()], abs=1e-12
        )


@pytest.mark.parametrize("kind", list(LABEL_METRICS))
def test_stacked_networks_are_each_as_alone(kind: str) -> None:
    p_SN, y_SN = stacked("binary" if kind == "binary" else "numerical", 9)
    together = LABEL_METRICS[kind](p_SN, y_SN)
    alone = [LABEL_METRICS[kind](p[None], y) for p, y in zip(p_SN, y_SN, strict=True)]
    assert same(together, {k: torch.cat([m[k] for m in alone]) for k in together})
    shared = LABEL_METRICS[kind](p_SN, y_SN[0])
    assert same(shared, LABEL_METRICS[kind](p_SN, y_SN[:1].expand(6, -1)))


def test_constant_predictions_or_truths_have_no_spearman() -> None:
    p_SN = tensor([[0.1, 0.1, 0.1], [1, 2, 3]])
    assert (
        numerical_metrics(p_SN, tensor([1, 2, 3]))["spearman"].tolist()
        == floats({"rho": tensor([NAN, 1.0])})["rho"]
    )
    assert numerical_metrics(p_SN, tensor([2, 2, 2]))["spearman"].isnan().all()
    assert numerical_metrics(p_SN[:, :1], tensor([2]))["spearman"].isnan().all()


def test_a_negative_truth_has_no_log_mae() -> None:
    p_SN = tensor([[1.0, 2.0], [NAN, 2.0]])
    m = numerical_metrics(p_SN, tensor([-0.5, 2.0]))
    assert m["log_mae"].tolist() == floats({"log_mae": tensor([NAN, 0.0])})["log_mae"]
    assert m["mae"].tolist() == [0.75, 0.0]


def test_all_truths_zero_have_no_relative_error() -> None:
    m = numerical_metrics(tensor([[1.0, 2.0]]), tensor([0.0, 0.0]))
    assert m["relative_error"].isnan().all()
    assert m["n_nonzero"].tolist() == [0]


def test_log_mae_is_the_loss_of_that_name() -> None:
    raw_NO = torch.randn(50, 1, generator=torch.Generator().manual_seed(0)).double()
    y_N = torch.arange(50, dtype=torch.float64)
    loss, scale = LOSSES["logMAE"], LabelScale(mean=6.0, sd=0.5)
    m = numerical_metrics(loss.predict(raw_NO, scale)[None], y_N)
    assert m["log_mae"].item() == pytest.approx(loss.elementwise(raw_NO, y_N, scale).mean().item())


def test_log_loss_is_the_loss_of_binary_labels() -> None:
    raw_NO = torch.randn(50, 1, generator=torch.Generator().manual_seed(0)).double()
    y_N, scale = (torch.arange(50) % 2).double(), LabelScale()
    m = binary_metrics(LOSSES["BCE"].predict(raw_NO, scale)[None], y_N)
    expected = LOSSES["BCE"].elementwise(raw_NO, y_N, scale).mean().item()
    assert m["log_loss"].item() == pytest.approx(expected)


def test_slates_that_ndcg_leaves_out() -> None:
    outcome_BC = tensor([[2, 2], [0, 0], [-1, 3], [5, NAN], [NAN, NAN], [1, 0]])
    score_XBC = tensor([[1.0, 2.0]]).expand(6, 2).clone()[None]
    m = ranking_metrics(score_XBC, outcome_BC, torch.ones(6, 2, dtype=torch.bool))
    # equal, all zero, below zero and a single known outcome are picked from, but not ordered
    assert (m["n_visits"].item(), m["n_ndcg"].item()) == (5, 1)
    assert m["picked"].item() == pytest.approx((2 + 0 + 3 + 5 + 0) / 5)
    assert m["ndcg"].item() == pytest.approx(1 / math.log2(3))


def test_visits_with_a_bad_score() -> None:
    score_XBC = tensor([[[NAN, 1], [2, 1], [INF, 1]], [[1, 2], [NAN, NAN], [-INF, 1]]])
    outcome_BC = tensor([[1, 0], [3, 0], [NAN, 4]])
    m = ranking_metrics(score_XBC, outcome_BC, torch.ones(3, 2, dtype=torch.bool))
    # in the third visit the bad score is of a candidate without an outcome
    assert m["n_nonfinite"].tolist() == [1, 1]
    assert m["n_visits"].tolist() == [2, 2]
    assert m["picked"].tolist() == [3.5, 2.0]
    assert m["ndcg"].tolist() == pytest.approx([1.0, 1 / math.log2(3)])
    padded = ranking_metrics(score_XBC, outcome_BC, torch.tensor([False, True]).expand(3, 2))
    assert padded["n_nonfinite"].tolist() == [0, 1]


@pytest.mark.parametrize(("B", "outcome"), [(0, 1.0), (3, NAN)])
def test_ranking_without_visits(B: int, outcome: float) -> None:
    on_BC = torch.ones(B, 4, dtype=torch.bool)
    m = ranking_metrics(torch.zeros(2, B, 4), torch.full((B, 4), outcome), on_BC)
    assert m["picked"].isnan().all()
    assert m["ndcg"].isnan().all()
    assert [m[n].tolist() for n in ("n_visits", "n_nonfinite", "n_ndcg")] == [[0, 0]] * 3


def test_every_metric_is_described_and_says_what_it_rests_on() -> None:
    p_SN, y_N = torch.rand(2, 9), torch.arange(9) % 2
    on_BC = torch.ones(3, 4, dtype=torch.bool)
    results = [f(p_SN, y_N) for f in LABEL_METRICS.values()]
    results.append(ranking_metrics(torch.rand(2, 3, 4), torch.rand(3, 4), on_BC))
    assert {n for m in results for n in m if not n.startswith("n_")} == METRICS.keys()
    for m in results:
        for name, value in m.items():
            assert value.shape == (2,)
            assert value.dtype == (torch.float64 if name in METRICS else torch.int64)
            assert name not in METRICS or METRICS[name].count in m


# --- properties ----------------------------------------------------------------------------

VALUE = st.one_of(st.integers(-4, 9).map(float), st.sampled_from([0.3, NAN, INF]))
ROWS = st.integers(0, 12).flatmap(
    lambda n: st.tuples(
        arrays(np.float64, (2, n), elements=VALUE),
        arrays(np.float64, (2, n), elements=st.sampled_from([0.0, 1.0, 2.0, NAN])),
    )
)


def better(perfect: Metrics, other: Metrics) -> bool:
    """Whether a perfect prediction is at least as good wherever both are defined."""
    for name in METRICS.keys() & other.keys():
        gain = perfect[name] - other[name]
        gain = gain if METRICS[name].is_higher_better else -gain
        if (gain[torch.isfinite(gain)] < -1e-9).any():
            return False
    return True


@settings(max_examples=100, deadline=None)
@given(ROWS)
def test_metrics_keep_to_their_ranges_and_truth_is_best(rows: tuple[np.ndarray, ...]) -> None:
    prediction_SN, y_SN = (tensor(x) for x in rows)
    is_used_SN = torch.isfinite(prediction_SN)
    cases: list[tuple[Callable[[Tensor, Tensor], Metrics], Tensor, Tensor]] = [
        (binary_metrics, prediction_SN.sigmoid(), y_SN.clamp_max(1)),
        (numerical_metrics, prediction_SN, y_SN),
        (categorical_metrics, prediction_SN, y_SN),
    ]
    for function, p_SN, y in cases:
        m = function(p_SN, y)
        assert (m["n_rows"] + m["n_nonfinite"]).tolist() == torch.isfinite(y).sum(1).tolist()
        for name in ("auc", "accuracy", "calibration_error"):
            assert name not in m or m[name].isnan().logical_or((m[name] * 2 - 1).abs() <= 1).all()
        assert "spearman" not in m or not (m["spearman"].abs() > 1).any()
        assert better(function(torch.where(is_used_SN, y.nan_to_num(), NAN), y), m)


@settings(max_examples=100, deadline=None)
@given(ROWS)
def test_ranks_only_see_the_order(rows: tuple[np.ndarray, ...]) -> None:
    prediction_SN, y_SN = (tensor(x) for x in rows)
    moved_SN = torch.where(torch.isfinite(prediction_SN), prediction_SN * 8 - 3, prediction_SN)
    a, b = numerical_metrics(prediction_SN, y_SN), numerical_metrics(moved_SN, y_SN)
    assert a["spearman"].tolist() == floats(b)["spearman"]
    a, b = (binary_metrics(x, y_SN.clamp_max(1)) for x in (prediction_SN, moved_SN))
    assert a["auc"].tolist() == floats(b)["auc"]
    flipped = binary_metrics(-prediction_SN, y_SN.clamp_max(1))
    assert (1 - a["auc"]).tolist() == floats(flipped)["auc"]


@settings(max_examples=100, deadline=None)
@given(
    arrays(np.float64, (2, 5, 4), elements=VALUE),
    arrays(np.float64, (5, 4), elements=st.sampled_from([0.0, 1.0, 2.5, -1.0, NAN])),
    arrays(np.bool_, (5, 4)),
)
def test_the_truth_ranks_best(score: np.ndarray, outcome: np.ndarray, on: np.ndarray) -> None:
    score_XBC, outcome_BC, on_BC = tensor(score), tensor(outcome), torch.from_numpy(on)
    m = ranking_metrics(score_XBC, outcome_BC, on_BC)
    ideal_XBC = torch.where(torch.isfinite(score_XBC), outcome_BC.nan_to_num(), NAN)
    ideal = ranking_metrics(ideal_XBC, outcome_BC, on_BC)
    assert better(ideal, m)
    assert not (ideal["ndcg"] < 1 - 1e-12).any()
    assert not (m["ndcg"] > 1).any()
    for name in ("n_visits", "n_nonfinite", "n_ndcg"):
        assert m[name].tolist() == ideal[name].tolist()
    # reversing the slate changes nothing but which of equal scores is the first
    back = ranking_metrics(score_XBC.flip(-1), outcome_BC.flip(-1), on_BC.flip(-1))
    assert m["ndcg"].tolist() == floats(back)["ndcg"]


@pytest.mark.parametrize("n", [0, 1, 2, 9])
def test_devices_find_the_same_places_as_the_host(n: int) -> None:
    """Operations on tensors against NumPy, with many equal values and infinite ones."""
    generator = torch.Generator().manual_seed(n)
    x_XN = torch.randint(4, (50, 3, n), generator=generator).double()
    x_XN[x_XN == 3] = torch.inf
    host, device = _Places.of(x_XN), _Places._on_device(x_XN)
    assert torch.equal(host.below_XN, device.below_XN)
    assert torch.equal(host.up_to_XN, device.up_to_XN)
    assert torch.equal(host.back(host.below_XN), device.back(device.below_XN))


def test_no_warning_and_inputs_stay_as_they_were() -> None:
    p_SN, y_SN = stacked("numerical", 3)
    before = (p_SN.clone(), y_SN.clone())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for function in LABEL_METRICS.values():
            function(p_SN, y_SN)
            function(p_SN.T.contiguous().T, y_SN[0])
        ranking_metrics(p_SN[None].mT.mT, y_SN, torch.isfinite(y_SN))
    assert torch.equal(p_SN.nan_to_num(), before[0].nan_to_num())
    assert torch.equal(y_SN.nan_to_num(), before[1].nan_to_num())


# --- derived columns -----------------------------------------------------------------------------


@pytest.mark.parametrize("at_most", [math.inf, 18.0])
def test_a_reached_column_is_foretold_by_the_prediction_over_what_is_to_be_reached(at_most: float):
    g = torch.Generator().manual_seed(0)
    x_N = torch.rand(300, generator=g) * 40
    y_N = (torch.rand(300, generator=g) < 0.4).float().masked_fill(x_N < 4, torch.nan)
    prediction_SN = torch.rand(2, 300, generator=g) * 40 - 3
    found, n_rows_S = derived_metrics("long", "reached", at_most, prediction_SN, x_N, y_N)
    assert {*found} == {*derived_names("long", "reached")} == {"long_auc", "long_accuracy"}
    known = ~torch.isnan(y_N)
    assert n_rows_S.tolist() == [int(known.sum())] * 2
    for s, prediction_N in enumerate(prediction_SN):
        share = (prediction_N.clamp_min(0) / x_N.clamp_max(at_most))[known].double().numpy()
        truth = y_N[known].numpy()
        assert found["long_auc"][s] == pytest.approx(roc_auc_score(truth, share))
        assert found["long_accuracy"][s] == pytest.approx(((share >= 1) == truth).mean())


def test_a_quotient_is_foretold_by_that_of_the_prediction():
    x_N, y_N = torch.tensor([2.0, 4.0, 0.0, 1.0]), torch.tensor([1.0, 0.5, torch.nan, 2.0])
    prediction_SN = torch.tensor([[3.0, 2.0, 9.0, 5.0]])  # 1.5, 0.5, unknown, 5 cut to 2
    found, n_rows_S = derived_metrics("share", "quotient", 2.0, prediction_SN, x_N, y_N)
    assert found["share_mae"].tolist() == pytest.approx([0.5 / 3]) and n_rows_S.tolist() == [3]
    assert found["share_spearman"].tolist() == pytest.approx([1.0])
