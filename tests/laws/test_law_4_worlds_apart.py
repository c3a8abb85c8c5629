"""Law 4: no world's result depends on which worlds run beside it, nor on how they are cut.

Users, slates, picks and outcomes are compared exactly, parameters within a tolerance. To the bit
they are equal only where the same kernels add: PyTorch's CPU multiplies a stack of one network as
a plain product (for a narrow output with a matrix-vector kernel) and larger stacks as a batch,
and these add in another order. What was seen is 1e-7. A leak between worlds, such as a shared
mean, clip or step count, moves a parameter by a share of a training step, which is 1e-2 here.
That a network's place in its stack changes nothing is held to the bit, below and by laws 1 and 2.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from support import (
    BLOCKS,
    CPU,
    GLOBAL_C,
    GLOBAL_T,
    POOLING,
    SNAPSHOT,
    SPLITTING,
    SPLITTING_RAW,
    History,
    Setting,
    label,
    make_learner,
    run,
    same,
    same_network,
    start_loop,
)

from realdataexp import draws

TOLERANCE = 1e-5
SETTING = Setting(
    labels=(
        label("play", "logMAE", 0.2, 1.0, dropout=0.3, gradient_clip=0.5),
        label("click", "CE", 1.0, 0.1, embedding_dim=None, weight_decay=0.01),
    )
)


def assert_same_worlds(a: History, b: History) -> None:
    """Every world that both have: same users, slates, picks and outcomes, close networks."""
    n_compared = 0
    for i, block in enumerate(a.blocks):
        for r in sorted(set(a.replications) & set(b.replications)):
            if block not in b.blocks:
                continue
            j = b.blocks.index(block)
            aw, bw = a.world(i, r), b.world(j, r)
            assert same(a.user_TB(aw), b.user_TB(bw))
            assert same(a.slate_TBC(aw), b.slate_TBC(bw))
            assert same(a.item_TB(aw), b.item_TB(bw))
            assert same(a.y_TBL(aw), b.y_TBL(bw))
            assert same(a.is_treated_TB(aw), b.is_treated_TB(bw))
            for model in range(block.design.n_models):
                assert_same_network(a, a.network(i, r, model), b, b.network(j, r, model))
            n_compared += 1
    assert n_compared > 0


def assert_same_network(a: History, i: int, b: History, j: int) -> None:
    for x, y in zip(a.learners, b.learners, strict=True):
        assert int(x.n_updates_S[i]) == int(y.n_updates_S[j])
        left, right = x.network(i), y.network(j)
        for name in left:
            torch.testing.assert_close(left[name], right[name], rtol=0, atol=TOLERANCE)


def test_replications_together_equal_a_replication_alone():
    together = run(SETTING, BLOCKS, (0, 1, 2, 3))
    assert_same_worlds(run(SETTING, BLOCKS, (2,)), together)


def test_the_order_of_replications_changes_nothing():
    assert_same_worlds(run(SETTING, BLOCKS, (3, 0, 7)), run(SETTING, BLOCKS, (7, 3, 0)))


@pytest.mark.parametrize("block", BLOCKS, ids=[f"{b.label} {b.p}" for b in BLOCKS])
def test_a_design_beside_others_equals_the_design_alone(block):
    assert_same_worlds(run(SETTING, (block,), (0, 1)), run(SETTING, BLOCKS, (0, 1)))


def test_the_order_of_designs_changes_nothing():
    blocks = (SPLITTING_RAW, SNAPSHOT, GLOBAL_C, SPLITTING, POOLING, GLOBAL_T)
    assert_same_worlds(run(SETTING, blocks, (0, 1)), run(SETTING, BLOCKS, (0, 1)))


@pytest.mark.parametrize("n_networks", [1, 3, 4])
def test_cutting_networks_into_chunks_changes_nothing(n_networks: int):
    whole = run(SETTING, BLOCKS, (0, 1, 2))
    # sized for scoring, where a row needs the most; training's chunks are C times as large
    floats = whole.learners[0].model.floats_per_row * SETTING.batch_size * SETTING.n_candidates
    device = replace(CPU, chunk_bytes=4 * floats * n_networks)
    assert_same_worlds(run(SETTING, BLOCKS, (0, 1, 2), device=device), whole)


def test_a_network_that_explodes_does_not_touch_the_others():
    """A gradient that is huge or not finite is clipped or skipped in its own network alone."""
    calm = run(SETTING, (POOLING, SPLITTING), (0, 1))
    loop, _, wild = start_loop(SETTING, (POOLING, SPLITTING), (0, 1))
    for learner in wild.learners:
        for p in learner.params.values():
            p[wild.network(0, 0)] *= 1e3
            p[wild.network(0, 1)] = torch.inf
    wild.steps += loop.steps(0, SETTING.n_steps)
    assert all(int(x.n_skipped_S[wild.network(0, 1)]) > 0 for x in wild.learners)
    assert all(int(x.n_updates_S[wild.network(0, 0)]) > 0 for x in wild.learners)
    for r in (0, 1):
        w = wild.world(1, r)
        assert same(wild.item_TB(w), calm.item_TB(w))
        assert same(wild.y_TBL(w), calm.y_TBL(w))
        for model in (0, 1):
            s = wild.network(1, r, model)
            assert_same_network(wild, s, calm, s)


@pytest.mark.parametrize("embedding_dim", [3, None], ids=["embeddings", "one-hot"])
@pytest.mark.parametrize(
    ("target", "loss"),
    [("play", "logMAE"), ("play", "MSE"), ("play", "MAE"), ("click", "BCE"), ("click", "CE")],
)
def test_a_networks_place_in_its_stack_changes_nothing_to_the_bit(target, loss, embedding_dim):
    """37 equal networks with equal inputs stay equal: what makes the effect exactly zero.

    The sizes are odd on purpose: a vectorised kernel computes the last elements of an array with
    other code, which must round alike (torch.sigmoid and F.softplus do not), and a sum over the
    first axis adds in another order there.
    """
    S = 37
    options = {"dropout": 0.2, "gradient_clip": 0.05, "embedding_dim": embedding_dim}
    setting = Setting(
        labels=(label(target, loss, 1.0, 1.0, **options),), batch_size=5, n_candidates=3, n_steps=15
    )
    h = run(setting, (POOLING,), (0,))
    learner, known = make_learner(setting, 0, S), 0
    for p in learner.params.values():
        p *= 3.0  # spread the outputs: most roundings agree near zero
    for t, (slate, step) in enumerate(zip(h.slates, h.steps, strict=True)):
        raw_S = learner.predict(slate.batch.expand(S), slice(0, S))
        assert all(same(raw_S[s], raw_S[0]) for s in range(S))
        rows = slate.batch.chosen(h.choices[t]).expand(S)
        y_SB, key_S = step.y_WBL[..., 0].expand(S, -1), draws.key(0, "a test", t).expand(S)
        ones_SB, optimizer = torch.ones_like(y_SB), setting.labels[0].optimizer
        loss_S = learner.update(rows, y_SB.unsqueeze(-1), ones_SB, optimizer, key_S)
        assert all(same(loss_S[s], loss_S[0]) for s in range(S))
        assert all(same_network(learner, s, learner, 0) for s in range(S))
        known += int(y_SB[0].isfinite().sum())
    assert known > 50
    assert int(learner.n_updates_S[0]) == len(h.steps)
