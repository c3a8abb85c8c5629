"""Law 10: where interference is known to be there, pooling is biased and shadow is not.

The platform is the simulated one, in its built-in config at a small size. Every draw is a function
of the fixed seed (law 5), the platform's coefficients are those of world seed 0, and the run is on
the CPU with one thread. So the biases are two fixed numbers, and no test here fails by chance: the
bounds leave room for another machine's rounding only. At this seed pooling hides 45 % of the effect
on stay time (40 Monte-Carlo standard errors), and shadow is within 1 of the truth.
"""

from __future__ import annotations

import pytest
import torch

from realdataexp.api import run

SMALL = [
    "seed=0",
    "device=cpu",
    "simulation.n_steps=300",
    "simulation.n_candidate=20",
    "simulation.batch_size=64",
    "experiment.replications=24",
    "experiment.designs=[pooling, shadow]",
    "experiment.intervals=[welch]",
]


@pytest.fixture(scope="module")
def stay_time(tmp_path_factory):
    """Each design's entry of the comparison for stay time."""
    torch.set_num_threads(1)
    result = run("si2023", SMALL, out=tmp_path_factory.mktemp("law_10") / "run")
    entries = result.summary["comparison"]
    return {e["design"]: e for e in entries if e["label"] == "stay_time"}


def test_pooling_is_biased(stay_time):
    pooling = stay_time["pooling"]
    assert pooling["n_worlds"] == 24
    assert abs(pooling["bias"]) > 5 * pooling["bias_mc_se"]
    assert pooling["bias"] * pooling["gte"] < 0  # it hides a part of the effect


def test_shadow_is_not(stay_time):
    shadow = stay_time["shadow"]
    bias = abs(shadow["bias"])
    assert shadow["n_worlds"] == 24
    assert bias < 4 * shadow["bias_mc_se"]
    assert bias < 0.05 * abs(shadow["gte"])
    assert bias < 0.05 * abs(stay_time["pooling"]["bias"])


def test_the_bounds_have_power(stay_time):
    """A shadow with a tenth of pooling's bias would not pass: 4 standard errors are less."""
    shadow, pooling = stay_time["shadow"], stay_time["pooling"]
    assert 4 * shadow["bias_mc_se"] < 0.1 * abs(pooling["bias"])
