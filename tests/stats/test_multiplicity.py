"""Adjusted p-values equal statsmodels', family by family."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import numpy as np
import polars as pl
import pytest
from simulated import bounds
from statsmodels.stats.multitest import multipletests

from realdataexp.stats.inference import INFERENCE_SCHEMA
from realdataexp.stats.intervals import adjust, adjust_labels


@pytest.fixture
def frozen() -> Iterator[None]:
    """What there is needs no look: multipletests collects garbage at each call."""
    gc.freeze()
    yield
    gc.unfreeze()


def test_adjusted_p_values_equal_statsmodels(frozen: None) -> None:
    p_FL = np.random.default_rng(0).random((40, 5)) ** 2
    p_FL[:, 3] = p_FL[:, 1]  # ties
    p_FL[::3, 0] = np.nan
    p_FL[1::3, 2:] = np.nan
    p_FL[5] = np.nan
    out = adjust(p_FL)
    for p, found in zip(p_FL, out, strict=True):
        known = np.isfinite(p)
        assert np.array_equal(known, np.isfinite(found))
        if known.any():
            np.testing.assert_allclose(found[known], multipletests(p[known], method="holm")[1])
        np.testing.assert_array_equal(adjust(p), found)


def test_values_by_hand() -> None:
    p = np.array([0.03, 0.01, 0.04])
    assert adjust(p) == pytest.approx([0.06, 0.03, 0.06])
    assert adjust(np.array([0.6, 0.7])).tolist() == [1.0, 1.0]


def test_a_family_is_the_labels_of_one_design_world_and_method() -> None:
    rows = []
    g = np.random.default_rng(1)
    for design in ("pooling", "shadow"):
        for method in ("welch", "block"):
            for world in (0, 7):
                for label in ("a", "b", "c"):
                    p = None if (method, label) == ("block", "b") else g.random() ** 3
                    key = (design, world, label, "mean_per_visit", method)
                    rows.append((*key, 1.0, 1.0, 0.0, 2.0, p, 5, 5, *[None] * 7))
    table = pl.DataFrame(rows, schema=INFERENCE_SCHEMA, orient="row").drop("p_adjusted")
    table = table.sample(fraction=1.0, shuffle=True, seed=3)
    out = adjust_labels(table)
    assert out.drop("p_adjusted").equals(table)
    for _, part in out.group_by(["design", "world", "se_method"]):
        p = part["p_value"].fill_null(float("nan")).to_numpy()
        found = part["p_adjusted"].fill_null(float("nan")).to_numpy()
        np.testing.assert_allclose(found, adjust(p))
    empty = adjust_labels(table.clear())
    assert empty.columns[-1] == "p_adjusted" and empty.height == 0


def test_holm_bounds_the_chance_of_any_false_rejection() -> None:
    n, n_labels = 4000, 4
    p_FL = np.random.default_rng(2).random((n, n_labels))
    assert (adjust(p_FL) <= 0.05).any(axis=1).mean() <= bounds(0.05, n)[1]
    assert (p_FL <= 0.05).any(axis=1).mean() > bounds(0.05, n)[1]  # the sample could tell
