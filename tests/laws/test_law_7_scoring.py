"""Law 7: scoring is deterministic; dropout belongs to training."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from support import POOLING, Setting, label, make_learner, make_model, run, same

from realdataexp import draws
from realdataexp.learner import Learner

LABELS = {
    loss: (label(target, loss, 0.5, 1.0, dropout=0.5),)
    for target, loss in (("play", "logMAE"), ("click", "BCE"), ("click", "CE"))
}


@pytest.fixture(params=LABELS.values(), ids=LABELS)
def trained(request):
    """A setting with dropout, a learner after some steps, and inputs."""
    setting = Setting(labels=request.param)
    h = run(setting, (POOLING,), (0, 1, 2))
    return setting, h.learners[0], h.slates[-1].batch


def test_two_predictions_are_equal_to_the_bit_with_dropout_in_the_model(trained):
    _, learner, batch = trained
    first = learner.predict(batch, slice(0, 3))
    torch.rand(7)
    assert same(first, learner.predict(batch, slice(0, 3)))
    assert float(first.std()) > 0


def test_predictions_and_validation_losses_equal_those_of_a_model_without_dropout(trained):
    setting, learner, batch = trained
    x = setting.labels[0]
    plain_label = replace(x, params=x.params | {"dropout": 0.0})
    model = make_model(replace(setting, labels=(plain_label,)), 0)
    plain = replace(learner, model=model)
    assert same(learner.predict(batch, slice(0, 3)), plain.predict(batch, slice(0, 3)))
    y = torch.ones(*batch.shape[:2], 1)
    assert same(learner.losses(batch, y), plain.losses(batch, y))


def test_scoring_changes_nothing(trained):
    _, learner, batch = trained
    before = {name: x.clone() for name, x in learner.state().items()}
    learner.predict(batch, slice(0, 3))
    learner.losses(batch, torch.ones(*batch.shape[:2], 1))
    assert all(same(x, before[name]) for name, x in learner.state().items())


def test_training_uses_dropout_as_its_key_says(trained):
    """The power of the others: with another key, and the same rows, training goes elsewhere."""
    setting, _, batch = trained

    def after(seed: int) -> Learner:
        learner = make_learner(setting, 0, 3)
        key_S = draws.key(seed, "a test", torch.arange(3))
        ones_SB = torch.ones(batch.shape[:2])
        learner.update(batch, ones_SB.unsqueeze(-1), ones_SB, setting.labels[0].optimizer, key_S)
        return learner

    assert same(after(0).params["weight_1"], after(0).params["weight_1"])
    assert not same(after(0).params["weight_1"], after(1).params["weight_1"])
    assert not same(after(0).params["weight_1"][0], after(0).params["weight_1"][1])
