"""Law 2: a design that gives everybody one arm is a world of `global`, if its models learn.

Shadow's other model learns too, from the visits in which it would have picked the same.

Bits: both worlds stand in one stack and go through the same operations, so equality is to the bit.
"""

from __future__ import annotations

import pytest
from support import GLOBAL_C, GLOBAL_T, Setting, label, run, same, same_network, started

from realdataexp.designs import Design
from realdataexp.designs.cluster import Cluster
from realdataexp.designs.codiverted import Codiverted
from realdataexp.designs.data_diverted import DataDiverted
from realdataexp.designs.oracle import Oracle
from realdataexp.designs.shadow import Shadow
from realdataexp.designs.sharing import Sharing
from realdataexp.designs.snapshot import Snapshot
from realdataexp.designs.splitting import Splitting
from realdataexp.designs.switchback import Switchback
from realdataexp.designs.weighting import Weighting
from realdataexp.errors import InputError
from realdataexp.loop import Block

LABELS = (
    label("play", "logMAE", 0.2, 1.0, dropout=0.2),
    label("click", "BCE", 1.0, 0.1, gradient_clip=0.1, weight_decay=0.01),
)
FORMS = {
    "splitting": Splitting(),
    "raw": Splitting(normalize=False),
    "shadow": Shadow(),
    "launched": Shadow(steps="launched"),
    "cluster": Cluster(n_clusters=2),
    "switchback": Switchback(block_steps=3),
    "codiverted": Codiverted(),
    "data_diverted": DataDiverted(),
    "sharing": Sharing(s=0.3),
}
OTHER_MODEL_LEARNS = (Shadow, Cluster, Switchback, Sharing)


@pytest.mark.parametrize("assignment", ["user", "visit"])
@pytest.mark.parametrize("design", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("p", [1.0, 0.0])
def test_a_design_at_the_edge_of_p_is_the_world_of_global(p: float, design: Design, assignment):
    arm = int(p)
    blocks = (GLOBAL_T, GLOBAL_C, Block("edge", design, p))
    h = run(Setting(labels=LABELS, assignment=assignment), blocks, (0, 1, 2))
    truth = 1 - arm
    for r in h.replications:
        assert bool((h.is_treated_TB(h.world(2, r)) == bool(arm)).all())
        assert same(h.item_TB(h.world(2, r)), h.item_TB(h.world(truth, r)))
        assert same(h.y_TBL(h.world(2, r)), h.y_TBL(h.world(truth, r)))
        for learner in h.learners:
            own, other = (h.network(2, r, m * (design.n_models - 1)) for m in (arm, 1 - arm))
            assert same_network(learner, own, learner, h.network(truth, r))
            assert int(learner.n_updates_S[own]) > 0
            assert (int(learner.n_updates_S[other]) > 0) == isinstance(design, OTHER_MODEL_LEARNS)
            assert not same_network(learner, own, learner, h.network(1 - truth, r))


@pytest.mark.parametrize("p", [1.0, 0.0])
def test_snapshot_at_the_edge_of_p_gives_one_arm_to_everybody(p: float):
    h = run(Setting(), (Block("edge", Snapshot(), p),))
    assert bool((h.is_treated_TB(0) == bool(p)).all())


@pytest.mark.parametrize("design", [Weighting(), Oracle()], ids=["weighting", "oracle"])
@pytest.mark.parametrize("p", [1.0, 0.0])
def test_a_design_whose_weights_need_both_arms_refuses_the_edge_of_p_in_one_line(p: float, design):
    with pytest.raises(InputError) as error:
        started(design, p=p, label="mine")
    message = str(error.value)
    assert "\n" not in message
    assert message.startswith(f"design mine: experiment.p_treatment = {p}: ")
    assert "between 0 and 1" in message
