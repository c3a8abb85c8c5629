"""Ways for the target into the input, each planted, and a training without."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from diagnose.planting import SIZES
from diagnose.subjects import config_of, found, small_subject, with_recommended
from torch import nn

from realdataexp.config import load_config
from realdataexp.diagnose.finding import Finding
from realdataexp.diagnose.of_loop import subjects_of
from realdataexp.diagnose.of_training import subject_of
from realdataexp.diagnose.subject import Recommended, Subject
from realdataexp.sequences.formats import open_split
from realdataexp.sequences.item_options import VectorOptions
from realdataexp.sequences.vectors import make_vectors


def _recommended(subject: Subject) -> Recommended:
    assert subject.recommended is not None
    return subject.recommended


def _found(subject: Subject, **parts: object) -> Finding:
    return found("leaks", with_recommended(subject, **parts))


def test_a_training_without_leaks_has_none(trained: Subject):
    for subject in (trained, small_subject()):
        assert found("leaks", subject).verdict == "ok"


def _predictor(feature_B: torch.Tensor, target_B: torch.Tensor) -> Subject:
    """Anybody's training on two features."""
    batch = (torch.stack([feature_B, torch.randn(len(feature_B))], 1), target_B)
    return Subject(
        name="a predictor",
        model=lambda: nn.Linear(2, 1),
        batches=lambda n: [batch],
        loss=lambda model, batch: (model(batch[0])[:, 0] - batch[1]).square().nanmean(),
        shown=lambda batch: ({"numbers": batch[0], "constant": torch.ones(200)}, batch[1]),
    )


def test_a_feature_that_is_the_target_is_a_leak_and_one_that_predicts_it_is_not():
    torch.manual_seed(0)
    target_B = torch.randn(200)
    near_B = target_B + 0.3 * torch.randn(200)  # a correlation of 0.96
    clicked_B = (target_B > 1).float()
    for feature_B, wanted_B, verdict in (
        (near_B, target_B, "ok"),
        (near_B, clicked_B, "ok"),
        (-target_B.exp(), target_B, "fault"),
        (clicked_B, clicked_B, "fault"),
        (clicked_B, (torch.arange(200) < 5).float(), "cannot tell"),
    ):
        assert found("leaks", _predictor(feature_B, wanted_B)).verdict == verdict
    unknown_B = torch.where(torch.arange(200) % 2 == 0, target_B, torch.nan)
    said = found("leaks", _predictor(target_B, unknown_B))
    assert (said.verdict, said.value) == ("fault", 1.0)
    assert "(numbers) has a rank correlation of 1.00" in said.said


def test_the_loop_s_networks_are_not_shown_their_labels():
    config = load_config("demo", ["dataset.synthetic.rows=6000", "experiment.replications=2"])
    for subject in subjects_of(config):
        said = found("leaks", subject)
        assert said.verdict == "ok", said


def test_numbers_in_the_order_of_time_are_a_leak():
    recommended = _recommended(small_subject())
    h = recommended.split.histories
    item_N = np.concatenate([np.sort(x) for x in np.split(h.item_N, h.offset_U1[1:-1])])
    split = replace(recommended.split, histories=replace(h, item_N=item_N))
    said = _found(small_subject(), split=split, learned=None)
    assert said.verdict == "fault"
    assert "larger number in 100.0%" in said.said


def test_a_target_that_is_read_is_a_leak():
    subject = small_subject()
    learned = _recommended(subject).learned
    assert learned is not None
    target_X = learned()[1]
    said = _found(subject, learned=lambda: (target_X, target_X))
    assert said.verdict == "fault"
    assert "read at 100.0%" in said.said


def test_learning_from_held_out_pairs_is_a_leak():
    subject = small_subject()
    split = _recommended(subject).split
    h = split.histories
    second = np.flatnonzero(h.user_N[1:] == h.user_N[:-1]) + 1
    said = _found(subject, learned=lambda: (h.item_N[second - 1], h.item_N[second]))
    assert said.verdict == "fault"
    assert "held-out pairs in a row are learned" in said.said


VECTORS = {
    "svd": VectorOptions(kind="svd", size=16),
    "wide svd": VectorOptions(kind="svd", size=64),
    "lightgcn": VectorOptions(kind="lightgcn", size=32),
}


@pytest.mark.parametrize("size", ["middle", "large"])
@pytest.mark.parametrize("kind", VECTORS)
def test_given_vectors_that_were_fitted_on_all_are_a_leak_and_others_are_not(kind: str, size: str):
    config = config_of(dataset=SIZES[size])
    subject, (split, items) = subject_of(config), open_split(config.dataset)
    everything = replace(split, train_end_U=split.histories.offset_U1[1:])
    for fitted, verdict in ((split, "ok"), (everything, "fault")):
        vector_VD = make_vectors(fitted, items, VECTORS[kind], 0)
        said = _found(subject, vector_VD=vector_VD, is_given=True)
        assert said.verdict == verdict, said
        assert _found(subject, vector_VD=vector_VD).verdict == "ok"


@pytest.mark.parametrize("size", ["middle", "large"])
def test_given_vectors_of_texts_places_and_noise_are_no_leak(size: str):
    config = config_of(dataset=SIZES[size])
    subject, (split, items) = subject_of(config), open_split(config.dataset)
    for options in (
        VectorOptions(kind="text", size=32),
        VectorOptions(kind="column"),
        VectorOptions(kind="column", control="noise"),
    ):
        vector_VD = make_vectors(split, items, options, 0)
        assert _found(subject, vector_VD=vector_VD, is_given=True).verdict == "ok"


def test_of_given_vectors_of_few_items_with_few_new_pairs_it_cannot_tell():
    config = config_of(dataset=SIZES["small"])
    subject, (split, items) = subject_of(config), open_split(config.dataset)
    vector_VD = make_vectors(split, items, VECTORS["svd"], 0)
    said = _found(subject, vector_VD=vector_VD, is_given=True)
    assert said.verdict == "cannot tell"
    assert "too few held-out pairs" in said.said
