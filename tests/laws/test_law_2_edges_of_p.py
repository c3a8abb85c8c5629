"""Law 2: a design with a model per arm is, at p = 1 and p = 0, a world of `global`.

Bits: both worlds stand in one stack and go through the same operations, so equality is to the bit.
"""

from __future__ import annotations

import pytest
from support import GLOBAL_C, GLOBAL_T, Setting, label, run, same, same_network

from realdataexp.designs import Design, Snapshot, Splitting
from realdataexp.loop import Block

LABELS = (
    label("play", "logMAE", 0.2, 1.0, dropout=0.2),
    label("click", "BCE", 1.0, 0.1, gradient_clip=0.1, weight_decay=0.01),
)
FORMS = {"normalised": Splitting(), "raw": Splitting(normalize=False)}


@pytest.mark.parametrize("assignment", ["user", "visit"])
@pytest.mark.parametrize("design", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("p", [1.0, 0.0])
def test_splitting_at_the_edge_of_p_is_the_world_of_global(p: float, design: Design, assignment):
    arm = int(p)
    blocks = (GLOBAL_T, GLOBAL_C, Block("edge", design, p))
    h = run(Setting(labels=LABELS, assignment=assignment), blocks, (0, 1, 2))
    truth = 1 - arm
    for r in h.replications:
        assert bool((h.is_treated_TB(h.world(2, r)) == bool(arm)).all())
        assert same(h.item_TB(h.world(2, r)), h.item_TB(h.world(truth, r)))
        assert same(h.y_TBL(h.world(2, r)), h.y_TBL(h.world(truth, r)))
        for learner in h.learners:
            own, other = h.network(2, r, arm), h.network(2, r, 1 - arm)
            assert same_network(learner, own, learner, h.network(truth, r))
            assert int(learner.n_updates_S[own]) > 0
            assert int(learner.n_updates_S[other]) == 0
            assert not same_network(learner, own, learner, h.network(1 - truth, r))


@pytest.mark.parametrize("p", [1.0, 0.0])
def test_snapshot_at_the_edge_of_p_gives_one_arm_to_everybody(p: float):
    h = run(Setting(), (Block("edge", Snapshot(), p),))
    assert bool((h.is_treated_TB(0) == bool(p)).all())
