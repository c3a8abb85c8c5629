"""Vectors that know what comes next, and vectors that only look normal."""

from __future__ import annotations

import numpy as np
from diagnose.subjects import LEARNED, config_of, found, small_subject, with_recommended

from realdataexp.diagnose.subject import Subject
from realdataexp.sequences.formats import open_split
from realdataexp.sequences.item_options import VectorOptions
from realdataexp.sequences.vectors import make_vectors


def test_vectors_of_co_occurrence_and_of_texts_have_signal(trained: Subject):
    for seed in range(3):
        assert found("embedding_signal", trained, seed).verdict == "ok"
    split, items = open_split(config_of(**LEARNED).dataset)
    text_VD = make_vectors(split, items, VectorOptions(kind="text", size=16), 0)
    said = found("embedding_signal", with_recommended(trained, vector_VD=text_VD))
    assert said.verdict == "ok"  # where what follows is not alike


def test_seeded_noise_zeros_and_the_vectors_of_other_items_have_none(trained: Subject):
    assert trained.recommended is not None
    vector_VD = trained.recommended.vector_VD
    assert vector_VD is not None
    rng = np.random.default_rng(0)
    noise_VD = rng.standard_normal((len(vector_VD), 64))  # of norm 1 and sd 0.125
    noise_VD /= np.linalg.norm(noise_VD, axis=1, keepdims=True)
    for planted_VD in (noise_VD, rng.permutation(vector_VD), np.zeros_like(vector_VD)):
        said = found("embedding_signal", with_recommended(trained, vector_VD=planted_VD))
        assert said.verdict == "fault", said
        assert abs(said.value or 0) < 4


def test_few_questions_cannot_tell():
    subject = small_subject()
    noise_VD = np.random.default_rng(0).standard_normal((80, 8))
    said = found("embedding_signal", with_recommended(subject, vector_VD=noise_VD))
    assert said.verdict == "cannot tell"
    said = found("embedding_signal", small_subject(model={"name": "SASRec"}, items={}))
    assert said.said == "what is missing: recommended.vector_VD"
