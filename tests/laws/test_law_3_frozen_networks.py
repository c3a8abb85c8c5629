"""Law 3: a network that has nothing to learn in a step stays as it is, to the bit."""

from __future__ import annotations

from dataclasses import replace

import torch
from support import (
    POOLING,
    SNAPSHOT,
    SPLITTING,
    SPLITTING_RAW,
    Setting,
    label,
    make_start,
    run,
    same,
    start_loop,
)

from realdataexp.optimizers import cut

LABELS = (
    label("play", "logMAE", 0.0, 1.0, dropout=0.2, weight_decay=0.1),
    label("click", "BCE", 1.0, 0.0, gradient_clip=0.5),
)
VISITS = Setting(labels=LABELS, assignment="visit", batch_size=2, n_steps=25)


def test_snapshot_parameters_are_bit_for_bit_constant():
    h = run(Setting(labels=LABELS), (SNAPSHOT, POOLING), (0, 1))
    for i, learner in enumerate(h.learners):
        start = make_start(Setting(labels=LABELS), i)
        for r in h.replications:
            frozen, learning = (learner.network(h.network(b, r)) for b in (0, 1))
            assert all(same(frozen[name], start[name]) for name in start)
            assert not any(same(learning[name], start[name]) for name in start)
        assert learner.n_updates_S.tolist() == [0, 0, 12, 12]


def test_a_split_model_without_a_visit_of_its_own_keeps_parameters_moments_and_step_count():
    loop, _, h = start_loop(VISITS, (SPLITTING, SPLITTING_RAW), (0, 1))
    n_frozen_after_learning = n_learned = 0
    before = [{k: v.clone() for k, v in x.state().items()} for x in h.learners]
    for step in loop.steps(0, VISITS.n_steps):
        for i, learner in enumerate(h.learners):
            state = learner.state()
            for block in range(2):
                for r in h.replications:
                    w = h.world(block, r)
                    known_B = step.y_WBL[w, :, i].isfinite()
                    for model in (0, 1):
                        s = h.network(block, r, model)
                        own_B = (step.is_treated_WB[w] == bool(model)) & known_B
                        kept = [same(state[k][s], before[i][k][s]) for k in state]
                        if own_B.any():
                            n_learned += 1
                            assert not all(kept)
                        else:
                            n_frozen_after_learning += int(before[i]["n_updates"][s]) > 0
                            assert all(kept)
            before[i] = {k: v.clone() for k, v in state.items()}
    assert n_frozen_after_learning > 50
    assert n_learned > 50


def test_without_the_mask_adam_would_move_on_a_zero_gradient():
    """What law 3 guards against is real: momentum and weight decay move such a network."""
    h = run(replace(VISITS, n_steps=10), (SPLITTING,))
    for x, learner in zip(LABELS, h.learners, strict=True):
        shapes = [p.shape for p in learner.params.values()]
        place = list(learner.params).index("weight_1")
        moments = [cut(x, shapes)[place] for x in (learner.moment_1_SP, learner.moment_2_SP)]
        parameter = torch.nn.Parameter(learner.params["weight_1"][0].clone())
        adam = torch.optim.Adam([parameter], lr=0.01, weight_decay=x.optimizer.weight_decay)
        adam.state[parameter] = {
            "step": learner.n_updates_S[0].float(),
            "exp_avg": moments[0][0].clone(),
            "exp_avg_sq": moments[1][0].clone(),
        }
        parameter.grad = torch.zeros_like(parameter)
        adam.step()
        moved = (parameter.detach() - learner.params["weight_1"][0]).abs().max()
        assert float(moved) > 1e-4
