"""Codes of each item's own, and probabilities of items alone."""

from __future__ import annotations

import numpy as np
import torch
from diagnose.subjects import found, small_subject, with_recommended
from torch import nn

from realdataexp.models.sequence import SequenceModel


def test_a_generative_recommender_is_complete_before_it_is_trained_too():
    for seed in range(3):
        said = found("items_complete", small_subject(seed=seed), seed)
        assert said.verdict == "ok"
        assert said.value is not None
        assert said.value < 1e-5


def test_two_items_with_one_code_are_found():
    subject = small_subject()
    assert subject.recommended is not None
    codes_VL = subject.recommended.codes_VL
    assert codes_VL is not None
    planted_VL = codes_VL.copy()
    planted_VL[3] = planted_VL[5]
    said = found("items_complete", with_recommended(subject, codes_VL=planted_VL))
    assert said.verdict == "fault"
    assert said.said.startswith("1 items have the codes of another")


def test_a_softmax_over_all_codes_is_found():
    subject = small_subject()
    (batch,) = subject.batches(1)

    def scores(model: nn.Module, past_BT: np.ndarray) -> np.ndarray:
        assert isinstance(model, SequenceModel)
        with torch.no_grad():
            hidden_BE = torch.zeros(len(past_BT), 16)
            every = {"codes": batch.catalogue["codes"].expand(len(past_BT), -1, -1)}
            return model.score(hidden_BE, every).numpy()

    said = found("items_complete", with_recommended(subject, scores=scores))
    assert said.verdict == "fault"
    assert said.value is not None
    assert said.value > 0.1


def test_an_item_that_has_no_probability_is_found():
    subject = small_subject()
    assert subject.recommended is not None
    whole = subject.recommended.scores

    def scores(model: nn.Module, past_BT: np.ndarray) -> np.ndarray:
        score_BV = whole(model, past_BT)
        score_BV[:, 7] = -np.inf
        return score_BV - np.log(np.exp(score_BV).sum(1, keepdims=True))

    said = found("items_complete", with_recommended(subject, scores=scores))
    assert said.verdict == "fault"
    assert "1 have no probability" in said.said


def test_without_codes_or_likelihoods_it_cannot_tell():
    subject = small_subject(model={"name": "SASRec", "width": 16}, items={})
    assert found("items_complete", subject).verdict == "cannot tell"
