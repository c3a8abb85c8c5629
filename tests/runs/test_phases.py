"""Networks that cannot learn or predict end a run, however short it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from realdataexp.api import run
from realdataexp.errors import RunError, Warnings
from realdataexp.metrics import MetricValues
from realdataexp.runs.phases import refuse_extremes, refuse_predictions, refuse_skips
from realdataexp.runs.results import warn_of_updates

NAN, INF = float("nan"), float("inf")


def skips(n_made: int, n_skipped: int, max_share: float = 0.1, *, is_over: bool = True) -> None:
    made_S, skipped_S = torch.tensor([50, n_made]), torch.tensor([0, n_skipped])
    names = ["first", "second"]
    args = (made_S, skipped_S, "click", names, "simulation", max_share, False)
    refuse_skips(*args, is_over=is_over)


@pytest.mark.parametrize(
    ("n_made", "n_skipped", "said"),
    [
        (0, 1, "100 % of its 1 updates"),
        (0, 4, "100 % of its 4 updates"),
        (1, 3, "75 % of its 4 updates"),
        (0, 19, "100 % of its 19 updates"),
        (17, 3, "15 % of its 20 updates"),
    ],
)
def test_a_phase_that_skipped_too_many_fails_whatever_its_length(
    n_made: int, n_skipped: int, said: str
) -> None:
    with pytest.raises(RunError, match=f"label click, network second: {said}") as caught:
        skips(n_made, n_skipped)
    assert ("half" in str(caught.value)) == (n_made + n_skipped < 20)


@pytest.mark.parametrize(("n_made", "n_skipped"), [(0, 0), (4, 0), (3, 1), (10, 9), (18, 2)])
def test_a_few_skipped_updates_are_no_failure(n_made: int, n_skipped: int) -> None:
    skips(n_made, n_skipped)


def test_few_updates_are_judged_when_the_phase_is_over_and_never_where_all_may_be_skipped() -> None:
    skips(0, 19, is_over=False)
    skips(0, 19, max_share=1.0)
    skips(0, 90, max_share=1.0)


def test_skipped_updates_are_counted_in_a_warning() -> None:
    warnings = Warnings()
    warn_of_updates("click", 0, "pretrain", warnings)
    assert not warnings.items
    warn_of_updates("click", 3, "pretrain", warnings)
    ((code, said),) = [(w["code"], w["message"]) for w in warnings]
    assert code == "updates_skipped" and said.startswith("label click: 3 updates skipped")
    assert "pretrain.gradient_clip" in said


@pytest.mark.parametrize("extreme", [(NAN, NAN), (0.0, INF), (-INF, 0.0)])
@pytest.mark.parametrize("label", ["click", ""])
def test_numbers_that_are_not_finite_are_refused(extreme: tuple[float, float], label: str) -> None:
    extreme_S2 = torch.tensor([(0.0, 1.0), extreme])
    with pytest.raises(RunError, match=r"network second \(b\): .*wanted finite numbers"):
        refuse_extremes(label, extreme_S2, ["first", "second"], ["a", "b"])


def test_a_negative_weight_is_refused_and_a_negative_prediction_is_not() -> None:
    extreme_S2 = torch.tensor([(0.0, 1.0), (-0.5, 1.0)])
    refuse_extremes("click", extreme_S2, ["first", "second"], ["a", "b"])
    with pytest.raises(
        RunError, match=r"second \(b\): values from -0\.5 to 1 so far; wanted .*0 or"
    ):
        refuse_extremes("", extreme_S2, ["first", "second"], ["a", "b"])


def test_predictions_of_held_out_rows_that_are_not_finite_are_refused() -> None:
    count = {"auc": torch.tensor([9, 6])}
    value = {"auc": torch.tensor([0.5, 0.5])}
    good = MetricValues("click", value, count, torch.tensor([0, 0]))
    refuse_predictions(good, ["first", "second"], "model MLP")
    bad = MetricValues("click", value, count, torch.tensor([0, 3]))
    with pytest.raises(RunError, match=r"label click, network second \(model MLP\): 3 of 9"):
        refuse_predictions(bad, ["first", "second"], "model MLP")


@pytest.mark.parametrize("block", ["pretrain", "simulation"])
def test_a_run_of_three_updates_that_learns_nothing_does_not_end_well(
    block: str, small_settings: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    phases: dict[str, Any] = {
        "pretrain": {"batch_size": 700},
        "simulation": {"n_steps": 3, "validate_every": 3, "processes": 1},
    }
    phases[block] |= {"learning_rate": 1e30, "optimizer": "sgd"}
    settings = small_settings(mode="pooling", experiment={"replications": 1}, **phases)
    with pytest.raises(
        RunError, match=r"label (play_time|click), network .*not finite|to nan so far"
    ):
        run(settings, out=tmp_path / "r")
