"""How good S stacked networks are, all at once: of one label's predictions, and of a ranking.

Every function takes tensors of one device, computes in float64 (where a device has none: hand
over CPU tensors) and returns a tensor per name: float64 for a metric (NaN where it is not
defined), int64 for a count. A row whose label is not finite is missing, and is left out. Of the
rest, a row whose prediction is not finite is left out too, and counted in ``n_nonfinite``;
``n_rows`` counts the rows that were used.

Axes: S stacked networks, N rows, X any leading axes, B visits, C candidates of a slate (padded).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from realdataexp.contracts import described
from realdataexp.device import WITHOUT_FLOAT64
from realdataexp.errors import InputError
from realdataexp.registry import Unfit, calling, find, names

_N_BINS = 10
_ELEMENTS = 1 << 19  # of predictions that are ranked at once
LOSS = "loss"  # each network's own, not computed here


def for_metrics(x: Tensor) -> Tensor:
    """The tensor where this module can compute: where it is, or on the host for want of float64."""
    return x.cpu() if x.device.type in WITHOUT_FLOAT64 else x


_RANKING = "ranking"  # of a slate's candidates, whatever a label's type
LABEL_TYPES = ("binary", "numerical", "categorical")


@dataclass(frozen=True)
class Metric:
    """How to read a metric, and how to compute one from outside the package.

    Attributes:
        is_higher_better: whether the best network has the highest value, or the lowest.
        reading: its meaning in a line, for who reads the file.
        types: the types of labels whose predictions it judges.
        count: the name of the count that its value rests on.
        compute: (prediction_N, y_N) -> a number, of one network and the rows with a known label
            and a finite prediction, in the label's units, float64; those of the package have none,
            as several are computed at once.
    """

    is_higher_better: bool
    reading: str = ""
    types: tuple[str, ...] = LABEL_TYPES
    count: str = "n_rows"
    compute: Callable[[Tensor, Tensor], Any] | None = None


AUC = Metric(True, types=("binary",))
ACCURACY = Metric(True, types=("binary",))
LOG_LOSS = Metric(False, types=("binary",))
CALIBRATION_ERROR = Metric(False, types=("binary",))
LOG_MAE = Metric(False, types=("numerical",))
MAE = Metric(False, types=("numerical", "categorical"))
RELATIVE_ERROR = Metric(False, types=("numerical",), count="n_nonzero")
SPEARMAN = Metric(True, types=("numerical", "categorical"))
PICKED = Metric(True, types=(_RANKING,), count="n_visits")
NDCG = Metric(True, types=(_RANKING,), count="n_ndcg")
METRICS: dict[str, Metric] = {name: find("metric", name, name) for name in names("metric")}


@dataclass(frozen=True)
class MetricValues:
    """One label's metrics of S networks, or of the rankings in S worlds; all on the host.

    Attributes:
        values: metric -> float64 S, NaN where it is not defined.
        counts: metric -> int64 S, what each value rests on.
        n_nonfinite: predictions, or visits, that were left out because they were not finite.
    """

    label: str
    values: dict[str, Tensor]
    counts: dict[str, Tensor]
    n_nonfinite: Tensor

    def count(self, metric: str) -> Tensor:
        """What a metric's values rest on; of ``n_nonfinite``: of how many it is a part."""
        if metric != "n_nonfinite":
            return self.counts[metric]
        return self.n_nonfinite + next(iter(self.counts.values()))


def values_of(
    label: str,
    found: dict[str, Tensor],
    loss_S: Tensor | None = None,
    own: Mapping[str, Tensor] | None = None,
) -> MetricValues:
    """What ``label_metrics`` or ``ranking_metrics`` found, with mean losses and ``own_metrics``."""
    values = {name: value for name, value in found.items() if name in METRICS}
    counts = {name: found[METRICS[name].count].cpu() for name in values}
    loss = {} if loss_S is None else {LOSS: loss_S.double()}
    by_rows = {**loss, **(own or {})}
    values = {name: value.cpu() for name, value in (values | by_rows).items()}
    counts |= {name: found["n_rows"].cpu() for name in by_rows}
    return MetricValues(label, values, counts, found["n_nonfinite"].cpu())


def joined(parts: Sequence[MetricValues]) -> MetricValues:
    """MetricValues of the same label and metrics, one after the other."""
    values = {name: torch.cat([p.values[name] for p in parts]) for name in parts[0].values}
    counts = {name: torch.cat([p.counts[name] for p in parts]) for name in parts[0].counts}
    return MetricValues(parts[0].label, values, counts, torch.cat([p.n_nonfinite for p in parts]))


