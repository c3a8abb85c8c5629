"""Law 10: where interference is known to be there, pooling is biased and shadow is not.

The platform is the simulated one, in its built-in config at a small size. Every draw is a function
of the seed (law 5), and the run is on the CPU with one thread. So the biases are fixed numbers, and
no test here fails by chance: the bounds leave room for another machine's rounding only. At these
seeds pooling adds 19 and 22 % to the effect on stay time (32 and 41 Monte-Carlo standard errors),
and shadow errs by 0.4 and 1.7 % of it.
"""

from __future__ import annotations

import pytest
import torch

from realdataexp.api import run

SMALL = [
    "device=cpu",
    "simulation.n_steps=300",
    "simulation.learning_rate=0.1",
    "simulation.n_candidate=20",
    "simulation.batch_size=64",
    "experiment.replications=24",
    "experiment.starts=1",
    "experiment.designs=[pooling, shadow]",
    "experiment.intervals=[welch]",
    "logging.pictures=false",
]


@pytest.fixture(scope="module", params=[0, 1])
def stay_time(tmp_path_factory, request):
    """Each design's entry of the comparison for stay time."""
    torch.set_num_threads(1)
    settings = [*SMALL, f"seed={request.param}"]
    result = run("si2023", settings, out=tmp_path_factory.mktemp("law_10") / "run")
    entries = result.summary["comparison"]
    return {e["design"]: e for e in entries if e["label"] == "stay_time"}


def test_pooling_is_biased(stay_time):
    pooling = stay_time["pooling"]
    assert pooling["n_worlds"] == 24
    assert abs(pooling["bias"]) > 5 * pooling["bias_mc_se"]
    assert abs(pooling["bias"]) > 0.15 * abs(pooling["gte"])


def test_shadow_is_not(stay_time):
    shadow = stay_time["shadow"]
    bias = abs(shadow["bias"])
    assert shadow["n_worlds"] == 24
    assert bias < 4 * shadow["bias_mc_se"]
    assert bias < 0.05 * abs(shadow["gte"])


def test_the_bounds_have_power(stay_time):
    """A shadow with an eighth of pooling's bias would not pass: 4 standard errors are less."""
    shadow, pooling = stay_time["shadow"], stay_time["pooling"]
    assert 4 * shadow["bias_mc_se"] < abs(pooling["bias"]) / 8
