"""What later items, other examples and padding must not change."""

from __future__ import annotations

from types import MethodType
from typing import Any

import pytest
from diagnose.planting import KINDS, subject_of_kind, trained, with_model
from diagnose.subjects import found, planted
from torch import Tensor, nn

from realdataexp.diagnose.subject import Subject

CHECKS = ("causality", "batch_invariance")


def with_encode(subject: Subject, encode: Any) -> Subject:
    """A subject whose hidden states are ``encode(the sound encoder, item_BTE)``."""

    def change(model: Any) -> None:
        sound = model.encode
        model.encode = MethodType(lambda _, item_BTE: encode(sound, item_BTE), model)

    return with_model(subject, change)


def sees_the_next(encode: Any, item_BTE: Tensor) -> Tensor:
    return encode(item_BTE + 0.01 * item_BTE.roll(-1, 1))


def sees_the_others(encode: Any, item_BTE: Tensor) -> Tensor:
    return encode(item_BTE) + 0.1 * item_BTE[:, :1].mean(0, keepdim=True)


def sees_padding(encode: Any, item_BTE: Tensor) -> Tensor:
    return encode(item_BTE + item_BTE.mean(1, keepdim=True))


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("check", CHECKS)
def test_our_models_are_causal_and_see_their_own_history_alone(name: str, check: str):
    for subject in (subject_of_kind(name), trained(subject_of_kind(name), 10)):
        said = found(check, subject)
        assert said.verdict == "ok" and said.value is not None
        assert said.value < 1e-5


@pytest.mark.parametrize(
    ("encode", "faulty"),
    [
        (sees_the_next, {"causality"}),
        (sees_the_others, {"batch_invariance"}),
        (sees_padding, {"causality", "batch_invariance"}),
    ],
)
@pytest.mark.parametrize("name", ["SASRec", "GRU4Rec"])
def test_each_leak_is_found_by_its_check(name: str, encode: Any, faulty: set[str]):
    subject = with_encode(subject_of_kind(name), encode)
    assert {x for x in CHECKS if found(x, subject).verdict == "fault"} >= faulty
    if encode is sees_the_others:
        assert found("causality", subject).verdict == "ok"


@pytest.mark.parametrize("is_tracked", [True, False])
def test_batch_normalisation_is_a_leak_without_running_statistics(is_tracked: bool):
    def normalised(model: Any) -> None:
        norm = nn.BatchNorm1d(16, track_running_stats=is_tracked)
        model.encoder.register_forward_hook(
            lambda m, args, out: norm.train(m.training)(out.flatten(0, 1)).view_as(out)
        )

    said = found("batch_invariance", with_model(subject_of_kind("SASRec"), normalised))
    assert said.verdict == ("ok" if is_tracked else "fault")


def test_what_is_missing_cannot_tell():
    subject = subject_of_kind("SASRec")
    assert found("causality", planted(subject, future=None)).verdict == "cannot tell"
    assert found("causality", planted(subject, outputs=None)).verdict == "cannot tell"
    assert found("batch_invariance", planted(subject, outputs=None)).verdict == "cannot tell"
    same = planted(subject, future=lambda batch, generator: (batch, slice(0, 3)))
    said = found("causality", same)
    assert said.verdict == "cannot tell" and "do not change at all" in said.said
    padded = planted(
        subject, outputs=lambda model, x: model.embed({k: v[x.passage.item_BT] for k, v in
                                                       x.catalogue.items()})
    )  # fmt: skip
    said = found("batch_invariance", padded)
    assert said.verdict == "cannot tell" and "shape" in said.said