def known_metrics(own: Mapping[str, Metric]) -> dict[str, Metric]:
    """All metrics by their names in tables; ``own`` are from outside the package."""
    return METRICS | {short_name(name): metric for name, metric in own.items()}


def metric_names(
    kind: str | None, own: Mapping[str, Metric], *, is_measured: bool
) -> tuple[str, ...]:
    """The metrics of a label's predictions by its type, and of rankings by an outcome.

    The type is None where nothing predicts it; ``own`` are from outside the package.
    """
    known = known_metrics(own).items()
    of_label = [name for name, metric in known if kind in metric.types]
    of_ranking = [name for name, metric in known if is_measured and _RANKING in metric.types]
    return (*([LOSS, *of_label] if kind else []), *of_ranking)


def is_higher_better(metric: str, own: Mapping[str, Metric]) -> bool:
    """Whether the best network has the highest value of a metric, or of the loss."""
    return metric != LOSS and known_metrics(own)[metric].is_higher_better


def binary_metrics(p_SN: Tensor, y_N: Tensor) -> dict[str, Tensor]:
    """Metrics of predicted probabilities of a label that is 0 or 1.

    - ``auc``: the Mann-Whitney statistic, ties counted half (Hanley & McNeil 1982,
      doi 10.1148/radiology.143.1.7063747); NaN where only one class is there.
    - ``accuracy``: a probability of 0.5 or more predicts a 1.
    - ``log_loss``: in nats. Probabilities are clipped to [e, 1 - e], e the machine epsilon of
      their own type, as scikit-learn does: one row costs at most 15.9 in float32.
    - ``calibration_error``: over ten equal-width bins of the probability, each closed at its
      lower edge, the mean of |mean probability - share of positives| weighted by the bin's rows
      (Naeini, Cooper & Hauskrecht 2015, doi 10.1609/aaai.v29i1.9602).

    The labels are N for all networks, or S, N. Returns these, ``n_rows`` and ``n_nonfinite``: S.
    """
    epsilon = torch.finfo(p_SN.dtype).eps
    p_SN, y_SN, used_SN, counts = _usable(p_SN, y_N)
    is_one_SN = y_SN > 0.5
    safe_SN = p_SN.clamp(epsilon, 1.0 - epsilon)
    loss_SN = -torch.where(is_one_SN, safe_SN.log(), torch.log1p(-safe_SN))
    bin_SN = (p_SN * _N_BINS).clamp(0, _N_BINS - 1).floor()
    # a bin's rows times its gap is |sum of probabilities - number of positives|
    gap_S = torch.stack(
        [torch.where(bin_SN == k, p_SN - y_SN, 0.0).sum(-1).abs() for k in range(_N_BINS)]
    ).sum(0)
    return {
        "auc": _auc(p_SN, is_one_SN, used_SN),
        "accuracy": _mean(((p_SN >= 0.5) == is_one_SN).double(), used_SN),
        "log_loss": _mean(loss_SN, used_SN),
        "calibration_error": gap_S / counts["n_rows"],
        **counts,
    }


def numerical_metrics(prediction_SN: Tensor, y_N: Tensor) -> dict[str, Tensor]:
    """Metrics of predictions of a number.

    - ``log_mae``: a prediction below 0 counts as 0, as the loss of this name predicts. NaN where
      a truth is below 0: the label is then no amount, and has no logarithm.
    - ``mae``: in the label's units.
    - ``relative_error``: over the ``n_nonzero`` rows whose truth is not 0; NaN without any.
    - ``spearman``: ties share the mean of their ranks (Spearman 1904, doi 10.2307/1412159); NaN
      where all predictions, or all truths, are equal.

    The labels are N for all networks, or S, N. Returns these, ``n_rows``, ``n_nonfinite`` and
    ``n_nonzero``: S.
    """
    prediction_SN, y_SN, used_SN, counts = _usable(prediction_SN, y_N)
    error_SN = (prediction_SN - y_SN).abs()
    log_error_SN = (prediction_SN.clamp_min(0).log1p() - y_SN.clamp_min(0).log1p()).abs()
    has_negative_S = (used_SN & (y_SN < 0)).any(-1)
    is_nonzero_SN = used_SN & (y_SN != 0)
    return {
        "log_mae": _mean(log_error_SN, used_SN).masked_fill(has_negative_S, torch.nan),
        "mae": _mean(error_SN, used_SN),
        "relative_error": _mean(error_SN / y_SN.abs(), is_nonzero_SN),
        "spearman": _spearman(prediction_SN, y_SN, used_SN),
        "n_nonzero": is_nonzero_SN.sum(-1),
        **counts,
    }


