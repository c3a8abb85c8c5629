"""Law 1: with equal alphas the arms are one system, and the effect is exactly zero."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support import (
    CLICK,
    CPU,
    GLOBAL_C,
    GLOBAL_T,
    History,
    Setting,
    label,
    make_model,
    run,
    same,
    same_network,
)

PLAY = label("play", "logMAE", 1.0, 1.0, dropout=0.3)
EQUAL_CLICK = label("click", "BCE", 0.7, 0.7, dropout=0.3, gradient_clip=0.1)
LABELS = {"one label": (PLAY,), "two labels": (PLAY, EQUAL_CLICK)}


def worlds_are_equal(a: History, at: int, b: History, bt: int) -> bool:
    """To the bit: slates, choices, outcomes, and the network (one per world) with its moments."""
    return (
        same(a.slate_TBC(at), b.slate_TBC(bt))
        and same(a.item_TB(at), b.item_TB(bt))
        and same(a.y_TBL(at), b.y_TBL(bt))
        and all(same_network(x, at, y, bt) for x, y in zip(a.learners, b.learners, strict=True))
    )


@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
def test_with_equal_alphas_treated_and_control_worlds_are_identical_to_the_bit(labels):
    h = run(Setting(labels=labels), (GLOBAL_T, GLOBAL_C), (0, 1, 2))
    for r in h.replications:
        assert worlds_are_equal(h, h.world(0, r), h, h.world(1, r))
    assert all(bool((x.n_updates_S > 0).all()) for x in h.learners)


@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
def test_with_equal_alphas_a_run_of_t_alone_equals_a_run_of_c_alone(labels):
    t = run(Setting(labels=labels), (GLOBAL_T,), (0, 1))
    c = run(Setting(labels=labels), (GLOBAL_C,), (0, 1))
    assert all(worlds_are_equal(t, w, c, w) for w in range(2))


def test_networks_cut_into_uneven_chunks_are_identical_too():
    """A last chunk of one network would be multiplied by another kernel, with other last bits."""
    wide = label("click", "BCE", 1.0, 1.0, hidden_layers=(32, 16))
    setting = Setting(labels=(wide,), n_rows_U=(8,) * 70, batch_size=64, n_steps=6)
    floats = make_model(setting, 0).floats_per_row * setting.batch_size
    cut = replace(setting, device=replace(CPU, chunk_bytes=4 * floats * 3))
    h = run(cut, (GLOBAL_T, GLOBAL_C), (0, 1))
    assert all(worlds_are_equal(h, r, h, r + 2) for r in range(2))


def test_with_other_alphas_the_worlds_part():
    h = run(Setting(labels=(label("play", "logMAE", 0.0, 1.0), CLICK)), (GLOBAL_T, GLOBAL_C))
    assert not same(h.item_TB(0), h.item_TB(1))
