"""Two designs whose models learn from less and lesser, read at a launched system's amount."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import realdataexp as rx
from realdataexp.errors import InputError
from realdataexp.stats.thinning import extrapolated

N_WORLDS, N_STARTS, KAPPAS = 6, 3, (1.7, 4.1)


def estimates(values: dict[str, np.ndarray], ses: dict[str, float]) -> pl.DataFrame:
    """Two labels, of which the second is ten times the first, by two methods."""
    return pl.DataFrame(
        [
            {
                "design": design, "world": w, "label": label, "se_method": method,
                "value": factor * x if method == "welch" else 77.0,
                "se": factor * ses[design],
            }
            for design, values_W in values.items()
            for w, x in enumerate(values_W.tolist())
            for label, factor in (("click", 1.0), ("play_time", 10.0))
            for method in ("welch", "user_cluster")
        ]
    )  # fmt: skip


def test_what_grows_with_kappa_is_gone_at_1_and_the_rest_is_compared_with_the_truth():
    """Each world's bias is slope (kappa - 1): the line finds the truth of each, whatever these."""
    random = np.random.default_rng(0)
    truth_W, slope_W = random.normal(5, 2, N_WORLDS), random.normal(-1, 3, N_WORLDS)
    off_W = random.normal(0.3, 0.1, N_WORLDS)  # what both designs err by besides
    values = {"global": truth_W}
    for design, kappa in zip(("near", "far"), KAPPAS, strict=True):
        values[design] = truth_W + off_W + slope_W * (kappa - 1)
    table = estimates(values, {"global": 9.0, "near": 0.5, "far": 0.7})
    found = extrapolated(table, "near", "far", KAPPAS, N_STARTS)
    assert found["label"].to_list() == ["click", "play_time"]
    more = (KAPPAS[0] - 1) / (KAPPAS[1] - KAPPAS[0])
    se = math.hypot((1 + more) * 0.5, more * 0.7)
    # the standard deviation of the starts' means over the root of their number
    of_start = [off_W[s::N_STARTS].mean() for s in range(N_STARTS)]
    mc_se = np.std(of_start, ddof=1) / math.sqrt(N_STARTS)
    for row, factor in zip(found.iter_rows(named=True), (1.0, 10.0), strict=True):
        expected = [truth_W.mean() + off_W.mean(), se, truth_W.mean(), off_W.mean(), mc_se]
        got = [row[x] for x in ("estimate", "se", "gte", "bias", "bias_mc_se")]
        assert got == pytest.approx([factor * x for x in expected])
        assert row["n_worlds"] == N_WORLDS


def test_worlds_without_an_answer_or_a_truth_do_not_count():
    values = {"near": np.array([1.0, np.nan, 3.0]), "far": np.array([1.0, 2.0, 3.0])}
    table = estimates(values, {"near": 1.0, "far": 1.0}).with_columns(
        pl.col("value").fill_nan(None)
    )
    for row in extrapolated(table, "near", "far", (1.0, 2.0)).iter_rows(named=True):
        assert row["n_worlds"] == 2
        assert row["gte"] is row["bias"] is row["bias_mc_se"] is None


def test_a_run_tells_how_much_its_designs_learn_from(
    small_settings: Callable[..., dict[str, Any]], tmp_path: Path
):
    launched = {"name": "splitting", "label": "launched", "steps": "launched"}
    thinned = {**launched, "label": "thinned", "keep": 0.5}
    designs = ["pooling", launched, thinned]
    settings = small_settings(experiment={"replications": 3, "designs": designs})
    result = rx.run(settings, out=tmp_path / "r")
    by_hand = {}
    for design in ("launched", "thinned"):
        shares = result.summary["weights"][design]
        by_hand[design] = 2 / (shares["effective_share_C"] + shares["effective_share_T"])
    # arms of half the users each, and of these half: about 2 and 4
    assert by_hand["launched"] == pytest.approx(2, rel=0.1)
    assert by_hand["thinned"] == pytest.approx(4, rel=0.2)
    kappas = by_hand["launched"], by_hand["thinned"]
    expected = extrapolated(result.estimates, "launched", "thinned", kappas)
    assert result.extrapolated("launched", "thinned").equals(expected)
    with pytest.raises(InputError, match=r"no effective share of 'pooling'.*use one of launched"):
        result.extrapolated("pooling", "thinned")
    with pytest.raises(InputError, match=r"far = 'launched'.*far must learn from less"):
        result.extrapolated("thinned", "launched")