def categorical_metrics(expected_class_SN: Tensor, y_N: Tensor) -> dict[str, Tensor]:
    """Metrics of the expected class, which is what a network of classes predicts.

    It is the mean of the classes' numbers, from 0 on, not the likeliest class: rounded, it may be a
    class between two likely ones. So there is neither an accuracy nor a log loss of it, but the
    ``mae`` in classes and the ``spearman`` of ``numerical_metrics``; both read the classes as
    ordered, as the score does.
    """
    found = numerical_metrics(expected_class_SN, y_N)
    return {name: found[name] for name in ("mae", "spearman", "n_rows", "n_nonfinite")}


LABEL_METRICS: dict[str, Callable[[Tensor, Tensor], dict[str, Tensor]]] = {
    "binary": binary_metrics,
    "numerical": numerical_metrics,
    "categorical": categorical_metrics,
}


def label_metrics(kind: str, prediction_SN: Tensor, y_N: Tensor) -> dict[str, Tensor]:
    """The metrics of a label's type, some networks at a time: memory does not grow with S."""
    S, N = prediction_SN.shape
    size, y_SN = max(1, _ELEMENTS // max(1, N)), y_N.expand(S, N)
    parts = [
        LABEL_METRICS[kind](prediction_SN[s : s + size], y_SN[s : s + size])
        for s in range(0, S, size)
    ]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


_DERIVED_METRICS = {"quotient": ("mae", "spearman"), "reached": ("auc", "accuracy")}


def derived_names(column: str, rule: str) -> dict[str, Metric]:
    """The metrics of ``derived_metrics``, named with the column; no label's type has them."""
    kept = _DERIVED_METRICS[rule]
    return {f"{column}_{name}": replace(METRICS[name], types=()) for name in kept}


def derived_metrics(
    column: str, rule: str, at_most: float, prediction_SN: Tensor, x_N: Tensor, y_N: Tensor
) -> tuple[dict[str, Tensor], Tensor]:
    """How well a derived column y follows from predictions of what it is derived from, with x.

    By ``data.derived``: a "quotient" is predicted by that of the prediction, and has ``mae`` and
    ``spearman``. Of "reached" the prediction over min(x, at_most) is the score of an ``auc``, and
    predicts a 1 from 1 on: ``accuracy``.

    Returns:
        The metrics by ``derived_names``, and the rows that they rest on: S each.
    """
    prediction_SN, x_N = prediction_SN.double(), x_N.double()
    if rule == "reached":
        score_SN = prediction_SN.clamp_min(0.0) / x_N.clamp_max(at_most)
        found = label_metrics("binary", score_SN / (1.0 + score_SN), y_N)
    else:
        found = label_metrics("numerical", (prediction_SN / x_N).clamp_max(at_most), y_N)
    kept = {f"{column}_{name}": found[name].cpu() for name in _DERIVED_METRICS[rule]}
    return kept, found["n_rows"].cpu()


def find_metric(name: str, where: str) -> Metric:
    """A metric from outside the package, asked about a few made-up predictions.

    Raises:
        InputError: there is none, it fails, or it returns what it must not.
    """
    metric = find("metric", name, where)
    if not isinstance(metric, Metric) or metric.compute is None:
        raise InputError(f"{where} = {name!r}: is no realdataexp.metrics.Metric with a compute")
    y_N = torch.arange(8, dtype=torch.float64) % 2
    with calling(f"{where} = {name!r}", "compute()", InputError):
        _own_value(metric, 0.1 + 0.8 * y_N.roll(1), y_N)
    return metric


def short_name(name: str) -> str:
    """What tables call a metric."""
    return name.rpartition(":")[2]


def own_metrics(
    own: Mapping[str, Metric], kind: str, prediction_SN: Tensor, y_N: Tensor
) -> dict[str, Tensor]:
    """The metrics from outside of a label's type, float64 S, by their names in tables.

    Network by network, NaN where one has no row to judge by; see ``label_metrics``.

    Raises:
        ComponentError: one fails, or returns what it must not.
    """
    chosen = {name: metric for name, metric in own.items() if kind in metric.types}
    if not chosen:
        return {}
    prediction_SN, y_SN, used_SN, _ = _usable(prediction_SN, y_N)
    found: dict[str, Tensor] = {}
    for name, metric in chosen.items():
        with calling(f"metric {name!r}", "compute()"):
            values = [
                _own_value(metric, prediction_N[used_N], y_N[used_N])
                for prediction_N, y_N, used_N in zip(prediction_SN, y_SN, used_SN, strict=True)
            ]
        found[short_name(name)] = torch.tensor(values, dtype=torch.float64)
    return found


def _own_value(metric: Metric, prediction_N: Tensor, y_N: Tensor) -> float:
    """One network's value; Unfit where it is no number."""
    assert metric.compute is not None  # find_metric sees to it
    if not len(y_N):
        return math.nan
    value = metric.compute(prediction_N, y_N)
    is_number = isinstance(value, int | float) or (
        isinstance(value, Tensor) and value.numel() == 1 and not value.is_complex()
    )
    if not is_number:
        raise Unfit(f"returned {described(value)}; wanted one number")
    return float(value)


def ranking_metrics(
    score_XBC: Tensor, relevance_XBC: Tensor, is_candidate_XBC: Tensor
) -> dict[str, Tensor]:
    """Metrics of a score that orders the candidates of each slate, as means over the visits.

    A candidate whose outcome is missing is taken off its slate, and a visit without any other is
    left out. A visit with a score that is not finite is left out too, and counted in
    ``n_nonfinite``; ``n_visits`` counts the rest.

    - ``picked``: the true outcome of the candidate with the highest score, of equal ones the
      first, as the loop picks.
    - ``ndcg``: of the whole slate. The gain is the outcome itself, divided by log2(1 + position)
      (Järvelin & Kekäläinen 2002, doi 10.1145/582415.582418); equal scores share the mean of
      their positions' discounts (McSherry & Najork 2008, doi 10.1007/978-3-540-78646-7_38). A
      slate whose outcomes are all equal has no order to find, and one with an outcome below 0
      has no NDCG: ``n_ndcg`` of the ``n_visits`` visits are left.

    Args:
        score_XBC: the higher, the better.
        relevance_XBC: true outcomes, in the label's units; or B, C, the same for all X.
        is_candidate_XBC: False for padding; or B, C.

    Returns:
        The metrics, ``n_visits``, ``n_nonfinite`` and ``n_ndcg``, each of shape X.
    """
    relevance_XBC = relevance_XBC.expand(score_XBC.shape).double()
    offered_XBC = is_candidate_XBC & torch.isfinite(relevance_XBC)
    is_nonfinite_XB = (offered_XBC & ~torch.isfinite(score_XBC)).any(-1)
    used_XB = offered_XBC.any(-1) & ~is_nonfinite_XB
    score_XBC = score_XBC.masked_fill(~(offered_XBC & used_XB.unsqueeze(-1)), -torch.inf)
    gain_XBC = torch.where(offered_XBC, relevance_XBC, 0.0)
    picked_XB = gain_XBC.gather(-1, score_XBC.argmax(-1, keepdim=True)).squeeze(-1)

    lowest_XB = relevance_XBC.masked_fill(~offered_XBC, torch.inf).amin(-1)
    is_ordered_XB = used_XB & (lowest_XB >= 0) & (lowest_XB < gain_XBC.amax(-1))
    position_C = torch.arange(score_XBC.shape[-1], dtype=torch.float64, device=score_XBC.device)
    discount_C = 1.0 / torch.log2(position_C + 2.0)
    total_C1 = torch.cat([discount_C.new_zeros(1), discount_C.cumsum(0)])
    places = _Places.of(-score_XBC)
    total_XBC = total_C1[places.up_to_XN] - total_C1[places.below_XN]
    shared_XBC = places.back(total_XBC / (places.up_to_XN - places.below_XN))
    best_XB = (gain_XBC.sort(-1, descending=True).values * discount_C).sum(-1)
    ndcg_XB = ((gain_XBC * shared_XBC).sum(-1) / best_XB).clamp_max(1.0)
    return {
        "picked": _mean(picked_XB, used_XB),
        "ndcg": _mean(ndcg_XB, is_ordered_XB),
        "n_visits": used_XB.sum(-1),
        "n_nonfinite": is_nonfinite_XB.sum(-1),
        "n_ndcg": is_ordered_XB.sum(-1),
    }


def _usable(prediction_SN: Tensor, y_N: Tensor) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]:
    """Predictions and labels in float64 (0 where left out), the rows to use, and their counts."""
    y_SN = y_N.expand(prediction_SN.shape)
    is_known_SN, is_finite_SN = torch.isfinite(y_SN), torch.isfinite(prediction_SN)
    used_SN = is_known_SN & is_finite_SN
    counts = {
        "n_rows": used_SN.sum(-1),
        "n_nonfinite": (is_known_SN & ~is_finite_SN).sum(-1),
    }
    prediction_SN, y_SN = (torch.where(used_SN, x.double(), 0.0) for x in (prediction_SN, y_SN))
    return prediction_SN, y_SN, used_SN, counts


