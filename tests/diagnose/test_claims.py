"""What a report claimed of a training, planted in ours: the verdicts that tests gave it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from diagnose.planting import with_model
from diagnose.subjects import planted, small_subject, with_recommended
from diagnose.test_gradient_sync import a_step
from torch import nn

from realdataexp.diagnose.run import diagnose
from realdataexp.diagnose.subject import Subject


def _narrow(subject: Subject) -> Subject:
    assert subject.recommended is not None
    search: Any = subject.recommended.search

    def narrow(model: nn.Module, past_BT: np.ndarray, k: int) -> np.ndarray:
        return search(model, past_BT, k, width=10)

    return with_recommended(subject, search=narrow)


def _drawn(subject: Subject) -> Subject:
    assert subject.recommended is not None
    vector_VD = subject.recommended.vector_VD
    assert vector_VD is not None
    noise_VD = np.random.default_rng(0).standard_normal(vector_VD.shape).astype(np.float32)
    return with_recommended(subject, vector_VD=noise_VD)


def _wrapped_again(model: Any) -> None:
    model.adapter.register_forward_hook(lambda module, given, output: output.detach())


def _drawing(subject: Subject) -> Subject:
    assert subject.recommended is not None
    n_items = subject.recommended.split.histories.n_items

    def scores(model: nn.Module, past_BT: np.ndarray) -> np.ndarray:
        return np.random.default_rng(0).random((len(past_BT), n_items), dtype=np.float32)

    return with_recommended(subject, scores=scores, validated=None)


BY_HAND = a_step(is_bypassed=True, is_added=True)
NOT_AT_ALL = a_step(is_bypassed=True, is_added=False)

# claim, check, what the claim says it finds, what was planted, the verdict
CLAIMS: list[tuple[str, str, str, Any, str]] = [
    ("the framework averages, so our sum doubles gradients", "gradient_sync", "fault",
     lambda fresh, trained: planted(fresh, step=BY_HAND), "refuted"),
    ("without our sum the framework would still average", "gradient_sync", "ok",
     lambda fresh, trained: planted(fresh, step=NOT_AT_ALL), "refuted"),
    ("the prefix does not arrive", "dead_parameter", "fault",
     lambda fresh, trained: with_model(fresh, _wrapped_again), "supported"),
    ("the embeddings are completely normal", "embedding_signal", "ok",
     lambda fresh, trained: _drawn(trained), "refuted"),
    ("exact matching is too strict", "text_match", "fault",
     lambda fresh, trained: trained, "refuted"),
    ("the learning rate is not what is slow", "learning_rate", "ok",
     lambda fresh, trained: planted(fresh, learning_rate=1e-4), "refuted"),
    ("an initial scale of .3 for .1 helps", "initial_scale", "fault",
     lambda fresh, trained: fresh, "refuted"),
    ("a beam of 10 is too narrow", "beam_recall", "fault",
     lambda fresh, trained: _narrow(trained), "supported"),
    ("it knows less than a count", "counting_baseline", "fault",
     lambda fresh, trained: _drawing(trained), "supported"),
]  # fmt: skip


@pytest.mark.parametrize(("claim", "check", "value", "plant", "verdict"), CLAIMS)
def test_the_claims_of_a_report_get_the_verdicts_of_tests(
    claim: str, check: str, value: str, plant: Any, verdict: str, trained: Subject, tmp_path: Path
):
    path = tmp_path / "claims.yaml"
    path.write_text(yaml.safe_dump({"claims": [{"claim": claim, "check": check, "value": value}]}))
    (said,) = diagnose(plant(small_subject(), trained), claims=path)["claims"]
    assert (said["claim"], said["verdict"]) == (claim, verdict), said
