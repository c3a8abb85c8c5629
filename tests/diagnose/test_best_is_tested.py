"""The kept parameters are the tested ones, or are not."""

from __future__ import annotations

import numpy as np
import torch
from diagnose.subjects import found, planted, small_subject, with_recommended
from torch import nn

from realdataexp.diagnose.subject import Subject


def test_a_run_s_best_parameters_have_the_reported_ranks(trained: Subject):
    for seed in range(3):
        said = found("best_is_tested", trained, seed)
        assert (said.verdict, said.value) == ("ok", 0.0)


def test_parameters_of_an_epoch_later_are_found(trained: Subject):
    def model() -> nn.Module:
        made = trained.model()
        assert trained.optimizer is not None
        optimizer = trained.optimizer(made)
        for i, batch in enumerate(trained.batches(10)):
            torch.manual_seed(i)
            optimizer.zero_grad()
            trained.loss(made.train(), batch).backward()
            optimizer.step()
        return made

    said = found("best_is_tested", planted(trained, model=model))
    assert said.verdict == "fault"
    assert said.value is not None
    assert said.value > 0.3


def test_without_reported_ranks_it_cannot_tell(trained: Subject):
    assert "recommended.reported" in found("best_is_tested", small_subject()).said
    said = found("best_is_tested", with_recommended(trained, reported=np.zeros(7)))
    assert said.verdict == "cannot tell"