def _mean(x_XN: Tensor, used_XN: Tensor) -> Tensor:
    """Mean over the used ones of the last axis; NaN without any."""
    return torch.where(used_XN, x_XN, 0.0).sum(-1) / used_XN.sum(-1)


def _auc(p_SN: Tensor, is_one_SN: Tensor, used_SN: Tensor) -> Tensor:
    is_one_SN = is_one_SN & used_SN
    n_ones_S = is_one_SN.sum(-1).double()
    n_zeros_S = used_SN.sum(-1) - n_ones_S
    rank_sum_S = torch.where(is_one_SN, _ranks(p_SN, used_SN), 0.0).sum(-1)
    # sums of half-integers are exact, so with one class this is 0 / 0
    return (rank_sum_S - n_ones_S * (n_ones_S + 1.0) / 2.0) / (n_ones_S * n_zeros_S)


def _spearman(x_SN: Tensor, y_SN: Tensor, used_SN: Tensor) -> Tensor:
    middle_S1 = (used_SN.sum(-1, keepdim=True) + 1.0) / 2.0
    # half-integers are exact, so the ranks of a constant deviate by 0
    x_SN, y_SN = (torch.where(used_SN, _ranks(v, used_SN) - middle_S1, 0.0) for v in (x_SN, y_SN))
    scale_S = (x_SN.square().sum(-1) * y_SN.square().sum(-1)).sqrt()
    return ((x_SN * y_SN).sum(-1) / scale_S).clamp(-1.0, 1.0)


