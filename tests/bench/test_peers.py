"""What the package is compared with does the same work: it trains, and on the same numbers."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench import loop, peers
from bench.peers import Table, open_table
from bench.sizes import SMALL, Place
from realdataexp import draws
from realdataexp.config import load_config
from realdataexp.device import choose_device
from realdataexp.errors import Warnings
from realdataexp.learner import Learner
from realdataexp.loop import Loop
from realdataexp.runs.setup import set_up

SIZE = replace(SMALL, pretrain_batch=64)


@pytest.fixture(scope="module")
def settings(
    small_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., dict[str, Any]]:
    """Makes the suite's main job on the tests' data, without dropout."""
    place = Place(SIZE, small_data, False, tmp_path_factory.mktemp("scratch"), ())

    def make(**blocks: Any) -> dict[str, Any]:
        config = copy.deepcopy(place.config(**blocks))
        for label in config["labels"]:
            label["model_params"]["dropout"] = 0.0
        return config

    return make


@pytest.fixture(scope="module")
def table(settings: Callable[..., dict[str, Any]]) -> Table:
    return open_table(load_config(settings()))


def test_the_dataloaders_loop_learns_what_the_package_learns(table: Table):
    config, device = table.config, choose_device("cpu")
    rate, decay = config.pretrain.learning_rate, 1e-4
    rows = peers.Rows(table, 256)
    trained = peers.networks_of(table, rate, decay)
    setup = set_up(config, Warnings())
    reader = setup.environment.pretraining(setup.targets, 0)
    for i, (theirs, network) in enumerate(zip(trained, setup.networks, strict=True)):
        start = network.model.init(draws.key(config.seed, f"init {network.name}"))
        ours = Learner.start(network.model, network.heads, device, start, 1)
        before = theirs.network.layers[0].weight.detach().clone()
        optimizer = replace(network.pretrain_optimizer, weight_decay=decay)
        for n in range(3):
            places = np.arange(64 * n, 64 * (n + 1))
            *inputs, y_BL = torch.utils.data.default_collate([rows[int(x)] for x in places])
            batch, y = reader.read(places)
            y_SBJ, weight_SB = y[i].unsqueeze(-1), torch.ones_like(y[i])
            loss = ours.update(batch, y_SBJ, weight_SB, optimizer, torch.zeros(1).long())
            assert theirs.learn(inputs, y_BL[:, i]) == pytest.approx(float(loss), rel=1e-4)
        after = theirs.network.layers[0].weight.detach()
        mine = torch.cat([ours.params["user_weight"][0], ours.params["video_weight"][0]]).T
        torch.testing.assert_close(after, mine, atol=2e-5, rtol=1e-3)
        assert float((after - before).abs().max()) > 1e-4


def test_the_dataloaders_loop_lowers_the_loss(settings: Callable[..., dict[str, Any]]):
    found = peers.load_and_train(settings(), n_rows=1500, n_workers=2)
    losses = np.array(found["losses"])
    assert found["rows_per_second"] > 0 and losses.shape[1] == 2 and len(losses) >= 10
    assert (losses[-5:].mean(0) < losses[:5].mean(0)).all()


def test_the_pandas_loop_shows_each_row_once_and_learns(table: Table):
    world = peers.PandasLoop(table)
    treatment, control = world.arms
    assert treatment.alphas == [1.0, 1.0] and control.alphas == [0.5, 0.8]
    before = [
        [p.detach().clone() for p in x.network.parameters()]
        for arm in world.arms
        for x in arm.networks
    ]
    losses = world.step(treatment)
    assert len(losses) == 2 and all(np.isfinite(losses))
    assert len(treatment.used) == table.config.simulation.batch_size and not control.used
    networks = [x.network for arm in world.arms for x in arm.networks]
    has_changed = [
        any(not torch.equal(a, b) for a, b in zip(x.parameters(), was, strict=True))
        for x, was in zip(networks, before, strict=True)
    ]
    assert has_changed == [True, True, False, False]  # an arm's networks are its own
    world.step(treatment)
    assert len(treatment.used) == 2 * table.config.simulation.batch_size


def test_the_pandas_loop_scores_as_the_package_does(table: Table):
    setup = set_up(table.config, Warnings())
    world = peers.PandasLoop(table)
    reader = setup.environment.pretraining(setup.targets, 0)
    batch, _ = reader.read(np.arange(20))
    rows = peers.Rows(table, 20)
    *inputs, _ = torch.utils.data.default_collate([rows[i] for i in range(20)])
    for theirs, network in zip(world.arms[0].networks, setup.networks, strict=True):
        start = network.model.init(draws.key(table.config.seed, f"init {network.name}"))
        ours = Learner.start(network.model, network.heads, choose_device("cpu"), start, 1)
        expected = ours.predict(batch, slice(0, 1)).flatten()
        torch.testing.assert_close(theirs.predict(inputs), expected, rtol=1e-3, atol=1e-4)


def test_the_products_are_those_of_the_networks_layers(table: Table):
    products = loop.products_of(table.schema, table.config)
    user, video = table.schema.user, table.schema.video
    per_visit = per_candidate = 0
    for layers, dim in (([128, 64, 32, 1], 16), ([64, 32, 16, 1], 8)):
        widths = [side.n_numerical + len(side.fields) * dim for side in (user, video)]
        per_visit += 2 * widths[0] * layers[0]
        per_candidate += 2 * widths[1] * layers[0]
        for i in range(3):
            per_candidate += 2 * layers[i] * layers[i + 1]
    assert products == loop.Products(per_visit, per_candidate)
    row = 3 * (per_visit + per_candidate)
    assert products.arm_step(64, 10) == 64 * per_visit + 640 * per_candidate + 64 * row


def test_a_resumed_half_ends_as_the_whole(settings: Callable[..., dict[str, Any]], tmp_path: Path):
    from bench import resuming
    from realdataexp.api import Result

    config, step = settings(simulation={"save_every": 2, "n_steps": 4}), Loop.step
    half = resuming.run_half(config, str(tmp_path / "run"))
    assert half["seconds"] > half["checkpoint_seconds"] > 0
    assert Result(tmp_path / "run").summary["status"] == "partial"
    back = resuming.resume(str(tmp_path / "run"))
    assert back["seconds"] > 0 and back["rest_seconds"] > 0
    summary = Result(tmp_path / "run").summary
    assert (summary["status"], summary["n_steps_done"]) == ("complete", 4)
    assert Loop.step is step  # what was watched is as it was
