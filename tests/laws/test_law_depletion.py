"""What is used up does not cross where a user keeps an arm; it does where arms change."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from support import Block, Setting, run
from torch import Tensor

from realdataexp.designs.base import Design, Outcome, ones
from realdataexp.designs.codiverted import Codiverted
from realdataexp.designs.snapshot import Snapshot
from realdataexp.designs.switchback import Switchback


class Frozen:
    """Nothing is learned, so that depletion is all that is left."""

    n_models: ClassVar[int] = 1

    def weights(self, outcome: Outcome) -> Tensor:
        return ones(outcome, self.n_models).zero_()


class FrozenSwitchback(Frozen, Switchback):
    pass


class FrozenCodiverted(Frozen, Codiverted):
    pass


def shares_of_a_launchs_visits(design: Design, assignment: str) -> dict[bool, float]:
    """By arm: in how many of its visits the user sees and gets what its own launch would show."""
    blocks = [Block("global", Snapshot(), 1.0), Block("global", Snapshot(), 0.0)]
    h = run(
        Setting(assignment=assignment, n_steps=20),
        [*blocks, Block("test", design, 0.5)],
        (0, 1, 2),
    )
    same: dict[bool, list[Tensor]] = {True: [], False: []}
    for r in h.replications:
        test = h.world(2, r)
        for launch, arm in ((h.world(0, r), True), (h.world(1, r), False)):
            slates = h.slate_TBC(test) == h.slate_TBC(launch)
            is_same = slates.all(-1) & (h.item_TB(test) == h.item_TB(launch))
            own = (h.is_treated_TB(test) == arm) & (h.user_TB(test) >= 0)
            same[arm].append(is_same[own])
    return {arm: float(torch.cat(x).float().mean()) for arm, x in same.items()}


def test_with_an_arm_per_user_each_user_lives_in_the_arms_own_launch() -> None:
    assert shares_of_a_launchs_visits(Snapshot(), "user") == {True: 1.0, False: 1.0}


@pytest.mark.parametrize(
    ("design", "assignment"),
    [
        (Snapshot(), "visit"),
        (FrozenSwitchback(block_steps=3), "user"),
        (FrozenCodiverted(), "user"),
    ],
    ids=["arm by visit", "switchback", "codiverted"],
)
def test_where_arms_change_or_split_the_corpus_the_slates_are_no_launchs(
    design: Design, assignment: str
) -> None:
    shares = shares_of_a_launchs_visits(design, assignment)
    assert all(share < 0.95 for share in shares.values())