def _ranks(x_SN: Tensor, used_SN: Tensor) -> Tensor:
    """Rank of each used value among a network's used ones, from 1; ties share their mean rank."""
    x_SN = x_SN.masked_fill(~used_SN, torch.inf)
    if len(x_SN) > 1 and bool((x_SN == x_SN[0]).all()):  # such as the same truth for all networks
        return _ranks(x_SN[:1], used_SN[:1]).expand(x_SN.shape)
    places = _Places.of(x_SN)
    return places.back((places.below_XN + places.up_to_XN + 1).double() / 2.0)


@dataclass(frozen=True)
class _Places:
    """The values of a last axis in ascending order.

    Where they were, how many values are below each, and how many are not above it.
    """

    order_XN: Tensor
    below_XN: Tensor
    up_to_XN: Tensor

    @classmethod
    def of(cls, x_XN: Tensor) -> _Places:
        """Sort numbers; on the host NumPy is much faster at it than PyTorch."""
        if not x_XN.is_cpu:
            return cls._on_device(x_XN)
        x = x_XN.numpy()
        order = np.argsort(x, axis=-1)
        ordered = np.take_along_axis(x, order, axis=-1)
        is_first = np.ones(x.shape, dtype=bool)
        np.not_equal(ordered[..., 1:], ordered[..., :-1], out=is_first[..., 1:])
        first = np.flatnonzero(is_first)  # of each run of equal values
        n = np.diff(first, append=x.size)
        below = np.repeat(first % max(1, x.shape[-1]), n).reshape(x.shape)
        up_to = below + np.repeat(n, n).reshape(x.shape)
        return cls(*map(torch.from_numpy, (order, below, up_to)))

    @classmethod
    def _on_device(cls, x_XN: Tensor) -> _Places:
        """The same in operations on tensors."""
        ordered_XN, order_XN = x_XN.sort(-1)
        n = x_XN.shape[-1]
        place_N = torch.arange(n, device=x_XN.device)
        is_new_XN = ordered_XN[..., 1:] != ordered_XN[..., :-1]
        below_XN = torch.where(F.pad(is_new_XN, (1, 0), value=True), place_N, 0).cummax(-1).values
        up_to_XN = torch.where(F.pad(is_new_XN, (0, 1), value=True), place_N + 1, n)
        return cls(order_XN, below_XN, up_to_XN.flip(-1).cummin(-1).values.flip(-1))

    def back(self, value_XN: Tensor) -> Tensor:
        """What belongs to the ordered values, in the order that they had."""
        return torch.empty_like(value_XN).scatter_(-1, self.order_XN, value_XN)
