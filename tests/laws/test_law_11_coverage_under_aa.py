"""Law 11: under A/A an interval errs as often as it says, or the result says that it does not.

In an A/A test the truth is 0, exactly. Whoever rejects 0 errs, and at most 5 % of the worlds may.
Where significantly more do, by an exact binomial test, the result calls the interval untrustworthy.
The run is a function of its fixed seed (law 5), so no test here fails by chance.
"""

from __future__ import annotations

import polars as pl
import pytest
import torch
from scipy.stats import binom

from realdataexp.api import Result, run

DESIGNS = ("pooling", "splitting", "shadow")
LABELS = ("stay_time", "finish", "short_video")
N_WORLDS = 40
SMALL = [
    "seed=0",
    "device=cpu",
    "simulation.n_steps=150",
    "simulation.learning_rate=0.1",
    "simulation.n_candidate=20",
    "simulation.batch_size=64",
    f"experiment.replications={N_WORLDS}",
    f"experiment.designs=[{', '.join(DESIGNS)}]",
    "experiment.aa=true",
    "logging.pictures=false",
]


@pytest.fixture(scope="module")
def result(tmp_path_factory) -> Result:
    torch.set_num_threads(1)
    return run("si2023", SMALL, out=tmp_path_factory.mktemp("law_11") / "run")


def test_the_true_effect_is_exactly_0(result):
    effects = {k: v for k, v in result.summary["gte_results"].items() if k.startswith("GTE_")}
    assert {f"GTE_{label}" for label in LABELS} <= set(effects)
    assert set(effects.values()) == {0.0}
    assert {entry["gte"] for entry in result.summary["inference"]} == {0.0}
    truth = result.estimates.filter(pl.col("design") == "global")
    assert set(truth["label"]) == set(LABELS) and truth["world"].n_unique() == N_WORLDS
    assert (truth["value"] == 0.0).all()


def test_every_interval_errs_as_often_as_it_says_or_is_called_untrustworthy(result):
    entries = result.summary["inference"]
    methods = {entry["se_method"] for entry in entries}
    assert "welch" in methods and len(methods) > 1
    asked = {(d, x, m) for d in DESIGNS for x in LABELS for m in methods}
    assert {(e["design"], e["label"], e["se_method"]) for e in entries} == asked
    assert len(entries) == len(asked)
    for entry in entries:
        assert entry["n_intervals"] == N_WORLDS
        assert entry["reject_low"] <= 0.05 or entry["trustworthy"] is False, entry


def test_the_verdict_is_that_of_the_worlds_intervals(result):
    """Count the worlds whose interval excludes 0, and test their number, without the package."""
    for entry in result.summary["inference"]:
        worlds = result.estimates.filter(
            (pl.col("design") == entry["design"])
            & (pl.col("label") == entry["label"])
            & (pl.col("se_method") == entry["se_method"])
        )
        assert worlds.height == N_WORLDS
        n = int(((worlds["ci_low"] > 0) | (worlds["ci_high"] < 0)).sum())
        assert entry["reject_share"] == n / N_WORLDS
        p_value = binom.sf(n - 1, N_WORLDS, 0.05)  # one side of Clopper and Pearson's interval
        assert entry["trustworthy"] is bool(p_value >= 0.025), (n, entry)


def test_some_intervals_err_far_too_often_and_the_result_says_so(result):
    """Splitting's two models drift apart, and Welch's interval takes visits for independent."""
    welch = [
        e
        for e in result.summary["inference"]
        if e["design"] == "splitting" and e["se_method"] == "welch"
    ]
    assert any(e["reject_low"] > 0.05 for e in welch)
    assert all(e["trustworthy"] is False for e in welch if e["reject_low"] > 0.05)
    assert any(e["trustworthy"] is True for e in result.summary["inference"])
