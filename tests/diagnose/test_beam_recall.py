"""A search that is wide enough, and one that is not."""

from __future__ import annotations

import numpy as np
from diagnose.subjects import found, small_subject, with_recommended
from torch import nn

from realdataexp.diagnose.subject import Subject


def test_a_wide_beam_finds_the_best_items_and_a_beam_of_10_does_not(trained: Subject):
    assert trained.recommended is not None
    search = trained.recommended.search
    assert search is not None

    def narrow(model: nn.Module, past_BT: np.ndarray, k: int) -> np.ndarray:
        return search(model, past_BT, k, width=10)  # type: ignore[call-arg]

    for seed in range(3):
        assert found("beam_recall", trained, seed).verdict == "ok"
        said = found("beam_recall", with_recommended(trained, search=narrow), seed)
        assert said.verdict == "fault"
        assert said.value is not None
        assert said.value < 0.9


def test_copies_of_a_best_item_count_once(trained: Subject):
    assert trained.recommended is not None
    scores = trained.recommended.scores

    def search(model: nn.Module, past_BT: np.ndarray, k: int) -> np.ndarray:
        return scores(model, past_BT).argmax(1)[:, None].repeat(k, 1)

    said = found("beam_recall", with_recommended(trained, search=search))
    assert said.verdict == "fault"
    assert said.value is not None
    assert abs(said.value - 0.1) < 1e-6


def test_what_is_not_trained_or_does_not_search_cannot_tell():
    assert "has ended" in found("beam_recall", small_subject()).said
    subject = small_subject(model={"name": "SASRec", "width": 16}, items={})
    assert "recommended.search" in found("beam_recall", subject).said
