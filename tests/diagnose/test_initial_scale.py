"""Whether the initial scale of an additional input matters."""

from __future__ import annotations

from types import MethodType
from typing import Any

import pytest
from diagnose.planting import SIZES, subject_of_kind, with_model
from diagnose.subjects import CONFIG, found, planted, small_subject
from torch import Tensor


@pytest.mark.parametrize("prefix", ["items", "user"])
@pytest.mark.parametrize("seed", range(3))
def test_norms_take_the_scale_of_our_prefixes_out(prefix: str, seed: int):
    """The claim that an initial scale of .3 helps where .1 was is refuted."""
    subject = small_subject(model={**CONFIG["model"], "prefix": prefix}, seed=seed)
    said = found("initial_scale", subject)
    assert said.verdict == "ok" and said.value is not None
    assert 0 < said.value < 0.7


@pytest.mark.parametrize("size", SIZES)
def test_what_is_added_behind_the_norm_matters_in_proportion(size: str):
    """Tripling adds twice what removal takes away."""

    def encode(model: Any, item_BTE: Tensor) -> Tensor:
        item_BTE, vector_BTE = item_BTE.chunk(2, -1)
        return model.encoder(item_BTE) + vector_BTE

    subject = small_subject(model={**CONFIG["model"], "prefix": "user"}, dataset=SIZES[size])
    assert found("initial_scale", subject).verdict == "ok"
    subject = with_model(subject, lambda m: setattr(m, "encode", MethodType(encode, m)))
    said = found("initial_scale", subject)
    assert said.verdict == "fault"
    assert said.value == pytest.approx(2, rel=1e-5)


def test_without_adapters_it_cannot_tell():
    assert found("initial_scale", subject_of_kind("SASRec")).verdict == "cannot tell"
    said = found("initial_scale", planted(small_subject(), adapters=("prefix",)))
    assert said.verdict == "cannot tell" and "prefix" in said.said
    assert found("initial_scale", planted(small_subject(), is_trained=True)).verdict == (
        "cannot tell"
    )
